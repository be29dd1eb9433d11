"""The engine in its own process, with a real engine of tiny random weights."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from explorer.assets import load_gallery
from explorer.controls import Hands, Steering
from explorer.session import Session
from tests.tiny import tiny_assets
from tests.waiting import run as run_until

run = partial(run_until, limit=60.0)


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assets(tmp_path_factory.mktemp("world") / "assets")


def test_a_flight_shows_every_frame_in_order_where_the_pilot_steers(session: Session, assets: Path) -> None:
    scene = load_gallery(assets / "gallery")[1]
    session.begin(scene)
    shown = run(session, Steering(), lambda shown: bool(shown))
    hands = Hands().press("w", now=time.perf_counter())
    shown += run(session, hands.steering, lambda shown: len(shown) > 40)
    assert [s.frame.index for s in shown] == list(range(len(shown)))
    assert (shown[0].frame.pixels == scene.rgb).all()
    z = [s.frame.pose.t[2] for s in shown]
    assert z[0] == 0.0
    assert all(np.diff(z) >= 0)
    assert z[-1] > 1.0
    due = [s.due for s in shown[1:]]
    assert all(np.diff(due) > 0)
    session.stats.latency.presented(time.perf_counter())
    assert session.stats.latency.percentile(50, generated=True) > 0
    assert session.pilot is not None
    view = session.view(time.perf_counter())
    assert view is not None
    assert view.pose.t[2] > 0


def test_frames_bring_their_depth(session: Session, assets: Path) -> None:
    scene = load_gallery(assets / "gallery")[1]
    session.begin(scene)
    shown = run(session, Steering(), lambda shown: bool(shown))
    assert shown[0].frame.inverse_depth is None  # nobody knows that of a picture
    depth = np.linspace(0, 1, 160 * 256).reshape(160, 256).astype(np.float16)
    session.begin(replace(scene, inverse_depth=depth))
    shown = run(session, Steering(), lambda shown: len(shown) > 4)
    assert shown[0].frame.index == 0
    assert np.array_equal(shown[0].frame.inverse_depth, depth)  # but of this one
    for s in shown[1:]:
        depth = s.frame.inverse_depth
        assert depth is not None
        assert depth.shape == s.frame.pixels.shape[:2]
        assert depth.dtype == np.float16
        assert np.isfinite(depth).all()
        assert (depth >= 0).all()


def test_generated_poses_meet_the_pilot_while_what_is_held_stays_the_same(
    session: Session, assets: Path
) -> None:
    session.begin(load_gallery(assets / "gallery")[1])
    shown = run(session, Steering(), lambda shown: bool(shown))
    hands = Hands().press("w", now=time.perf_counter())
    for _ in range(40):
        shown += run(session, hands.steering, lambda new: bool(new))
        assert session.pilot is not None
        lead = session.pilot.pose.t[2] - shown[-1].frame.pose.t[2]
    # a frame stays until the next one, and a busy machine is late: within a quarter of a second of flight
    assert abs(lead) < 4.0 * 0.25


def test_the_engine_rests_when_nobody_steers_and_wakes_at_once(session: Session, assets: Path) -> None:
    session.begin(load_gallery(assets / "gallery")[0])
    run(session, Steering(), lambda shown: session.stage == "resting")
    woken = Hands().press("d", now=time.perf_counter()).steering
    shown = run(session, woken, lambda shown: bool(shown) and shown[-1].frame.pose.t[0] > 0.1)
    assert shown


def test_another_scene_starts_over(session: Session, assets: Path) -> None:
    scenes = load_gallery(assets / "gallery")
    for scene in (scenes[2], scenes[3]):  # the first is dropped at once
        session.begin(scene)
    shown = run(session, Steering(), lambda shown: len(shown) > 4)
    assert (shown[0].frame.pixels == scenes[3].rgb).all()
    assert shown[0].frame.index == 0


def test_stop_leaves_no_process(session: Session) -> None:
    pid = session.engine.pid
    assert pid is not None
    session.stop()
    session.stop()
    assert not psutil.pid_exists(pid)


def test_the_engine_dies_with_its_parent(assets: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from explorer.worker import EngineProcess\n"
        "if __name__ == '__main__':\n"
        "    e = EngineProcess('pocket', assets=Path(sys.argv[1]), device='cpu', threads=1)\n"
        "    print(e.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(assets)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    engine = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.5)
    parent.kill()
    parent.communicate()
    engine.wait(timeout=10)  # raises where it lives on


def test_missing_weights_are_one_sentence(tmp_path: Path) -> None:
    session = Session("pocket", assets=tmp_path, device="cpu", threads=1)
    try:
        deadline = time.perf_counter() + 30
        while session.stage == "loading" and time.perf_counter() < deadline:
            session.tick(Steering(), now=time.perf_counter())
            time.sleep(0.02)
        assert session.stage == "failed"
        assert "codec.safetensors" in session.note
        assert "\n" not in session.note
    finally:
        session.stop()
