"""document: safe parsing, libvirt's errors, libvirt's looks."""

from __future__ import annotations

import pytest

from pytest_embedvm.errors import XMLError, XMLSyntaxError
from pytest_embedvm.xml import document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "(domain_definition):1: Document is empty\n(null)\n^"),
        ("not xml", "(domain_definition):1: Start tag expected, '<' not found\nnot xml\n^"),
        ("<disk", "(domain_definition):1: Couldn't find end of Start Tag disk line 1\n<disk\n-----^"),
    ],
)
def test_errors_are_libvirts(text: str, message: str) -> None:
    with pytest.raises(XMLSyntaxError) as caught:
        document.parse(text)
    assert caught.value.message == message


def test_line_and_column_of_a_mismatch() -> None:
    with pytest.raises(XMLSyntaxError) as caught:
        document.parse("<domain>\n  <name>a</nam>\n</domain>")
    where, line, pointer = caught.value.message.split("\n")
    assert where.startswith("(domain_definition):2: Opening and ending tag mismatch: name line 2 and nam")
    assert line == "  <name>a</nam>"
    assert pointer.strip("-") == "^"


def test_another_root_element() -> None:
    with pytest.raises(XMLError) as caught:
        document.parse("<network/>", root="domain")
    assert caught.value.message == "XML error: expecting root element of 'domain', not 'network'"


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        '<!DOCTYPE a [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x"> %p;]><a/>',
        "<!DOCTYPE a ["
        + '<!ENTITY a0 "aaaaaaaaaa">'
        + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
        + ']><a b="&a11;"/>',
    ],
)
def test_no_document_type_no_entities(text: str) -> None:
    with pytest.raises((XMLError, XMLSyntaxError)):
        document.parse(text)


@pytest.mark.parametrize(
    "garbage",
    [
        "<a>" * 3_000_000,
        "<a b='" + "x" * 10_000_000,
        "<" * 10_000_000,
        "<a>" + "&lt;" * 2_500_000,
        "<a " + "b='1' " * 1_500_000,
    ],
    ids=["nested", "attribute", "brackets", "text", "attributes"],
)
def test_ten_megabytes_of_garbage_end_in_a_short_error_with_line_and_column(garbage: str) -> None:
    with pytest.raises(XMLSyntaxError) as caught:
        document.parse(garbage)
    assert caught.value.message.startswith("(domain_definition):1: ")
    assert caught.value.message.endswith("^")
    assert len(caught.value.message) < 1000


def test_a_lone_surrogate_is_an_xml_error_and_no_crash() -> None:
    with pytest.raises(XMLSyntaxError):
        document.parse("<a>\udcff</a>")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('<a b="it\'s"/>', "<a b='it&apos;s'/>\n"),
        ("<a b='say \"x\"'/>", "<a b='say \"x\"'/>\n"),
        ("<a b='&lt;&gt;&amp;'>&lt;&gt;\"'</a>", "<a b='&lt;&gt;&amp;'>&lt;&gt;\"'</a>\n"),
        ('<a><!-- c="d" --><b/></a>', '<a>\n  <!-- c="d" -->\n  <b/>\n</a>\n'),
        ("<a x='&#10;'/>", "<a x='&#10;'/>\n"),
    ],
)
def test_format_is_libvirts_and_reads_back(written: str, read: str) -> None:
    text = document.format(document.parse(written))
    assert text == read
    assert document.format(document.parse(text)) == text
