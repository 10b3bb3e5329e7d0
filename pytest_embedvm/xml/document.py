"""Text to element and back: safely, and with libvirt's words and looks."""

from __future__ import annotations

import re
from typing import Final

from lxml import etree

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import XMLError, XMLSyntaxError

Element = etree._Element

#: How much of a long line an error shows on each side of the column (libvirt: virXMLParse's catchXMLError).
CONTEXT_CHARACTERS: Final = 80

_POSITION: Final = re.compile(r", line \d+, column \d+$")
_TAGS: Final = re.compile(r"<!--.*?-->|<\?.*?\?>|<!\[CDATA\[.*?]]>|<[^>]+>", re.DOTALL)
#: XML 1.0, production 2: Char.
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ATTRIBUTE: Final = re.compile(r'="([^"]*)"')


def parse(text: str, *, root: str | None = None, name: str = "domain_definition") -> Element:
    """The root element of TEXT.

    Nothing outside TEXT is ever read: no entity is expanded, no DTD loaded, no network used.

    :param root: the element name that is expected.
    :param name: what errors call the document.
    :raise XMLSyntaxError: when TEXT is not well formed (nesting deeper than 256 elements counts as that).
    :raise XMLError: when the root element is another one, or TEXT declares a document type.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_pis=True)
    try:
        # What is no Unicode becomes bytes that are no UTF-8: the parser says where.
        element = etree.fromstring(text.encode("utf-8", "surrogatepass"), parser)
    except etree.XMLSyntaxError as error:
        raise XMLSyntaxError(_explain(error, text, name)) from None
    if element.getroottree().docinfo.internalDTD is not None:
        raise XMLError("a document type declaration is not accepted: entities are never expanded")
    if root is not None and element.tag != root:
        # libvirt: virXMLParse
        raise XMLError(f"expecting root element of '{root}', not '{element.tag}'")
    return element


def _explain(error: etree.XMLSyntaxError, text: str, name: str) -> str:
    if not text.strip():
        return f"({name}):1: Document is empty\n(null)\n^"
    message = _POSITION.sub("", error.msg or "malformed document").split("\n")[0]
    row, column = error.lineno or 1, max(error.offset or 1, 1)
    line = (text.splitlines() or [""])[min(row, len(text.splitlines())) - 1]
    cursor = 0 if column == 1 else column  # libxml2 stands behind what it has read, and reports its column
    start = max(0, cursor - CONTEXT_CHARACTERS)
    shown = line[start : cursor + CONTEXT_CHARACTERS]
    return f"({name}):{row}: {message}\n{shown}\n{'-' * (cursor - start)}^"


def format(element: Element) -> str:  # noqa: A001 - parse() and format() are this project's pair of words
    """ELEMENT as libvirt prints it: two spaces a level, attributes in single quotes, a final newline."""
    etree.indent(element, space="  ")
    text = etree.tostring(element, encoding="unicode")
    return _TAGS.sub(_single_quotes, text) + "\n"


def _single_quotes(match: re.Match[str]) -> str:
    tag = match.group()
    if tag.startswith(("<!", "<?")):
        return tag
    return _ATTRIBUTE.sub(lambda m: "='" + m[1].replace("&quot;", '"').replace("'", "&apos;") + "'", tag)


def require_text(text: str, what: str) -> str:
    """TEXT, if XML can hold it.

    :raise XMLError: naming WHAT, when it holds a control character that is neither tab nor the end of a line.
    """
    bad = _NOT_XML.search(text)
    if bad:
        raise XMLError(f"{what} cannot contain the character {bad[0]!a}", origin=ErrorDomain.DOMAIN)
    return text


def parse_fragment(text: str, name: str) -> Element:
    """The root element of a piece of XML that the user handed over (`setMetadata`, `attachDevice`).

    :raise XMLSyntaxError: when TEXT is not well formed.
    """
    try:
        return parse(text, name=name)
    except XMLError as error:
        raise XMLError(error.detail, origin=ErrorDomain.DOMAIN) from None
