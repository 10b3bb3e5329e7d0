"""Every key that libvirt's qemu.conf may hold, its type, and whether this driver honours it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

#: How libvirt reads it: virConfGetValueBool, …Int, …UInt, …String, …StringList; `limit` is a number of bytes or
#: "unlimited", `names` a list or a single string.
Type = Literal["bool", "int", "unsigned", "limit", "string", "list", "names"]

_NO_SPICE: Final = "SPICE graphics are not supported by this driver"
_NO_RDP: Final = "RDP graphics are not supported by this driver"
_NO_TLS_HERE: Final = "no device of this driver uses TLS there"
_NO_MIGRATION: Final = "migration goes over unix sockets on one machine"
_NO_AUTOSTART: Final = "nothing is started or stopped with the driver itself"
_NO_SAVE: Final = "this driver makes no such images"
_NO_DEVICE: Final = "this driver has no device that would need it"
_NO_TPM: Final = "this driver has no TPM"
_NO_AUDIO: Final = "audio goes where <audio> says"


@dataclass(frozen=True)
class Key:
    """A key; `ignored` says why it has no effect, and is None for one that has."""

    type: Type
    ignored: str | None = None


#: libvirt 9.0's own (src/qemu/qemu.conf.in, libvirtd_qemu.aug), those of releases up to 11.10, and those that older
#: releases had and newer ones still read.
KEYS: Final[dict[str, Key]] = {
    "default_tls_x509_cert_dir": Key("string"),
    "default_tls_x509_verify": Key("bool"),
    "default_tls_x509_secret_uuid": Key("string"),
    "default_tls_priority": Key("string"),
    "vnc_listen": Key("string"),
    "vnc_auto_unix_socket": Key("bool"),
    "vnc_tls": Key("bool"),
    "vnc_tls_x509_cert_dir": Key("string"),
    "vnc_tls_x509_secret_uuid": Key("string"),
    "vnc_tls_x509_verify": Key("bool"),
    "vnc_tls_priority": Key("string"),
    "vnc_password": Key("string"),
    "vnc_sasl": Key("bool"),
    "vnc_sasl_dir": Key("string"),
    "vnc_allow_host_audio": Key("bool", _NO_AUDIO),
    "spice_listen": Key("string", _NO_SPICE),
    "spice_tls": Key("bool", _NO_SPICE),
    "spice_tls_x509_cert_dir": Key("string", _NO_SPICE),
    "spice_auto_unix_socket": Key("bool", _NO_SPICE),
    "spice_password": Key("string", _NO_SPICE),
    "spice_sasl": Key("bool", _NO_SPICE),
    "spice_sasl_dir": Key("string", _NO_SPICE),
    "rdp_listen": Key("string", _NO_RDP),
    "rdp_tls_x509_cert_dir": Key("string", _NO_RDP),
    "rdp_username": Key("string", _NO_RDP),
    "rdp_password": Key("string", _NO_RDP),
    "chardev_tls": Key("bool", _NO_TLS_HERE),
    "chardev_tls_x509_cert_dir": Key("string", _NO_TLS_HERE),
    "chardev_tls_x509_verify": Key("bool", _NO_TLS_HERE),
    "chardev_tls_x509_secret_uuid": Key("string", _NO_TLS_HERE),
    "chardev_tls_priority": Key("string", _NO_TLS_HERE),
    "vxhs_tls": Key("bool", _NO_TLS_HERE),
    "vxhs_tls_x509_cert_dir": Key("string", _NO_TLS_HERE),
    "vxhs_tls_x509_secret_uuid": Key("string", _NO_TLS_HERE),
    "nbd_tls": Key("bool", _NO_TLS_HERE),
    "nbd_tls_x509_cert_dir": Key("string", _NO_TLS_HERE),
    "nbd_tls_x509_secret_uuid": Key("string", _NO_TLS_HERE),
    "nbd_tls_priority": Key("string", _NO_TLS_HERE),
    "migrate_tls_x509_cert_dir": Key("string", _NO_MIGRATION),
    "migrate_tls_x509_verify": Key("bool", _NO_MIGRATION),
    "migrate_tls_x509_secret_uuid": Key("string", _NO_MIGRATION),
    "migrate_tls_priority": Key("string", _NO_MIGRATION),
    "migrate_tls_force": Key("bool", _NO_MIGRATION),
    "backup_tls_x509_cert_dir": Key("string", _NO_TLS_HERE),
    "backup_tls_x509_verify": Key("bool", _NO_TLS_HERE),
    "backup_tls_x509_secret_uuid": Key("string", _NO_TLS_HERE),
    "backup_tls_priority": Key("string", _NO_TLS_HERE),
    "nographics_allow_host_audio": Key("bool", _NO_AUDIO),
    "remote_display_port_min": Key("unsigned"),
    "remote_display_port_max": Key("unsigned"),
    "remote_websocket_port_min": Key("unsigned", "VNC over WebSockets is not supported by this driver"),
    "remote_websocket_port_max": Key("unsigned", "VNC over WebSockets is not supported by this driver"),
    "security_driver": Key("names"),
    "security_default_confined": Key("bool"),
    "security_require_confined": Key("bool"),
    "user": Key("string"),
    "group": Key("string"),
    "dynamic_ownership": Key("bool"),
    "remember_owner": Key("bool"),
    "cgroup_controllers": Key("list"),
    "cgroup_device_acl": Key("list"),
    "seccomp_sandbox": Key("int"),
    "namespaces": Key("list"),
    "save_image_format": Key("string"),
    "dump_image_format": Key("string"),
    "snapshot_image_format": Key("string", _NO_SAVE),
    "auto_dump_path": Key("string", _NO_SAVE),
    "auto_dump_bypass_cache": Key("bool", _NO_SAVE),
    "auto_start_bypass_cache": Key("bool", _NO_AUTOSTART),
    "auto_start_delay": Key("unsigned", _NO_AUTOSTART),
    "auto_shutdown_try_save": Key("string", _NO_AUTOSTART),
    "auto_shutdown_try_shutdown": Key("string", _NO_AUTOSTART),
    "auto_shutdown_poweroff": Key("string", _NO_AUTOSTART),
    "auto_shutdown_wait": Key("unsigned", _NO_AUTOSTART),
    "auto_shutdown_restore": Key("bool", _NO_AUTOSTART),
    "auto_save_bypass_cache": Key("bool", _NO_AUTOSTART),
    "hugetlbfs_mount": Key("names", "huge pages are not supported by this driver"),
    "bridge_helper": Key("string", _NO_DEVICE),
    "pr_helper": Key("string", _NO_DEVICE),
    "slirp_helper": Key("string", _NO_DEVICE),
    "qemu_rdp": Key("string", _NO_RDP),
    "dbus_daemon": Key("string", _NO_DEVICE),
    "set_process_name": Key("bool"),
    "max_processes": Key("unsigned"),
    "max_files": Key("unsigned"),
    "max_threads_per_process": Key("unsigned", "cgroups are not used by this driver"),
    "max_core": Key("limit"),
    "dump_guest_core": Key("bool"),
    "stdio_handler": Key("string"),
    "sched_core": Key("string", "scheduling groups are not used by this driver"),
    "mac_filter": Key("bool", _NO_DEVICE),
    "relaxed_acs_check": Key("bool", _NO_DEVICE),
    "allow_disk_format_probing": Key("bool", "formats are never probed"),
    "lock_manager": Key("string", "QEMU locks its images itself"),
    "max_queued": Key("unsigned", "a job waits for 30 s, however many do"),
    "keepalive_interval": Key("int", _NO_MIGRATION),
    "keepalive_count": Key("unsigned", _NO_MIGRATION),
    "migration_address": Key("string", _NO_MIGRATION),
    "migration_host": Key("string", _NO_MIGRATION),
    "migration_port_min": Key("unsigned", _NO_MIGRATION),
    "migration_port_max": Key("unsigned", _NO_MIGRATION),
    "log_timestamp": Key("bool"),
    "nvram": Key("list"),
    "gluster_debug_level": Key("unsigned", _NO_DEVICE),
    "virtiofsd_debug": Key("bool", _NO_DEVICE),
    "deprecation_behavior": Key("string"),
    "memory_backing_dir": Key("string"),
    "swtpm_user": Key("string", _NO_TPM),
    "swtpm_group": Key("string", _NO_TPM),
    "capability_filters": Key("list", "what QEMU can do is what it says"),
    "storage_use_nbdkit": Key("bool", "network disks are not supported by this driver"),
    "shared_filesystems": Key("list", "migration goes from one root to another on one machine"),
    "default_cpu_deprecated_features": Key("string", "CPU models are QEMU's own"),
    "clear_emulator_capabilities": Key("bool", "libvirt has dropped it"),
    "rx_queue_size": Key("unsigned", "libvirt has dropped it"),
    "tx_queue_size": Key("unsigned", "libvirt has dropped it"),
}
