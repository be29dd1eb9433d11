"""Procedural worlds on CPU or GPU: build from seeds, fly a player through them, render pictures with depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.worlds.build import library
from engine.worlds.parameters import PARAM_COUNT, make_params

PERIOD = 384.0  # metres after which a world repeats along x and z
MAP = 512  # texels per period
CELLS = 64 * 64 * 12
CANDIDATES, START_FLOATS = 16, 8
SLICE = 1 << 24  # pixels rendered at a time: bounds the float32 depth that is held beside the result


@dataclass(frozen=True, slots=True, kw_only=True)
class Worlds:
    """N baked worlds on one device; about 5.4 MB each."""

    params: Tensor  # [N, PARAM_COUNT] fp32
    height: Tensor  # [N, 512, 512] fp32, metres, up is positive
    surface: Tensor  # [N, 512, 512, 4] fp32: normal x, z, sunlight, openness
    cells: Tensor  # [N, 64 * 64 * 12] fp32: objects

    def __len__(self) -> int:
        return self.params.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.params, self.height, self.surface, self.cells


class Renderer:
    """One C++/CUDA source, compiled at first use, working on torch tensors of one device."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        if self.device.type not in ("cpu", "cuda"):
            raise ValueError(f"the worlds run on cpu or cuda, not on {self.device}")
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self._library = library(self.device)

    def build(self, seeds: Sequence[int]) -> Worlds:
        """Bake the worlds of these seeds (0 … 2²⁴-1)."""
        return self.bake(np.stack([make_params(int(seed)) for seed in seeds]))

    def bake(self, params: NDArray[np.float32]) -> Worlds:
        """params: [N, PARAM_COUNT], as from `make_params`."""
        if params.ndim != 2 or params.shape[1] != PARAM_COUNT or not np.isfinite(params).all():
            raise ValueError(
                f"world parameters must be finite and of shape [N, {PARAM_COUNT}], not {params.shape}"
            )
        n = len(params)
        worlds = Worlds(
            params=torch.from_numpy(np.ascontiguousarray(params, np.float32)).to(self.device),
            height=self._new(n, MAP, MAP),
            surface=self._new(n, MAP, MAP, 4),
            cells=self._new(n, CELLS),
        )
        self._call("world_bake", *worlds.tensors, n)
        return worlds

    def fly(
        self,
        worlds: Worlds,
        *,
        index: Tensor,
        seeds: Tensor | Sequence[int],
        frames: int,
        width: int = 256,
        height: int = 160,
    ) -> tuple[Tensor, Tensor]:
        """Simulate one player per clip at 16 fps.

        index: [B] world of each clip. seeds: [B] of the players, below 2³².
        Returns poses [B, frames, 4, 4] fp32 camera-to-world, and intrinsics [B, frames, 4] fp32 in pixels.
        """
        if frames < 1:
            raise ValueError(f"a flight of {frames} frames has none: ask for at least 1")
        index = self._index(index, worlds)
        players = torch.as_tensor(seeds, dtype=torch.int64, device=self.device).contiguous()
        if players.shape != index.shape:
            raise ValueError(f"{len(index)} clips need as many seeds, not {len(players)}")
        starts = self._new(len(index), CANDIDATES, START_FLOATS)
        poses, intrinsics = self._new(len(index), frames, 4, 4), self._new(len(index), frames, 4)
        self._call(
            "world_fly",
            *worlds.tensors,
            index,
            players,
            starts,
            poses,
            intrinsics,
            len(index),
            frames,
            width,
            height,
        )
        return poses, intrinsics

    def render(
        self,
        worlds: Worlds,
        *,
        index: Tensor,
        poses: Tensor,
        intrinsics: Tensor,
        width: int = 256,
        height: int = 160,
        samples: int = 4,
    ) -> tuple[Tensor, Tensor]:
        """Draw M pictures. index: [M]; poses: [M, 4, 4]; intrinsics: [M, 4] pixels; samples: a square number.

        Returns rgb uint8 [M, height, width, 3], the samples averaged after tone mapping, and inverse depth fp16
        [M, height, width] in 1/m along the optical axis, 0 in the sky: the mean over those samples of a pixel that
        lie within 10 % of its nearest one, so exact on planes and never a mixture across a silhouette.
        """
        side = math.isqrt(samples)
        if side < 1 or side * side != samples:
            raise ValueError(f"samples={samples} must be a square number: 1, 4, 9 …")
        index = self._index(index, worlds)
        m = len(index)
        poses, intrinsics = self._floats(poses, (m, 4, 4)), self._floats(intrinsics, (m, 4))
        rgb = torch.empty(m, height, width, 3, dtype=torch.uint8, device=self.device)
        inverse = torch.empty(m, height, width, dtype=torch.float16, device=self.device)
        step = max(1, SLICE // (height * width))
        for at in range(0, m, step):
            part = slice(at, min(at + step, m))
            depth = self._new(part.stop - at, height, width)
            self._call(
                "world_render", *worlds.tensors, index[part], poses[part], intrinsics[part], rgb[part], depth,
                len(depth), width, height, side,
            )  # fmt: skip
            inverse[part] = depth
        return rgb, inverse

    def clearance(self, worlds: Worlds, *, index: Tensor, points: Tensor) -> Tensor:
        """points: [M, 3] world. Returns [M, 2]: metres above ground or water, and from the nearest thing (at least)."""
        index = self._index(index, worlds)
        up = self._floats(points, (len(index), 3)) * torch.tensor([1.0, -1.0, 1.0], device=self.device)
        gap = self._new(len(index), 2)
        self._call("world_gap", *worlds.tensors, index, up, gap, len(index))
        return gap

    def _new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def _index(self, index: Tensor, worlds: Worlds) -> Tensor:
        if worlds.params.device != self.device:
            raise ValueError(
                f"worlds on {worlds.params.device} cannot be used by a renderer on {self.device}"
            )
        if index.ndim != 1 or (len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(worlds)):
            raise ValueError(f"world index must be [M] with values in 0 … {len(worlds) - 1}")
        return index.to(device=self.device, dtype=torch.int64).contiguous()

    def _floats(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tuple(x.shape) != shape:
            raise ValueError(f"expected shape {list(shape)}, got {list(x.shape)}")
        return x.to(device=self.device, dtype=torch.float32).contiguous()

    def _call(self, name: str, *arguments: Tensor | int) -> None:
        raw = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
        function = getattr(self._library, name)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                code = function(*raw, torch.cuda.current_stream().cuda_stream, 0)
        else:
            code = function(*raw, None, torch.get_num_threads())
        if code:
            raise RuntimeError(f"{name} failed on {self.device}: {self._library.world_error(code).decode()}")
