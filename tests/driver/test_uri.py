from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.driver.uri import Mode, make_uri, parse_uri
from pytest_embedvm.errors import ConfigUnsupported, EmbedError, InternalError, InvalidArgument, NoConnect


@pytest.mark.parametrize("name", ["plain", "with space", "a,b", "ünïcode", "100%", "a+b", "a&b=c;d", "#?", "\udcff"])
def test_goes_there_and_back(name: str) -> None:
    root = Path("/tmp") / name
    uri = make_uri(root)
    assert uri.isascii()
    assert parse_uri(uri).root == root
    assert str(parse_uri(uri)) == uri


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_any_name_goes_there_and_back(name: str) -> None:
    root = Path(f"/tmp/x{name}")
    assert parse_uri(make_uri(root)).root == root


MODES = st.sampled_from(["private", "host", "none"])


@given(MODES, MODES, MODES, st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_every_parameter_goes_there_and_back(network: Mode, secret: Mode, storage: Mode, config: str | None) -> None:
    path = None if config is None else f"/etc/{config}"
    uri = make_uri("/tmp/x", network=network, secret=secret, storage=storage, config=path)
    said = parse_uri(uri)
    assert (said.network, said.secret, said.storage) == (network, secret, storage)
    assert (None if said.config is None else str(said.config)) == (None if path is None else str(Path(path)))
    assert ("network=" in uri) is (network != "private")


def test_make_uri_refuses_what_no_uri_may_say() -> None:
    with pytest.raises(ConfigUnsupported, match="root path must be absolute"):
        make_uri("here")
    with pytest.raises(ConfigUnsupported, match="config path must be absolute"):
        make_uri("/tmp/x", config="qemu.conf")
    with pytest.raises(InvalidArgument, match="'storage' may be"):
        make_uri("/tmp/x", storage="public")  # type: ignore[arg-type]


def test_a_plus_is_a_plus_as_in_libvirt() -> None:
    assert parse_uri("qemu:///embed?root=/tmp/a+b").root == Path("/tmp/a+b")


@pytest.mark.parametrize(
    ("uri", "error", "origin", "message"),
    [
        ("qemu:///embed", InvalidArgument, ErrorDomain.URI, "invalid argument: Missing URI parameter 'root'"),
        (
            "qemu:///embed?root=rel",
            ConfigUnsupported,
            ErrorDomain.NONE,
            "unsupported configuration: root path must be absolute",
        ),
        (
            "qemu:///embed?root=",
            ConfigUnsupported,
            ErrorDomain.NONE,
            "unsupported configuration: root path must be absolute",
        ),
        (
            "qemu:///embed?root=/x&foo=1",
            InvalidArgument,
            ErrorDomain.URI,
            "invalid argument: unknown URI parameter 'foo'; there are root, network, secret, storage, config",
        ),
        (
            "qemu:///embed?root=/x&root=/y",
            InvalidArgument,
            ErrorDomain.URI,
            "invalid argument: URI parameter 'root' is given more than once",
        ),
        (
            "qemu:///embed?root=/x&network=bridge",
            InvalidArgument,
            ErrorDomain.URI,
            "invalid argument: URI parameter 'network' may be private, host, none, not 'bridge'",
        ),
        (
            "qemu:///embed?root=/x&config=qemu.conf",
            ConfigUnsupported,
            ErrorDomain.NONE,
            "unsupported configuration: config path must be absolute",
        ),
        ("qemu:///session?root=/x", InternalError, ErrorDomain.QEMU, "internal error: URI must be qemu:///embed"),
        (
            "foo:///embed?root=/x",
            NoConnect,
            ErrorDomain.NONE,
            "no connection driver available for foo:///embed?root=/x",
        ),
        (
            "qemu://host/embed?root=/x",
            NoConnect,
            ErrorDomain.NONE,
            "no connection driver available for qemu://host/embed?root=/x",
        ),
        ("qemu:///system", InternalError, ErrorDomain.QEMU, "internal error: URI must be qemu:///embed"),
        ("", NoConnect, ErrorDomain.NONE, "no connection driver available for "),
        ("qemu://[/embed", NoConnect, ErrorDomain.NONE, "no connection driver available for qemu://[/embed"),
    ],
)
def test_refuses_in_libvirts_words(uri: str, error: type[EmbedError], origin: ErrorDomain, message: str) -> None:
    with pytest.raises(error) as caught:
        parse_uri(uri)
    assert (caught.value.message, caught.value.origin) == (message, origin)


@pytest.mark.parametrize("root", ["/", "//", "/..", "/tmp/..", "/%2e%2e"])
def test_refuses_the_hosts_root(root: str) -> None:
    with pytest.raises(ConfigUnsupported, match=r"must not be '/'"):
        parse_uri(f"qemu:///embed?root={root}")


def test_refuses_a_link_to_the_hosts_root(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/")
    with pytest.raises(ConfigUnsupported, match=r"must not be '/'"):
        parse_uri(make_uri(link))


def test_refuses_a_nul() -> None:
    with pytest.raises(InvalidArgument, match="NUL"):
        parse_uri("qemu:///embed?root=/a%00b")
