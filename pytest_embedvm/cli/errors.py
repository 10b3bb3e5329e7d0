"""What a command says when it cannot do what it was told."""

from __future__ import annotations


class CommandFailed(Exception):
    """One sentence for a person: what was wrong, and what there is instead. The command ends with status 1."""
