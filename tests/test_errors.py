"""errors: libvirt's sentences, codes and subsystems."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from pytest_embedvm import errors
from pytest_embedvm.constants import ErrorDomain, ErrorNumber

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.EmbedError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_survives_pickling_and_copying(cls: type[errors.EmbedError]) -> None:
    error = cls("x", origin=ErrorDomain.CPU)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is cls
        assert (again.detail, again.origin, again.message) == ("x", ErrorDomain.CPU, error.message)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_has_a_code_and_says_its_sentence(cls: type[errors.EmbedError]) -> None:
    assert isinstance(cls.code, ErrorNumber)
    assert str(cls("x")) == cls("x").message != ""


def test_braces_in_a_detail_are_only_text() -> None:
    assert errors.OperationFailed("{x}").message == "operation failed: {x}"
