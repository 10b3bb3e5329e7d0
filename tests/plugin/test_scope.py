"""scope: a class, a module or the session keeps a root and its VM, which is clean for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_embedvm import embed, libvirt
from pytest_embedvm.plugin import inventory
from pytest_embedvm.plugin.settings import Settings
from tests.plugin.conftest import environments

#: What inner tests look at: nothing of what another did is there.
CONFTEST = """
import os, signal
from pathlib import Path
import pytest

SEEN = {}

def identity(vm):
    return vm.domain.UUIDString(), vm.run("hostname; cat /sys/class/net/eth0/address").text

def is_clean(vm):
    return vm.run("ls /root; ps | grep '[s]leep 999'; :").text.strip() == ""

def poison(vm):
    vm.run("touch /root/poison; hostname poison; ip link set eth0 down; (sleep 999 >/dev/null 2>&1 &)")
    assert not is_clean(vm)

def panic(vm):
    vm.run("(sleep 0.1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
    vm.console.wait_for("end Kernel panic")

def kill(vm):
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            if b"guest=vm," in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(int(pid), signal.SIGKILL)
    vm.wait_until(lambda: not vm.is_running, timeout=60)

ENDINGS = {
    "destroyed": lambda vm: vm.domain.destroy(),
    "powered off": lambda vm: vm.shutdown(),
    "panicked": panic,
    "killed": kill,
}
"""


def test_each_test_of_a_module_finds_the_same_vm_clean(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import pytest
        from conftest import ENDINGS, SEEN, identity, is_clean, poison

        pytestmark = pytest.mark.embedvm(scope="module")
        heard = []

        @pytest.fixture
        def prepared(vm):
            vm.run("touch /tmp/mine")
            yield vm
            vm.run("rm /tmp/mine")

        def test_first(vm, embedvm_conn, embedvm_root):
            SEEN.update(identity=identity(vm), root=embedvm_root, address=vm.wait_until(vm.addresses, timeout=60))
            assert vm.origin.kind == "clone" and vm.origin.reason is None
            embedvm_conn.domainEventRegisterAny(None, 0, lambda *told: heard.append(told), None)
            vm.link(loss=1.0)
            vm.network.partition(vm)
            poison(vm)

        @pytest.mark.parametrize("number", range(2))
        def test_clean(prepared, number, embedvm_root, embedvm_conn):
            vm = prepared
            heard.clear()
            assert embedvm_conn.getURI() == f"qemu:///embed?root={embedvm_root}"
            assert (identity(vm), embedvm_root) == (SEEN["identity"], SEEN["root"])
            assert is_clean(vm)
            assert "reset, for its module keeps it" in str(vm.origin)
            poison(vm)
            vm.domain.suspend()
            vm.domain.resume()
            assert not heard
            vm.reset_to_template()
            assert is_clean(vm)
            vm.run("touch /tmp/mine")
            poison(vm)

        @pytest.mark.parametrize("ending", ENDINGS)
        def test_recreated(vm, ending, embedvm_root):
            assert identity(vm) == SEEN["identity"] and embedvm_root == SEEN["root"]
            assert is_clean(vm)
            assert vm.wait_until(vm.addresses, timeout=60) == SEEN["address"]
            vm.wait_until(lambda: vm.run("ping -c 1 -W 20 192.168.122.1", check=False).returncode == 0, timeout=60)
            assert "poison" not in vm.console.text
            ENDINGS[ending](vm)

        @pytest.mark.embedvm(memory=300)
        def test_another_kind(vm, embedvm_root):
            assert identity(vm) != SEEN["identity"] and embedvm_root == SEEN["root"]
            assert is_clean(vm)

        @pytest.mark.embedvm(boot="cold")
        def test_cold(vm, embedvm_root):
            assert vm.origin.kind == "cold" and "boot='cold'" in str(vm.origin)
            assert "each test of its module boots" in str(vm.origin)
            assert embedvm_root == SEEN["root"]

        @pytest.mark.embedvm(scope="function")
        def test_its_own(vm, embedvm_root):
            assert embedvm_root != SEEN["root"]

        def test_leaves_something(vm, embedvm_conn, embedvm_root):
            assert identity(vm) == SEEN["identity"] and embedvm_root == SEEN["root"]
            embedvm_conn.networkDefineXML("<network><name>left</name></network>")

        def test_has_another_root(vm, embedvm_root):
            assert identity(vm) != SEEN["identity"] and embedvm_root != SEEN["root"]
            assert not SEEN["root"].exists()
            assert "has a new root, for the test before left network 'left'" in str(vm.origin)

        def test_alone(embedvm_conn, embedvm_root):
            assert not embedvm_conn.listAllDomains()
        """
    )
    result = pytester.runpytest_subprocess("--embedvm", "-v")
    result.assert_outcomes(passed=13)
    assert not [*environments(str(pytester.path))]
    assert not [path for path in pytester.path.rglob("embedvm-module*") if path.is_dir()]


def test_classes_and_the_session(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    suite = """
        import pytest
        from conftest import SEEN, identity, is_clean, poison

        @pytest.mark.embedvm(scope="class")
        class TestOne:
            def test_a(self, vm, embedvm_root):
                SEEN["class"] = embedvm_root, identity(vm)
                poison(vm)

            def test_b(self, vm, embedvm_root):
                assert SEEN["class"] == (embedvm_root, identity(vm))
                assert is_clean(vm)

        @pytest.mark.embedvm(scope="class")
        class TestTwo:
            def test_c(self, vm, embedvm_root):
                assert SEEN["class"][0] != embedvm_root
                assert not SEEN["class"][0].exists()

        @pytest.mark.embedvm(scope="class")
        def test_in_no_class(vm, tmp_path, embedvm_root):
            assert embedvm_root.is_relative_to(tmp_path)

        def test_of_the_session(vm, embedvm_root):
            assert SEEN.setdefault("session", (embedvm_root, identity(vm))) == (embedvm_root, identity(vm))
            assert is_clean(vm)
            poison(vm)
    """
    pytester.makepyfile(test_one=suite, test_two=suite)
    result = pytester.runpytest_subprocess("--embedvm", "--embedvm-scope", "session")
    result.assert_outcomes(passed=10)
    assert not [*environments(str(pytester.path))]


def test_what_a_failed_test_leaves_is_its_own(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nembedvm_scope = module\n")
    pytester.makepyfile(
        """
        import pytest

        def test_one(vm):
            vm.console.sendline("echo first''ly")
            vm.console.wait_for("^firstly")

        def test_two(vm, vm_factory):
            vm.console.sendline("echo second''ly")
            vm.console.wait_for("^secondly")
            assert "firstly" not in vm.console.text
            vm_factory(name="other")
            with pytest.raises(ValueError, match="its VMs end with the test"):
                vm_factory(scope="module")
            raise AssertionError

        def test_three(vm):
            raise AssertionError
        """
    )
    result = pytester.runpytest_subprocess("--embedvm", "--embedvm-pause")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*its machines are as it left them*", "* console */embedvm-module0 vm"])
    folders = {path.name: path for path in (pytester.path / "test-results").iterdir() if path.is_dir()}
    assert len(folders) == 2, folders
    two, three = sorted(folders.values(), key=lambda path: "three" in path.name)
    assert b"secondly" in b"".join(path.read_bytes() for path in two.rglob("*.log"))
    assert sorted(path.name for path in two.iterdir()) == ["other", "vm"]
    assert [path.name for path in three.iterdir()] == ["vm"]
    for folder in (two, three):
        assert b"firstly" not in b"".join(path.read_bytes() for path in folder.rglob("*.log"))
    assert b"secondly" not in b"".join(path.read_bytes() for path in three.rglob("*.log"))


def test_a_test_that_fails_or_leaks_does_not_keep_the_next(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        import subprocess
        import pytest

        pytestmark = pytest.mark.embedvm(scope="module")

        def test_leaks(vm, embedvm_root):
            (embedvm_root / "file").touch()
            os.open(embedvm_root / "file", os.O_RDONLY)

        def test_next(vm, embedvm_root):
            assert vm.run("echo well").text == "well\\n"
            assert not (embedvm_root / "file").exists()
        """
    )
    result = pytester.runpytest_subprocess("--embedvm")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the test is over, and still there is descriptor * of this process, open on */file"])


def test_workers_keep_what_is_theirs(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    suite = """
        import pytest
        from conftest import is_clean, poison

        pytestmark = pytest.mark.embedvm(scope="module")

        @pytest.mark.parametrize("number", range(3))
        def test_it(vm, number):
            assert is_clean(vm)
            poison(vm)
    """
    pytester.makepyfile(test_one=suite, test_two=suite)
    pytester.runpytest_subprocess("--embedvm", "-n", "2").assert_outcomes(passed=6)
    assert not [*environments(str(pytester.path))]


def test_a_wrong_scope_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n\n@pytest.mark.embedvm(scope='package')\ndef test_it(vm): pass\n")
    result = pytester.runpytest_subprocess("--embedvm")
    result.stdout.fnmatch_lines(["*scope='package': possible is function or class or module or session*"])


def test_the_keyword_the_option_and_the_ini_value(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nembedvm_scope = module\n")
    assert Settings.of(pytester.parseconfig()).choices["scope"] == "module"
    assert Settings.of(pytester.parseconfig("--embedvm-scope", "class")).choices["scope"] == "class"
    pytester.makepyfile(
        """
        import pytest

        def test_ini(embedvm_domain_args): assert embedvm_domain_args.scope == "module"

        @pytest.mark.embedvm(scope="class")
        def test_marker(embedvm_domain_args): assert embedvm_domain_args.scope == "class"
        """
    )
    pytester.runpytest_subprocess("--embedvm").assert_outcomes(passed=2)


def test_what_is_left_in_a_root(tmp_path: Path) -> None:
    with libvirt.open(embed.make_uri(tmp_path)) as connection:
        before = inventory.take(connection, (), ())
        assert inventory.changes(before, inventory.take(connection, (), ())) == []
        network = connection.networkDefineXML("<network><name>left</name></network>")
        connection.secretDefineXML("<secret><usage type='ceph'><name>s</name></usage></secret>")
        connection.networkLookupByName("default").destroy()
        pool = connection.storagePoolLookupByName("default")
        pool.createXML("<volume><name>vol</name><capacity>1</capacity></volume>")
        connection.defineXML("<domain type='qemu'><name>d</name><memory>1</memory><os><type>hvm</type></os></domain>")
        words = inventory.changes(before, inventory.take(connection, (), ()))
        assert words[0] == "left domain 'd'"
        assert words[1] == "left network 'left'"
        assert words[2].startswith("left secret ")
        assert words[3:] == ["left volume 'vol' in pool 'default'", "changed network 'default'"]
        network.undefine()
        assert "left network 'left'" not in inventory.changes(before, inventory.take(connection, (), ()))


def test_a_template_of_the_users_own_is_what_it_goes_back_to(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import pytest
        from pytest_embedvm import embedvm
        from conftest import SEEN, identity

        @embedvm.template(network="none")
        def database(vm):
            vm.run("echo rows >/root/database")

        pytestmark = pytest.mark.embedvm(scope="module", network="none")

        @pytest.mark.embedvm(template=database)
        @pytest.mark.parametrize("number", range(2))
        def test_it(vm, number):
            assert SEEN.setdefault("uuid", vm.domain.UUIDString()) == vm.domain.UUIDString()
            assert vm.run("cat /root/database").text == "rows\\n"
            vm.run("rm /root/database")
            vm.reset_to_template()
            assert vm.run("cat /root/database").text == "rows\\n"
            vm.run("rm /root/database")

        def test_another(vm):
            assert vm.run("ls /root").text == ""
        """
    )
    pytester.runpytest_subprocess("--embedvm").assert_outcomes(passed=3)
