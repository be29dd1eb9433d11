"""sana-wm in a running program: rewound, branched, saved, opened, killed; and told another prompt meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import container
from engine.camera import Intrinsics, Pose
from engine.opening import open_sana
from engine.prompt import keep_text, random_text
from engine.sana import SanaEngine
from engine.snapshot import flatten
from explorer.assets import load_gallery
from explorer.controls import Hands, Steering
from explorer.flight import Flight, open_flight, read_pose
from explorer.keeper import Keeper
from explorer.messages import Kept
from explorer.pilot import PilotState
from explorer.reading import Reading
from explorer.reel import taken
from explorer.session import Session
from explorer.worldfile import open_world
from tests.tiny import hills, tiny_assets
from tests.tiny_sana import SETUP, SIZES
from tests.waiting import run as run_until

run = partial(run_until, limit=60.0)
W, TURN = (Hands().press(key, now=0.0).steering for key in ("w", "right"))
LENS = Intrinsics.from_fov(1.2, width=SIZES.width, height=SIZES.height)


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assets(tmp_path_factory.mktemp("world") / "assets", scenes=1)


@pytest.fixture(scope="module")
def session(assets: Path) -> Iterator[Session]:
    session = Session("sana-wm", assets=assets, device="cpu", threads=1, setup=SETUP)
    yield session
    session.stop()


@pytest.fixture(scope="module")
def engine() -> SanaEngine:
    return open_sana(SETUP, device="cpu")


def moments(session: Session) -> int:
    return len(session.history.timeline.line())


def fly(session: Session, assets: Path, chunks: int) -> None:
    session.begin(load_gallery(assets / "gallery")[0])
    run(session, W, lambda _: moments(session) > chunks)


def dreamed_again(session: Session, engine: SanaEngine, id: int, before: Path) -> bool:
    """Whether the frames of a moment are, bit for bit, what follows from the state before it along the same way."""
    torch.set_num_threads(1)
    moment = session.history.timeline.moments[id]
    flight = open_flight(before, engine, id=0, used=Steering())
    state = replace(flight.state, refining=True)
    frames = engine.step(state, [read_pose(row) for row in moment.poses], intrinsics=flight.intrinsics).frames
    shown = session.history.reel.shots(id)
    return [taken(frame).data for frame in frames] == [shot.data for shot in shown]


def test_rewind_branch_save_open(session: Session, engine: SanaEngine, assets: Path, tmp_path: Path) -> None:
    session.refine("on")
    fly(session, assets, 2)
    line, spool = session.history.timeline.line(), session.history.spool
    assert dreamed_again(session, engine, line[2], spool.entry(line[1]).path)
    session.go(line[1])
    run(session, TURN, lambda _: moments(session) > 2)
    branch = session.history.timeline.line()
    assert branch[:2] == line[:2]
    assert set(branch[2:]).isdisjoint(line)
    assert dreamed_again(session, engine, branch[2], spool.entry(line[1]).path)

    session.pause(True, now=time.perf_counter())
    run(session, W, lambda _: True)
    here = session.history.timeline.here
    assert here is not None
    session.save(tmp_path / "my.world").result(20)
    scene = open_world(tmp_path / "my.world")
    assert scene.past is not None
    assert scene.past.index == session.history.timeline.moments[here].index
    assert np.array_equal(scene.past.trajectory, session.history.trajectory())
    session.begin(scene)
    run(session, W, lambda _: moments(session) > 1)
    assert dreamed_again(session, engine, 1, tmp_path / "my.world")


def test_a_killed_engine_goes_on_from_the_newest_moment(session: Session, assets: Path) -> None:
    fly(session, assets, 1)
    line, pid = session.history.timeline.line(), session.engine.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    run(session, W, lambda _: session.stage == "recovering")
    shown = run(session, W, lambda _: moments(session) > len(line) + 1)
    assert session.history.timeline.line()[: len(line)] == line
    assert set(np.diff([s.frame.index for s in shown])) == {1}


def test_another_prompt_in_flight(session: Session, assets: Path) -> None:
    """The flight goes on while it is read, and both stages are dreamed under it from some chunk on."""
    fly(session, assets, 1)
    before = session.history.timeline.line()[-1]
    session.retell("a harbour in fog")
    assert session.teller.step
    shown = run(session, W, lambda _: session.teller.news)
    assert session.teller.news == "Prompt: a harbour in fog"
    session.teller.news = ""
    assert not session.teller.step
    count = moments(session)
    shown += run(session, W, lambda _: moments(session) > count)
    assert set(np.diff([s.frame.index for s in shown])) == {1}
    (_, old), (arrays, new) = (
        container.read(session.history.spool.entry(id).path)
        for id in (before, session.history.timeline.line()[-1])
    )
    assert (old["prompt"], new["prompt"]) == ("", "a harbour in fog")
    engine = open_sana(SETUP, device="cpu")
    told = random_text(SIZES, seed=zlib.crc32(b"a harbour in fog"))
    state = engine.start(hills(0, SIZES.width, SIZES.height), pose=Pose(), intrinsics=LENS, prompt=told).state
    words, _ = flatten(state)
    assert np.array_equal(arrays["state.text"], words["state.text"])
    assert np.array_equal(arrays["state.refiner.prompt.words.0.k"], words["state.refiner.prompt.words.0.k"])
    # Back before it, the old text is there again; a flight begun anew has the prompt.
    session.go(before)
    run(session, W, lambda _: session.history.timeline.children(before)[1:])
    again = container.read(session.history.spool.entry(session.history.timeline.children(before)[-1]).path)[1]
    assert again["prompt"] == ""
    fly(session, assets, 0)
    assert container.read(session.history.spool.entry(0).path)[1]["prompt"] == "a harbour in fog"


def test_a_resting_engine_wakes_for_a_prompt(session: Session, assets: Path, tmp_path: Path) -> None:
    keep_text(tmp_path / "1.text", random_text(SIZES, seed=7))
    session.begin(load_gallery(assets / "gallery")[0])
    run(session, Steering(), lambda _: session.stage == "resting")
    session.engine.retell("snow", tmp_path / "1.text")
    run(session, Steering(), lambda _: session.teller.news == "Prompt: snow")


def test_a_prompt_that_cannot_be_read_leaves_the_flight_alone(session: Session, tmp_path: Path) -> None:
    reading = Reading(
        replace(SETUP, random_weights=False, weights=tmp_path), tmp_path / "1.text", refiner=True
    )
    deadline = time.perf_counter() + 40
    while (done := reading.poll()) is None:
        assert time.perf_counter() < deadline
        time.sleep(0.01)
    assert "explorer download sana-wm-streaming" in done.why
    assert not list(tmp_path.iterdir())


def test_large_states_are_written_beside_the_flight(engine: SanaEngine, tmp_path: Path) -> None:
    """One at a time, the first of a flight always; what was written continues bit for bit."""
    told: list[Kept] = []
    keeper = Keeper((tmp_path,), engine, tell=told.append, each=0)
    chunk = engine.start(hills(0, SIZES.width, SIZES.height), pose=Pose(), intrinsics=LENS)
    states = [chunk.state]
    for k in range(3):
        chunk = engine.step(chunk.state, walk(k), intrinsics=LENS)
        states.append(chunk.state)
    flights = [
        Flight(
            id=1,
            intrinsics=LENS,
            state=s,
            pilot=PilotState(Pose()),
            used=Steering(),
            index=engine.next_frame(s),
        )
        for s in states
    ]
    for flight in [*flights, flights[0]]:  # far faster than they can be written
        keeper.keep(flight)
    keeper.finish()
    assert told[0].index == told[-1].index == 0
    assert len(told) < 5
    keeper.keep(flights[2])
    keeper.finish()
    assert told[-1].index == 48
    assert told[-1].size == told[-1].path.stat().st_size
    back = open_flight(told[-1].path, engine, id=2, used=Steering())
    one, two = (engine.step(s, walk(2), intrinsics=LENS) for s in (states[2], back.state))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one.frames, two.frames, strict=True))


@pytest.mark.gpu
def test_the_gpu_lets_go_of_a_state_before_it_is_written(tmp_path: Path) -> None:
    """The disk may take longer than a chunk."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    engine = open_sana(SETUP, device="cuda")
    writing, go = threading.Event(), threading.Event()

    def tell(kept: Kept) -> None:
        writing.set()
        assert go.wait(30)

    state = engine.start(hills(0, SIZES.width, SIZES.height), pose=Pose(), intrinsics=LENS).state
    flight = Flight(id=1, intrinsics=LENS, state=state, pilot=PilotState(Pose()), used=Steering(), index=1)
    there, latent = weakref.ref(state.latent), state.latent.cpu()
    keeper = Keeper((tmp_path,), engine, tell=tell, each=0)
    keeper.keep(flight)
    del flight, state
    assert writing.wait(30)
    assert there() is None
    go.set()
    keeper.finish()
    (file,) = tmp_path.glob("*.world")
    assert np.array_equal(container.read(file)[0]["state.latent"], latent.numpy())


def walk(chunk: int) -> list[Pose]:
    return [Pose(t=np.array([0.0, 0.0, 0.05 * (24 * chunk + i)])) for i in range(24)]


def test_where_nothing_can_be_written_that_is_said(engine: SanaEngine, tmp_path: Path) -> None:
    told: list[Kept] = []
    chunk = engine.start(hills(0, SIZES.width, SIZES.height), pose=Pose(), intrinsics=LENS)
    flight = Flight(
        id=1, intrinsics=LENS, state=chunk.state, pilot=PilotState(Pose()), used=Steering(), index=1
    )
    for places in ((tmp_path / "gone",), (tmp_path / "gone", tmp_path)):
        Keeper(places, engine, tell=told.append).keep(flight)
    assert told[0].size == 0
    assert told[1].path.parent == tmp_path
    assert told[1].size > 0


def test_a_text_of_another_shape_is_refused(engine: SanaEngine) -> None:
    state = engine.start(hills(0, SIZES.width, SIZES.height), pose=Pose(), intrinsics=LENS).state
    text = random_text(SIZES, seed=3)
    with pytest.raises(ValueError, match="another model"):
        engine.retold(state, replace(text, world=text.world[:, :-1]))
    with pytest.raises(ValueError, match="not read for the refiner"):
        engine.retold(state, replace(text, refiner=None, refiner_mask=None))
    assert torch.equal(engine.retold(state, engine.text).text, state.text)


def test_the_benchmark_runs() -> None:
    """The script for a GPU machine, at tiny size."""
    from benchmarks import keep_sana

    result = keep_sana.run(SETUP, device="cpu", chunks=2, say=lambda step: None)
    assert result["same"] == 1.0
    assert result["bytes"] > 0
