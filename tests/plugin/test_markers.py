"""markers: the closest wins, and what is wrong is said at collection."""

from __future__ import annotations

import pytest

from pytest_embedvm.plugin.markers import KNOWN

SHOW = "def test_it(embedvm_domain_args): print('memory', embedvm_domain_args.memory, embedvm_domain_args.vcpus)"


def test_the_closest_marker_wins_keyword_by_keyword(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.embedvm(memory=512, vcpus=2)

        @pytest.mark.embedvm(memory=768)
        class TestClass:
            def test_class(self, embedvm_domain_args):
                assert (embedvm_domain_args.memory, embedvm_domain_args.vcpus) == (768, 2)

            @pytest.mark.embedvm(memory=1024)
            def test_function(self, embedvm_domain_args):
                assert (embedvm_domain_args.memory, embedvm_domain_args.vcpus) == (1024, 2)
        """
    )
    pytester.runpytest("--embedvm").assert_outcomes(passed=2)


def test_without_a_marker_there_are_defaults(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SHOW)
    pytester.runpytest("--embedvm", "-s").stdout.fnmatch_lines(["*memory 256 1*"])


@pytest.mark.parametrize(
    ("marker", "complaint"),
    [
        ("memry=1", f"unknown keyword 'memry'; it knows {', '.join(KNOWN)}"),
        ("512", "takes keywords only, not 512"),
        ("network='wifi'", "possible is private or user or host or none"),
        ("secrets='none'", "possible is private or host"),
        ("storage='user'", "possible is private or host"),
        ("memory='1G'", r"must be a whole number above 0 \(MiB\)"),
        ("memory=True", r"must be a whole number above 0 \(MiB\)"),
        ("vcpus=0", "must be a whole number above 0"),
        ("timeout=-1", "must be a number of seconds above 0"),
        ("machine=7", "must be a string"),
        ("kernel=7", "must be a path"),
    ],
)
def test_a_wrong_marker_is_a_collection_error_that_says_what_is_possible(
    pytester: pytest.Pytester, marker: str, complaint: str
) -> None:
    pytester.makepyfile(
        test_wrong=f"""
        import pytest

        @pytest.mark.embedvm({marker})
        def test_it(vm): pass
        """,
        test_right="def test_other(): pass",
    )
    result = pytester.runpytest("--embedvm")
    result.assert_outcomes(errors=1)
    result.stdout.re_match_lines([rf".*test_wrong.py::test_it: .*{complaint}"])


CHOICES = """
import pytest

def show(args): print("chosen", args.network, args.secrets, args.storage)

def test_without(embedvm_domain_args): show(embedvm_domain_args)

@pytest.mark.embedvm(network="none")
def test_with(embedvm_domain_args): show(embedvm_domain_args)
"""


@pytest.mark.parametrize(
    ("ini", "options", "without", "marked"),
    [
        ("", (), "private private private", "none private private"),
        ("embedvm_network = user\nembedvm_storage = host", (), "user private host", "none private host"),
        ("embedvm_network = user", ("--embedvm-network", "host"), "host private private", "none private private"),
        ("embedvm_secrets = host", ("--embedvm-secrets", "private"), "private private private", "none private private"),
        ("", ("--embedvm-storage=host", "--embedvm-secrets=host"), "private host host", "none host host"),
    ],
    ids=["defaults", "ini", "option", "option back", "options"],
)
def test_the_marker_is_heard_before_the_option_and_that_before_the_ini_file(
    pytester: pytest.Pytester, ini: str, options: tuple[str, ...], without: str, marked: str
) -> None:
    pytester.makeini(f"[pytest]\n{ini}")
    pytester.makepyfile(CHOICES)
    result = pytester.runpytest("--embedvm", "-s", *options)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"*chosen {without}*", f"*chosen {marked}*"])


@pytest.mark.parametrize("name", ["network", "secrets", "storage", "missing"])
def test_a_wrong_word_in_the_ini_file_is_an_error(pytester: pytest.Pytester, name: str) -> None:
    pytester.makeini(f"[pytest]\nembedvm_{name} = wifi")
    result = pytester.runpytest("--embedvm")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: embedvm_{name}=wifi: it may be *"])


def test_a_wrong_marker_is_an_error_without_the_option_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.embedvm(zz=1)\ndef test_it(): pass")
    pytester.runpytest().assert_outcomes(errors=1)


def test_the_marker_is_registered(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.embedvm(memory=512)\ndef test_it(): pass")
    pytester.runpytest("--strict-markers").assert_outcomes(passed=1)
    pytester.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.embedvm(memory=,*"])
