"""How many VMs may live on this host at once: slots, which all workers and runs of this user share.

Each slot is a record in one file, and who has it holds a lock on that record, which the kernel frees when its holder
dies. Who finds none free draws a number, a lock as well, and the lowest number that is held is next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pytest_embedvm.driver.roots.lock import FLOCK
from pytest_embedvm.errors import OperationFailed, OperationTimeout, SystemFailure
from pytest_embedvm.files import PRIVATE_FILE, make_private_directory
from pytest_embedvm.guest.wait import Deadline
from pytest_embedvm.inotify import CLOSE_WRITE, MODIFY, Inotify
from pytest_embedvm.plugin import memory
from pytest_embedvm.plugin.settings import Settings
from pytest_embedvm.qemu.cache import default_cache_dir

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: Another test may be long.
SLOT_TIMEOUT_S: Final = 1800.0
#: Between two looks while the kernel tells nothing: a file system may be one of which it does not tell all.
LOOK_S: Final = 0.5
#: When somebody dies, the kernel tells of the closed file a moment before it lets the lock go.
AFTERWARDS_S: Final = 0.01

#: What a VM takes: a clone some 40 MiB, one that boots most of what it was promised.
VM_BYTES: Final = 128 * memory.MIB
#: So many a small host has to bear.
LEAST: Final = 4

_RECORD: Final = 2048
_LONGEST_OWNER: Final = 120
_ADVICE: Final = "Allow more by --embedvm-max-vms, or run fewer tests at once"


@dataclass
class Holder:
    """Who has a slot, as it stands in the slot's record."""

    pid: int
    owner: str
    #: Prepared ahead for a test that has not begun: given up for whoever waits.
    spare: bool = False
    #: The number that its process has drawn for one more slot, 0 for none.
    waiting: int = 0

    def encode(self) -> bytes:
        return json.dumps({**asdict(self), "owner": self.owner[-_LONGEST_OWNER:]}).encode().ljust(_RECORD)

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """None where nothing is written yet."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError):
            return None


class Slot:
    """One VM's place, until `release`, or until this process dies."""

    def __init__(self, descriptor: int, number: int, holder: Holder, held: set[Slot]) -> None:
        """:param descriptor: has the lock on record NUMBER; this one's from now on.
        :param held: has this one in it as long as that is so.
        """
        self._descriptor = descriptor
        self._number = number
        self._holder = holder
        self._held = held
        self._write()
        held.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def give(self, owner: str) -> None:
        """It is OWNER's from now on, and no spare one."""
        self._holder.owner, self._holder.spare = owner, False
        self._write()

    def say_waiting(self, number: int) -> None:
        """Its process waits with NUMBER, or with 0 no more."""
        self._holder.waiting = number
        self._write()

    def _write(self) -> None:
        if self._holder.pid == os.getpid():
            os.pwrite(self._descriptor, self._holder.encode(), self._number * _RECORD)

    def release(self) -> None:
        """Give it back; a second call does nothing, nor does one in a forked child: it stays the parent's."""
        if self in self._held and self._holder.pid == os.getpid():
            self._held.discard(self)
            _set(self._descriptor, fcntl.F_UNLCK, self._number * _RECORD)
            _close(self._descriptor)


class Slots:
    """The slots in FOLDER, of which this process takes one of the first LIMIT."""

    def __init__(self, folder: Path, limit: int) -> None:
        """:raise SystemFailure: when FOLDER cannot be written."""
        self.limit = limit
        self._slots = folder / "slots"
        self._queue = folder / "queue"
        self._held: set[Slot] = set()
        try:
            make_private_directory(folder)
            for path in (self._slots, self._queue):
                with _opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
                    _is_held(descriptor, 0, 1)  # a kernel without locks of open files says so
        except OSError as error:
            raise SystemFailure(f"the VMs of this host cannot be counted in '{folder}': {error.strerror}") from error

    def take(self, *, owner: str, timeout: float = SLOT_TIMEOUT_S) -> Slot:
        """A slot for OWNER, in the order of those who ask.

        :param timeout: seconds to wait for one.
        :raise OperationTimeout: when none became free; says who has them.
        :raise OperationFailed: when none ever will: each is held by somebody who himself waits for one more.
        """
        return self.take_now(owner=owner) or self._wait(owner, Deadline(timeout))

    def take_now(self, *, owner: str, spare: bool = False) -> Slot | None:
        """A slot, if one is free and nobody waits for it."""
        return None if self.waiting() else self._free(Holder(os.getpid(), owner, spare))

    def waiting(self) -> bool:
        """Whether somebody waits for a slot."""
        with _opened(self._queue) as queue:
            return _is_held(queue, 1, 0)

    def watch(self) -> Inotify:
        """Something that can be waited for, and tells when somebody may have begun to wait.

        :raise OSError: when the kernel has none to give.
        """
        return Inotify(MODIFY, self._queue)

    def holders(self) -> list[Holder]:
        """Who has slots now, by the slots' numbers."""
        with _opened(self._slots) as slots:
            numbers = range(max(self.limit, os.fstat(slots).st_size // _RECORD))
            held = [number for number in numbers if _is_held(slots, number * _RECORD, 1)]
            read = (Holder.decode(os.pread(slots, _RECORD, number * _RECORD)) for number in held)
            return [holder or Holder(0, "somebody who has just taken it") for holder in read]

    def _free(self, holder: Holder) -> Slot | None:
        with _opened(self._slots) as slots:
            free = [number for number in range(self.limit) if not _is_held(slots, number * _RECORD, 1)]
        if not free:
            return None
        descriptor = _open(self._slots, os.O_RDWR)
        for number in free:
            if _set(descriptor, fcntl.F_WRLCK, number * _RECORD):
                return Slot(descriptor, number, holder, self._held)
        _close(descriptor)
        return None

    def _wait(self, owner: str, deadline: Deadline) -> Slot:
        with self._number() as (queue, number), Inotify(CLOSE_WRITE, self._slots, self._queue) as changes:
            self._say_waiting(number)
            try:
                pause = LOOK_S
                while True:
                    first = number == 1 or not _is_held(queue, 1, number - 1)
                    if first and (slot := self._free(Holder(os.getpid(), owner))):
                        return slot
                    self._require_hope(number)
                    if not deadline.remaining:
                        raise OperationTimeout(f"{self._taken()}; waited for {deadline.seconds:g} s. {_ADVICE}")
                    pause = AFTERWARDS_S if changes.wait(min(pause, deadline.remaining)) else LOOK_S
            finally:
                self._say_waiting(0)

    @contextlib.contextmanager
    def _number(self) -> Iterator[tuple[int, int]]:
        """Draw a number: a descriptor that has the lock on it, and the number."""
        with _opened(self._queue, os.O_RDWR) as queue:
            number = int(os.pread(queue, 20, 0) or b"0") + 1
            while not _set(queue, fcntl.F_WRLCK, number):
                number += 1
            os.pwrite(queue, b"%020d" % number, 0)
            try:
                yield queue, number
            finally:
                _set(queue, fcntl.F_UNLCK, number)

    def _say_waiting(self, number: int) -> None:
        for slot in tuple(self._held):
            slot.say_waiting(number)

    def _require_hope(self, number: int) -> None:
        """Of those who have slots and wait for more, the one that came last gives up if there is nobody else."""
        holders = self.holders()
        if (
            len(holders) >= self.limit
            and all(holder.waiting and not holder.spare for holder in holders)
            and max(holder.waiting for holder in holders) == number
        ):
            hopeless = "each of them waits for one more, so none will ever be free"
            raise OperationFailed(f"{self._taken()}; {hopeless}. {_ADVICE}")

    def _taken(self) -> str:
        holders = self.holders()
        counted = Counter((holder.owner, holder.pid) for holder in holders)
        who = ", ".join(f"{count} by {owner} (process {pid})" for (owner, pid), count in counted.items())
        return f"no further VM may be started: of the {self.limit} that may live at once, {len(holders)} do: {who}"


def default_limit() -> int:
    """How many VMs this host has memory for."""
    return max(LEAST, memory.total() // VM_BYTES)


#: Those that this process counts in, by folder and limit.
_known: Final[dict[tuple[Path, int], Slots | None]] = {}


def slots_of(settings: Settings) -> Slots | None:
    """The slots of all runs with this cache; None, with one warning, where they cannot be had."""
    place = (default_cache_dir() / "slots", settings.max_vms or default_limit())
    if place not in _known:
        try:
            _known[place] = Slots(*place)
        except SystemFailure as error:
            warnings.warn(error.message, stacklevel=2)
            _known[place] = None
    return _known[place]


@contextlib.contextmanager
def _opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """To read, mostly: the kernel tells those who wait whenever one is closed that could be written."""
    descriptor = _open(path, flags)
    try:
        yield descriptor
    finally:
        _close(descriptor)


#: Those of this process: a forked child closes its copies, or it would hold what its parent dies with.
_descriptors: Final[set[int]] = set()


def _open(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
    _descriptors.add(descriptor)
    return descriptor


def _close(descriptor: int) -> None:
    _descriptors.discard(descriptor)
    os.close(descriptor)


def _forget_in_child() -> None:
    while _descriptors:
        os.close(_descriptors.pop())


os.register_at_fork(after_in_child=_forget_in_child)


def _set(descriptor: int, kind: int, start: int) -> bool:
    """Lock the byte START, or unlock it; False when another has it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, start, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_held(descriptor: int, start: int, length: int) -> bool:
    """Whether another has a lock on one of LENGTH bytes from START on; 0 bytes are all of them."""
    asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind: int = FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))[0]
    return kind != fcntl.F_UNLCK
