"""Noise levels and flow-matching arithmetic. Level 1 is noise, 0 is clean; flow = noise - clean. Pure.

Source: rectified flow as SANA-WM uses it, x_level = (1 - level)·clean + level·noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor


def steps(levels: tuple[float, ...]) -> Iterator[tuple[float, float]]:
    """Pairs (level, next level); the last step ends at 0."""
    return pairwise((*levels, 0.0))


def timestep(level: float) -> float:
    """What the model is told of a noise level: 0…1000. Rounded, because the model truncates and 1000·0.727 may be 726.99…"""
    return round(1000.0 * level, 4)


def add_noise(clean: Tensor, noise: Tensor, level: Tensor | float) -> Tensor:
    """level broadcasts against the latents."""
    return clean + (noise - clean) * level


def flow_of(clean: Tensor, noise: Tensor) -> Tensor:
    """What the model is trained to predict."""
    return noise - clean


def euler(x: Tensor, flow: Tensor, *, level: Tensor | float, target: Tensor | float) -> Tensor:
    """Move x from one noise level to another along the flow."""
    return x + flow * (target - level)


def clean_of(x: Tensor, flow: Tensor, level: Tensor | float) -> Tensor:
    """The clean latent that x and its flow point to."""
    return x - flow * level


def shifted(level: Tensor, shift: float) -> Tensor:
    """Move levels towards noise: shift·s / (1 + (shift - 1)·s). Source: Esser et al. 2024, arXiv 2403.03206, eq. 23."""
    return shift * level / (1 + (shift - 1) * level)


def chunk_noise(shape: tuple[int, ...], *, seed: int, chunk: int) -> Tensor:
    """Noise of one chunk, fp32 on the CPU: decided by seed and chunk index alone, so that a resumed flight repeats."""
    generator = torch.Generator().manual_seed(_mixed(_mixed(seed) ^ chunk))
    return torch.randn(shape, generator=generator)


def _mixed(x: int) -> int:
    """Spread neighbouring integers over 64 bits (splitmix64's finaliser, Steele et al. 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)
