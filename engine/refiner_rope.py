"""Rotary embedding of the refiner over seconds, pixel rows and pixel columns.

A latent cell is where its middle is: latent frame 0 spans one pixel frame, so its middle is not in line with those
of the later frames, which span eight. Angles are spread over the whole width, not head by head.
Source: LTX-2, 2601.03233; positions are fractions of 20 s and 2048 pixels, mapped to ±π/2·θ^(0…1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.ltx2 import RefinerConfig
from kernels.norm_turn import Cells


@dataclass(frozen=True, slots=True)
class Turn:
    """cos and sin by place on an axis and speed, [F + h + w, D // 6], as the kernels read them. Fp32, as released."""

    cos: Tensor
    sin: Tensor
    cells: Cells


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
    fraction = torch.cat(
        [
            span.mean(-1).to(rounded) / t.new_full((), extent).to(rounded)  # no copy, no waiting
            for span, extent in zip((t, y, x), config.extent, strict=True)
        ]
    )
    power = torch.linspace(0.0, 1.0, config.dim // 6, device=device, dtype=precise)
    speed = (config.theta**power * torch.pi / 2).to(torch.float32).to(rounded)
    angle = (fraction * 2 - 1)[:, None] * speed
    return Turn(angle.cos().float(), angle.sin().float(), (frames, *grid))


def _span(index: Tensor, stride: int) -> Tensor:
    """First and last edge of cells, in pixels: [n, 2]."""
    return torch.stack((index, index + 1), dim=-1) * stride
