"""Softmax token mixer over a window of chunks with a sink, main and camera branch; and cross-attention to the text."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.layout import Layout
from engine.mixer import Mixer, RMSNorm, precise, split
from engine.rope import rotate
from engine.state import Keys, Room
from engine.ucpe import cap_rms, into_memory, into_query, out_of_ray

FEW = 16  # keys


class Softmax(Mixer):
    """Attends to its own chunk and to the remembered keys."""

    def forward(self, u: Tensor, layout: Layout, past: Keys | None) -> tuple[Tensor, Keys]:
        """u: [B, T, D] normed tokens. Returns the mixed tokens, and all keys they saw: remembered, then new."""
        q, k, v = self.main(u, layout)
        cq, ck, cv = self.camera(u, layout)
        keys = Keys(k=k, v=v, cam_k=ck, cam_v=cv)
        if isinstance(past, Room):
            keys = past.filled(keys)
        elif past is not None:
            keys = Keys(
                k=torch.cat((past.k, k), 2),
                v=torch.cat((past.v, v), 2),
                cam_k=torch.cat((past.cam_k, ck), 2),
                cam_v=torch.cat((past.cam_v, cv), 2),
            )
        scale, cam_scale = softmax_scales(self.config)
        shape = (layout.frames, layout.tokens)
        if past is None and layout.band:
            main = attend_band(q, k, v, layout, scale=scale)
            camera = attend_band(cq, ck, cv, layout, scale=cam_scale)
        else:
            main = attend(q, keys.k, keys.v, layout.visible, scale=scale)
            camera = attend(cq, keys.cam_k, keys.cam_v, layout.visible, scale=cam_scale)
        camera = out_of_ray(camera.unflatten(2, shape).to(precise(u.dtype)), layout.rays)
        return self.join(u, main.unflatten(2, shape), camera), keys

    def main(self, u: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [B, H, T, K]."""
        q, k, v = self.qkv(u).chunk(3, dim=-1)
        q, k, v = (split(x, self.config.heads, layout) for x in (self.q_norm(q), self.k_norm(k), v))
        q, k = rotate(q, layout.rotary), rotate(k, layout.rotary)
        return q.to(u.dtype).flatten(2, 3), k.to(u.dtype).flatten(2, 3), v.to(u.dtype).flatten(2, 3)

    def camera(self, u: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.q_norm_cam(self.q_proj_cam(u)), self.k_norm_cam(self.k_proj_cam(u)), self.v_proj_cam(u)
        q, k, v = (split(x, self.config.heads, layout) for x in (q, k, v.to(q.dtype)))
        q_in, k_in, v_in = (
            into_query(q, layout.rays),
            into_memory(k, layout.rays),
            into_memory(v, layout.rays),
        )
        if self.config.semantics.cap_camera_rms:
            q_in, k_in, v_in = cap_rms(q_in, q), cap_rms(k_in, k), cap_rms(v_in, v)
        return q_in.to(u.dtype).flatten(2, 3), k_in.to(u.dtype).flatten(2, 3), v_in.to(u.dtype).flatten(2, 3)


class CrossAttention(nn.Module):
    """Every token reads the words."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D = config.dim
        self.heads = config.cross_heads
        self.q_linear, self.kv_linear, self.proj = nn.Linear(D, D), nn.Linear(D, 2 * D), nn.Linear(D, D)
        self.q_norm, self.k_norm = RMSNorm(D, eps=1e-6), RMSNorm(D, eps=1e-6)

    def keys(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of embedded words [B, L, D], each [B, H, L, K]: constant for a prompt."""
        k, v = self.kv_linear(text).chunk(2, dim=-1)
        return self._heads(self.k_norm(k).to(text.dtype)), self._heads(v.to(text.dtype))

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """x: [B, T, D].  mask: [B, L] bool, True: read; None: read all."""
        q = self._heads(self.q_norm(self.q_linear(x)).to(x.dtype))
        k, v = (y.to(x.dtype) for y in keys)
        mask = None if mask is None else mask[:, None, None, :]
        read = (
            attend_few
            if self.training and q.is_cuda and k.shape[2] <= FEW
            else F.scaled_dot_product_attention
        )
        return self.proj(read(q, k, v, mask).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float) -> Tensor:
    """Scaled dot-product attention, [B, H, n, K] each."""
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.compiler.is_compiling()
    if (
        slow and mask is None
    ):  # PyTorch's CPU kernel multiplies bf16 at a third of the speed of plain products
        return ((q * scale) @ k.mT).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)


def attend_few(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention to so few keys that scores in memory cost less than a kernel made for many. [B, H, n, K] each."""
    scores = (q @ k.mT).to(precise(q.dtype)) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1).to(v.dtype) @ v


def attend_band(q: Tensor, k: Tensor, v: Tensor, layout: Layout, *, scale: float) -> Tensor:
    """Every frame attends to itself and the `band`-1 frames before, from the start of a clip; [B, H, T, K] each.

    The first frames, which have fewer before them, go together behind a mask; all later ones have equally many keys
    and need none, so that nothing is computed that nobody may see.
    """
    band, N = layout.band, layout.tokens
    first = (band - 1) * N
    assert layout.visible is not None
    early = attend(
        q[:, :, :first], k[:, :, :first], v[:, :, :first], layout.visible[:first, :first], scale=scale
    )
    later = q[:, :, first:].unflatten(2, (-1, N)).flatten(1, 2)  # [B, H·frames, N, K]
    late = attend(later, _windows(k, band, N), _windows(v, band, N), None, scale=scale)
    return torch.cat((early, late.unflatten(1, (q.shape[1], -1)).flatten(2, 3)), dim=2)


def _windows(x: Tensor, band: int, tokens: int) -> Tensor:
    """[B, H, T, K] -> [B, H·(F-band+1), band·N, K]: for each frame from the first full window on, what it sees."""
    x = x.unflatten(2, (-1, tokens))
    count = x.shape[2] - band + 1
    return torch.stack([x[:, :, i : i + count] for i in range(band)], dim=3).flatten(3, 4).flatten(1, 2)


def softmax_scales(config: ModelConfig) -> tuple[float, float]:
    """Factor on the scores of the main and of the camera branch.

    Some releases pad heads with zeros for their kernels and divide by the root of the padded width.
    """
    width = config.head_dim
    padded = width if width in (32, 64, 128) or width >= 256 else 128 if width < 128 else 256
    stream = config.causal and config.semantics.padded_scale_stream
    camera = config.semantics.padded_scale_camera and not config.causal
    return (padded if stream else width) ** -0.5, (padded if stream or camera else width) ** -0.5
