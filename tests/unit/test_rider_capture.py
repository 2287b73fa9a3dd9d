from __future__ import annotations

from pathlib import Path

from sojourn.rider.capture import TAIL_BYTES, Capture


def test_the_log_is_capped_by_one_rotation(tmp_path: Path) -> None:
    log = tmp_path / "log"
    capture = Capture(str(log), log_bytes=100)
    for number in range(30):
        capture.add(f"line {number:03}\n".encode())
    assert log.read_text().endswith("line 029\n")
    assert log.stat().st_size <= 100
    assert (tmp_path / "log.1").read_text() + log.read_text() == "".join(f"line {n:03}\n" for n in range(11, 30))


def test_the_tail_is_kept_even_without_a_log(tmp_path: Path) -> None:
    for path in (None, str(tmp_path / "no" / "such" / "folder")):
        capture = Capture(path)
        capture.add(b"x" * TAIL_BYTES)
        capture.add("fin äl".encode())
        assert capture.tail.endswith("xxfin äl")
        assert len(capture.tail.encode()) == TAIL_BYTES


def test_a_log_from_an_earlier_start_is_continued(tmp_path: Path) -> None:
    Capture(str(tmp_path / "log")).add(b"one\n")
    Capture(str(tmp_path / "log")).add(b"two\n")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
