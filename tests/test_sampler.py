"""Clips at once: against the dense form written out, interrupted and resumed, and against diffusers' whole pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.finite import NotFinite
from engine.model import WorldModel
from engine.sampler import Clip, Sampler, SamplerState
from engine.sampling import Sampling, clip_chunks, ladder
from engine.text import Embedding
from tests.flights import CHUNKY, GRID, distance, flight, random_model

WHOLE = replace(CHUNKY, causal=False)
TEACHER = replace(CHUNKY, window=-1)
FEW = Sampling(steps=4, guidance=3.0)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clip(frames: int, config: object = TEACHER) -> Clip:
    masks = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool(), torch.tensor([[1, 0, 0]]).bool().expand(2, 3)
    return Clip(
        first=normal(1, 2, 6, *GRID),
        cond=flight(frames, config),
        prompt=Embedding(states=normal(2, 2, 3, 8), mask=masks[0]),
        negative=Embedding(states=normal(3, 2, 3, 8), mask=masks[1]),
    )


def last(states: Iterator[SamplerState]) -> SamplerState:
    *_, state = states
    return state


@torch.no_grad()
def written_out(model: WorldModel, given: Clip, x: Tensor, sampling: Sampling) -> Tensor:
    """As the release does it: dense passes over all chunks that have started, both texts in one batch."""
    lengths, rungs, two = (
        clip_chunks(given.frames, model.config),
        ladder(sampling),
        lambda t: torch.cat((t, t)),
    )
    starts = [int(i / len(lengths) * sampling.steps) for i in range(len(lengths))]
    text = model.embed_text(torch.cat((given.negative.states, given.prompt.states)).to(x.dtype))
    mask = torch.cat((given.negative.mask, given.prompt.mask))
    for now in range(starts[-1] + sampling.steps):
        active = tuple(n for n, start in zip(lengths, starts, strict=True) if start <= now)
        frames = sum(active)
        rows = []
        for n, start in zip(active, starts, strict=False):
            rung = rungs[now - start] if now - start < sampling.steps else None
            rows += [(0.0, 0.0) if rung is None else (rung.timestep, rung.target)] * n
        rows[0] = (0.0, 0.0)
        told = torch.tensor([t for t, _ in rows])
        cond = given.cond.part(0, frames)
        cond = replace(cond, P=two(cond.P), P_inv=two(cond.P_inv), plucker=two(cond.plucker))
        flow, _ = model(
            two(x[:, :, :frames]),
            timestep=told.expand(4, -1),
            text=text,
            text_mask=mask,
            cond=cond,
            chunks=active,
        )
        negative, positive = flow.chunk(2)
        flow = negative + sampling.guidance * (positive - negative)
        by = told / 1000 - torch.tensor([target for _, target in rows])
        precise = x[:, :, :frames].to(torch.promote_types(x.dtype, torch.float32))
        moved = precise - by[:, None, None] * flow
        x = torch.cat((moved.to(x.dtype), x[:, :, frames:]), dim=2)
    return x


@pytest.mark.parametrize(
    ("config", "frames"),
    [(WHOLE, 5), (TEACHER, 10), (TEACHER, 9), (TEACHER, 3)],
    ids=["whole", "even", "odd", "one"],
)
def test_passes_are_those_of_the_release(config: object, frames: int) -> None:
    sampler, given = Sampler(random_model(config), FEW), clip(frames, config)
    start = sampler.start(given, seed=4)
    states = list(sampler.run(given, start))
    assert len(states) == len(sampler.plan(given))
    assert [s.done for s in states] == list(range(1, len(states) + 1))
    want = written_out(sampler.model, given, start.latents, FEW)
    assert distance(states[-1].latents, want) < 1e-5  # levels are those of the release, in fp32
    assert all(torch.equal(s.latents[:, :, 0], given.first) for s in states)


@pytest.mark.parametrize(("config", "frames"), [(WHOLE, 3), (TEACHER, 10)], ids=["whole", "chunks"])
def test_an_interrupted_clip_goes_on_bit_for_bit(config: object, frames: int) -> None:
    sampler, given = Sampler(random_model(config, dtype=torch.float32), FEW), clip(frames, config)
    states = [sampler.start(given, seed=4), *sampler.run(given, sampler.start(given, seed=4))]
    for at in (1, len(states) // 2, len(states) - 2):
        again = Sampler(random_model(config, dtype=torch.float32), FEW)
        assert torch.equal(last(again.run(given, states[at])).latents, states[-1].latents)
    assert list(sampler.run(given, states[-1])) == []


def test_without_guidance_the_negative_prompt_is_not_read() -> None:
    sampler, given = Sampler(random_model(WHOLE), replace(FEW, guidance=1.0)), clip(3, WHOLE)
    alone = replace(given, negative=None)
    start = sampler.start(given, seed=4)
    assert torch.equal(last(sampler.run(given, start)).latents, last(sampler.run(alone, start)).latents)
    guided = Sampler(sampler.model, FEW)
    same = replace(given, negative=given.prompt)
    assert distance(last(guided.run(same, start)).latents, last(sampler.run(given, start)).latents) < 1e-12
    with pytest.raises(ValueError, match=r"guidance=3.0 needs a negative prompt"):
        next(guided.run(alone, start))


def test_later_chunks_do_not_change_earlier_ones() -> None:
    sampler = Sampler(random_model(TEACHER), replace(FEW, lag=0.5))
    long, short = clip(10), replace(clip(10), cond=flight(10, TEACHER).part(0, 7))
    start = sampler.start(long, seed=4)
    a = last(sampler.run(long, start)).latents
    b = last(sampler.run(short, replace(start, latents=start.latents[:, :, :7]))).latents
    assert distance(a[:, :, :7], b) < 1e-12


def test_a_model_with_memory_channels_samples() -> None:
    config = replace(WHOLE, memory_channels=5)
    sampler, given = Sampler(random_model(config), FEW), clip(3, config)
    out = last(sampler.run(given, sampler.start(given))).latents
    assert out.shape == (2, 6, 3, *GRID)


def test_what_is_not_finite_stops_the_clip() -> None:
    sampler, given = Sampler(random_model(WHOLE), FEW), clip(3, WHOLE)
    broken = replace(given, prompt=replace(given.prompt, states=given.prompt.states * torch.nan))
    with pytest.raises(NotFinite, match="pass 1 of the clip"):
        next(sampler.run(broken, sampler.start(given)))
    with pytest.raises(ValueError, match="3 latent frames for a camera of 4"):
        next(sampler.run(clip(4, WHOLE), sampler.start(given)))
    with pytest.raises(ValueError, match="noise of shape"):
        sampler.start(given, noise=torch.zeros(2, 6, 4, *GRID))


def test_in_bfloat16_levels_stay_exact_and_latents_are_rounded_after_every_pass() -> None:
    """Timesteps as the ladder has them; no further from fp64 than twice what the release's form is in bfloat16."""
    given, exact = clip(5, WHOLE), Sampler(random_model(WHOLE), FEW)
    sampler = Sampler(random_model(WHOLE, dtype=torch.bfloat16), FEW)
    told: list[Tensor] = []
    sampler.model.t_embedder.register_forward_pre_hook(lambda _, args: told.append(args[0]))
    start = sampler.start(given, seed=4)
    states = list(sampler.run(given, start))
    assert all(s.latents.dtype == torch.bfloat16 for s in states)
    assert [t[0, 1].item() for t in told[::2]] == [rung.timestep for rung in ladder(FEW)]
    assert not any(t[:, 0].any() for t in told)
    want = last(exact.run(given, replace(start, latents=start.latents.double()))).latents
    theirs = written_out(sampler.model, given, start.latents, FEW)
    assert distance(states[-1].latents, want) <= 2 * distance(theirs, want)
