"""How single values are spelled in libvirt's XML, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, EmbedError, XMLError
from pytest_embedvm.units import to_kib

T = TypeVar("T")


@dataclass(frozen=True)
class Where:
    """The place of a value, for errors."""

    tag: str
    attribute: str | None
    unit: str | None = None


@dataclass(frozen=True)
class Refusal:
    """What libvirt says of a bad value where that is not its usual sentence; `{}` is the value."""

    sentence: str
    error: type[EmbedError] = XMLError
    origin: ErrorDomain = ErrorDomain.DOMAIN

    def __call__(self, text: str) -> EmbedError:
        return self.error(self.sentence.format(text), origin=self.origin)


class Scalar(Generic[T]):
    """A spelling: text to value and back."""

    #: Whether the element carries a `unit` attribute beside the text, and which one is written.
    takes_unit: ClassVar[bool] = False
    unit: ClassVar[str] = "KiB"

    def read(self, text: str, where: Where) -> T:
        """The value of TEXT.

        :raise XMLError: when TEXT is no spelling of one.
        """
        raise NotImplementedError

    def write(self, value: T) -> str:
        """The text of VALUE."""
        raise NotImplementedError


class Plain(Scalar[str]):
    """Text as it is."""

    def read(self, text: str, where: Where) -> str:
        return text

    def write(self, value: str) -> str:
        return value


def invalid(text: str, where: Where, more: str = "") -> XMLError:
    """The sentence libvirt has for a bad value (virXMLPropEnumInternal, virXMLPropInt, virDomainParseScaledValue)."""
    if where.attribute is None:
        return XMLError(f"Invalid value '{text}' for element or attribute './{where.tag}[1]'")
    return XMLError(f"Invalid value for attribute '{where.attribute}' in element '{where.tag}': '{text}'.{more}")


class Choice(Scalar[str]):
    """One of a few words."""

    def __init__(self, words: Sequence[str], refusal: Refusal | None = None) -> None:
        self.words, self.refusal = words, refusal

    def read(self, text: str, where: Where) -> str:
        if text in self.words:
            return text
        raise self.refusal(text) if self.refusal else invalid(text, where)

    def write(self, value: str) -> str:
        return value


class Offered(Choice):
    """One of a few words; those of `unavailable` are words too, and are refused at once.

    At once, because what stands below them in the document is nothing this driver can read either: the
    error is to name the word, not the first of its details.
    """

    def __init__(self, words: Sequence[str], unavailable: Mapping[str, str], refusal: Refusal | None = None) -> None:
        super().__init__(words, refusal)
        self.unavailable = unavailable

    def read(self, text: str, where: Where) -> str:
        if text in self.unavailable:
            raise ConfigUnsupported(self.unavailable[text])
        return super().read(text, where)


class Whole(Scalar[int]):
    """A whole number of at most `bits`, decimal or with 0x; `digits` writes it as hexadecimal with so many digits."""

    #: What libvirt says it expected.
    expected: ClassVar[str] = "integer value"

    def __init__(
        self, digits: int | None = None, refusal: Refusal | None = None, *, signed: bool = False, bits: int = 32
    ) -> None:
        self.digits, self.refusal, self.signed, self.bits = digits, refusal, signed, bits

    def read(self, text: str, where: Where) -> int:
        # int() alone would take other scripts' digits and underscores too.
        value = _integer(text.strip()) if text.isascii() and "_" not in text else None
        if value is None or value.bit_length() > self.bits or (value < 0 and not self.signed):
            raise self.refusal(text) if self.refusal else invalid(text, where, f" Expected {self.expected}")
        return value

    def write(self, value: int) -> str:
        return str(value) if self.digits is None else f"0x{value:0{self.digits}x}"


def _integer(text: str) -> int | None:
    try:
        return int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError:
        return None


class Unsigned(Whole):
    """A whole number of 32 bits, as libvirt's virXMLPropUInt reads it; with `positive`, zero is refused."""

    expected = "non-negative integer value"

    def __init__(self, *, positive: bool = False) -> None:
        super().__init__()
        self.positive = positive

    def read(self, text: str, where: Where) -> int:
        value = super().read(text, where)
        if self.positive and not value:
            raise XMLError(
                f"Invalid value for attribute '{where.attribute}' in element '{where.tag}': Zero is not permitted"
            )
        return value


class YesNo(Scalar[bool]):
    """`yes` and `no`, or another pair of words."""

    def __init__(self, true: str = "yes", false: str = "no", refusal: Refusal | None = None) -> None:
        self.words = {true: True, false: False}
        self.spelling = {True: true, False: false}
        self.refusal = refusal

    def read(self, text: str, where: Where) -> bool:
        if text in self.words:
            return self.words[text]
        raise self.refusal(text) if self.refusal else invalid(text, where)

    def write(self, value: bool) -> str:
        return self.spelling[value]


class OnOff(YesNo):
    """`on` and `off`."""

    def __init__(self, refusal: Refusal | None = None) -> None:
        super().__init__("on", "off", refusal)


class Memory(Scalar[int]):
    """KiB, written with `unit='KiB'`, read with any unit of libvirt's."""

    takes_unit = True

    def read(self, text: str, where: Where) -> int:
        if not text.strip().isdigit():
            raise invalid(text, where)
        return to_kib(Whole(bits=64).read(text, where), where.unit or "KiB")

    def write(self, value: int) -> str:
        return str(value)
