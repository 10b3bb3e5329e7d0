"""Hardware that comes and goes while the guest runs: a disk is plugged in, read, and taken away again.

Run it with `pytest --embedvm -v -s examples/test_hotplug.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_embedvm.guest import VM


@pytest.mark.embedvm(network="none")
def test_a_disk_that_comes_and_goes(vm: VM, tmp_path: Path) -> None:
    image = tmp_path / "plugged.img"
    image.write_bytes(b"hello from the host".ljust(1 << 20, b"\0"))
    disk = f"<disk type='file'><source file='{image}'/><target dev='vdb' bus='virtio'/></disk>"

    vm.domain.attachDevice(disk)
    read = vm.run("until head -c 19 /dev/vda 2>/dev/null; do usleep 20000; done")
    print(f"\n{vm.name} reads: {read.text}")
    assert read.text == "hello from the host"

    vm.domain.detachDevice(disk)
    assert vm.run("ls /sys/block").text == ""
