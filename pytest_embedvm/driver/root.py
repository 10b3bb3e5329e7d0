"""A virtual root: its layout, its lock, its end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.files import PRIVATE_DIRECTORY, PRIVATE_FILE, make_private_directory

#: What the driver may create below a root, and what `purge` removes: TOPS/qemu.
TOPS: Final = ("etc", "lib", "log", "run")
FILE_NAME_BYTES: Final = 200


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


def driver_socket(root: Path) -> Path:
    """Where the driver that has ROOT open listens."""
    return root / "run/qemu/driver.sock"


class Root:
    """A directory that holds everything of one driver, and the lock that makes it one process's own.

    The layout is libvirt's. A directory comes into being, 0700, when something is to be put there.
    """

    def __init__(self, path: Path) -> None:
        """Take PATH, which is created if it is missing.

        :raise SystemFailure: when it cannot be made, or is no directory.
        """
        self.path = Path(os.path.realpath(path))
        try:
            make_private_directory(self.path)
            status = self.path.stat()
        except OSError as error:
            raise SystemFailure(f"cannot create directory {self.path}: {error.strerror}") from error
        #: The same for every spelling of one directory.
        self.identity = (status.st_dev, status.st_ino)
        self._lock: int | None = None

    @property
    def pid_file(self) -> Path:
        return self.path / "run/qemu/driver.pid"

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

    def log_path(self, name: str) -> Path:
        """Where the log of domain NAME is."""
        return self.directory("log", "qemu") / f"{file_name(name)}.log"

    def definition_path(self, name: str) -> Path:
        """Where the definition of persistent domain NAME is."""
        return self.directory("etc", "qemu") / f"{file_name(name)}.xml"

    def pid_path(self, name: str) -> Path:
        """Where the process id of running domain NAME is."""
        return self.directory("run", "qemu") / f"{file_name(name)}.pid"

    def runtime_directory(self, domain_id: int, name: str) -> Path:
        """The directory of a running domain, gone when it stops."""
        # libvirt: qemuDomainSetPrivatePaths, virDomainDefGetShortName: "domain-ID-NAME", the name cut at 20
        return self.directory("lib", "qemu", f"domain-{domain_id}-{file_name(name[:20])}")

    def acquire(self) -> None:
        """Lock the root for this process, and write the process's id where libvirt does.

        :raise SystemFailure: when another process holds it; the sentence names that process.
        """
        self.directory("run", "qemu")
        while self._lock is None:
            descriptor = self._locked_descriptor()
            if _still_there(descriptor, self.pid_file):
                self._lock = descriptor
            else:  # its holder removed it between our open and our lock
                os.close(descriptor)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _locked_descriptor(self) -> int:
        descriptor = -1
        try:
            descriptor = os.open(self.pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # libvirt: virPidFileAcquirePath; the holder is our addition
            holder = "" if descriptor < 0 else f" (held by process {os.pread(descriptor, 32, 0).decode().strip()})"
            if descriptor >= 0:
                os.close(descriptor)
            raise SystemFailure(f"Failed to acquire pid file '{self.pid_file}': {error.strerror}{holder}") from error
        return descriptor

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._lock is None:
            return
        self.pid_file.unlink(missing_ok=True)
        # A forked child may hold a copy of the descriptor: closing ours alone would not unlock.
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        self.forget()

    def forget(self) -> None:
        """In a forked child: drop the copy of the lock, which stays the parent's."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def purge(self) -> None:
        """Remove what the driver made, and the root itself if nothing else is in it.

        :raise SystemFailure: when the root is open, here or in another process.
        """
        if self._lock is not None:
            raise SystemFailure(f"cannot purge '{self.path}': it is open in this process")
        if not self.path.exists():
            return
        self.acquire()
        try:
            for top in TOPS:
                if not (self.path / top).is_symlink():
                    shutil.rmtree(self.path / top / "qemu", ignore_errors=True)
        finally:
            self.release()
        for directory in (*(self.path / top for top in TOPS), self.path):
            with contextlib.suppress(OSError):  # not empty: what is in it is not ours
                directory.rmdir()


def _still_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
