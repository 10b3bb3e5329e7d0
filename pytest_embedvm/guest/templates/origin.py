"""Where a VM came from: whether it booted, or goes on where a template was stopped, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Origin:
    """`kind` is "clone" or "cold". `reason` says why a VM booted, where somebody may ask, or what a clone lacks.

    `template` names the template of a clone; `pooled` tells that the clone was there before it was asked for.
    """

    kind: Literal["clone", "cold"]
    reason: str | None = None
    template: str | None = None
    pooled: bool = False

    def __str__(self) -> str:
        """A sentence without its end: "cloned from 0123456789abcdef", "booted: it has a TPM"."""
        words = "booted" if self.kind == "cold" else f"cloned from {self.template or 'a template'}"
        if self.pooled:
            words += " ahead of time"
        return words if self.reason is None else f"{words}: {self.reason}"


#: Of what nobody thought to clone.
BOOTED = Origin("cold")
