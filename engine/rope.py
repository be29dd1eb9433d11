"""Rotary embedding over (frame, row, column), and its slice for the camera branch.

Source: SANA-WM; pairs are adjacent channels, theta 10000, positions are integers and the frame index is absolute.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

THETA = 10000.0


@dataclass(frozen=True, slots=True)
class Rotary:
    """cos and sin per token and pair of channels, [F, N, pairs]."""

    cos: Tensor
    sin: Tensor
    turn: Tensor | None  # cos + i·sin, where the CPU rotates


def axis_pairs(width: int) -> tuple[int, int, int]:
    """Pairs of channels that turn with frame, row and column, of `width` channels."""
    return width // 2 - 2 * (width // 6), width // 6, width // 6


def rotary_tables(
    *,
    frame: int | Tensor,
    frames: int,
    grid: tuple[int, int],
    head_dim: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Rotary, Rotary]:
    """Tables of a whole head, and of the second half of a head in the camera branch. frame: of the first; a tensor: [].

    The camera's table takes the slowest-indexed pairs of each axis from the main one, frequencies included.
    """
    places = (
        (torch.arange(frames, device=device, dtype=torch.float64) + frame)[:, None, None],
        torch.arange(grid[0], device=device, dtype=torch.float64)[None, :, None],
        torch.arange(grid[1], device=device, dtype=torch.float64)[None, None, :],
    )
    main, camera = [], []
    for place, pairs, few in zip(places, axis_pairs(head_dim), axis_pairs(head_dim // 2), strict=True):
        power = torch.arange(pairs, device=device, dtype=torch.float64) / pairs
        angle = (place[..., None] * THETA**-power).expand(frames, *grid, pairs).flatten(1, 2)
        main.append(angle)
        camera.append(angle[..., :few])
    return _table(torch.cat(main, -1), dtype), _table(torch.cat(camera, -1), dtype)


def rotate(x: Tensor, table: Rotary, *, back: bool = False) -> Tensor:
    """Turn each pair of adjacent channels of x [..., F, N, 2·pairs] by its angle, or back by it."""
    if table.turn is None or torch.compiler.is_compiling() or x.dtype != table.cos.dtype:
        return rotate_real(x, table, back=back)
    return rotate_complex(x, table.turn.conj() if back else table.turn)


def rotate_complex(x: Tensor, turn: Tensor) -> Tensor:
    """Pairs as complex numbers: one product, fastest on a CPU; compilers do not fuse complex numbers."""
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)


def rotate_real(x: Tensor, table: Rotary, *, back: bool) -> Tensor:
    """The same without complex numbers."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table.cos, -table.sin if back else table.sin
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


def _table(angle: Tensor, dtype: torch.dtype) -> Rotary:
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    return Rotary(cos, sin, torch.complex(cos, sin) if cos.device.type == "cpu" else None)
