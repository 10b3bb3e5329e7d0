"""`embedvm run`: a process of its own, a guest of a hundred bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from pytest_embedvm.cli.main import main
from pytest_embedvm.cli.runner import fill
from pytest_embedvm.driver import power
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.running import Running
from tests.driver import tiny

#: Nothing that is awaited here takes longer, on however busy a host.
DEADLINE_S = 60


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where private roots are made."""
    path = tmp_path / "tmp"
    path.mkdir()
    return path


@pytest.fixture
def xml(tmp_path: Path) -> Callable[..., Path]:
    """Writes a domain that runs the tiny guest, with COM1 as its console."""

    def write(devices: str = "<serial type='pty'/>", extra: str = "") -> Path:
        rom = tmp_path / "tiny.fd"
        rom.write_bytes(tiny.firmware())
        file = tmp_path / "a.xml"
        file.write_text(
            f"""<domain type='qemu'><name>a</name><memory unit='MiB'>32</memory>
            <os><type arch='x86_64' machine='q35'>hvm</type><loader type='rom'>{rom}</loader></os>
            {extra}<devices>{devices}</devices></domain>"""
        )
        return file

    return write


class Run:
    """A running `embedvm run`."""

    def __init__(self, process: subprocess.Popen[bytes], home: Path) -> None:
        self.process = process
        self.home = home

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin
        return self.process.stdin

    def until(self, wanted: bytes) -> bytes:
        """What the guest wrote, up to and with WANTED."""
        assert self.process.stdout
        return until(self.process.stdout.fileno(), wanted)

    def type(self, data: bytes) -> None:
        self.stdin.write(data)
        self.stdin.flush()

    def qemu(self, root: Path | None = None) -> int:
        """A pidfd of QEMU's, closed with the test."""
        found = root or next(self.home.glob("embedvm-run-*"))
        return os.pidfd_open(int((found / "run/qemu/a.pid").read_text()))

    def end(self) -> tuple[int, str, str]:
        """Wait for its end: status, what is left of the output, errors."""
        output, errors = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, output.decode(), errors.decode()


def until(descriptor: int, wanted: bytes) -> bytes:
    """What comes out of DESCRIPTOR, up to and with WANTED."""
    seen = b""
    while not seen.endswith(wanted):
        if not select.select([descriptor], [], [], DEADLINE_S)[0]:
            pytest.fail(f"nothing more came; what came: {seen!r}")
        data = os.read(descriptor, 4096)
        if not data:
            pytest.fail(f"it ended; what came: {seen!r}")
        seen += data
    return seen


def assert_gone(pidfd: int, deadline: float = DEADLINE_S) -> None:
    """The process is dead, now or within DEADLINE seconds."""
    with os.fdopen(pidfd, "rb", buffering=0):
        assert select.select([pidfd], [], [], deadline)[0], "QEMU lives on"


Start = Callable[..., Run]


@pytest.fixture
def environment(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the command: its private roots are made in `home`, and one probe serves the whole run."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "probe"
    return {**os.environ, "TMPDIR": str(home), "EMBEDVM_CACHE_DIR": str(cache)}


@pytest.fixture
def start(home: Path, environment: dict[str, str]) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def begin(*words: object, stdin: int = subprocess.PIPE) -> Run:
            argv = [sys.executable, "-m", "pytest_embedvm", "run", *map(str, words)]
            pipe = subprocess.PIPE
            process = subprocess.Popen(
                argv, stdin=stdin, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return Run(process, home)

        yield begin


def test_the_console_goes_both_ways_and_the_guest_s_power_off_is_success(
    start: Start, xml: Callable[..., Path], home: Path
) -> None:
    run = start(xml())
    run.until(b"K")
    run.type(b"ab")
    assert run.until(b"b") == b"ab"
    run.type(b"R")
    run.until(b"K")  # a reset is no end
    qemu = run.qemu()
    run.type(b"P")
    assert run.end() == (0, "P", "")
    assert_gone(qemu, 0)
    assert list(home.iterdir()) == []


def test_a_reboot_that_is_to_end_the_domain_is_no_crash(start: Start, xml: Callable[..., Path]) -> None:
    run = start(xml(extra="<on_reboot>destroy</on_reboot>"))
    run.until(b"K")
    run.type(b"R")
    assert run.end() == (0, "R", "")


def test_what_it_does_is_told_on_request(start: Start, xml: Callable[..., Path], home: Path) -> None:
    run = start("-v", xml())
    run.until(b"K")
    root = next(home.iterdir())
    run.type(b"P")
    status, _, errors = run.end()
    assert status == 0
    told = [line for line in errors.splitlines() if line.startswith("embedvm run: ")]
    assert told[0] == f"embedvm run: opened qemu:///embed?root={root}"
    assert told[1].startswith("embedvm run: domain 'a' runs: /usr/bin/qemu-system-x86_64")
    assert told[2:] == ["embedvm run: the guest powered off", f"embedvm run: purged {root}"]


def test_a_qemu_that_is_killed_is_a_crash(start: Start, xml: Callable[..., Path], home: Path) -> None:
    run = start(xml())
    run.until(b"K")
    qemu = run.qemu()
    signal.pidfd_send_signal(qemu, signal.SIGKILL)
    status, _, errors = run.end()
    assert status == 1
    assert errors.startswith("embedvm run: QEMU crashed or was killed; the end of QEMU's log:\n  ")
    assert_gone(qemu, 0)
    assert list(home.iterdir()) == []


def test_a_qemu_that_is_killed_before_it_could_say_that_the_guest_runs_is_a_crash(
    xml: Callable[..., Path],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    resume = power.resume

    async def never_answered(machine: Machine, running: Running) -> None:
        qemu = running.process.pid
        os.kill(qemu, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(0.2, os.kill, qemu, signal.SIGKILL)
        await resume(machine, running)

    monkeypatch.setattr(power, "resume", never_answered)
    for name in ("TMPDIR", "EMBEDVM_CACHE_DIR"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert main(["run", str(xml())]) == 1
    assert capsys.readouterr().err.startswith("embedvm run: QEMU crashed or was killed; the end of QEMU's log:\n  ")


def test_a_qemu_that_is_asked_to_end_was_no_power_off(start: Start, xml: Callable[..., Path]) -> None:
    run = start(xml())
    run.until(b"K")
    qemu = run.qemu()
    signal.pidfd_send_signal(qemu, signal.SIGTERM)
    status, _, errors = run.end()
    assert (status, errors.partition(";")[0]) == (1, "embedvm run: QEMU was ended from outside")
    assert_gone(qemu, 0)


@pytest.mark.parametrize("extra", ["", "<on_crash>preserve</on_crash>"])
def test_a_panic_is_a_crash(start: Start, xml: Callable[..., Path], home: Path, extra: str) -> None:
    run = start(xml("<serial type='pty'/><panic model='isa'/>", extra))
    run.until(b"K")
    qemu = run.qemu()
    run.type(b"C")
    status, _, errors = run.end()
    assert (status, errors.partition(";")[0]) == (1, "embedvm run: the guest panicked")
    assert_gone(qemu, 0)
    assert list(home.iterdir()) == []


def test_its_time_over_is_a_status_of_its_own(start: Start, xml: Callable[..., Path], home: Path) -> None:
    """Without a console to join, too: the end of what is typed is not the domain's."""
    run = start("-v", "--timeout", "3", xml(devices=""), stdin=subprocess.DEVNULL)
    status, output, errors = run.end()
    assert (status, output) == (124, "")
    assert "embedvm run: no console to join: cannot find character device <null>\n" in errors
    assert "embedvm run: destroyed: it did not end within 3 s\n" in errors
    assert list(home.iterdir()) == []


@pytest.fixture
def no_nohup() -> Iterator[None]:
    """Signals that are ignored, as nohup has them, would be ignored by our children, too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("no_nohup")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_destroys_the_domain_at_once(
    start: Start, xml: Callable[..., Path], home: Path, number: signal.Signals
) -> None:
    run = start(xml(), stdin=subprocess.DEVNULL)
    run.until(b"K")
    qemu = run.qemu()
    run.process.send_signal(number)
    assert run.end() == (128 + number, "", "")
    assert_gone(qemu, 0)
    assert list(home.iterdir()) == []


def test_nohup_is_heeded(start: Start, xml: Callable[..., Path]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which the command inherits
    try:
        run = start(xml())
    finally:
        signal.signal(signal.SIGHUP, before)
    run.until(b"K")
    run.process.send_signal(signal.SIGHUP)
    run.type(b"P")
    assert run.end() == (0, "P", "")


def test_a_signal_ends_a_start_that_hangs(start: Start, xml: Callable[..., Path], tmp_path: Path, home: Path) -> None:
    fifo, emulator = tmp_path / "pid", tmp_path / "qemu"
    os.mkfifo(fifo)
    emulator.write_text(f"#!/bin/sh\necho $$ > {fifo}\nexec sleep 1000\n")
    emulator.chmod(0o755)
    run = start(xml(devices=f"<emulator>{emulator}</emulator>"))
    with fifo.open() as pid:
        qemu = os.pidfd_open(int(pid.read()))
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == (143, "", "")
    assert_gone(qemu, 0)
    assert list(home.iterdir()) == []


def test_killed_it_leaves_no_domain_behind(start: Start, xml: Callable[..., Path]) -> None:
    run = start(xml())
    run.until(b"K")
    qemu = run.qemu()
    run.process.kill()
    assert run.end()[0] == -signal.SIGKILL
    assert_gone(qemu)


def test_what_a_killed_one_leaves_is_purged_on_request(
    start: Start, xml: Callable[..., Path], home: Path, environment: dict[str, str]
) -> None:
    run = start(xml())
    run.until(b"K")
    qemu = run.qemu()
    run.process.kill()
    run.end()
    assert_gone(qemu)
    assert list(home.iterdir()) != []
    command = "from pytest_embedvm.driver.roots.purge import purge_dead; purge_dead(older_than=0)"
    subprocess.run([sys.executable, "-c", command], env=environment, timeout=DEADLINE_S, check=True)
    assert list(home.iterdir()) == []


def test_nobody_to_read_is_an_end_too(start: Start, xml: Callable[..., Path], home: Path) -> None:
    run = start(xml())
    run.until(b"K")
    qemu = run.qemu()
    assert run.process.stdout
    run.process.stdout.close()
    run.type(b"a")
    assert run.process.wait(DEADLINE_S) == 1
    assert_gone(qemu, 0)
    assert list(home.iterdir()) == []


def test_a_root_that_is_given_is_kept_and_named_in_the_xml(
    start: Start, xml: Callable[..., Path], tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "it's <here> & there"
    here.mkdir()
    files = "".join(f"<serial type='file'><source path='{place}/said'/></serial>" for place in ("{root}", "{cwd}"))
    file = xml(f"<serial type='pty'/>{files}")
    monkeypatch.chdir(here)
    run = start("--root", "my root", file)
    run.until(b"K")
    qemu = run.qemu(here / "my root")
    run.type(b"P")
    assert run.end() == (0, "P", "")
    assert_gone(qemu, 0)
    assert (here / "said").exists()
    assert (here / "my root/said").exists()
    assert (here / "my root/log/qemu/a.log").exists()
    assert not (here / "my root/run/qemu/driver.pid").exists()
    assert list(home.iterdir()) == []


def test_only_the_two_words_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fill("{root}|{cwd}|{other}|{{root}}|{}", Path("/a&b/{cwd}")) == (
        f"/a&amp;b/{{cwd}}|{tmp_path}|{{other}}|{{/a&amp;b/{{cwd}}}}|{{}}"
    )


@pytest.mark.parametrize(
    ("devices", "says"),
    [
        (
            "<disk type='volume'><source pool='p' volume='v'/><target dev='vda' bus='virtio'/></disk>",
            "Storage pool not found: no storage pool with matching name 'p'\n",
        ),
        ("<emulator>/nowhere</emulator>", "Cannot check QEMU binary /nowhere: No such file or directory\n"),
    ],
)
def test_what_cannot_start_is_said(start: Start, xml: Callable[..., Path], home: Path, devices: str, says: str) -> None:
    assert start(xml(devices)).end() == (1, "", f"embedvm run: {says}")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan", "soon"])
def test_a_time_that_is_none_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--timeout", seconds, "a.xml"])
    assert ended.value.code == 2
    assert "--timeout" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "no.xml")]) == 1
    assert capsys.readouterr().err == f"embedvm run: cannot read {tmp_path}/no.xml: No such file or directory\n"


def test_in_the_background_it_leaves_the_terminal_alone(
    xml: Callable[..., Path], home: Path, environment: dict[str, str]
) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb+", buffering=0), os.fdopen(theirs, "rb+", buffering=0) as slave:
        before = termios.tcgetattr(slave)
        shell = 'set -m; "$@" & wait $!'  # a job of its own; it would be stopped if it read
        command = [sys.executable, "-m", "pytest_embedvm", "run", str(xml())]
        argv = ["setsid", "-c", "sh", "-c", shell, "sh", *command]
        with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=environment) as process:
            until(ours, b"K")
            assert termios.tcgetattr(slave) == before
            runner = int(next(home.glob("*/run/qemu/driver.pid")).read_text())
            os.kill(runner, signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 143
    assert list(home.iterdir()) == []


def test_a_terminal_passes_the_keys_and_ctrl_c_ends_it(
    xml: Callable[..., Path], home: Path, environment: dict[str, str]
) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb+", buffering=0) as master, os.fdopen(theirs, "rb+", buffering=0) as slave:
        before = termios.tcgetattr(slave)
        argv = ["setsid", "-c", sys.executable, "-m", "pytest_embedvm", "run", str(xml())]
        with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
            until(ours, b"K")
            master.write(b"x\r\x1a")
            assert until(ours, b"\x1a") == b"x\r\x1a"  # the guest's echo alone; Enter and Ctrl-Z are the guest's
            qemu = os.pidfd_open(int(next(home.glob("*/run/qemu/a.pid")).read_text()))
            master.write(b"\x03")
            assert process.wait(DEADLINE_S) == 130
        assert_gone(qemu, 0)
        assert termios.tcgetattr(slave) == before
    assert list(home.iterdir()) == []
