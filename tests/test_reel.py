"""Looking back: pictures within a budget, the way of the rewind key, the strip, words being typed, drift."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from engine import container
from engine.camera import Intrinsics, Pose
from engine.frame import Frame
from engine.metrics import sharpness
from engine.words import parse
from explorer.drift import drift, look
from explorer.reel import THUMBNAIL, Reel, develop
from explorer.rewind import FASTEST, frames_back, rewind
from explorer.timeline import Timeline
from explorer.wording import Wording
from explorer.worldfile import open_world
from tests.tiny import hills

LENS = Intrinsics.from_fov(1.2, width=256, height=160)


def frame(index: int) -> Frame:
    return Frame(pixels=hills(index % 12), pose=Pose(), intrinsics=LENS, index=index, world="1")


def flown(chunks: int, *, budget: int = 1 << 30) -> tuple[Timeline, Reel]:
    reel = Reel(budget=budget)
    timeline = Timeline().grow(index=0, poses=np.zeros((1, 7)))
    reel.add(0, [frame(0)])
    for n in range(chunks):
        timeline = timeline.grow(index=8 * n + 8, poses=np.zeros((8, 7)))
        reel.add(n + 1, [frame(8 * n + i + 1) for i in range(8)])
    return timeline, reel


def test_pictures_are_kept_within_the_budget_and_each_moment_keeps_its_own() -> None:
    _, free = flown(10)
    timeline, reel = flown(10, budget=free.size // 2)
    assert reel.size <= free.size // 2
    assert reel.size == sum(len(shot.data) for id in timeline.moments for shot in reel.shots(id))
    assert [reel.shots(id)[-1].index for id in timeline.moments] == [8 * id for id in timeline.moments]
    assert len(reel.shots(1)) == 1
    assert len(reel.shots(10)) == 8
    picture = develop(reel.shots(3)[-1])
    assert np.abs(picture.astype(int) - hills(24 % 12)).mean() < 4
    small = reel.thumbnail(3)
    assert small is not None
    assert small.shape == (THUMBNAIL[1], THUMBNAIL[0], 3)
    for id in timeline.moments:
        reel.forget(id)
    assert reel.size == 0


def test_rewinding_goes_back_ever_faster_and_lands_on_moments() -> None:
    timeline, reel = flown(30)
    way = rewind(timeline, reel, now=10.0, fps=16.0)
    assert way is not None
    seen = [way.at(10.0 + t / 60) for t in range(600)]
    indices = [step.shot.index for step in seen]
    assert indices[0] == 239
    assert indices == sorted(indices, reverse=True)
    assert indices[-1] == 0
    assert indices[60] == 240 - 1 - 24  # 16 frames, and half as many again for speeding up
    for step in seen:
        landing = timeline.moments[step.landing].index
        assert step.shot.index - 8 < landing <= step.shot.index
    assert seen[0].landing == 29  # the shortest press leaves the newest moment
    assert way.seconds(10.0) == pytest.approx(1 / 16)
    assert rewind(Timeline(), reel, now=0.0, fps=16.0) is None


def test_rewinding_has_a_fastest_speed() -> None:
    assert frames_back(101.0, fps=16.0) - frames_back(100.0, fps=16.0) == pytest.approx(16.0 * FASTEST)
    t = np.linspace(0, 40, 4001)
    rate = np.diff([frames_back(x, fps=1.0) for x in t]) / 0.01
    assert (np.diff(rate) > -1e-6).all()
    assert rate.max() <= FASTEST + 1e-6


def test_the_strip_shows_ends_bookmarks_and_no_more_than_fits() -> None:
    import pygame

    from explorer.paint import Brush
    from explorer.strip import draw, pick

    pygame.font.init()
    timeline, reel = flown(50)
    timeline = timeline.marked(17).marked(18)
    picked = pick(timeline, 9)
    assert len(picked) == 9
    assert (picked[0], picked[-1]) == (0, 50)
    assert {17, 18} <= set(picked)
    assert list(picked) == sorted(picked)
    strip = draw(Brush(800), 900, timeline, reel)
    assert strip.surface.get_width() <= 900
    assert strip.ids[strip.nearest(18)] == 18
    assert strip.nearest(50) == len(strip.ids) - 1
    short, _ = flown(2)
    assert pick(short, 9) == (0, 1, 2)


def test_words_are_typed_corrected_and_read() -> None:
    line = Wording()
    for name, text in (("text", "snowy pinez"), ("rewind", ""), ("text", "s at dusk\n"), ("flight", "")):
        line = line.after(name, text)
    assert line.line == "snowy pines at dusk"
    done = line.after("accept")
    assert done.done
    assert done.words == tuple(parse("snowy pines at dusk"))
    wrong = Wording("dragons").after("accept")
    assert not wrong.done
    assert "dragons" in wrong.complaint
    assert wrong.after("rewind").complaint == ""
    left = line.after("escape")
    assert left.done
    assert left.words is None
    assert len(Wording().after("text", "x" * 1000).line) == 80


def test_a_prompt_is_any_text() -> None:
    import pygame

    from explorer.paint import Brush

    pygame.font.init()
    line = Wording("fog", free=True).after("text", " over dragons ")
    done = line.after("accept")
    assert (done.done, done.text, done.words) == (True, "fog over dragons", None)
    assert line.after("escape").text is None
    assert Wording(free=True).after("accept").text == ""  # no prompt is one, too
    long = Wording(free=True).after("text", "gulls " * 1000)
    assert len(long.line) == 1000
    brush = Brush(800)
    low, high = Wording(free=True).draw(brush), long.draw(brush)
    assert low.get_width() == high.get_width() == Wording().draw(brush).get_width()
    assert low.get_height() < high.get_height() < 300


def test_drift_measures_detail_as_the_evaluation_does() -> None:
    import torch

    first = hills(0)
    soft = cv2.GaussianBlur(first, (0, 0), 3)
    for picture in (first, soft):
        told = sharpness(torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1))
        assert look(picture).detail == pytest.approx(float(told), rel=1e-4)
    assert drift(look(first), look(first)).detail == 1.0
    assert drift(look(first), look(first)).color == 0.0
    assert drift(look(first), look(soft)).detail < 0.6
    brighter = np.minimum(first.astype(int) + 51, 255).astype(np.uint8)
    assert 0.1 < drift(look(first), look(brighter)).color <= 0.2
    assert drift(look(np.zeros_like(first)), look(first)).detail == 1.0


def test_world_files_are_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "a.world"
    picture = hills(0)
    arrays = {
        "pilot": np.array([0.0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        "picture": picture,
        "shown": picture,
        "trajectory": np.array([[0.0, 0, 0, 1, 0, 0, 0]]),
        "thumbnails": np.zeros((0, 40, 64, 3), np.uint8),
    }
    record = {
        "world": "pocket",
        "weights": "w",
        "index": 1,
        "intrinsics": [200.0, 200.0, 128.0, 80.0, 256, 160],
        "title": "Hills",
        "words": [1, 2],
        "seed": 5,
    }
    container.write(path, arrays, record)
    scene = open_world(path)
    assert (scene.title, scene.words, scene.seed) == ("Hills", (1, 2), 5)
    assert np.array_equal(scene.rgb, picture)
    bad_arrays = {
        "pilot": np.full(13, np.nan),
        "picture": picture[:-1],
        "shown": picture.astype(np.float32),
        "trajectory": np.zeros((1, 7)),
        "thumbnails": np.zeros((3, 4, 5, 6), np.uint8),
    }
    bad_record = {
        "index": 7,
        "intrinsics": [200.0, float("nan"), 128.0, 80.0, 256, 160],
        "title": "a\nb",
        "words": ["x"],
        "seed": -1,
    }
    for name, value in bad_arrays.items():
        container.write(path, {**arrays, name: value}, record)
        with pytest.raises(ValueError, match="cannot be opened"):
            open_world(path)
        container.write(path, {n: a for n, a in arrays.items() if n != name}, record)
        with pytest.raises(ValueError, match="cannot be opened"):
            open_world(path)
    for name, wrong in bad_record.items():
        container.write(path, arrays, {**record, name: wrong})
        with pytest.raises(ValueError, match="cannot be opened"):
            open_world(path)
