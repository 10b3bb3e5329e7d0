from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.driver.uri import make_uri, parse_uri
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
            "invalid argument: unknown URI parameter 'foo'",
        ),
        (
            "qemu:///embed?root=/x&root=/y",
            InvalidArgument,
            ErrorDomain.URI,
            "invalid argument: URI parameter 'root' is given more than once",
        ),
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
