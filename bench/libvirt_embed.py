"""One round of real libvirt's embed driver, for bench/driver.py; prints milliseconds as JSON.

Runs as root with the security drivers and cgroups off, which is how it starts a VM at all.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import libvirt

CONFIG = """
security_driver = "none"
user = "root"
group = "root"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
remember_owner = 0
"""
XML = """
<domain type='qemu'>
  <name>bench</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><emulator>{}</emulator><controller type='usb' model='none'/><memballoon model='none'/></devices>
</domain>
"""


def run_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


def main() -> None:
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=run_loop, daemon=True).start()
    xml = XML.format(sys.argv[1])
    root = Path(tempfile.mkdtemp(dir="/tmp"))  # its sockets want a short path
    root.chmod(0o755)
    (root / "etc").mkdir()
    (root / "etc/qemu.conf").write_text(CONFIG)
    try:
        start = time.perf_counter()
        connection = libvirt.open(f"qemu:///embed?root={root}")
        domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
        figures = {"open+create": since(start)}
        domain.destroy()
        start = time.perf_counter()
        domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
        figures["create alone"] = since(start)
        start = time.perf_counter()
        domain.destroy()
        figures["destroy"] = since(start)
        connection.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
