"""What the driver's configuration says about every domain: libvirt's keys that QEMU's command line shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: libvirt: QEMU_REMOTE_PORT_MIN and the highest port there is
FIRST_PORT: Final = 5900
LAST_PORT: Final = 65535


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The fields are libvirt's keys, the defaults libvirt's, unless said otherwise."""

    #: None: 127.0.0.1, and nothing of it in the XML.
    vnc_listen: str | None = None
    vnc_auto_unix_socket: bool = False
    vnc_tls: bool = False
    #: Where the certificates are; needed with `vnc_tls` only.
    vnc_tls_x509_cert_dir: str | None = None
    #: None: no.
    vnc_tls_x509_verify: bool | None = None
    vnc_tls_priority: str | None = None
    #: The secret that opens the server's key; None: the key is not encrypted.
    vnc_tls_x509_secret_uuid: str | None = None
    vnc_password: str | None = field(default=None, repr=False)
    vnc_sasl: bool = False
    vnc_sasl_dir: str | None = None
    remote_display_port_min: int = FIRST_PORT
    remote_display_port_max: int = LAST_PORT
    dump_guest_core: bool = False
    log_timestamp: bool = True
    set_process_name: bool = False
    #: 0 is off; libvirt's -1 is on where QEMU has it.
    seccomp_sandbox: int = -1
    deprecation_behavior: str = "none"
