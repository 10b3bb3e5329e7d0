"""The secrets of a root: what is there, what stays, what is on disk."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pytest_embedvm.constants import SecretUsageType
from pytest_embedvm.driver.hub import EventHub
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.secret.private import PrivateSecrets
from pytest_embedvm.errors import InternalError, InvalidSecret, NoSecret, SystemFailure
from pytest_embedvm.logs import HOST

ONE = "11111111-1111-1111-1111-111111111111"
VALUE = b"canary\0\xff value"
VOLUME = f"<uuid>{ONE}</uuid><usage type='volume'><volume>/v</volume></usage>"


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[PrivateSecrets]:
    secrets = PrivateSecrets(EventHub(HOST))
    await secrets.initialize(privileged=False, root=Root(path))
    try:
        yield secrets
    finally:
        await secrets.cleanup()


def xml(body: str = VOLUME, **flags: str) -> str:
    attributes = " ".join(f"{name}='{value}'" for name, value in flags.items())
    return f"<secret {attributes}>{body}</secret>"


def files(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mode & 0o777 for path in root.rglob("*") if path.is_file()}


async def test_a_new_root_has_none_and_writes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as secrets:
        assert list(secrets) == []
    assert files(tmp_path) == {}


async def test_what_is_defined_stays_and_is_encrypted(tmp_path: Path) -> None:
    async with opened(tmp_path) as secrets:
        secrets.set_value(secrets.define(xml()), VALUE)
    assert files(tmp_path) == {
        f"etc/secrets/{ONE}.xml": 0o600,
        f"etc/secrets/{ONE}.value": 0o600,
        "lib/secrets/master-key": 0o600,
    }
    assert not any(b"canary" in (tmp_path / name).read_bytes() for name in files(tmp_path))
    async with opened(tmp_path) as secrets:
        secret = secrets.by_usage(SecretUsageType.VOLUME, "/v")
        assert secrets.value(secret) == VALUE
        secrets.undefine(secret)
        with pytest.raises(NoSecret, match=f"no secret with matching uuid '{ONE}'"):
            secrets.by_uuid(uuid.UUID(ONE))
    assert set(files(tmp_path)) == {"lib/secrets/master-key"}


async def test_the_same_value_is_never_encrypted_alike(tmp_path: Path) -> None:
    async with opened(tmp_path) as secrets:
        secret, seen = secrets.define(xml()), set()
        for _ in range(3):
            secrets.set_value(secret, VALUE)
            seen.add((tmp_path / f"etc/secrets/{ONE}.value").read_bytes())
        assert len(seen) == 3


async def test_an_ephemeral_one_is_never_on_disk(tmp_path: Path) -> None:
    async with opened(tmp_path) as secrets:
        secret = secrets.define(xml(ephemeral="yes"))
        secrets.set_value(secret, VALUE)
        assert secrets.value(secret) == VALUE
        assert files(tmp_path) == {}
    async with opened(tmp_path) as secrets:
        assert list(secrets) == []


async def test_what_is_in_memory_is_overwritten(tmp_path: Path) -> None:
    async with opened(tmp_path) as secrets:
        secret = secrets.define(xml(ephemeral="yes"))
        secrets.set_value(secret, VALUE)
        first = secret._held
        secrets.set_value(secret, b"another")
        assert first == bytes(len(VALUE))
        second = secret._held
    assert second == bytes(len(b"another"))


async def test_a_value_follows_its_secret_to_disk_and_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as secrets:
        secret = secrets.define(xml(ephemeral="yes"))
        secrets.set_value(secret, VALUE)
        assert secrets.define(xml()) is secret
        assert set(files(tmp_path)) > {f"etc/secrets/{ONE}.xml", f"etc/secrets/{ONE}.value"}
        assert (secrets.value(secret), secret.held) == (VALUE, None)
        secrets.define(xml(ephemeral="yes"))
        assert set(files(tmp_path)) == {"lib/secrets/master-key"}
        assert secrets.value(secret) == VALUE


async def test_a_private_value_is_for_machines_only(tmp_path: Path) -> None:
    async with opened(tmp_path) as secrets:
        secret = secrets.define(xml(private="yes"))
        secrets.set_value(secret, VALUE)
        with pytest.raises(InvalidSecret, match=r"^Invalid secret: secret is private$"):
            secrets.value(secret)
        assert secrets.value_for_machine(secret) == VALUE


@pytest.mark.parametrize("ephemeral", ["yes", "no"])
async def test_an_empty_value_is_none(tmp_path: Path, ephemeral: str) -> None:
    async with opened(tmp_path) as secrets:
        secret = secrets.define(xml(ephemeral=ephemeral))
        secrets.set_value(secret, VALUE)
        secrets.set_value(secret, b"")
        with pytest.raises(NoSecret, match=f"secret '{ONE}' does not have a value"):
            secrets.value(secret)


@pytest.mark.parametrize("name", [f"etc/secrets/{ONE}.value", "lib/secrets/master-key"])
@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 64])
async def test_a_damaged_file_says_which(tmp_path: Path, name: str, damage: bytes) -> None:
    async with opened(tmp_path) as secrets:
        secret = secrets.define(xml())
        secrets.set_value(secret, VALUE)
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(InternalError, match=rf"cannot decrypt '.*{ONE}\.value' with the key of its root"):
            secrets.value(secret)


async def test_a_value_of_another_secret_is_not_taken_for_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path) as secrets:
        one, two = secrets.define(xml()), secrets.define("<secret/>")
        for secret in (one, two):
            secrets.set_value(secret, VALUE)
        folder = tmp_path / "etc/secrets"
        (folder / f"{two.uuid}.value").rename(folder / f"{ONE}.value")
        with pytest.raises(InternalError, match="cannot decrypt"):
            secrets.value(one)


async def test_a_definition_that_cannot_be_read_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Root(tmp_path).directory("etc", "secrets")
    (folder / "x.xml").write_text(xml())
    (folder / f"{ONE}.xml").write_text("<secret")
    async with opened(tmp_path) as secrets:
        assert list(secrets) == []
    assert sorted(path.name for path in folder.iterdir()) == [f"{ONE}.xml.unreadable", "x.xml.unreadable"]
    assert "does not match secret file name 'x.xml'" in caplog.text


async def test_a_link_out_of_the_root_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root/etc/secrets").symlink_to(tmp_path / "elsewhere")
    async with opened(tmp_path / "root") as secrets:
        with pytest.raises(SystemFailure, match="cannot create directory"):
            secrets.define(xml())
    assert list((tmp_path / "elsewhere").iterdir()) == []
