"""A guest without QEMU, whose agent is a real one on this host; and the built-in guest on real QEMU."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias, cast

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM, domain_xml
from pytest_embedvm.guest.image.build import build_guest
from tests.fakes.exec_server import host_server, served
from tests.fakes.guest import SERVED, FakeDomain, host_agent

Boot: TypeAlias = Callable[[str], VM]


def vm_of(domain: FakeDomain) -> VM:
    return VM(cast("libvirt.virDomain", domain))


def await_server(vm: VM) -> None:
    """Return once commands are the children of the guest's own server."""
    vm.wait_until(lambda: vm.run("cat /proc/$PPID/comm").text == "exec\n", message="a command by the exec channel")


@pytest.fixture
def domain() -> FakeDomain:
    return FakeDomain()


@pytest.fixture
def fake(domain: FakeDomain) -> Iterator[VM]:
    """A VM on `domain`, which has a console and no agent."""
    with vm_of(domain) as vm:
        yield vm


@pytest.fixture
def by_agent(domain: FakeDomain, tmp_path: Path) -> Iterator[VM]:
    """A VM on `domain` whose agent runs on this host."""
    home = tmp_path / "agent"
    home.mkdir()
    with host_agent(home) as domain.agent, vm_of(domain) as vm:
        yield vm


@pytest.fixture
def by_channel(domain: FakeDomain, tmp_path: Path) -> Iterator[VM]:
    """A VM on `domain` whose agent and server for commands run on this host."""
    home = tmp_path / "agent"
    home.mkdir()
    domain.xml = SERVED
    with host_agent(home) as domain.agent, served(host_server(home)) as domain.line, vm_of(domain) as vm:
        yield vm


@pytest.fixture(params=["by_agent", "by_channel"])
def hosted(request: pytest.FixtureRequest) -> VM:
    """Either of them: what is promised is the same."""
    vm: VM = request.getfixturevalue(request.param)
    return vm


@pytest.fixture(scope="session")
def boot(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Boot]:
    """Boots built-in guests, which end with the session."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("there is no qemu-system-x86_64")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    image = build_guest(shared / "guest-cache")
    connection = libvirt.open(f"qemu:///embed?root={tmp_path_factory.mktemp('root')}")

    def one(name: str) -> VM:
        xml = domain_xml(
            name, kernel=image.kernel, initrd=image.initrd, cmdline=image.cmdline, arch=image.arch, network="none"
        )
        vm = VM.boot(connection, xml)
        stack.callback(vm.close)
        return vm

    with ExitStack() as stack:
        stack.callback(connection.close)
        yield one


@pytest.fixture(scope="session")
def shared(boot: Boot) -> VM:
    """A guest that tests share and do not disturb."""
    vm = boot("shared")
    vm.wait_ready()
    return vm


@pytest.fixture
def fresh(boot: Boot, request: pytest.FixtureRequest) -> Iterator[VM]:
    """A guest for one test, which may end it; not waited for."""
    vm = boot(request.node.name)
    yield vm
    if vm.is_running:
        vm.domain.destroy()
    vm.close()
