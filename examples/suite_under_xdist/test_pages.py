"""What the server serves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_embedvm.guest import VM, CommandFailed


def test_index(get: Callable[[str], str]) -> None:
    assert get("index.html") == "it works\n"


def test_a_new_page(server: VM, get: Callable[[str], str]) -> None:
    server.write_text("/srv/new.html", "new\n")
    assert get("new.html") == "new\n"


def test_no_test_sees_the_pages_of_another(get: Callable[[str], str]) -> None:
    with pytest.raises(CommandFailed, match="404 Not Found"):
        get("new.html")
