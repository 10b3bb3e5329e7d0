"""What every section of a domain may say; each says only what it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.qemu.parts import Json, Part


class Section:
    """A child element of `<domain>` beside `<devices>`."""

    def complete(self, context: Context) -> None:
        """Fill in what the user left open and libvirt fills in."""

    def check(self, context: Context) -> None:
        """Refuse what cannot be given.

        :raise ConfigUnsupported: naming the element and its value.
        """

    def parts(self, context: Context) -> Iterable[Part]:
        """Options of its own."""
        return ()

    def machine_props(self, context: Context) -> Mapping[str, Json]:
        """What it adds to -machine."""
        return {}

    def cpu_props(self, context: Context) -> Mapping[str, Json]:
        """What it adds to -cpu."""
        return {}

    def environment(self, context: Context) -> Mapping[str, str]:
        """What it adds to QEMU's environment."""
        return {}
