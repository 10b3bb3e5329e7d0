"""`embedvm qmp`: one command to QEMU, or a shell for many, through the VM's second monitor."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pytest_embedvm.cli.choosing import add_target, machine
from pytest_embedvm.cli.door import Door, Gone
from pytest_embedvm.cli.errors import CommandFailed

_EXAMPLE = 'e.g. query-status · qom-get path=/machine property=type · {"execute": "query-status"}'


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "qmp",
        help="a QMP command to a VM, or a shell for them",
        description="Send one QMP command, or read commands from the terminal or standard input. Prints QEMU's "
        "answer as JSON; an error of QEMU's ends a single command with status 1.",
        epilog=_EXAMPLE,
    )
    add_target(parser, "[COMMAND [JSON | KEY=VALUE...]]", "a value is JSON, or else a string")
    parser.add_argument("--hmp", action="store_true", help="lines for QEMU's human monitor, such as `info mtree`")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    found, words = machine(args.words)
    with Door.open(found.door) as door:
        send = _human if args.hmp else _send
        if words:
            print(send(door, words))
            return 0
        return _shell(door, found.name, send, _human_completions if args.hmp else _completions)


def _send(door: Door, words: Sequence[str]) -> str:
    answer = door.execute(*parse(words))
    return json.dumps(answer, indent=2, ensure_ascii=False)


def _human(door: Door, words: Sequence[str]) -> str:
    return door.human(" ".join(words)).replace("\r", "").rstrip("\n")


def parse(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The command and the arguments that WORDS say.

    A message of QMP's own, `{"execute": …}`; a command and its arguments as one JSON object; or a command and
    `key=value`, where a dot in the key leads into an object.

    :raise CommandFailed: when they say none.
    """
    if words[0].startswith("{"):
        message = _object(" ".join(words))
        if not isinstance(message.get("execute"), str):
            raise CommandFailed('a QMP message needs "execute"')
        return message["execute"], message.get("arguments", {})
    command, rest = words[0], words[1:]
    if rest and rest[0].startswith("{"):
        return command, _object(" ".join(rest))
    arguments: dict[str, Any] = {}
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals:
            raise CommandFailed(f"'{word}' is no argument: write key=value, or one JSON object")
        _put(arguments, key.split("."), _value(value))
    return command, arguments


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CommandFailed(f"this is no JSON: {text}: {error}") from None
    if not isinstance(found, dict):
        raise CommandFailed(f"this is no JSON object: {text}")
    return found


def _value(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text


def _put(arguments: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    *above, last = keys
    for key in above:
        arguments = arguments.setdefault(key, {})
        if not isinstance(arguments, dict):
            raise CommandFailed(f"'{'.'.join(keys)}': '{key}' has a value already")
    arguments[last] = value


def _shell(
    door: Door, name: str, send: Callable[[Door, Sequence[str]], str], completions: Callable[[Door], list[str]]
) -> int:
    """Read lines until the input or QEMU ends. What fails is said, and the shell goes on."""
    status = 0
    for line in _lines(name, lambda: completions(door)):
        try:
            if line:
                print(send(door, _words(line)))
        except Gone:
            raise
        except CommandFailed as error:
            print(error, file=sys.stderr)
            status = 1
        for event in door.take_events():
            print(json.dumps(event, ensure_ascii=False))
    return status if not sys.stdin.isatty() else 0


def _words(line: str) -> list[str]:
    """LINE as a shell's words, but JSON as it is."""
    command, _, rest = line.partition(" ")
    if "{" in (command[0], rest.lstrip()[:1]):
        return [line] if command[0] == "{" else [command, rest]
    try:
        return shlex.split(line)
    except ValueError as error:
        raise CommandFailed(f"{error}: {line}") from None


def _lines(name: str, completions: Callable[[], list[str]]) -> Iterator[str]:
    """The lines of standard input; on a terminal with a prompt, a history and TAB."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin)
        return
    import readline

    words = completions()
    readline.set_completer_delims(" ")
    readline.set_completer(lambda text, state: [*(w for w in words if w.startswith(text)), None][state])
    readline.parse_and_bind("tab: complete")
    print("Ctrl-D leaves; an empty line shows what has happened meanwhile.")
    with contextlib.suppress(EOFError):
        while True:
            yield input(f"({name}) ").strip()
    print()


def _completions(door: Door) -> list[str]:
    return sorted(command["name"] for command in door.execute("query-commands"))


def _human_completions(door: Door) -> list[str]:
    lines = door.human("help").splitlines()
    return sorted({word for line in lines for word in line.partition(" ")[0].split("|") if word})
