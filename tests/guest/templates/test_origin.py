"""origin: as a sentence."""

from __future__ import annotations

import pytest

from pytest_embedvm.guest.templates.origin import BOOTED, Origin


@pytest.mark.parametrize(
    ("origin", "sentence"),
    [
        (BOOTED, "booted"),
        (Origin("cold", "it has a TPM"), "booted: it has a TPM"),
        (Origin("clone", template="database"), "cloned from database"),
        (Origin("clone", template="database", pooled=True), "cloned from database ahead of time"),
        (Origin("clone"), "cloned from a template"),
    ],
)
def test_it_is_a_sentence(origin: Origin, sentence: str) -> None:
    assert str(origin) == sentence
