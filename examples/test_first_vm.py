"""The first test: a real Linux virtual machine, from nothing, gone when the test ends.

Run it with `pytest --embedvm -v -s examples/test_first_vm.py`.
"""

from __future__ import annotations

import pytest

from pytest_embedvm.guest import VM


def test_it_is_a_machine_of_its_own(vm: VM) -> None:
    kernel = vm.run("uname -sr").text.strip()
    print(f"\n{vm.name} runs {kernel}")
    assert kernel.startswith("Linux ")


def test_files_and_commands(vm: VM) -> None:
    vm.write_text("/etc/greeting", "hello\n")
    result = vm.run("tr a-z A-Z", input=vm.read_bytes("/etc/greeting"))
    assert result.text == "HELLO\n"
    assert vm.run(["false"], check=False).returncode == 1


def test_the_console_is_recorded_and_typed_into(vm: VM) -> None:
    vm.console.sendline("echo $((6 * 7))")
    vm.console.wait_for(r"^42")
    assert "Linux version" in vm.console.text


@pytest.mark.embedvm(memory=512, vcpus=2, network="none")
def test_a_marker_says_what_the_machine_is_like(vm: VM) -> None:
    assert vm.run("nproc").text == "2\n"
    assert vm.run("ls /sys/class/net").text.split() == ["lo"]
