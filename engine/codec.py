"""The causal streaming codec of `pocket`: 8 pixel frames ↔ one latent frame, with inverse depth on the way back.

An encoder chunk stands alone; it takes depth along where somebody knows it. The decoder's whole streaming state is the
previous latent, so any two neighbours of a latent sequence decode to their 8 frames. A picture becomes a latent by
standing still for 8 frames.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.checkpoint import build_stored, load_module
from engine.config import CodecConfig
from engine.depth import UNKNOWN, depth_decode, depth_planes, joint_decode


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of each pixel. The gain is stored as (C,)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, Y, X]; free of copies when channels-last."""
        y = F.rms_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight.to(x.dtype), 1e-5)
        return y.permute(0, 3, 1, 2)


class Res(nn.Module):
    """x + conv(SiLU(conv(SiLU(norm x)))), near the identity at birth. No norm at high resolution, where it costs time."""

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels) if norm else nn.Identity()
        self.a = nn.Conv2d(channels, channels, 3, padding=1)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(F.silu(self.norm(x)))
        return x + self.b(F.silu(y, inplace=not torch.is_grad_enabled()))


def _trunk(channels: int, depth: int, *, norm: bool = True) -> nn.Sequential:
    return nn.Sequential(*(Res(channels, norm=norm) for _ in range(depth)))


def _stack(x: Tensor, frames: int) -> Tensor:
    """Frames into channels, channels-last: [B·P, C, Y, X] → [B, P·C, Y, X]."""
    x = x.permute(0, 2, 3, 1).unflatten(0, (-1, frames))  # [B, P, Y, X, C]
    return x.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)


def _unstack(x: Tensor, frames: int) -> Tensor:
    """The inverse of `_stack`."""
    x = x.permute(0, 2, 3, 1).unflatten(3, (frames, -1))  # [B, Y, X, P, C]
    return x.permute(0, 3, 1, 2, 4).flatten(0, 1).contiguous().permute(0, 3, 1, 2)


def chunks_of(clip: Tensor, frames: int) -> Tensor:
    """[B, 1 + 8n, ...] → [B, 1 + n, 8, ...]: frame 0 standing still for a chunk, then the chunks after it."""
    if clip.shape[1] % frames != 1:
        raise ValueError(f"a clip of {clip.shape[1]} frames is not 1 + {frames}·n frames long")
    still = clip[:, :1].unsqueeze(2).expand(-1, -1, frames, *[-1] * (clip.ndim - 2))
    return torch.cat((still, clip[:, 1:].unflatten(1, (-1, frames))), dim=1)


class Encoder(nn.Module):
    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        w4, w8, w16 = config.encoder_widths
        self.frames = config.frames
        self.takes_depth = config.sky
        self.stem = nn.Conv2d((5 if config.sky else 3) * 16, w4, 3, padding=1)
        self.frame = _trunk(w4, 2, norm=False)
        self.down8 = nn.Conv2d(config.frames * w4, w8, 3, stride=2, padding=1)
        self.mid = _trunk(w8, 3)
        self.down16 = nn.Conv2d(w8, w16, 3, stride=2, padding=1)
        self.low = _trunk(w16, 2)
        self.norm = ChannelNorm(w16)
        self.head = nn.Conv2d(w16, config.latent_channels, 1)

    def forward(self, frames: Tensor, inverse_depth: Tensor) -> Tensor:
        """frames: [B, 8, 3, Y, X] in [-1, 1]; inverse_depth: [B, 8, Y, X], UNKNOWN where so → raw latent [B, C, h, w]."""
        if self.takes_depth:
            frames = torch.cat((frames, depth_planes(inverse_depth).to(frames.dtype)), dim=2)
        x = F.pixel_unshuffle(frames.flatten(0, 1).contiguous(memory_format=torch.channels_last), 4)
        x = self.frame(self.stem(x))
        x = self.mid(self.down8(_stack(x, self.frames)))
        return self.head(self.norm(self.low(self.down16(x))))


class Decoder(nn.Module):
    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        w16, w8, w4, w2 = config.decoder_widths
        p = config.frames
        self.frames = p
        self.stem = nn.Conv2d(2 * config.latent_channels, w16, 3, padding=1)
        self.low = _trunk(w16, 3)
        self.up8 = nn.Conv2d(w16, 4 * w8, 1)
        self.mid = _trunk(w8, 3)
        self.up4 = nn.Conv2d(w8, 4 * p * w4, 1)
        self.time = nn.Conv2d(p * w4, p * w4, 1)  # the only mixing of frames at high resolution
        nn.init.zeros_(self.time.weight)
        self.frame = _trunk(w4, 3, norm=False)
        self.up2 = nn.Conv2d(w4, 4 * w2, 3, padding=1)
        self.fine = _trunk(w2, 2, norm=False)
        self.head = nn.Conv2d(w2, (5 if config.sky else 4) * 4, 3, padding=1)

    def forward(self, previous: Tensor, latent: Tensor, *, last: bool = False) -> Tensor:
        """Two neighbouring raw latents [B, C, h, w] → the 8 frames of the second [B, 8, 5, Y, X]: RGB, depth code, sky logit.

        last: the last of them alone, [B, 1, 5, Y, X], for a third of the work.
        """
        x = self.low(self.stem(torch.cat((previous, latent), dim=1)))
        x = self.mid(F.pixel_shuffle(self.up8(x), 2))
        x = F.pixel_shuffle(self.up4(x), 2)
        x, frames = x + self.time(x), self.frames
        if last:
            x, frames = x[:, -x.shape[1] // frames :], 1
        x = _unstack(x, frames)
        x = self.fine(F.pixel_shuffle(self.up2(self.frame(x)), 2))
        return F.pixel_shuffle(self.head(x), 2).unflatten(0, (-1, frames))


class Codec(nn.Module):
    """Frames ↔ normalised latents. Any picture size that is a multiple of the stride works."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer(
            "mean", torch.zeros(config.latent_channels)
        )  # of raw latents, set after training
        self.register_buffer("std", torch.ones(config.latent_channels))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from the stubs

    def _check(self, frames: Tensor) -> None:
        y, x = frames.shape[-2:]
        if y % self.config.stride or x % self.config.stride:
            raise ValueError(f"a picture of {x}x{y} does not split into cells of {self.config.stride} pixels")

    def encode(self, frames: Tensor, inverse_depth: Tensor | None = None) -> Tensor:
        """frames: [B, 8, 3, Y, X] in [-1, 1] → normalised latent [B, C, h, w].

        inverse_depth: [B, 8, Y, X] in 1/m where it is known, sky 0, below 0 unknown. A latent carries the depth it was
        given; without, it carries a guess from pictures alone, whose scale nobody can see.
        """
        self._check(frames)
        if frames.shape[1] != self.config.frames:
            raise ValueError(
                f"{frames.shape[1]} frames in a chunk: one latent stands for {self.config.frames}"
            )
        if inverse_depth is None:
            inverse_depth = frames.new_full((*frames.shape[:2], *frames.shape[-2:]), UNKNOWN)
        raw = self.encoder(frames, inverse_depth)
        return (raw - self.mean.to(raw.dtype).view(-1, 1, 1)) / self.std.to(raw.dtype).view(-1, 1, 1)

    def encode_picture(self, frame: Tensor, inverse_depth: Tensor | None = None) -> Tensor:
        """The static latent of a picture [B, 3, Y, X], with depth [B, Y, X]: the picture standing still for one chunk."""
        n = self.config.frames
        still = inverse_depth if inverse_depth is None else inverse_depth[:, None].expand(-1, n, -1, -1)
        return self.encode(frame.unsqueeze(1).expand(-1, n, -1, -1, -1), still)

    def encode_clip(self, frames: Tensor, inverse_depth: Tensor | None = None) -> Tensor:
        """[B, 1 + 8n, 3, Y, X] → [B, 1 + n, C, h, w]: the static latent of frame 0, then one latent per chunk.

        inverse_depth: [B, 1 + 8n, Y, X], as `encode` takes it.
        """
        n = self.config.frames
        every = chunks_of(frames, n)
        depth = inverse_depth if inverse_depth is None else chunks_of(inverse_depth, n).flatten(0, 1)
        return self.encode(every.flatten(0, 1), depth).unflatten(0, every.shape[:2])

    def decode(self, previous: Tensor, latent: Tensor, *, last: bool = False) -> tuple[Tensor, Tensor]:
        """Normalised latents [B, C, h, w] → RGB [B, 8, 3, Y, X] in [-1, 1], inverse depth [B, 8, Y, X] in 1/m (sky 0).

        last: of the last of the 8 frames alone, [B, 1, 3, Y, X] and [B, 1, Y, X].
        """
        std, mean = self.std.to(latent.dtype).view(-1, 1, 1), self.mean.to(latent.dtype).view(-1, 1, 1)
        out = self.decoder(previous * std + mean, latent * std + mean, last=last)
        code = out[:, :, 3:].float()
        inverse_depth = (
            depth_decode(code[:, :, 0], code[:, :, 1]) if self.config.sky else joint_decode(code[:, :, 0])
        )
        return out[:, :, :3].clamp(-1, 1), inverse_depth

    def decode_clip(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 1 + n, C, h, w] → RGB [B, 8n, 3, Y, X] and inverse depth [B, 8n, Y, X]; latent 0 itself emits nothing."""
        b = latents.shape[0]
        rgb, inverse_depth = self.decode(latents[:, :-1].flatten(0, 1), latents[:, 1:].flatten(0, 1))
        return rgb.unflatten(0, (b, -1)).flatten(1, 2), inverse_depth.unflatten(0, (b, -1)).flatten(1, 2)


def load_codec(
    path: Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Codec:
    """The codec in a file, as `engine.checkpoint.save_module` wrote it with kind "codec". ValueError: see there."""
    codec = build_stored(path, Codec, CodecConfig, kind="codec")
    load_module(path, codec, kind="codec", dtype=dtype, device=device)
    return codec.eval().requires_grad_(False)
