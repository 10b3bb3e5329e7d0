"""Trays of drives: a guest that has locked one opens it when it likes."""

from __future__ import annotations

import asyncio
from typing import Final

from pytest_embedvm.errors import OperationFailed

#: How long a guest may take to open a tray that it has locked.
TRAY_TIMEOUT_S: Final = 5.0  # libvirt: CHANGE_MEDIA_TIMEOUT


class Trays:
    """Of one run of a machine: who waits for one to open."""

    def __init__(self) -> None:
        self._awaited: dict[str, asyncio.Event] = {}

    def await_open(self, alias: str) -> asyncio.Event:
        """What is set when the tray of ALIAS opens after this."""
        return self._awaited.setdefault(alias, asyncio.Event())

    def opened(self, alias: str) -> None:
        """The tray of ALIAS has opened."""
        waiting = self._awaited.pop(alias, None)
        if waiting:
            waiting.set()

    async def wait(self, alias: str, opened: asyncio.Event) -> None:
        """Wait until OPENED, which is ALIAS's, is set.

        :raise OperationFailed: when that does not happen within 5 s.
        """
        try:
            async with asyncio.timeout(TRAY_TIMEOUT_S):
                await opened.wait()
        except TimeoutError:
            # libvirt: qemuHotplugWaitForTrayEject
            raise OperationFailed(f"timed out waiting to open tray of '{alias}'") from None
        finally:
            self._awaited.pop(alias, None)
