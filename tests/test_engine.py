"""The engine as its callers use it: real weights (tiny, random), real files."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.camera import Intrinsics, Pose
from engine.config import POCKET, POCKET_CODEC, SANA_WM, CodecConfig, ModelConfig, as_record, from_record
from engine.engine import Chunk, Engine
from engine.state import StreamState
from tests.tiny import hills, tiny_assets

LENS = Intrinsics.from_fov(1.2, width=256, height=160)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine.load("pocket", assets=tiny_assets(tmp_path_factory.mktemp("assets")), device="cpu")


def path(chunk: int, *, speed: float = 4.0) -> list[Pose]:
    return [Pose(t=np.array([0.0, 0.0, speed * (8 * chunk + i + 1) / 16])) for i in range(8)]


def begin(engine: Engine, seed: int = 0) -> Chunk:
    return engine.start(hills(0), pose=Pose(), intrinsics=LENS, seed=seed)


def pixels(chunk: Chunk) -> np.ndarray:
    return np.stack([f.pixels for f in chunk.frames])


def tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple):
        return [t for v in value for t in tensors(v)]
    if is_dataclass(value):
        return [t for f in fields(value) for t in tensors(getattr(value, f.name))]
    return []


def test_the_first_frame_is_the_picture_and_frames_know_where_they_are(engine: Engine):
    first = begin(engine)
    assert len(first.frames) == 1
    assert np.array_equal(first.frames[0].pixels, hills(0))
    second = engine.step(first.state, path(0), intrinsics=LENS)
    third = engine.step(second.state, path(1), intrinsics=LENS)
    frames = (*first.frames, *second.frames, *third.frames)
    assert [f.index for f in frames] == list(range(17))
    assert np.array_equal(frames[16].pose.t, path(1)[-1].t)
    assert all(f.pixels.shape == (160, 256, 3) and f.pixels.dtype == np.uint8 for f in frames)
    assert all(f.inverse_depth is not None and f.inverse_depth.shape == (160, 256) for f in frames[1:])


def test_a_state_is_a_value(engine: Engine):
    """The same step twice gives the same frames; a branch does not disturb the stem; another seed is another dream."""
    state = begin(engine).state
    once = engine.step(state, path(0), intrinsics=LENS)
    engine.step(once.state, path(1, speed=-20.0), intrinsics=LENS)
    again = engine.step(state, path(0), intrinsics=LENS)
    assert np.array_equal(pixels(once), pixels(again))
    other = engine.step(begin(engine, seed=1).state, path(0), intrinsics=LENS)
    assert not np.array_equal(pixels(once), pixels(other))


def test_a_further_attempt_draws_other_noise_and_repeats_itself(engine: Engine):
    state = begin(engine).state
    first, second = (engine.step(state, path(0), intrinsics=LENS, attempt=n) for n in (0, 1))
    assert not np.array_equal(pixels(first), pixels(second))
    assert np.array_equal(pixels(second), pixels(engine.step(state, path(0), intrinsics=LENS, attempt=1)))


def test_numbers_that_are_not_finite_never_enter_a_state(engine: Engine):
    state = begin(engine).state
    expected = pixels(engine.step(state, path(0), intrinsics=LENS))
    weight = engine.generator.model.final_layer.linear.weight
    healthy = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("inf"))
    try:
        with pytest.raises(FloatingPointError, match="discard"):
            engine.step(state, path(0), intrinsics=LENS)
    finally:
        with torch.no_grad():
            weight.copy_(healthy)
    assert np.array_equal(pixels(engine.step(state, path(0), intrinsics=LENS)), expected)


def test_a_long_flight_has_a_state_of_constant_size(engine: Engine):
    """Past the window nothing grows, though the anchor moves several times."""
    state: StreamState = begin(engine).state
    sizes, anchors = [], set()
    for chunk in range(24):
        state = engine.step(state, path(chunk, speed=10.0), intrinsics=LENS).state
        sizes.append(sum(t.numel() * t.element_size() for t in tensors(state)))
        assert state.anchor is not None
        anchors.add(float(state.anchor.pose[0, 2, 3]))
    window = engine.generator.config.window
    assert set(sizes[window:]) == {sizes[-1]}
    assert len(anchors) > 3
    assert all(bool(t.isfinite().all()) for t in tensors(state) if t.is_floating_point())


def test_callers_mistakes_are_named(engine: Engine, tmp_path: Path):
    with pytest.raises(ValueError, match=r"\(100, 100, 3\)"):
        engine.start(np.zeros((100, 100, 3), np.uint8), pose=Pose(), intrinsics=LENS)
    with pytest.raises(ValueError, match="3 poses for a chunk of 8"):
        engine.step(begin(engine).state, path(0)[:3], intrinsics=LENS)
    with pytest.raises(ValueError, match="unknown world 'atlantis': choose from pocket"):
        Engine.load("atlantis", assets=tmp_path)
    with pytest.raises(ValueError, match="unknown device"):
        Engine.load("pocket", assets=tmp_path, device="tpu")
    with pytest.raises(ValueError, match="no weights at"):
        Engine.load("pocket", assets=tmp_path)


@pytest.mark.parametrize("config", [POCKET, SANA_WM, POCKET_CODEC, replace(POCKET, window=3, sink=True)])
def test_a_config_survives_its_record(config: ModelConfig | CodecConfig):
    import json

    assert from_record(type(config), json.loads(json.dumps(as_record(config)))) == config


@pytest.mark.parametrize(
    "record",
    [
        {"dimm": 3},
        {"dim": "320"},
        {"dim": 3.5},
        {"levels": [1.0, None]},
        {"semantics": {"x": True}},
        {"sink": 1},
    ],
)
def test_a_config_from_a_file_is_not_trusted(record: dict[str, object]):
    with pytest.raises(ValueError, match="the config in the weights"):
        from_record(ModelConfig, record)
