"""Layers of the LTX-2 video autoencoder. Parameters carry their names in the released checkpoints.

Tensors are [B, C, F, Y, X]. Space is padded inside each convolution; what lies before and after the given frames
is told by a `Reach`, one per pass, which every convolution asks in the order of execution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.ltx2 import Stride

Pad = Literal["zeros", "reflect"]
TAIL = 2  # frames that a kernel of three sees besides its own


class Reach:
    """Frames beyond those given, for one pass through a network.

    both: a frame sees one on either side, the ends repeated. Otherwise it sees two before it: those in `tails`, of
    the pass before, or the first frame repeated. `tails` of this pass collect in `kept`.
    """

    def __init__(
        self, *, both: bool = False, tails: Sequence[Tensor] | None = None, keep: bool = False
    ) -> None:
        self.both, self.tails, self.keep = both, tails, keep
        self.kept: list[Tensor] = []
        self.asked = 0

    @property
    def first(self) -> bool:
        """Whether these frames open the clip."""
        return self.tails is None

    def around(self, x: Tensor) -> Tensor:
        """x with two more frames."""
        if self.both:
            return torch.cat((x[:, :, :1], x, x[:, :, -1:]), dim=2)
        tail = x[:, :, :1].expand(-1, -1, TAIL, -1, -1) if self.tails is None else self.tails[self.asked]
        self.asked += 1
        x = torch.cat((tail, x), dim=2)
        if self.keep:
            self.kept.append(x[:, :, -TAIL:].clone())  # a view would keep all of x alive
        return x


class Conv(nn.Module):
    def __init__(self, channels: int, out: int, *, pad: Pad) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out, 3, padding=(0, 1, 1), padding_mode=pad)

    def forward(self, x: Tensor, reach: Reach) -> Tensor:
        return self.conv(reach.around(x))


def channel_norm(x: Tensor) -> Tensor:
    """Root mean square over channels is one. No gain."""
    return x / x.square().mean(1, keepdim=True).add(1e-8).sqrt()


class Res(nn.Module):
    def __init__(self, channels: int, *, pad: Pad) -> None:
        super().__init__()
        self.conv1, self.conv2 = (Conv(channels, channels, pad=pad) for _ in range(2))

    def forward(self, x: Tensor, reach: Reach) -> Tensor:
        y = self.conv1(F.silu(channel_norm(x)), reach)
        return x + self.conv2(F.silu(channel_norm(y)), reach)


class Trunk(nn.Module):
    """Residual blocks in a row."""

    def __init__(self, channels: int, layers: int, *, pad: Pad) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Res(channels, pad=pad) for _ in range(layers))

    def forward(self, x: Tensor, reach: Reach) -> Tensor:
        for res in self.resnets:
            x = res(x, reach)
        return x


def fold(x: Tensor, stride: Stride) -> Tensor:
    """Neighbours into channels: [B, C, F, Y, X] -> [B, C·st·sy·sx, F/st, Y/sy, X/sx]."""
    t, y, x_ = stride
    x = x.unflatten(4, (-1, x_)).unflatten(3, (-1, y)).unflatten(2, (-1, t))
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def unfold(x: Tensor, stride: Stride) -> Tensor:
    """The inverse of `fold`."""
    x = x.unflatten(1, (-1, *stride))  # [B, C, st, sy, sx, F, Y, X]
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)


class Downsampler(nn.Module):
    """Convolution and fold, plus the folded input averaged over groups of channels."""

    def __init__(self, channels: int, out: int, *, stride: Stride, pad: Pad) -> None:
        super().__init__()
        cells = stride[0] * stride[1] * stride[2]
        if out % cells or (channels * cells) % out:
            raise ValueError(f"a downsampler of stride {stride} cannot turn {channels} channels into {out}")
        self.stride, self.group = stride, channels * cells // out
        self.conv = Conv(channels, out // cells, pad=pad)

    def forward(self, x: Tensor, reach: Reach) -> Tensor:
        x = torch.cat((x[:, :, : self.stride[0] - 1], x), dim=2)  # 2m + 1 frames: the first counts double
        mean = fold(x, self.stride).unflatten(1, (-1, self.group)).mean(2)
        return fold(self.conv(x, reach), self.stride) + mean


class Upsampler(nn.Module):
    """Convolution to four times the channels and unfold by two on every axis, plus the unfolded input repeated."""

    STRIDE: Stride = (2, 2, 2)

    def __init__(self, channels: int, *, pad: Pad) -> None:
        super().__init__()
        if channels % 8:
            raise ValueError(f"an upsampler cannot spread {channels} channels over 8 cells")
        self.conv = Conv(channels, 4 * channels, pad=pad)

    def forward(self, x: Tensor, reach: Reach) -> Tensor:
        y = unfold(self.conv(x, reach), self.STRIDE)
        y = y + unfold(x, self.STRIDE).repeat(1, 4, 1, 1, 1)
        return y[:, :, 1:] if reach.first else y  # the clip's first frame stands for one frame, not two


class DownBlock(nn.Module):
    def __init__(self, channels: int, out: int, layers: int, *, stride: Stride, pad: Pad) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Res(channels, pad=pad) for _ in range(layers))
        self.downsamplers = nn.ModuleList([Downsampler(channels, out, stride=stride, pad=pad)])

    def forward(self, x: Tensor, reach: Reach) -> Tensor:
        for part in (*self.resnets, *self.downsamplers):
            x = part(x, reach)
        return x


class UpBlock(nn.Module):
    def __init__(self, channels: int, layers: int, *, pad: Pad) -> None:
        super().__init__()
        self.upsamplers = nn.ModuleList([Upsampler(channels, pad=pad)])
        self.resnets = nn.ModuleList(Res(channels // 2, pad=pad) for _ in range(layers))

    def forward(self, x: Tensor, reach: Reach) -> Tensor:
        for part in (*self.upsamplers, *self.resnets):
            x = part(x, reach)
        return x
