"""A forked child has its parent's objects and none of its threads: it is told, and spoils nothing."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_embedvm import libvirt, libvirt_qemu
from pytest_embedvm.guest import VM
from tests.live.conftest import PAUSED, Open, uri, xml

#: A child that hangs is killed after so many seconds, and says nothing then.
DEADLINE_S = 60

SERIAL = "<serial type='pty'/>"
AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


@pytest.fixture(autouse=True)
def _forks_on_purpose() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: a fork of a process with threads
        yield


def in_child(work: Callable[[], str]) -> str:
    """What WORK returns, or raises, in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(DEADLINE_S)
        try:
            said = work()
        except BaseException as error:  # noqa: BLE001 - told to the parent
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode(errors="replace"))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read().decode()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child was killed by signal {status}: it hung"
    return said


class Objects:
    """One of each kind, alive."""

    def __init__(self, connection: libvirt.virConnect) -> None:
        self.connection = connection
        self.domain = connection.createXML(xml("a", SERIAL), PAUSED)
        self.stream = connection.newStream(0)
        self.domain.openConsole(None, self.stream, 0)
        self.vm = VM(connection.createXML(xml("b", SERIAL + AGENT)))

    def each(self) -> Iterator[tuple[str, Callable[..., object]]]:
        """Every public method, and what is no method as one."""
        named = {"connection": self.connection, "domain": self.domain, "stream": self.stream, "vm": self.vm}
        for kind, thing in {**named, "console": self.vm.console}.items():
            for name in dir(thing):
                if not name.startswith("_") and f"{kind}.{name}" not in HARMLESS:
                    yield f"{kind}.{name}", lambda *given, thing=thing, name=name: _use(thing, name, given)


def _use(thing: object, name: str, given: tuple[object, ...]) -> object:
    attribute = getattr(thing, name)
    return attribute(*given) if callable(attribute) else attribute


#: What only says what the object itself knows.
HARMLESS = {
    *(f"connection.{name}" for name in ("virConnGetLastError", "virConnResetLastError")),
    *(f"domain.{name}" for name in ("name", "UUID", "UUIDString", "connect")),
    "stream.connect",
    *(f"vm.{name}" for name in ("boot", "name", "captures", "console", "domain", "connection", "origin")),
}

#: What the methods take that is no string.
ARGUMENTS: dict[str, object] = {
    "flags": 0, "timeout": 1.0, "local": __file__, "data": b"x", "condition": lambda: False,
}  # fmt: skip


def arguments(thing: object, name: str) -> tuple[object, ...]:
    method = getattr(type(thing), name)
    if not callable(method):
        return ()
    parameters = list(inspect.signature(method).parameters.values())[1:]
    wanted = (p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)
    return tuple(ARGUMENTS.get(p.name, "x") for p in wanted)


def test_every_method_of_every_object_says_so(connect: Open) -> None:
    objects = Objects(connect())
    kinds = {"connection": objects.connection, "domain": objects.domain, "stream": objects.stream}
    kinds |= {"vm": objects.vm, "console": objects.vm.console}

    def try_all() -> str:
        silent = []
        for label, use in objects.each():
            kind, _, name = label.partition(".")
            try:
                use(*arguments(kinds[kind], name))
            except Exception as error:  # noqa: BLE001 - what it is, is what is tested
                told = f"process {os.getppid()}" in str(error) and "a forked child must open a root of its own" in str(
                    error
                )
                unsupported = "this function is not supported by the connection driver" in str(error)
                if not told and not unsupported:
                    silent.append(f"{label}: {error}")
            else:
                silent.append(f"{label} returned")
        return "\n".join(silent)

    assert in_child(try_all) == ""
    assert objects.connection.numOfDomains() == 2
    assert objects.vm.is_running
    objects.vm.close()


def test_passthrough_too(connect: Open) -> None:
    domain = connect().createXML(xml("a", AGENT), PAUSED)
    for call in (
        lambda: libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-name"}', 0),
        lambda: str(libvirt_qemu.qemuAgentCommand(domain, '{"execute": "guest-ping"}', 1, 0)),
    ):
        assert "a forked child must open a root of its own" in in_child(call)
    assert '"return"' in libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-name"}', 0)


def test_a_child_may_have_a_root_of_its_own_and_not_its_parents(connect: Open, tmp_path: Path) -> None:
    connection = connect("parent")
    connection.createXML(xml(), PAUSED)

    def child() -> str:
        try:
            libvirt.open(uri(tmp_path / "parent"))
        except libvirt.libvirtError as error:
            refused = str(error)
        with libvirt.open(uri(tmp_path / "child")) as own:
            own.createXML(xml("mine"), PAUSED)
            return f"{[d.name() for d in own.listAllDomains()]} {refused}"

    said = in_child(child)
    assert said.startswith("['mine'] Failed to acquire pid file")
    assert f"held by process {os.getpid()}: " in said
    assert [domain.name() for domain in connection.listAllDomains()] == ["a"]


def _multiprocessing_child(connection: libvirt.virConnect, results: multiprocessing.SimpleQueue[str]) -> None:
    try:
        connection.listAllDomains()
    except libvirt.libvirtError as error:
        results.put(str(error))


def test_multiprocessing(connect: Open) -> None:
    connection = connect()
    domain = connection.createXML(xml(), PAUSED)
    context = multiprocessing.get_context("fork")
    results: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    child = context.Process(target=_multiprocessing_child, args=(connection, results))
    child.start()
    child.join(DEADLINE_S)
    assert child.exitcode == 0
    assert "a forked child must open a root of its own" in results.get()
    results.close()
    child.close()
    assert domain.isActive()


ORDINARY = """
import os, sys
from pytest_embedvm import libvirt
connection = libvirt.open(sys.argv[1])
domain = connection.createXML(sys.argv[2], libvirt.VIR_DOMAIN_START_PAUSED)
child = os.fork()
if child == 0:
    sys.exit(0)  # with all that an interpreter does at its end
os.waitpid(child, 0)
domain.resume()
print(connection.numOfDomains(), domain.isActive())
connection.close()
"""


def test_a_child_that_ends_as_programs_do_ends_nothing_of_its_parents(tmp_path: Path) -> None:
    words = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", ORDINARY, uri(tmp_path / "root"), xml()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=DEADLINE_S, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 1\n", "")


FORKED = """
    import os, pickle, pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(item):  # as pytest-forked does: the whole of a test in a child
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            from _pytest.runner import runtestprotocol
            to_data = item.config.hook.pytest_report_to_serializable
            reports = runtestprotocol(item, log=False)
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump([to_data(config=item.config, report=report) for report in reports], pipe)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            for data in pickle.load(pipe):
                report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
                item.ihook.pytest_runtest_logreport(report=report)
        os.waitpid(child, 0)
        return True
"""

TESTS = """
    import pytest
    from pytest_embedvm import libvirt

    XML = '''{xml}'''

    def test_own(embedvm_conn):
        assert embedvm_conn.createXML(XML, libvirt.VIR_DOMAIN_START_PAUSED).isActive()

    def test_parents():
        import conftest
        conftest.connection.listAllDomains()
"""


def test_pytest_forked(pytester: pytest.Pytester, tmp_path: Path) -> None:
    pytester.makeconftest(
        FORKED
        + f"\n    from pytest_embedvm import libvirt\n    connection = libvirt.open({uri(tmp_path / 'root')!r})\n"
    )
    pytester.makepyfile(TESTS.format(xml=xml()))
    result = pytester.runpytest_subprocess("--embedvm", "-p", "no:randomly", "-W", "ignore::DeprecationWarning")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*libvirtError: *a forked child must open a root of its own*"])
