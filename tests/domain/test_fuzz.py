"""Whatever is done to a domain's XML, it is refused in the project's own words, or it is a domain that reads back."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_embedvm.domain import argv, complete, definition
from pytest_embedvm.errors import EmbedError
from tests.fakes.host import FakeHost

GOLDEN = [path.read_text() for path in sorted((Path(__file__).parent.parent / "golden").glob("*.xml"))]
_VALUE = re.compile(r"=(['\"])(.*?)\1|>([^<>\n]*)</")
_ELEMENT = re.compile(r"<(\w+)\b[^>]*?/>|<(\w+)\b.*?</\2>", re.DOTALL)
WORDS = """
    0 -1 1 255 256 65536 4294967295 4294967296 18446744073709551616 99999999999999999999999999 0x 0xffffffff
    1_0 +1 1e3 ² ٣ １ yes no on off ../../x a/b a,b a=b %s {} {fd} virtio pci scsi sata ide usb q35 pc none
    block file network vda hda fda sda vdzz cdrom floppy lun qcow2 raw unix pty tcp bind EiB KiB
    52:54:00:00:00:01 ::1 1.2 1.2.3.4.5 名
""".split()


def damaged(chance: random.Random, text: str) -> str:
    """TEXT with one to four accidents."""
    for _ in range(chance.randint(1, 4)):
        spots = list((_VALUE if chance.random() < 0.7 else _ELEMENT).finditer(text))
        if not spots:
            return text
        spot = chance.choice(spots)
        if spot.re is _VALUE:
            group = 2 if spot[2] is not None else 3
            text = text[: spot.start(group)] + chance.choice(["", "x" * 3000, *WORDS]) + text[spot.end(group) :]
        else:
            other = chance.choice(list(_ELEMENT.finditer(chance.choice(GOLDEN))) or [spot])[0]
            text = text[: spot.start()] + chance.choice(["", spot[0] * 2, other + spot[0]]) + text[spot.end() :]
    return text


def digest(text: str) -> None:
    """All that is done with a domain's text short of starting it."""
    host = FakeHost(kvm_refused=None)
    try:
        domain = complete.complete(definition.parse(text), host)
    except EmbedError:
        return
    launch = argv.launch(domain, host)
    assert launch.argv({descriptor.name: 3 for descriptor in launch.descriptors})
    for inactive in (True, False):
        written = definition.format(domain, inactive=inactive)
        assert definition.format(definition.parse(written), inactive=inactive) == written


@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_damaged_domains(seed: int) -> None:
    chance = random.Random(seed)
    digest(damaged(chance, chance.choice(GOLDEN)))


@settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_damaged_bytes(seed: int) -> None:
    chance = random.Random(seed)
    raw = bytearray(chance.choice(GOLDEN).encode())
    at = chance.randrange(len(raw))
    raw[at : at + chance.randint(0, 20)] = bytes(chance.randrange(256) for _ in range(chance.randint(0, 4)))
    digest(raw.decode(errors="surrogateescape"))


@pytest.mark.parametrize(
    "devices",
    [
        "<controller type='pci' index='4294967295' model='pcie-root-port'/>",
        "<input type='tablet' bus='usb'><address type='usb' bus='0' port='x'/></input>",
        "<interface type='user'><backend type='passt'/><portForward proto='tcp'>"
        "<range start='1' end='99999999999999999999999999'/></portForward></interface>",
    ],
)
def test_numbers_that_once_ran_away(devices: str) -> None:
    text = f"""<domain type='qemu'><name>a</name><memory>65536</memory><os><type machine='q35'>hvm</type></os>
      <devices>{devices}</devices></domain>"""
    with pytest.raises(EmbedError):
        complete.complete(definition.parse(text), FakeHost())


@pytest.mark.parametrize("memory", ["<memory>18446744073709551615</memory>", "<memory unit='EiB'>8</memory>"])
def test_memory_beyond_all_measure(memory: str) -> None:
    with pytest.raises(EmbedError, match="numerical overflow: value too large"):
        definition.parse(f"<domain type='qemu'><name>a</name>{memory}</domain>")
