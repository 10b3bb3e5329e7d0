"""What one QEMU binary can do, as data that explains itself when something is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, InternalError

T = TypeVar("T")

#: Devices whose properties the driver's decisions depend on.
#: virtio-gpu-gl-pci and virtio-vga-gl must not be added: listing their properties kills QEMU 7.2.
PROBED_DEVICES: Final = (
    "virtio-blk-pci", "virtio-blk-device", "scsi-hd", "scsi-cd", "scsi-block", "ide-hd", "ide-cd", "usb-storage",
    "floppy", "isa-fdc", "nvme",
    "virtio-net-pci", "virtio-net-device", "e1000", "e1000e", "rtl8139", "igb",
    "virtio-scsi-pci", "lsi53c895a", "ich9-ahci", "piix3-ide",
    "piix3-usb-uhci", "ich9-usb-uhci1", "ich9-usb-ehci1", "nec-usb-xhci", "qemu-xhci", "usb-hub",
    "virtio-serial-pci", "virtserialport", "virtconsole", "isa-serial", "isa-debugcon", "pci-serial", "usb-serial",
    "pcie-root-port", "pcie-pci-bridge", "pci-bridge", "i82801b11-bridge", "x3130-upstream", "xio3130-downstream",
    "pxb", "pxb-pcie",
    "virtio-rng-pci", "virtio-balloon-pci", "vhost-vsock-pci", "virtio-9p-pci", "vhost-user-fs-pci", "vmgenid",
    "pvpanic", "pvpanic-pci", "i6300esb", "ICH9-LPC", "PIIX4_PM",
    "VGA", "cirrus-vga", "bochs-display", "virtio-vga", "virtio-gpu-pci", "qxl-vga", "ramfb",
    "usb-tablet", "usb-mouse", "usb-kbd", "virtio-keyboard-pci", "virtio-tablet-pci", "virtio-mouse-pci",
    "tpm-crb", "tpm-tis", "intel-iommu", "virtio-iommu-pci", "ivshmem-plain", "pc-dimm", "virtio-mem-pci",
    "vfio-pci",
    "intel-hda", "ich9-intel-hda", "AC97", "hda-duplex", "usb-audio",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A machine type."""

    name: str
    alias: str | None
    cpu_max: int
    hotpluggable_cpus: bool
    is_default: bool
    deprecated: bool
    default_cpu_type: str | None
    default_ram_id: str | None

    @property
    def family(self) -> str:
        """The name without its version: `pc-q35` for `pc-q35-7.2`; versions of a family have the same properties."""
        stem, dash, version = self.name.rpartition("-")
        return stem if dash and any(c.isdigit() for c in version) else self.name


@dataclass(frozen=True)
class CpuModel:
    """A CPU model, and which of its features TCG on this host leaves out."""

    name: str
    typename: str
    unavailable_features: tuple[str, ...]
    deprecated: bool
    static: bool


@dataclass(frozen=True)
class Capabilities:
    """One probe's answers.

    `device_types` are all concrete QOM types a user may name (devices, objects such as `rng-random`, character
    device backends as `chardev-NAME`). `device_properties` holds the stable properties (no `x-…`) of those of
    `PROBED_DEVICES` that this QEMU has; `machine_properties` is keyed by `Machine.family`. `arguments` are
    `command/argument`, `options` are `option/parameter` of the command line. `displays`, `netdevs` and
    `block_drivers` are what was compiled in; where a distribution packs them as modules, one may not be installed.
    """

    version: tuple[int, int, int]
    package: str
    binary: Path
    arch: str
    machines: Mapping[str, Machine]
    cpus: Mapping[str, CpuModel]
    accelerators: frozenset[str]
    device_types: frozenset[str]
    device_properties: Mapping[str, frozenset[str]]
    machine_properties: Mapping[str, frozenset[str]]
    commands: frozenset[str]
    events: frozenset[str]
    arguments: frozenset[str]
    options: frozenset[str]
    netdevs: frozenset[str]
    block_drivers: frozenset[str]
    displays: frozenset[str]

    @cached_property
    def _aliases(self) -> Mapping[str, Machine]:
        return {machine.alias: machine for machine in self.machines.values() if machine.alias}

    @property
    def loses_emulated_memory(self) -> bool:
        """Whether what an emulated guest writes while it is being migrated can be lost; it must be paused meanwhile."""
        # qemu: 03bfc2188f06 ("physmem: Fix migration dirty bitmap coherency with TCG memory access")
        return self.version < (9, 0, 0)

    @property
    def default_machine(self) -> Machine | None:
        """The machine QEMU takes when none is named; not every architecture has one."""
        return next((machine for machine in self.machines.values() if machine.is_default), None)

    def resolve_machine(self, name: str) -> Machine:
        """The machine called NAME, aliases (`q35`, `pc`) included.

        :raise ConfigUnsupported: when this QEMU has no such machine.
        """
        machine = self.machines.get(name) or self._aliases.get(name)
        if machine is None:
            # libvirt: qemuValidateDomainDef
            raise ConfigUnsupported(
                f"Emulator '{self.binary}' does not support machine type '{name}'", origin=ErrorDomain.QEMU
            )
        return machine

    def has_device(self, name: str) -> bool:
        """Whether a device or object of this name can be created."""
        return name in self.device_types

    def has_property(self, device: str, name: str) -> bool:
        """Whether DEVICE is there and has the property NAME.

        :raise InternalError: when DEVICE is not one of `PROBED_DEVICES`: the answer is not known.
        """
        if device not in PROBED_DEVICES:
            raise InternalError(f"the properties of device '{device}' are not probed")
        return name in self.device_properties.get(device, frozenset())

    def has_machine_property(self, machine: str, name: str) -> bool:
        """Whether MACHINE (a name or an alias) has the property NAME.

        :raise ConfigUnsupported: when this QEMU has no such machine.
        :raise InternalError: when its properties were not probed (microvm): the answer is not known.
        """
        family = self.resolve_machine(machine).family
        if family not in self.machine_properties:
            raise InternalError(f"the properties of machine '{machine}' are not probed")
        return name in self.machine_properties[family]

    def has_command(self, name: str) -> bool:
        return name in self.commands

    def has_argument(self, command: str, argument: str) -> bool:
        """Whether the QMP command COMMAND takes ARGUMENT."""
        return f"{command}/{argument}" in self.arguments

    def has_option(self, option: str, parameter: str) -> bool:
        """Whether the command line's -OPTION takes PARAMETER."""
        return f"{option}/{parameter}" in self.options

    def has_netdev(self, name: str) -> bool:
        return name in self.netdevs

    def has_chardev(self, name: str) -> bool:
        return f"chardev-{name}" in self.device_types

    def has_blockdev_driver(self, name: str) -> bool:
        return name in self.block_drivers

    def has_display(self, name: str) -> bool:
        return name in self.displays

    def require_device(self, name: str) -> None:
        """Return if a device or object of this name can be created.

        :raise ConfigUnsupported: when not; names the device and this QEMU.
        """
        self._require(self.has_device(name), f"device '{name}'")

    def require_command(self, name: str) -> None:
        """Return if QEMU has the QMP command NAME.

        :raise ConfigUnsupported: when not; names the command and this QEMU.
        """
        self._require(self.has_command(name), f"QMP command '{name}'")

    def require_netdev(self, name: str) -> None:
        """Return if QEMU has the network backend NAME.

        :raise ConfigUnsupported: when not; names the backend and this QEMU.
        """
        self._require(self.has_netdev(name), f"network backend '{name}'")

    def _require(self, there: bool, what: str) -> None:
        if not there:
            version = ".".join(map(str, self.version))
            raise ConfigUnsupported(f"QEMU {version} ({self.binary}) has no {what}", origin=ErrorDomain.QEMU)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; a set of names is one string of words, which is small and quick to read."""
        return {
            "version": list(self.version),
            "package": self.package,
            "binary": str(self.binary),
            "arch": self.arch,
            "machines": [list(astuple(machine)) for machine in self.machines.values()],
            "cpus": [
                [c.name, c.typename, " ".join(c.unavailable_features), c.deprecated, c.static]
                for c in self.cpus.values()
            ],
            **{name: _join(getattr(self, name)) for name in _SETS},
            **{name: {k: _join(v) for k, v in getattr(self, name).items()} for name in _MAPS},
        }

    @classmethod
    def from_json(cls, data: object) -> Capabilities:
        """The inverse of `to_json()`.

        :raise ValueError: when DATA is anything else: a field missing, unknown, or of a wrong type.
        """
        fields = _typed(data, dict)
        if fields.keys() != _FIELDS:
            raise ValueError(f"fields are {sorted(fields)}, not {sorted(_FIELDS)}")
        version = tuple(_typed(part, int) for part in _typed(fields["version"], list))
        if len(version) != 3:
            raise ValueError(f"{version} is no version")
        machines = [Machine(*_row(row, _MACHINE)) for row in _typed(fields["machines"], list)]
        cpus = [_cpu(row) for row in _typed(fields["cpus"], list)]
        names: dict[str, Any] = {name: _words(fields[name]) for name in _SETS}
        names |= {name: _words_by_name(fields[name]) for name in _MAPS}
        return cls(
            version=version,
            package=_typed(fields["package"], str),
            binary=Path(_typed(fields["binary"], str)),
            arch=_typed(fields["arch"], str),
            machines=MappingProxyType({machine.name: machine for machine in machines}),
            cpus=MappingProxyType({cpu.name: cpu for cpu in cpus}),
            **names,
        )


_SETS: Final = (
    "accelerators", "device_types", "commands", "events", "arguments", "options",
    "netdevs", "block_drivers", "displays",
)  # fmt: skip
_MAPS: Final = ("device_properties", "machine_properties")
_FIELDS: Final = frozenset(Capabilities.__dataclass_fields__)


def _typed(value: object, kind: type[T]) -> T:
    """VALUE, if it is a KIND (a bool is no int).

    :raise ValueError: when not.
    """
    if type(value) is not kind:
        raise ValueError(f"{value!r:.80} is no {kind.__name__}")
    return value


def _row(row: object, kinds: tuple[tuple[type, ...], ...]) -> list[Any]:
    """ROW, if it is a list of values of KINDS.

    :raise ValueError: when not.
    """
    values = _typed(row, list)
    if len(values) != len(kinds) or any(type(v) not in kind for v, kind in zip(values, kinds, strict=True)):
        raise ValueError(f"{row!r:.80} is no row of {kinds}")
    return values


def _cpu(row: object) -> CpuModel:
    name, typename, unavailable, deprecated, static = _row(row, _CPU)
    return CpuModel(name, typename, tuple(unavailable.split()), deprecated, static)


_NAME: Final = (str,)
_OPTIONAL_NAME: Final = (str, type(None))
_FLAG: Final = (bool,)
_MACHINE: Final = (_NAME, _OPTIONAL_NAME, (int,), _FLAG, _FLAG, _FLAG, _OPTIONAL_NAME, _OPTIONAL_NAME)
_CPU: Final = (_NAME, _NAME, _NAME, _FLAG, _FLAG)


def _join(names: frozenset[str]) -> str:
    return " ".join(sorted(names))


def _words(value: object) -> frozenset[str]:
    return frozenset(_typed(value, str).split())


def _words_by_name(value: object) -> Mapping[str, frozenset[str]]:
    return MappingProxyType({_typed(name, str): _words(words) for name, words in _typed(value, dict).items()})
