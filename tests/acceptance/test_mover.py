"""Real sandboxes, CRIU and pager on this machine: moves there and back, and what is killed on the way."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.heap_session import MANY_PAGES, PAGES, RIGHT, Ground, ask, in_order, lines, memory_of, runs, until

from sojourn.errors import Immovable, Incompatible, SojournError
from sojourn.model import Strategy
from sojourn.movers import arrival, departure, probe, recover_arrival, recover_departure
from sojourn.movers.criu.arrival import CriuArrival
from sojourn.movers.criu.departure import CriuDeparture
from sojourn.movers.criu.service import memory_folder
from sojourn.movers.processes import Lasting
from sojourn.sandbox.runc import RuncSandbox
from sojourn.wire import SessionFilled, SessionFrozen, SessionSent, SessionThawed

pytestmark = pytest.mark.acceptance


class Link:
    """One end of a link over TCP on the loopback, without tickets."""

    def __init__(self, address: tuple[str, int] | None = None) -> None:
        self._address = address
        self.offered: queue.Queue[socket.socket] = queue.Queue()
        self.socket = self.open() if address else None

    def open(self) -> socket.socket:
        return socket.create_connection(self._address) if self._address else self.offered.get(timeout=20)

    def close(self) -> None:
        if self.socket:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()


class Move:
    """Both halves of one move, driven as the two agents do."""

    def __init__(
        self,
        source: RuncSandbox,
        target: RuncSandbox,
        strategy: Strategy,
        direct: bool = True,
        at: dict[type, Callable[[Move], None]] | None = None,
    ) -> None:
        self.id, self.strategy = uuid.uuid4().hex, strategy
        self.source, self.target, self.at = source, target, at or {}
        self.events: list[Any] = []
        self.facts: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        self.departure = departure(source, self.id, strategy, tell=self.tell, note=self.facts[0].update, hang_up=int)
        self.arrival = arrival(target, self.id, strategy, tell=self.tell, note=self.facts[1].update)
        assert isinstance(self.departure, CriuDeparture)
        self.departure.direct = direct
        self.failure: SojournError | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.far = Link()
        threading.Thread(target=self._listen, daemon=True).start()
        self._receiving = threading.Thread(target=self._receive)

    def tell(self, event: Any) -> None:
        self.events.append(event)
        if act := self.at.get(type(event)):
            act(self)

    def run(self) -> None:
        """Raises what the departure raises; `failure` is what the arrival raised."""
        self.arrival.prepare()
        self.near = Link(self._listener.getsockname())
        self._receiving.start()
        try:
            self.departure.run(self.near)
        except BaseException:
            self.near.close()
            raise
        finally:
            self._receiving.join(60)
            self.near.close()
            self.far.close()
            self._listener.close()

    def named(self, kind: type) -> Any:
        return next((event for event in self.events if isinstance(event, kind)), None)

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.far.offered.put(self._listener.accept()[0])

    def _receive(self) -> None:
        self.far.socket = self.far.open()
        try:
            self.arrival.receive(self.far)
        except SojournError as failed:
            self.failure = failed
            self.far.close()


@pytest.fixture(scope="module", autouse=True)
def _possible() -> None:
    strategies, refusals = probe()
    if "lazy" not in strategies:
        pytest.skip(f"no lazy moves here: {refusals.get('lazy')}")


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with Ground(tmp_path) as made:
        yield made


def left_in_memory(move: Move) -> list[str]:
    return [path.name for path in memory_folder().glob(f"{move.id}*")]


@pytest.mark.parametrize("direct", [True, False], ids=["one-machine", "network"])
@pytest.mark.parametrize("strategy", ["lazy", "copy"])
def test_there_and_back(ground: Ground, strategy: Strategy, direct: bool) -> None:
    here = ground.running()
    for node in ("there", "here"):
        there = ground.sandbox(node)
        move = Move(here, there, strategy, direct)
        move.run()
        assert move.failure is None
        kinds = (SessionFrozen, SessionSent, SessionThawed, SessionFilled)
        assert [type(event) for event in move.events if isinstance(event, kinds)] == list(kinds)
        report = move.named(SessionFilled).report
        assert report.page_bytes >= PAGES * 3 // 4 * 4096
        assert 0 < report.frozen_s < 60
        assert not runs(here)
        move.departure.commit()
        assert here.pids() == []
        assert memory_of(there) == RIGHT
        assert in_order(there)
        assert left_in_memory(move) == []
        here = there


def test_a_program_of_many_threads_faults_in_all_of_them_at_once(ground: Ground) -> None:
    here, there = ground.running(trouble="many threads"), ground.sandbox("there")
    move = Move(here, there, "lazy")
    move.run()
    assert move.failure is None
    move.departure.commit()
    assert memory_of(there) == RIGHT


def test_nodes_may_hide_different_folders(ground: Ground, tmp_path: Path) -> None:
    """The session keeps the mount points it was born with, also on its third node."""
    shared = (tmp_path / "shared",)
    here = ground.running(shared=shared, hidden=made_folders(shared[0] / "of here"))
    (shared[0] / "of here/secret").touch()
    for node in ("there", "yonder", "here"):
        there = ground.sandbox(node, shared=shared, hidden=made_folders(shared[0] / f"of {node}"))
        move = Move(here, there, "copy")
        move.run()
        assert move.failure is None
        move.departure.commit()
        seen = Path(f"/proc/{there.root_pid()}/root") / (shared[0] / "of here").relative_to("/")
        assert list(seen.iterdir()) == []
        here = there


def test_another_image_of_the_same_name_is_refused_before_the_freeze(ground: Ground) -> None:
    here, there = ground.running(), ground.sandbox("there")
    here.facts["image"] = "sha256:one"
    move = Move(here, there, "lazy")
    with pytest.raises(SojournError):
        move.run()
    assert isinstance(move.failure, Incompatible)
    assert "sojourn image pull" in move.failure.hint
    assert move.named(SessionFrozen) is None
    assert move.departure.resumed
    assert runs(here)
    move.arrival.abandon()


def made_folders(*folders: Path) -> tuple[Path, ...]:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return folders


def test_forks_keep_what_they_share(ground: Ground) -> None:
    here, there = ground.running(children=3), ground.sandbox("there")
    move = Move(here, there, "copy")
    move.run()
    assert move.failure is None
    assert move.named(SessionFilled).report.page_bytes == 0  # CRIU's own images, not the pager
    move.departure.commit()
    shares = [int(line.split()[1]) for pid in there.pids() for line in smaps(pid) if line.startswith("Pss:")]
    assert sum(shares) * 1024 < 1.7 * PAGES * 4096
    assert memory_of(there) == RIGHT


def smaps(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()


def kill_pager(move: Move) -> None:
    assert isinstance(move.arrival, CriuArrival)
    assert move.arrival._pager
    os.kill(move.arrival._pager.pid, signal.SIGKILL)


def kill_page_source(move: Move) -> None:
    assert isinstance(move.departure, CriuDeparture)
    assert move.departure._page_source
    os.kill(move.departure._page_source.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("kill", "direct"), [(kill_pager, True), (kill_pager, False), (kill_page_source, False)], ids=str
)
def test_killed_while_filling_goes_back_to_the_moment_of_the_move(
    ground: Ground, kill: Callable[[Move], None], direct: bool
) -> None:
    here, there = ground.running(pages=MANY_PAGES), ground.sandbox("there")
    move = Move(here, there, "lazy", direct, at={SessionThawed: kill})
    move.run()
    assert move.failure is not None
    assert move.named(SessionFilled) is None
    written = lines(here)
    answer = ask(there)
    time.sleep(0.5)
    assert not answer.exists()  # whoever misses a page waits; nobody reads zeros
    assert lines(here) == written
    move.arrival.abandon()
    assert there.pids() == []
    move.departure.roll_back()
    assert runs(here)
    assert memory_of(here) == RIGHT.replace(str(PAGES), str(MANY_PAGES))
    assert in_order(here)
    assert left_in_memory(move) == []


def test_what_can_not_travel_is_refused_before_the_freeze(ground: Ground) -> None:
    here, there = ground.running(trouble="io_uring"), ground.sandbox("there")
    move = Move(here, there, "lazy")
    with pytest.raises(Immovable, match=r"io_uring is in use: process \d+ \(python"):
        move.run()
    assert move.named(SessionFrozen) is None
    assert move.departure.resumed
    move.arrival.abandon()
    assert runs(here)


def test_a_dump_that_fails_leaves_the_session_running(ground: Ground) -> None:
    here, there = ground.running(trouble="a family of sockets that CRIU does not know"), ground.sandbox("there")
    move = Move(here, there, "lazy")
    with pytest.raises(SojournError, match="CRIU could not dump"):
        move.run()
    assert move.departure.resumed
    assert move.failure is not None
    move.arrival.abandon()
    assert runs(here)
    assert memory_of(here) == RIGHT


def kill_criu(move: Move) -> None:
    """While it dumps, that is soon after the freeze was told."""
    assert isinstance(move.departure, CriuDeparture)
    criu = move.departure._criu
    assert criu
    threading.Timer(0.02, lambda: os.kill(criu.pid, signal.SIGKILL)).start()


def test_the_death_of_criu_while_dumping_leaves_the_session_whole_or_ends_it(ground: Ground) -> None:
    """A task in which CRIU was at work just then runs into CRIU's own code, and ends by its trap (SIGTRAP), which its
    rider tells. It never goes on with anything but what it was."""
    here, there = ground.running(), ground.sandbox("there")
    before = set(here.pids())
    move = Move(here, there, "lazy", at={SessionFrozen: kill_criu})
    with pytest.raises(SojournError, match="CRIU could not dump"):
        move.run()
    move.arrival.abandon()
    if runs(here):
        assert memory_of(here) == RIGHT
    else:
        assert set(here.pids()) < before


def test_the_end_of_the_link_before_all_was_sent_leaves_the_session_running(ground: Ground) -> None:
    here, there = ground.running(), ground.sandbox("there")
    move = Move(here, there, "lazy", at={SessionFrozen: lambda move: move.far.close()})
    with pytest.raises(SojournError):
        move.run()
    assert move.departure.resumed
    move.arrival.abandon()
    assert runs(here)
    assert memory_of(here) == RIGHT
    assert left_in_memory(move) == []


def address_of_this_machine() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probing:
        try:
            probing.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but the loopback")
        return str(probing.getsockname()[0])


def test_connections_to_the_outside_are_reset_and_named(ground: Ground) -> None:
    with socket.create_server((address_of_this_machine(), 0)) as server:
        host, port = server.getsockname()
        try:
            here, there = ground.running(trouble=f"connect {host} {port}"), ground.sandbox("there")
        except AssertionError:
            pytest.skip("sandboxes have no way outside here")
        move = Move(here, there, "lazy")
        move.run()
        move.departure.commit()
        assert move.named(SessionThawed).report.connections_reset == (f"tcp {host}:{port}",)
        until((there.files.upper / "var/heap/outside").exists)
        until(lambda: "Connection" in (there.files.upper / "var/heap/outside").read_text(), 2)
        assert memory_of(there) == RIGHT


def test_a_new_agent_at_the_target_goes_on_with_the_fill(ground: Ground) -> None:
    here, there = ground.running(), ground.sandbox("there")

    def lose_the_agent(move: Move) -> None:
        raise RuntimeError("the agent is gone")

    move = Move(here, there, "lazy", at={SessionThawed: lose_the_agent})
    move.run()
    assert move.named(SessionFilled) is None
    assert isinstance(move.arrival, CriuArrival)
    move.arrival._close_descriptors()  # as the kernel does
    successor = recover_arrival(there, move.id, "lazy", move.facts[1], tell=move.tell, note=move.facts[1].update)
    assert successor.thawed
    successor.go_on()
    assert move.named(SessionFilled)
    move.departure.commit()
    assert memory_of(there) == RIGHT


def test_a_new_agent_at_the_source_can_commit_and_roll_back(ground: Ground) -> None:
    here, there = ground.running(pages=MANY_PAGES), ground.sandbox("there")
    move = Move(here, there, "lazy", direct=False, at={SessionThawed: kill_page_source})
    move.run()
    facts = move.facts[0]
    successor = recover_departure(here, move.id, "lazy", facts, tell=move.tell, note=facts.update, hang_up=lambda: None)
    assert not successor.resumed
    move.arrival.abandon()
    successor.roll_back()
    assert memory_of(here) == RIGHT.replace(str(PAGES), str(MANY_PAGES))
    successor.commit()
    assert here.pids() == []
    assert not any(process and Lasting(*process).alive() for process in (facts["criu"], facts["page_source"]))
