"""One probe per QEMU binary and host, kept on disk and shared by all roots, processes and later runs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import filelock
import platformdirs

from pytest_embedvm.errors import OperationTimeout
from pytest_embedvm.files import HALF, PRIVATE_FILE, lock_holders, make_private_directory, set_aside, write_atomically
from pytest_embedvm.logs import HOST, Log
from pytest_embedvm.qemu.accelerator import KVM_DEVICE, Accelerator, Requested, choose, require
from pytest_embedvm.qemu.binary import BinaryIdentity
from pytest_embedvm.qemu.capabilities import PROBED_DEVICES, Capabilities
from pytest_embedvm.qemu.probe import PROBED_MACHINES, probe
from pytest_embedvm.qemu.process import command_of

#: To be raised whenever the same QEMU on the same host would be described differently by this project.
PROBE_VERSION: Final = 1

LOCK_TIMEOUT_S: Final = 120.0
#: A waiting thread is in the lock for this long at a time, so that a cancelled wait ends soon after.
LOCK_SLICE_S: Final = 1.0

#: Lines of /proc/cpuinfo that tell one processor, or one moment, from another, and not one model from another.
_VOLATILE: Final = frozenset(
    {"processor", "cpu MHz", "bogomips", "BogoMIPS", "physical id", "core id", "apicid", "initial apicid"}
)

_warned = False


@dataclass(frozen=True)
class HostCapabilities:
    """What this QEMU can do, and what runs guest code on this host."""

    capabilities: Capabilities
    accelerator: Accelerator


@dataclass(frozen=True)
class HostIdentity:
    """Everything of the host that can change what a probe finds."""

    cpu: dict[str, str]
    kernel: str
    kvm_device: str
    kvm_parameters: dict[str, str]

    @classmethod
    def of(cls, device: Path = KVM_DEVICE, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> HostIdentity:
        """Read it from the running system; what cannot be read counts as such."""
        parameters = sorted(path for module in sys.glob("module/kvm*") for path in module.glob("parameters/*"))
        return cls(
            cpu=_first_processor(proc / "cpuinfo"),
            kernel=f"{os.uname().release} {os.uname().version}",
            kvm_device=_permissions(device),
            kvm_parameters={f"{path.parts[-3]}.{path.name}": _content(path) for path in parameters},
        )


def _first_processor(cpuinfo: Path) -> dict[str, str]:
    first, _, _ = _content(cpuinfo).partition("\n\n")
    lines = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines if name.strip() not in _VOLATILE}


def _permissions(device: Path) -> str:
    try:
        status = device.stat()
    except OSError as error:
        return str(error.strerror)
    return f"{status.st_rdev:#x} {status.st_mode:o} {'usable' if os.access(device, os.R_OK | os.W_OK) else 'denied'}"


def _content(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError as error:
        return f"({error.strerror})"


@cache
def _this_host() -> HostIdentity:
    """The host does not change under a running process, or not so that its VMs could tell."""
    return HostIdentity.of()


@dataclass(frozen=True)
class _Question:
    """What is asked of this host: about which binary, and whether to look at KVM at all."""

    identity: BinaryIdentity
    requested: Requested

    @cached_property
    def key(self) -> bytes:
        """All that the answer depends on."""
        return _dump(
            {
                "probe": [PROBE_VERSION, *PROBED_MACHINES, *PROBED_DEVICES],
                "binary": asdict(self.identity),
                "host": asdict(_this_host()),
                "accelerator": self.requested,
            }
        )

    @property
    def binary(self) -> Path:
        return Path(self.identity.path)

    @property
    def name(self) -> str:
        return hashlib.sha256(self.key).hexdigest()[:32]

    async def answer(self) -> HostCapabilities:
        capabilities = await probe(self.binary)
        return HostCapabilities(capabilities, await choose(self.binary, self.requested))


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# A file is one JSON object; its first member is the checksum of all bytes behind it.
_HEAD: Final = b'{"sha256":"%s",'
_HEAD_BYTES: Final = len(_HEAD) - 2 + 64


def _pack(question: _Question, answer: HostCapabilities) -> bytes:
    content = {"capabilities": answer.capabilities.to_json(), "accelerator": answer.accelerator.to_json()}
    body = b'"key":%s,"content":%s}\n' % (question.key, _dump(content))
    return _HEAD % hashlib.sha256(body).hexdigest().encode() + body


def _unpack(question: _Question, data: bytes) -> HostCapabilities:
    """The answer in DATA.

    :raise ValueError: when DATA is damaged, of another version, or answers another question.
    """
    head, body = data[:_HEAD_BYTES], data[_HEAD_BYTES:]
    if head != _HEAD % hashlib.sha256(body).hexdigest().encode():
        raise ValueError("its checksum is wrong")
    if not body.startswith(b'"key":%s,' % question.key):
        raise ValueError("it answers another question")
    match json.loads(data):
        case {"content": {"capabilities": capabilities, "accelerator": accelerator}}:
            return HostCapabilities(Capabilities.from_json(capabilities), Accelerator.from_json(accelerator))
    raise ValueError("it has no content")


class ProbeCache:
    """The answers under one cache directory, each read at most once in a process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "capabilities"
        self._memory: dict[_Question, HostCapabilities] = {}
        # An asyncio.Lock belongs to its loop, and a process may have several, one after the other.
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Question, asyncio.Lock]] = WeakKeyDictionary()

    async def get(self, binary: Path, requested: Requested, log: Log = HOST) -> HostCapabilities:
        """The answer for BINARY on this host, from memory, from disk, or by probing.

        :raise SystemFailure: when BINARY is missing or not executable.
        :raise InternalError: when BINARY is no QEMU.
        :raise OperationUnsupported: when `kvm` is requested and not usable.
        :raise OperationTimeout: when another process has been probing for 120 s.
        """
        question = _Question(BinaryIdentity.of(binary), "tcg" if requested == "tcg" else "auto")
        answer = self._memory.get(question)
        if answer is None:
            async with self._gate(question):
                answer = self._memory.get(question) or await self._fetch(question, log)
                self._memory[question] = answer
        require(answer.accelerator, requested)
        return answer

    def _gate(self, question: _Question) -> asyncio.Lock:
        gates = self._gates.setdefault(asyncio.get_running_loop(), {})
        return gates.setdefault(question, asyncio.Lock())

    async def _fetch(self, question: _Question, log: Log) -> HostCapabilities:
        path = self.directory / f"{question.name}.json"
        with contextlib.suppress(OSError, ValueError):  # it is looked at again with the lock
            if answer := _stored(question, path):
                return answer
        try:
            make_private_directory(self.directory.parent)
            make_private_directory(self.directory)
            lock = filelock.FileLock(path.with_suffix(".lock"), mode=PRIVATE_FILE, thread_local=False)
            await _acquire(lock, question.binary)
        except OSError as error:
            _warn_unwritable(self.directory, error, log)
            return await question.answer()
        try:
            return _readable(question, path, log) or await _publish(question, path, log)
        finally:
            lock.release()


def _stored(question: _Question, path: Path) -> HostCapabilities | None:
    """The answer in PATH, if that is there.

    :raise OSError, ValueError: when it cannot be read, or is none.
    """
    try:
        return _unpack(question, path.read_bytes())
    except FileNotFoundError:
        return None


def _readable(question: _Question, path: Path, log: Log) -> HostCapabilities | None:
    """The answer in PATH, if it can be read; else it is set aside. Only for who has its lock."""
    try:
        return _stored(question, path)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s; it is kept as %s, and QEMU is probed anew", path, error, set_aside(path))
        return None


async def _publish(question: _Question, path: Path, log: Log) -> HostCapabilities:
    answer = await question.answer()
    _write(path, question.name, _pack(question, answer), log)
    return answer


def _write(path: Path, name: str, data: bytes, log: Log) -> None:
    if path.exists():  # it could not be set aside, and is not ours to overwrite
        return
    prefix = f"{HALF}{name}-"
    try:
        for half in path.parent.glob(f"{prefix}*"):  # we have the lock: who wrote it was killed
            half.unlink()
        write_atomically(path, data, prefix=prefix)
    except OSError as error:
        _warn_unwritable(path.parent, error, log)


async def _acquire(lock: filelock.BaseFileLock, binary: Path) -> None:
    """Take LOCK in a thread, so that the loop goes on meanwhile.

    :raise OSError: when the lock's file cannot be made.
    :raise OperationTimeout: when somebody else has it for 120 s.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LOCK_TIMEOUT_S
    while True:
        attempt = loop.run_in_executor(None, partial(lock.acquire, timeout=LOCK_SLICE_S))
        try:
            await asyncio.shield(attempt)
        except filelock.Timeout:
            if loop.time() >= deadline:
                raise OperationTimeout(
                    f"the capability probe of {binary} by {_holder(Path(lock.lock_file))} did not end "
                    f"within {LOCK_TIMEOUT_S:g} s; it holds {lock.lock_file}"
                ) from None
        except asyncio.CancelledError:
            attempt.add_done_callback(partial(_release_unwanted, lock))
            raise
        else:
            return


def _release_unwanted(lock: filelock.BaseFileLock, attempt: asyncio.Future[Any]) -> None:
    if not attempt.exception():
        lock.release()


def _holder(lock_file: Path) -> str:
    """Who holds LOCK_FILE, by the kernel's own list."""
    for pid in lock_holders(lock_file):
        with contextlib.suppress(OSError):
            return f"process {pid} ({command_of(pid)})"
    return "another process"  # it ended just now, or lives in another pid namespace


def _warn_unwritable(directory: Path, error: OSError, log: Log) -> None:
    """Say so, once in the life of this process."""
    global _warned
    if not _warned:
        _warned = True
        log.warning("the cache %s cannot be written, answers are kept in memory only: %s", directory, error)


def default_cache_dir() -> Path:
    """Where answers are kept unless told otherwise: $EMBEDVM_CACHE_DIR, or the user's cache directory."""
    asked = os.environ.get("EMBEDVM_CACHE_DIR")
    return Path(asked).expanduser() if asked else platformdirs.user_cache_path("pytest-embedvm")


@cache
def _cache(directory: Path) -> ProbeCache:
    return ProbeCache(directory)


async def host_capabilities(
    binary: Path, cache_dir: Path, requested_accel: Requested = "auto", log: Log = HOST
) -> HostCapabilities:
    """What BINARY can do on this host, kept under CACHE_DIR; must run on the loop thread.

    The first call on a host probes, under a lock that all processes share; every later one reads the result.
    A cache that cannot be written is replaced by memory, with one warning per process.

    :param log: of the root that wants to know.
    :raise SystemFailure: when BINARY is missing or not executable, in libvirt's words.
    :raise InternalError: when BINARY is no QEMU.
    :raise OperationUnsupported: when `kvm` is requested and not usable, with the reason.
    :raise OperationTimeout: when another process has been probing for 120 s; says which.
    """
    return await _cache(cache_dir).get(binary, requested_accel, log)
