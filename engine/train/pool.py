"""Encoded training clips that stay on the GPU: latents at 1/192 of the pixels, with poses, intrinsics and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.codec import Codec
from engine.config import memory_channels
from engine.train.data import Clips
from engine.train.remember import conditions, entries
from engine.words import SLOTS

REMEMBERED = (
    64  # clips whose memory is made at a time: 8 GB beside the pool, and fewer make the GPU wait for launches
)
TOLD_FIRST = 0.5  # share of clips, where there is memory, that begin with a picture whose depth is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Training clips cut from the pool: F latent frames, of which the first is a standing picture."""

    latents: Tensor  # [B, C, F, h, w] normalised
    poses: Tensor  # [B, 1 + 8(F-1), 4, 4] camera-to-world, metres
    intrinsics: Tensor  # [B, 1 + 8(F-1), 4] pixels
    words: Tensor  # [B, 8] word ids
    memory: Tensor | None = None  # [B, memory_channels, F, h, w], 0 at the first frame; None: a pool without


class LatentPool:
    """A ring of clips of `chunks` chunks each. A clip may be entered at any chunk border, where its static latent waits."""

    def __init__(
        self,
        size: int,
        chunks: int,
        *,
        codec: Codec,
        device: torch.device,
        memory: torch.Generator | None = None,
        kept: bool = True,
    ) -> None:
        """memory: draws how memory is spoilt, on `device`; None: this pool is for models without.

        kept: whether clips come with memory conditions, which take longest to make; flights that remember what they
        flew need none.
        """
        if size < 1 or chunks < 1:
            raise ValueError(
                f"a pool of {size} clips of {chunks} chunks holds nothing: both must be at least 1"
            )
        c = codec.config
        n, self.stride = c.frames * chunks + 1, c.frames
        self.codec, self.size, self.chunks = codec, size, chunks
        shape = (size, chunks + 1, c.latent_channels, *c.grid)
        self.moving = torch.zeros(
            shape, dtype=torch.bfloat16, device=device
        )  # [N, L+1]: entry i ends at frame 8i
        self.still = torch.zeros(shape, dtype=torch.bfloat16, device=device)  # [N, L+1]: frame 8i, standing
        self.poses = torch.zeros(size, n, 4, 4, device=device)
        self.intrinsics = torch.zeros(size, n, 4, device=device)
        self.words = torch.zeros(size, SLOTS, dtype=torch.int64, device=device)
        self.filled = 0  # clips ever added
        self.doubt, self.entries, self.memory = memory, entries(chunks), None
        if memory is not None and kept:
            per_clip = (len(self.entries), chunks + 1, memory_channels(c), *c.grid)
            self.memory = torch.zeros(size, *per_clip, dtype=torch.bfloat16, device=device)

    def __len__(self) -> int:
        return min(self.filled, self.size)

    def state_dict(self) -> dict[str, Any]:
        """All clips, to be kept for another run of the same codec."""
        names = ("moving", "still", "poses", "intrinsics", "words", "memory", "filled")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError for a pool of another size or kind."""
        mine = self.state_dict()
        if described(mine) != described(state):
            raise ValueError("it holds a pool of another size or kind")
        for name, value in mine.items():
            if isinstance(value, Tensor):
                value.copy_(state[name])
        self.filled = int(state["filled"])

    @torch.no_grad()
    def add(self, clips: Clips, *, slice_: int = 64) -> None:
        """Encode clips and put them in place of the oldest.

        clips: frames uint8 [N, P, Y, X, 3], poses [N, P, 4, 4], intrinsics [N, P, 4], words [N, 8]; P = 1 + 8·chunks;
        inverse_depth [N, P, Y, X] where the pool has memory.
        """
        begun = self.filled
        for i in range(clips["frames"].shape[0]):
            at = self.filled % self.size
            frames, depth = clips["frames"][i], clips["inverse_depth"][i]
            chunks, told = (x[1:].unflatten(0, (-1, self.stride)) for x in (frames, depth))
            self.moving[at, 1:] = self._encode(chunks, slice_, told)
            still = frames[:: self.stride, None].expand(-1, self.stride, -1, -1, -1)
            known = depth[:: self.stride, None].expand(-1, self.stride, -1, -1) if self._tells() else None
            self.still[at] = self._encode(still, slice_, known)
            self.poses[at], self.intrinsics[at] = clips["poses"][i], clips["intrinsics"][i]
            self.words[at] = clips["words"][i]
            self.filled += 1
        if self.memory is not None and self.doubt is not None:
            self._remember(clips, begun)

    def _tells(self) -> bool:
        """Whether the first pictures of the next clip come with their depth."""
        draw = self.doubt
        return (
            draw is not None and float(torch.rand((), device=self.moving.device, generator=draw)) < TOLD_FIRST
        )

    def _remember(self, clips: Clips, begun: int) -> None:
        """Make the memory conditions of clips that were just put at places `begun` and after."""
        assert self.memory is not None
        assert self.doubt is not None
        for part in torch.arange(len(clips["frames"]), device=self.moving.device).split(REMEMBERED):
            at = (begun + part) % self.size
            some = Clips(
                frames=clips["frames"][part],
                inverse_depth=clips["inverse_depth"][part],
                poses=clips["poses"][part],
                intrinsics=clips["intrinsics"][part],
                words=clips["words"][part],
            )
            self.memory[at] = conditions(
                some, self.moving[at], self.still[at], codec=self.codec, generator=self.doubt
            )

    def _encode(self, chunks: Tensor, slice_: int, inverse_depth: Tensor | None = None) -> Tensor:
        """uint8 [N, 8, Y, X, 3], and inverse depth [N, 8, Y, X] where latents tell it → [N, C, h, w] bfloat16."""
        parts = []
        for at in range(0, len(chunks), slice_):
            x = chunks[at : at + slice_].permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1)
            told = inverse_depth if inverse_depth is None else inverse_depth[at : at + slice_].float()
            with torch.autocast(x.device.type, torch.bfloat16):
                parts.append(self.codec.encode(x, told).bfloat16())
        return torch.cat(parts)

    def draw(self, batch: int, frames: int, *, generator: torch.Generator) -> Batch:
        """Random clips of `frames` latent frames. generator: on the pool's device."""
        device = self.moving.device
        if not 2 <= frames <= self.chunks + 1:
            raise ValueError(f"{frames} latent frames: clips of this pool have 2 to {self.chunks + 1}")
        clip = torch.randint(len(self), (batch,), device=device, generator=generator)
        start = torch.randint(self.chunks + 2 - frames, (batch,), device=device, generator=generator)
        memory = None
        if self.memory is not None:
            start = self._entered(start, frames, generator)
        later = start[:, None] + torch.arange(1, frames, device=device)
        latents = torch.cat([self.still[clip, start][:, None], self.moving[clip[:, None], later]], dim=1)
        pixel = self.stride * start[:, None] + torch.arange(self.stride * (frames - 1) + 1, device=device)
        if self.memory is not None:
            which = (start[:, None] >= torch.tensor(self.entries, device=device)).sum(dim=1) - 1
            memory = self.memory[clip[:, None], which[:, None], later]  # [B, F-1, M, h, w]
            memory = torch.cat([torch.zeros_like(memory[:, :1]), memory], dim=1).transpose(1, 2)
        return Batch(
            latents=latents.transpose(1, 2),
            poses=self.poses[clip[:, None], pixel],
            intrinsics=self.intrinsics[clip[:, None], pixel],
            words=self.words[clip],
            memory=memory,
        )

    def _entered(self, start: Tensor, frames: int, generator: torch.Generator) -> Tensor:
        """Half of the starts [B] moved to where a remembered flight begins."""
        open_ = [e for e in self.entries if e <= self.chunks + 1 - frames]
        borders = torch.tensor(open_, device=start.device)
        pick = torch.randint(len(open_), start.shape, device=start.device, generator=generator)
        half = torch.rand(start.shape, device=start.device, generator=generator) < 0.5
        return torch.where(half, borders[pick], start)


def described(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what is there."""
    return {name: tuple(x.shape) for name, x in state.items() if isinstance(x, Tensor)}
