"""The version of the API."""

from __future__ import annotations

from pytest_embedvm.constants import API_VERSION


def getVersion(name: str | None = None) -> int | tuple[int, int]:
    """The libvirt release whose API this is: major * 1000000 + minor * 1000 + micro.

    With the NAME of a driver, a pair of it and the same for that driver, as libvirt-python answers.
    """
    return API_VERSION if name is None else (API_VERSION, API_VERSION)
