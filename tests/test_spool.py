"""Files of states: budgets kept, old ones on disk, nothing left behind, other people's files untouched."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from explorer import spool as module
from explorer.spool import Spool
from explorer.timeline import Timeline

SIZE = 1000


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    fast, slow = tmp_path / "fast", tmp_path / "slow"
    fast.mkdir()
    slow.mkdir()
    monkeypatch.setattr(module, "SHARED", fast)
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(slow))
    return fast, slow


def fly(spool: Spool, timeline: Timeline, count: int) -> Timeline:
    for _ in range(count):
        timeline = timeline.grow(index=timeline.next, poses=np.zeros((1, 7)))
        assert timeline.here is not None
        path = spool.folder / f"{timeline.here}.world"
        path.write_bytes(bytes([timeline.here % 256]) * SIZE)
        spool.keep(timeline.here, path, SIZE)
        timeline = spool.settle(timeline)
    return timeline


def written(place: Path) -> int:
    return sum(p.stat().st_size for p in place.rglob("*.world"))


def test_budgets_hold_and_every_moment_can_be_read(places: tuple[Path, Path]) -> None:
    fast, slow = places
    spool = Spool(memory=5 * SIZE, disk=10 * SIZE)
    timeline = fly(spool, Timeline(), 40)
    spool.later(lambda: None).result()
    assert spool.count == len(timeline.moments) == 15
    assert (spool.in_memory, spool.on_disk) == (written(fast), written(slow)) == (5 * SIZE, 10 * SIZE)
    for id in timeline.moments:
        assert spool.hold(id).read_bytes() == bytes([id]) * SIZE
    newest = sorted(timeline.moments)[-5:]
    assert all(fast in spool.entry(id).path.parents for id in newest)
    spool.close()
    assert not any(fast.iterdir())
    assert not any(slow.iterdir())


def test_a_held_state_stays_where_it_is(places: tuple[Path, Path]) -> None:
    spool = Spool(memory=2 * SIZE, disk=2 * SIZE)
    timeline = fly(spool, Timeline(), 2)
    path = spool.hold(1)
    timeline = fly(spool, timeline, 12)
    spool.later(lambda: None).result()
    assert path.read_bytes() == b"\1" * SIZE
    assert 1 in timeline.moments
    spool.close()


def test_budgets_hold_after_a_return_to_a_moment(places: tuple[Path, Path]) -> None:
    spool = Spool(memory=5 * SIZE, disk=10 * SIZE)
    timeline = fly(spool, Timeline(), 10)
    path = spool.hold(6)
    timeline = fly(spool, timeline.at(6), 100)
    spool.later(lambda: None).result()
    assert path.exists()
    assert spool.count == len(timeline.moments) == 15
    spool.clear()
    timeline = fly(spool, Timeline(), 100)  # another flight, whose ids begin anew
    assert 6 not in timeline.moments
    assert spool.count == 15
    spool.close()


def test_other_peoples_files_are_not_ours(places: tuple[Path, Path], tmp_path: Path) -> None:
    mine = tmp_path / "my.world"
    mine.write_bytes(b"x")
    spool = Spool(memory=SIZE, disk=SIZE)
    timeline = Timeline().grow(index=0, poses=np.zeros((1, 7)))
    spool.adopt(0, mine)
    fly(spool, timeline, 8)
    assert spool.hold(0) == mine
    spool.clear()
    spool.close()
    assert mine.read_bytes() == b"x"


def test_what_a_killed_program_left_is_removed_and_what_runs_is_not(places: tuple[Path, Path]) -> None:
    fast, _ = places
    dead = fast / "world-explorer-dead"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "1.world").write_bytes(b"x" * SIZE)
    (fast / "world-explorer-other").mkdir()  # no lock: not ours
    first = Spool()
    assert not dead.exists()
    second = Spool()
    assert first.folder.exists()
    assert (fast / "world-explorer-other").exists()
    for spool in (first, second, second):
        spool.close()
    assert [p.name for p in fast.iterdir()] == ["world-explorer-other"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_a_folder_of_somebody_else_holds_nobody_up(places: tuple[Path, Path]) -> None:
    (places[0] / "world-explorer-trap").mkdir()
    os.mkfifo(places[0] / "world-explorer-trap" / "lock")
    Spool().close()
    assert [p.name for p in places[0].iterdir()] == ["world-explorer-trap"]


def test_what_a_lost_engine_told_nobody_of_is_removed(places: tuple[Path, Path]) -> None:
    spool = Spool(memory=2 * SIZE, disk=10 * SIZE)
    busy = threading.Event()
    spool.later(busy.wait)
    timeline = fly(spool, Timeline(), 6)  # some of these are still to be moved
    for name in ("7.world", "8.world.1.part"):
        (spool.folder / name).write_bytes(b"x" * SIZE)
    spool.tidy()
    (spool.folder / "9.world").write_bytes(b"y" * SIZE)  # of the next engine
    busy.set()
    spool.later(lambda: None).result()
    assert {p.name for p in spool.folder.iterdir()} == {"4.world", "5.world", "9.world", "lock"}
    assert all(spool.entry(id).path.read_bytes() == bytes([id]) * SIZE for id in timeline.moments)
    spool.close()


def test_an_end_does_not_wait_for_moves_that_have_not_begun(places: tuple[Path, Path]) -> None:
    spool = Spool(memory=2 * SIZE, disk=10 * SIZE)
    busy = threading.Event()
    spool.later(busy.wait)
    fly(spool, Timeline(), 8)
    waiting = spool.later(lambda: None)
    threading.Timer(0.2, busy.set).start()
    spool.close()
    assert waiting.cancelled()
    assert not [*places[0].iterdir(), *places[1].iterdir()]


def test_without_shared_memory_everything_is_on_disk(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARED", places[0] / "missing")
    spool = Spool(memory=5 * SIZE, disk=5 * SIZE)
    timeline = fly(spool, Timeline(), 20)
    spool.later(lambda: None).result()
    assert (spool.in_memory, spool.on_disk) == (0, 5 * SIZE)
    assert len(timeline.moments) == 5
    spool.close()
