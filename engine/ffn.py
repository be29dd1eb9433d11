"""The feed-forward part of a block: gated, with a 3×3 convolution inside a frame and a short one over frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.layout import Layout
from kernels.gated_conv import gated_conv, gated_conv_plain
from kernels.gated_conv_forward import gated_conv_forward
from kernels.program import builds


class Named(nn.Module):
    """A convolution whose parameters are called `….conv.weight` in the released checkpoints."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv


class FFN(nn.Module):
    """Parameter names as released."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, M = config.dim, int(config.dim * config.ffn_ratio)
        taps = 2 if config.lone else config.ffn_taps  # no later frame in the chunk: no tap for it
        self.inverted_conv = Named(nn.Conv2d(D, 2 * M, 1))
        self.depth_conv = Named(nn.Conv2d(2 * M, 2 * M, 3, padding=1, groups=2 * M))
        self.point_conv = Named(nn.Conv2d(M, D, 1, bias=False))
        self.t_conv = nn.Conv2d(D, D, (taps, 1), bias=False)

    def forward(self, x: Tensor, layout: Layout, tail: Tensor | None) -> tuple[Tensor, Tensor]:
        """x: [B, T, D] normed tokens.  tail: [B, N, D] of the frame before, None at the start. Returns also the new tail."""
        y = self.space(x, layout).unflatten(1, (layout.frames, layout.tokens))
        before = torch.zeros_like(y[:, 0]) if tail is None else tail.to(y.dtype)
        out = y + self.tap(torch.cat((before[:, None], y[:, :-1]), dim=1), 0) + self.tap(y, 1)
        if layout.ahead and layout.frames > 1:
            after = F.pad(y[:, 1:], (0, 0, 0, 0, 0, 1)) * layout.ahead[0].to(y.dtype)
            out = out + self.tap(after, 2)
        return out.flatten(1, 2), y[:, -1]

    def space(self, x: Tensor, layout: Layout) -> Tensor:
        """Mix channels and neighbouring tokens of one frame."""
        h = _pointwise(x, self.inverted_conv.conv)
        conv, frames = self.depth_conv.conv, h.unflatten(1, (-1, layout.tokens)).flatten(0, 1)
        assert conv.bias is not None
        form = gated_conv_plain
        if h.dtype != torch.float64 and builds(h.device):
            form = gated_conv if torch.is_grad_enabled() else gated_conv_forward
        y = form(frames, weight=conv.weight, bias=conv.bias, grid=layout.grid)
        return _pointwise(y.unflatten(0, (x.shape[0], -1)).flatten(1, 2), self.point_conv.conv)

    def tap(self, y: Tensor, i: int) -> Tensor:
        return F.linear(y, self.t_conv.weight[:, :, i, 0])


def _pointwise(x: Tensor, conv: nn.Module) -> Tensor:
    """A 1×1 convolution of tokens [..., D], or the linear map that stands in its place."""
    if not isinstance(conv, nn.Conv2d):
        return conv(x)
    return F.linear(x, conv.weight.flatten(1), conv.bias)
