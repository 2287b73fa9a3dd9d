from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sojourn.agent import meters
from sojourn.agent.load import Pace
from sojourn.agent.meters import Counter, Meters
from sojourn.model import SessionLoad

MEMORY_STAT = "cache 300\ninactive_file {inactive}\ntotal_cache 700\ntotal_inactive_file {total}\n"
NET = """Inter-|   Receive                            |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo: 999 1 0 0 0 0 0 0 999 1 0 0 0 0 0 0
  eth0: {received} 7 0 0 0 0 0 0 {sent} 9 0 0 0 0 0 0
"""


class House:
    """Sessions whose cgroups and network are files of the test's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.texts: dict[str, str] = {}
        read = meters._text
        monkeypatch.setattr(meters, "_boxes", lambda sandbox: sandbox.boxes)
        monkeypatch.setattr(meters, "_text", lambda file: self.texts.get(str(file)) or read(file))

    def box(self, **files: str) -> Path:
        for name, text in files.items():
            (self.folder / name.replace("__", ".")).write_text(text)
        return self.folder

    def network(self, pid: int, received: int, sent: int) -> None:
        self.texts[f"/proc/{pid}/net/dev"] = NET.format(received=received, sent=sent)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(tmp_path, monkeypatch)


def living(boxes: dict[str, Path], session: str = "s", incarnation: int = 1, pids: tuple[int, ...] = ()) -> Any:
    life = SimpleNamespace(session=session, born=incarnation, incarnation=incarnation)
    root_pid = pids[0] if pids else None
    sandbox = SimpleNamespace(
        boxes=boxes, pids=lambda: list(pids), root_pid=lambda: root_pid, facts={"outside": "open"}
    )
    return SimpleNamespace(life=life, sandbox=sandbox)


def test_version_2_counts_all(house: House) -> None:
    box = house.box(
        memory__current="1000\n",
        memory__stat=MEMORY_STAT.format(inactive=200, total=0),
        memory__max="4096\n",
        memory__pressure="some avg10=1.50 avg60=0.10 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 total=0",
        cpu__stat="usage_usec 2500000\nuser_usec 1\n",
    )
    house.network(7, received=100, sent=20)
    (load,) = Meters().read([living({"": box}, pids=(7,))])
    assert load == SessionLoad(
        session="s",
        memory_bytes=800,
        memory_limit_bytes=4096,
        memory_pressure=0.015,
        cpu_seconds=2.5,
        network_bytes=120,
    )


def test_version_1_counts_all_but_pressure(house: House) -> None:
    box = house.box(
        memory__usage_in_bytes="1000\n",
        memory__stat=MEMORY_STAT.format(inactive=1, total=300),
        memory__limit_in_bytes="9223372036854771712\n",
        cpuacct__usage="1500000000\n",
    )
    (load,) = Meters().read([living({"memory": box, "cpu": box, "freezer": box})])
    assert load == SessionLoad(session="s", memory_bytes=700, cpu_seconds=1.5)


def test_processes_are_asked_where_the_cpu_controller_does_not_count(house: House) -> None:
    times = "100 200 10 20"  # its own, and those of children it has waited for
    house.texts["/proc/7/stat"] = house.texts["/proc/8/stat"] = f"7 (a) b) S {'1 ' * 10}{times} 20 0 1 0 12345"
    (load,) = Meters().read([living({"cpu": house.folder}, pids=(7, 8))])
    assert load.cpu_seconds == 660 / os.sysconf("SC_CLK_TCK")


def test_what_can_not_be_read_counts_nothing(house: House) -> None:
    gone = house.folder / "gone"
    assert Meters().read([living({"": gone}, pids=(999_999_999,))]) == (SessionLoad(session="s"),)
    assert Meters().read([living({"memory": gone, "cpu": gone})]) == (SessionLoad(session="s"),)


def test_a_session_without_cgroups_is_left_out(house: House) -> None:
    assert Meters().read([living({})]) == ()


def test_of_two_lives_the_newer_one_counts(house: House) -> None:
    old = house.box(memory__current="9000\n")
    lives = [living({"": house.folder / "new"}, incarnation=2), living({"": old}, incarnation=1)]
    assert [load.memory_bytes for load in Meters().read(lives)] == [0]


def test_counts_never_fall(house: House) -> None:
    all_of_them, attendance = Meters(), living({"": house.folder}, pids=(7,))
    seen = []
    for received in (100, 300, 50, 60):  # the device was made anew in between
        house.network(7, received, sent=0)
        seen.append(all_of_them.read([attendance])[0].network_bytes)
    assert seen == [100, 300, 300, 310]


def test_a_counter_forgets_nothing() -> None:
    counter = Counter()
    assert [counter.add_up(now) for now in (5, 7, 1, 1, 4)] == [5, 7, 7, 7, 10]


def test_the_pace_weighs_by_size_and_the_latest_most() -> None:
    pace = Pace()
    assert pace.bytes_per_second == 0
    pace.saw(0, 5)
    assert pace.bytes_per_second == 0
    pace.saw(100, 1)
    assert pace.bytes_per_second == 100
    pace.saw(350, 1)
    assert pace.bytes_per_second == pytest.approx(400 / 1.5)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_why_it_has_no_network(house: House) -> None:
    session = living({"": house.box()})
    session.sandbox.facts["outside"] = "pasta is not installed"
    assert [load.no_network for load in Meters().read([session])] == ["pasta is not installed"]


def test_this_process_has_used_the_processor() -> None:
    used = sum(os.times()[:4])
    assert meters._seconds_of(os.getpid()) == pytest.approx(used, abs=0.5)
