"""libvirt's configuration files as values (libvirt: virconf.c): what it accepts and refuses, and where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pytest_embedvm.errors import ConfigSyntax

#: How a value was spelled; a number without a minus is another type than one with it (libvirt: virConfType).
Kind = Literal["long", "unsigned long", "bool", "string", "list"]
Content: TypeAlias = "int | str | tuple[Value, ...]"

#: libvirt: MAX_CONFIG_FILE_SIZE
MOST_BYTES: Final = 10 * 1024 * 1024
#: libvirt reads what is larger as another number.
_LARGEST: Final = (1 << 64) - 1
#: Lists in lists deeper than this are nobody's configuration.
_DEEPEST: Final = 32

_BLANKS: Final = re.compile(r"[ \t]*")
_BLANKS_AND_LINES: Final = re.compile(r"[ \t\r\n]*")
_REST_OF_LINE: Final = re.compile(r"[^\r\n]*")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NUMBER: Final = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Value:
    """What a key was set to. `where` is the place, as an error names it: `FILE:LINE`."""

    kind: Kind
    content: Content
    where: str


def parse(text: str, name: str) -> dict[str, Value]:
    """The keys of TEXT, which errors call the file NAME. Of a key that is set twice the first counts, as in libvirt.

    :raise ConfigSyntax: naming the line, in libvirt's words.
    """
    return _Reader(text, name).read()


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._at = 0

    def read(self) -> dict[str, Value]:
        # libvirt: virConfParse; a text of blank lines alone has no name in it, and is refused there too
        found: dict[str, Value] = {}
        if "\0" in self._text:
            self._at = self._text.index("\0")
            raise self._error("a NUL character")
        while self._at < len(self._text):
            self._statement(found)
            self._separator()
        return found

    # libvirt: virConfParseStatement, virConfParseSeparator

    def _statement(self, found: dict[str, Value]) -> None:
        self._skip(_BLANKS_AND_LINES)
        if self._next == "#":
            self._skip(_REST_OF_LINE)
            return
        name = self._take(_NAME, "expecting a name")
        self._skip(_BLANKS)
        if self._next != "=":
            raise self._error("expecting an assignment")
        self._at += 1
        self._skip(_BLANKS)
        found.setdefault(name, self._value())
        self._skip(_BLANKS)
        if self._next == "#":
            self._skip(_REST_OF_LINE)

    def _separator(self) -> None:
        self._skip(_BLANKS)
        if self._at >= len(self._text):
            return
        if self._next not in ";\r\n":
            raise self._error("expecting a separator")
        if self._next == ";":
            self._at += 1
        self._skip(_BLANKS_AND_LINES)

    # libvirt: virConfParseValue, virConfParseString, virConfParseLong

    def _value(self, depth: int = 0) -> Value:
        self._skip(_BLANKS)
        where = self._where
        if self._next and self._next in "'\"":
            return Value("string", self._string(), where)
        if self._next == "[" and depth < _DEEPEST:
            return Value("list", self._list(depth), where)
        if self._next and self._next in "0123456789+-":
            return Value("long" if self._next == "-" else "unsigned long", self._number(), where)
        raise self._error("expecting a value")

    def _string(self) -> str:
        # A triple quote needs a character after its six: else it is an empty string, and two more quotes.
        if self._text.startswith('"""', self._at) and self._at + 6 < len(self._text):
            return self._quoted('"""', self._text.find('"""', self._at + 3))
        line = _REST_OF_LINE.match(self._text, self._at)
        end = line.end() if line else self._at
        return self._quoted(self._next, self._text.find(self._next, self._at + 1, end))

    def _quoted(self, quote: str, end: int) -> str:
        if end < 0:
            raise self._error("unterminated string")
        content = self._text[self._at + len(quote) : end]
        self._at = end + len(quote)
        return content

    def _list(self, depth: int) -> tuple[Value, ...]:
        items: list[Value] = []
        self._at += 1
        self._skip(_BLANKS_AND_LINES)
        while self._next and self._next != "]":
            if items:
                if self._next != ",":
                    raise self._error("expecting a separator in list")
                self._at += 1
                self._skip(_BLANKS_AND_LINES)
                if self._next == "]":
                    break
            items.append(self._value(depth + 1))
            self._skip(_BLANKS_AND_LINES)
        if self._next != "]":
            raise self._error("list is not closed with ]")
        self._at += 1
        return tuple(items)

    def _number(self) -> int:
        sign = self._next if self._next in "+-" else ""
        self._at += len(sign)
        number = int(self._take(_NUMBER, "unterminated number").lstrip("0")[:40] or "0")
        if number > _LARGEST:
            raise self._error("number is too large")
        return -number if sign == "-" else number

    # Where it is

    @property
    def _next(self) -> str:
        """The next character; empty at the end."""
        return self._text[self._at : self._at + 1]

    @property
    def _where(self) -> str:
        return f"{self._name}:{self._text.count(chr(10), 0, self._at) + 1}"

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _take(self, pattern: re.Pattern[str], otherwise: str) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise self._error(otherwise)
        self._at = match.end()
        return match.group()

    def _error(self, what: str) -> ConfigSyntax:
        return ConfigSyntax(f"{self._where}: {what}")
