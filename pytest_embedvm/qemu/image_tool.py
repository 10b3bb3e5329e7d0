"""qemu-img: a child that is waited for on the loop, and ended when it takes too long or nobody waits any more."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import InternalError, OperationTimeout
from pytest_embedvm.files import memory_file
from pytest_embedvm.qemu.process import Process

#: How long one image may take: to be made, preallocated, converted or resized.
IMAGE_TIMEOUT_S: Final = 1800.0
#: The most of its own words that go into an error.
LAST_WORDS_BYTES: Final = 2048
#: What an argument that needs the passphrase names; see `run`.
OBJECT_ID: Final = "volume"


async def run(arguments: Sequence[str], *, secret: bytes | None = None, timeout: float = IMAGE_TIMEOUT_S) -> None:
    """Run qemu-img with ARGUMENTS, the first of which is its command.

    :param secret: a passphrase, which it finds as the secret object `OBJECT_ID`: it inherits it as a nameless file,
        and is told nothing but the descriptor's number.
    :raise InternalError: when it fails; with its own words.
    :raise OperationTimeout: when it takes longer than TIMEOUT seconds; it is ended.
    :raise SystemFailure: when it cannot be started.
    """
    command, *rest = arguments
    program = shutil.which("qemu-img")
    if program is None:
        # libvirt: virStorageBackendCreateQemuImg
        raise InternalError("unable to find qemu-img", origin=ErrorDomain.STORAGE)
    with memory_file("qemu-img-output") as output, memory_file("qemu-img-secret") as handed:
        passed: list[int] = []
        if secret is not None:
            handed.write(secret)
            handed.flush()
            passed = [handed.fileno()]
            rest = ["--object", f"secret,id={OBJECT_ID},file=/dev/fd/{handed.fileno()}", *rest]
        process = Process.spawn(
            [program, command, *rest], output=output, pass_fds=passed, env={"PATH": os.defpath, "LC_ALL": "C"}
        )
        try:
            async with asyncio.timeout(timeout):
                status = await process.wait()
        except TimeoutError:
            seen = _words(output.fileno()) or "nothing"
            raise OperationTimeout(
                f"'qemu-img {command}' did not end within {timeout:g} s; last seen: {seen}"
            ) from None
        finally:
            if process.returncode is None:
                await process.kill()
        if status:
            # libvirt: virCommandProcessStatus
            raise InternalError(f"qemu-img {command} failed: {_words(output.fileno()) or f'exit status {status}'}")


def _words(descriptor: int) -> str:
    """What it said."""
    return os.pread(descriptor, LAST_WORDS_BYTES, 0).decode(errors="replace").strip()
