"""mapping: types to XML and back, and what was not read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, EmbedError, XMLError
from pytest_embedvm.xml import document, mapping
from pytest_embedvm.xml.mapping import At, Kept, Present, Roster, Variants
from pytest_embedvm.xml.scalars import Memory, OnOff, Refusal, Whole, YesNo


@dataclass(kw_only=True)
class Named:
    name: str


@dataclass(kw_only=True)
class Base:
    alias: Annotated[str | None, At("alias/@name")] = None


@dataclass(kw_only=True)
class Red(Base):
    shade: int = 1


@dataclass(kw_only=True)
class Blue(Base):
    deep: Annotated[bool, Present()] = False


COLOURS = {"red": Red, "blue": Blue}


@dataclass(kw_only=True)
class Whole_:  # noqa: N801
    kind: Literal["a", "b"] = "a"
    size: Annotated[int | None, At("memory"), Memory()] = None
    text: Annotated[str | None, At("deep/er/text")] = None
    beside: Annotated[bool | None, At("deep/er/@on"), OnOff()] = None
    hexa: Annotated[int | None, Whole(digits=4)] = None
    yes: Annotated[bool | None, YesNo()] = None
    child: Named | None = None
    many: Annotated[list[Named], At("list/item")] = field(default_factory=list)
    words: Annotated[list[str], At("word")] = field(default_factory=list)
    kept: Annotated[Any, Kept()] = None
    choice: Annotated[Red | Blue | None, At("colour"), Variants("type", COLOURS)] = None
    colours: Annotated[list[Base], At("colours"), Roster(COLOURS)] = field(default_factory=list)
    refused: Annotated[Literal["x"] | None, Refusal("no such thing as {}", ConfigUnsupported)] = None


def read(text: str) -> tuple[Whole_, list[tuple[tuple[str, ...], str]]]:
    seen = mapping.Seen()
    root = document.parse(text)
    value = mapping.read(Whole_, root, seen)
    return value, list(mapping.unread(root, seen))


FULL = """<whole kind='b' hexa='0x00ff' yes='no' refused='x'>
  <memory unit='KiB'>1024</memory>
  <deep>
    <er on='on'>
      <text>words</text>
    </er>
  </deep>
  <child name='c'/>
  <list>
    <item name='1'/>
    <item name='2'/>
  </list>
  <word>one</word>
  <word>two</word>
  <kept anything='goes'>mixed <b/> text</kept>
  <colour type='blue'>
    <deep/>
  </colour>
  <colours>
    <red shade='3'>
      <alias name='r'/>
    </red>
    <blue/>
  </colours>
</whole>
"""


def test_reads_all_and_writes_it_the_same() -> None:
    value, unread = read(FULL)
    assert unread == []
    assert value.kind == "b"
    assert (value.size, value.text, value.beside, value.hexa, value.yes) == (1024, "words", True, 255, False)
    assert value.child == Named(name="c")
    assert [item.name for item in value.many] == ["1", "2"]
    assert value.words == ["one", "two"]
    assert value.choice == Blue(deep=True)
    assert value.colours == [Red(shade=3, alias="r"), Blue()]
    root = document.parse("<whole/>")
    mapping.write(value, root)
    assert document.format(root) == FULL


def test_what_is_absent_has_its_default_and_is_not_written() -> None:
    value, _ = read("<whole/>")
    assert value == Whole_()
    root = document.parse("<whole/>")
    mapping.write(value, root)
    assert document.format(root) == "<whole kind='a'/>\n"


def test_fields_of_a_base_are_written_last() -> None:
    root = document.parse("<blue/>")
    mapping.write(Blue(deep=True, alias="b"), root)
    assert [child.tag for child in root] == ["deep", "alias"]


def test_unread_names_elements_and_attributes_once_each() -> None:
    _, unread = read(
        "<whole zz='1'><memory unit='MiB' dumpCore='on'>1</memory><deep><new><below/></new></deep>"
        "<kept><whatever/></kept><colours><green>g</green><red tint='2'/></colours></whole>"
    )
    assert unread == [
        (("whole", "@zz"), "1"),
        (("whole", "memory", "@dumpCore"), "on"),
        (("whole", "deep", "new"), ""),
        (("whole", "colours", "green"), "g"),
        (("whole", "colours", "red", "@tint"), "2"),
    ]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("<whole kind='z'/>", XMLError, "XML error: Invalid value for attribute 'kind' in element 'whole': 'z'."),
        ("<whole yes='1'/>", XMLError, "XML error: Invalid value for attribute 'yes' in element 'whole': '1'."),
        ("<whole hexa='zz'/>", XMLError,
         "XML error: Invalid value for attribute 'hexa' in element 'whole': 'zz'. Expected integer value"),
        ("<whole hexa='-1'/>", XMLError,
         "XML error: Invalid value for attribute 'hexa' in element 'whole': '-1'. Expected integer value"),
        ("<whole hexa='1_0'/>", XMLError,
         "XML error: Invalid value for attribute 'hexa' in element 'whole': '1_0'. Expected integer value"),
        ("<whole><memory>abc</memory></whole>", XMLError,
         "XML error: Invalid value 'abc' for element or attribute './memory[1]'"),
        ("<whole><child/></whole>", XMLError, "XML error: Missing required attribute 'name' in element 'child'"),
        ("<whole><colour type='pink'/></whole>", XMLError,
         "XML error: Invalid value for attribute 'type' in element 'colour': 'pink'."),
        ("<whole refused='y'/>", ConfigUnsupported, "unsupported configuration: no such thing as y"),
    ],
)  # fmt: skip
def test_bad_values(text: str, error: type[EmbedError], message: str) -> None:
    with pytest.raises(error) as caught:
        read(text)
    assert caught.value.message == message


def test_a_refusal_says_which_subsystem_speaks() -> None:
    with pytest.raises(ConfigUnsupported) as caught:
        read("<whole refused='y'/>")
    assert caught.value.origin is ErrorDomain.DOMAIN


def test_a_type_without_a_spelling_is_the_programmers_error() -> None:
    @dataclass
    class Odd:
        number: float = 0.0

    with pytest.raises(TypeError, match="annotate the field"):
        mapping.read(Odd, document.parse("<odd number='1.5'/>"), mapping.Seen())
