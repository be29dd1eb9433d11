"""Training clips from procedural worlds, rendered where they are used: pictures, depth, poses, words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from engine.words import words_of
from engine.worlds.parameters import SEED_LIMIT, make_params
from engine.worlds.renderer import Renderer

HELD_OUT = tuple(range(SEED_LIMIT - 64, SEED_LIMIT))  # worlds that no training ever sees
TRAINING_SEEDS = SEED_LIMIT - 4096  # training draws below this


class Clips(TypedDict):
    """N clips of P frames, all on the renderer's device."""

    frames: Tensor  # uint8 [N, P, Y, X, 3]
    inverse_depth: Tensor  # fp16 [N, P, Y, X], 1/m, sky 0
    poses: Tensor  # fp32 [N, P, 4, 4] camera-to-world
    intrinsics: Tensor  # fp32 [N, P, 4] pixels
    words: Tensor  # int64 [N, 8]


def training_seeds(step: int, count: int, *, rank: int = 0, ranks: int = 1, run: int = 0) -> list[int]:
    """World seeds of draw `step`: ranks never share one, and none repeats before all are used up.

    run: shifts the whole sequence, so that two trainings see different worlds.
    """
    if not 0 <= rank < ranks:
        raise ValueError(f"rank {rank} must lie in 0 … {ranks - 1}")
    start = run * 1_000_003 + (step * ranks + rank) * count
    return [(start + i) % TRAINING_SEEDS for i in range(count)]


def clip(
    renderer: Renderer,
    seeds: Sequence[int],
    frames: int,
    *,
    per_world: int = 1,
    player: int = 0,
    width: int = 256,
    height: int = 160,
    samples: int = 4,
) -> Clips:
    """Render `per_world` flights of `frames` frames at 16 fps through the world of each seed.

    N = len(seeds) * per_world, the flights of one world side by side. player: gives the same worlds other flights.
    Memory beside the result: 5.4 MB a world, and about 0.3 GB while rendering.
    """
    params = np.stack([make_params(seed) for seed in seeds])
    worlds = renderer.bake(params)
    index = torch.arange(len(seeds), device=renderer.device).repeat_interleave(per_world)
    players = [(seed * 97 + player * 7919 + i * 31 + 1) % 2**32 for seed in seeds for i in range(per_world)]
    poses, intrinsics = renderer.fly(
        worlds, index=index, seeds=players, frames=frames, width=width, height=height
    )
    rgb, inverse = renderer.render(
        worlds,
        index=index.repeat_interleave(frames),
        poses=poses.flatten(0, 1),
        intrinsics=intrinsics.flatten(0, 1),
        width=width,
        height=height,
        samples=samples,
    )
    words = torch.from_numpy(np.stack([words_of(row) for row in params])).to(renderer.device)
    return Clips(
        frames=rgb.unflatten(0, (-1, frames)),
        inverse_depth=inverse.unflatten(0, (-1, frames)),
        poses=poses,
        intrinsics=intrinsics,
        words=words.repeat_interleave(per_world, 0),
    )
