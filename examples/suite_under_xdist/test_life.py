"""What the server does when its machine goes away and comes back."""

from __future__ import annotations

from pytest_embedvm.guest import VM


def test_a_reboot_ends_it(server: VM) -> None:
    server.reboot()
    assert server.run("pidof httpd", check=False).returncode == 1
