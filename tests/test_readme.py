"""README.md and ARCHITECTURE.md: what they name exists, what exists is named, and the examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_embedvm.cli.main import COMMANDS
from pytest_embedvm.domain import definition
from pytest_embedvm.domain.devices import KINDS
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.guest import VM, Console
from pytest_embedvm.plugin.markers import DomainArguments

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()
ARCHITECTURE = (PROJECT / "ARCHITECTURE.md").read_text()

PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
#: README without what only quotes: programs and their output.
PROSE = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
CODE = set(re.findall(r"`([^`\n]+)`", PROSE))

#: The lists of files in ARCHITECTURE.md, a room each.
ROOMS = re.findall(r"^- `\w+/`: .*\n(?:  .*\n)*", ARCHITECTURE, re.MULTILINE)


def rows(first: str) -> dict[str, list[str]]:
    """The rows of the table whose head begins with FIRST, by what their first cell has in backquotes."""
    _, _, rest = README.partition(f"\n| {first} |")
    lines = rest.split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {name: row for row in cells for name in re.findall(r"`([^`]+)`", row[0])}


def test_the_fixtures_of_the_table_are_those_there_are(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest("--fixtures").stdout.str()
    there = set(re.findall(r"^(\w+) .*pytest_embedvm/plugin/fixtures\.py", listed, re.MULTILINE))
    assert rows("fixture").keys() == there


def test_the_keywords_of_the_table_are_the_markers_with_their_defaults() -> None:
    defaults = {name: row[1] for name, row in rows("keyword").items()}
    assert defaults == {name: f"`{value!r}`".replace("'", '"') for name, value in vars(DomainArguments()).items()}


def test_the_options_of_the_table_are_those_there_are(pytester: pytest.Pytester) -> None:
    named = set(re.findall(r"--embedvm[a-z-]*", PROSE))
    assert named == set(re.findall(r"--embedvm[a-z-]*", pytester.runpytest("--help").stdout.str()))


def test_the_variables_that_are_named_are_read() -> None:
    sources = [*PROJECT.glob("pytest_embedvm/**/*.py"), *PROJECT.glob("script/*")]
    read = {word for path in sources for word in re.findall(r"EMBEDVM_[A-Z_]+", path.read_text())}
    assert set(re.findall(r"EMBEDVM_[A-Z_]+", README)) == read


def test_what_the_vm_can_do_is_named_and_there() -> None:
    text = "".join(PYTHON) + PROSE
    public = {name for name in vars(VM) if not name.startswith("_")}
    assert public == {name for name in public if re.search(rf"\b{name}\b", text)}
    of_console = set(re.findall(r"\bvm\.console\.(\w+)", text))
    assert of_console <= set(dir(Console))
    attributes = {"captures", "console", "domain", "connection", "name", "origin"}
    assert set(re.findall(r"\bvm\.(\w+)", text)) <= public | attributes


def test_the_commands_of_the_table_are_those_there_are() -> None:
    named = {name.split()[1] for name in rows("command") if name.startswith("embedvm ")}
    assert named == {command.__name__.rpartition(".")[2] for command in COMMANDS}


def test_the_devices_of_the_table_are_those_there_are() -> None:
    assert rows("kind").keys() == KINDS.keys()


@pytest.mark.parametrize("kind", re.findall(r"`(\w+)`", PROSE.partition("among devices")[2].partition(";")[0]))
def test_a_device_that_is_said_to_be_refused_is(kind: str) -> None:
    with pytest.raises(ConfigUnsupported, match=kind):
        definition.parse(f"<domain type='qemu'><name>x</name><devices><{kind}/></devices></domain>")


def test_the_first_example_prints_what_is_shown(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PYTHON[0])
    result = pytester.runpytest("--embedvm", "-v", "-s")
    result.assert_outcomes(passed=1)
    shown = next(line for line in README.splitlines() if line.startswith("vm runs Linux"))
    result.stdout.re_match_lines([re.sub(r"\d\S*$", r"\\S+", shown)])


@pytest.mark.parametrize("number", range(1, len(PYTHON)))
def test_the_examples_run(pytester: pytest.Pytester, number: int) -> None:
    pytester.makepyfile(PYTHON[number])
    outcomes = pytester.runpytest("--embedvm").parseoutcomes()
    if 'network="host"' in PYTHON[number]:  # not every host has one; tests/live/host runs it where one can be made
        assert outcomes.keys() - {"skipped"} <= {"passed"}
    else:
        assert outcomes == {"passed": 1}


def test_every_path_in_the_readme_is_there() -> None:
    named = set(re.findall(r"\]\((\w[\w./]*)\)|(?:\./|\b)(script/\w+)", README))
    assert named
    for path in (link or script for link, script in named):
        assert (PROJECT / path).exists(), path


def files_of(room: str) -> set[str]:
    """What the list of a ROOM names, each file below the directory that was named before it, or the room itself."""
    above, *names = re.findall(r"`([\w./-]+)`", room)
    found, inside = set(), ""
    for name in names:
        if name.endswith("/"):
            inside = name
        elif (PROJECT / "pytest_embedvm" / above / inside / name).exists():
            found.add(f"{above}{inside}{name}")
        elif not (PROJECT / name).exists():  # else it is one of the project's, such as a script
            found.add(f"{above}{name}")
    return found


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.split("`")[1])
def test_every_file_of_a_room_is_in_the_architecture(room: str) -> None:
    above = re.findall(r"`(\w+/)`", room)[0]
    there = {path.name for path in (PROJECT / "pytest_embedvm" / above).glob("*.py")} - {"__init__.py"}
    assert {name for name in there if f"{above}{name}" not in files_of(room)} == set()


def test_every_file_in_the_architecture_is_there() -> None:
    elsewhere = ARCHITECTURE
    for room in ROOMS:
        elsewhere = elsewhere.replace(room, "")
    named = set(re.findall(r"`((?:\w+/)*\w+\.(?:py|txt)|(?:\w+/)+)`", elsewhere))
    named |= {path for room in ROOMS for path in files_of(room)}
    named -= {"network/", "storage/", "secret/", "guest/ID/", "images/KEY/", "templates/KEY/", "packages/NAME/"}
    assert len(ROOMS) == 11
    places = [PROJECT, PROJECT / "pytest_embedvm"]
    assert {path for path in named if not any((place / path).exists() for place in places)} == set()
