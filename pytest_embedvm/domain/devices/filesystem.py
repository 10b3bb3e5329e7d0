"""`<filesystem>`: a directory of the host's that the guest mounts, by 9p or by virtiofs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.virtio import VirtioOptions, given, pci_bus, pci_driver
from pytest_embedvm.domain.devices._base import Bus, Context, Device, PciTurn
from pytest_embedvm.errors import ConfigUnsupported, MissingSource, MissingTarget, XMLError
from pytest_embedvm.qemu.parts import Companion, Descriptor, DevicePart, Json, KeyvalPart, Part
from pytest_embedvm.xml.mapping import At, Present
from pytest_embedvm.xml.scalars import Offered, OnOff, Refusal, Unsigned

#: libvirt: qemuBuildFSStr
_SECURITY: Final = {"passthrough": "passthrough", "mapped": "mapped", "squash": "none"}
_TYPE: Final = Offered(
    ("mount",),
    {
        kind: f"filesystem type '{kind}' is not supported by this driver"
        for kind in ("block", "file", "template", "ram", "bind", "volume")
    },
    Refusal("unknown filesystem type '{}'", ConfigUnsupported),
)
_DRIVER: Final = Offered(
    ("path", "virtiofs"),
    {
        kind: f"filesystem driver type '{kind}' is not supported by this driver"
        for kind in ("handle", "loop", "nbd", "ploop", "mtp")
    },
)
_OCTAL_LIMIT: Final = 0o7777


@dataclass(kw_only=True)
class FilesystemDriver(VirtioOptions):
    """`<driver type='virtiofs' queue='1024'/>`."""

    type: Annotated[str | None, _DRIVER] = None
    wrpolicy: Literal["immediate"] | None = None
    queue: Annotated[int | None, Unsigned()] = None


@dataclass(kw_only=True)
class Binary:
    """`<binary path='/usr/libexec/virtiofsd' xattr='on'>`: the program that is virtiofs, and its options."""

    path: str | None = None
    xattr: Annotated[bool | None, OnOff()] = None
    cache: Annotated[Literal["none", "always"] | None, At("cache/@mode")] = None
    sandbox: Annotated[Literal["namespace", "chroot"] | None, At("sandbox/@mode")] = None
    posix_lock: Annotated[bool | None, At("lock/@posix"), OnOff()] = None
    flock: Annotated[bool | None, At("lock/@flock"), OnOff()] = None
    thread_pool: Annotated[int | None, At("thread_pool/@size"), Unsigned()] = None


@dataclass(kw_only=True)
class Filesystem(Device):
    alias_prefix: ClassVar[str] = "fs"

    type: Annotated[str, _TYPE] = "mount"
    accessmode: Literal["passthrough", "mapped", "squash"] | None = None
    fmode: str | None = None
    dmode: str | None = None
    model: Literal["virtio", "virtio-transitional", "virtio-non-transitional"] | None = None
    multidevs: Literal["default", "remap", "forbid", "warn"] | None = None
    driver: FilesystemDriver | None = None
    binary: Binary | None = None
    source: Annotated[str | None, At("source/@dir")] = None
    target: Annotated[str | None, At("target/@dir")] = None
    readonly: Annotated[bool, Present()] = False

    @property
    def is_virtiofs(self) -> bool:
        return self.driver is not None and self.driver.type == "virtiofs"

    @property
    def bus(self) -> Bus:
        return pci_bus(self.model)

    @property
    def pci_turn(self) -> PciTurn:
        return PciTurn.FILESYSTEM

    def complete(self, context: Context) -> None:
        if self.multidevs == "default":
            self.multidevs = None
        # libvirt: virDomainFSDefPostParse
        self.accessmode = self.accessmode or "passthrough"

    def check(self, context: Context) -> None:
        # libvirt: virDomainFSDefParseXML
        if not self.source:
            raise MissingSource(self.target or "")
        if not self.target:
            raise MissingTarget(self.source)
        if not self.source.startswith("/"):
            raise ConfigUnsupported(f"the directory of a filesystem must be an absolute path: '{self.source}'")
        self._check_modes()
        if self.is_virtiofs:
            self._check_virtiofs(context)
        elif self.binary is not None:
            raise ConfigUnsupported("<binary> of <filesystem> is for the driver type 'virtiofs'")

    def _check_modes(self) -> None:
        for name in ("fmode", "dmode"):
            mode = getattr(self, name)
            if mode is None:
                continue
            if not (mode.isascii() and mode.isdigit()) or set(mode) & {"8", "9"} or int(mode, 8) > _OCTAL_LIMIT:
                raise XMLError(
                    f"Invalid value for attribute '{name}' in element 'filesystem': '{mode}'. "
                    "Expected non-negative integer value"
                )
            if self.accessmode != "mapped":
                # libvirt: qemuValidateDomainDeviceDefFS
                raise ConfigUnsupported("fmode and dmode must be used with accessmode=mapped", origin=ErrorDomain.QEMU)

    def _check_virtiofs(self, context: Context) -> None:
        # libvirt: qemuValidateDomainDeviceDefFS, qemuValidateDomainDefVirtioFSSharedMemory
        if self.readonly:
            raise ConfigUnsupported("virtiofs does not yet support read-only mode", origin=ErrorDomain.QEMU)
        if self.accessmode != "passthrough":
            raise ConfigUnsupported("virtiofs only supports passthrough accessmode", origin=ErrorDomain.QEMU)
        if "," in (self.source or "") or "\\" in (self.source or ""):
            raise ConfigUnsupported(f"virtiofsd takes no directory with ',' or '\\' in its path: '{self.source}'")
        if self.driver and self.driver.wrpolicy:
            raise ConfigUnsupported("virtiofs does not support wrpolicy", origin=ErrorDomain.QEMU)
        if self.multidevs:
            raise ConfigUnsupported("virtiofs does not support multidevs", origin=ErrorDomain.QEMU)
        backing = context.domain.memory_backing
        if backing is None or backing.access != "shared":
            raise ConfigUnsupported("'virtiofs' requires shared memory", origin=ErrorDomain.QEMU)
        context.capabilities.require_device("vhost-user-fs-pci")

    def clone_obstacle(self) -> str | None:
        # A directory that is shared by 9p is in the guest's way only while it is mounted, which QEMU knows.
        return (
            f"QEMU cannot save the state of directory '{self.target}', shared by virtiofs" if self.is_virtiofs else None
        )

    def parts(self, context: Context) -> Iterable[Part]:
        return self._virtiofs(context) if self.is_virtiofs else self._9p(context)

    def _9p(self, context: Context) -> Iterator[Part]:
        # libvirt: qemuBuildFSStr, qemuBuildFSDevCmd
        props: dict[str, Json] = {"security_model": _SECURITY[self.accessmode or "passthrough"]}
        props |= given({"multidevs": self.multidevs, "fmode": _octal(self.fmode), "dmode": _octal(self.dmode)})
        if self.driver and self.driver.wrpolicy:
            props["writeout"] = self.driver.wrpolicy
        props |= {"id": f"fsdev-{self.id}", "path": self.source}
        if self.readonly:
            props["readonly"] = True
        yield KeyvalPart("-fsdev", "local", props)
        device: dict[str, Json] = {"driver": pci_driver("virtio-9p", self.model or ""), **self._virtio_props()}
        device |= {"id": self.id, "fsdev": f"fsdev-{self.id}", "mount_tag": self.target}
        yield DevicePart(device | self.place(context))

    def _virtiofs(self, context: Context) -> Iterator[Part]:
        # libvirt: qemuBuildVHostUserFsDevCmd
        name = f"chr-vu-{self.id}"
        program = self.binary.path if self.binary and self.binary.path else context.host.virtiofsd()
        argv = (program, "--fd={fd}", "-o", self._options(), "-f", *self._threads())
        end = Descriptor(name, Companion(f"virtiofsd of {self.id}", argv, listens=True))
        yield KeyvalPart("-chardev", "socket", {"id": name, "fd": end})
        device: dict[str, Json] = {"driver": pci_driver("vhost-user-fs", self.model or ""), **self._virtio_props()}
        device |= given({"id": self.id, "chardev": name, "queue-size": self.driver.queue if self.driver else None})
        yield DevicePart(device | {"tag": self.target} | self.place(context))

    def _options(self) -> str:
        """What virtiofsd is told (libvirt: qemuVirtioFSBuildCommandLine)."""
        words = [f"source={self.source}"]
        binary = self.binary or Binary()
        if binary.cache:
            words.append(f"cache={binary.cache}")
        if binary.sandbox:
            words.append(f"sandbox={binary.sandbox}")
        for name, value in (("xattr", binary.xattr), ("flock", binary.flock), ("posix_lock", binary.posix_lock)):
            if value is not None:
                words.append(name if value else f"no_{name}")
        return ",".join(words)

    def _threads(self) -> Iterator[str]:
        if self.binary and self.binary.thread_pool is not None:
            yield f"--thread-pool-size={self.binary.thread_pool}"

    def _virtio_props(self) -> dict[str, Json]:
        return self.driver.virtio_props() if self.driver else {}


def _octal(mode: str | None) -> str | None:
    """MODE as libvirt writes it: four octal digits."""
    return None if mode is None else f"{int(mode, 8):04o}"
