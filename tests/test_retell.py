"""Another prompt in a running stream: nothing but the text of later chunks changes, and all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.generator import Generator
from engine.model import WorldModel
from engine.state import BlockState, StreamState
from engine.window import chunk_lengths
from tests.flights import CHUNKY, GRID, SMALL, distance, flight, inputs, random_model
from tests.test_model import tensors

FRAMES, LATE = (
    10,
    7,
)  # latent frames, and the first one under the other prompt: chunk 2 of 4, 3, 3, or 7 of singles
MASK = torch.tensor([[True, True, False], [True, False, False]])
CONFIGS = pytest.mark.parametrize(
    "config", [SMALL, CHUNKY, replace(SMALL, memory_channels=5)], ids=["pocket", "chunks", "memory"]
)


def words(config: ModelConfig, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if config.words:
        return torch.randint(1, config.words, (2, 3), generator=generator)
    return torch.randn(2, 3, config.caption_dim, generator=generator, dtype=torch.float64)


def begun(made: Generator, config: ModelConfig) -> StreamState:
    first = torch.randn(2, 6, *GRID, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    cond = flight(FRAMES, config).part(0, chunk_lengths(FRAMES, config)[0])
    return made.start(first, text=words(config, 1), cond=cond, seed=5)[1]


@CONFIGS
def test_the_same_prompt_changes_nothing(config: ModelConfig) -> None:
    made = Generator(random_model(config))
    state = begun(made, config)
    same = made.retell(state, text=words(config, 1))
    assert all(
        torch.equal(a, b)
        for x, y in zip(state.blocks, same.blocks, strict=True)
        for a, b in zip(tensors(x), tensors(y), strict=True)
    )
    assert torch.equal(state.text, same.text)
    assert same.text_mask is state.text_mask is None
    cond = flight(FRAMES, config).part(state.frame, state.frame + config.chunk)
    a, b = made.step(state, cond=cond), made.step(same, cond=cond)
    assert torch.equal(a[0], b[0])


@CONFIGS
def test_an_old_state_keeps_its_prompt(config: ModelConfig) -> None:
    made = Generator(random_model(config))
    state = begun(made, config)
    cond = flight(FRAMES, config).part(state.frame, state.frame + config.chunk)
    before, _ = made.step(state, cond=cond)
    other = made.retell(state, text=words(config, 2), text_mask=MASK)
    after, _ = made.step(other, cond=cond)
    assert torch.equal(made.step(state, cond=cond)[0], before)
    assert distance(after, before) > 1e-6
    back, _ = made.step(made.retell(other, text=words(config, 1)), cond=cond)
    assert torch.equal(back, before)


def test_each_flight_needs_a_prompt() -> None:
    made = Generator(random_model(SMALL))
    with pytest.raises(ValueError, match="1 prompts for a state of 2 flights"):
        made.retell(begun(made, SMALL), text=words(SMALL, 2)[:1])


@contextmanager
def switching(model: WorldModel, late: Tensor, mask: Tensor) -> Iterator[None]:
    """From latent frame LATE on, every block reads the other text: computed apart, and put in place of its answer."""
    with ExitStack() as stack:
        for block in model.blocks:

            def switch(part: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
                start = LATE * GRID[0] * GRID[1]
                other = part.forward(args[0][:, start:], part.keys(late), mask)
                return torch.cat((out[:, :start], other), dim=1)

            stack.callback(block.cross_attn.register_forward_hook(switch).remove)
        yield


@CONFIGS
@torch.no_grad()
def test_a_change_at_chunk_k_is_the_dense_run_whose_text_switches_there(config: ModelConfig) -> None:
    """Generated chunk by chunk with a change on the way; then all its latents at once, committed in one dense pass."""
    model = random_model(config)
    made, lengths, cond = Generator(model), chunk_lengths(FRAMES, config), flight(FRAMES, config)
    first = torch.randn(2, 6, *GRID, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    x, state = made.start(first, text=words(config, 1), cond=cond.part(0, lengths[0]), seed=5)
    parts = [x]
    for n in lengths[1:]:
        if state.frame == LATE:
            state = made.retell(state, text=words(config, 2), text_mask=MASK)
        x, state = made.step(state, cond=cond.part(state.frame, state.frame + n))
        parts.append(x)
    latents = torch.cat(parts, dim=2).double()
    blank = latents.new_zeros(2, config.memory_channels, FRAMES, *GRID)
    given = dict(
        timestep=torch.zeros(2, FRAMES), text=model.embed_text(words(config, 1)), text_mask=None, cond=cond
    )
    with switching(model, model.embed_text(words(config, 2)), MASK):
        _, dense = model(torch.cat((latents, blank), dim=1), chunks=lengths, **given)
    _, unchanged = model(torch.cat((latents, blank), dim=1), chunks=lengths, **given)
    assert furthest(state.blocks, dense) < 1e-12
    assert furthest(state.blocks, unchanged) > 1e-4


def furthest(a: tuple[BlockState, ...], b: tuple[BlockState, ...]) -> float:
    return max(
        distance(s, t) for x, y in zip(a, b, strict=True) for s, t in zip(tensors(x), tensors(y), strict=True)
    )


@CONFIGS
@torch.no_grad()
def test_flows_of_a_stream_are_those_of_the_dense_run(config: ModelConfig) -> None:
    """At any noise level, not only when committing."""
    model = random_model(config)
    given, lengths = inputs(model, FRAMES), chunk_lengths(FRAMES, config)
    late = model.embed_text(words(config, 2))
    with switching(model, late, MASK):
        dense, _ = model(**given, chunks=lengths)
    past, out, a = None, [], 0
    for n in lengths:
        text = dict(text=late, text_mask=MASK) if a >= LATE else dict(text=given["text"], text_mask=None)
        flow, past = model(
            given["x"][:, :, a : a + n],
            timestep=given["timestep"][:, a : a + n],
            cond=given["cond"].part(a, a + n),
            past=past,
            **text,
        )
        out.append(flow)
        a += n
    assert distance(torch.cat(out, dim=2), dense) < 1e-12
