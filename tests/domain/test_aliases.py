from __future__ import annotations

import pytest

from pytest_embedvm.errors import ConfigUnsupported
from tests.domain.machines import completed


def rng(alias: str = "") -> str:
    named = f"<alias name='{alias}'/>" if alias else ""
    return f"<rng model='virtio'><backend model='builtin'/>{named}</rng>"


def aliases(devices: str) -> list[str | None]:
    return [device.alias for device in completed(devices).devices.all if device.alias_prefix == "rng"]


def test_a_number_for_each_of_a_kind() -> None:
    assert aliases(rng() * 3) == ["rng0", "rng1", "rng2"]


def test_only_the_users_own_names_stay() -> None:
    assert aliases(rng("rng7") + rng("ua-mine") + rng()) == ["rng0", "ua-mine", "rng1"]


def test_a_name_twice() -> None:
    with pytest.raises(ConfigUnsupported, match="non unique alias detected: ua-x"):
        aliases(rng("ua-x") * 2)
