"""The passes of one block of the refiner over its rooms: those that denoise, and the one that is remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from engine.refiner_model import RefinerModel
from engine.refiner_room import KV, Room
from engine.refiner_rope import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What all passes of a block are told."""

    at: Turn  # where its tokens are
    words: tuple[KV, ...]  # per layer
    mask: Tensor | None  # [B, 1, 1, L] bool, True: a word; None: all are


def denoised(
    model: RefinerModel, told: Told, rooms: Iterable[Room], latents: Tensor, noise: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One step after the other: what went in, the clean block it predicts, and what comes out.

    latents, noise: [B, C, F, h, w]; noise in the dtype of the model.
    """
    frames, grid, sigmas = latents.shape[2], (latents.shape[3], latents.shape[4]), model.config.sigmas
    first = sigmas[0]
    x = ((1 - first) * latents.float() + first * noise.float()).to(noise.dtype)
    for sigma, target in pairwise((*sigmas, 0.0)):
        flow = model(tokens(x), sigma=sigma, at=told.at, rooms=rooms, words=told.words, mask=told.mask)
        clean = x.float() - sigma * latents_of(flow, frames, grid).float()
        clean = clean.to(noise.dtype).float()  # the release rounds here
        moved = ((target / sigma) * x.float() + (1 - target / sigma) * clean).to(noise.dtype)
        yield x, clean, moved.float()
        x = moved


def remembered(
    model: RefinerModel,
    told: Told,
    rooms: Iterable[Room],
    refined: Tensor,
    *,
    dtype: torch.dtype,
    keep: Callable[[Room], None] = lambda room: None,
) -> None:
    """Leave keys and values of clean latents [B, C, F, h, w] in the rooms; `keep` is handed each as soon as they are there."""
    x = tokens(refined).to(dtype)
    model.remember(x, at=told.at, rooms=rooms, words=told.words, mask=told.mask, keep=keep)


def tokens(x: Tensor) -> Tensor:
    """[B, C, F, h, w] -> [B, T, C], frame-major."""
    return x.flatten(2).mT


def latents_of(x: Tensor, frames: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `tokens`."""
    return x.mT.unflatten(2, (frames, *grid))
