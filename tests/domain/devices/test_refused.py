"""What is refused of devices, with libvirt's code, error domain and sentence.

`refused/KIND.txt` holds paragraphs of three lines: the devices; machine type, code and error domain; the sentence.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.domain.devices.asking import refusal

CASES = [
    tuple(paragraph.strip().split("\n"))
    for path in sorted((Path(__file__).parent / "refused").glob("*.txt"))
    for paragraph in path.read_text().split("\n\n")
]


@pytest.mark.parametrize(("devices", "how", "sentence"), CASES)
def test_refused(devices: str, how: str, sentence: str) -> None:
    machine, code, origin = how.split()
    assert refusal(devices, machine) == (code, origin, sentence)
