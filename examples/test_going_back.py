"""One guest that goes back: to a checkpoint inside a test, and to its template for each test of a module.

Run it with `pytest --embedvm -v examples/test_going_back.py`.
"""

import pytest

pytestmark = pytest.mark.embedvm(scope="module", network="none")

#: Who the VM of the test before was.
before = []


@pytest.fixture
def shop(vm):
    vm.write_text("/root/orders", "1 lamp\n")
    return vm


@pytest.mark.parametrize("accident", ["rm /root/orders", "echo '9 lamps' >/root/orders", "rm -r /bin"])
def test_each_accident_happens_to_the_same_shop(shop, accident):
    before.append((shop.domain.UUIDString(), shop.run("hostname").text))
    assert before[0] == before[-1]
    assert shop.run("ls /root").text == "orders\n"  # nothing of the accident before
    shop.run(accident)


def test_several_ends_of_one_story(shop):
    shop.run("(while sleep 0.1; do echo open; done) >/root/log 2>&1 &")
    shop.checkpoint("opened")
    for last_words in ("sold out", "closed"):
        shop.restore("opened")
        shop.run(["sh", "-c", 'killall sleep; echo "$1" >>/root/orders', "sh", last_words])
        assert shop.read_text("/root/orders") == f"1 lamp\n{last_words}\n"


def test_a_guest_that_has_panicked_goes_on_too(shop):
    shop.run("(sleep 0.1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
    shop.console.wait_for("end Kernel panic")
    shop.reset_to_template()
    assert "orders" not in shop.run("ls /root").text
