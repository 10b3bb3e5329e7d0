from __future__ import annotations

import pytest

from pytest_embedvm.guest.transcript import Transcript

PANIC = b"[ 1.0] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\r\n"


def fed(*pieces: bytes) -> Transcript:
    transcript = Transcript()
    for piece in pieces:
        transcript.feed(piece)
    return transcript


@pytest.mark.parametrize("split", range(12))
def test_lines_end_in_newline_however_they_come_in(split: int) -> None:
    whole = "a\r\nb\r\r\né\rx\r\n".encode()
    assert fed(whole[:split], whole[split:]).text == "a\nb\né\rx\n"


def test_what_is_no_utf8_is_replaced_and_kept_as_bytes() -> None:
    transcript = fed(b"a\xff", b"\xc3", b"\xa9")
    assert transcript.text == "a\ufffdé"
    assert transcript.data == b"a\xff\xc3\xa9"


def test_the_end_gives_out_what_was_held_back() -> None:
    assert fed(b"a\r").text == "a"
    assert fed(b"a\r", b"").text == "a\r"


def test_a_panic_is_seen_once_its_report_is_complete() -> None:
    transcript = fed(b"[ 1.0] Kernel panic - not syncing: sysrq triggered crash\r\n")
    assert transcript.panic() is None
    transcript.feed(PANIC[:20])
    assert transcript.panic() is None
    transcript.feed(PANIC[20:])
    assert transcript.panic() == "Kernel panic - not syncing: sysrq triggered crash"


def test_a_reset_leaves_the_panic_behind() -> None:
    transcript = fed(PANIC)
    transcript.booted()
    assert transcript.panic() is None
    transcript.feed(PANIC)
    assert transcript.panic() is not None


def test_half_of_the_last_words_is_not_their_end() -> None:
    transcript = Transcript()
    transcript.feed(PANIC[:35])
    assert transcript.panic() is None
    transcript.feed(PANIC[35:])
    assert transcript.panic() == "Kernel panic - not syncing: sysrq triggered crash"
