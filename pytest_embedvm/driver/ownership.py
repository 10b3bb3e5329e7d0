"""Whom QEMU runs as, and what of this host it is given for as long as it runs (libvirt: security_dac.c)."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.argv import Launch
from pytest_embedvm.domain.media import needed_files
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.driver.config.config import Config
from pytest_embedvm.driver.loans import Loans
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import ConfigUnsupported, SystemFailure
from pytest_embedvm.qemu.confinement import Confinement, Identity
from pytest_embedvm.qemu.parts import KeyvalPart, ObjectPart, Scratch, SocketPlace

#: What QEMU reads of a directory of certificates (QEMU: crypto/tlscredsx509.c); not the authority's key.
_CERTIFICATES: Final = ("ca-cert.pem", "ca-crl.pem", "server-cert.pem", "server-key.pem", "dh-params.pem")

READ: Final = 4
WRITE: Final = 2
SEARCH: Final = 1


class Ownership:
    """Of one driver. Without a user in the configuration it gives and takes nothing."""

    def __init__(self, root: Root, config: Config) -> None:
        """:raise ConfigUnsupported: when a user is configured who is in no group, and no group."""
        self._root = root
        self._identity = _identity(config)
        self._dynamic = config.dynamic_ownership
        self._loans = Loans(root, remember=config.remember_owner)
        #: What every QEMU of the driver is started with.
        self.confinement = Confinement(
            identity=self._identity,
            max_processes=config.max_processes,
            max_files=config.max_files,
            max_core=config.max_core,
        )

    def admit(self) -> None:
        """Let QEMU's user through to what is in the root: it may search the directories, and not list them.

        :raise SystemFailure: when a directory above the root is closed to it: only its owner can open that.
        """
        if self._identity:
            self._check_way(self._root.path)
            self._open(self._root.path)

    def recover(self, alive: Collection[str]) -> None:
        """Take back what a driver that was killed had lent to machines that are not ALIVE."""
        self._loans.recover(alive)

    def adopt(self, machine: str, stack: contextlib.AsyncExitStack) -> None:
        """MACHINE is alive and was found at open, after `recover()`: what it was lent is taken back with STACK."""
        self._loans.adopt(machine, stack)

    def close(self) -> None:
        """The root is closed."""
        self._loans.close()

    def lend(self, launch: Launch, live: Domain, home: Path, stack: contextlib.AsyncExitStack) -> None:
        """Give what LIVE needs to QEMU's user, until STACK is unwound: what it may not open as it is, and no more.

        :param home: the machine's own directory.
        :raise SystemFailure: when a directory on the way is closed to that user, or the owner cannot be changed.
        """
        # libvirt: virSecurityDACSetAllLabel, which changes the owner of everything but what is shared
        if self._identity is None:
            return
        root = self._root.path
        _hand_over(home, self._identity)
        for path, needs in _opened(launch, live):
            inside = path.is_relative_to(root)
            for directory in _between(root, path) if inside else ():
                self._open(directory)
            self._check_way(path)
            if inside or self._dynamic:
                self._lend(path, needs, self._identity, live.name, stack)
        for descriptor in launch.descriptors:
            match descriptor.opens:
                case Scratch(file):  # reached through the descriptor, whatever the way to it
                    self._lend(Path(file), READ | WRITE, self._identity, live.name, stack)
                case SocketPlace(place) if Path(place).is_relative_to(root):
                    _hand_over(Path(place).parent, self._identity)

    def _lend(self, path: Path, needs: int, borrower: Identity, machine: str, stack: contextlib.AsyncExitStack) -> None:
        with contextlib.suppress(FileNotFoundError):  # QEMU makes it, or says so
            status = path.stat()
            if status in self._loans or not self._may(status, needs):
                self._loans.lend(path, borrower, machine, stack)

    def _may(self, status: os.stat_result, needs: int) -> bool:
        identity = self._identity
        if identity is None or identity.user == 0:
            return True
        if status.st_uid == identity.user:
            allowed = status.st_mode >> 6
        elif status.st_gid in (identity.group, *identity.groups):
            allowed = status.st_mode >> 3
        else:
            allowed = status.st_mode
        return allowed & needs == needs

    def _check_way(self, path: Path) -> None:
        for directory in reversed(Path(os.path.realpath(path)).parents):
            with contextlib.suppress(FileNotFoundError):
                if not self._may(directory.stat(), SEARCH):
                    raise SystemFailure(
                        f"QEMU's user {self._user} may not search directory '{directory}', in which '{path}' is",
                        origin=ErrorDomain.SECURITY,
                    )

    @property
    def _user(self) -> str:
        return f"{self._identity.user}:{self._identity.group}" if self._identity else ""

    def _open(self, directory: Path) -> None:
        """Let the user's group search a DIRECTORY of the root's."""
        status = directory.stat()
        if self._identity and not self._may(status, SEARCH):
            os.chown(directory, -1, self._identity.group)
            directory.chmod(stat.S_IMODE(status.st_mode) | 0o010)


def _hand_over(directory: Path, identity: Identity) -> None:
    """Make a DIRECTORY that is one machine's the user's."""
    os.chown(directory, identity.user, identity.group)


def _identity(config: Config) -> Identity | None:
    if config.user is None and config.group is None:
        return None
    user = os.geteuid() if config.user is None else config.user
    name: str | None = None
    group = config.group
    with contextlib.suppress(KeyError):
        entry = pwd.getpwuid(user)
        name, group = entry.pw_name, entry.pw_gid if group is None else group
    if group is None:
        raise ConfigUnsupported(f"user {user} is in no group; 'group' must be given", origin=ErrorDomain.CONF)
    if (user, group) == (os.geteuid(), os.getegid()):
        return None
    # libvirt: virGetGroupList
    return Identity(user, group, tuple(os.getgrouplist(name, group)) if name else (group,))


def _between(root: Path, path: Path) -> Iterator[Path]:
    """The directories from ROOT, itself included, down to the one PATH is in."""
    return (directory for directory in reversed(path.parents) if directory.is_relative_to(root))


def _opened(launch: Launch, live: Domain) -> Iterator[tuple[Path, int]]:
    """The files that QEMU is told to open by their paths, and what it does with them."""
    for image in needed_files(live):
        yield Path(image.path), READ | WRITE if image.writable else READ
    loader = live.os.loader
    for path in (live.os.kernel, live.os.initrd, loader.path if loader else None):
        if path:
            yield Path(path), READ
    if live.os.nvram and live.os.nvram.path:
        yield Path(live.os.nvram.path), READ | WRITE
    for part in launch.parts:
        if isinstance(part, KeyvalPart) and part.option == "-chardev":
            yield from ((Path(place), READ | WRITE) for place in _places(part))
        elif isinstance(part, ObjectPart) and part.props["qom-type"] == "secret" and "file" in part.props:
            yield Path(str(part.props["file"])), READ
        elif isinstance(part, ObjectPart) and part.props["qom-type"] == "tls-creds-x509":
            yield from ((Path(str(part.props["dir"]), name), READ) for name in _CERTIFICATES)


def _places(chardev: KeyvalPart) -> Iterator[str]:
    path, log = chardev.props.get("path"), chardev.props.get("logfile")
    if isinstance(path, str):
        yield from (f"{path}.in", f"{path}.out") if chardev.head == "pipe" else (path,)
    if isinstance(log, str):
        yield log
