"""A disk that is prepared once, by one of all workers, in this run or an earlier one; each VM has its own overlay.

Run it with `pytest --embedvm -v -n 2 examples/test_prepared_image.py`.
"""

import pytest

pytestmark = pytest.mark.embedvm(image="accounts", kernel="built-in", network="none")


@pytest.fixture(scope="session")
def embedvm_images(embedvm_images):
    @embedvm_images.register("accounts")  # inputs=["accounts.sql"]: files whose change means preparing it anew
    def accounts(build):
        with build.vm(disk_gib=0.05, network="none") as vm:
            vm.run("mke2fs /dev/vda && mount /dev/vda /mnt && echo 'alice 100' >/mnt/accounts")

    return embedvm_images


@pytest.fixture
def bank(vm):
    vm.run("mount /dev/vda /mnt")
    return vm


def test_what_was_prepared_is_there(bank):
    assert bank.read_text("/mnt/accounts") == "alice 100\n"


def test_what_a_test_writes_no_other_sees(bank, vm_factory):
    bank.run("echo 'alice 0' >/mnt/accounts && sync")
    other = vm_factory(name="other")
    other.run("mount /dev/vda /mnt")
    assert other.read_text("/mnt/accounts") == "alice 100\n"
