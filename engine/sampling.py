"""How the releases that are not distilled denoise a clip: what every pass is told, as plain numbers. Pure.

The bidirectional release moves the whole clip down one ladder of noise levels. The chunk-causal release cuts it into
chunks; each goes down the same ladder, and starts before the one before it has arrived: a pass sees a prefix of the
clip whose chunks stand at different levels. A clip of one chunk is the bidirectional case.

Sources: `flow_euler_ltx` and `chunk_flow_euler` of the SANA-WM releases; the ladder is that of diffusers'
FlowMatchEulerDiscreteScheduler, in whose precision (float32 where it has float32) it is computed, because the model
is told the timestep without its fraction and one rounding can decide which number that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from engine.config import ModelConfig
from engine.schedule import shifted

FINEST = 1000  # noise levels in training: more steps than these would repeat some


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a clip is denoised. Defaults are those of the bidirectional and the chunk-causal release."""

    steps: int = 60
    guidance: float = 5.0  # how far past the negative prompt towards the prompt; 1 or less: the prompt alone
    shift: float = 9.8  # how much longer to stay at high noise
    lag: float | None = (
        None  # share of the steps after which the next chunk starts; None: 1 / number of chunks
    )

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= FINEST:
            raise ValueError(f"steps={self.steps}: use 1 to {FINEST}")
        if not 0.01 <= self.shift <= 100:
            raise ValueError(f"shift={self.shift}: use 0.01 to 100")
        if not -100 <= self.guidance <= 100:
            raise ValueError(f"guidance={self.guidance}: use at most 100, or 1 for none")
        if self.lag is not None and not 0 <= self.lag <= 1:
            raise ValueError(f"lag={self.lag}: use 0 (all chunks together) to 1 (one after the other)")

    @property
    def guided(self) -> bool:
        return self.guidance > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A noise level as the ladder visits it."""

    timestep: float  # what the model is told, 0…1000
    level: float  # timestep / 1000
    target: float  # the level after it


ARRIVED = Rung(timestep=0.0, level=0.0, target=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass over the chunks that have started: finished ones first, then those under way."""

    chunks: tuple[int, ...]  # latent frames of each
    rungs: tuple[Rung, ...]  # where each stands

    @property
    def finished(self) -> int:
        """Chunks."""
        return sum(rung is ARRIVED for rung in self.rungs)


def ladder(sampling: Sampling) -> tuple[Rung, ...]:
    """The noise levels of one chunk, falling.

    The scheduler's smallest level is already shifted when the shift is applied to all: with 60 steps and a shift of
    9.8 the last level is 0.0877, not 0.142.
    """
    highest, lowest = (1000 * x for x in shifted(torch.tensor([1.0, 1.0 / FINEST]), sampling.shift).tolist())
    even = torch.from_numpy(np.linspace(highest, lowest, sampling.steps) / 1000)
    levels = shifted(even, sampling.shift).float()
    timesteps = levels * 1000
    told, reached, all_levels = timesteps.tolist(), (timesteps / 1000).tolist(), levels.tolist()
    return tuple(
        Rung(timestep=t, level=level, target=_below(level, all_levels))
        for t, level in zip(told, reached, strict=True)
    )


def _below(level: float, levels: list[float]) -> float:
    """The largest of the levels below this one; 0 where there is none."""
    return max((other for other in levels if other < level - 1e-6), default=0.0)


def clip_chunks(frames: int, config: ModelConfig) -> tuple[int, ...]:
    """Latent frames per chunk of a clip, as the chunk-causal release cuts it: the last chunk takes what is left over.

    A stream gives that to its first chunk instead (`engine.window.chunk_lengths`).
    """
    if not config.causal or frames <= config.first_chunk:
        return (frames,)
    starts = [0, *range(config.first_chunk, frames, config.chunk)]
    if frames - starts[-1] < config.chunk:
        starts.pop()
    return tuple(b - a for a, b in pairwise([*starts, frames]))


def passes(frames: int, *, config: ModelConfig, sampling: Sampling) -> tuple[Pass, ...]:
    """All passes over a clip of `frames` latent frames."""
    chunks, rungs = clip_chunks(frames, config), ladder(sampling)
    lag = 1 / len(chunks) if sampling.lag is None else sampling.lag
    starts = [int(i * lag * sampling.steps) for i in range(len(chunks))]
    plan = []
    for now in range(starts[-1] + sampling.steps):
        ages = [now - start for start in starts if start <= now]
        stand = tuple(rungs[age] if age < sampling.steps else ARRIVED for age in ages)
        plan.append(Pass(chunks=chunks[: len(stand)], rungs=stand))
    return tuple(plan)
