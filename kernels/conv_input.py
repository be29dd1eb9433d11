"""What a causal 3×3×3 convolution of the video decoder reads, made in one pass: channels last, past and border in place.

    x = y + bias + skip             y: the product of the convolution before, its bias still missing
    a = silu(x / rms(x))            rms over channels; a = x where no norm is asked for
    p = a with two frames before it and a border of one reflected pixel

After an upsampling convolution y is spread first: eight channels are the 2×2×2 cells of one, and so is skip, whose
channels repeat. The convolution then runs on p without padding. Sums are fp32; what is stored has the dtype of y.
Twins and oracles: `conv_input_plain`, `spread_plain`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.program import compiled, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

ELEMENTS, WARPS = 4096, 8  # of a program
SPREAD_ELEMENTS, SPREAD_WARPS = 2048, 4  # the same where every channel is read from another cell
TAIL = 2  # frames that a kernel of three sees besides its own


@dataclass(frozen=True, slots=True)
class ConvInput:
    """p: [B, F + 2, Y + 2, X + 2, C].  tail: [B, 2, Y, X, C], the last frames of a.  x: [B, F, Y, X, C] if asked for."""

    p: Tensor
    tail: Tensor
    x: Tensor | None


def conv_input_plain(
    y: Tensor,
    *,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    tail: Tensor | None = None,
    norm: bool = True,
    keep: bool = False,
) -> ConvInput:
    """y, skip: [B, F, Y, X, C].  bias: [C].  tail: of the frames before, None: the first one is repeated."""
    x = y if bias is None else y + bias
    x = x if skip is None else x + skip
    a = F.silu(x / x.square().mean(-1, keepdim=True).add(1e-8).sqrt()) if norm else x
    before = a[:, :1].expand(-1, TAIL, -1, -1, -1) if tail is None else tail
    a = torch.cat((before, a), dim=1)
    p = F.pad(a.permute(0, 4, 1, 2, 3), (1, 1, 1, 1, 0, 0), mode="reflect").permute(0, 2, 3, 4, 1)
    return ConvInput(p.contiguous(), a[:, -TAIL:].clone(), x if keep else None)


def spread_plain(y: Tensor, *, bias: Tensor, skip: Tensor, first: bool) -> Tensor:
    """An upsampler's result.

    y: [B, F, Y, X, 8·C].  bias: [8·C].  skip: p of the convolution that made y, [B, F + 2, Y + 2, X + 2, 2·C].
    first: the clip begins here, and its leading frame is dropped.  Returns [B, 2·F or 2·F - 1, 2·Y, 2·X, C].
    """
    parts = []
    for t in (y + bias, skip[:, TAIL:, 1:-1, 1:-1]):
        cells = t.unflatten(-1, (-1, 2, 2, 2)).permute(0, 1, 5, 2, 6, 3, 7, 4)
        parts.append(cells.flatten(5, 6).flatten(3, 4).flatten(1, 2))
    x = parts[0] + parts[1].repeat(1, 1, 1, 1, parts[0].shape[-1] // parts[1].shape[-1])
    return x[:, 1:] if first else x


def conv_input(
    y: Tensor,
    *,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    tail: Tensor | None = None,
    norm: bool = True,
    keep: bool = False,
) -> ConvInput:
    """`conv_input_plain` by a kernel."""
    _check(y.shape, y.shape if skip is None else skip.shape, y.shape)
    return _launch(y, bias, skip, tail, y.shape, norm=norm, keep=keep, spread=False)


def spread_input(y: Tensor, *, bias: Tensor, skip: Tensor, tail: Tensor | None) -> ConvInput:
    """`conv_input_plain` of `spread_plain`, normed and kept, by a kernel. Without tail the clip begins here."""
    B, frames, Y, X, C = y.shape
    _check(y.shape, skip.shape, (B, frames + TAIL, Y + 2, X + 2, C // 4))
    shape = torch.Size((B, 2 * frames - (tail is None), 2 * Y, 2 * X, C // 8))
    return _launch(y, bias, skip, tail, shape, norm=True, keep=True, spread=True)


def _check(y: torch.Size, skip: torch.Size, wanted: tuple[int, ...]) -> None:
    if tuple(skip) != tuple(wanted):
        raise ValueError(
            f"a skip of shape {tuple(skip)} for a product of {tuple(y)}: it must be {tuple(wanted)}"
        )
    if min(y[2:4]) < 2:
        raise ValueError(f"frames of {y[2]}x{y[3]} have no border to reflect: they must be 2x2 or larger")


def _launch(
    y: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    tail: Tensor | None,
    shape: torch.Size,
    *,
    norm: bool,
    keep: bool,
    spread: bool,
) -> ConvInput:
    B, frames, Y, X, C = shape
    if tail is not None and tail.shape != (B, TAIL, Y, X, C):
        raise ValueError(
            f"a tail of shape {tuple(tail.shape)}: before {tuple(shape)} it must be {(B, TAIL, Y, X, C)}"
        )
    p = y.new_empty(B, frames + TAIL, Y + 2, X + 2, C)
    after = y.new_empty(B, TAIL, Y, X, C)
    x = y.new_empty(shape) if keep else None
    width = power_of_two(C)
    elements, warps = (SPREAD_ELEMENTS, SPREAD_WARPS) if spread else (ELEMENTS, WARPS)
    block = max(elements // width, 1)
    compiled(_conv_input, general=("F", "FIRST"))[(-(-(Y + 2) * (X + 2) // block), frames + TAIL, B)](
        y.contiguous(), bias, None if skip is None else skip.contiguous(),
        y if tail is None else tail.to(y.dtype).contiguous(), p, after, x, frames, Y, X, int(tail is None),
        C=C, WIDTH=width, BLOCK=block, NORM=norm, SPREAD=spread, num_warps=warps,
    )  # fmt: skip
    return ConvInput(p, after, x)


def _conv_input(
    y, bias, skip, tail, p, after, x, F, Y, X, FIRST,
    C: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]  # pixel of p
    i_f, b = tl.program_id(1) + 0 * n, tl.program_id(2).to(tl.int64)  # frame of p, the same for all pixels
    c = tl.arange(0, WIDTH)[None, :]
    row, column = n // (X + 2) - 1, n % (X + 2) - 1
    known = c < C
    live = (n < (Y + 2) * (X + 2)) & known
    inside = live & (row >= 0) & (row < Y) & (column >= 0) & (column < X)
    row = tl.where(row < Y, tl.abs(row), 2 * Y - 2 - row)
    column = tl.where(column < X, tl.abs(column), 2 * X - 2 - column)
    at, size = (row * X + column) * C + c, Y * X * C
    f = tl.maximum(i_f - 2, 0)
    past = i_f < 2 * (1 - FIRST)  # a frame of the tail
    made = live & (i_f >= 2 * (1 - FIRST))
    if SPREAD:
        g = f + FIRST  # the leading frame is dropped
        cell = g % 2 * 4 + row % 2 * 2 + column % 2
        i_in = ((b * ((F + FIRST) // 2) + g // 2) * (Y // 2) + row // 2) * (X // 2) + column // 2
        channel = c * 8 + cell
        v = tl.load(y + i_in * (8 * C) + channel, mask=made, other=0.0).to(tl.float32)
        v += tl.load(bias + channel, mask=made, other=0.0).to(tl.float32)
        i_skip = (b * ((F + FIRST) // 2 + 2) + g // 2 + 2) * (Y // 2 + 2) + row // 2 + 1
        i_skip = i_skip * (X // 2 + 2) + column // 2 + 1
        p_skip = skip + i_skip * (2 * C) + c % (C // 4) * 8 + cell
        v += tl.load(p_skip, mask=made, other=0.0).to(tl.float32)
    else:
        v = tl.load(y + (b * F + f) * size + at, mask=made, other=0.0).to(tl.float32)
        if bias is not None:
            v += tl.load(bias + c, mask=known, other=0.0).to(tl.float32)
        if skip is not None:
            v += tl.load(skip + (b * F + f) * size + at, mask=made, other=0.0).to(tl.float32)
    if x is not None:
        tl.store(x + (b * F + f) * size + at, v.to(x.dtype.element_ty), mask=inside & (i_f >= 2))
    if NORM:
        v = v / tl.sqrt(tl.sum(v * v, axis=1, keep_dims=True) / C + 1e-8)
        v = v / (1.0 + tl.exp(-v))
    old = tl.load(tail + (b * 2 + i_f) * size + at, mask=live & past, other=0.0)
    v = tl.where(past, old.to(tl.float32), v)
    v = v.to(p.dtype.element_ty)
    tl.store(p + (b * (F + 2) + i_f) * (Y + 2) * (X + 2) * C + n * C + c, v, mask=live)
    tl.store(after + (b * 2 + i_f - F) * size + at, v, mask=inside & (i_f >= F))
