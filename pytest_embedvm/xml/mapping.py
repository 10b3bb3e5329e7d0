"""Dataclasses to XML and back, from their types alone.

Where a field stands follows from its type: a scalar is an attribute of the field's name, a dataclass a
child element of that name, a list of dataclasses repeated children. `Annotated[..., At("mac/@address")]`
says so where it differs: names separated by `/`, a last `@name` for an attribute, none for the element's
text. The fields of a subclass come before those of its bases, so that `<alias>` and `<address>`, which
every device has, are written last.

What is read is recorded; `unread()` lists what the document holds and no field took.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

from lxml import etree

from pytest_embedvm.errors import XMLError
from pytest_embedvm.xml.document import Element
from pytest_embedvm.xml.scalars import Choice, Plain, Refusal, Scalar, Where, Whole

T = TypeVar("T")
MISSING: Final = object()

#: A step of a path; the `/` in `{namespace}name` does not part two.
_STEP: Final = re.compile(r"(?:\{[^}]*}|[^/{])+")

_known_slots: dict[type, tuple[tuple[Slot, bool], ...]] = {}


@dataclass(frozen=True)
class At:
    """Where a field stands, from the element of its class: `"source/@file"`, `"os/type"`, `"."`."""

    path: str


@dataclass(frozen=True)
class Present:
    """A boolean that is an element's presence: `<readonly/>`."""


@dataclass(frozen=True)
class Variants:
    """A dataclass chosen by an attribute: `<address type='pci'>`; `classes` maps its values."""

    attribute: str
    classes: Mapping[str, type]


@dataclass(frozen=True)
class Roster:
    """A list of dataclasses chosen by element name, kept in the document's order."""

    classes: Mapping[str, type]


@dataclass(frozen=True)
class Kept:
    """The element as the user wrote it, whatever it holds: `<metadata>`."""


@dataclass
class Seen:
    """What has been read of a document."""

    elements: set[Element] = field(default_factory=set)
    attributes: set[tuple[Element, str]] = field(default_factory=set)
    kept: set[Element] = field(default_factory=set)


class Slot:
    """One field: how it is read from, and written to, the element of its class."""

    def __init__(self, name: str, path: Sequence[str]) -> None:
        self.name = name
        self.path = tuple(path)

    def read(self, element: Element, seen: Seen) -> Any:
        """The field's value, or MISSING."""
        raise NotImplementedError

    def write(self, element: Element, value: Any) -> None:
        """Put VALUE, which is not None, into ELEMENT."""
        raise NotImplementedError

    def _find(self, element: Element, seen: Seen) -> Element | None:
        for step in self.path:
            found = element.find(step)
            if found is None:
                return None
            seen.elements.add(found)
            element = found
        return element

    def _make(self, element: Element) -> Element:
        for step in self.path:
            found = element.find(step)
            element = etree.SubElement(element, step) if found is None else found
        return element


class AttributeSlot(Slot):
    def __init__(self, name: str, path: Sequence[str], attribute: str, scalar: Scalar[Any]) -> None:
        super().__init__(name, path)
        self.attribute, self.scalar = attribute, scalar

    def read(self, element: Element, seen: Seen) -> Any:
        found = self._find(element, seen)
        text = None if found is None else found.get(self.attribute)
        if found is None or text is None:
            return MISSING
        seen.attributes.add((found, self.attribute))
        return self.scalar.read(text, Where(found.tag, self.attribute))

    def write(self, element: Element, value: Any) -> None:
        self._make(element).set(self.attribute, self.scalar.write(value))


class TextSlot(Slot):
    def __init__(self, name: str, path: Sequence[str], scalar: Scalar[Any]) -> None:
        super().__init__(name, path)
        self.scalar = scalar

    def read(self, element: Element, seen: Seen) -> Any:
        found = self._find(element, seen)
        if found is None:
            return MISSING
        unit = found.get("unit") if self.scalar.takes_unit else None
        if unit is not None:
            seen.attributes.add((found, "unit"))
        if not (found.text or "").strip():
            return MISSING
        return self.scalar.read(found.text or "", Where(found.tag, None, unit))

    def write(self, element: Element, value: Any) -> None:
        target = self._make(element)
        target.text = self.scalar.write(value) or None
        if self.scalar.takes_unit:
            target.set("unit", self.scalar.unit)


class PresenceSlot(Slot):
    def read(self, element: Element, seen: Seen) -> Any:
        return True if self._find(element, seen) is not None else MISSING

    def write(self, element: Element, value: Any) -> None:
        if value:
            self._make(element)


class NestedSlot(Slot):
    def __init__(self, name: str, path: Sequence[str], choose: Callable[[Element, Seen], type]) -> None:
        super().__init__(name, path)
        self.choose = choose

    def read(self, element: Element, seen: Seen) -> Any:
        found = self._find(element, seen)
        return MISSING if found is None else read(self.choose(found, seen), found, seen)

    def write(self, element: Element, value: Any) -> None:
        write(value, self._make(element))


class VariantSlot(NestedSlot):
    """A child element whose dataclass is chosen by one of its attributes."""

    def __init__(self, name: str, path: Sequence[str], variants: Variants) -> None:
        super().__init__(name, path, _chooser(variants))
        self.attribute = variants.attribute
        self.words = {cls: word for word, cls in variants.classes.items()}

    def write(self, element: Element, value: Any) -> None:
        self._make(element).set(self.attribute, self.words[type(value)])
        super().write(element, value)


class ListSlot(Slot):
    """Repeated children: dataclasses, or scalars that are their text."""

    def __init__(self, name: str, path: Sequence[str], cls: type | None, scalar: Scalar[Any] | None) -> None:
        super().__init__(name, path[:-1])
        self.tag, self.cls, self.scalar = path[-1], cls, scalar

    def read(self, element: Element, seen: Seen) -> Any:
        found = self._find(element, seen)
        children = [] if found is None else found.findall(self.tag)
        seen.elements.update(children)
        if self.cls is not None:
            return [read(self.cls, child, seen) for child in children]
        scalar = self.scalar or Plain()
        return [scalar.read(child.text or "", Where(child.tag, None)) for child in children]

    def write(self, element: Element, value: Any) -> None:
        for item in value:
            child = etree.SubElement(self._make(element), self.tag)
            if self.cls is not None:
                write(item, child)
            else:
                child.text = (self.scalar or Plain()).write(item)


class RosterSlot(Slot):
    def __init__(self, name: str, path: Sequence[str], roster: Roster) -> None:
        super().__init__(name, path)
        self.roster = roster

    def read(self, element: Element, seen: Seen) -> Any:
        found = self._find(element, seen)
        classes = self.roster.classes
        children = [c for c in ([] if found is None else found) if isinstance(c.tag, str) and c.tag in classes]
        seen.elements.update(children)
        return [read(classes[child.tag], child, seen) for child in children]

    def write(self, element: Element, value: Any) -> None:
        classes = self.roster.classes
        for tag, cls in classes.items():
            for item in (i for i in value if type(i) is cls):
                write(item, etree.SubElement(self._make(element), tag))


class KeptSlot(Slot):
    def read(self, element: Element, seen: Seen) -> Any:
        found = self._find(element, seen)
        if found is None:
            return MISSING
        seen.kept.add(found)
        copy = deepcopy(found)
        copy.tail = None
        return copy

    def write(self, element: Element, value: Any) -> None:
        parent = element
        for step in self.path[:-1]:
            parent = Slot(self.name, [step])._make(parent)
        parent.append(deepcopy(value))


def read(cls: type[T], element: Element, seen: Seen) -> T:
    """An instance of CLS from ELEMENT; what was used is noted in SEEN.

    :raise XMLError: when a value is not valid, or a field without a default is absent.
    """
    seen.elements.add(element)
    values = {}
    for slot, required in _slots(cls):
        value = slot.read(element, seen)
        if value is not MISSING:
            values[slot.name] = value
        elif required:
            attribute = slot.attribute if isinstance(slot, AttributeSlot) else None
            what = f"attribute '{attribute}'" if attribute else f"element '{'/'.join(slot.path)}'"
            # libvirt: virXMLPropEnumRequired
            raise XMLError(f"Missing required {what} in element '{element.tag}'")
    return cls(**values)


def write(value: Any, element: Element) -> None:
    """Write VALUE, an instance of a mapped dataclass, into ELEMENT; fields that are None are left out."""
    for slot, _ in _slots(type(value)):
        content = getattr(value, slot.name)
        if content is not None:
            slot.write(element, content)


def unread(root: Element, seen: Seen) -> Iterator[tuple[tuple[str, ...], str]]:
    """What no field took: (path of names, ending in `@name` for an attribute; its value or text)."""

    def walk(element: Element, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        if element in seen.kept:
            return
        for name, value in element.attrib.items():
            if (element, name) not in seen.attributes:
                yield (*path, f"@{name!s}"), str(value)
        for child in element:
            if not isinstance(child.tag, str):
                continue
            below = (*path, child.tag)
            if child in seen.elements:
                yield from walk(child, below)
            else:
                yield below, (child.text or "").strip()

    yield from walk(root, (root.tag if isinstance(root.tag, str) else "",))


def _slots(cls: type) -> tuple[tuple[Slot, bool], ...]:
    """The slots of CLS in the order they are written, each with whether it must be there."""
    if cls not in _known_slots:
        _known_slots[cls] = _make_slots(cls)
    return _known_slots[cls]


def _make_slots(cls: type) -> tuple[tuple[Slot, bool], ...]:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    order = list(dict.fromkeys(n for base in cls.__mro__ for n in inspect.get_annotations(base)))
    result = []
    for name in (n for n in order if n in fields and fields[n].metadata.get("xml", True)):
        f = fields[name]
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        result.append((_slot(name, hints[name]), required))
    return tuple(result)


def _slot(name: str, hint: Any) -> Slot:
    hint, extras = _unwrap(hint)
    at = next((e.path for e in extras if isinstance(e, At)), None)
    variants = next((e for e in extras if isinstance(e, Variants)), None)
    roster = next((e for e in extras if isinstance(e, Roster)), None)
    path = [step for step in _STEP.findall(name if at is None else at) if step != "."]
    if roster:
        return RosterSlot(name, path[:0] if at is None else path, roster)
    if variants:
        return VariantSlot(name, path, variants)
    if any(isinstance(e, Kept) for e in extras):
        return KeptSlot(name, path)
    if any(isinstance(e, Present) for e in extras):
        return PresenceSlot(name, path)
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        nested = dataclasses.is_dataclass(item)
        return ListSlot(name, path, item if nested else None, None if nested else _scalar(item, extras))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return NestedSlot(name, path, lambda _element, _seen: hint)
    scalar = _scalar(hint, extras)
    if at is None:
        return AttributeSlot(name, [], name, scalar)
    if path and path[-1].startswith("@"):
        return AttributeSlot(name, path[:-1], path[-1][1:], scalar)
    return TextSlot(name, path, scalar)


def _unwrap(hint: Any) -> tuple[Any, list[Any]]:
    """`Annotated[X | None, a, b]` and `Annotated[X, a] | None` are both X with extras."""
    extras: list[Any] = []
    while True:
        if get_origin(hint) is typing.Annotated:
            hint, *more = get_args(hint)
            extras += more
        elif get_origin(hint) in (typing.Union, types.UnionType) and type(None) in get_args(hint):
            rest = [a for a in get_args(hint) if a is not type(None)]
            if len(rest) > 1:
                return hint, extras
            (hint,) = rest
        else:
            return hint, extras


def _scalar(hint: Any, extras: Sequence[Any]) -> Scalar[Any]:
    given = next((e for e in extras if isinstance(e, Scalar)), None)
    if given:
        return given
    refusal = next((e for e in extras if isinstance(e, Refusal)), None)
    if get_origin(hint) is Literal:
        return Choice(get_args(hint), refusal)
    if hint is int:
        return Whole(refusal=refusal)
    if hint is str:
        return Plain()
    raise TypeError(f"no way to write {hint!r} into XML: annotate the field")


def _chooser(variants: Variants) -> Callable[[Element, Seen], type]:
    def choose(element: Element, seen: Seen) -> type:
        value = element.get(variants.attribute, "")
        seen.attributes.add((element, variants.attribute))
        try:
            return variants.classes[value]
        except KeyError:
            raise XMLError(
                f"Invalid value for attribute '{variants.attribute}' in element '{element.tag}': '{value}'."
            ) from None

    return choose
