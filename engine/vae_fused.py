"""The streaming decoder on a GPU: channels last throughout, and one kernel between any two convolutions.

The same function as `Vae.decode` followed by `to_uint8`, for inference, in two halves: `trunk` at the size of the
latents, `rise` from there to pixels. What enters the second may be cut over frames, to have the first pictures early
or in less memory. Convolutions run without bias and padding: `kernels.conv_input` adds the bias of the one before and
lays out what the next one reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch.nn.functional as F
from torch import Tensor

from engine.vae_layers import Conv, Res
from kernels.conv_input import ConvInput, conv_input, spread_input
from kernels.to_pixels import to_pixels

if TYPE_CHECKING:
    from engine.vae import Decoder

Tails = tuple[Tensor, ...]  # [B, C, 2, Y, X] of each convolution, channels last in memory


@dataclass(frozen=True, slots=True)
class Sum:
    """A value not added up yet: y + bias + skip. y, skip: [B, F, Y, X, C]."""

    y: Tensor
    bias: Tensor
    skip: Tensor

    def frames(self, a: int, b: int) -> Sum:
        return replace(self, y=self.y[:, a:b], skip=self.skip[:, a:b])


class _Stream:
    """The tails of the frames before, in the order of execution, and those after."""

    def __init__(self, tails: Sequence[Tensor] | None) -> None:
        self._before = None if tails is None else iter(tails)
        self.after: list[Tensor] = []

    def tail(self) -> Tensor | None:
        """Of the convolution that is next, [B, 2, Y, X, C]."""
        return None if self._before is None else next(self._before).permute(0, 2, 3, 4, 1)

    def conv(self, conv: Conv, given: ConvInput) -> tuple[Tensor, Tensor]:
        """The product [B, F, Y, X, C] without bias, and the bias."""
        self.after.append(given.tail.permute(0, 4, 1, 2, 3))
        product = F.conv3d(given.p.permute(0, 4, 1, 2, 3), conv.conv.weight)
        assert conv.conv.bias is not None
        return product.permute(0, 2, 3, 4, 1), conv.conv.bias

    def res(self, res: Res, given: ConvInput) -> Sum:
        assert given.x is not None
        y, bias = self.conv(res.conv1, given)
        y, bias = self.conv(res.conv2, conv_input(y, bias=bias, tail=self.tail()))
        return Sum(y, bias, given.x)


def trunk(decoder: Decoder, latents: Tensor, tails: Sequence[Tensor] | None) -> tuple[Sum, Tails]:
    """The first convolution and the blocks after it.

    latents: [B, C, F, h, w], not normalised, h and w at least 2.  tails: of these convolutions, None at the start.
    """
    s = _Stream(tails)
    raw = latents.permute(0, 2, 3, 4, 1).contiguous()
    y, bias = s.conv(decoder.conv_in, conv_input(raw, tail=s.tail(), norm=False))
    given = conv_input(y, bias=bias, tail=s.tail(), keep=True)
    first, *rest = cast(Sequence[Res], decoder.mid_block.resnets)
    x = s.res(first, given)
    for res in rest:
        x = s.res(res, conv_input(x.y, bias=x.bias, skip=x.skip, tail=s.tail(), keep=True))
    return x, tuple(s.after)


def rise(decoder: Decoder, x: Sum, tails: Sequence[Tensor] | None) -> tuple[Tensor, Tails]:
    """All levels above. Returns uint8 [B, P, Y, X, 3] and the tails after these frames."""
    s = _Stream(tails)
    block: Any  # an UpBlock
    for block in decoder.up_blocks:
        given = conv_input(x.y, bias=x.bias, skip=x.skip, tail=s.tail(), norm=False)
        y, bias = s.conv(block.upsamplers[0].conv, given)
        first, *rest = block.resnets
        x = s.res(first, spread_input(y, bias=bias, skip=given.p, tail=s.tail()))
        for res in rest:
            x = s.res(res, conv_input(x.y, bias=x.bias, skip=x.skip, tail=s.tail(), keep=True))
    y, bias = s.conv(decoder.conv_out, conv_input(x.y, bias=x.bias, skip=x.skip, tail=s.tail()))
    return to_pixels(y, bias=bias, patch=decoder.patch), tuple(s.after)


def trunk_length(decoder: Decoder) -> int:
    """How many tails belong to `trunk`; the others are of `rise`."""
    return 1 + 2 * len(decoder.mid_block.resnets)
