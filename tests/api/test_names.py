"""Held against libvirt-python, where it is installed: every name, every method, every parameter."""

from __future__ import annotations

import inspect
import types
import typing

import pytest

from pytest_embedvm import constants, libvirt, libvirt_qemu
from pytest_embedvm.api.unsupported import MODULE, TABLE

real = pytest.importorskip("libvirt")
real_qemu = pytest.importorskip("libvirt_qemu")

PAIRS = [(real, libvirt), (real_qemu, libvirt_qemu)]


def public_names(module: types.ModuleType) -> list[str]:
    """What a module offers; not what it happened to import."""
    ignored = {*vars(typing), "libvirtmod", "libvirtmod_qemu", "libvirt", "TracebackType"}
    return [n for n in vars(module) if not n.startswith("_") and n not in ignored]


def classes() -> list[str]:
    return [n for n in public_names(real) if inspect.isclass(getattr(real, n))]


def methods(cls: type) -> list[str]:
    return [n for n, m in vars(cls).items() if inspect.isfunction(m) and not n.startswith("_")]


def parameters(function: object) -> list[tuple[str, bool]]:
    """Name, and whether it may be left out; keywords of our own, behind libvirt's, do not count."""
    found = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    ours = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return [(p.name, p.default is not p.empty) for p in found if p.kind not in ours]


IMPLEMENTED = [(c, m) for c in classes() for m in methods(getattr(real, c)) if m not in TABLE.get(c, {})]
FUNCTIONS = [
    (theirs, ours, n)
    for theirs, ours in PAIRS
    for n in public_names(theirs)
    if inspect.isfunction(getattr(theirs, n)) and n not in TABLE[MODULE]
]


@pytest.mark.parametrize(("theirs", "ours"), PAIRS, ids=["libvirt", "libvirt_qemu"])
def test_every_name_of_the_module_is_here(theirs: types.ModuleType, ours: types.ModuleType) -> None:
    # A libvirt-python newer than the API that constants.py was made from knows more numbers.
    newer = real.getVersion() > constants.API_VERSION
    missing = [n for n in public_names(theirs) if not hasattr(ours, n)]
    assert [n for n in missing if not (newer and n.startswith("VIR_"))] == []


@pytest.mark.parametrize(("theirs", "ours"), PAIRS, ids=["libvirt", "libvirt_qemu"])
def test_every_name_of_the_module_is_exported(theirs: types.ModuleType, ours: types.ModuleType) -> None:
    assert {n for n in public_names(theirs) if hasattr(ours, n)} <= set(ours.__all__)
    assert len(set(ours.__all__)) == len(ours.__all__)


def test_every_constant_has_the_same_value() -> None:
    shared = [n for n in constants.__all__ if hasattr(real, n)]
    assert len(shared) > 1000
    # The last one of an enum moves with each release.
    assert {n for n in shared if getattr(real, n) != getattr(libvirt, n)} == set()


@pytest.mark.parametrize("name", classes())
def test_every_method_of_every_class_is_here(name: str) -> None:
    ours = getattr(libvirt, name)
    assert [m for m in methods(getattr(real, name)) if not callable(getattr(ours, m, None))] == []


@pytest.mark.parametrize(("cls", "method"), IMPLEMENTED, ids=".".join)
def test_an_implemented_method_has_the_same_parameters(cls: str, method: str) -> None:
    theirs, ours = getattr(getattr(real, cls), method), getattr(getattr(libvirt, cls), method)
    assert parameters(ours) == parameters(theirs)


@pytest.mark.parametrize(("theirs", "ours", "name"), FUNCTIONS, ids=[n for _, _, n in FUNCTIONS])
def test_an_implemented_function_has_the_same_parameters(
    theirs: types.ModuleType, ours: types.ModuleType, name: str
) -> None:
    wanted, given = parameters(getattr(theirs, name)), parameters(getattr(ours, name))
    assert [n for n, _ in given] == [n for n, _ in wanted]
    # `flags` may be left out here where it may not be there: what is written for theirs still runs.
    assert [
        n for (n, left_out), (_, ours_left_out) in zip(wanted, given, strict=True) if left_out > ours_left_out
    ] == []


def test_the_table_lists_nothing_that_is_implemented() -> None:
    """A name in the table would cover the method that a topic brings."""
    for cls, names in TABLE.items():
        if cls != MODULE:
            bases = getattr(libvirt, cls).__mro__[1:]
            assert [n for n in names if any(n in vars(base) for base in bases)] == []


def test_the_table_names_only_what_libvirt_has() -> None:
    """A misspelt row would be a name of our own."""
    for cls, names in TABLE.items():
        theirs = [real, real_qemu] if cls == MODULE else [getattr(real, cls)]
        assert [n for n in names if not any(hasattr(t, n) for t in theirs)] == []
