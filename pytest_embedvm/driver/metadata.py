"""Title, description and `<metadata>` of a domain, as setMetadata and metadata handle them."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Final

from lxml import etree

from pytest_embedvm.constants import DomainMetadataType, ErrorDomain
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.errors import InvalidArgument, InvalidCall, NoMetadata, XMLError
from pytest_embedvm.xml import document
from pytest_embedvm.xml.document import Element

#: An XML name without a colon (libvirt: xmlValidateNCName).
_PREFIX: Final = re.compile(r"[^\W\d][\w.\-]*")

# libvirt: virDomainObjGetMetadata
ABSENT: Final = "Requested metadata element is not present"


def get(domain: Domain, kind: int, uri: str | None) -> str:
    """The text of title or description, or the element of namespace URI, free of that namespace.

    :raise NoMetadata: when there is none.
    :raise InvalidArgument: when KIND is none of libvirt's.
    """
    match kind:
        case DomainMetadataType.DESCRIPTION:
            text = domain.description
        case DomainMetadataType.TITLE:
            text = domain.title
        case DomainMetadataType.ELEMENT:
            element = _find(domain, uri)
            text = None if element is None else _without_namespace(element)
        case _:
            raise _unknown(kind)
    if text is None:
        raise NoMetadata(ABSENT)
    return text


def put(domain: Domain, kind: int, text: str | None, key: str | None, uri: str | None) -> None:
    """Set, or with None remove, title, description or the element of namespace URI, whose prefix is KEY.

    :raise InvalidCall: when a title has more than one line.
    :raise InvalidArgument: when KIND is none of libvirt's.
    :raise XMLSyntaxError: when TEXT is to be an element and is no XML.
    :raise XMLError: when KEY is no prefix, URI no URI, or TEXT holds what XML cannot.
    """
    match kind:
        case DomainMetadataType.DESCRIPTION:
            domain.description = document.require_text(text, "metadata description") if text else None
        case DomainMetadataType.TITLE:
            if text and "\n" in text:
                # libvirt: virDomainSetMetadata
                raise InvalidCall("metadata title can't contain newlines")
            domain.title = document.require_text(text, "metadata title") if text else None
        case DomainMetadataType.ELEMENT:
            _put_element(domain, None if text is None else _with_namespace(text, key, uri), uri)
        case _:
            raise _unknown(kind)


def _unknown(kind: int) -> InvalidArgument:
    return InvalidArgument(f"unknown metadata type '{kind}'", origin=ErrorDomain.DOMAIN)


def _find(domain: Domain, uri: str | None) -> Element | None:
    children = () if domain.metadata is None else domain.metadata
    return next((child for child in children if etree.QName(child).namespace == uri), None)


def _put_element(domain: Domain, element: Element | None, uri: str | None) -> None:
    if domain.metadata is None:
        domain.metadata = etree.Element("metadata")
    old = _find(domain, uri)
    if old is not None:
        domain.metadata.remove(old)
    if element is not None:
        domain.metadata.append(element)
    if not len(domain.metadata):
        domain.metadata = None


def _with_namespace(text: str, key: str | None, uri: str | None) -> Element:
    # libvirt: virXMLInjectNamespace: the outermost element only
    element = document.parse_fragment(text, "metadata_xml")
    if not _PREFIX.fullmatch(key or ""):
        raise XMLError("failed to validate prefix for a new XML namespace", origin=ErrorDomain.NONE)
    try:
        return _renamed(element, f"{{{uri}}}", {key or "": uri or ""})
    except ValueError:
        raise XMLError(f"'{uri}' cannot be the URI of an XML namespace", origin=ErrorDomain.NONE) from None


def _without_namespace(element: Element) -> str:
    # libvirt: virXMLExtractNamespaceXML
    plain = _renamed(
        element, "", {prefix: uri for prefix, uri in element.nsmap.items() if prefix and uri != _uri(element)}
    )
    etree.cleanup_namespaces(plain)
    return document.format(plain).rstrip("\n")


def _uri(element: Element) -> str | None:
    return etree.QName(element).namespace


def _renamed(element: Element, namespace: str, nsmap: dict[str, str]) -> Element:
    new = etree.Element(namespace + etree.QName(element).localname, nsmap=nsmap)
    new.text = element.text
    for name, value in element.attrib.items():
        new.set(name, value)
    new.extend(deepcopy(child) for child in element)
    return new
