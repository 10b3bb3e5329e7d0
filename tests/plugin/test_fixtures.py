"""fixtures: each rung of the ladder alone and overridden, on real QEMU."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from pytest_embedvm.guest.image.build import build_guest
from pytest_embedvm.qemu.cache import default_cache_dir


@pytest.mark.usefixtures("tiny")
def test_each_rung_can_be_used_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from pathlib import Path
        from conftest import TINY

        UUID = "5a7d3a5e-6f0c-4a39-9d1e-3f2b8a1c4d5e"

        def test_root(embedvm_root, tmp_path):
            assert embedvm_root.stat().st_mode & 0o7777 == 0o700
            assert embedvm_root.is_relative_to(tmp_path)
            assert list(embedvm_root.iterdir()) == []

        def test_conn(embedvm_conn, embedvm_root):
            assert embedvm_conn.getURI() == f"qemu:///embed?root={embedvm_root}"
            assert embedvm_conn.listAllDomains() == []

        def test_conn_factory(embedvm_conn_factory, tmp_path):
            connections = [embedvm_conn_factory(), embedvm_conn_factory(), embedvm_conn_factory(str(tmp_path / "mine"))]
            xml = TINY.format(name="same").replace("<memory", f"<uuid>{UUID}</uuid><memory")
            domains = [connection.createXML(xml, 0) for connection in connections]
            assert len({connection.getURI() for connection in connections}) == 3
            assert [domain.name() for domain in domains] == ["same"] * 3
            domains[0].destroy()
            assert [len(connection.listAllDomains()) for connection in connections] == [0, 1, 1]

        def test_domain_args(embedvm_domain_args):
            assert embedvm_domain_args.memory == 256

        def test_domain(embedvm_domain, embedvm_conn):
            assert embedvm_domain.isActive()
            assert [domain.name() for domain in embedvm_conn.listAllDomains()] == ["tiny"]
        """
    )
    pytester.runpytest_subprocess("--embedvm", "-W", "error").assert_outcomes(passed=5)


def test_arguments_can_be_overridden(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import dataclasses
        import pytest

        @pytest.fixture
        def embedvm_domain_args(embedvm_domain_args):
            return dataclasses.replace(embedvm_domain_args, memory=384)

        @pytest.mark.embedvm(memory=512, vcpus=2, cpu="maximum", machine="pc", network="none")
        def test_it(embedvm_domain_xml):
            assert '<memory unit="MiB">384</memory>' in embedvm_domain_xml
            assert "<vcpu>2</vcpu>" in embedvm_domain_xml
            assert 'mode="maximum"' in embedvm_domain_xml
            assert 'machine="pc"' in embedvm_domain_xml
            assert "<interface" not in embedvm_domain_xml
        """
    )
    pytester.runpytest_subprocess("--embedvm").assert_outcomes(passed=1)


def test_values_are_checked_where_they_come_in(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import dataclasses
        import pytest

        class TestFixture:
            @pytest.fixture
            def embedvm_domain_args(self, embedvm_domain_args):
                return dataclasses.replace(embedvm_domain_args, memory="1G")

            def test_it(self, embedvm_domain_xml): pass

        def test_value(vm_factory): vm_factory(network="wifi")
        def test_keyword(vm_factory): vm_factory(memry=1)
        """
    )
    result = pytester.runpytest_subprocess("--embedvm")
    result.assert_outcomes(errors=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "E *ValueError: memory='1G': must be a whole number above 0 (MiB)",
            ">*vm_factory(network=\"wifi\")",
            "E *ValueError: vm_factory(): network='wifi': possible is private or user or host or none",
            "E *TypeError: vm_factory() knows name, xml, connection, memory, *; not memry",
        ]
    )  # fmt: skip


def test_the_connection_has_what_the_marker_says(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        def modes(*connections):
            return [connection.getURI().partition("&")[2] for connection in connections]

        @pytest.mark.embedvm(network="private")
        def test_private(embedvm_conn, embedvm_conn_factory):
            assert modes(embedvm_conn, embedvm_conn_factory()) == ["", ""]

        @pytest.mark.embedvm(network="user")
        def test_user(embedvm_conn, embedvm_conn_factory):
            assert modes(embedvm_conn, embedvm_conn_factory()) == ["", ""]

        @pytest.mark.embedvm(network="none")
        def test_none(embedvm_conn, embedvm_conn_factory):
            assert modes(embedvm_conn, embedvm_conn_factory()) == ["network=none"] * 2
        """
    )
    pytester.runpytest("--embedvm").assert_outcomes(passed=3)


def test_one_more_vm_has_the_drivers_of_its_connection(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(vm_factory): vm_factory(network='host')")
    result = pytester.runpytest("--embedvm")
    result.assert_outcomes(failed=1)
    said = "vm_factory(network='host'): its connection was opened with 'private'"
    result.stdout.fnmatch_lines([f"E *ValueError: {said}*"])


def test_an_image_alone_is_what_boots(pytester: pytest.Pytester) -> None:
    (pytester.path / "disk.img").write_bytes(bytes(1 << 20))
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.embedvm(image="disk.img", cmdline="not used")
        def test_it(embedvm_domain, embedvm_domain_xml):
            assert "<kernel>" not in embedvm_domain_xml
            assert "<cmdline>" not in embedvm_domain_xml
            assert embedvm_domain.isActive()
        """
    )
    pytester.runpytest_subprocess("--embedvm").assert_outcomes(passed=1)


@pytest.mark.parametrize("keyword", ["image", "kernel", "initrd"])
def test_a_file_that_is_not_there_is_named_with_its_keyword(pytester: pytest.Pytester, keyword: str) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.embedvm({keyword}='no/such')\ndef test_it(vm): pass")
    result = pytester.runpytest_subprocess("--embedvm")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"E *embedvm's {keyword}='no/such' is not there: '{pytester.path}/no/such'"])


def images(folder: Path) -> dict[str, Path]:
    """A raw disk and a qcow2 one of 8 MiB."""
    made = {}
    for name in ("raw", "qcow2"):
        made[name] = folder / f"disk, {name}"
        subprocess.run(["qemu-img", "create", "-q", "-f", name, made[name], "8M"], check=True)
    return made


def test_machines_of_every_make_below_any_path(pytester: pytest.Pytester) -> None:
    """One run for what each needs a boot; below a path no unix socket's address could hold."""
    disks = images(pytester.path)
    before = {name: hashlib.sha256(path.read_bytes()).digest() for name, path in disks.items()}
    built = build_guest(default_cache_dir())
    pytester.makepyfile(
        f"""
        import dataclasses
        import pytest

        DISKS = { ({name: path.name for name, path in disks.items()})!r}
        SYSTEM = dict(kernel={str(built.kernel)!r}, initrd={str(built.initrd)!r}, network="none")

        def check_disk(vm):
            assert vm.run("cat /sys/block/vda/size").text == "16384\\n"
            vm.run("echo written >/dev/vda && sync")
            assert vm.run("head -c 7 /dev/vda").text == "written"
            assert vm.run("ls /sys/class/net").text.split() == ["lo"]

        @pytest.mark.embedvm(cmdline="of=the-marker")
        def test_two_machines(vm_factory, embedvm_conn, embedvm_conn_factory):
            left = vm_factory(name="left", image=DISKS["raw"], **SYSTEM)
            right = vm_factory(name="left", image=DISKS["qcow2"], connection=embedvm_conn_factory(), **SYSTEM)
            for vm in (left, right):
                assert vm.name == "left"
                assert vm.run("cat /proc/cmdline").text.split() == ["console=ttyS0", "no_timer_check", "of=the-marker"]
                check_disk(vm)
            assert left.connection is embedvm_conn or left.connection.getURI() == embedvm_conn.getURI()
            assert right.connection.getURI() != embedvm_conn.getURI()

        class TestOverridden:
            @pytest.fixture
            def embedvm_domain_args(self, embedvm_domain_args):
                return dataclasses.replace(embedvm_domain_args, memory=384, cmdline="of=the-fixture")

            def test_vm(self, vm, embedvm_domain):
                assert vm.domain.UUID() == embedvm_domain.UUID()
                assert 300_000 < int(vm.run("grep MemTotal /proc/meminfo").text.split()[1]) < 393_216
                assert "of=the-fixture" in vm.run("cat /proc/cmdline").text
                assert "eth0" in vm.run("ls /sys/class/net").text.split()
        """
    )
    base = pytester.path / ("a path, with ünïcode=" + "x" * 180)
    result = pytester.runpytest_subprocess("--embedvm", "-W", "error", f"--basetemp={base}", "-n", "2")
    result.assert_outcomes(passed=2)
    assert {name: hashlib.sha256(path.read_bytes()).digest() for name, path in disks.items()} == before
    assert [path for path in base.rglob("*") if path.name.startswith("embedvm")] == []
