"""Offline decoding of long or large clips in overlapping tiles of time and space, cross-faded.

For an autoencoder that looks ahead: a causal one streams exactly (`Vae.decode`). Finished frames are given away as
soon as no later tile reaches them, so that memory does not grow with the clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from engine.vae import Vae

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Sizes in pixels and pixel frames; what a tile is longer than its step, it shares with the next."""

    frames: int = 96
    frame_step: int = 64
    side: int = 512
    side_step: int = 448

    def __post_init__(self) -> None:
        for size, step in ((self.frames, self.frame_step), (self.side, self.side_step)):
            if not 0 < step <= size:
                raise ValueError(
                    f"tiles of {size} at steps of {step}: a step is at least 1 and at most the tile"
                )


RELEASED_TILING = Tiling()
SMALL_TILING = Tiling(frames=16, frame_step=8, side=128, side_step=64)  # after running out of memory


def decode_tiled(vae: Vae, latents: Tensor, *, tiling: Tiling = RELEASED_TILING) -> Iterator[Tensor]:
    """Frames of a whole clip, some at a time: latents [B, C, 1 + n, h, w] -> pieces [B, 3, P, Y, X] fp32 in order."""
    stride = vae.config.stride[0]
    times = spans(latents.shape[2] - 1, tiling.frames // stride, tiling.frame_step // stride)
    pixels = [(stride * a, stride * b + 1) for a, b in times]
    fades = blend(pixels, ramp=tiling.frames - tiling.frame_step, like=latents)
    starts = [a for a, _ in pixels[1:]] + [pixels[-1][1]]
    ahead: Tensor | None = None  # frames that the next tile adds to
    for (a, b), (begin, _), fade, until in zip(times, pixels, fades, starts, strict=True):
        frames = _plane(vae, latents[:, :, a : b + 1], tiling) * fade[:, None, None]
        if ahead is not None:
            frames[:, :, : ahead.shape[2]] += ahead
        yield frames[:, :, : until - begin]
        ahead = frames[:, :, until - begin :].clone()


def _plane(vae: Vae, latents: Tensor, tiling: Tiling) -> Tensor:
    """One piece of time, tile by tile: [B, C, F, h, w] -> [B, 3, P, Y, X] fp32."""
    axes = []
    for size, stride in zip(latents.shape[3:], vae.config.stride[1:], strict=True):
        cells = spans(size, tiling.side // stride, tiling.side_step // stride)
        pixels = [(stride * a, stride * b) for a, b in cells]
        fades = blend(pixels, ramp=tiling.side - tiling.side_step, like=latents)
        axes.append(list(zip(cells, pixels, fades, strict=True)))
    out: Tensor | None = None
    for ((a, b), y, fy), ((c, d), x, fx) in product(*axes):
        tile = vae.decode_clip(latents[:, :, :, a:b, c:d]).float()
        if out is None:
            out = tile.new_zeros(*tile.shape[:3], axes[0][-1][1][1], axes[1][-1][1][1])
        out[:, :, :, slice(*y), slice(*x)] += tile * fy[:, None] * fx
    assert out is not None
    return out


def spans(size: int, tile: int, step: int) -> list[Span]:
    """Tiles of equal length that cover [0, size), at most `step` apart and evenly: no sliver is left at the end."""
    if size <= tile:
        return [(0, size)]
    if tile < 1 or step < 1:
        raise ValueError("tiles and their steps must hold at least one latent")
    last = math.ceil((size - tile) / step)
    return [(a, a + tile) for a in (round(i * (size - tile) / last) for i in range(last + 1))]


def blend(spans: Sequence[Span], *, ramp: int, like: Tensor) -> list[Tensor]:
    """Weights of tiles over their spans, fp32: they rise and fall over `ramp`, and sum to one everywhere."""
    total = torch.zeros(spans[-1][1], device=like.device)
    raw = []
    for a, b in spans:
        place = torch.arange(1, b - a + 1, device=like.device, dtype=torch.float32)
        raw.append((torch.minimum(place, place.flip(0)) / (ramp + 1)).clamp(max=1))
        total[a:b] += raw[-1]
    return [w / total[a:b] for w, (a, b) in zip(raw, spans, strict=True)]
