"""A function as a CUDA graph, and the steady chunk of a stream through it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.camera import Pose
from engine.conditioning import pose_tensor
from engine.generator import Generator
from engine.graphed import Graphed
from engine.model import WorldModel
from engine.random_weights import random_module
from engine.sana import SanaEngine
from engine.state import StreamState, timeless
from engine.steady import SteadyChunk, Told
from engine.values import put_together, take_apart
from tests.flights import distance
from tests.test_whole import FAKE, NothingSent, without_numbers
from tests.tiny_sana import SIZES, exact_engine, forward_lens


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    name: str
    left: Tensor
    right: tuple[Tensor | None, int]


def pair(seed: int, *, count: int = 3) -> Pair:
    g = torch.Generator().manual_seed(seed)
    return Pair(name="n", left=torch.randn(count, generator=g), right=(torch.randn(2, 2, generator=g), 7))


def test_taking_apart_and_putting_together_is_the_identity() -> None:
    leaves: list[Tensor] = []
    value = (pair(0), None, (torch.ones(1), "x"))
    key = take_apart(value, leaves)
    assert [tuple(x.shape) for x in leaves] == [(3,), (2, 2), (1,)]
    again = put_together(key, iter(leaves))
    assert again[0].left is value[0].left
    assert again[0].right == value[0].right
    assert again[1:] == value[1:]


def test_what_a_graph_is_kept_for() -> None:
    """Shapes and plain values, not numbers in tensors."""
    keys = [take_apart(v, []) for v in (pair(0), pair(1), pair(0, count=4))]
    assert keys[0] == keys[1] != keys[2]
    assert hash(keys[0]) == hash(keys[1])


@pytest.mark.gpu
def test_a_replay_computes_what_the_function_does() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")

    def function(p: Pair, factor: int) -> tuple[Tensor, Pair]:
        assert p.right[0] is not None
        return p.left * factor + p.right[0].sum(), p

    graphed = Graphed(function)
    with torch.inference_mode():
        kept = []
        for seed in range(6):
            p = on_gpu(pair(seed))
            kept.append((graphed(p, 3), function(p, 3)))
        assert graphed.captured == 1
        for (got, same), (wanted, p) in kept:  # results of earlier replays stay as they were
            assert torch.equal(got, wanted)
            assert torch.equal(same.left, p.left)
        assert torch.equal(graphed(p, 4)[0], function(p, 4)[0])
        assert graphed.captured == 2  # one for each factor


@pytest.mark.gpu
def test_a_patient_graph_waits_for_shapes_that_come_again() -> None:
    """And is given up for others that do."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    calls: list[int] = []

    def function(x: Tensor) -> Tensor:
        calls.append(len(x))
        return 2 * x + 1

    graphed = Graphed(function, patient=True)
    with torch.inference_mode():
        for size in (3, 3, 3, 4, 3, 4, 4, 4, 3):
            x = torch.randn(size, device="cuda")
            assert torch.equal(graphed(x), 2 * x + 1)
            assert graphed.captured == (0 if len(calls) < 2 else 1)
    assert calls == [3, 3, 4, 4, 4, 3]  # as it is, captured, as it is twice, captured, as it is


def on_gpu(p: Pair) -> Pair:
    assert p.right[0] is not None
    return Pair(name=p.name, left=p.left.cuda(), right=(p.right[0].cuda(), p.right[1]))


def flown(engine: SanaEngine, generator: Generator, chunks: int) -> list[Tensor]:
    """Latents of a flight ahead whose chunks after the first come from `generator`."""
    lens = forward_lens(engine)
    grey = np.full((engine.spec.height, engine.spec.width, 3), 90, np.uint8)
    out = []
    with torch.inference_mode():
        state = engine.step(
            engine.start(grey, pose=Pose(), intrinsics=lens, seed=3).state,
            [Pose()] * engine.spec.chunk_frames,
            intrinsics=lens,
        ).state
        for _ in range(chunks):
            poses = pose_tensor([Pose()] * engine.spec.chunk_frames)
            cond, anchor = engine.condition(state, poses, lens)
            latents, state = generator.step(state, cond=cond.to(engine.device), anchor=anchor)
            out.append(latents)
    return out


def shapes(state: StreamState) -> Hashable:
    return take_apart(tuple(replace(b, index=0) for b in state.blocks), [])


def test_a_chunk_is_steady_once_it_leaves_the_shapes_that_it_found() -> None:
    """Only then does a graph of it serve the chunk after."""
    engine = exact_engine()
    lens, steady = forward_lens(engine), SteadyChunk(engine.generator.model, engine.generator.levels)
    grey = np.full((engine.spec.height, engine.spec.width, 3), 90, np.uint8)
    states = [engine.start(grey, pose=Pose(), intrinsics=lens, seed=3).state]
    for _ in range(5):
        states.append(engine.step(states[-1], [Pose()] * engine.spec.chunk_frames, intrinsics=lens).state)
    fits = [steady.fits(s.blocks) for s in states[:-1]]
    assert fits == [shapes(a) == shapes(b) for a, b in pairwise(states)]
    assert fits == [False, False, True, True, True]


def test_the_steady_chunk_is_the_chunk() -> None:
    engine = exact_engine()
    model = engine.generator.model
    wanted = flown(engine, Generator(model), 3)
    got = flown(engine, Generator(model, fast=True), 3)
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


def test_the_camera_of_a_chunk_is_captured_too() -> None:
    """Nothing is sent or looked at on the way, as far as it shows without a GPU; and time stays out of it."""
    engine = exact_engine()
    lens, poses = forward_lens(engine), pose_tensor([Pose()] * engine.spec.chunk_frames)
    grey = np.full((engine.spec.height, engine.spec.width, 3), 90, np.uint8)
    state = engine.start(grey, pose=Pose(), intrinsics=lens, seed=3).state
    opening, anchor = engine.condition(state, poses, lens)
    state = replace(state, anchor=anchor, frame=4)
    cond, _ = engine.condition(state, poses, lens)
    assert (opening.frame, cond.frame) == (0, 4)
    row = torch.from_numpy(lens.row)
    with NothingSent(), FAKE:
        assert anchor is not None
        fakes = without_numbers((poses, row, anchor))
        seen, _ = engine._see(*fakes)
    assert seen.P.shape == cond.P.shape


def test_nothing_in_a_steady_chunk_is_looked_at_or_sent() -> None:
    """From the camera to the state after it: what a capture allows, as far as it shows without a GPU."""
    engine = exact_engine()
    lens, poses = forward_lens(engine), pose_tensor([Pose()] * engine.spec.chunk_frames)
    grey = np.full((engine.spec.height, engine.spec.width, 3), 90, np.uint8)
    state = engine.start(grey, pose=Pose(), intrinsics=lens, seed=3).state
    for _ in range(2):
        state = engine.step(state, [Pose()] * engine.spec.chunk_frames, intrinsics=lens).state
    cond, _ = engine.condition(state, poses, lens)
    model = engine.generator.model
    told = Told(
        text=state.text,
        text_mask=state.text_mask,
        words=model.words(state.text),
        cond=replace(cond, frame=0),
        past=timeless(state.blocks),
        at=torch.tensor(cond.frame),
    )
    noise, told = without_numbers((torch.zeros(1, 8, 3, *engine.grid), told))
    weights = {k: FAKE.from_tensor(v) for k, v in model.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    with FAKE, torch.no_grad(), NothingSent():
        latents, *_ = SteadyChunk(model, engine.generator.levels)._plain(noise, told)
    assert latents.shape == noise.shape


def test_words_are_read_once_for_a_text() -> None:
    """Two texts in turn and the first again: what a chunk reads is the keys of its own."""
    engine, read = exact_engine(), []
    model = engine.generator.model
    model.blocks[0].cross_attn.kv_linear.register_forward_hook(lambda *_: read.append(True))
    wanted = flown(engine, Generator(model), 3)
    read.clear()
    fast = Generator(model, fast=True)
    assert all(torch.equal(a, b) for a, b in zip(wanted, flown(engine, fast, 3), strict=True))
    assert len(read) == 3  # chunks 0 and 1, and the words that all chunks after them share
    steady = fast.steady
    assert steady is not None
    with torch.inference_mode():
        one, two = (model.embed_text(torch.randn_like(engine.text.world)) for _ in range(2))
        for text in (one, two, two, one):
            for got, want in zip(steady.known(text), model.words(text), strict=True):
                assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.gpu
def test_compiled_and_captured_it_is_still_the_chunk() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    model = random_module(lambda: WorldModel(SIZES.world), dtype=torch.float32, device="cuda", seed=1)
    engine = exact_engine(device="cuda")
    fast = Generator(model, fast=True)
    wanted, got = flown(engine, Generator(model), 5), flown(engine, fast, 5)
    assert fast.steady is not None
    assert fast.steady.captured == 1
    assert all(distance(a, b) < 1e-4 for a, b in zip(wanted, got, strict=True))
