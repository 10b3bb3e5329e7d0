"""qemu-img: a child that is waited for on the loop, and ended when it takes too long or nobody waits any more."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from typing import IO, Final

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


#: What it says when it measures how long a passphrase's stretching takes, and the kernel has not counted any time of
#: that thread yet. Nothing is wrong then. QEMU: crypto/pbkdf.c since commit c72cab5a; later versions measure once more.
NOT_MEASURED: Final = "Unable to get accurate CPU usage"
#: How often one image is tried while that is what is said.
TRIES: Final = 10


async def run(arguments: Sequence[str], *, secret: bytes | None = None, timeout: float = IMAGE_TIMEOUT_S) -> None:
    """Run qemu-img with ARGUMENTS, the first of which is its command; again if only its stop watch failed.

    :param secret: a passphrase, which it finds as the secret object `OBJECT_ID`: it inherits it as a nameless file,
        and is told nothing but the descriptor's number.
    :raise InternalError: when it fails; with its own words.
    :raise OperationTimeout: when it takes longer than TIMEOUT seconds; it is ended.
    :raise SystemFailure: when it cannot be started.
    """
    program = shutil.which("qemu-img")
    if program is None:
        # libvirt: virStorageBackendCreateQemuImg
        raise InternalError("unable to find qemu-img", origin=ErrorDomain.STORAGE)
    command = arguments[0]
    deadline = asyncio.get_running_loop().time() + timeout
    for _ in range(TRIES):
        with memory_file("qemu-img-output") as output:
            try:
                async with asyncio.timeout_at(deadline):
                    status = await _once([program, *arguments], secret, output)
            except TimeoutError:
                raise OperationTimeout(
                    f"'qemu-img {command}' did not end within {timeout:g} s; last seen: {_words(output) or 'nothing'}"
                ) from None
            words = _words(output)
        if not status:
            return
        if NOT_MEASURED not in words:
            break
    # libvirt: virCommandProcessStatus
    raise InternalError(f"qemu-img {command} failed: {words or f'exit status {status}'}")


async def _once(command: Sequence[str], secret: bytes | None, output: IO[bytes]) -> int | None:
    """The exit status of one run. It ends with this, however that ends."""
    program, name, *rest = command
    with memory_file("qemu-img-secret") as handed:
        passed: list[int] = []
        if secret is not None:
            handed.write(secret)
            handed.flush()
            passed = [handed.fileno()]
            rest = ["--object", f"secret,id={OBJECT_ID},file=/dev/fd/{handed.fileno()}", *rest]
        process = Process.spawn(
            [program, name, *rest], output=output, pass_fds=passed, env={"PATH": os.defpath, "LC_ALL": "C"}
        )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                await process.kill()


def _words(output: IO[bytes]) -> str:
    """What it said."""
    return os.pread(output.fileno(), LAST_WORDS_BYTES, 0).decode(errors="replace").strip()
