from __future__ import annotations

import pytest

from pytest_embedvm.domain.addresses import drive
from pytest_embedvm.domain.addresses.shapes import DriveAddress


@pytest.mark.parametrize(
    ("bus", "index", "expected"),
    [
        ("scsi", 0, (0, 0, 0)),
        ("scsi", 6, (0, 0, 6)),
        ("scsi", 7, (1, 0, 0)),
        ("scsi", 26, (3, 0, 5)),  # sdaa
        ("sata", 7, (1, 0, 1)),
        ("ide", 3, (0, 1, 1)),
        ("ide", 4, (1, 0, 0)),
        ("fdc", 1, (0, 0, 1)),
        ("fdc", 2, (1, 0, 0)),
    ],
)
def test_a_name_is_a_place(bus: drive.DriveBus, index: int, expected: tuple[int, int, int]) -> None:
    controller, channel, unit = expected
    assert drive.address(bus, index) == DriveAddress(controller=controller, bus=channel, unit=unit)
