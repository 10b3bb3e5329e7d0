from __future__ import annotations

from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainUndefineFlagsValues as Undefine
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.domain.sections.firmware import Nvram
from pytest_embedvm.driver import nvram
from pytest_embedvm.errors import OperationInvalid, SystemFailure


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    domain = Domain(type="qemu", name="a")
    (tmp_path / "template").write_bytes(b"fresh")
    domain.os.nvram = Nvram(template=str(tmp_path / "template"), path=str(tmp_path / "store"))
    return domain


def test_is_made_once_and_anew_on_demand(domain: Domain, tmp_path: Path) -> None:
    store = tmp_path / "store"
    nvram.prepare(domain, anew=False)
    assert store.read_bytes() == b"fresh"
    store.write_bytes(b"used")
    nvram.prepare(domain, anew=False)
    assert store.read_bytes() == b"used"
    nvram.prepare(domain, anew=True)
    assert store.read_bytes() == b"fresh"


def test_a_template_that_is_missing(domain: Domain, tmp_path: Path) -> None:
    (tmp_path / "template").unlink()
    with pytest.raises(SystemFailure, match=r"^Failed to open file '.*/template': No such file or directory$"):
        nvram.prepare(domain, anew=False)


def test_undefine_wants_a_decision(domain: Domain, tmp_path: Path) -> None:
    nvram.undefine(domain, 0)
    nvram.prepare(domain, anew=False)
    with pytest.raises(OperationInvalid, match="cannot undefine domain with nvram"):
        nvram.undefine(domain, 0)
    nvram.undefine(domain, Undefine.KEEP_NVRAM)
    assert (tmp_path / "store").exists()
    nvram.undefine(domain, Undefine.NVRAM)
    assert not (tmp_path / "store").exists()


def test_a_domain_without_one(tmp_path: Path) -> None:
    domain = Domain(type="qemu", name="a")
    nvram.prepare(domain, anew=True)
    nvram.undefine(domain, 0)
    assert list(tmp_path.iterdir()) == []
