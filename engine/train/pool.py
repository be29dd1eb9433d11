"""Encoded training clips that stay on the GPU: latents at 1/192 of the pixels, with poses, intrinsics and words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.codec import Codec
from engine.train.data import Clips
from engine.words import SLOTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Training clips cut from the pool: F latent frames, of which the first is a standing picture."""

    latents: Tensor  # [B, C, F, h, w] normalised
    poses: Tensor  # [B, 1 + 8(F-1), 4, 4] camera-to-world, metres
    intrinsics: Tensor  # [B, 1 + 8(F-1), 4] pixels
    words: Tensor  # [B, 8] word ids


class LatentPool:
    """A ring of clips of `chunks` chunks each. A clip may be entered at any chunk border, where its static latent waits."""

    def __init__(self, size: int, chunks: int, *, codec: Codec, device: torch.device) -> None:
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

    def __len__(self) -> int:
        return min(self.filled, self.size)

    @torch.no_grad()
    def add(self, clips: Clips, *, slice_: int = 64) -> None:
        """Encode clips and put them in place of the oldest.

        clips: frames uint8 [N, P, Y, X, 3], poses [N, P, 4, 4], intrinsics [N, P, 4], words [N, 8]; P = 1 + 8·chunks.
        """
        for i in range(clips["frames"].shape[0]):
            at = self.filled % self.size
            frames, depth = clips["frames"][i], clips["inverse_depth"][i]
            chunks, told = (x[1:].unflatten(0, (-1, self.stride)) for x in (frames, depth))
            self.moving[at, 1:] = self._encode(chunks, slice_, told)
            still = frames[:: self.stride, None].expand(-1, self.stride, -1, -1, -1)
            self.still[at] = self._encode(still, slice_)
            self.poses[at], self.intrinsics[at] = clips["poses"][i], clips["intrinsics"][i]
            self.words[at] = clips["words"][i]
            self.filled += 1

    def _encode(self, chunks: Tensor, slice_: int, inverse_depth: Tensor | None = None) -> Tensor:
        """uint8 [N, 8, Y, X, 3] → [N, C, h, w] bfloat16.

        inverse_depth: [N, 8, Y, X] of chunks, so that latents tell it. Of the picture one starts from nobody knows it.
        """
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
        later = start[:, None] + torch.arange(1, frames, device=device)
        latents = torch.cat([self.still[clip, start][:, None], self.moving[clip[:, None], later]], dim=1)
        pixel = self.stride * start[:, None] + torch.arange(self.stride * (frames - 1) + 1, device=device)
        return Batch(
            latents=latents.transpose(1, 2),
            poses=self.poses[clip[:, None], pixel],
            intrinsics=self.intrinsics[clip[:, None], pixel],
            words=self.words[clip],
        )
