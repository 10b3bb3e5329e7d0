from __future__ import annotations

from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainMetadataType as Kind
from pytest_embedvm.constants import DomainModificationImpact as Impact
from pytest_embedvm.domain import definition
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.driver import metadata
from pytest_embedvm.errors import (
    EmbedError,
    InvalidArgument,
    InvalidCall,
    NoMetadata,
    OperationInvalid,
    XMLError,
    XMLSyntaxError,
)
from tests.driver import tiny
from tests.driver.conftest import Events, OpenDriver

URI = "http://example.org/u"


@pytest.fixture
def domain() -> Domain:
    return Domain(type="qemu", name="a")


@pytest.mark.parametrize("kind", [Kind.TITLE, Kind.DESCRIPTION])
def test_texts(domain: Domain, kind: Kind) -> None:
    with pytest.raises(NoMetadata, match=r"^metadata not found: Requested metadata element is not present$"):
        metadata.get(domain, kind, None)
    metadata.put(domain, kind, "hello", None, None)
    assert metadata.get(domain, kind, None) == "hello"
    metadata.put(domain, kind, "", None, None)
    with pytest.raises(NoMetadata):
        metadata.get(domain, kind, None)


@pytest.mark.parametrize("text", ["<x>1</x>", "<x/>", '<x a="1"><y>2</y><y/></x>'])
def test_elements_come_back_free_of_their_namespace(domain: Domain, text: str) -> None:
    metadata.put(domain, Kind.ELEMENT, text, "k", URI)
    (stored,) = domain.metadata
    assert (stored.prefix, stored.tag) == ("k", f"{{{URI}}}x")
    assert "".join(metadata.get(domain, Kind.ELEMENT, URI).split("\n")).replace("  ", "") == text.replace('"', "'")


def test_each_namespace_has_one_element(domain: Domain) -> None:
    metadata.put(domain, Kind.ELEMENT, "<x>1</x>", "k", URI)
    metadata.put(domain, Kind.ELEMENT, "<z/>", "o", "http://example.org/other")
    metadata.put(domain, Kind.ELEMENT, "<x>2</x>", "k", URI)
    assert len(domain.metadata) == 2
    assert metadata.get(domain, Kind.ELEMENT, URI) == "<x>2</x>"
    metadata.put(domain, Kind.ELEMENT, None, None, URI)
    metadata.put(domain, Kind.ELEMENT, None, None, URI)
    assert metadata.get(domain, Kind.ELEMENT, "http://example.org/other") == "<z/>"
    metadata.put(domain, Kind.ELEMENT, None, None, "http://example.org/other")
    assert domain.metadata is None


def test_refusals(domain: Domain) -> None:
    with pytest.raises(InvalidCall, match=r"^metadata title can't contain newlines$"):
        metadata.put(domain, Kind.TITLE, "a\nb", None, None)
    with pytest.raises(InvalidArgument, match=r"^invalid argument: unknown metadata type '7'$"):
        metadata.get(domain, 7, None)
    with pytest.raises(XMLSyntaxError) as caught:
        metadata.put(domain, Kind.ELEMENT, "<a", "k", URI)
    assert caught.value.message.startswith("(metadata_xml):1: Couldn't find end of Start Tag a")


async def test_what_is_affected(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.define_xml(tiny.xml(tmp_path))
        await machine.set_metadata(Kind.TITLE, "off", None, None)
        await machine.create(1)
        await events.so_far(machine)
        await machine.set_metadata(Kind.TITLE, "live", None, None)
        await machine.set_metadata(Kind.DESCRIPTION, "both", None, None, Impact.LIVE | Impact.CONFIG)
        assert await events.so_far(machine) == ["METADATA_CHANGE"] * 2
        assert machine.metadata(Kind.TITLE, None) == machine.metadata(Kind.TITLE, None, Impact.LIVE) == "live"
        assert machine.metadata(Kind.TITLE, None, Impact.CONFIG) == "off"
        await machine.destroy()
        with pytest.raises(OperationInvalid, match=r"domain is not running"):
            machine.metadata(Kind.TITLE, None, Impact.LIVE)
    async with embed() as driver:
        machine = driver.by_name("a")
        assert (machine.metadata(Kind.TITLE, None), machine.metadata(Kind.DESCRIPTION, None)) == ("off", "both")


async def test_a_transient_domain_has_no_config(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path), 1)
        message = "Requested operation is not valid: transient domains do not have any persistent config"
        with pytest.raises(EmbedError) as caught:
            await machine.set_metadata(Kind.TITLE, "x", None, None, Impact.CONFIG)
        assert caught.value.message == message


@pytest.mark.parametrize(
    ("kind", "text", "key", "uri"),
    [
        (Kind.DESCRIPTION, "bell\x07", None, None),
        (Kind.TITLE, "\ufffe", None, None),
        (Kind.ELEMENT, "<a/>", "", "urn:x"),
        (Kind.ELEMENT, "<a/>", "a:b", "urn:x"),
        (Kind.ELEMENT, "<a/>", "k", "{0}"),
    ],
)
def test_what_no_xml_can_hold_is_refused_at_once(kind: int, text: str, key: str | None, uri: str | None) -> None:
    domain = definition.parse("<domain type='qemu'><name>a</name></domain>")
    before = definition.format(domain)
    with pytest.raises(XMLError):
        metadata.put(domain, kind, text, key, uri)
    assert definition.format(domain) == before
