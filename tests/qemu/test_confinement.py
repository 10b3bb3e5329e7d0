"""The words before a command line, and what they do to the program behind them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.qemu import confinement
from pytest_embedvm.qemu.confinement import UNCONFINED, Confinement, Identity
from pytest_embedvm.qemu.process import Gate, Process

NOBODY = Identity(65534, 65533, (65532, 65533))

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def said_by(code: str, confined: Confinement, *, python: str = sys.executable, outlives_parent: bool = False) -> str:
    """What PYTHON prints, given CODE and run so."""
    read, write = os.pipe()

    async def main() -> int:
        words = [python, "-I", "-S", "-c", code]
        with contextlib.ExitStack() as stack:
            gate = stack.enter_context(Gate()) if outlives_parent else None
            process = Process.spawn(
                words, output=write, confinement=confined, gate=gate, outlives_parent=outlives_parent
            )
            if gate:
                gate.open()
        os.close(write)
        return await process.wait()

    status = asyncio.run(main())
    with os.fdopen(read) as output:
        text = output.read().strip()
    assert status == 0, text
    return text


LIMITS = "import resource as r; print(*(r.getrlimit(n) for n in (r.RLIMIT_NPROC, r.RLIMIT_NOFILE, r.RLIMIT_CORE)))"


def allowed(which: int, number: int) -> int:
    """NUMBER, or as much as this user may have."""
    hard = resource.getrlimit(which)[1]
    return number if os.geteuid() == 0 or hard == resource.RLIM_INFINITY else min(number, hard)


@pytest.mark.parametrize("outlives", [False, True])
def test_limits(outlives: bool) -> None:
    processes, core = (allowed(which, 30000) for which in (resource.RLIMIT_NPROC, resource.RLIMIT_CORE))
    confined = Confinement(max_processes=processes, max_files=60, max_core=core)
    said = f"({processes}, {processes}) (60, 60) ({core}, {core})"
    assert said_by(LIMITS, confined, outlives_parent=outlives) == said
    assert said_by(LIMITS, Confinement(max_core=0), outlives_parent=outlives).endswith("(0, 0)")


def test_without_limits_it_has_ours() -> None:
    assert said_by(LIMITS, UNCONFINED) == subprocess.check_output([sys.executable, "-c", LIMITS], text=True).strip()


def test_that_no_core_is_dumped_costs_no_program() -> None:
    words = Confinement(max_core=0).words(outlives_parent=False)
    assert [Path(word).name for word in words if word.startswith("/")] == ["setpriv", "sh"]
    assert UNCONFINED.words(outlives_parent=True) == ()


IDENTITY = """
import ctypes, os
number = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(number))
caps = [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapPrm"))]
print(os.getresuid(), os.getresgid(), sorted(os.getgroups()), number.value, *caps)
"""


@needs_root
@pytest.mark.parametrize(("outlives", "number"), [(False, int(signal.SIGKILL)), (True, 0)])
def test_another_user_has_no_rights_of_ours_and_dies_with_us(outlives: bool, number: int) -> None:
    python = shutil.which("python3", path=os.defpath)
    if python is None:
        pytest.skip("there is no Python that every user may run")
    said = said_by(IDENTITY, Confinement(identity=NOBODY), python=python, outlives_parent=outlives)
    user, group = (65534,) * 3, (65533,) * 3
    assert said == f"{user} {group} [65532, 65533] {number} {'0' * 16} {'0' * 16}"


def test_a_program_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "_found", lambda _: None)
    assert UNCONFINED.words(outlives_parent=False) == ()
    with pytest.raises(SystemFailure, match=r"cannot execute binary prlimit: it is not installed"):
        Confinement(max_files=9).words(outlives_parent=False)
    with pytest.raises(SystemFailure, match=r"cannot execute binary setpriv: it is not installed"):
        Confinement(identity=NOBODY).words(outlives_parent=False)
