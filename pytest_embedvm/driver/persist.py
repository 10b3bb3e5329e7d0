"""Definitions that outlive the process: `etc/qemu/NAME.xml`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pytest_embedvm.domain import definition
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.driver import logs
from pytest_embedvm.driver.roots.layout import PLACES
from pytest_embedvm.driver.roots.root import Root, file_name
from pytest_embedvm.driver.secret.vault import Vault
from pytest_embedvm.errors import EmbedError, SystemFailure
from pytest_embedvm.files import set_aside, write_atomically

# libvirt: virXMLEmitWarning
WARNING = """<!--
WARNING: THIS IS AN AUTO-GENERATED FILE. CHANGES TO IT ARE LIKELY TO BE
OVERWRITTEN AND LOST. Define the domain anew instead.
-->

"""


def save(root: Root, domain: Domain) -> None:
    """Write DOMAIN so that a reader sees all of it or what was there before.

    :raise SystemFailure: when it cannot be written.
    """
    path = root.definition_path(domain.name)
    try:
        write_atomically(path, (WARNING + _concealed(root, domain)).encode())
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{path}': {error.strerror}") from error


def _concealed(root: Root, domain: Domain) -> str:
    """DOMAIN as XML that holds no password: only this root can read them again."""
    return definition.format(definition.spelled(domain, Vault(root).conceal), inactive=True)


def remove(root: Root, name: str) -> None:
    """Remove the definition of NAME; one that is not there is no error."""
    path = root.definition_path(name)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        # libvirt: virDomainDeleteConfig
        raise SystemFailure(f"cannot remove config {path}: {error.strerror}") from error


def load(root: Root) -> Iterator[Domain]:
    """Every definition of ROOT; what cannot be read is set aside, never lost, and reported as an error in the log."""
    directory = root.path.joinpath(*PLACES["config"])
    known: dict[uuid.UUID | None, Path] = {}
    for path in sorted(directory.glob("*.xml")) if directory.is_dir() else ():
        try:
            domain = _read(root, path)
            if (other := known.setdefault(domain.uuid, path)) != path and domain.uuid:
                raise SystemFailure(f"it holds the uuid of {other}")
        except (EmbedError, OSError, UnicodeError) as error:
            aside = set_aside(path)
            root.log.error("domain definition %s cannot be read: %s; it is kept as %s", path, error, aside)  # noqa: TRY400
        else:
            yield domain


def _read(root: Root, path: Path) -> Domain:
    if not path.is_file():  # a pipe would be read for ever
        raise SystemFailure("it is no file")
    domain = definition.parse(path.read_text("utf-8"), on_unknown=partial(logs.unknown, root.log))
    if file_name(domain.name) != path.stem:
        raise SystemFailure(f"it holds a domain of another name, '{domain.name}'")
    return definition.spelled(domain, Vault(root).reveal)
