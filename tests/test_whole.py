"""A chunk of pocket as one function of tensors: the same as stage by stage, and nothing in it that a GPU is waited for."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pyquaternion import Quaternion
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from engine.camera import Intrinsics, Pose
from engine.codec import Codec
from engine.compiler import as_it_is
from engine.config import WORLDS
from engine.engine import Engine
from engine.model import WorldModel
from engine.state import Keys, StreamState, timeless
from engine.values import put_together, take_apart, tensors
from engine.whole import Past, WholeChunk, at_no_time
from tests.flights import distance
from tests.tiny import CODEC, MODEL, hills

WIDTH, HEIGHT = 64, 48
LENS = Intrinsics.from_fov(1.1, width=WIDTH, height=HEIGHT)
SMALL = replace(MODEL, window=3)
EYE = replace(CODEC, width=WIDTH, height=HEIGHT)
FAKE = FakeTensorMode()  # shapes without numbers
PICTURE = hills(0, WIDTH, HEIGHT)


def engine(*, memory: int = 42, device: str = "cpu") -> Engine:
    """Every parameter counts."""
    torch.manual_seed(0)
    model, codec = WorldModel(replace(SMALL, memory_channels=memory)), Codec(EYE)
    with torch.no_grad():
        for p in (*model.parameters(), *codec.parameters()):
            p.add_(0.02 * torch.randn_like(p))
    modules: list[Any] = [m.eval().requires_grad_(False).to(device) for m in (model, codec)]
    made = Engine(replace(WORLDS["pocket"], width=WIDTH, height=HEIGHT), model=modules[0], codec=modules[1])
    made._native = None  # whichever warp was compiled in time would be another one
    return made


def path(chunk: int) -> list[Pose]:
    """On and round, so fast that the anchor moves every fifth chunk and every chunk is worth remembering."""
    frames = range(8 * chunk + 1, 8 * chunk + 9)
    return [
        Pose(Quaternion(axis=[0.0, 1.0, 0.0], angle=0.03 * n), np.array([0.05 * n, 0.0, 0.3 * n]))
        for n in frames
    ]


def flown(by: Engine, chunks: int) -> list[StreamState]:
    states = [by.start(PICTURE, pose=Pose(), intrinsics=LENS, seed=3).state]
    for i in range(chunks):
        states.append(by.step(states[-1], path(i), intrinsics=LENS).state)
    return states


@pytest.mark.parametrize("memory", [0, 42])
def test_a_whole_chunk_is_the_chunk_bit_for_bit(memory: int) -> None:
    """Frames and everything in the state, with and without moves of the anchor, until every keyframe is taken."""
    staged, whole = engine(memory=memory), engine(memory=memory)
    whole.whole = WholeChunk(whole.generator, whole.codec)
    state, fitted, moved = staged.start(PICTURE, pose=Pose(), intrinsics=LENS, seed=3).state, 0, 0
    for i in range(22 if memory else 8):
        fitted += whole.whole.fits(state)
        attempt = i % 2
        want, got = (e.step(state, path(i), intrinsics=LENS, attempt=attempt) for e in (staged, whole))
        for a, b in zip(want.frames, got.frames, strict=True):
            assert np.array_equal(a.pixels, b.pixels)
            assert a.inverse_depth is not None
            assert np.array_equal(a.inverse_depth, b.inverse_depth)
        assert take_apart(want.state, []) == take_apart(got.state, [])  # shapes, bookkeeping, text
        assert all(torch.equal(a, b) for a, b in zip(tensors(want.state), tensors(got.state), strict=True))
        assert state.anchor is not None
        assert want.state.anchor is not None
        moved += not torch.equal(want.state.anchor.pose, state.anchor.pose)
        state = want.state
    assert fitted == (20 if memory else 6)
    assert moved
    if memory:
        assert state.spatial is not None
        assert bool(state.spatial.kept.used.all())


def test_a_window_that_fills_does_not_fit() -> None:
    made = engine(memory=0)
    whole = WholeChunk(made.generator, made.codec)
    assert [whole.fits(s) for s in flown(made, 4)] == [False, False, True, True, True]


def alike(a: Tensor, b: Tensor) -> bool:
    """Equal but for blocks that round otherwise: depth is rounded to 16 bits after them, to neighbouring numbers at most."""
    if a.dtype == torch.float16:
        return bool(((a.view(torch.int16).int() - b.view(torch.int16).int()).abs() <= 1).all())
    return torch.equal(a, b) or float(distance(b, a)) < 1e-6


def test_what_a_gpu_compiles_is_traced_at_once_and_the_same() -> None:
    made, compiled = engine(), set()
    whole, state = WholeChunk(made.generator, made.codec), flown(made, 4)[-1]
    asked, _ = made._asked(state, path(4), LENS, 0)

    def form(function: Any) -> Any:
        compiled.add(function.__name__)
        return torch.compile(function, backend="eager", fullgraph=True, dynamic=False)

    results = []
    for each in (as_it_is, form):
        whole._graphed.eager = partial(whole._chunk, form=each)
        results.append(whole(state, asked))
    assert compiled == {"choose", "encoded", "describe", "reanchor", "plain", "decoded", "insert"}
    assert torch.equal(results[0].colors, results[1].colors)
    pairs = zip(*map(tensors, results), strict=True)
    assert all(alike(a, b) for a, b in pairs)


class NothingSent(TorchFunctionMode):
    """Raises where a tensor is made of numbers of the host, which a GPU would have to be sent."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        index = args[1] if func is Tensor.__getitem__ else ()
        by_list = any(isinstance(i, list) for i in (index if isinstance(index, tuple) else (index,)))
        assert not by_list, "indexed by a list"
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy), f"{func.__name__} was called"
        return func(*args, **(kwargs or {}))


def without_numbers(value: Any) -> Any:
    """Every tensor in a value as one of which nothing but the shape is known."""
    leaves: list[Tensor] = []
    what = take_apart(value, leaves)
    return put_together(what, iter([FAKE.from_tensor(x) for x in leaves]))


def test_nothing_in_a_whole_chunk_is_looked_at_or_sent() -> None:
    """What a capture allows, as far as it shows without a GPU."""
    real = engine()
    whole, state = WholeChunk(real.generator, real.codec), flown(real, 4)[-1]
    words = real.generator.model.words(state.text)
    for module in (real.generator.model, real.codec):
        numbers = {k: FAKE.from_tensor(v) for k, v in module.state_dict().items()}
        module.load_state_dict(numbers, assign=True)
    asked, _ = real._asked(state, path(4), LENS, 0)
    blocks = timeless(state.blocks)
    past = Past(
        blocks=blocks,
        text=state.text,
        text_mask=None,
        words=words,
        latent=state.latent,
        spatial=state.spatial,
    )
    past, asked = without_numbers(past), without_numbers(replace(asked, cond=at_no_time(asked.cond)))
    with FAKE, torch.no_grad(), NothingSent():
        made = whole._plain(past, asked)
        with pytest.raises(DataDependentOutputException):
            bool(made.finite)
        with pytest.raises(AssertionError, match="by a list"):
            asked.poses[:, [0, 7]]
        with pytest.raises(AssertionError, match="tensor was called"):
            torch.tensor([1.0])
    assert made.colors.shape == (8, HEIGHT, WIDTH, 3)
    assert made.colors.dtype == torch.uint8


@pytest.mark.gpu
def test_captured_it_is_still_the_chunk() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    captured, eager = engine(device="cuda"), engine(device="cuda")
    eager.whole = None
    assert captured.whole is not None
    state = eager.start(PICTURE, pose=Pose(), intrinsics=LENS, seed=3).state
    for i in range(10):
        want, got = (e.step(state, path(i), intrinsics=LENS) for e in (eager, captured))
        for a, b in zip(want.frames, got.frames, strict=True):
            assert np.abs(a.pixels.astype(int) - b.pixels).mean() < 1
        assert distance(got.state.latent, want.state.latent) < 1e-3
        assert want.state.spatial is not None
        assert got.state.spatial is not None
        assert {f.name for f in fields(want.state.spatial)} == {f.name for f in fields(got.state.spatial)}
        state = want.state
    assert captured.whole.ready
    assert any(isinstance(b.mixer, Keys) for b in state.blocks)
