"""The package's one logger. Nothing is logged but by a `Log`, which says whose it is."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, Final

LOGGER: Final = logging.getLogger("pytest_embedvm")


class Log(logging.LoggerAdapter[logging.Logger]):
    """Says things about one root, or about one domain of it.

    A record begins with `[ROOT]` or `[ROOT/DOMAIN]`, and has the attributes `embedvm_root`, the root's label, and
    `embedvm_domain`, the domain's name or None.
    """

    def __init__(self, root: str, domain: str | None = None) -> None:
        super().__init__(LOGGER, {"embedvm_root": root, "embedvm_domain": domain})
        self._root = root
        self.label = root if domain is None else f"{root}/{_on_a_line(domain)}"

    def about(self, domain: str) -> Log:
        """The same for a domain of this root."""
        return Log(self._root, domain)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        given = kwargs.get("extra") or {}
        return f"[{self.label}] {msg}", {**kwargs, "extra": {**given, **(self.extra or {})}}


def _on_a_line(name: str) -> str:
    """NAME without what would end the line, or be taken for a place to put an argument."""
    return "".join(c if c.isprintable() and c not in "%[]" else "_" for c in name)


#: Of what belongs to no root: the host, and what all roots share.
HOST: Final = Log("host")
