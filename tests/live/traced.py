"""A whole life in one root: opened, machines defined, started, used, stopped; run under strace by test_traces.py."""

from __future__ import annotations

import sys
from pathlib import Path

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri

root, named = Path(sys.argv[1]), sys.argv[2]

DEVICES = f"""
  <disk type='file'><driver type='raw'/><source file='{named}/disk.img'/><target dev='vda' bus='virtio'/></disk>
  <serial type='unix'><source mode='bind' path='{named}/serial.sock'/></serial>
  <serial type='pty'/>
  <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  <interface type='user'><model type='virtio'/></interface>
  <graphics type='vnc'><listen type='socket'/></graphics>
  <video><model type='virtio'/></video>
  <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"""


def xml(name: str, firmware: str = "") -> str:
    return f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>
      <os {firmware}><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
      <devices>{DEVICES}</devices></domain>"""


connection = libvirt.open(make_uri(root))
connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *_: None, None)
domain = connection.defineXML(xml("kept", "firmware='efi'" if "efi" in sys.argv else ""))
domain.create()
stream = connection.newStream(0)
domain.openConsole("serial1", stream, 0)
domain.suspend()
domain.resume()
domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "a title", None, None, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
stream.abort()
domain.destroy()
domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
connection.createXML(xml("transient"), libvirt.VIR_DOMAIN_START_AUTODESTROY)
connection.close()
connection = libvirt.open(make_uri(root))
connection.close()
