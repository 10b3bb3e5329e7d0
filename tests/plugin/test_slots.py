"""slots: never more than the limit, in order of arrival, freed by death, over all processes."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import pytest

from pytest_embedvm.errors import OperationFailed, OperationTimeout, SystemFailure
from pytest_embedvm.plugin import slots as module
from pytest_embedvm.plugin.slots import Holder, Slot, Slots

SPAWN: Final = multiprocessing.get_context("spawn")
DEADLINE_S: Final = 120.0


def serve(name: str, orders: Connection) -> None:
    """A process that takes or releases slots in a folder, as it is told; it answers each order once it is done."""
    taken: list[Slot] = []
    known: dict[Path, Slots] = {}
    for order, folder in iter(orders.recv, None):
        answer = "done"
        try:
            if order == "take":
                slots = known.setdefault(folder, Slots(folder, 2))
                taken.append(slots.take(owner=name))
            else:
                taken.pop().release()
        except (OperationFailed, OperationTimeout) as error:
            answer = error.message
        orders.send(answer)


class Other:
    """Another process, by a name. It goes on to another test unless it was killed, or still waits."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path()
        self.took = 0
        self._orders, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=serve, args=(name, theirs))
        self._process.start()
        theirs.close()

    def begin(self, order: str) -> None:
        self.took += 1 if order == "take" else -1
        self._orders.send((order, self.folder))

    def answer(self) -> str:
        assert self._orders.poll(DEADLINE_S), "no answer"
        return str(self._orders.recv())

    def do(self, order: str) -> str:
        self.begin(order)
        return self.answer()

    @property
    def waits(self) -> bool:
        return not self._orders.poll(0)

    def kill(self) -> None:
        self.took = -1
        self._process.kill()
        self._process.join(DEADLINE_S)
        self._orders.close()


@pytest.fixture(scope="module")
def crew() -> Iterator[dict[str, Other]]:
    """Processes by their names: each takes a second to start."""
    crew: dict[str, Other] = {}
    yield crew
    for other in crew.values():
        other.kill()


@pytest.fixture
def others(tmp_path: Path, crew: dict[str, Other]) -> Iterator[list[Other]]:
    """Three processes that share two slots, with this one."""
    for name in ("ann", "bob", "cy"):
        if name not in crew:
            crew[name] = Other(name)
        crew[name].folder = tmp_path
    yield [crew[name] for name in ("ann", "bob", "cy")]
    for name, other in list(crew.items()):
        if other.took:
            crew.pop(name).kill()


def wait_until_waiting(slots: Slots, number: int) -> None:
    """Return when NUMBER of processes wait: whoever draws a number tells."""
    with slots.watch() as watch:
        while len(queued(slots)) < number:
            assert watch.wait(DEADLINE_S)


def queued(slots: Slots) -> list[int]:
    with module._opened(slots._queue) as queue:
        last = int(os.pread(queue, 20, 0) or b"0") + 10
        return [number for number in range(1, last) if module._is_held(queue, number, 1)]


def test_so_many_and_no_more(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", 2)
    first, second = slots.take(owner="a"), slots.take_now(owner="b", spare=True)
    assert second is not None
    assert slots.take_now(owner="c") is None
    assert [(holder.owner, holder.pid, holder.spare) for holder in slots.holders()] == [
        ("a", os.getpid(), False),
        ("b", os.getpid(), True),
    ]
    second.give("a longer name")
    assert [(holder.owner, holder.spare) for holder in slots.holders()] == [("a", False), ("a longer name", False)]
    first.release()
    first.release()
    with slots.take(owner="d"):
        assert [holder.owner for holder in slots.holders()] == ["d", "a longer name"]
    second.release()
    assert slots.holders() == []
    assert not slots.waiting()


def test_other_processes_count(tmp_path: Path, others: list[Other]) -> None:
    slots = Slots(tmp_path, 2)
    ann, bob, _ = others
    assert ann.do("take") == bob.do("take") == "done"
    assert slots.take_now(owner="me") is None
    with pytest.raises(OperationTimeout) as caught:
        slots.take(owner="me", timeout=0)
    said = "of the 2 that may live at once, 2 do: 1 by (ann|bob) .process [0-9]+., 1 by (ann|bob) .*--embedvm-max-vms"
    assert re.search(said, caught.value.message)
    assert not slots.waiting()
    bob.do("release")
    slots.take(owner="me").release()


@pytest.mark.parametrize("end", ["release", "kill"])
def test_who_waits_gets_it_when_its_holder_ends(tmp_path: Path, others: list[Other], end: str) -> None:
    slots = Slots(tmp_path, 2)
    ann, bob, cy = others
    assert ann.do("take") == bob.do("take") == "done"
    cy.begin("take")
    wait_until_waiting(slots, 1)
    assert slots.waiting()
    assert cy.waits
    if end == "kill":
        ann.kill()
    else:
        ann.do("release")
    assert cy.answer() == "done"
    assert {holder.owner for holder in slots.holders()} == {"bob", "cy"}
    assert not slots.waiting()


def test_they_get_it_in_the_order_of_their_asking(tmp_path: Path, others: list[Other]) -> None:
    slots = Slots(tmp_path, 2)
    mine = [slots.take(owner="me"), slots.take(owner="me")]
    for number, other in enumerate(others):
        other.begin("take")
        wait_until_waiting(slots, number + 1)
    mine.pop().release()
    assert others[0].answer() == "done"
    assert slots.take_now(owner="me") is None, "somebody waits"
    assert others[1].waits
    mine.pop().release()
    assert others[1].answer() == "done"
    assert others[2].waits


def test_one_who_dies_waiting_is_passed_over(tmp_path: Path, others: list[Other]) -> None:
    slots = Slots(tmp_path, 2)
    mine = [slots.take(owner="me"), slots.take(owner="me")]
    for number, other in enumerate(others[:2]):
        other.begin("take")
        wait_until_waiting(slots, number + 1)
    others[0].kill()
    mine[0].release()
    assert others[1].answer() == "done"
    mine[1].release()


def test_when_all_who_have_some_wait_for_more_the_last_one_is_told(tmp_path: Path, others: list[Other]) -> None:
    slots = Slots(tmp_path, 2)
    ann, bob, cy = others
    assert ann.do("take") == bob.do("take") == "done"
    cy.begin("take")  # has none: it waits, and is no reason to give up
    wait_until_waiting(slots, 1)
    ann.begin("take")
    wait_until_waiting(slots, 2)
    told = bob.do("take")
    assert "each of them waits for one more, so none will ever be free" in told
    assert re.search("1 by ann .process [0-9]+., 1 by bob", told)
    bob.do("release")
    assert cy.answer() == "done", "it came first"
    assert ann.waits
    assert cy.do("release") == "done"
    assert ann.answer() == "done"


def test_one_who_has_them_all_is_told_at_once(tmp_path: Path) -> None:
    slots = Slots(tmp_path, 2)
    with (
        slots.take(owner="tests/test_a.py::test_three"),
        slots.take(owner="tests/test_a.py::test_three"),
        pytest.raises(OperationFailed, match=r"2 by tests/test_a.py::test_three \(process \d+\); each of them waits"),
    ):
        slots.take(owner="tests/test_a.py::test_three")
    assert slots.holders() == []


def test_who_waits_does_not_wake_himself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    class Counting(Slots):
        def holders(self) -> list[Holder]:
            looks.append(1)
            return super().holders()

    slots = Counting(tmp_path, 1)
    slot = slots.take(owner="somebody else")
    monkeypatch.setattr(slot, "say_waiting", lambda _number: None)
    with pytest.raises(OperationTimeout):
        slots.take(owner="me", timeout=2 * module.LOOK_S)
    assert len(looks) < 20
    slot.release()


def test_a_spare_is_no_reason_to_give_up(tmp_path: Path) -> None:
    """Whose thread is told that somebody waits, and gives it up."""
    slots = Slots(tmp_path, 2)
    spare = slots.take_now(owner="pool", spare=True)
    assert spare is not None
    watch = slots.watch()

    def give_up() -> None:
        with watch:
            assert watch.wait(DEADLINE_S)
        assert slots.waiting()
        spare.release()

    pool = threading.Thread(target=give_up)
    pool.start()
    with slots.take(owner="test"), slots.take(owner="test"):
        assert [holder.owner for holder in slots.holders()] == ["test", "test"]
    pool.join()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_holds_nothing(tmp_path: Path) -> None:
    slots = Slots(tmp_path, 1)
    slot = slots.take(owner="parent")
    ours, theirs = multiprocessing.Pipe()
    child = os.fork()
    if child == 0:
        ours.close()
        slot.release()  # nothing: it is the parent's
        theirs.send("forked")
        theirs.poll(DEADLINE_S)
        os._exit(0)
    try:
        assert ours.poll(DEADLINE_S)
        assert len(slots.holders()) == 1
        # As if the parent had died: its own descriptor goes, without a word of unlocking.
        module._close(slot._descriptor)
        assert slots.holders() == []
    finally:
        ours.close()
        theirs.close()
        os.waitpid(child, 0)


def test_a_record_of_another_version_is_somebody(tmp_path: Path) -> None:
    slots = Slots(tmp_path, 1)
    with slots.take(owner="me"):
        (tmp_path / "slots").write_bytes(b'{"unknown": 1}'.ljust(2048))
        assert [holder.owner for holder in slots.holders()] == ["somebody who has just taken it"]


def test_a_long_name_fits(tmp_path: Path) -> None:
    slots = Slots(tmp_path, 2)
    with slots.take(owner="\U0001f600" * 500), slots.take(owner="b"):
        first, second = slots.holders()
        assert set(first.owner) == {"\U0001f600"}
        assert second.owner == "b"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemFailure, match=r"cannot be counted in .*file/slots"):
        Slots(tmp_path / "file" / "slots", 1)
