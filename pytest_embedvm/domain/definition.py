"""XML text to Domain and back; and what the text holds that no field took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lxml import etree

from pytest_embedvm.domain.aliases import is_own
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.domain.sections.commandline import NAMESPACE
from pytest_embedvm.domain.vocabulary import knows
from pytest_embedvm.errors import ConfigUnsupported, MissingName, XMLSchemaError
from pytest_embedvm.xml import document, mapping
from pytest_embedvm.xml.document import Element

#: What hears of a domain's elements and attributes that are ignored, each spelled out.
OnUnknown = Callable[[Domain, Sequence[str]], None]


def _ignore(domain: Domain, unknown: Sequence[str]) -> None:
    """Nobody wants to hear of it."""


def parse(text: str, *, validate: bool = False, on_unknown: OnUnknown = _ignore) -> Domain:
    """The domain that TEXT describes, with nothing filled in.

    What libvirt's schema does not know is ignored, as libvirt ignores it; with VALIDATE it is an error.

    :param on_unknown: called once with all that is ignored, if anything is.
    :raise XMLSyntaxError: when TEXT is not well formed; with line and column.
    :raise XMLError: when a value is not valid.
    :raise MissingName: when there is no name.
    :raise ConfigUnsupported: when TEXT asks for what libvirt knows and this driver cannot give.
    :raise XMLSchemaError: with VALIDATE, when TEXT holds what libvirt's schema does not know.
    """
    root = document.parse(text, root="domain")
    seen = mapping.Seen()
    domain = mapping.read(Domain, root, seen)
    if not domain.name:
        raise MissingName("")
    unknown = unknown_in(mapping.unread(root, seen))
    if unknown and validate:
        raise XMLSchemaError(f"unexpected {', '.join(unknown)}")
    if unknown:
        on_unknown(domain, unknown)
    return domain


def format(domain: Domain, *, inactive: bool = False) -> str:  # noqa: A001 - the pair of words of this project
    """DOMAIN as libvirt writes it.

    :param inactive: without what only a running domain has: its id, and aliases that the user did not choose.
    """
    if inactive:
        domain = _without_live_names(domain)
    root: Element = etree.Element("domain", nsmap={"qemu": NAMESPACE} if domain.commandline else None)
    mapping.write(domain, root)
    return document.format(root)


def spelled(domain: Domain, spell: Callable[[str], str | None]) -> Domain:
    """DOMAIN with every password that its XML says as SPELL writes it; None leaves it out."""
    if any(device.has_password for device in domain.devices.all):
        domain = domain.copy()
        for device in domain.devices.all:
            device.spell_password(spell)
    return domain


def _without_live_names(domain: Domain) -> Domain:
    domain = domain.copy()
    domain.id = None
    for device in domain.devices.all:
        device.forget_live()
        if device.alias and not is_own(device.alias):
            device.alias = None
    return domain


def unknown_in(unread: Iterable[tuple[tuple[str, ...], str]]) -> list[str]:
    """What of the UNREAD libvirt's schema does not know either, spelled out.

    :raise ConfigUnsupported: when it knows one of them.
    """
    unknown = []
    for path, value in unread:
        if path[:-1] == ("domain", "features") and not path[-1].startswith("@") and not knows(path):
            # libvirt: virDomainFeaturesDefParse, which ignores no feature
            raise ConfigUnsupported(f"unexpected feature '{path[-1]}'")
        if knows(path):
            raise ConfigUnsupported(f"{_spell(path, value)} is not supported by this driver")
        unknown.append(_spell(path, value))
    return unknown


def _spell(path: tuple[str, ...], value: str) -> str:
    *elements, last = path
    above = "/".join(elements)
    if last.startswith("@"):
        return f"attribute {last[1:]}='{value}' of element <{above}>"
    return f"element <{above}/{last}>" + (f" with value '{value}'" if value else "")
