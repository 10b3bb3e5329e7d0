"""A guest's memory in a file: what changes on QEMU's command line."""

from __future__ import annotations

import json

import pytest

from pytest_embedvm.domain import complete, definition
from pytest_embedvm.domain.argv import Launch, launch
from pytest_embedvm.driver.templates.memory import MemoryFile
from pytest_embedvm.errors import ConfigUnsupported
from tests.fakes.host import FakeHost


def planned(more: str = "", machine: str = "q35") -> Launch:
    host = FakeHost()
    text = f"""<domain type='qemu'><name>a</name><memory unit='MiB'>64</memory>{more}
      <os><type arch='x86_64' machine='{machine}'>hvm</type></os></domain>"""
    return launch(complete.complete(definition.parse(text), host), host)


def words(planned: Launch) -> list[str]:
    return planned.argv({descriptor.name: number for number, descriptor in enumerate(planned.descriptors, 3)})


def memory(argv: list[str]) -> list[dict[str, object]]:
    objects = [json.loads(word) for word in argv if word.startswith('{"qom-type":"memory-backend')]
    return [{key: value for key, value in found.items() if key != "id"} for found in objects]


BACKINGS = [
    "",
    "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
    "<memoryBacking><source type='file'/></memoryBacking>",
]


@pytest.mark.parametrize("backing", BACKINGS)
@pytest.mark.parametrize("shared", [True, False])
def test_it_is_the_only_memory(backing: str, shared: bool) -> None:
    before = words(planned(backing))
    after = words(MemoryFile('/t/"ram', shared=shared, arriving=False).adapt(planned(backing)))
    (found,) = memory(after)
    assert found == {"qom-type": "memory-backend-file", "mem-path": '/t/"ram', "share": shared, "size": 64 << 20}
    others = [[word for word in argv if "memory-backend-" not in word] for argv in (before, after)]
    assert others[0] == others[1]


def test_one_that_comes_from_a_template_waits() -> None:
    before = words(MemoryFile("/ram", shared=False, arriving=False).adapt(planned()))
    after = words(MemoryFile("/ram", shared=False, arriving=True).adapt(planned()))
    assert after == [before[0], "-incoming", "defer", *before[1:]]


def test_a_machine_without_such_memory() -> None:
    without = Launch(**{**vars(planned()), "parts": ()})
    with pytest.raises(ConfigUnsupported, match="this machine type has no memory that could be in a file"):
        MemoryFile("/ram", shared=True, arriving=False).adapt(without)
