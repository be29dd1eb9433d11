"""Rotary embedding of the refiner over seconds, pixel rows and pixel columns.

A latent cell is where its middle is: latent frame 0 spans one pixel frame, so its middle is not in line with those
of the later frames, which span eight. Angles are spread over the whole width, not head by head.
Source: LTX-2, 2601.03233; positions are fractions of 20 s and 2048 pixels, mapped to ±π/2·θ^(0…1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.ltx2 import RefinerConfig


@dataclass(frozen=True, slots=True)
class Turn:
    """cos and sin of every row of every frame, then of the columns of all, [F·h + w, H, K/2], in fp32.

    A token adds up those of its row and its column: a pair of channels that turns by one of them has zeros in the other.
    """

    cos: Tensor
    sin: Tensor
    columns: int


def turns(
    config: RefinerConfig, *, frame: int, frames: int, grid: tuple[int, int], device: torch.device
) -> Turn:
    """Of latent frames [frame, frame + frames), tokens frame-major."""
    precise = torch.float64
    rounded = precise if config.exact_angles else torch.float32
    t = torch.arange(frame, frame + frames, device=device, dtype=precise)
    t = (_span(t, config.stride[0]) + config.causal_offset - config.stride[0]).clamp(min=0) / config.fps
    y, x = (
        _span(torch.arange(n, device=device, dtype=precise), s)
        for n, s in zip(grid, config.stride[1:], strict=True)
    )
    power = torch.linspace(0.0, 1.0, config.dim // 6, device=device, dtype=precise)
    speed = (config.theta**power * torch.pi / 2).to(torch.float32).to(rounded)
    angles = []
    for span, extent in zip((t, y, x), config.extent, strict=True):
        fraction = span.mean(-1).to(rounded) / t.new_full((), extent).to(rounded)  # no copy, no waiting
        angles.append((fraction * 2 - 1)[:, None] * speed)
    cos = _table(*(a.cos().float() for a in angles), config=config, still=1.0)
    sin = _table(*(a.sin().float() for a in angles), config=config, still=0.0)
    return Turn(cos, sin, columns=grid[1])


def _table(t: Tensor, y: Tensor, x: Tensor, *, config: RefinerConfig, still: float) -> Tensor:
    """Of frames, rows and columns by speed [n, D // 6]: axes innermost. still: of the pairs left over, which come first."""
    where = (len(t), *y.shape)
    rows = torch.stack((t[:, None].expand(where), y.expand(where), y.new_zeros(where)), dim=-1).flatten(2)
    none = torch.zeros_like(x)
    columns = torch.stack((none, none, x), dim=-1).flatten(1)
    left = (config.dim // 2 - columns.shape[1], 0)
    both = torch.cat((F.pad(rows.flatten(0, 1), left, value=still), F.pad(columns, left)))
    return both.unflatten(1, (config.heads, -1))


def _span(index: Tensor, stride: int) -> Tensor:
    """First and last edge of cells, in pixels: [n, 2]."""
    return torch.stack((index, index + 1), dim=-1) * stride
