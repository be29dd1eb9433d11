"""What a kernel's case is, and the shapes that kernels are called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.config import MEMORY, POCKET, POCKET_CODEC, SANA_WM
from engine.ltx2 import LTX2_REFINER, LTX2_VAE
from engine.setup import Sizes

Call = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of what kernels are given: clips or flights, latent frames, grid, heads and their width, channels."""

    clips: int
    frames: int
    grid: tuple[int, int]
    heads: int
    width: int

    @property
    def tokens(self) -> int:
        """Per frame."""
        return self.grid[0] * self.grid[1]

    @property
    def dim(self) -> int:
        return self.heads * self.width


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kernel."""

    name: str
    shape: Shape
    inputs: Callable[[Shape, torch.device, torch.dtype], dict[str, Any]]
    kernel: Call  # takes the inputs by name
    twin: Call
    backward: bool = False  # time the gradients of all floating inputs too


TRAINING = Shape(
    clips=64, frames=13, grid=POCKET_CODEC.grid, heads=POCKET.heads, width=POCKET.head_dim
)  # clips of a step of `explorer train world`
STREAM = Shape(
    clips=1, frames=SANA_WM.chunk, grid=Sizes().grid, heads=SANA_WM.heads, width=SANA_WM.head_dim
)  # a chunk of sana-wm
LEVEL = Shape(
    clips=1,
    frames=SANA_WM.chunk * LTX2_VAE.stride[0],
    grid=(Sizes().height // LTX2_VAE.patch, Sizes().width // LTX2_VAE.patch),
    heads=1,
    width=LTX2_VAE.decoder_widths[-1] // 2,
)  # a chunk of sana-wm in the last and largest level of its decoder
VIEWS = Shape(
    clips=1, frames=1 + MEMORY.chosen, grid=(POCKET_CODEC.height, POCKET_CODEC.width), heads=1, width=1
)  # pictures that a chunk of pocket recalls, pixel by pixel
REFINED = Shape(
    clips=1,
    frames=LTX2_REFINER.block,
    grid=Sizes().grid,
    heads=LTX2_REFINER.heads,
    width=LTX2_REFINER.head_dim,
)  # a block of the refiner
SINK = replace(REFINED, frames=LTX2_REFINER.sink)  # what its blocks see first of all
APART = Shape(
    clips=1, frames=1, grid=(1, 80), heads=LTX2_REFINER.heads, width=LTX2_REFINER.head_dim
)  # its queries that would begin another wave
WORDS = Shape(
    clips=1, frames=1, grid=(1, SANA_WM.caption_tokens), heads=SANA_WM.heads, width=SANA_WM.head_dim
)  # of a prompt, as sana-wm reads them
