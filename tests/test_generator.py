"""The chunk loop: noise by seed, a pinned first picture, states that resume bit for bit, no NaN enters a state."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from engine.finite import NotFinite
from engine.generator import Generator
from engine.schedule import add_noise, chunk_noise, clean_of, euler, flow_of, shifted, steps, timestep
from engine.state import Keys, Memory
from engine.steady import all_finite
from tests.flights import CHUNKY, GRID, SMALL, distance, flight, random_model

FIRST = torch.randn(2, 6, *GRID, generator=torch.Generator().manual_seed(7))
WORDS = torch.tensor([[1, 2, 0], [0, 3, 4]])


def generator(dtype: torch.dtype = torch.float32) -> Generator:
    return Generator(random_model(dtype=dtype))


def test_the_first_picture_is_chunk_0() -> None:
    x, state = generator().start(FIRST, text=WORDS, cond=flight(4).part(0, 1), seed=5)
    assert torch.equal(x[:, :, 0], FIRST)
    assert (state.frame, state.chunk, state.blocks[0].index) == (1, 1, 1)
    assert torch.equal(state.latent, FIRST)


def test_the_first_frame_stays_in_a_longer_chunk_0() -> None:
    made = Generator(random_model(CHUNKY, dtype=torch.float32))
    text = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    cond = flight(7, CHUNKY)
    x, state = made.start(FIRST, text=text, cond=cond.part(0, 4), seed=5)
    assert x.shape == (2, 6, 4, *GRID)
    assert torch.equal(x[:, :, 0], FIRST)
    x, state = made.step(state, cond=cond.part(4, 7))
    assert x.shape == (2, 6, 3, *GRID)
    assert state.frame == 7


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_every_number_is_looked_at(bad: float) -> None:
    """The last of many too, in any type; those of keys do not count."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parts = [torch.randn(n, 1, device=device) for n in (1, 70_000, 3)]
    memory = Memory(S=parts[0], z=parts[1], cam_S=parts[2], conv=None, cam_conv=None)  # type: ignore[arg-type]
    keys = Keys(**dict.fromkeys(("k", "v", "cam_k", "cam_v"), torch.full((1,), bad, device=device)))
    x = torch.full((5,), 3e38, device=device), torch.zeros(7, device=device, dtype=torch.bfloat16)
    assert bool(all_finite(*x, memory, keys))
    for broken in (*x, *parts):
        before = broken[-1].clone()
        broken[-1] = bad
        assert not bool(all_finite(*x, memory, keys))
        broken[-1] = before
    assert bool(all_finite(*x, memory, keys))


def test_a_state_resumes_bit_for_bit_and_is_not_spent() -> None:
    made, cond = generator(), flight(5)
    _, first = made.start(FIRST, text=WORDS, cond=cond.part(0, 1), seed=5)
    a, second = made.step(first, cond=cond.part(1, 2))
    b, _ = made.step(second, cond=cond.part(2, 3))
    again, other = generator().step(first, cond=cond.part(1, 2))
    assert torch.equal(a, again)
    assert torch.equal(b, generator().step(other, cond=cond.part(2, 3))[0])
    assert not torch.equal(a, generator().step(replace(first, seed=6), cond=cond.part(1, 2))[0])


def test_the_chunk_loop_is_euler_from_the_frozen_past() -> None:
    """Against the loop written out."""
    made, cond = generator(torch.float64), flight(3)
    _, state = made.start(FIRST.double(), text=WORDS, cond=cond.part(0, 1), seed=5)
    got, after = made.step(state, cond=cond.part(1, 2))
    x = chunk_noise((2, 6, 1, *GRID), seed=5, chunk=1).double()
    given = dict(text=state.text, text_mask=None, cond=cond.part(1, 2), past=state.blocks)
    with torch.inference_mode():
        for level, target in pairwise((*SMALL.levels, 0.0)):
            flow, _ = made.model(x, timestep=torch.full((2, 1), round(1000 * level)), **given)
            x = x + (target - level) * flow
        _, blocks = made.model(x, timestep=torch.zeros(2, 1), **given)
    assert distance(got, x) < 1e-6  # the loop keeps latents in fp32
    assert distance(after.blocks[0].mixer.S, blocks[0].mixer.S) < 1e-6


def test_what_is_not_finite_does_not_become_a_state() -> None:
    made, cond = generator(), flight(3)
    _, state = made.start(FIRST, text=WORDS, cond=cond.part(0, 1), seed=5)
    with pytest.raises(NotFinite, match="chunk 1 is not finite"):
        made.step(state, cond=cond.part(1, 2), noise=torch.full((2, 6, 1, *GRID), torch.nan))
    made.step(state, cond=cond.part(1, 2))


def test_the_camera_must_be_of_this_chunk() -> None:
    made, cond = generator(), flight(3)
    _, state = made.start(FIRST, text=WORDS, cond=cond.part(0, 1), seed=5)
    with pytest.raises(ValueError, match="latent frame 2 for a state that is at frame 1"):
        made.step(state, cond=cond.part(2, 3))


def test_noise_differs_by_seed_and_chunk() -> None:
    drawn = [chunk_noise((1000,), seed=s, chunk=c) for s in (0, 1, -1) for c in (0, 1)]
    assert torch.equal(drawn[0], chunk_noise((1000,), seed=0, chunk=0))
    for i, a in enumerate(drawn):
        assert abs(a.mean()) < 0.15
        assert all(abs((a * b).mean()) < 0.15 for b in drawn[:i])


def test_flow_arithmetic() -> None:
    clean, noise = torch.randn(2, 5).double(), torch.randn(2, 5).double()
    level = torch.tensor([[0.3], [0.8]]).double()
    x, flow = add_noise(clean, noise, level), flow_of(clean, noise)
    assert torch.allclose(clean_of(x, flow, level), clean)
    assert torch.allclose(euler(x, flow, level=level, target=0.1), add_noise(clean, noise, 0.1))
    assert list(steps((1.0, 0.6))) == [(1.0, 0.6), (0.6, 0.0)]
    assert [timestep(s) for s in (1.0, 0.96, 0.889, 0.727)] == [1000, 960, 889, 727]
    assert torch.allclose(shifted(torch.tensor([0.0, 0.5, 1.0]), 3.0), torch.tensor([0.0, 0.75, 1.0]))
