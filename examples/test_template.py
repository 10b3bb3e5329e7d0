"""A service that is set up once, and a VM for each test in which it runs already.

Run it with `pytest --embedvm -v examples/test_template.py`. The first run boots a VM and keeps what it made of it;
after that each test's VM is a clone, which is there in a fraction of a second.
"""

from __future__ import annotations

import pytest

from pytest_embedvm import embedvm
from pytest_embedvm.guest import VM


@embedvm.template(network="none")
def web(vm: VM) -> None:
    """A web server that runs and has answered once: its clones go on from here."""
    vm.run("mkdir -p /srv/www && echo hello >/srv/www/index.html && httpd -h /srv/www")
    vm.wait_until(lambda: fetch(vm, "index.html") == "hello\n", message="the server's answer")


@embedvm.template(after=web)
def archive(vm: VM) -> None:
    """The same server with a thousand pages."""
    vm.run("for n in $(seq 1000); do echo page $n >/srv/www/$n.html; done")


def fetch(vm: VM, page: str) -> str:
    return vm.run(["wget", "-qO-", f"http://127.0.0.1/{page}"], check=False).text


@pytest.mark.embedvm(template=web)
def test_the_server_was_started_before_the_test(vm: VM) -> None:
    assert fetch(vm, "index.html") == "hello\n"
    vm.run("rm /srv/www/index.html")  # the next test has it again


@pytest.mark.embedvm(template=web)
def test_nothing_of_another_test_is_there(vm: VM) -> None:
    assert fetch(vm, "index.html") == "hello\n"


@pytest.mark.embedvm(template=archive)
def test_a_template_that_goes_on_from_another(vm: VM) -> None:
    assert fetch(vm, "1000.html") == "page 1000\n"
    assert str(vm.origin).startswith("cloned from archive")
