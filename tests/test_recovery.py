"""A flight outlives its engine: killed, stopped or fed with nonsense, it goes on from the newest state kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from engine import container
from explorer.assets import load_gallery
from explorer.controls import Hands, Steering
from explorer.session import Session
from explorer.worldfile import open_world
from tests.tiny import tiny_assets
from tests.waiting import run as run_until

run = partial(run_until, limit=40.0)

W = Hands().press("w", now=0.0).steering


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assets(tmp_path_factory.mktemp("world") / "assets", scenes=2)


def moments(session: Session) -> int:
    return len(session.history.timeline.line())


def fly(session: Session, assets: Path, chunks: int) -> None:
    session.begin(load_gallery(assets / "gallery")[0])
    run(session, W, lambda _: moments(session) > chunks)


def test_a_prompt_that_comes_before_the_engine_is_answered(assets: Path) -> None:
    session = Session("pocket", assets=assets, device="cpu", threads=1)
    session.retell("a harbour in fog")
    assert "ask again" in session.teller.news
    session.stop()


def test_a_killed_engine_loses_at_most_one_chunk(session: Session, assets: Path) -> None:
    fly(session, assets, 3)
    for _ in range(2):
        line = session.history.timeline.line()
        pid = session.engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        shown = run(session, W, lambda _: session.stage == "recovering")
        shown += run(session, W, lambda _, line=line: moments(session) > len(line) + 1)
        assert session.history.timeline.line()[: len(line)] == line
        jumps = np.diff([s.frame.index for s in shown])
        assert jumps.min() >= 1 - 8  # no more than one chunk is shown twice
        assert jumps.max() == 1
    assert session.recoveries >= 2


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot stop a process")
def test_an_engine_that_hangs_is_replaced_and_the_window_never_waits(session: Session, assets: Path) -> None:
    fly(session, assets, 2)
    session.patience = 1.5
    before, pid = session.recoveries, session.engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    hands, longest, deadline = Hands(), 0.0, time.perf_counter() + 20
    while session.recoveries == before:
        hands = hands.mouse(1.0, 0.0, now=time.perf_counter())  # far more than a pipe holds
        started = time.perf_counter()
        session.tick(hands.steering, now=started)
        longest = max(longest, time.perf_counter() - started)
        assert time.perf_counter() < deadline
        time.sleep(0.0005)
    assert longest < 2.0
    assert session.patience >= 3.0
    run(session, W, lambda _: session.stage == "flying")


def test_a_damaged_state_is_passed_over_for_the_one_before(session: Session, assets: Path) -> None:
    fly(session, assets, 3)
    assert session.engine.pid is not None
    os.kill(session.engine.pid, signal.SIGKILL)
    run(session, W, lambda _: session.stage == "recovering")
    line = session.history.timeline.line()
    newest = session.history.spool.entry(line[-1]).path
    newest.write_bytes(newest.read_bytes()[:-100])  # long before the next engine can read it
    run(session, W, lambda _: session.stage == "flying")
    run(session, W, lambda _: moments(session) >= len(line))
    assert session.history.timeline.line()[: len(line) - 1] == line[:-1]
    assert line[-1] not in session.history.timeline.line()


def test_rewind_branch_save_open(session: Session, assets: Path, tmp_path: Path) -> None:
    fly(session, assets, 4)
    line = session.history.timeline.line()
    first = {i: session.history.reel.shots(i)[-1].data for i in line}
    session.go(line[2])
    run(session, W, lambda _: moments(session) > 4)
    branch = session.history.timeline.line()
    assert branch[:3] == line[:3]
    assert branch[3] not in line
    # The camera did the same again, so the dream is the same, bit for bit.
    assert session.history.reel.shots(branch[3])[-1].data == first[line[3]]

    session.pause(True, now=time.perf_counter())
    run(session, W, lambda _: True)
    here = session.history.timeline.here
    assert here is not None
    session.save(tmp_path / "my.world").result(10)
    assert [p.name for p in tmp_path.iterdir()] == ["my.world"]
    scene = open_world(tmp_path / "my.world")
    assert scene.past is not None
    assert (scene.past.picture == load_gallery(assets / "gallery")[0].rgb).mean() > 0.05  # JPEG between
    assert scene.past.index == session.history.timeline.moments[here].index
    assert np.array_equal(scene.past.trajectory, session.history.trajectory())

    session.go(here)
    session.pause(False, now=time.perf_counter())
    run(session, W, lambda _: moments(session) > len(branch) + 2)
    line = session.history.timeline.line()
    after = line[line.index(here) + 1]
    told = [s.data for s in session.history.reel.shots(after)]
    session.begin(scene)
    shown = run(session, W, lambda shown: len(shown) > 8 and moments(session) > 1)
    assert shown[0].frame.index == scene.past.index + 1
    assert [s.data for s in session.history.reel.shots(1)] == told

    session.save(tmp_path / "again.world").result(10)
    again = open_world(tmp_path / "again.world")
    assert again.past is not None
    assert np.array_equal(again.past.picture, scene.past.picture)
    assert len(again.past.trajectory) > len(scene.past.trajectory)
    assert len(container.read(tmp_path / "again.world")[0]) > 10


def test_pause_stands_still_and_steps_one_by_one(session: Session, assets: Path) -> None:
    fly(session, assets, 2)
    session.pause(True, now=time.perf_counter())
    until = time.perf_counter() + 1.2
    shown = run(session, W, lambda _: time.perf_counter() > until)
    assert not shown
    indices = []
    for _ in range(20):
        session.single()
        indices += [s.frame.index for s in run(session, W, lambda shown: shown)]
    assert list(np.diff(indices)) == [1] * 19
    session.pause(False, now=time.perf_counter())
    after = run(session, W, lambda shown: len(shown) > 8)
    assert after[0].frame.index == indices[-1] + 1


def test_other_words_wake_a_resting_engine(session: Session, assets: Path) -> None:
    session.begin(load_gallery(assets / "gallery")[0])
    run(session, Steering(), lambda _: session.stage == "resting")
    before = moments(session)
    session.reword((5, 9))
    run(session, Steering(), lambda _: moments(session) > before)


def test_nothing_is_left_behind(session: Session) -> None:
    folder = session.history.spool.folder
    assert any(folder.iterdir())
    session.stop()
    session.stop()
    assert not folder.exists()


def test_a_bare_interpreter_does_not_load_torch_for_the_timeline() -> None:
    """The window's process stays small."""
    code = "import sys, explorer.session; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
