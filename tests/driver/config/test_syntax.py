"""libvirt's conf syntax, held against libvirt's own parser (virConfReadString of libvirt.so.0, where it is there)."""

from __future__ import annotations

import contextlib
import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.driver.config.syntax import Value, parse
from pytest_embedvm.errors import ConfigSyntax

SHIPPED = sorted(Path("/etc/libvirt").glob("*.conf"))

ACCEPTED = (
    "",
    "# c",
    "# c\n",
    "a=1",
    "a=1\n",
    " a = 1 ",
    "\n\na=1",
    "a=1#c",
    "a=1;b=2",
    "a = 1 ; b = 2;",
    "a=1\r\nb=2",
    "a=1\rb=2",
    "a=[]",
    "a=[1,]",
    "a=[ 'x' ,\n\t\"y\"\n]",
    "a=[\n\n'x'\n,\n'y'\n\n]\n",
    "a=[[1],['b']]",
    "a=-0",
    "a=+3",
    "a=-5",
    "a=007",
    "a=18446744073709551615",
    "a='é'",
    "a='\"'",
    'a="\'"',
    "a=''",
    'a="#"#c',
    'a="""x"""',
    'a="""\nx\n"""\nb=2',
    'a=""""""\n',
    'a="""x"y""z"""\n',
    "a=1\n# c\nb=2",
    "a=1 \n  \n  ",
    "a='x'\nb=1",
    "A_9z=1",
    "a=1\na=2",
)
REFUSED = (
    "\n",
    " ",
    "a",
    "a=",
    "a = \n1",
    "a\n=1",
    "a=1;;",
    ";",
    "[",
    "a=[,]",
    "a=[1 2]",
    "a=['x',\n#c\n'y']",
    'a=""""""',
    'a="x\ny"',
    "a='it''s'",
    "a='x",
    'a="""x',
    'a="""\nx\n"',
    "a=[1",
    "a=[1,",
    "_a=1",
    "9=1",
    "a.b=1",
    "a-b=1",
    "a=0x10",
    "a=1.5",
    "a=True",
    "a=-",
    "a=+x",
    "a=1\n;",
    "a='x'b=1",
    "a=1\x0b",
    "é=1",
    "\ufeffa=1",
    "a=1 2",
    "a==1",
    "a=x",
    "a=1\n\n\n b c",
)


class _Value(ctypes.Structure):
    """libvirt: struct _virConfValue"""


_Value._fields_ = [
    ("type", ctypes.c_int),
    ("next", ctypes.POINTER(_Value)),
    ("l", ctypes.c_longlong),
    ("str", ctypes.c_char_p),
    ("list", ctypes.POINTER(_Value)),
]
KINDS = {1: "long", 2: "unsigned long", 3: "string", 4: "list"}


@cache
def libvirt_so() -> Any:
    try:
        import libvirt

        library = ctypes.CDLL("libvirt.so.0")
        library.virConfReadString.restype = ctypes.c_void_p
        library.virConfReadString.argtypes = [ctypes.c_char_p, ctypes.c_uint]
        library.virConfGetValue.restype = ctypes.POINTER(_Value)
        library.virConfGetValue.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.virConfFree.argtypes = [ctypes.c_void_p]
    except (ImportError, OSError, AttributeError):
        return None
    libvirt.registerErrorHandler(lambda *_: None, None)
    return library


def plain(value: Any) -> Any:
    """One of libvirt's values as ours is spelled by `ours()`."""
    kind = KINDS[value.type]
    if kind == "list":
        items, item = [], value.list
        while item:
            items.append(plain(item.contents))
            item = item.contents.next
        return kind, items
    if kind == "string":
        return kind, value.str.decode(errors="surrogateescape")
    return kind, value.l if kind == "long" else value.l % (1 << 64)


def theirs(text: str, names: set[str]) -> dict[str, Any] | str:
    """What libvirt reads, or its sentence without the file and line."""
    import libvirt

    library = libvirt_so()
    conf = library.virConfReadString(text.encode(errors="surrogateescape"), 0)
    if not conf:
        return str(libvirt.virGetLastErrorMessage())
    try:
        values = {name: library.virConfGetValue(conf, name.encode()) for name in names}
        return {name: plain(value.contents) for name, value in values.items() if value}
    finally:
        library.virConfFree(conf)


def ours(text: str) -> dict[str, Any] | str:
    def spell(value: Value) -> Any:
        content = value.content
        return value.kind, [spell(item) for item in content] if isinstance(content, tuple) else content

    try:
        return {name: spell(value) for name, value in parse(text, "memory conf").items()}
    except ConfigSyntax as error:
        return error.message


@pytest.mark.parametrize("text", ACCEPTED)
def test_accepted(text: str) -> None:
    assert isinstance(ours(text), dict)


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    assert isinstance(ours(text), str)


def agree(text: str) -> None:
    mine = ours(text)
    names = set(mine) if isinstance(mine, dict) else set()
    his = theirs(text, names)
    if isinstance(mine, str) and "unterminated string" in mine:  # ours names the line on which the string begins
        assert isinstance(his, str)
        assert "unterminated string" in his
    else:
        assert mine == his


needs_libvirt = pytest.mark.skipif(libvirt_so() is None, reason="libvirt.so.0 with its private symbols is not here")


@needs_libvirt
@pytest.mark.parametrize("text", [*ACCEPTED, *REFUSED])
def test_libvirt_agrees(text: str) -> None:
    agree(text)


@needs_libvirt
@given(
    st.lists(
        st.sampled_from(
            ["a", "b1", "_", "=", " ", "\t", "\n", "\r", "#", ";", "[", "]", ",", "'", '"', '"""', "1", "-", "+", "x y"]
        ),
        max_size=14,
    )
)
def test_libvirt_agrees_on_anything(pieces: list[str]) -> None:
    agree("".join(pieces))


@needs_libvirt
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=18))
def test_libvirt_agrees_on_any_text_after_an_assignment(text: str) -> None:
    agree(f"a={text}")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_files_that_libvirt_ships(path: Path) -> None:
    if not os.access(path, os.R_OK):
        pytest.skip(f"{path} is root's")
    text = path.read_text()
    parse(text, str(path))
    # The examples of each file, as if an administrator had taken them all.
    lines = [line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in text.splitlines()]
    shown = "\n".join(line for line in lines if line.strip() and line.strip() != "#")
    with contextlib.suppress(ConfigSyntax):  # some files have prose without a blank after the "#"
        assert parse(shown, str(path))
    if libvirt_so() is not None:
        agree(text)
        agree(shown)


def test_of_two_the_first_counts() -> None:
    assert parse("a = 1\na = 2", "f")["a"].content == 1


def test_where_a_value_stands() -> None:
    values = parse('# c\n\na = 1\nb = """\n\n"""\nc = [\n"x"]', "/f")
    assert {name: value.where for name, value in values.items()} == {"a": "/f:3", "b": "/f:4", "c": "/f:7"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a=1\n\nb", "f:3: expecting an assignment"),
        ("a = [\n1,\n2\n", "f:4: list is not closed with ]"),
        ("a = 18446744073709551616", "f:1: number is too large"),
        ("a = 1\nb = 'x\0y'", "f:2: a NUL character"),
        ("a = " + "[" * 100_000, "f:1: expecting a value"),
    ],
)
def test_the_error_names_file_and_line(text: str, sentence: str) -> None:
    with pytest.raises(ConfigSyntax) as caught:
        parse(text, "f")
    assert caught.value.message == f"configuration file syntax error: {sentence}"


def test_a_number_of_many_digits_is_only_a_large_number() -> None:
    assert parse(f"a = {'0' * 5000}7", "f")["a"].content == 7
    with pytest.raises(ConfigSyntax, match="too large"):
        parse(f"a = {'9' * 5000}", "f")
