"""What both token mixers (GDN and softmax) have in common: projections, heads, norms, output."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.layout import Layout


class RMSNorm(nn.Module):
    """RMS norm over the last axis; statistics and result in fp32 (or fp64)."""

    def __init__(self, dim: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(precise(x.dtype))
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


class Mixer(nn.Module):
    """Parameters of self-attention, under their names in the released checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.dim
        self.config = config
        self.qkv = nn.Linear(D, 3 * D, bias=False)
        self.q_norm, self.k_norm = RMSNorm(D, eps=1e-5), RMSNorm(D, eps=1e-5)
        self.q_proj_cam, self.k_proj_cam, self.v_proj_cam = (nn.Linear(D, D) for _ in range(3))
        self.q_norm_cam, self.k_norm_cam = RMSNorm(D, eps=1e-5), RMSNorm(D, eps=1e-5)
        self.out_proj_cam = nn.Linear(D, D)
        self.output_gate = nn.Linear(D, D)
        self.proj = nn.Linear(D, D)

    def join(self, u: Tensor, main: Tensor, camera: Tensor) -> Tensor:
        """Both branches [B, H, F, N, K] through the camera's projection, the gate and the output: [B, T, D]."""
        o = merge(main).to(u.dtype) + self.out_proj_cam(merge(camera).to(u.dtype))
        gate = F.silu(self.output_gate(u).to(precise(u.dtype)))
        return self.proj((o * gate).to(u.dtype))


def split(x: Tensor, heads: int, layout: Layout) -> Tensor:
    """[B, T, D] -> [B, H, F, N, K]."""
    return x.unflatten(-1, (heads, -1)).unflatten(1, (layout.frames, layout.tokens)).permute(0, 3, 1, 2, 4)


def merge(x: Tensor) -> Tensor:
    """[B, H, F, N, K] -> [B, T, D]."""
    return x.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)


def precise(dtype: torch.dtype) -> torch.dtype:
    """What norms, gates and memories are computed in: fp32, or fp64 for a model in fp64."""
    return torch.promote_types(dtype, torch.float32)
