"""A virtual root: its layout, its lock, its end."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pytest_embedvm.driver import logs
from pytest_embedvm.driver.restart import status
from pytest_embedvm.driver.roots import index, version
from pytest_embedvm.driver.roots.layout import CACHE_LINK, FROM_THE_START, OURS, PLACES, WRITTEN, Place, require_free
from pytest_embedvm.driver.roots.lock import Lock
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.files import HALF, PRIVATE_DIRECTORY, make_private_directory
from pytest_embedvm.logs import Log
from pytest_embedvm.qemu.cache import default_cache_dir

#: What holds the lock; libvirt: virQEMUDriverConfig's stateDir, and virPidFileAcquire's "driver"
PID_FILE: Final = "driver.pid"
FILE_NAME_BYTES: Final = 200


@functools.lru_cache(maxsize=1024)
def file_name(name: str) -> str:
    """NAME as one safe component of a path: not hidden, no separator, no control character, at most 200 bytes.

    Ordinary names stay as they are; two names never share a file name.
    """
    kept = "".join(
        c if c.isprintable() and c not in "/%" else quote(c, safe="", errors="surrogateescape") for c in name
    )
    if kept.startswith("."):
        kept = f"%2E{kept[1:]}"
    encoded = kept.encode(errors="surrogateescape")
    if len(encoded) <= FILE_NAME_BYTES:
        return kept
    digest = hashlib.sha256(encoded).hexdigest()[:32]
    # A lone % cannot stand in an ordinary name's spelling, so "%~" sets these apart.
    return f"{encoded[: FILE_NAME_BYTES - 40].decode(errors='ignore')}%~{digest}"


def _mounted() -> list[Path]:
    """Where file systems are mounted; where this host tells that."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except FileNotFoundError:
        return []
    # Linux: proc(5): spaces and their like are octal
    return [Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split()[4])) for line in lines]


def driver_socket(root: Path) -> Path:
    """Where the driver that has ROOT open listens."""
    return root / "run/qemu/driver.sock"


class Root:
    """A directory that holds everything of one driver, and the lock that makes it one process's own.

    The layout is libvirt's; every directory that is made is 0700.
    """

    def __init__(self, path: Path) -> None:
        """Take PATH, which is created if it is missing.

        :raise ConfigUnsupported: when it is the host's `/`, or a libvirt daemon's.
        :raise SystemFailure: when it cannot be made, or is no directory.
        """
        self.path = Path(os.path.realpath(path))
        require_free(self.path)
        try:
            make_private_directory(self.path)
            status = self.path.stat()
        except OSError as error:
            raise SystemFailure(f"cannot create directory {self.path}: {error.strerror}") from error
        #: The same for every spelling of one directory.
        self.identity = (status.st_dev, status.st_ino)
        #: Its name in logs; no other root of this process has it.
        self.label = logs.label(self.path)
        self.log = Log(self.label)
        self._lock = Lock(self.path.joinpath(*PLACES["run"], PID_FILE))

    @property
    def pid_file(self) -> Path:
        return self._lock.path

    @property
    def driver_socket(self) -> Path:
        """Where other processes find the driver that has it open."""
        return driver_socket(self.path)

    def directory(self, *parts: str) -> Path:
        """The directory PARTS below the root, made if it is missing.

        :raise SystemFailure: when it cannot be made, or a symbolic link would lead out of the root.
        """
        path = self.path
        try:
            make_private_directory(path)
            for part in parts:
                path /= part
                if path.is_symlink():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                path.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
        except OSError as error:
            raise SystemFailure(f"cannot create directory {path}: {error.strerror}") from error
        return path

    def place(self, place: Place) -> Path:
        """The directory of PLACE, made if it is missing.

        :raise SystemFailure: as `directory` does.
        """
        return self.directory(*PLACES[place])

    def log_path(self, name: str) -> Path:
        """Where the log of domain NAME is."""
        return self.place("log") / f"{file_name(name)}.log"

    def definition_path(self, name: str) -> Path:
        """Where the definition of persistent domain NAME is."""
        return self.place("config") / f"{file_name(name)}.xml"

    def pid_path(self, name: str) -> Path:
        """Where the process id of running domain NAME is."""
        path = self.place("run") / f"{file_name(name)}.pid"
        # No ordinary name is spelled with this: the lock is no machine's.
        return path.with_name(f"%64{PID_FILE[1:]}") if path == self.pid_file else path

    def status_path(self, name: str) -> Path:
        """Where it is on record that domain NAME runs."""
        return self.place("run") / f"{file_name(name)}.xml"

    def runtime_directory(self, domain_id: int, name: str) -> Path:
        """The directory of a running domain, gone when it stops."""
        # libvirt: qemuDomainSetPrivatePaths, virDomainDefGetShortName: "domain-ID-NAME", the name cut at 20
        return self.directory("lib", "qemu", f"domain-{domain_id}-{file_name(name[:20])}")

    def acquire(self) -> None:
        """Lock the root for this process, write down who has it, and make libvirt's directories.

        :raise ConfigUnsupported: when a newer version wrote it; nothing is touched then.
        :raise HeldInPassing: when somebody looks after it for a moment; see `locked`.
        :raise SystemFailure: when another process holds it; the sentence names that process.
        """
        known = version.check(self.path)
        self._take()
        try:
            for place in FROM_THE_START if known is None else ():
                self.place(place)
            self._sweep()
            self._link_cache()
            record = version.record(self.path)
        except BaseException:
            self._lock.release()
            raise
        index.register(self.path, record)
        self.log.info("is %s", self.path)

    def _take(self, *, passing: bool = False) -> None:
        if not self._lock.held:
            self.place("run")
            self._lock.acquire(passing=passing)

    def _sweep(self) -> None:
        """Remove what a killed process was writing: its file has not yet taken its name."""
        for place in WRITTEN:
            directory = self.path.joinpath(*PLACES[place])
            for half in (*directory.glob(f"{HALF}*"), *directory.glob(f"*/{HALF}*")):
                with contextlib.suppress(OSError):
                    half.unlink()

    def _link_cache(self) -> None:
        """Let the root's cache be the one that all roots share; one that libvirt made there stays."""
        link, shared = self.directory("cache") / Path(CACHE_LINK).name, default_cache_dir()
        with contextlib.suppress(OSError):  # it is only for those who look: the driver does not go this way
            if link.is_symlink() and link.readlink() != shared:
                link.unlink()
            link.symlink_to(shared)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._lock.held:
            index.close(self.path)
            self._lock.release()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock while the block runs, without becoming the root's owner.

        :raise ConfigUnsupported, SystemFailure: as `acquire()` does.
        """
        version.check(self.path)
        self._take(passing=True)
        try:
            version.check(self.path)  # a newer one may have had it until a moment ago
            yield
        finally:
            self._lock.release()

    def forget(self) -> None:
        """In a forked child: drop the copy of the lock, which stays the parent's."""
        self._lock.forget()

    def purge(self) -> None:
        """Remove what the driver made, and the root itself if nothing else is in it.

        :raise ConfigUnsupported: when a newer version wrote it.
        :raise SystemFailure: when the root is open, here or in another process, or a machine runs in it that is kept.
        """
        if self._lock.held:
            raise SystemFailure(f"cannot purge '{self.path}': it is open in this process")
        if not self.path.exists():
            index.forget(self.path)
            return
        with self.locked():
            self._require_empty()
            for place in OURS:
                self._clear(PLACES[place])
            link = self.path / CACHE_LINK
            if link.is_symlink() and not link.parent.is_symlink():
                link.unlink()
        index.forget(self.path)
        made = sorted({(), *(parts[:n] for parts in PLACES.values() for n in range(1, len(parts) + 1))}, key=len)
        for parts in reversed(made):
            with contextlib.suppress(OSError):  # not empty: what is in it is not ours
                self.path.joinpath(*parts).rmdir()

    def _require_empty(self) -> None:
        for mounted in _mounted():
            if mounted.is_relative_to(self.path):
                raise SystemFailure(f"cannot purge '{self.path}': a file system is mounted at '{mounted}'")
        for record in status.machines_of(self.path):
            if record.kept and record.process:
                raise SystemFailure(
                    f"cannot purge '{self.path}': domain '{record.name}' still runs in it, kept as process "
                    f"{record.process.pid}; open the root and destroy it"
                )

    def _clear(self, parts: tuple[str, ...]) -> None:
        """Empty the directory PARTS, but for the lock; a symbolic link on the way is not followed."""
        above = [self.path.joinpath(*parts[: n + 1]) for n in range(len(parts))]
        if any(path.is_symlink() for path in above) or not above[-1].is_dir():
            return
        for path in above[-1].iterdir():
            if path == self.pid_file:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
