"""workers: pytest-xdist, in every distribution; what many processes share is made once."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("xdist")


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("dist", ["load", "loadscope", "loadfile", "loadgroup", "worksteal", "each"])
def test_every_distribution(pytester: pytest.Pytester, dist: str) -> None:
    for name in ("test_one", "test_two"):
        pytester.makepyfile(
            **{
                name: """
                import pytest

                @pytest.mark.xdist_group("all")
                class TestClass:
                    def test_first(self, embedvm_domain): assert embedvm_domain.name() == "tiny"
                    def test_second(self, embedvm_domain): assert embedvm_domain.isActive()

                def test_third(embedvm_conn_factory, embedvm_domain_xml):
                    for connection in (embedvm_conn_factory(), embedvm_conn_factory()):
                        connection.createXML(embedvm_domain_xml, 0)
                """
            }
        )
    result = pytester.runpytest_subprocess("--embedvm", "-n", "2", "--dist", dist)
    result.assert_outcomes(passed=12 if dist == "each" else 6)


COUNTING = """\
#!/bin/sh
printf '%s\\n' "$*" >>{log}
exec {qemu} "$@"
"""

COUNTING_BUILDS = """
import os
from pathlib import Path
import pytest

@pytest.fixture(autouse=True)
def counted(monkeypatch):
    from pytest_embedvm.guest.image import build

    def counting(*arguments, really=build._build, **keywords):
        with open(Path(__file__).parent / "builds", "a") as file:
            file.write(f"{os.getpid()}\\\\n")
        return really(*arguments, **keywords)

    monkeypatch.setattr(build, "_build", counting)
"""


def test_sixteen_workers_that_start_cold_probe_once_and_build_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("qemu-system-x86_64")
    spawns, builds = pytester.path / "spawns", pytester.path / "builds"
    program = pytester.mkdir("bin") / "qemu-system-x86_64"
    program.write_text(COUNTING.format(log=spawns, qemu=real))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    cache = pytester.path / "cache"
    pytester.makeconftest(COUNTING_BUILDS.replace("\\\\n", "\\n"))
    pytester.makepyfile(
        """
        def test_it(embedvm_domain_xml, embedvm_conn, worker_id):
            assert "<kernel>" in embedvm_domain_xml
            assert "<machine" in embedvm_conn.getCapabilities()
            assert worker_id.startswith("gw")
        """
    )
    # Quiet: with a header, the controller would have probed before there are workers.
    run = ("--embedvm", "-q", "-n", "16", "--dist", "each", "--embedvm-cache-dir", str(cache))
    pytester.runpytest_subprocess(*run).assert_outcomes(passed=16)
    words = [line.split() for line in spawns.read_text().splitlines()]
    assert sum("none" in line and "-machine" in line for line in words) == 1
    assert len(words) == len({tuple(line) for line in words}), "QEMU was asked the same thing twice"
    assert len(builds.read_text().splitlines()) == 1
    assert len([path for path in (cache / "guest").iterdir() if path.is_dir()]) == 1
    assert [path for path in cache.rglob("*") if path.name.startswith(".new")] == []

    spawns.unlink()
    pytester.runpytest_subprocess(*run).assert_outcomes(passed=16)
    assert not spawns.exists()
    assert len(builds.read_text().splitlines()) == 1
