"""ahead: what the next test wants is there when it begins; counted, and what tests leave is found all the same."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_embedvm.plugin import ahead as module
from pytest_embedvm.plugin.ahead import Ahead
from pytest_embedvm.plugin.recipe import _uses_only_ours
from pytest_embedvm.plugin.slots import Slots
from tests.plugin.conftest import environments
from tests.plugin.test_session import line_of, qemus, read_until, started, wait_gone

#: Every clone is noted with its process; `patiently` ends a test only when the next one's VM is ready.
CONFTEST = """
import os, time
from pathlib import Path
import pytest
from pytest_embedvm import embed
from pytest_embedvm.plugin.settings import AHEAD

HERE = Path(__file__).parent

def noting(*arguments, really=embed.clone, **keywords):
    with open(HERE / "clones", "a") as file:
        file.write(f"{os.getpid()}\\n")
    return really(*arguments, **keywords)

embed.clone = noting

@pytest.fixture
def patiently(request):
    def wait():
        pool = request.config.stash[AHEAD]._pool
        deadline = time.monotonic() + 120
        while pool._plan or pool._wanted and not (pool._spares and pool._spares[0].future.done()):
            assert time.monotonic() < deadline, (pool._plan, pool._wanted, pool._spares)
            time.sleep(0.01)
        return pool
    return wait

def pytest_runtest_logreport(report):
    if report.when == "call" and not hasattr(report, "node"):
        with open(HERE / "origins", "a") as file:
            file.writelines(f"{os.getpid()} {v}\\n" for k, v in report.user_properties if k == "embedvm_origin")
"""


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_each_clone_that_is_made_ahead_is_handed_over(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import os, pytest, time

        SEEN = set()

        @pytest.mark.parametrize("number", range(8))
        def test_it(vm, embedvm_root, embedvm_conn, patiently, number):
            assert vm.run("hostname").text == "vm\\n"
            assert abs(time.time() - float(vm.run("date +%s").text)) < 2
            assert (embedvm_root / "run").is_dir()
            assert embedvm_conn.lookupByName("vm").isActive()
            assert vm.run("test -e /tmp/mark || touch /tmp/mark; echo new", check=False).text == "new\\n"
            uuid = vm.domain.UUIDString()
            assert uuid not in SEEN
            SEEN.add(uuid)
            patiently()
        """
    )
    pytester.runpytest_subprocess("--embedvm", "-n", "2").assert_outcomes(passed=8)
    made, origins = (
        lines(pytester.path / "clones"),
        [line.split(maxsplit=1) for line in lines(pytester.path / "origins")],
    )
    workers = set(made)
    assert len(made) == len(origins) == 8, "none was made that nobody took"
    pooled = Counter("ahead of time" in origin for _, origin in origins)
    assert pooled == {True: 8 - len(workers), False: len(workers)}, "the first test of each worker makes its own"
    assert list(environments(str(pytester.path))) == []


def test_what_a_test_leaves_is_found(pytester: pytest.Pytester) -> None:
    """At once where it shows before its VM has ended; else at the next test."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import os, threading
        from pytest_embedvm import libvirt
        from pytest_embedvm.plugin import removal

        kept = []

        def test_first(vm, patiently):
            patiently()

        def test_descriptor(vm, embedvm_root, patiently):
            assert vm.origin.pooled
            kept.append(os.open(embedvm_root, os.O_RDONLY))
            patiently()

        def test_connection(vm, embedvm_root, patiently):
            assert vm.origin.pooled
            kept.append(libvirt.open(f"qemu:///embed?root={os.path.realpath(embedvm_root)}"))
            patiently()

        def test_that_is_behind_it(vm, embedvm_root, patiently, monkeypatch):
            assert vm.origin.pooled
            (embedvm_root / "busy").mkdir()
            pool = patiently()
            pool.leave(lambda root=os.path.realpath(embedvm_root): kept.append(os.open(root, os.O_RDONLY)))

        def test_that_has_to_hear_of_it(vm, patiently):
            assert vm.origin.pooled
            patiently()
            patiently().settle()

        def test_innocent(vm, tmp_path, patiently):
            assert vm.origin.pooled
            patiently().settle()
            assert len(list((tmp_path.parent / "embedvm-pool").iterdir())) == 2, "kept by a connection, and mine"
        """
    )
    result = pytester.runpytest_subprocess("--embedvm", "-v")
    result.assert_outcomes(passed=6, errors=3)
    result.stdout.re_match_lines(
        [
            r"embedvm: the test is over, and still there is descriptor \d+ of this process, open on /.*/embedvm-pool/1",
            r"embedvm: the test is over, and still there is lock /.*/embedvm-pool/2/run/qemu/driver.pid, of process .*",
            r"embedvm: .* descriptor \d+ of this process, .*/embedvm-pool/3 \(left by .*::test_that_is_behind_it\)",
        ]
    )
    result.stdout.re_match_lines_random(
        [
            r"ERROR .*::test_descriptor.*",
            r"ERROR .*::test_connection.*",
            r"ERROR .*::test_that_has_to_hear_of_it.*",
        ]
    )
    assert list(environments(str(pytester.path))) == []


def test_one_vm_at_a_time_over_two_workers(pytester: pytest.Pytester) -> None:
    """A spare is no reason for another worker to wait; one test that wants two is told that it cannot have them."""
    pytest.importorskip("xdist")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import pytest
        from pytest_embedvm.errors import OperationFailed

        @pytest.mark.parametrize("number", range(4))
        def test_it(vm, number):
            assert vm.run("echo here").text == "here\\n"

        def test_two(vm, vm_factory):
            with pytest.raises(OperationFailed, match="of the 1 that may live at once, 1 do: 1 by .*::test_two"):
                vm_factory()
            vm.domain.destroy()
            assert vm_factory().run("echo there").text == "there\\n"
        """
    )
    cache = pytester.mkdir("slots")
    count = "embedvm_max_vms = 1\nembedvm_pool = 1\n"
    pytester.makeini(f"[pytest]\n{count}")
    pytester.makeconftest(
        CONFTEST
        + f"\nfrom pytest_embedvm.plugin import slots\nslots.default_cache_dir = lambda: Path({str(cache)!r})\n"
    )
    pytester.runpytest_subprocess("--embedvm", "-n", "2").assert_outcomes(passed=5)
    assert Slots(cache / "slots", 1).holders() == []


def test_nothing_outlives_a_session_that_is_killed(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import time
        def test_first(vm, patiently):
            patiently()
            print("\\nready", flush=True)
            time.sleep(600)
        def test_second(vm): pass
        """
    )
    with started(pytester) as child:
        read_until(line_of(child.stdout), "ready")
        machines = qemus(pytester)
        assert len(machines) == 2
        descriptors = [os.pidfd_open(pid) for pid in machines]
        child.kill()
        wait_gone(descriptors)


def test_an_interrupt_ends_what_waits(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import os, threading, time, warnings
        def test_first(vm, patiently):
            patiently()
            print("\\nready", flush=True)
            time.sleep(600)
        def test_second(vm): pass
        """
    )
    with started(pytester) as child:
        read_until(line_of(child.stdout), "ready")
        descriptors = [os.pidfd_open(pid) for pid in qemus(pytester)]
        assert len(descriptors) == 2
        child.send_signal(signal.SIGINT)
        assert child.wait(120) == pytest.ExitCode.INTERRUPTED
        wait_gone(descriptors)
    assert list(pytester.path.glob("base/embedvm-pool")) == []


@pytest.mark.parametrize("word", ["--embedvm-max-vms=0", "--embedvm-pool=-1", "--embedvm-max-vms=many"])
def test_a_number_that_is_none(pytester: pytest.Pytester, word: str) -> None:
    result = pytester.runpytest("--embedvm", word)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.re_match_lines([r"ERROR: embedvm_(max_vms|pool)=.*: it must be a whole number, [01] or more"])


class Item(SimpleNamespace):
    """A test that wants `recipe`, and asks for `vm` if it has one."""

    def __init__(self, recipe: Any) -> None:
        there = {"vm": [SimpleNamespace()]} if recipe else {}
        super().__init__(
            stash=pytest.Stash(),
            nodeid="test_it",
            recipe=recipe,
            config=SimpleNamespace(stash={module.SETTINGS: None}),
            _fixtureinfo=SimpleNamespace(name2fixturedefs=there),
        )


@pytest.fixture
def ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """One whose pool only notes what it is told; it has what `ready` says."""
    monkeypatch.setattr(module, "recipe_of", lambda item, _settings: item.recipe)
    ahead: Any = Ahead(tmp_path / "pool", Slots(tmp_path / "slots", 1), 1)
    ahead.asked, ahead.plans, ahead.ready = [], [], None

    def take(recipe: object) -> object:
        ahead.asked.append(recipe)
        return ahead.ready

    monkeypatch.setattr(ahead._pool, "take", take)
    monkeypatch.setattr(ahead._pool, "prepare", ahead.plans.append)
    yield ahead
    ahead.close()


def test_what_it_is_made_of_has_changed(ahead: Any, tmp_path: Path) -> None:
    """A kernel that the test before has built anew is not the one of which the clone was made."""
    kernel = tmp_path / "kernel"
    kernel.write_text("old")
    item = Item(SimpleNamespace(key="a", files=[kernel]))
    ahead.take(item)
    ahead.prepare(item)
    assert ahead.plans[-1]() is item.recipe
    ahead.take(item)
    kernel.write_text("new one")
    ahead.take(item)
    assert ahead.asked == [None, item.recipe, None]


def test_where_tests_are_too_short_it_is_tried_again_less_and_less(ahead: Any) -> None:
    recipe = SimpleNamespace(key="a", files=[])
    tried = []
    for number in range(60):
        item = Item(recipe)
        ahead.prepare(item)
        if ahead.plans[-1] is not None:
            tried.append(number)
        ahead.take(item)
    assert tried == [0, 2, 5, 10, 19, 36, 53]
    made = SimpleNamespace(root=Path("/there"))
    ahead.ready = SimpleNamespace(slot=SimpleNamespace(give=lambda _owner: None), made=made)
    ahead._skipped, ahead._in_use = 0, {made.root: set()}
    item = Item(recipe)
    ahead.prepare(item)
    ahead.take(item)
    ahead.ready = None
    for expected in (True, False, True):
        item = Item(recipe)
        ahead.prepare(item)
        assert (ahead.plans[-1] is not None) == expected, "one that came in time, and all begins anew"
        ahead.take(item)


def test_nothing_is_planned_for_who_wants_nothing(ahead: Any) -> None:
    ahead.prepare(None)
    ahead.prepare(Item(None))
    assert ahead.plans == [None, None]
    unknown = Item(SimpleNamespace(key="a", files=[]))
    ahead.prepare(unknown)
    unknown.recipe = None
    assert ahead.plans[-1]() is None
    ahead.take(unknown)
    ahead.prepare(Item(SimpleNamespace(key="a", files=[])))
    assert ahead.plans[-1] is not None, "it was not late, there was nothing to make"


def test_what_other_fixtures_do_before_the_vm_is_there_is_not_skipped(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def configured(embedvm_root): (embedvm_root / "etc").mkdir()
        @pytest.fixture
        def through_another(configured): pass
        @pytest.fixture
        def with_network(embedvm_conn): pass
        @pytest.fixture
        def logged_in(vm, embedvm_conn): pass

        def test_plain(vm, embedvm_root, embedvm_conn, vm_factory, tmp_path): pass
        def test_logged_in(logged_in): pass
        def test_configured(vm, configured): pass
        def test_through_another(vm, through_another): pass
        def test_with_network(with_network, vm): pass
        def test_domain_only(embedvm_domain): pass
        def test_none(tmp_path): pass
        """
    )
    items, _ = pytester.inline_genitems()
    assert [item.name for item in items if _uses_only_ours(item)] == ["test_plain", "test_logged_in"]
