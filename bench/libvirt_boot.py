"""Cold boots with real libvirt's embed driver, for bench/clone.py: prints what each took, in seconds, as JSON.

Usage: libvirt_boot.py XML COUNT. Runs as root, in a root of its own; one boot after the other, as one worker's tests.
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
import libvirt_qemu
from libvirt_embed import CONFIG, run_loop

BOOT_TIMEOUT_S = 300.0


def ask(domain: libvirt.virDomain, command: str, **arguments: object) -> object:
    message = {"execute": command, "arguments": arguments}
    return json.loads(libvirt_qemu.qemuAgentCommand(domain, json.dumps(message), 5, 0))["return"]


def wait_ready(domain: libvirt.virDomain) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while True:
        try:
            ask(domain, "guest-ping")
        except libvirt.libvirtError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def run_true(domain: libvirt.virDomain) -> None:
    started = ask(domain, "guest-exec", path="true")
    while not ask(domain, "guest-exec-status", pid=started["pid"])["exited"]:
        time.sleep(0.005)


def one(connection: libvirt.virConnect, xml: str) -> float:
    start = time.perf_counter()
    domain = connection.createXML(xml, 0)
    wait_ready(domain)
    run_true(domain)
    domain.destroy()
    return time.perf_counter() - start


def main() -> None:
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=run_loop, daemon=True).start()
    xml, count = Path(sys.argv[1]).read_text(), int(sys.argv[2])
    root = Path(tempfile.mkdtemp(dir="/tmp"))  # its sockets want a short path
    root.chmod(0o755)
    (root / "etc").mkdir()
    (root / "etc/qemu.conf").write_text(CONFIG)
    try:
        connection = libvirt.open(f"qemu:///embed?root={root}")
        print(json.dumps([one(connection, xml) for _ in range(count)]))
        connection.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
