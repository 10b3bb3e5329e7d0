"""What values of single keys must be, beyond their types; each check may change the value, and warn of it."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.settings import FIRST_PORT, LAST_PORT, Settings
from pytest_embedvm.errors import ConfigSyntax, ConfigUnsupported

#: Takes a value, its place, and whether the driver is privileged; gives the value back, and a warning or None.
Check: TypeAlias = Callable[[Any, str, bool], tuple[Any, str | None]]

#: The most bytes of a VNC password that count (RFC 6143).
_VNC_PASSWORD_BYTES: Final = 8
# libvirt: virCgroupControllerTypeToString
_CONTROLLERS: Final = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "net_cls", "perf_event")
# libvirt: qemu_conf.c, qemuProcess…Compat
_DEPRECATION: Final = ("none", "omit", "reject", "crash")


def _absolute(name: str) -> Check:
    def check(value: str, where: str, _privileged: bool) -> tuple[str, None]:
        if not value.startswith("/"):
            raise ConfigSyntax(f"{where}: {name} must be an absolute path, not '{value}'")
        return value, None

    return check


def _directory(name: str) -> Check:
    def check(value: str, where: str, privileged: bool) -> tuple[str, None]:
        _absolute(name)(value, where, privileged)
        if not Path(value).exists():
            # libvirt: virQEMUDriverConfigValidate
            raise ConfigSyntax(f"{where}: {name} directory '{value}' does not exist")
        return value, None

    return check


def _vnc_password(value: str, _where: str, _privileged: bool) -> tuple[str, str | None]:
    # libvirt: virQEMUDriverConfigLoadVNCEntry
    encoded = os.fsencode(value)
    if len(encoded) <= _VNC_PASSWORD_BYTES:
        return value, None
    kept = encoded[:_VNC_PASSWORD_BYTES].decode(errors="ignore")
    return kept, f"VNC password is {len(encoded)} characters long, only {_VNC_PASSWORD_BYTES} permitted, truncating"


def _user(value: str, where: str, privileged: bool) -> tuple[int | None, str | None]:
    return _run_as("user", _id(value, where, "user", lambda name: pwd.getpwnam(name).pw_uid), privileged, os.geteuid())


def _group(value: str, where: str, privileged: bool) -> tuple[int | None, str | None]:
    number = _id(value, where, "group", lambda name: grp.getgrnam(name).gr_gid)
    return _run_as("group", number, privileged, os.getegid())


def _id(value: str, where: str, what: str, lookup: Callable[[str], int]) -> int:
    # libvirt: virGetUserID: a name, or else a number; after "+" a number only
    if not value.startswith("+"):
        try:
            return lookup(value)
        except KeyError:
            pass
    digits = value.removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and int(digits[:11]) < (1 << 32) - 1):
        raise ConfigSyntax(f"{where}: there is no {what} '{value}'")
    return int(digits)


def _run_as(what: str, number: int, privileged: bool, own: int) -> tuple[int | None, str | None]:
    if privileged:
        return number, None
    # libvirt: qemuSecurityNewDAC is for a privileged driver only
    warning = f"'{what}' has no effect: the driver does not run as root, and QEMU runs as the driver's user"
    return None, None if number == own else warning


def _security_driver(value: tuple[str, ...], where: str, _privileged: bool) -> tuple[tuple[str, ...], None]:
    for name in value:
        if name != "none":
            # libvirt: virSecurityDriverLookup
            raise ConfigUnsupported(f"{where}: Security driver {name} not enabled", origin=ErrorDomain.SECURITY)
    return value, None


def _confined(value: bool, where: str, _privileged: bool) -> tuple[bool, None]:
    if value:
        # libvirt: virSecurityManagerNew
        raise ConfigUnsupported(
            f'{where}: Security driver "none" cannot create confined guests', origin=ErrorDomain.SECURITY
        )
    return value, None


def _stdio_handler(value: str, where: str, _privileged: bool) -> tuple[str, None]:
    if value == "logd":
        raise ConfigUnsupported(f"{where}: stdio handler logd needs virtlogd, a daemon; this driver has 'file' only")
    if value != "file":
        # libvirt: virQEMUDriverConfigLoadProcessEntry
        raise ConfigUnsupported(f"{where}: Unknown stdio handler {value}")
    return value, None


def _namespaces(value: tuple[str, ...], where: str, privileged: bool) -> tuple[tuple[str, ...], None]:
    # libvirt: virQEMUDriverConfigLoadSecurityEntry
    for name in value:
        if name != "mount":
            raise ConfigSyntax(f"{where}: Unknown namespace: {name}")
        if not privileged:
            raise ConfigUnsupported(f"{where}: cannot use namespaces in session mode")
        raise ConfigUnsupported(f"{where}: mount namespace is not available: QEMU runs in the driver's own")
    return value, None


def _cgroup_controllers(value: tuple[str, ...], where: str, _privileged: bool) -> tuple[tuple[str, ...], None]:
    for name in value:
        if name not in _CONTROLLERS:
            # libvirt: virQEMUDriverConfigLoadSecurityEntry
            raise ConfigSyntax(f"{where}: Unknown cgroup controller '{name}'")
        raise ConfigUnsupported(f"{where}: cgroup controller '{name}' is not available: QEMU stays in the driver's own")
    return value, None


def _cgroup_device_acl(value: tuple[str, ...], where: str, _privileged: bool) -> tuple[tuple[str, ...], None]:
    if value:
        raise ConfigUnsupported(f"{where}: cgroup_device_acl is not available: QEMU stays in the driver's own cgroup")
    return value, None


def _nvram(value: tuple[str, ...], where: str, _privileged: bool) -> tuple[tuple[str, ...], None]:
    for pair in value:
        # libvirt: virFirmwareParse
        if pair.count(":") != 1 or not all(path.startswith("/") for path in pair.split(":")):
            raise ConfigSyntax(f"{where}: Invalid nvram format: '{pair}'")
    return value, None


def _deprecation(value: str, where: str, _privileged: bool) -> tuple[str, None]:
    if value not in _DEPRECATION:
        raise ConfigUnsupported(f"{where}: unsupported deprecation behavior '{value}'")
    return value, None


CHECKS: Final[Mapping[str, Check]] = {
    "default_tls_x509_cert_dir": _directory("default_tls_x509_cert_dir"),
    "vnc_tls_x509_cert_dir": _directory("vnc_tls_x509_cert_dir"),
    "vnc_sasl_dir": _absolute("vnc_sasl_dir"),
    "vnc_password": _vnc_password,
    "user": _user,
    "group": _group,
    "security_driver": _security_driver,
    "security_default_confined": _confined,
    "security_require_confined": _confined,
    "stdio_handler": _stdio_handler,
    "namespaces": _namespaces,
    "cgroup_controllers": _cgroup_controllers,
    "cgroup_device_acl": _cgroup_device_acl,
    "nvram": _nvram,
    "deprecation_behavior": _deprecation,
    "memory_backing_dir": _absolute("memory_backing_dir"),
    "auto_dump_path": _absolute("auto_dump_path"),
}


def check_ports(settings: Settings, where: Mapping[str, str]) -> None:
    """Return if the range of VNC's ports is one; WHERE names the place of each key that was given.

    :raise ConfigSyntax: when not.
    """
    # libvirt: virQEMUDriverConfigLoadRemoteDisplayEntry
    least, most = settings.remote_display_port_min, settings.remote_display_port_max
    if least < FIRST_PORT:
        raise ConfigSyntax(
            f"{where['remote_display_port_min']}: remote_display_port_min: "
            f"port must be greater than or equal to {FIRST_PORT}"
        )
    if not least <= most <= LAST_PORT:
        place = where.get("remote_display_port_max") or where["remote_display_port_min"]
        raise ConfigSyntax(f"{place}: remote_display_port_max: port must be between the minimal port and {LAST_PORT}")
