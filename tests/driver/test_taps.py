"""Tap devices: made in a bridge of the host's, by root and by QEMU's helper, and gone with their last descriptor."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_embedvm.constants import ErrorNumber
from pytest_embedvm.driver import taps
from pytest_embedvm.errors import HostMissing, SystemFailure
from pytest_embedvm.qemu.parts import Tap

MAC = "52:54:00:0a:0b:0c"
SIOCBRADDBR, SIOCBRDELBR = 0x89A0, 0x89A1


@pytest.fixture
def bridge() -> Iterator[str]:
    """A bridge of this test's own, on the host."""
    if os.geteuid() != 0 or not taps.CLONE.exists():
        pytest.skip("only root makes bridges, where there is /dev/net/tun")
    name = f"embr{os.getpid() % 10**7}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control, SIOCBRADDBR, name.encode() + b"\0")
        except OSError as error:
            pytest.skip(f"no bridge can be made here: {error}")
        yield name
        fcntl.ioctl(control, SIOCBRDELBR, name.encode() + b"\0")


def ports(bridge: str) -> list[str]:
    return sorted(path.name for path in Path("/sys/class/net", bridge, "brif").iterdir())


def there(device: str) -> bool:
    return Path("/sys/class/net", device).exists()


def said(path: Path) -> str:
    return path.read_text()


async def test_root_makes_one_in_the_bridge_until_it_is_closed(bridge: str) -> None:
    first = await taps.open_tap(Tap(bridge, MAC, "vnet%d", vnet_header=True))
    second = await taps.open_tap(Tap(bridge, MAC, f"t{bridge}", vnet_header=False))
    assert re.fullmatch(r"vnet\d+", first.name)
    assert second.name == f"t{bridge}"
    assert ports(bridge) == sorted([first.name, second.name])
    assert said(Path("/sys/class/net", first.name, "address")) == "fe:54:00:0a:0b:0c\n"
    assert int(said(Path("/sys/class/net", first.name, "flags")), 16) & 1
    for opened, header in ((first, True), (second, False)):
        answer = fcntl.ioctl(opened.descriptor, taps._TUNGETIFF, bytes(40))
        assert bool(struct.unpack_from("H", answer, 16)[0] & taps._IFF_VNET_HDR) is header
        assert not os.get_inheritable(opened.descriptor)
        os.close(opened.descriptor)
    assert ports(bridge) == []


async def test_what_cannot_be_made_leaves_nothing(bridge: str) -> None:
    with pytest.raises(SystemFailure, match="Cannot get interface MTU on 'nowhere7': No such device"):
        await taps.open_tap(Tap("nowhere7", MAC, f"t{bridge}", vnet_header=True))
    with pytest.raises(SystemFailure, match="name 'a-name-that-is-too-long' is too long"):
        await taps.open_tap(Tap(bridge, MAC, "a-name-that-is-too-long", vnet_header=True))
    assert not there(f"t{bridge}")
    assert ports(bridge) == []


async def test_without_the_device_the_host_lacks_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(taps, "CLONE", tmp_path / "tun")
    with pytest.raises(HostMissing, match=r"Unable to open .*/tun, is tun module loaded\?: No such file") as raised:
        await taps.open_tap(Tap("br0", MAC, "vnet%d", vnet_header=True))
    assert raised.value.code is ErrorNumber.SYSTEM_ERROR


# Others than root

HELPER = """#!{python}
import array, fcntl, os, socket, struct, sys
descriptor = int(sys.argv[-1].removeprefix("--fd="))
print(*sys.argv[1:-1], file=open({said!r}, "w"))
if "--br=forbidden" in sys.argv:
    sys.exit("access denied by acl file")
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"vnet%d", 0x5002))
with socket.socket(fileno=descriptor) as sock:
    sock.sendmsg([b"c"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [tap]))])
"""


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A bridge helper that speaks QEMU's protocol, and a user who is not root; it writes down its words."""
    program, words = tmp_path / "qemu-bridge-helper", tmp_path / "words"
    program.write_text(HELPER.format(python=sys.executable, said=str(words)))
    program.chmod(0o4755)
    monkeypatch.setattr(taps, "HELPERS", (program,))
    monkeypatch.setattr(taps, "_is_privileged", lambda _: True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return words


async def test_the_helper_passes_one(bridge: str, helper: Path) -> None:
    opened = await taps.open_tap(Tap(bridge, MAC, "vnet%d", vnet_header=True))
    assert said(helper) == f"--use-vnet --br={bridge}\n"
    assert there(opened.name)
    os.close(opened.descriptor)
    assert not there(opened.name)


async def test_what_the_helper_says_is_the_error(helper: Path) -> None:
    with pytest.raises(SystemFailure, match=r"failed to create tap interface with '.*': access denied by acl file"):
        await taps.open_tap(Tap("forbidden", MAC, "vnet%d", vnet_header=False))
    assert said(helper) == "--br=forbidden\n"


async def test_a_helper_without_privilege_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "qemu-bridge-helper"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(taps, "HELPERS", (program,))
    with pytest.raises(HostMissing, match="there is no qemu-bridge-helper"):
        await taps.open_tap(Tap("br0", MAC, "vnet%d", vnet_header=True))
    program.write_text("")
    with pytest.raises(HostMissing, match="has neither the set-user-ID bit nor CAP_NET_ADMIN"):
        await taps.open_tap(Tap("br0", MAC, "vnet%d", vnet_header=True))
