"""What the user chose on the command line, in the ini file, in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

import pytest

if TYPE_CHECKING:
    from pytest_embedvm.plugin.ahead import Ahead, Handed  # noqa: F401 - of the keys' types

Accel = Literal["auto", "kvm", "tcg"]
NetworkChoice = Literal["private", "user", "host", "none"]
OwnChoice = Literal["private", "host"]
#: What boots a VM.
Firmware = Literal["bios", "efi", "efi-secure-boot"]
#: Whether a VM goes on where a template was stopped, or boots.
BootChoice = Literal["auto", "clone", "cold"]
#: Which tests have one root and one VM, which is reset between them.
ScopeChoice = Literal["function", "class", "module", "session"]
Missing = Literal["skip", "fail"]

#: Whose a VM's networks, secrets and storage are, and how it starts, if no marker says it; each is an option and an ini
#: value, too.
CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "network": get_args(NetworkChoice),
    "secrets": get_args(OwnChoice),
    "storage": get_args(OwnChoice),
    "boot": get_args(BootChoice),
    "scope": get_args(ScopeChoice),
}

#: How the driver is told, here and in what the tests start.
CACHE_VARIABLE: Final = "EMBEDVM_CACHE_DIR"
ACCEL_VARIABLE: Final = "EMBEDVM_ACCEL"

#: Where this plugin's fixtures are, and the one for which a VM has to answer.
FIXTURES: Final = "pytest_embedvm.plugin.fixtures"
VM_FIXTURE: Final = "vm"

SETTINGS: Final = pytest.StashKey["Settings"]()

#: What is made ahead in this process, once one of its tests has started a VM; and what of it a test was given.
AHEAD: Final = pytest.StashKey["Ahead"]()
HANDED: Final = pytest.StashKey["Handed"]()

#: The property of a test's report, once for each of its VMs: where that came from.
ORIGIN: Final = "embedvm_origin"

#: And that of the test for which a template was made: which one, and how long it took.
MADE: Final = "embedvm_template"

SKIP_REASON: Final = "needs real virtual machines: run pytest with --embedvm, or put 'embedvm = true' into its ini file"

DEFAULT_OUTPUT: Final = "test-results"

#: What templates and images may take in the cache unless told otherwise.
CACHE_BYTES: Final = 4 << 30


@dataclass(frozen=True)
class Settings:
    """The plugin's settings for one session."""

    enabled: bool
    accel: Accel
    require_kvm: bool
    cache_dir: Path | None
    #: How many bytes of disk templates and images may take in the cache.
    cache_size: int
    #: How many VMs may live at once; None: as many as there is memory for.
    max_vms: int | None
    #: How many clones are made ahead.
    pool: int
    output: Path
    show_console: bool
    pause: bool
    #: Whether templates that are there are made anew, once in the run.
    create_templates: bool
    #: What the marker's `network`, `secrets`, `storage` and `boot` are where it does not say.
    choices: Mapping[str, str]
    #: What becomes of a test that needs what the host does not have.
    missing: Missing
    #: Where relative paths in markers begin.
    rootpath: Path

    @classmethod
    def of(cls, config: pytest.Config) -> Settings:
        cache_dir = config.getoption("embedvm_cache_dir")
        output = config.getoption("embedvm_output")
        return cls(
            enabled=bool(config.getoption("embedvm") or config.getini("embedvm")),
            accel=_accel(config.getoption("embedvm_accel")),
            require_kvm=bool(config.getoption("embedvm_require_kvm")),
            cache_dir=Path(cache_dir).absolute() if cache_dir else None,
            cache_size=_cache_size(config),
            max_vms=_count(config, "max_vms", 1),
            pool=1 if (pool := _count(config, "pool", 0)) is None else pool,
            output=Path(output).absolute() if output else config.rootpath / DEFAULT_OUTPUT,
            show_console=bool(config.getoption("embedvm_show_console")),
            pause=bool(config.getoption("embedvm_pause")),
            create_templates=bool(config.getoption("embedvm_create_templates")),
            choices={name: _chosen(config, name, words) for name, words in CHOICES.items()},
            missing=cast("Missing", _chosen(config, "missing", get_args(Missing))),
            rootpath=config.rootpath,
        )


def _accel(word: str) -> Accel:
    for known in get_args(Accel):
        if word == known:  # argparse checks what is typed, and not what the environment says
            return cast("Accel", known)
    raise pytest.UsageError(f"{ACCEL_VARIABLE}={word}: it may be {', '.join(get_args(Accel))}")


def _cache_size(config: pytest.Config) -> int:
    """:raise pytest.UsageError: when what is said is no size."""
    text = str(config.getoption("embedvm_cache_size") or config.getini("embedvm_cache_size"))
    if not text:
        return CACHE_BYTES
    from pytest_embedvm.errors import EmbedError
    from pytest_embedvm.units import read_size

    try:
        return read_size(text)
    except EmbedError as error:
        raise pytest.UsageError(f"embedvm_cache_size={text}: {error.message}") from None


def _count(config: pytest.Config, name: str, least: int) -> int | None:
    """What the option says, or else the ini value.

    :raise pytest.UsageError: when it is no number, or less than LEAST.
    """
    text = str(config.getoption(f"embedvm_{name}") or config.getini(f"embedvm_{name}"))
    if not text:
        return None
    if not text.isdecimal() or int(text) < least:
        raise pytest.UsageError(f"embedvm_{name}={text}: it must be a whole number, {least} or more")
    return int(text)


def _chosen(config: pytest.Config, name: str, words: tuple[str, ...]) -> str:
    """What the option says, or else the ini value, or else the first of WORDS.

    :raise pytest.UsageError: when the ini value is none of WORDS.
    """
    word = config.getoption(f"embedvm_{name}") or config.getini(f"embedvm_{name}") or words[0]
    if word not in words:
        raise pytest.UsageError(f"embedvm_{name}={word}: it may be {', '.join(words)}")
    return str(word)


def add_options(parser: pytest.Parser) -> None:
    """Declare the options and the ini value."""
    group = parser.getgroup("embedvm", "real virtual machines from a private root (pytest-embedvm)")
    group.addoption("--embedvm", action="store_true", help="run the tests that use virtual machines")
    group.addoption(
        "--embedvm-accel",
        choices=get_args(Accel),
        default=os.environ.get(ACCEL_VARIABLE, "auto"),
        help="what runs guest code; auto takes KVM only where it was measured to be faster than TCG "
        f"(default: {ACCEL_VARIABLE}, or auto)",
    )
    group.addoption(
        "--embedvm-require-kvm",
        action="store_true",
        help="stop at once, with the reason, where KVM is not worth having",
    )
    group.addoption(
        "--embedvm-cache-dir",
        metavar="DIR",
        help="where probes and built guests are kept between runs "
        "(default: EMBEDVM_CACHE_DIR, or pytest-embedvm in the user's cache directory)",
    )
    group.addoption(
        "--embedvm-cache-size",
        metavar="SIZE",
        help="how much of the disk templates and images may take there, as 500M or 4G; those not used for longest go "
        "(default: ini embedvm_cache_size, or 4G)",
    )
    group.addoption(
        "--embedvm-output",
        metavar="DIR",
        help=f"where the files of failed tests' machines are kept (default: {DEFAULT_OUTPUT} in pytest's rootdir)",
    )
    group.addoption(
        "--embedvm-show-console",
        action="store_true",
        help="print what the guests' consoles say while they say it; live with -s",
    )
    group.addoption(
        "--embedvm-pause",
        action="store_true",
        help="wait at a failed test before its machines end, and print how to look at them from another shell",
    )
    _add_counts(parser, group)
    parser.addini("embedvm_cache_size", default="", help="the same as --embedvm-cache-size on each run")
    group.addoption(
        "--embedvm-create-templates",
        action="store_true",
        help="make the templates of this run's VMs anew, once each, also where they are in the cache",
    )
    parser.addini("embedvm", type="bool", default=False, help="the same as --embedvm on each run")
    _add_choices(parser, group)


def _add_counts(parser: pytest.Parser, group: pytest.OptionGroup) -> None:
    for name, meaning in (
        (
            "max-vms",
            "how many VMs may live at once, over all workers and runs of this user; who wants one more waits "
            "(default: ini embedvm_max_vms, or as many as there is memory for)",
        ),
        (
            "pool",
            "how many VMs each worker makes ahead, while a test runs, for the next; 0 makes none "
            "(default: ini embedvm_pool, or 1)",
        ),
    ):
        group.addoption(f"--embedvm-{name}", metavar="N", help=meaning)
        ini = f"embedvm_{name.replace('-', '_')}"
        parser.addini(ini, default="", help=f"the same as --embedvm-{name} on each run")


def _add_choices(parser: pytest.Parser, group: pytest.OptionGroup) -> None:
    for name, words, meaning in (
        ("network", CHOICES["network"], "where VMs have their network card, and whose networks there are"),
        ("secrets", CHOICES["secrets"], "whose secrets there are"),
        ("storage", CHOICES["storage"], "whose storage pools there are"),
        ("boot", CHOICES["boot"], "whether VMs are cloned from a template that booted once, or boot each"),
        ("scope", CHOICES["scope"], "which tests share a root and a VM, which is reset for each"),
        ("missing", get_args(Missing), "what becomes of a test that needs what this host's libvirt does not have"),
    ):
        marker = "" if name == "missing" else ", unless its marker says"
        group.addoption(
            f"--embedvm-{name}", choices=words, help=f"{meaning}{marker} (default: ini embedvm_{name}, or {words[0]})"
        )
        parser.addini(f"embedvm_{name}", default="", help=f"the same as --embedvm-{name} on each run")
