"""A libvirtd of the test's own on this host: its files and sockets in the test's directory, its network everybody's."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from filelock import FileLock

from pytest_embedvm.driver.hosts.connection import URI_VARIABLE

#: Where libvirtd keeps its things: each is a directory of the test's in the daemon's mount namespace.
PLACES: Final = ("etc/libvirt", "run/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log/libvirt")
TEMPLATE: Final = Path("/usr/share/libvirt/networks/default.xml")
BRIDGE: Final = Path("/sys/class/net/virbr0")
FORWARDING: Final = Path("/proc/sys/net/ipv4/ip_forward")
DEADLINE_S: Final = 60.0

IN_ITS_NAMESPACE: Final = """
set -e
home=$1; shift
for place; do mkdir -p "$home/$place" "/$place"; mount --bind "$home/$place" "/$place"; done
exec /usr/sbin/libvirtd --config "$home/libvirtd.conf" --pid-file "$home/libvirtd.pid"
"""

CONFIGURATION: Final = """
unix_sock_dir = "{home}/sock"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:stderr"
"""


@dataclass
class Daemon:
    """A libvirtd that runs; `conn` is libvirt-python's own connection to it."""

    home: Path
    uri: str
    conn: Any

    def start_default(self) -> Any:
        """Its network `default`, as Debian ships it, active."""
        network = self.conn.networkDefineXML(TEMPLATE.read_text())
        network.create()
        return network


def lacks() -> str | None:
    """Why there can be no libvirtd of the test's own here."""
    if os.geteuid() != 0:
        return "only root can start a libvirtd with networks"
    for program in ("/usr/sbin/libvirtd", "dnsmasq", "iptables", "unshare"):
        if not shutil.which(program):
            return f"{program} is not installed (script/bootstrap --host)"
    if not importlib.util.find_spec("libvirt"):
        return "libvirt-python is not installed (script/bootstrap --host)"
    if not TEMPLATE.exists():
        return f"{TEMPLATE} is not there"
    namespace = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True)
    return "mount namespaces cannot be made here" if namespace.returncode else None


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A libvirtd that is what the host's is for this test; one at a time on this machine."""
    why = lacks()
    if why:
        pytest.skip(why)
    with contextlib.ExitStack() as stack:
        stack.enter_context(FileLock(Path(tempfile.gettempdir(), "embedvm-tests-libvirtd.lock"), timeout=240))
        if BRIDGE.exists():
            pytest.skip("this host has a virbr0 already, which another libvirtd's network uses")
        stack.enter_context(forwarding_restored())
        stack.enter_context(firewall_restored())
        daemon = stack.enter_context(running(tmp_path / "libvirtd"))
        monkeypatch.setenv(URI_VARIABLE, daemon.uri)
        yield daemon


@contextlib.contextmanager
def forwarding_restored() -> Iterator[None]:
    before = FORWARDING.read_text()
    yield
    FORWARDING.write_text(before)


def chains() -> set[tuple[str, str, str]]:
    """libvirt's own: program, table, name."""
    return {
        (program, table, line.split()[1])
        for program in ("iptables", "ip6tables")
        for table in ("filter", "nat", "mangle")
        for line in rules(program, table)
        if line.startswith("-N LIBVIRT_")
    }


def rules(program: str, table: str) -> list[str]:
    told = subprocess.run([program, "-w", "-t", table, "-S"], check=False, capture_output=True, text=True)
    return told.stdout.splitlines()


@contextlib.contextmanager
def firewall_restored() -> Iterator[None]:
    """libvirtd leaves its chains when it ends, empty."""
    before = chains()
    yield
    new = chains() - before
    for program, table, chain in new:
        for line in rules(program, table):
            if line.endswith(f"-j {chain}"):
                subprocess.run([program, "-w", "-t", table, "-D", *line.split()[1:]], check=True)
    for program, table, chain in new:
        subprocess.run([program, "-w", "-t", table, "-F", chain], check=True)
        subprocess.run([program, "-w", "-t", table, "-X", chain], check=True)


@contextlib.contextmanager
def running(home: Path) -> Iterator[Daemon]:
    (home / "sock").mkdir(parents=True)
    (home / "libvirtd.conf").write_text(CONFIGURATION.format(home=home))
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", IN_ITS_NAMESPACE, "sh", str(home), *PLACES]
    uri = f"qemu+unix:///system?socket={home}/sock/libvirt-sock"
    with (home / "stderr").open("wb") as said, contextlib.ExitStack() as stack:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=said)
        stack.callback(end, process)
        conn = connect(process, uri, home)
        stack.callback(conn.close)
        stack.callback(destroy_networks, conn)
        yield Daemon(home, uri, conn)


def connect(process: subprocess.Popen[bytes], uri: str, home: Path) -> Any:
    libvirt = importlib.import_module("libvirt")
    libvirt.registerErrorHandler(lambda *_: None, None)
    deadline = os.pidfd_open(process.pid)
    try:
        for _ in range(int(DEADLINE_S / 0.05)):
            with contextlib.suppress(libvirt.libvirtError):
                return libvirt.open(uri)
            if select.select([deadline], [], [], 0.05)[0]:
                break
    finally:
        os.close(deadline)
    pytest.fail(f"libvirtd does not answer at {uri}: {(home / 'stderr').read_text()}")


def destroy_networks(conn: Any) -> None:
    for network in conn.listAllNetworks():
        if network.isActive():
            network.destroy()


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
