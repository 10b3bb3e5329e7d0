"""What of a document no field took: refused where libvirt knows it, ignored where it does not, as libvirt does."""

from __future__ import annotations

from collections.abc import Collection

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, XMLSchemaError
from pytest_embedvm.xml import mapping
from pytest_embedvm.xml.document import Element


def judge(root: Element, seen: mapping.Seen, *, refused: Collection[str], validate: bool) -> None:
    """Look through what SEEN did not take of ROOT.

    :param refused: what libvirt gives and this driver does not, as paths below the root.
    :raise ConfigUnsupported: naming the first of these.
    :raise XMLSchemaError: when there is anything else, and VALIDATE is asked for.
    """
    for path, value in mapping.unread(root, seen):
        where = "/".join(path[1:])
        if where in refused:
            what = "/".join(path) + (f" ({value})" if value else "")
            raise ConfigUnsupported(f"{what} is not supported by this driver", origin=ErrorDomain.STORAGE)
        if validate:
            raise XMLSchemaError(f"Did not expect element {path[-1]} there: {'/'.join(path)}")
