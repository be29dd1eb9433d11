"""What goes into the transformer: latents and rays as tokens, noise levels and words as vectors; and what comes out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.mixer import precise

SINUSOID = 256  # width of the noise-level embedding before its MLP


class CellEmbed(nn.Module):
    """A 1×1×1 convolution: one token per latent cell."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, h, w] -> [B, T, D]."""
        return F.linear(x.flatten(2).mT, self.proj.weight.flatten(1), self.proj.bias)

    def reset(self, *, used: int) -> None:
        """Only the first `used` channels count at the start of training."""
        nn.init.xavier_uniform_(self.proj.weight.flatten(1))
        nn.init.zeros_(self.proj.weight[:, used:])
        nn.init.zeros_(_bias(self.proj))


class LevelEmbed(nn.Module):
    """Noise levels as vectors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(SINUSOID, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """[B, F] in 0…1000 -> [B, F, D]."""
        return self.mlp(sinusoid(timestep, precise(dtype)).to(dtype))


class TextEmbed(nn.Module):
    """Encoder states or words of a small vocabulary as vectors."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.y_proj = nn.Module()
        self.y_proj.fc1 = nn.Linear(config.caption_dim, config.dim)
        self.y_proj.fc2 = nn.Linear(config.dim, config.dim)
        self.words = nn.Embedding(config.words, config.caption_dim) if config.words else None

    def forward(self, y: Tensor) -> Tensor:
        y = y if self.words is None else self.words(y)
        fc1, fc2 = self.y_proj.get_submodule("fc1"), self.y_proj.get_submodule("fc2")
        return fc2(F.gelu(fc1(y), approximate="tanh"))


class FinalLayer(nn.Module):
    """Tokens back to latent channels."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, channels)
        self.scale_shift_table = nn.Parameter(torch.empty(2, dim))  # shift, scale

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x: [B, T, D].  e: [B, F, D] the noise levels, embedded.  Returns [B, T, C]."""
        shift, scale = (self.scale_shift_table + e.unsqueeze(2)).to(x.dtype).unsqueeze(3).unbind(2)
        return self.linear(modulate(x, shift, scale))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of x [B, T, D], then scale and shift by frame, each [B, F, 1, D]."""
    y = F.layer_norm(x, x.shape[-1:], eps=1e-6).to(x.dtype).unflatten(1, (shift.shape[1], -1))
    return torch.addcmul(shift, y, 1 + scale).flatten(1, 2)


def sinusoid(timestep: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, F] -> [B, F, 256] in `dtype`. The release truncates: 727.9 is 727."""
    half = SINUSOID // 2
    rate = torch.exp(-math.log(10000) * torch.arange(half, dtype=dtype, device=timestep.device) / half)
    angle = timestep.trunc().to(dtype)[..., None] * rate
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def _bias(layer: nn.Conv3d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
