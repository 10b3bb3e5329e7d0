"""Who may change a machine: one at a time, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from pytest_embedvm.errors import OperationTimeout

JOB_TIMEOUT_S: Final = 30.0  # libvirt: VIR_JOB_WAIT_TIME


class Job:
    """The right to change a machine."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._holder = ""

    def locked(self) -> bool:
        return self._lock.locked()

    @contextlib.asynccontextmanager
    async def hold(self, what: str) -> AsyncIterator[None]:
        """Have it while the block runs; WHAT is what the others are told.

        :raise OperationTimeout: when another one does not give it back within 30 s; names that one.
        """
        try:
            async with asyncio.timeout(JOB_TIMEOUT_S):
                await self._lock.acquire()
        except TimeoutError:
            # libvirt: virDomainObjBeginJobInternal
            raise OperationTimeout(f"cannot acquire state change lock (held by '{self._holder}')") from None
        self._holder = what
        try:
            yield
        finally:
            self._lock.release()
