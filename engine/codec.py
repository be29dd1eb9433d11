"""The causal streaming codec of `pocket`: 8 pixel frames ↔ one latent frame, with inverse depth on the way back.

An encoder chunk stands alone. The decoder's whole streaming state is the previous latent, so any two neighbours
of a latent sequence decode to their 8 frames. A picture becomes a latent by standing still for 8 frames.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.checkpoint import build_stored, load_module
from engine.config import CodecConfig

KNEE = 50.0  # metres: nearer than this the depth code is logarithmic in distance, farther it is linear in 1/m
NEAREST = 0.25  # metres: code 1
SKY_CODE = 0.02  # codes below are sky; what lies beyond 445 m is sky too
_FULL = math.log1p(KNEE / NEAREST)


def depth_code(inverse_depth: Tensor) -> Tensor:
    """Inverse depth in 1/m ≥ 0 → code in [0, 1]: log(1 + 50 d) / log(201). Sky (0) is 0, 0.25 m and nearer is 1."""
    return (torch.log1p(inverse_depth.clamp(min=0) * KNEE) / _FULL).clamp(max=1)


def depth_decode(code: Tensor) -> Tensor:
    """Code → inverse depth in 1/m, the inverse of `depth_code`; codes below SKY_CODE are exactly 0."""
    d = torch.expm1(code.clamp(0, 1) * _FULL) / KNEE
    return d.masked_fill(code < SKY_CODE, 0)


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
        return x + self.b(F.silu(self.a(F.silu(self.norm(x)))))


def _trunk(channels: int, depth: int, *, norm: bool = True) -> nn.Sequential:
    return nn.Sequential(*(Res(channels, norm=norm) for _ in range(depth)))


def _stack(x: Tensor, frames: int) -> Tensor:
    """Frames into channels, channels-last: [B·P, C, Y, X] → [B, P·C, Y, X]."""
    x = x.permute(0, 2, 3, 1).unflatten(0, (-1, frames))  # [B, P, Y, X, C]
    return x.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)


def _unstack(x: Tensor, frames: int) -> Tensor:
    """The inverse of `_stack`."""
    x = x.permute(0, 2, 3, 1).unflatten(3, (frames, -1))  # [B, Y, X, P, C]
    return x.permute(0, 3, 1, 2, 4).flatten(0, 1).permute(0, 3, 1, 2)


class Encoder(nn.Module):
    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        w4, w8, w16 = config.encoder_widths
        self.frames = config.frames
        self.stem = nn.Conv2d(3 * 16, w4, 3, padding=1)
        self.frame = _trunk(w4, 2, norm=False)
        self.down8 = nn.Conv2d(config.frames * w4, w8, 3, stride=2, padding=1)
        self.mid = _trunk(w8, 3)
        self.down16 = nn.Conv2d(w8, w16, 3, stride=2, padding=1)
        self.low = _trunk(w16, 2)
        self.norm = ChannelNorm(w16)
        self.head = nn.Conv2d(w16, config.latent_channels, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """frames: [B, 8, 3, Y, X] in [-1, 1] → raw latent [B, C, h, w]."""
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
        self.head = nn.Conv2d(w2, 4 * 4, 3, padding=1)

    def forward(self, previous: Tensor, latent: Tensor) -> Tensor:
        """Two neighbouring raw latents [B, C, h, w] → the 8 frames of the second: RGB and depth code [B, 8, 4, Y, X]."""
        x = self.low(self.stem(torch.cat((previous, latent), dim=1)))
        x = self.mid(F.pixel_shuffle(self.up8(x), 2))
        x = F.pixel_shuffle(self.up4(x), 2)
        x = _unstack(x + self.time(x), self.frames)
        x = self.fine(F.pixel_shuffle(self.up2(self.frame(x)), 2))
        return F.pixel_shuffle(self.head(x), 2).unflatten(0, (-1, self.frames))


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

    def encode(self, frames: Tensor) -> Tensor:
        """frames: [B, 8, 3, Y, X] in [-1, 1] → normalised latent [B, C, h, w]."""
        self._check(frames)
        if frames.shape[1] != self.config.frames:
            raise ValueError(
                f"{frames.shape[1]} frames in a chunk: one latent stands for {self.config.frames}"
            )
        raw = self.encoder(frames)
        return (raw - self.mean.to(raw.dtype).view(-1, 1, 1)) / self.std.to(raw.dtype).view(-1, 1, 1)

    def encode_picture(self, frame: Tensor) -> Tensor:
        """The static latent of a picture [B, 3, Y, X]: the picture standing still for one chunk."""
        return self.encode(frame.unsqueeze(1).expand(-1, self.config.frames, -1, -1, -1))

    def encode_clip(self, frames: Tensor) -> Tensor:
        """[B, 1 + 8n, 3, Y, X] → [B, 1 + n, C, h, w]: the static latent of frame 0, then one latent per chunk."""
        n = self.config.frames
        if frames.shape[1] % n != 1:
            raise ValueError(f"a clip of {frames.shape[1]} frames is not 1 + {n}·n frames long")
        chunks = frames[:, 1:].unflatten(1, (-1, n))
        still = frames[:, :1].unsqueeze(2).expand(-1, -1, n, -1, -1, -1)
        every = torch.cat((still, chunks), dim=1)
        return self.encode(every.flatten(0, 1)).unflatten(0, every.shape[:2])

    def decode(self, previous: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised latents [B, C, h, w] → RGB [B, 8, 3, Y, X] in [-1, 1], inverse depth [B, 8, Y, X] in 1/m (sky 0)."""
        std, mean = self.std.to(latent.dtype).view(-1, 1, 1), self.mean.to(latent.dtype).view(-1, 1, 1)
        out = self.decoder(previous * std + mean, latent * std + mean)
        return out[:, :, :3].clamp(-1, 1), depth_decode(out[:, :, 3].float())

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
