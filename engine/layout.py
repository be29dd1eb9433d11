"""Where and when the tokens of one call are: what every block of the model shares, worked out once per call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from engine.conditioning import Conditioning
from engine.config import ModelConfig
from engine.rope import Rotary, rotary_tables
from engine.ucpe import RayFrames, ray_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Tokens are frame-major: n = frame·h·w + row·w + column."""

    chunks: tuple[int, ...]  # latent frames per chunk
    grid: tuple[int, int]
    rotary: Rotary
    rays: RayFrames
    ahead: tuple[Tensor, ...]  # [F, 1, 1] for 1, 2, … frames ahead: 1 where that frame is in the same chunk
    behind: tuple[Tensor, ...]  # the same backwards
    visible: Tensor | None  # [T, cached + T] bool, for softmax blocks
    band: int  # where `visible` is a band of equal width on a GPU: frames in it; else 0

    @property
    def frames(self) -> int:
        return sum(self.chunks)

    @property
    def tokens(self) -> int:
        """Per frame."""
        return self.grid[0] * self.grid[1]


def layout(
    cond: Conditioning,
    *,
    chunks: tuple[int, ...],
    visible: Tensor | None,
    config: ModelConfig,
    dtype: torch.dtype,
    at: Tensor | None = None,
) -> Layout:
    """visible: [F, cached + F] frames.  dtype: of the angles and masks, fp32 or fp64.  at: as in `WorldModel.given`."""
    grid = (cond.plucker.shape[-2], cond.plucker.shape[-1])
    device, tokens, frames = cond.P.device, grid[0] * grid[1], sum(chunks)
    rotary, slim = rotary_tables(
        frame=cond.frame if at is None else at,
        frames=frames,
        grid=grid,
        head_dim=config.head_dim,
        device=device,
        dtype=dtype,
    )
    P, P_inv = cond.P.to(dtype), cond.P_inv.to(dtype)
    reanchor = None if cond.reanchor is None else cond.reanchor.to(dtype)
    same = partial(_same_chunk, chunks=chunks, device=device, dtype=dtype)
    reach = range(1, config.conv_taps) if max(chunks) > 1 else ()
    band = window_band(frames, visible, config) if device.type == "cuda" else 0
    if visible is not None:
        visible = visible.repeat_interleave(tokens, 0, output_size=frames * tokens)
        visible = visible.repeat_interleave(tokens, 1, output_size=visible.shape[1] * tokens)
    return Layout(
        chunks=chunks,
        grid=grid,
        rotary=rotary,
        rays=ray_frames(P=P, P_inv=P_inv, reanchor=reanchor, rotary=slim),
        ahead=tuple(same(j) for j in reach),
        behind=tuple(same(-j) for j in range(1, config.conv_taps)),
        visible=visible,
        band=band,
    )


def window_band(frames: int, visible: Tensor | None, config: ModelConfig) -> int:
    """How many frames each frame of a clip of single frames sees, itself included; 0: no such number.

    visible: [F, cached + F]; nothing may be cached.
    """
    band = config.window + 1
    alone = visible is not None and visible.shape[1] == frames and config.lone
    return band if alone and not config.sink and 1 < band < frames else 0


def _same_chunk(shift: int, *, chunks: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    if len(chunks) == 1:  # without a list, which a GPU would have to wait for
        place = torch.arange(chunks[0], device=device) + shift
        return ((place >= 0) & (place < chunks[0])).to(dtype)[:, None, None]
    chunk = [i for i, length in enumerate(chunks) for _ in range(length)]
    frames = len(chunk)
    same = [0 <= f + shift < frames and chunk[f + shift] == chunk[f] for f in range(frames)]
    return torch.tensor(same, device=device, dtype=dtype)[:, None, None]
