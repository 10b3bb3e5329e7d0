"""What a console has shown, as bytes and as text."""

from __future__ import annotations

import codecs
import re
from typing import Final

#: The kernel's last words. It prints them once its report is complete, and only if it then stays as it is.
_DEAD: Final = re.compile(r"---\[ end Kernel panic[^\n]*\]---")


class Transcript:
    """All that came, in order. Whoever feeds and reads it from two threads holds a lock."""

    def __init__(self, history: bytes = b"") -> None:
        """:param history: what came before, which was heard by somebody else."""
        self._data = bytearray()
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._text = ""
        self._pieces: list[str] = []
        self._returns = ""
        self._panic: str | None = None
        self._searched = 0
        if history:
            self.feed(history)

    def feed(self, data: bytes) -> None:
        """Append DATA; b"" is the end, after which nothing comes."""
        self._data += data
        text = self._returns + self._decode(data, not data)
        # A terminal's line ends in \r\n, or more \r than one. Those at the very end may be half of one.
        body = text.rstrip("\r") if data else text
        self._returns = text[len(body) :]
        self._pieces.append(re.sub(r"\r+\n", "\n", body))

    @property
    def data(self) -> bytes:
        """The bytes as they came."""
        return bytes(self._data)

    @property
    def text(self) -> str:
        r"""The bytes as UTF-8, what is none replaced; lines end in \n alone."""
        if self._pieces:
            self._text += "".join(self._pieces)
            self._pieces.clear()
        return self._text

    def booted(self) -> None:
        """The machine was reset: what came before says nothing about the system that boots now."""
        self._panic = None
        self._searched = len(self.text)

    def panic(self) -> str | None:
        """The line with which the kernel said that it is dead; None while it has not."""
        if self._panic is None:
            found = _DEAD.search(self.text, self._searched)
            self._panic = found and found[0].strip("-[] ").removeprefix("end ")
            self._searched = max(self._searched, self._text.rfind("\n") + 1)
        return self._panic
