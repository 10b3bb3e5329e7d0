"""What a template is known by: everything that can change it, and nothing else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from pytest_embedvm import __version__
from pytest_embedvm.guest.templates.contents import file_digest, image_digest, tree_digests
from pytest_embedvm.guest.templates.source import source_of
from pytest_embedvm.qemu.cache import HostIdentity
from pytest_embedvm.xml.document import Element, parse

#: To be raised when the same key is to mean something else.
FORMAT: Final = 1

#: What each machine has of its own, directly below <domain>; and in a network card.
_OWN: Final = frozenset({"name", "uuid", "genid"})
_MAC: Final = "devices/interface/mac"

_PACKAGE: Final = Path(__file__).parents[2]
#: Rooms that no guest can tell.
_ABOVE: Final = frozenset({"cli", "plugin"})


def template_key(
    *,
    domain: str,
    files: Iterable[Path],
    capabilities: str,
    accelerator: str,
    cpu: str | None,
    prepare: Callable[..., object] | None = None,
    inputs: Iterable[Path] = (),
    version: str = "",
    parent: str | None = None,
    rootpath: Path | None = None,
) -> str:
    """What a guest of DOMAIN is known by that was booted and prepared: 16 hexadecimal digits.

    The domain counts without its name, uuid, genid and MAC addresses.

    :param files: that the domain names, as `named_files` finds them; they count by their content, with all that
        images stand on, and not by their paths.
    :param capabilities: which QEMU it is: `qemu_identity()`.
    :param cpu: the model that was asked for.
    :param prepare: what is done in the guest; `pytest_embedvm.guest.templates.source.source_of` says what of it counts.
    :param inputs: files and directories that PREPARE uses, by their content.
    :param version: whatever else it depends on.
    :param parent: the key of the template that it goes on from.
    :param rootpath: below which the functions are that count with PREPARE; without it, where that is defined.
    :raise XMLError: when DOMAIN is none.
    :raise OSError: when a file cannot be read.
    :raise TypeError: when the source of PREPARE cannot be found.
    """
    digests = {os.path.normpath(path): image_digest(path) for path in files}
    known = [
        *(FORMAT, _project(), capabilities, accelerator, cpu, version, parent),
        _described(parse(domain, root="domain"), digests),
        prepare and _source(prepare, rootpath or _home(prepare)),
    ]
    digest = hashlib.sha256(repr(known).encode("utf-8", "surrogatepass"))
    for path in inputs:
        for piece in tree_digests(path):
            digest.update(piece)
    return digest.hexdigest()[:16]


def qemu_identity(binary: Path, accelerator: str) -> str:
    """Equal as long as guests of the QEMU BINARY can go on where others of its guests were stopped.

    That is its build, by its content: a cache may be carried to another machine that has the same. With KVM the host
    counts too: its processor, its kernel, KVM's parameters.

    :raise OSError: when BINARY cannot be read.
    """
    return repr((file_digest(binary), _this_host() if accelerator == "kvm" else None))


@cache
def _this_host() -> HostIdentity:
    return HostIdentity.of()


def named_files(domain: str) -> list[Path]:
    """The files and block devices that the XML DOMAIN names anywhere, and that are there.

    :raise XMLError: when DOMAIN is none.
    """
    words = (word for element in parse(domain, root="domain").iter("*") for word in _words(element))
    paths = [Path(word) for word in dict.fromkeys(words) if word.startswith("/")]
    return [path for path in paths if path.is_file() or path.is_block_device()]


def _words(element: Element) -> Iterator[str]:
    yield _text(element)
    yield from map(str, element.attrib.values())


def _text(element: Element) -> str:
    """The text directly in ELEMENT, whatever comments stand in it."""
    return "".join((piece or "").strip() for piece in (element.text, *(child.tail for child in element)))


def _described(domain: Element, digests: Mapping[str, str]) -> object:
    """DOMAIN as it counts: lists, tuples and strings."""
    for element in (*(child for child in domain if child.tag in _OWN), *domain.iterfind(_MAC)):
        above = element.getparent()
        if above is not None:
            above.remove(element)
    domain.attrib.pop("id", "")
    return _plain(domain, digests)


def _plain(element: Element, digests: Mapping[str, str]) -> object:
    def content(word: str) -> str:
        digest = digests.get(os.path.normpath(word)) if word.startswith("/") else None
        return f"content {digest}" if digest else word

    attributes = sorted((str(name), content(str(value))) for name, value in element.attrib.items())
    children = [_plain(child, digests) for child in element.iterchildren("*")]
    return element.tag, attributes, content(_text(element)), children


def _source(prepare: Callable[..., object], root: Path) -> str:
    """Found out once for each function: it takes milliseconds, and every test of a template wants its key."""
    return _found_source(prepare, root) if isinstance(prepare, Hashable) else source_of(prepare, root)


_found_source: Final = lru_cache(maxsize=256)(source_of)


def _home(prepare: Callable[..., object]) -> Path:
    code = getattr(prepare, "__code__", None)
    return Path(code.co_filename).parent if code else Path.cwd()


@cache
def _project() -> str:
    """The version of this project, and its source: between two versions it is changed, too."""
    digest = hashlib.sha256(__version__.encode())
    for room in sorted(path for path in _PACKAGE.iterdir() if path.name not in _ABOVE and path.name[0] != "_"):
        for file in sorted(path for path in room.rglob("*") if "__pycache__" not in path.parts and path.is_file()):
            digest.update(f"{file.relative_to(_PACKAGE)} {file.stat().st_size} ".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
