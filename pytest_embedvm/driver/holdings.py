"""What is held for single pieces of a machine: each can be let go before the machine ends."""

from __future__ import annotations

import contextlib


class Holdings:
    """Of one run. The names are those of descriptors, and the aliases of devices that were plugged in."""

    def __init__(self) -> None:
        self._stacks: dict[str, contextlib.AsyncExitStack] = {}

    def stack(self, name: str) -> contextlib.AsyncExitStack:
        """What undoes all that is held for NAME."""
        return self._stacks.setdefault(name, contextlib.AsyncExitStack())

    async def release(self, name: str) -> None:
        """Let go what is held for NAME; nothing may be."""
        stack = self._stacks.pop(name, None)
        if stack is not None:
            await stack.aclose()

    async def aclose(self) -> None:
        """Let go everything, what came last first."""
        async with contextlib.AsyncExitStack() as everything:
            for stack in self._stacks.values():
                everything.push_async_exit(stack)
            self._stacks.clear()
