"""The driver's configuration: where it comes from, what it may hold, and what is said about the rest."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.driver.config.checks import CHECKS
from pytest_embedvm.driver.config.config import Config
from pytest_embedvm.driver.config.keys import KEYS, Type
from pytest_embedvm.errors import ConfigSyntax, ConfigUnsupported, EmbedError, InvalidArgument, SystemFailure

LENSES = Path("/usr/share/augeas/lenses")
QEMU_CONF = Path("/etc/libvirt/qemu.conf")
#: libvirt's augeas lens spells the types so.
LENS_TYPES: dict[str, set[Type]] = {
    "bool": {"bool"},
    "int": {"unsigned", "int"},
    "str": {"string", "names"},
    "str_array": {"list"},
    "limits": {"limit"},
}

#: Values of all kinds, and what is none.
PIECES = (
    "0",
    "1",
    "2",
    "-1",
    "65536",
    "'x'",
    '"/"',
    '"none"',
    '"root"',
    '"file"',
    "[]",
    "['x']",
    "['/a:/b', '/c:/d']",
    "[1]",
    "",
    "[",
)
#: What one key takes from another.
SETTLED = {"vnc_tls_x509_cert_dir", "vnc_tls_x509_verify", "vnc_tls_priority"}

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the root's own file."""

    def write_conf(text: str) -> Path:
        path = tmp_path / "etc/qemu.conf"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write_conf


# Where it comes from


def test_without_a_file_all_is_as_it_is(tmp_path: Path) -> None:
    config = Config.read(tmp_path)
    pki = str(tmp_path / "etc/pki/qemu")
    assert config == Config(default_tls_x509_cert_dir=pki, vnc_tls_x509_cert_dir=pki, vnc_tls_x509_verify=False)
    assert config.warnings == ()
    assert list(tmp_path.iterdir()) == []


def test_the_roots_own_file(tmp_path: Path, write: Write) -> None:
    write("max_files = 5\nnvram = [ '/c:/v',\n '/d:/w' ]")
    config = Config.read(tmp_path)
    assert (config.max_files, config.nvram) == (5, ("/c:/v", "/d:/w"))


@pytest.mark.parametrize("way", ["source", "file"])
def test_a_file_that_is_given_takes_its_place(tmp_path: Path, write: Write, way: str) -> None:
    write("max_files = 5\nmax_core = 7")
    given = tmp_path / "given.conf"
    given.write_text("max_core = 9")
    config = Config.read(tmp_path, given) if way == "source" else Config.read(tmp_path, file=given)
    assert (config.max_files, config.max_core) == (0, 9)


def test_keys_that_are_given_count_first(tmp_path: Path, write: Write) -> None:
    path = write("max_files = 5\nmax_core = 7")
    config = Config.read(tmp_path, {"max_core": "unlimited", "vnc_tls": True, "nvram": ["/c:/v"]})
    assert (config.max_files, config.max_core, config.vnc_tls, config.nvram) == (5, "unlimited", True, ("/c:/v",))
    assert path.read_text() == "max_files = 5\nmax_core = 7"
    given = tmp_path / "given.conf"
    given.write_text("max_files = 6")
    assert Config.read(tmp_path, {"max_core": 1}, file=given).max_files == 6


def test_two_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("max_files = 1")
    two.write_text("max_files = 2")
    (tmp_path / "link").symlink_to(one)
    assert Config.read(tmp_path, one, file=tmp_path / "link").max_files == 1
    with pytest.raises(InvalidArgument, match=r"two configuration files are given: '.*/one', and '.*/two' in the URI"):
        Config.read(tmp_path, one, file=two)


def test_what_is_given_is_a_path_or_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="config must be a path or a mapping, not bytes"):
        Config.read(tmp_path, b"/x")  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from(sorted(KEYS)), st.sampled_from(PIECES)), max_size=6))
def test_any_file_is_a_configuration_or_an_error_of_ours(settings: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "conf")
        path.write_text("\n".join(f"{name} = {value}" for name, value in settings))
        try:
            config = Config.read(Path(directory), path)
        except EmbedError as error:
            assert str(path) in error.message  # noqa: PT017 - either is right
        else:
            assert set(config.differences(Config.read(Path(directory)))) <= {name for name, _ in settings} | SETTLED


def test_a_file_that_is_given_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match="Failed to open file"):
        Config.read(tmp_path, "a\0b")
    with pytest.raises(SystemFailure, match=r"Failed to open file '.*/none': No such file or directory"):
        Config.read(tmp_path, tmp_path / "none")


def test_the_roots_file_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "etc/qemu.conf").mkdir(parents=True)
    with pytest.raises(SystemFailure, match="Failed to open file"):
        Config.read(tmp_path)


def test_a_file_may_hold_any_bytes(tmp_path: Path, write: Write) -> None:
    write("").write_bytes(b"vnc_sasl_dir = '/\xff'")
    assert os.fsencode(Config.read(tmp_path).vnc_sasl_dir or "") == b"/\xff"


# What it may hold


def test_the_keys_are_those_of_libvirts_lens() -> None:
    lens = LENSES / "libvirtd_qemu.aug"
    if not lens.exists():
        pytest.skip("libvirt's lens is not installed")
    keys = dict(re.findall(r'(\w+)_entry "(\w+)"', lens.read_text()))
    found = {name: kind for kind, name in re.findall(r'(\w+)_entry "(\w+)"', lens.read_text())}
    assert keys
    assert {name: kind for name, kind in found.items() if name not in KEYS} == {}
    assert {name: kind for name, kind in found.items() if KEYS[name].type not in LENS_TYPES[kind]} == {}


def test_every_example_of_libvirts_file_is_known() -> None:
    if not os.access(QEMU_CONF, os.R_OK):  # it is root's
        pytest.skip("libvirt's qemu.conf is not installed, or not ours to read")
    shown = set(re.findall(r"^#?([a-z][a-z0-9_]*) = ", QEMU_CONF.read_text(), re.MULTILINE))
    assert len(shown) > 90
    assert shown - KEYS.keys() == set()


def test_every_field_is_a_key_and_every_honoured_key_a_field() -> None:
    fields = {f.name for f in dataclasses.fields(Config)} - {"warnings"}
    assert fields <= KEYS.keys()
    assert {name for name, key in KEYS.items() if key.ignored is None} <= fields
    assert CHECKS.keys() <= fields


#: A value of each type, and one that is none.
VALUES: dict[Type, tuple[str, str, str]] = {
    "bool": ("1", "'yes'", "expected a bool"),
    "int": ("-1", "'1'", "expected a signed integer"),
    "unsigned": ("6000", "-1", "expected an unsigned integer"),
    "limit": ("'unlimited'", "[]", "expected an unsigned integer"),
    "string": ("'/'", "1", "expected a string"),
    "list": ("[]", "'x'", "expected a string list"),
    "names": ("'none'", "1", "expected a string or string list"),
}
#: Keys whose values must be more than of the right type.
SPECIAL = {"user": "'root'", "group": "'root'", "stdio_handler": "'file'", "deprecation_behavior": "'omit'",
           "security_default_confined": "0", "security_require_confined": "0"}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_every_key_is_read_as_its_type_and_no_other(tmp_path: Path, write: Write, name: str) -> None:
    good, bad, sentence = VALUES[KEYS[name].type]
    write(f"# a\n{name} = {SPECIAL.get(name, good)}")
    config = Config.read(tmp_path, privileged=True)
    named = [warning for warning in config.warnings if f"'{name}'" in warning]
    assert bool(named) == (KEYS[name].ignored is not None)
    path = write(f"# a\n{name} = {bad}")
    with pytest.raises(ConfigSyntax) as caught:
        Config.read(tmp_path)
    assert caught.value.message == f"configuration file syntax error: {path}:2: {sentence} for '{name}' parameter"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\nmax_flies = 1", ":2: unknown key 'max_flies'"),
        ("vnc_tls = 2", ":1: value for 'vnc_tls' parameter must be 0 or 1"),
        ("vnc_tls = -0", ":1: expected a bool for 'vnc_tls' parameter"),
        ("max_files = 4294967296", ":1: value for 'max_files' parameter must be in range 0:4294967295"),
        ("seccomp_sandbox = 2147483648", "must be in range -2147483648:2147483647"),
        ("max_core = 'huge'", ":1: Unknown core size 'huge'"),
        ("nvram = [ '/a:/b', 1 ]", ":1: expected a string list for 'nvram' parameter"),
        ("nvram = [ '/a' ]", ":1: Invalid nvram format: '/a'"),
        ("remote_display_port_min = 5899", ":1: remote_display_port_min: port must be greater than or equal to 5900"),
        ("remote_display_port_max = 65536", ":1: remote_display_port_max: port must be between the minimal port"),
        ("\nremote_display_port_min = 65536", ":2: remote_display_port_max: port must be between the minimal port"),
        ("default_tls_x509_cert_dir = '/nowhere'", "default_tls_x509_cert_dir directory '/nowhere' does not exist"),
        ("memory_backing_dir = 'x'", ":1: memory_backing_dir must be an absolute path, not 'x'"),
        ("user = 'no-such-user'", ":1: there is no user 'no-such-user'"),
        ("user = '+4294967295'", ":1: there is no user '+4294967295'"),
        ("group = '+x'", ":1: there is no group '+x'"),
        ("namespaces = [ 'net' ]", ":1: Unknown namespace: net"),
        ("cgroup_controllers = [ 'x' ]", ":1: Unknown cgroup controller 'x'"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path: Path, write: Write, text: str, sentence: str) -> None:
    path = write(text)
    with pytest.raises(ConfigSyntax, match=re.escape(sentence)) as caught:
        Config.read(tmp_path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("stdio_handler = 'logd'", "needs virtlogd"),
        ("stdio_handler = 'x'", "Unknown stdio handler x"),
        ("security_driver = 'selinux'", "Security driver selinux not enabled"),
        ("security_driver = [ 'none', 'apparmor' ]", "Security driver apparmor not enabled"),
        ("security_default_confined = 1", 'Security driver "none" cannot create confined guests'),
        ("security_require_confined = 1", 'Security driver "none" cannot create confined guests'),
        ("namespaces = [ 'mount' ]", "mount namespace is not available"),
        ("cgroup_controllers = [ 'cpu' ]", "cgroup controller 'cpu' is not available"),
        ("cgroup_device_acl = [ '/dev/null' ]", "cgroup_device_acl is not available"),
        ("deprecation_behavior = 'x'", "unsupported deprecation behavior 'x'"),
    ],
)
def test_what_it_cannot_do_is_refused(tmp_path: Path, write: Write, text: str, sentence: str) -> None:
    path = write(text)
    with pytest.raises(ConfigUnsupported, match=re.escape(f"{path}:1: ")) as caught:
        Config.read(tmp_path, privileged=True)
    assert sentence in caught.value.message


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"max_flies": 1}, "config['max_flies']: unknown key 'max_flies'"),
        ({1: 1}, "config[1]: unknown key '1'"),
        ({"vnc_tls": "yes"}, "config['vnc_tls']: expected a bool for 'vnc_tls' parameter"),
        ({"max_files": True}, "config['max_files']: expected an unsigned integer for 'max_files' parameter"),
        ({"max_files": 1.5}, "config['max_files']: expected a bool, an integer, a string or a list, not float"),
        ({"max_files": None}, "config['max_files']: expected a bool, an integer, a string or a list, not NoneType"),
        ({"nvram": ["/a:/b", 3]}, "config['nvram']: expected a string list for 'nvram' parameter"),
        ({"vnc_listen": "a\0b"}, "config['vnc_listen']: a NUL character"),
        ({"nvram": [["/a:/b"]]}, "config['nvram']: expected no list in a list"),
    ],
)
def test_what_is_wrong_in_a_mapping_is_said_with_its_key(
    tmp_path: Path, values: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigSyntax) as caught:
        Config.read(tmp_path, values)
    assert caught.value.detail == sentence


def test_what_has_no_effect_is_named(tmp_path: Path, write: Write) -> None:
    path = write("spice_tls = 1\n\nmac_filter = 0")
    assert Config.read(tmp_path).warnings == (
        f"{path}:1: 'spice_tls' has no effect: SPICE graphics are not supported by this driver",
        f"{path}:3: 'mac_filter' has no effect: this driver has no device that would need it",
    )


# What the documentation says

DOCS = (Path(__file__).parents[3] / "docs/driver.md").read_text()


def table(first: str) -> list[tuple[set[str], str]]:
    """The rows of the table whose head begins with FIRST: the keys in them, and their other cell."""
    _, _, rest = DOCS.partition(f"\n| {first} |")
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in rest.split("\n\n")[0].splitlines()[2:]]
    return [
        (set(re.findall(r"`(\w+)`", keys)), other)
        for keys, other in (row if first == "key" else row[::-1] for row in rows)
    ]


def test_the_table_of_keys_is_what_is_honoured() -> None:
    assert set().union(*(keys for keys, _ in table("key"))) == {n for n, key in KEYS.items() if key.ignored is None}


def test_the_table_of_reasons_is_what_has_no_effect() -> None:
    said = {name: reason for keys, reason in table("reason") for name in keys}
    assert said == {name: key.ignored for name, key in KEYS.items() if key.ignored}


# What follows from what


def test_certificates_and_verification_of_one_are_those_of_all(tmp_path: Path) -> None:
    config = Config.read(tmp_path, {"default_tls_x509_cert_dir": str(tmp_path), "default_tls_x509_verify": True})
    assert (config.vnc_tls_x509_cert_dir, config.vnc_tls_x509_verify) == (str(tmp_path), True)
    config = Config.read(tmp_path, {"default_tls_x509_verify": True, "vnc_tls_x509_verify": False})
    assert config.vnc_tls_x509_verify is False


def test_a_long_vnc_password_is_cut_and_never_shown(tmp_path: Path) -> None:
    config = Config.read(tmp_path, {"vnc_password": "correct-horse"})
    assert config.vnc_password == "correct-"
    assert config.warnings == (
        "config['vnc_password']: VNC password is 13 characters long, only 8 permitted, truncating",
    )
    assert "correct" not in repr(config)


def test_users_by_name_and_number(tmp_path: Path) -> None:
    def user(text: str) -> int | None:
        return Config.read(tmp_path, {"user": text, "group": "+7"}, privileged=True).user

    assert (user("root"), user("+12"), user("4321")) == (0, 12, 4321)


def test_who_is_not_root_runs_qemu_as_himself(tmp_path: Path) -> None:
    config = Config.read(tmp_path, {"user": "+4321"}, privileged=False)
    assert config.user is None
    assert config.warnings == (
        "config['user']: 'user' has no effect: the driver does not run as root, and QEMU runs as the driver's user",
    )
    assert Config.read(tmp_path, {"user": f"+{os.geteuid()}"}, privileged=False).warnings == ()
    with pytest.raises(ConfigUnsupported, match="cannot use namespaces in session mode"):
        Config.read(tmp_path, {"namespaces": ["mount"]}, privileged=False)


def test_another_configuration_is_refused_by_its_keys(tmp_path: Path) -> None:
    one, other = (Config.read(tmp_path, {"vnc_password": p, "max_files": n}) for p, n in (("a", 1), ("b", 2)))
    one.require_same(Config.read(tmp_path, {"max_files": 1, "vnc_password": "a", "mac_filter": 1}))
    with pytest.raises(EmbedError) as caught:
        one.require_same(other)
    assert caught.value.message == (
        "unsupported configuration: this root is open in this process with another configuration: "
        "vnc_password, max_files"
    )
