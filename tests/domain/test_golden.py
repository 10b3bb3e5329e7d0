"""Golden cases: `tests/golden/NAME.xml` is what a user writes; beside it stand the domain completed
(`NAME.out.xml`) and QEMU's command line (`NAME.args`), one option a line,
after what its environment gets on top.

Write them anew with EMBEDVM_UPDATE_GOLDEN=1, and read the difference before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_embedvm.domain import argv, complete, definition
from pytest_embedvm.domain.model import Completed
from tests.fakes.host import FakeHost

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.xml") if not path.name.endswith(".out.xml"))


def expect(path: Path, text: str) -> None:
    if os.environ.get("EMBEDVM_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def completed(name: str) -> Completed:
    return complete.complete(definition.parse((GOLDEN / f"{name}.xml").read_text()), FakeHost(kvm_refused=None))


def in_lines(words: list[str]) -> str:
    lines: list[str] = []
    for word in words:
        if word.startswith("-") or not lines:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_completed(name: str) -> None:
    expect(GOLDEN / f"{name}.out.xml", definition.format(completed(name)))


@pytest.mark.parametrize("name", CASES)
def test_command_line(name: str) -> None:
    launch = argv.launch(completed(name), FakeHost(kvm_refused=None))
    numbers = {descriptor.name: 100 + i for i, descriptor in enumerate(launch.descriptors)}
    environment = "".join(f"{name}={value}\n" for name, value in launch.environment.items())
    expect(GOLDEN / f"{name}.args", environment + in_lines(launch.argv(numbers)))


@pytest.mark.parametrize("name", CASES)
def test_what_was_completed_reads_back_as_itself(name: str) -> None:
    text = definition.format(completed(name))
    again = definition.parse(text, validate=True)
    assert definition.format(again) == text
    # As with libvirt, a controller that was added last stands with those of its type when it is read back.
    twice = definition.format(complete.complete(again, FakeHost(kvm_refused=None)))
    assert sorted(twice.splitlines()) == sorted(text.splitlines())
    assert definition.format(complete.complete(definition.parse(twice), FakeHost(kvm_refused=None))) == twice


@pytest.mark.parametrize("name", CASES)
def test_completing_leaves_the_definition_alone(name: str) -> None:
    domain = definition.parse((GOLDEN / f"{name}.xml").read_text())
    before = definition.format(domain)
    complete.complete(domain, FakeHost(kvm_refused=None))
    assert definition.format(domain) == before
