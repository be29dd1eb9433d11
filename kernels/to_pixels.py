"""The last step of the video decoder: the product of its last convolution as bytes, in one pass.

Every channel is a place in a square of pixels: colour, column and row, in this order. Fractions are dropped, as the
release does. Twin and oracle: `to_pixels_plain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.program import compiled

if TYPE_CHECKING:
    import triton.language as tl

BLOCK, WARPS = 1024, 4  # bytes of a program


def to_pixels_plain(y: Tensor, *, bias: Tensor, patch: int) -> Tensor:
    """y: [B, P, h, w, 3·patch²] in [-1, 1].  bias: [3·patch²].  Returns uint8 [B, P, h·patch, w·patch, 3]."""
    x = (y + bias).unflatten(-1, (3, patch, patch)).permute(0, 1, 2, 6, 3, 5, 4)
    x = x.flatten(4, 5).flatten(2, 3)
    return (x * 127.5 + 127.5).clamp(0, 255).to(torch.uint8)


def to_pixels(y: Tensor, *, bias: Tensor, patch: int) -> Tensor:
    """`to_pixels_plain` by a kernel, sums in fp32."""
    B, P, h, w, _ = y.shape
    out = torch.empty(B, P, h * patch, w * patch, 3, dtype=torch.uint8, device=y.device)
    line = w * patch * 3
    compiled(_to_pixels)[(-(-line // BLOCK), h * patch, B * P)](
        y.contiguous(), bias, out, w, PATCH=patch, BLOCK=BLOCK, num_warps=WARPS
    )
    return out


def _to_pixels(y, bias, out, w, PATCH: tl.constexpr, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # byte of a row of pixels
    row, frame = tl.program_id(1), tl.program_id(2).to(tl.int64)
    rows, line = tl.num_programs(1), w * PATCH * 3
    live = n < line
    column = n // 3
    channel = (n % 3 * PATCH + column % PATCH) * PATCH + row % PATCH
    i_in = (frame * (rows // PATCH) + row // PATCH) * w + column // PATCH
    v = tl.load(y + i_in * (3 * PATCH * PATCH) + channel, mask=live, other=0.0).to(tl.float32)
    v += tl.load(bias + channel, mask=live, other=0.0).to(tl.float32)
    v = tl.minimum(tl.maximum(v * 127.5 + 127.5, 0.0), 255.0)
    tl.store(out + (frame * rows + row) * line + n, v.to(tl.uint8), mask=live)
