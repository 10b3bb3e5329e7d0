"""Which root and which VM somebody means who types as little as possible."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from pytest_embedvm.cli.errors import CommandFailed
from pytest_embedvm.cli.machines import Machine, Root, look, roots

ROOT_HELP: Final = (
    "its number or label in `embedvm ps`, its path, or how a directory of that begins; not needed if only one lives"
)
DOMAIN_HELP: Final = "its name or id, or how the name begins"


def add_target(parser: argparse.ArgumentParser, rest: str | None = None, rest_help: str = "") -> None:
    """Declare ROOT, DOMAIN and what comes after them. They are told apart by what there is: see `machine`."""
    usage = f"[ROOT] [DOMAIN]{f' {rest}' if rest else ''}"
    text = f"ROOT: {ROOT_HELP}. DOMAIN: {DOMAIN_HELP}. Neither is needed where there is one VM."
    text += f" {rest}: {rest_help}" if rest else ""
    parser.add_argument("words", nargs="*", metavar=usage, help=text)


def machine(words: Sequence[str]) -> tuple[Machine, list[str]]:
    """The VM that the first of WORDS mean, and the words after them.

    Of the ways to read them, that one counts which takes the most words and leaves one VM: ROOT and DOMAIN,
    DOMAIN alone, ROOT alone, neither.

    :raise CommandFailed: when there is none; it lists what there is.
    """
    return _choose(words, lambda root: root.machines, "VM runs")


def only_machine(words: Sequence[str]) -> Machine:
    """The VM that WORDS mean, all of them."""
    return _only(*machine(words))


@dataclass(frozen=True)
class Log:
    """The log of a domain; `machine` if it runs."""

    name: str
    id: int
    path: Path
    machine: Machine | None


def log(words: Sequence[str]) -> Log:
    """The log that WORDS mean; also of a domain that has ended, as long as its root lives."""
    return _only(*_choose(words, _logs, "log is there"))


def _logs(root: Root) -> list[Log]:
    running = {machine.name: machine for machine in root.machines}
    paths = {path.stem: path for path in sorted((root.path / "log/qemu").glob("*.log"))}
    return [
        Log(name, running[name].id if name in running else -1, path, running.get(name)) for name, path in paths.items()
    ]


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def id(self) -> int: ...


T = TypeVar("T", bound=_Named)


def _choose(words: Sequence[str], inside: Callable[[Root], Sequence[T]], there: str) -> tuple[T, list[str]]:
    living = roots()
    first, second = [*words, "", ""][:2]
    root = _root(living, first)
    here = inside(root) if root else []
    everywhere = [thing for one in living for thing in inside(one)]
    readings = (
        (2, _named(here, second) or [thing for thing in here if str(thing.id) == second]),
        (1, _named(everywhere, first)),
        (1, here),
        (0, [] if root else everywhere),
    )
    for taken, found in readings:
        if len(found) == 1:
            return found[0], list(words[taken:])
    there_is = [(one, [thing.name for thing in inside(one)]) for one in ([root] if root else living)]
    raise CommandFailed(_which(words, there_is, there))


def _only(found: T, rest: Sequence[str]) -> T:
    if rest:
        raise CommandFailed(f"'{rest[0]}' is neither a root nor a domain; see `embedvm ps`")
    return found


def _named(things: Sequence[T], word: str) -> list[T]:
    exactly = [thing for thing in things if thing.name == word]
    return exactly or [thing for thing in things if word and thing.name.startswith(word)]


def _which(words: Sequence[str], there_is: Sequence[tuple[Root, Sequence[str]]], there: str) -> str:
    if not any(names for _, names in there_is):
        return f"no {there}{''.join(f' in {root.path}' for root, _ in there_is)}"
    lines = (f"  {root.number} {root.path}: {', '.join(names)}" for root, names in there_is)
    meant = f"'{' '.join(words)}' names none, or several" if words else "say which"
    return "\n".join((f"{meant}; there is", *lines))


def _root(living: Sequence[Root], word: str) -> Root | None:
    if not word:
        return None
    for root in living:
        if word in (str(root.number), root.label) or _path(word) == root.path:
            return root
    if "/" in word and (_path(word) / "run/qemu").is_dir():
        return look(_path(word))  # one that nothing tells of
    begun = [root for root in living if any(part.startswith(word) for part in root.path.parts[1:])]
    return begun[0] if len(begun) == 1 else None


def _path(word: str) -> Path:
    return Path(word).expanduser().resolve()
