"""Eight threads on the same and on different machines: no deadlock, no error that is not a refusal."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from pytest_embedvm import libvirt
from tests.live.conftest import Open, qemus, xml

#: What one may hear whose machine another one has just started, ended or taken away.
REFUSALS = {
    libvirt.VIR_ERR_NO_DOMAIN,
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_OPERATION_FAILED,
    libvirt.VIR_ERR_INTERNAL_ERROR,
}
CALLS = ("create", "suspend", "resume", "XMLDesc", "destroy", "info", "state")


def _play(connection: libvirt.virConnect, seed: int, names: list[str]) -> list[libvirt.libvirtError]:
    chance, refused = random.Random(seed), []
    for _ in range(25):
        name = chance.choice(names)
        call = chance.choice(CALLS)
        try:
            if call == "create":
                connection.createXML(xml(name), chance.choice([0, libvirt.VIR_DOMAIN_START_PAUSED]))
            else:
                getattr(connection.lookupByName(name), call)()
        except libvirt.libvirtError as error:
            refused.append(error)
    return refused


def _check(connection: libvirt.virConnect, refused: list[libvirt.libvirtError], before: set[int]) -> None:
    assert {error.get_error_code() for error in refused} <= REFUSALS, refused
    internal = [str(e) for e in refused if e.get_error_code() == libvirt.VIR_ERR_INTERNAL_ERROR]
    assert [text for text in internal if "process exited" not in text] == []
    for domain in connection.listAllDomains():
        domain.destroy()
    assert qemus() == before


def test_the_same_machine(connect: Open) -> None:
    connection, before = connect(), qemus()
    with ThreadPoolExecutor(8) as pool:
        plays = [pool.submit(_play, connection, seed, ["a"]) for seed in range(8)]
        refused = [error for play in plays for error in play.result(60)]
    _check(connection, refused, before)


def test_machines_of_their_own(connect: Open) -> None:
    connection, before = connect(), qemus()
    with ThreadPoolExecutor(8) as pool:
        plays = [pool.submit(_play, connection, seed, [f"m{seed}", f"n{seed}"]) for seed in range(8)]
        refused = [error for play in plays for error in play.result(60)]
    assert {e.get_error_code() for e in refused} <= REFUSALS - {libvirt.VIR_ERR_INTERNAL_ERROR}, refused
    _check(connection, refused, before)
