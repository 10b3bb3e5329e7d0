"""Which other drivers a domain XML would call: a question that needs no connection."""

from __future__ import annotations

from pytest_embedvm.api._object import answering
from pytest_embedvm.domain import explain as domain_explain
from pytest_embedvm.domain.explain import Need
from pytest_embedvm.xml import document

__all__ = ["Need", "explain"]


def explain(xml: str) -> list[Need]:
    """Which other drivers the start of the domain XML would call, and why: an entry for each element that calls one.

    Each entry has `driver` (`network`, `nodedev`, `nwfilter`, `secret` or `storage`), `element` (its XPath) and
    `reason`; as text it is a sentence. Nothing is started, and elements that this driver does not support count too.

    :raise libvirtError: XML_DETAIL when XML is not well formed, XML_ERROR when it is no `<domain>`.
    """
    with answering():
        return domain_explain.explain(document.parse(xml, root="domain"))
