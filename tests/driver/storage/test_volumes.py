"""Volumes that are not made to their end, and pools that are busy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pytest_embedvm.constants import StorageVolCreateFlags
from pytest_embedvm.errors import InternalError, StorageVolumeExists
from pytest_embedvm.qemu import image_tool
from tests.driver.conftest import DEADLINE_S, OpenDriver

#: Takes qemu-img long enough to be interrupted: it writes 8 bytes for each 64 KiB.
LARGE = """<volume><name>large</name><capacity unit='TiB'>1</capacity>
  <target><format type='qcow2'/><compat>1.1</compat></target></volume>"""


async def test_a_creation_that_is_called_off_leaves_nothing(embed: OpenDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    began, run = asyncio.Event(), image_tool.run

    async def tell(arguments: Sequence[str], *, secret: bytes | None = None) -> None:
        began.set()
        await run(arguments, secret=secret)

    monkeypatch.setattr(image_tool, "run", tell)
    async with embed() as driver:
        storage = driver.storage
        pool = storage.by_name("default")
        creating = asyncio.create_task(storage.volumes.create(pool, LARGE, StorageVolCreateFlags.PREALLOC_METADATA))
        async with asyncio.timeout(DEADLINE_S):
            await began.wait()
        with pytest.raises(StorageVolumeExists):
            await storage.volumes.create(pool, LARGE, StorageVolCreateFlags(0))
        for busy in (storage.destroy, storage.refresh):
            with pytest.raises(InternalError, match="pool 'default' has asynchronous jobs running"):
                await busy(pool)
        assert pool.volumes == {}
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert list(pool.directory.iterdir()) == []
        assert (pool.jobs, pool.building) == (0, set())
