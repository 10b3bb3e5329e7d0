"""`<disk>`: hard disks, CD-ROM and floppy drives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Self, cast

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses import drive
from pytest_embedvm.domain.addresses.disk_names import bus_of, disk_index
from pytest_embedvm.domain.addresses.shapes import DriveAddress
from pytest_embedvm.domain.backends.blockdev import CACHE_MODES, CacheMode, nodes
from pytest_embedvm.domain.backends.boot_order import BootOrder
from pytest_embedvm.domain.backends.encryption import Encryption
from pytest_embedvm.domain.backends.source import (
    SOURCE_TYPE,
    WITH_BACKING,
    BackingStore,
    Chain,
    NeededFile,
    Source,
    chain,
    complete_encryption,
    links,
)
from pytest_embedvm.domain.backends.virtio import given, pci_bus, pci_driver
from pytest_embedvm.domain.devices import _disk_plugging, _disk_update
from pytest_embedvm.domain.devices._base import BootClass, Bus, Context, Device, PciTurn
from pytest_embedvm.domain.devices._controller_models import PLUGGED_SCSI
from pytest_embedvm.domain.devices._disk_checks import check_disk, clone_obstacle
from pytest_embedvm.domain.devices._disk_elements import BlockIo, DiskBus, Driver, Geometry, Target
from pytest_embedvm.domain.devices.controller import Controller
from pytest_embedvm.errors import MissingTarget, XMLError
from pytest_embedvm.qemu.parts import BlockdevPart, DevicePart, Json, Part
from pytest_embedvm.xml.mapping import At, Present


@dataclass(kw_only=True)
class Disk(Device):
    alias_prefix: ClassVar[str] = "disk"
    pluggable: ClassVar[bool] = True
    configurable: ClassVar[bool] = True
    changeable: ClassVar[bool] = True

    type: Annotated[str, SOURCE_TYPE] = "file"
    device: Literal["disk", "lun", "cdrom", "floppy"] = "disk"
    model: Literal["virtio", "virtio-transitional", "virtio-non-transitional"] | None = None
    driver: Driver = field(default_factory=Driver)
    source: Source | None = None
    backing: Annotated[BackingStore | None, At("backingStore")] = None
    geometry: Geometry | None = None
    blockio: BlockIo | None = None
    target: Target = field(default_factory=Target)
    readonly: Annotated[bool, Present()] = False
    shareable: Annotated[bool, Present()] = False
    serial: Annotated[str | None, At("serial")] = None
    wwn: Annotated[str | None, At("wwn")] = None
    vendor: Annotated[str | None, At("vendor")] = None
    product: Annotated[str | None, At("product")] = None
    encryption: Encryption | None = None
    boot: BootOrder | None = None
    #: Whether its SCSI controller has a narrow bus, of which libvirt names places otherwise.
    narrow: bool = field(default=True, metadata={"xml": False})

    @property
    def path(self) -> str | None:
        """The path of its image or device; None for an empty drive."""
        return self.source.path(self.type) if self.source else None

    @property
    def dev(self) -> str:
        """The name that stands for it: `vda`."""
        return self.target.dev or ""

    @property
    def removable_medium(self) -> bool:
        """Whether it is a drive that may be empty."""
        return self.device in ("cdrom", "floppy")

    @property
    def bus(self) -> Bus | None:
        match self.target.bus:
            case "virtio":
                return pci_bus(self.model)
            case "usb":
                return "usb"
            case "ide" | "sata" | "scsi" | "fdc":
                return "drive"
            case _:
                return None

    @property
    def boot_class(self) -> BootClass | None:
        classes: dict[str, BootClass] = {"disk": "hd", "lun": "hd", "cdrom": "cdrom", "floppy": "fd"}
        return classes[self.device]

    @property
    def own_boot_order(self) -> int | None:
        return self.boot.order if self.boot else None

    def arrange(self, devices: list[Device]) -> None:
        """Stand before those of the same bus whose names come later."""
        # libvirt: virDomainDiskInsert; it does not guess the bus yet, so that the order, and with it the disk that
        # is booted, may change when it reads back what it wrote
        same = [i for i, d in enumerate(devices) if isinstance(d, Disk) and d._completed_bus() == self._completed_bus()]
        later = [i for i in same if _order(devices[i]) > _order(self)]
        devices.insert(later[0] if later else same[-1] + 1 if same else len(devices), self)

    def complete(self, context: Context) -> None:
        if not self.target.dev:
            raise MissingTarget(self.path or "")
        self.driver.complete()
        self.serial = self.serial or None
        complete_encryption(self.encryption, self.source, self.backing)
        if self.source is None or not self.source.is_given(self.type):
            self.type, self.source = "file", None  # libvirt: virDomainDiskDefParseXML's empty drive
        self.target.bus = self._completed_bus()
        self.readonly = self.readonly or self.device == "cdrom"  # libvirt: virDomainDiskDefPostParse
        self._complete_address(context)

    def _completed_bus(self) -> DiskBus | None:
        if self.target.bus or self.device == "floppy":
            return self.target.bus or "fdc"
        buses: dict[str | None, DiskBus] = {b: b for b in ("ide", "fdc", "scsi", "virtio", "xen", "uml")}
        return buses.get(bus_of(self.dev))

    def _complete_address(self, context: Context) -> None:
        index = disk_index(self.dev)
        if self.address is None and index is None:
            # libvirt: virDomainDiskDefAssignAddress
            raise XMLError(f"Unknown disk name '{self.dev}' and no address specified", origin=ErrorDomain.DOMAIN)
        match self.target.bus:
            case "ide" | "sata" | "scsi" | "fdc" as bus if self.address is None and index is not None:
                self.address = drive.address(bus, index)
        if self.target.bus == "scsi" and isinstance(self.address, DriveAddress):
            self.narrow = _is_narrow(context, self.address.controller)

    @property
    def pci_turn(self) -> PciTurn:
        return PciTurn.DISK

    def check(self, context: Context) -> None:
        check_disk(self, _disks(context.domain.devices.all))

    def settle(self, context: Context) -> None:
        """Number the nodes: libvirt counts from the last disk, and an empty drive counts."""
        self.number_nodes(context.domain.devices.all)

    def missing_volumes(self) -> Iterable[Source]:
        images = [(self.type, self.source), *((link.type, link.source) for link in self._links())]
        return [source for kind, source in images if kind == "volume" and source and not source.found]

    def number_nodes(self, devices: list[Device]) -> None:
        disks = _disks(devices)
        after = disks[next(i for i, disk in enumerate(disks) if disk is self) + 1 :]
        number = 1 + sum(disk._length() for disk in after)
        if self.source:
            self.source.index = number
        for link in self._links():
            number += 1
            link.index = number

    @property
    def last_node(self) -> int:
        numbers = [self.source.index if self.source else None, *(link.index for link in self._links())]
        return max((number for number in numbers if number is not None), default=0)

    @property
    def top_node(self) -> str | None:
        if self.source is None:
            return None
        return f"libvirt-CoR-{self.dev}" if self.driver.copy_on_read else self._chain().images[0].format_node

    def renumber_nodes(self, after: int) -> None:
        if self.source:
            self.source.index = after + 1
        for number, link in enumerate(self._links(), after + 2):
            link.index = number

    def check_plug(self) -> None:
        _disk_plugging.check_plug(self)

    def check_unplug(self, others: Iterable[Device]) -> None:
        _disk_plugging.check_unplug(self)

    def check_addition(self, others: Iterable[Device], *, live: bool) -> None:
        _disk_plugging.check_addition(self, _disks(others), live=live)

    def find(self, others: Iterable[Device], *, live: bool) -> Device:
        return _disk_plugging.find(self, _disks(others), live=live)

    def redefined(self, described: Self) -> Self:
        new = super().redefined(described)
        if described.address is None and described._completed_bus() != self.target.bus:
            new.address = None  # it was one on another bus
        return new

    def updated(self, described: Self) -> Self:
        return cast("Self", _disk_update.updated(self, described))

    def has_medium_of(self, other: Self) -> bool:
        return (self.path, self.driver.type) == (other.path, other.driver.type)

    def learn_tray(self, *, is_open: bool) -> None:
        self.target.tray = "open" if is_open else None

    def forget_live(self) -> None:
        if self.source:
            self.source.index = self.source.found = None
        if self.backing and self.backing.detected:
            self.backing = None
        for link in self._links():
            link.index = None
            if link.source:
                link.source.found = None
            if link.below and link.below.detected:
                link.below = None

    def has_node(self, name: str) -> bool:
        nodes = ((image.storage_node, image.format_node) for image in self._chain().images)
        return self.source is not None and any(name in pair for pair in nodes)

    def learn_backing(self, below: BackingStore) -> None:
        last = next(reversed(list(self._links())), None)
        if last is None:
            self.backing = below
        else:
            last.below = below

    def _links(self) -> Iterator[BackingStore]:
        return (link for link in links(self.backing) if link.type is not None)

    def _length(self) -> int:
        return 1 + sum(1 for _ in self._links())

    def needed_controllers(self) -> Iterable[tuple[str, int]]:
        if self.bus == "drive" and isinstance(self.address, DriveAddress):
            yield self.target.bus or "", self.address.controller

    def own_alias(self, number: int) -> str:
        # libvirt: qemuAssignDeviceDiskAlias; a number of its own only where two disks would have one alias
        place = self.address if isinstance(self.address, DriveAddress) else None
        if place is None:
            index = disk_index(self.dev)
            alias = f"{self.target.bus}-disk{'' if index is None else index}"
        elif self.target.bus == "scsi" and not self.narrow:
            alias = f"scsi{place.controller}-{place.bus}-{place.target}-{place.unit}"
        else:
            alias = f"{self.target.bus}{place.controller}-{place.bus}-{place.unit}"
        return f"{alias}-{number}" if number else alias

    def needed_files(self) -> Iterable[NeededFile]:
        if self.source is None:
            return
        images = self._chain().images
        for image in images:
            top, last = image is images[0], image is images[-1]
            yield NeededFile(
                image.path,
                image.kind,
                image.format,
                self.dev,
                writable=top and not self.readonly,
                policy=self.source.startup_policy if top else None,
                open_ended=last and image.format in WITH_BACKING and not self._chain().ends,
            )

    def without_medium(self) -> Device | None:
        if not self.removable_medium:
            return None
        self.source = self.backing = None
        return self

    def clone_obstacle(self) -> str | None:
        encrypted = any(image.encryption for image in self._chain().images)
        return clone_obstacle(self, self.written_image(), encrypted=encrypted)

    def written_image(self) -> NeededFile | None:
        return next((file for file in self.needed_files() if file.writable), None)

    def write_to(self, path: str) -> None:
        self.type, self.source, self.backing = "file", Source(file=path), None
        self.driver.type = "qcow2"

    def _chain(self) -> Chain:
        return chain(self.type, self.driver.type or "raw", self.source or Source(), self.backing, self.encryption)

    @property
    def _cache(self) -> CacheMode | None:
        word = self.driver.cache
        if word is None and self.shareable and not self.readonly:
            word = "none"  # libvirt: qemuProcessPrepareDomainStorage's disk that others write too
        return CACHE_MODES[word] if word else None

    def parts(self, context: Context) -> Iterable[Part]:
        node = None
        if self.source:
            yield from nodes(self._chain(), self.driver.node_options(self._cache), read_only=self.readonly)
            node = self._chain().images[0].format_node
        if node and self.driver.copy_on_read:
            # libvirt: qemuBlockStorageSourceGetCopyOnReadProps
            below, node = node, f"libvirt-CoR-{self.dev}"
            yield BlockdevPart({"driver": "copy-on-read", "node-name": node, "file": below, "discard": "unmap"})
        yield DevicePart(self._device_props(context, node))

    def _device_props(self, context: Context, node: str | None) -> dict[str, Json]:
        # libvirt: qemuBuildDiskDeviceProps
        props: dict[str, Json] = {"driver": self._qemu_driver(), **self.driver.virtio_props()}
        props |= given(
            {
                "ioeventfd": self.driver.ioeventfd,
                "event_idx": self.driver.event_idx,
                "num-queues": self.driver.queues,
                "queue-size": self.driver.queue_size,
            }
        )
        props |= self.place(context)
        if self.target.bus == "scsi":
            props["device_id"] = self.serial or f"drive-{self.id}"
        if self.shareable:
            props["share-rw"] = True
        props |= given({"drive": node, "id": self.id})
        return props | context.boot_index(self) | self._identity() | self.driver.error_props()

    def _identity(self) -> dict[str, Json]:
        """What the guest sees of it."""
        blockio, geometry = self.blockio or BlockIo(), self.geometry
        props: dict[str, Json] = {
            "logical_block_size": blockio.logical_block_size,
            "physical_block_size": blockio.physical_block_size,
            "wwn": int(self.wwn, 16) if self.wwn else None,
            "vendor": self.vendor,
            "product": self.product,
            "rotation_rate": self.target.rotation_rate,
            "removable": bool(self.target.removable) if self.target.bus == "usb" else None,
        }
        if self._cache:
            props["write-cache"] = "on" if self._cache.write_cache else "off"
        if geometry:
            props |= {"cyls": geometry.cyls, "heads": geometry.heads, "secs": geometry.secs}
            props["bios-chs-trans"] = geometry.trans
        return given(props | {"serial": self.serial})

    def _qemu_driver(self) -> str:
        kind = "cd" if self.device == "cdrom" else "hd"
        match self.target.bus:
            case "virtio":
                return pci_driver("virtio-blk", self.model or "virtio")
            case "usb":
                return "usb-storage"
            case "fdc":
                return "floppy"
            case "scsi":
                return f"scsi-{kind}"
            case _:
                return f"ide-{kind}"

    def place(self, context: Context) -> dict[str, Json]:
        address = self.address
        if not isinstance(address, DriveAddress):
            return super().place(context)
        if self.target.bus == "fdc":
            return {"unit": address.unit}
        controller = context.controller_alias(self.target.bus or "", address.controller)
        if self.target.bus == "ide":
            return {"bus": f"{controller}.{address.bus}", "unit": address.unit}
        if self.target.bus == "sata":
            return {"bus": f"{controller}.{address.unit}"}
        # libvirt: qemuBuildDiskDeviceProps: a narrow SCSI bus has targets only
        if self.narrow:
            return {"bus": f"{controller}.{address.bus}", "scsi-id": address.unit}
        return {
            "bus": f"{controller}.0",
            "channel": address.bus,
            "scsi-id": address.target,
            "lun": address.unit,
        }


def _disks(devices: Iterable[Device]) -> list[Disk]:
    return [device for device in devices if isinstance(device, Disk)]


def _is_narrow(context: Context, index: int) -> bool:
    """Whether SCSI controller INDEX has a narrow bus, as libvirt's usual one has."""
    # libvirt: qemuDomainDefaultSCSIControllerModel
    controllers = (device for device in context.domain.devices.all if isinstance(device, Controller))
    models = (c.model for c in controllers if c.type == "scsi" and max(c.index, 0) == index)
    return next(models, PLUGGED_SCSI if context.plugging else None) in (None, "auto", "lsilogic")


def _order(device: Device) -> int:
    index = disk_index(device.dev) if isinstance(device, Disk) else None
    return -1 if index is None else index
