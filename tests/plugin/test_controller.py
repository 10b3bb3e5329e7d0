"""controller: what a worker of pytest-xdist does when its controller is killed."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("xdist")
pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfds")

DEADLINE_S = 60

SUITE = """
import os, time
from pathlib import Path
from pytest_embedvm.libvirt import libvirtError

def test_it(embedvm_conn, embedvm_domain, embedvm_domain_xml):
    with open("fifo", "w") as fifo:
        fifo.write(str(os.getpid()))
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        try:
            embedvm_conn.createXML(embedvm_domain_xml.replace("tiny", "other"), 0)
        except libvirtError as error:
            Path("said").write_text(str(error))
        raise
"""


@pytest.mark.usefixtures("tiny")
def test_machines_die_and_the_test_is_interrupted_at_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    os.mkfifo("fifo")
    words = [sys.executable, "-m", "pytest", "--embedvm", "-n", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    controller = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    worker = os.pidfd_open(int(Path("fifo").read_text()))  # the test says it, once its machine runs
    controller.kill()
    controller.wait()
    assert select.select([worker], [], [], DEADLINE_S)[0], "the worker lives on"
    os.close(worker)
    # By itself the worker would have waited for some seconds, with its machine, and then have let the test start more.
    assert f"the controller of this test session, process {controller.pid}, has died" in Path("said").read_text()
