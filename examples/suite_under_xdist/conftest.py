"""A suite's own fixtures stand on the plugin's: here, a web server that is up.

Run the suite with `pytest --embedvm -n 4 examples/suite_under_xdist`. Each worker has machines of its own, as many
at a time as there are workers; what they share, QEMU's capabilities and the built-in guest, is made once.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_embedvm.guest import VM


@pytest.fixture
def server(vm: VM) -> VM:
    """A VM whose web server answers."""
    vm.run("mkdir /srv && echo 'it works' >/srv/index.html && httpd -h /srv")
    return vm


@pytest.fixture
def get(server: VM) -> Callable[[str], str]:
    """Fetches a page inside the guest: no port of the host is involved, so workers cannot be in each other's way."""

    def fetch(path: str) -> str:
        return server.run(["wget", "-q", "-O", "-", f"http://127.0.0.1/{path}"]).text

    return fetch
