"""The driver's configuration: `etc/qemu.conf` below the root, or what the opener gave, as one frozen value."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

from pytest_embedvm.domain.settings import Settings
from pytest_embedvm.driver.config import syntax as config_syntax
from pytest_embedvm.driver.config.checks import CHECKS, check_ports
from pytest_embedvm.driver.config.keys import KEYS
from pytest_embedvm.driver.config.syntax import MOST_BYTES, Value
from pytest_embedvm.driver.config.types import convert, from_python
from pytest_embedvm.errors import ConfigSyntax, ConfigUnsupported, InvalidArgument, SystemFailure

#: A file in the syntax of libvirt's qemu.conf, or its keys and values.
Source: TypeAlias = str | os.PathLike[str] | Mapping[str, object] | None


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """The fields are libvirt's keys; `config_keys.KEYS` has them all, those without effect too."""

    default_tls_x509_cert_dir: str | None = None
    default_tls_x509_verify: bool | None = None
    default_tls_x509_secret_uuid: str | None = None
    default_tls_priority: str | None = None
    #: 0: as many as the driver's own process may have.
    max_processes: int = 0
    max_files: int = 0
    #: In bytes.
    max_core: int | Literal["unlimited"] = 0
    security_driver: tuple[str, ...] = ()
    security_default_confined: bool = False
    security_require_confined: bool = False
    #: Whom QEMU runs as; None: as the driver. libvirt has a user of its own, chosen when it is built.
    user: int | None = None
    group: int | None = None
    dynamic_ownership: bool = True
    remember_owner: bool = True
    #: libvirt: virtlogd where there is one
    stdio_handler: str = "file"
    #: libvirt: the mount namespace, when privileged
    namespaces: tuple[str, ...] = ()
    cgroup_controllers: tuple[str, ...] = ()
    cgroup_device_acl: tuple[str, ...] = ()
    #: Firmware and the template of its variables, `LOADER:VARS` each.
    nvram: tuple[str, ...] = ()
    #: None: lib/qemu/ram below the root.
    memory_backing_dir: str | None = None
    save_image_format: str = "raw"
    dump_image_format: str = "raw"
    snapshot_image_format: str = "raw"
    auto_dump_path: str | None = None
    auto_dump_bypass_cache: bool = False
    migration_address: str | None = None
    migration_host: str | None = None
    migration_port_min: int = 49152
    migration_port_max: int = 49215
    keepalive_interval: int = 5
    keepalive_count: int = 5
    #: What there is to warn of, a sentence each: keys that have no effect, values that were changed.
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def read(
        cls, root: Path, source: Source = None, *, file: Path | None = None, privileged: bool | None = None
    ) -> Self:
        """The configuration of a driver in ROOT.

        A file that is given, as SOURCE or as FILE (the URI's), takes the place of the root's `etc/qemu.conf`; keys
        and values that are given count before those of whatever file there is. Nothing is written.

        :param privileged: whether QEMU may be run as another user; None: whether this process is root.
        :raise ConfigSyntax: when a file is not in libvirt's syntax, a key is unknown, or a value is of a wrong type
            or out of its range; with file and line, or the key of a mapping.
        :raise ConfigUnsupported: when a value asks for what this driver cannot do; with the same.
        :raise InvalidArgument: when SOURCE is neither, or SOURCE and FILE are different files.
        :raise SystemFailure: when a file that is given cannot be read, or the root's own is there and cannot.
        """
        given: dict[str, Value] = {}
        if isinstance(source, Mapping):
            given = {str(key): from_python(value, f"config[{key!r}]") for key, value in source.items()}
        elif isinstance(source, str | os.PathLike):
            file = _one_file(Path(source), file)
        elif source is not None:
            raise InvalidArgument(f"config must be a path or a mapping, not {type(source).__name__}")
        found = _parse_file(file or root / "etc/qemu.conf", optional=file is None) | given
        privileged = os.geteuid() == 0 if privileged is None else privileged
        return cls._of(found, privileged=privileged)._settled(root)

    @classmethod
    def _of(cls, found: Mapping[str, Value], *, privileged: bool) -> Self:
        values: dict[str, Any] = {}
        warnings = []
        fields = {f.name for f in dataclasses.fields(cls)} - {"warnings"}
        for name, value in found.items():
            key = KEYS.get(name)
            if key is None:
                raise ConfigSyntax(f"{value.where}: unknown key '{name}'")
            converted = convert(name, key.type, value)
            if name in CHECKS:
                converted, warning = CHECKS[name](converted, value.where, privileged)
                warnings += [f"{value.where}: {warning}"] if warning else []
            if key.ignored:
                warnings.append(f"{value.where}: '{name}' has no effect: {key.ignored}")
            if name in fields:
                values[name] = converted
        config = cls(**values, warnings=tuple(warnings))
        check_ports(config, {name: value.where for name, value in found.items()})
        return config

    def _settled(self, root: Path) -> Self:
        """With what one key takes from another (libvirt: virQEMUDriverConfigSetDefaults)."""
        certificates = self.default_tls_x509_cert_dir or str(root / "etc/pki/qemu")
        verify = self.default_tls_x509_verify
        asked = self.vnc_tls_x509_verify
        return dataclasses.replace(
            self,
            default_tls_x509_cert_dir=certificates,
            vnc_tls_x509_cert_dir=self.vnc_tls_x509_cert_dir or certificates,
            vnc_tls_x509_verify=bool(verify) if asked is None else asked,
            vnc_tls_priority=self.vnc_tls_priority or self.default_tls_priority,
            vnc_tls_x509_secret_uuid=self.vnc_tls_x509_secret_uuid or self.default_tls_x509_secret_uuid,
        )

    def differences(self, other: Config) -> Iterator[str]:
        """The keys in which OTHER says something else."""
        for f in dataclasses.fields(self):
            if f.compare and getattr(self, f.name) != getattr(other, f.name):
                yield f.name

    def require_same(self, other: Config) -> None:
        """Return if a second opener's configuration OTHER is this one.

        :raise ConfigUnsupported: when it is not; names the keys.
        """
        if keys := ", ".join(self.differences(other)):
            raise ConfigUnsupported(f"this root is open in this process with another configuration: {keys}")


def _one_file(given: Path, file: Path | None) -> Path:
    if file is not None and not (given == file or _same(given, file)):
        raise InvalidArgument(f"two configuration files are given: '{given}', and '{file}' in the URI")
    return given


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _parse_file(path: Path, *, optional: bool) -> dict[str, Value]:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        if optional:
            return {}
        raise SystemFailure(f"Failed to open file '{path}': {error.strerror}") from error
    except (OSError, ValueError) as error:  # a name with a NUL in it is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise SystemFailure(f"Failed to open file '{path}': {reason}") from error
    if len(content) > MOST_BYTES:
        raise ConfigSyntax(f"{path}: larger than {MOST_BYTES} bytes")
    return config_syntax.parse(os.fsdecode(content), str(path))
