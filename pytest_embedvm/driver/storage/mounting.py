"""File systems of pools of type fs: mounted as long as their pool is active, where this process may mount at all."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import InternalError, OperationTimeout
from pytest_embedvm.files import memory_file
from pytest_embedvm.qemu.process import Process
from pytest_embedvm.storage.pool import Pool

#: How long a file system may take to be mounted or unmounted.
MOUNT_TIMEOUT_S: Final = 30.0


async def mount(pool: Pool) -> None:
    """Mount what POOL stands on; nothing to do when it is mounted already.

    :raise InternalError: when this process may not, or there is no such file system; with mount's own words.
    """
    # libvirt: virStorageBackendFileSystemMount
    if not is_mounted(pool):
        await _run("mount", "-t", pool.source.format or "auto", "--", pool.device, pool.path)


async def unmount(pool: Pool) -> None:
    """Undo `mount`.

    :raise InternalError: when somebody still uses it; with umount's own words.
    """
    # libvirt: virStorageBackendFileSystemStop
    if is_mounted(pool):
        await _run("umount", "--", pool.path)


def is_mounted(pool: Pool) -> bool:
    """Whether something is mounted where POOL's volumes are."""
    return os.path.ismount(pool.path)


async def _run(name: str, *arguments: str) -> None:
    program = shutil.which(name)
    if program is None:
        raise InternalError(f"unable to find {name}", origin=ErrorDomain.STORAGE)
    with memory_file(f"{name}-output") as output:
        process = Process.spawn([program, *arguments], output=output, env={"PATH": os.defpath, "LC_ALL": "C"})
        try:
            async with asyncio.timeout(MOUNT_TIMEOUT_S):
                status = await process.wait()
        except TimeoutError:
            raise OperationTimeout(f"'{name}' did not end within {MOUNT_TIMEOUT_S:g} s") from None
        finally:
            if process.returncode is None:
                await process.kill()
        said = os.pread(output.fileno(), 2048, 0).decode(errors="replace").strip()
    if status:
        raise InternalError(
            f"a pool of type 'fs' is mounted by this process, and {name} failed: {said or f'exit status {status}'}",
            origin=ErrorDomain.STORAGE,
        )
