"""images: `embedvm_images` prepares each once; what stands on an image notices when that changes."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("xdist")

#: `embedvm_images` with one image, whose function counts how often it is called.
CONFTEST = """
import os
import pathlib
import pytest

HERE = pathlib.Path(__file__).parent

@pytest.fixture(scope="session")
def embedvm_images(embedvm_images):
    @embedvm_images.register("data", inputs=["seed.txt"])
    def data(build):
        with (HERE / "calls").open("a") as calls:
            calls.write(f"{os.getpid()}\\n")
        build.create_disk(gib=1 / 64)
        with open(build.image, "ab") as image:
            image.write((HERE / "seed.txt").read_bytes().ljust(4096))

    return embedvm_images
"""

USES = """
import pytest

@pytest.mark.embedvm(image="data")
def test_it(embedvm_domain_xml, embedvm_images):
    assert "embedvm-disks/vm-" in embedvm_domain_xml
    assert embedvm_images["data"].read_bytes().strip().endswith(b"seed")
"""


@pytest.fixture
def cache(pytester: pytest.Pytester) -> Path:
    pytester.makeconftest(CONFTEST)
    (pytester.path / "seed.txt").write_text("seed")
    pytester.makepyfile(USES)
    return pytester.path / "cache"


def calls(pytester: pytest.Pytester) -> int:
    return len((pytester.path / "calls").read_text().splitlines())


def run(pytester: pytest.Pytester, cache: Path, *words: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("--embedvm", "-q", "--embedvm-cache-dir", str(cache), *words)


def test_sixteen_workers_prepare_an_image_once(pytester: pytest.Pytester, cache: Path) -> None:
    run(pytester, cache, "-n", "16", "--dist", "each").assert_outcomes(passed=16)
    assert calls(pytester) == 1
    (image,) = cache.glob("images/*/disk")
    assert stat.S_IMODE(image.stat().st_mode) == 0o400
    assert not list(cache.glob("images/.new-*"))
    run(pytester, cache).assert_outcomes(passed=1)
    assert calls(pytester) == 1, "a later run prepared it again"


def test_it_is_prepared_anew_when_what_it_is_made_of_changes(pytester: pytest.Pytester, cache: Path) -> None:
    run(pytester, cache).assert_outcomes(passed=1)
    (pytester.path / "seed.txt").write_text("another seed")
    run(pytester, cache).assert_outcomes(passed=1)
    assert calls(pytester) == 2
    pytester.makeconftest(CONFTEST.replace("1 / 64", "1 / 32"))
    run(pytester, cache).assert_outcomes(passed=1)
    assert calls(pytester) == 3
    assert len(list(cache.glob("images/*/disk"))) == 3


def test_one_that_was_written_is_prepared_anew(pytester: pytest.Pytester, cache: Path) -> None:
    run(pytester, cache).assert_outcomes(passed=1)
    (image,) = cache.glob("images/*/disk")
    image.chmod(0o600)
    image.write_bytes(b"broken")
    run(pytester, cache).assert_outcomes(passed=1)
    assert calls(pytester) == 2


def test_a_function_that_fails_leaves_nothing_and_is_called_again(pytester: pytest.Pytester, cache: Path) -> None:
    pytester.makeconftest(
        CONFTEST.replace("    return embedvm_images", "").replace("build.create_disk", "1 / 0 or build.create_disk")
        + "    return embedvm_images\n"
    )
    run(pytester, cache).assert_outcomes(errors=1)
    assert [path.suffix for path in (cache / "images").iterdir()] == [".lock"]
    run(pytester, cache).assert_outcomes(errors=1)
    assert calls(pytester) == 2


def test_a_function_that_makes_nothing_is_told_where(pytester: pytest.Pytester, cache: Path) -> None:
    pytester.makeconftest(
        "import pytest\n\n@pytest.fixture(scope='session')\ndef embedvm_images(): return {'data': lambda build: None}\n"
    )
    run(pytester, cache).stdout.fnmatch_lines(["*the image 'data' was not made: nothing is at *disk*"])


def test_a_builder_that_is_killed_leaves_the_lock_free(pytester: pytest.Pytester, cache: Path) -> None:
    """It is killed with half an image; the next one clears that away and goes to work at once."""
    dying = CONFTEST.replace("build.create_disk(", "pytest.die(build); build.create_disk(")
    dies = (
        "import signal\n\ndef die(build):\n    build.image.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    pytester.makeconftest(
        dying + f"\n{dies}\npytest.die = die if 'EMBEDVM_TEST_DIE' in os.environ else lambda _: None\n"
    )
    words = [sys.executable, "-m", "pytest", "--embedvm", "-q", "--embedvm-cache-dir", str(cache)]
    died = subprocess.run(
        words, cwd=pytester.path, env={**os.environ, "EMBEDVM_TEST_DIE": "1"}, capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL
    assert [path.read_text() for path in cache.glob("images/.new-*/disk")] == ["half"]
    run(pytester, cache).assert_outcomes(passed=1)
    assert calls(pytester) == 2
    assert not list(cache.glob("images/.new-*"))


def test_who_makes_one_says_so_and_who_waits_says_for_whom(pytester: pytest.Pytester, cache: Path) -> None:
    """One of two workers prepares it; it does not go on until the other has said that it waits."""
    waits = """
from pytest_embedvm.plugin import images
from pytest_embedvm.guest.image import lock

class Told:
    def __init__(self, config): pass
    def __call__(self, sentence):
        print(sentence, file=open(HERE / "told", "a"))
        if sentence.endswith(": 0 s"):
            open(HERE / "fifo", "w").close()

images.teller = Told
"""
    os.mkfifo(pytester.path / "fifo")
    pytester.makeconftest(
        CONFTEST.replace("build.create_disk(", "open(HERE / 'fifo').read(); build.create_disk(") + waits
    )
    run(pytester, cache, "-n", "2", "--dist", "each").assert_outcomes(passed=2)
    first, second, *_ = (pytester.path / "told").read_text().splitlines()
    assert first == "preparing the image 'data'"
    assert re.fullmatch(r"waiting for process \d+ \(.*\), which is making the image 'data': 0 s", second)


def test_a_mapping_of_names_to_files_will_do(pytester: pytest.Pytester) -> None:
    (pytester.path / "disk.img").write_bytes(bytes(1 << 20))
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def embedvm_images():
            return {"mine": "disk.img"}

        @pytest.mark.embedvm(image="mine")
        def test_it(embedvm_domain): assert embedvm_domain.isActive()

        @pytest.mark.embedvm(image="yours")
        def test_unknown(embedvm_domain_xml): pass
        """
    )
    result = pytester.runpytest_subprocess("--embedvm")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E *image='yours' is not there, and embedvm_images knows only mine: *"])


def test_a_name_is_registered_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(embedvm_images):
            embedvm_images.register("one", "disk.img")
            embedvm_images.register("one", "other.img")
        """
    )
    pytester.runpytest("--embedvm").stdout.fnmatch_lines(["E *ValueError: *'one' is registered already"])


@pytest.mark.parametrize(
    ("change", "how"),
    [
        ("disk.write_bytes(bytes(2 << 20))", "1048576 bytes before, 2097152 now"),
        ("disk.write_bytes(bytes(1 << 20))", "it was written"),
        ("disk.rename('away'); disk.write_bytes(bytes(1 << 20))", "another file is there"),
        ("disk.unlink()", "it is gone"),
    ],
)
def test_an_image_that_changes_below_a_machine_fails_the_test(pytester: pytest.Pytester, change: str, how: str) -> None:
    disk = pytester.path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    os.utime(disk, (1, 1))
    pytester.makepyfile(
        f"""
        import pathlib
        import pytest

        @pytest.mark.embedvm(image="disk.img")
        def test_it(embedvm_domain):
            disk = pathlib.Path({str(disk)!r})
            {change}
        """
    )
    result = pytester.runpytest_subprocess("--embedvm")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"embedvm: the image {disk} was changed while machine 'vm' stood on it ({how}): *"])


def test_a_machine_prepares_a_disk_and_others_read_it(pytester: pytest.Pytester) -> None:
    """On real machines: what one wrote is what two others read, and what they write nobody sees."""
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def embedvm_images(embedvm_images):
            @embedvm_images.register("with-data")
            def with_data(build):
                with build.vm(disk_gib=1 / 64, network="none") as vm:
                    vm.run("mke2fs /dev/vda >/dev/null && mount /dev/vda /mnt && echo prepared >/mnt/file")

            return embedvm_images
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("time", [1, 2])
        @pytest.mark.embedvm(image="with-data", kernel="built-in", network="none")
        def test_it(vm, time):
            vm.run("mount /dev/vda /mnt")
            assert vm.run("ls /mnt").text.split() == ["file", "lost+found"]
            assert vm.read_text("/mnt/file") == "prepared\\n"
            vm.run("echo mine >/mnt/other && sync")
        """
    )
    pytester.runpytest_subprocess("--embedvm", "--embedvm-cache-dir", str(pytester.path / "c")).assert_outcomes(
        passed=2
    )


TWO = """
import pytest

@pytest.fixture(scope="session")
def embedvm_images(embedvm_images):
    for name in ("one", "two"):
        @embedvm_images.register(name, version=name)
        def make(build):
            build.image.write_bytes(bytes([1]) * (1 << 20))

    return embedvm_images
"""


@pytest.mark.parametrize(
    ("words", "ini", "left"), [((), "", 2), (("--embedvm-cache-size", "1.5M"), "", 1), ((), "1.5 MiB", 1)]
)
def test_the_cache_has_a_size(pytester: pytest.Pytester, words: tuple[str, ...], ini: str, left: int) -> None:
    """What the run holds stays; a later one removes what was not used for longest."""
    cache = pytester.path / "cache"
    pytester.makeconftest(TWO)
    pytester.makepyfile("def test_it(embedvm_images): assert embedvm_images['one'] and embedvm_images['two']")
    pytester.makeini(f"[pytest]\nembedvm_cache_size = {ini}\n")
    run(pytester, cache, *words).assert_outcomes(passed=1)
    assert len(list(cache.glob("images/*/disk"))) == 2
    pytester.makepyfile("def test_it(embedvm_images): assert embedvm_images['two']")
    run(pytester, cache, *words).assert_outcomes(passed=1)
    assert len(list(cache.glob("images/*/disk"))) == left


@pytest.mark.parametrize(("words", "ini"), [(("--embedvm-cache-size", "big"), "1G"), ((), "big")])
def test_a_size_that_is_none_stops_the_session(pytester: pytest.Pytester, words: tuple[str, ...], ini: str) -> None:
    pytester.makeini(f"[pytest]\nembedvm_cache_size = {ini}\n")
    result = pytester.runpytest("--embedvm", *words)
    result.stderr.fnmatch_lines(["ERROR: embedvm_cache_size=big: *'big' is no size; write 500M, 4G or 1.5GiB"])


def test_a_cache_that_cannot_be_written_is_replaced_for_the_run(pytester: pytest.Pytester, cache: Path) -> None:
    cache.mkdir()
    (cache / "images").write_text("no directory")
    result = run(pytester, cache, "-n", "2", "--dist", "each", "-W", "default")
    result.assert_outcomes(passed=2, warnings=2)
    result.stdout.fnmatch_lines([f"*the cache {cache}/images cannot be written (*): images are made for this run only"])
    assert calls(pytester) == 1, "the workers of a run share what they make"
