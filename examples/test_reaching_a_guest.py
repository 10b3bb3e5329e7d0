"""A client on the host, a server in the guest: how a test talks to what it tests.

Run it with `pytest --embedvm -v examples/test_reaching_a_guest.py`.
"""

from __future__ import annotations

import urllib.request

from pytest_embedvm.guest import VM


def test_a_web_server_in_the_guest(vm: VM) -> None:
    vm.run("mkdir /www")
    vm.write_text("/www/index.html", "<h1>it works</h1>\n")
    vm.run("httpd -h /www")
    host, port = vm.forward(80)
    with urllib.request.urlopen(f"http://{host}:{port}/index.html", timeout=60) as page:
        assert page.read() == b"<h1>it works</h1>\n"


def test_its_address(vm: VM) -> None:
    (address,) = vm.wait_until(lambda: vm.addresses("agent"), timeout=60)
    assert vm.addresses() == [address]  # what the network gave it
    assert f"inet {address}/24" in vm.run("ip addr show eth0").text
