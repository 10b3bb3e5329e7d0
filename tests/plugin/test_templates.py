"""templates: VMs that are cloned, and those that boot and why; templates that are made once, damaged, or cannot be."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import pytest

from pytest_embedvm import embedvm
from pytest_embedvm.guest import CannotClone
from pytest_embedvm.guest.cloud_init import Seed
from pytest_embedvm.plugin.declared import Declarations
from pytest_embedvm.plugin.markers import DomainArguments
from pytest_embedvm.plugin.origins import Origins, summary
from pytest_embedvm.plugin.settings import MADE, ORIGIN, Settings
from pytest_embedvm.plugin.templates import Blueprints
from pytest_embedvm.qemu.cache import default_cache_dir

Run: TypeAlias = Callable[..., pytest.RunResult]

#: A machine whose firmware finds nothing to boot.
TINY: Final = """<domain type='qemu'><name>tiny</name>{more}<memory unit='MiB'>32</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{devices}</devices></domain>"""


def private_cache(folder: Path) -> Path:
    """A cache without templates, and with what takes long to find out or fetch."""
    real = default_cache_dir()
    folder.mkdir(mode=0o700)
    for name in ("capabilities", "packages"):
        (real / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / name).symlink_to(real / name)
    return folder


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return private_cache(tmp_path_factory.mktemp("templates") / "cache")


@pytest.fixture
def run(pytester: pytest.Pytester, shared_cache: Path) -> Run:
    """An inner run, without a pool, on the cache that this file's tests share unless it is told another."""

    def start(*options: str, cache: Path = shared_cache) -> pytest.RunResult:
        words = ("--embedvm", "--embedvm-pool=0", "-W", "error", f"--embedvm-cache-dir={cache}", *options)
        return pytester.runpytest_subprocess(*words)

    return start


def overwrite(path: Path) -> None:
    """Fill the file at PATH with zeros, so that it looks as before."""
    status = path.stat()
    path.chmod(0o600)
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def the_template(cache: Path) -> Path:
    (found,) = (cache / "templates").glob("[0-9a-f]*/domain.xml")
    return found.parent


def test_what_a_run_says_of_its_vms(pytester: pytest.Pytester, run: Run) -> None:
    """One template for two workers; each VM says where it came from, and so does the run."""
    pytester.makepyfile(
        """
        import pytest
        from pytest_embedvm.guest import Origin

        @pytest.mark.parametrize("number", [1, 2])
        def test_clones(vm, vm_factory, number):
            other = vm_factory(name="other")
            assert vm.origin == Origin("clone", template=vm.origin.template)
            assert other.origin == vm.origin
            assert [vm.run("hostname").text, other.run("hostname").text] == ["vm\\n", "other\\n"]
            assert vm.domain.UUID() != other.domain.UUID()
            assert vm.console.wait_for("Linux version", timeout=1)  # of the template's boot
            vm.run("echo said >/dev/console")
            vm.console.wait_for("^said$", timeout=60)

        @pytest.mark.embedvm(boot="cold")
        def test_boots(vm, vm_factory):
            assert vm.origin == Origin("cold", "boot='cold'")
            assert vm_factory(boot="clone").origin.kind == "clone"

        @pytest.mark.embedvm(capture=True)
        def test_captures(vm):
            assert vm.origin.kind == "clone"
            vm.wait_until(vm.addresses, 60)
            (capture,) = vm.captures
            vm.wait_until(lambda: capture.flush() or capture.frames, 60, message="a frame")

        def test_does_not_wait(embedvm_vm):
            assert embedvm_vm.origin == Origin("cold")
        """
    )
    cache = private_cache(pytester.path / "cache")
    result = run("-n2", "-v", "--junitxml=report.xml", "-p", "no:randomly", cache=cache)
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines_random(
        [
            "embedvm: VMs are clones where they can be (embedvm_boot=auto); * in the cache, * MiB*",
            "*PASSED (2 × cloned from *) *test_clones?1?*",
            "*PASSED (booted: boot='cold'; cloned from *) *test_boots*",
            "*PASSED (booted) *test_does_not_wait*",
            "embedvm: VMs: 6 cloned, 2 booted (boot='cold')",
            "embedvm: the template 'the built-in guest, 256 MiB' (*) was made in * s",
        ]
    )
    report = (pytester.path / "report.xml").read_text()
    assert report.count(f'name="{ORIGIN}"') == 8
    assert report.count(f'name="{MADE}"') == 1
    again = run("-k", "clones", "--embedvm-create-templates", "-n2", cache=cache)
    again.assert_outcomes(passed=2)
    assert len(re.findall(r"^embedvm: the template .* was made in", again.stdout.str(), re.MULTILINE)) == 1
    again.stdout.fnmatch_lines(["embedvm: *1 template in the cache, * MiB, made anew in this run*"])
    assert "was made in" not in run("-k", "clones", cache=cache).stdout.str()


@pytest.mark.parametrize("name", ["state", "ram"])
def test_a_template_that_does_not_restore_is_made_anew(pytester: pytest.Pytester, run: Run, name: str) -> None:
    cache = private_cache(pytester.path / "cache")
    pytester.makepyfile("def test_it(vm): assert vm.run('echo $((6 * 7))').text == '42\\n'\ndef test_next(vm): pass")
    run("-k", "next", cache=cache).assert_outcomes(passed=1)
    overwrite(the_template(cache) / name)
    result = run("-p", "no:randomly", cache=cache)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*; it is dropped, and made anew", "embedvm: VMs: 2 cloned"])
    assert result.stdout.str().count("it is dropped") == 1
    assert result.stdout.str().count("was made in") == 1


def test_what_cannot_be_cloned_boots_and_says_why(pytester: pytest.Pytester, run: Run) -> None:
    words = "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value='-S'/></q:commandline>"
    uuid = "<uuid>11111111-2222-3333-4444-555555555555</uuid>"
    mac = "<interface type='user'><mac address='52:54:00:00:00:01'/></interface>"
    pytester.makepyfile(
        f"""
        import pytest

        class Base:
            @pytest.fixture
            def vm(self, embedvm_vm): return embedvm_vm  # nobody in it would answer

        class TestWords(Base):
            @pytest.fixture
            def embedvm_domain_xml(self): return {TINY.format(more=words, devices="")!r}
            def test_auto(self, vm): assert "its <qemu:commandline>" in str(vm.origin)
            @pytest.mark.embedvm(boot="clone")
            def test_clone(self, vm): pass

        class TestIdentity(Base):
            @pytest.fixture
            def embedvm_domain_xml(self): return {TINY.format(more=uuid, devices="")!r}
            def test_auto(self, vm): assert str(vm.origin) == "booted: its XML says which uuid it has"

        class TestCard(Base):
            @pytest.fixture
            def embedvm_domain_xml(self): return {TINY.format(more="", devices=mac)!r}
            def test_auto(self, vm): assert str(vm.origin) == "booted: its XML says which MAC address it has"

        class TestFile(Base):
            @pytest.fixture
            def embedvm_domain_xml(self, tmp_path):
                (tmp_path / "disk").write_bytes(bytes(512))
                disk = f"<disk type='file'><source file='{{tmp_path}}/disk'/><target dev='vda' bus='virtio'/></disk>"
                return {TINY.format(more="", devices="%s")!r} % disk
            def test_auto(self, vm): assert "names a file of this test" in str(vm.origin)
        """
    )
    result = run("-v", "-p", "no:randomly")
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*TestWords::test_auto PASSED (booted: *)*",
            "*TestWords::test_clone ERROR*",
            "embedvm: boot='clone', and it cannot be cloned: *",
            "embedvm: VMs: 4 booted (*)",
        ]
    )


VOLUME: Final = "<disk type='volume'><source pool='default' volume='v'/><target dev='vda'/></disk>"
SHARE: Final = "<filesystem><source dir='/private/share'/><target dir='x'/></filesystem>"


@pytest.mark.parametrize(
    ("devices", "keywords", "reason"),
    [
        (VOLUME, {}, "nobody can tell when its volume 'v' changes"),
        (SHARE, {}, "its XML names a file of this test, below /private"),
        ("<interface type='network'/>", {"network": "host"}, "the host's network would hear it as its template"),
        ("", {"cloud_init": Seed()}, "cloud-init reads its seed at the first boot"),
    ],
)
def test_what_no_template_can_stand_for(devices: str, keywords: dict[str, Any], reason: str) -> None:
    blueprints = Blueprints(cast("Settings", None))
    with pytest.raises(CannotClone, match=re.escape(reason)):
        blueprints.of(
            TINY.format(more="", devices=devices),
            DomainArguments(**keywords),
            [],
            overlays={},
            private=Path("/private"),
        )


def test_a_guest_that_does_not_come_up_is_tried_once(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest
        pytestmark = pytest.mark.embedvm(cmdline="rdinit=/bin/false", timeout=600)

        def test_first(vm): pass
        def test_second(vm): pass
        @pytest.mark.embedvm(cmdline="rdinit=/bin/sh", timeout=1)
        def test_impatient(vm): pass
        """
    )
    result = run("-p", "no:randomly")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_first*",
            "E *GuestStopped: the guest is dead (Kernel panic - *",
            "*embedvm: vm: last 20 lines of console serial0*",
            "*end Kernel panic*",
            "*ERROR at setup of test_second*",
            "E *TemplateFailed: *did not come up earlier in this run: the guest is dead (Kernel panic - *",
            "*ERROR at setup of test_impatient*",
            "E *WaitTimeout: an answer of the guest agent did not come within 1 s; *",
        ]
    )
    result.stdout.no_fnmatch_line("*pytest_embedvm/*.py:*")
    output = pytester.path / "test-results"
    name = pytester.path.name.removesuffix("0") + ".py"
    first = output / f"{name}-test_first" / "vm-setup"
    assert "Kernel panic" in (first / "serial0.log").read_text()
    assert not (output / f"{name}-test_second").exists()


DECLARED: Final = """
    import os
    from pathlib import Path

    import pytest

    from pytest_embedvm import embedvm

    HERE = Path(__file__).parent

    def note(word):
        with (HERE / "made").open("a") as file:
            file.write(word + "\\n")

    @embedvm.template(cmdline="quiet", inputs=["schema"], network="none")
    def database(vm):
        note("database")
        vm.write_text("/data", (HERE / "schema").read_text())

    @embedvm.template("filled", after=database)
    def fill(vm):
        note("filled")
        vm.run("echo row >>/data")

    @pytest.mark.embedvm(template=database)
    def test_the_function(vm, vm_factory):
        assert vm.read_text("/data") == "schema\\n"
        assert str(vm.origin) == "cloned from database"
        assert " quiet" in vm.run("cat /proc/cmdline").text
        vm.run("rm /data")
        assert vm_factory(template="filled").read_text("/data") == "schema\\nrow\\n"

    @pytest.mark.embedvm(template="filled")
    @pytest.mark.parametrize("number", [1, 2])
    def test_the_name(vm, number):
        assert vm.read_text("/data") == "schema\\nrow\\n"
        vm.run("rm /data")

    @pytest.mark.embedvm(template="of-the-conftest")
    def test_of_the_conftest(vm):
        assert vm.read_text("/data") == "schema\\nmore\\n"

    @pytest.mark.embedvm(template="unknown")
    def test_unknown(vm): pass
"""


def test_templates_of_the_users_own(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def embedvm_template(embedvm_template):
            @embedvm_template("of-the-conftest", after="database")
            def more(vm):
                vm.run("echo more >>/data")
            return embedvm_template
        """
    )
    pytester.makepyfile(DECLARED)
    made = pytester.path / "made"
    (pytester.path / "schema").write_text("schema\n")
    result = run("-n2")
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(["E *LookupError: no template 'unknown'; there are *database, filled*"])
    assert sorted(made.read_text().split()) == ["database", "filled"]
    run("-k", "test_the", "-n2").assert_outcomes(passed=3)
    assert sorted(made.read_text().split()) == ["database", "filled"]
    (pytester.path / "schema").write_text("schema\n#")
    run("-k", "test_the_function").assert_outcomes(failed=1)
    assert sorted(made.read_text().split()) == ["database", "database", "filled"]
    # Where it boots it is prepared as its template would be.
    (pytester.path / "schema").write_text("schema\n")
    run("-k", "test_the_name and 1", "--embedvm-boot=cold").assert_outcomes(passed=1)
    assert made.read_text().split()[-2:] == ["database", "filled"]


def test_a_clone_that_fails_shows_what_its_template_had_shown(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("def test_it(vm):\n    vm.run('echo of the clone >/dev/console')\n    assert 0")
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*embedvm: vm: last 20 lines of console serial0*", "*Run /init*", "of the clone"])
    (kept,) = (pytester.path / "test-results").glob("*/vm")
    assert "Linux version" in (kept / "template-console.log").read_text()
    assert (kept / "serial0.log").read_text().split() == ["of", "the", "clone"]


def test_a_preparation_that_fails_is_tried_once(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_embedvm import embedvm

        @embedvm.template(network="none")
        def broken(vm):
            vm.run("echo preparing >/dev/console")
            raise ValueError("on purpose")

        @pytest.mark.embedvm(template=broken)
        @pytest.mark.parametrize("number", [1, 2])
        def test_it(vm, number): pass
        """
    )
    result = run("-p", "no:randomly")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            'E *ValueError: on purpose',
            "*embedvm: vm: last 20 lines of console serial0*",
            "E *TemplateFailed: broken did not come up earlier in this run: on purpose",
        ]
    )  # fmt: skip


def test_what_a_template_cannot_say_is_said_at_once(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        test_test="""
        from pytest_embedvm import embedvm

        @embedvm.template(timeout=1)
        def own(vm): pass
        """,
        test_after="""
        from pytest_embedvm import embedvm

        @embedvm.template(after="other", memory=512)
        def own(vm): pass
        """,
        test_marker="""
        import pytest

        @pytest.mark.embedvm(template=7)
        def test_it(vm): pass
        """,
        test_circle="""
        import pytest
        from pytest_embedvm import embedvm

        @embedvm.template(after="second")
        def first(vm): pass

        @embedvm.template(after="first")
        def second(vm): pass

        @pytest.mark.embedvm(template=first)
        def test_it(vm): pass
        """,
    )
    result = run("--continue-on-collection-errors")
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines_random(
        [
            "E *TypeError: template 'own': timeout is a test's to say, not a template's",
            "E *TypeError: template 'own': memory cannot be said: *",
            "*template=7: must be a template, or its name",
            "E *LookupError: template '*' goes on from itself",
        ]
    )


def test_the_sentence_in_the_end() -> None:
    origins = Origins()
    assert list(origins.lines()) == []
    counted = {"cloned from 1": 5, "cloned from 2 ahead of time": 2, "booted": 1, "booted: a: b": 3, "booted: c": 1}
    origins._origins.update(counted)
    assert list(origins.lines()) == ["VMs: 7 cloned, 5 booted (3 × a: b; c)"]
    del counted["booted: a: b"], counted["booted: c"], counted["booted"]
    assert summary(type(origins._origins)(counted)) == "VMs: 7 cloned"


def test_a_template_needs_no_parentheses() -> None:
    def needs_no_parentheses(vm: object) -> None: ...

    declared = embedvm.template(needs_no_parentheses)
    assert (declared.name, declared.prepare, declared.after) == ("needs_no_parentheses", needs_no_parentheses, None)
    assert Declarations()["needs_no_parentheses"] is declared
