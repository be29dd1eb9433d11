"""Rows of a matrix in FP8, each with a scale of its own.

    s = max|x| / 448      v = e4m3(x / s)      x ≈ v·s

E4M3 as in the OCP 8-bit Floating Point Specification 1.0: largest number 448, steps of 2⁻⁹ below 2⁻⁶, no infinity.
One program per row, which is read once. Twin and oracle: `fp8_rows_plain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.program import compiled, power_of_two, suits

if TYPE_CHECKING:
    import triton.language as tl

LARGEST = 448.0
SMALLEST = (
    2.0**-100
)  # a row whose largest number is below this counts as this large: its inverse stays finite


def fp8_rows_plain(x: Tensor) -> tuple[Tensor, Tensor]:
    """x: [M, K].  Returns e4m3 [M, K] and scales [M, 1] in fp32. A row with a number that is not finite becomes NaN."""
    x = x.float()
    amax = x.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST)
    largest = amax.new_full(
        (), LARGEST
    )  # torch multiplies by the inverse of a plain number, which rounds twice
    v = (x * torch.div(largest, amax)).clamp(-LARGEST, LARGEST)
    return v.to(torch.float8_e4m3fn), torch.div(amax, largest)


def fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`fp8_rows_plain` by a kernel."""
    return torch.ops.explorer.fp8_rows(x)


@torch.library.custom_op("explorer::fp8_rows", mutates_args=(), schema="(Tensor x) -> (Tensor, Tensor)")
def _fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    v, s = _places(x)
    _fill(x, v, s)
    return v, s


@_fp8_rows.register_fake
def _places(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.float8_e4m3fn), x.new_empty(x.shape[0], 1, dtype=torch.float32)


def _fill(x: Tensor, v: Tensor, s: Tensor) -> None:
    width = x.shape[1]
    block = power_of_two(width)
    warps = min(max(block // 1024, 1), 8)
    kernel = compiled(*ROWS)
    kernel[(x.shape[0],)](x.contiguous(), v, s, K=width, BLOCK=block, ROUND=not x.is_cuda, num_warps=warps)


def fp8_rows_stacked(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """`fp8_rows` of matrices [·, K] one below the other, each read where it is. Not for compiled models."""
    if not suits(parts[0]):
        return fp8_rows_plain(torch.cat(tuple(parts)))
    lengths, like = [len(x) for x in parts], parts[0]
    v = like.new_empty(sum(lengths), like.shape[1], dtype=torch.float8_e4m3fn)
    s = like.new_empty(len(v), 1, dtype=torch.float32)
    for x, *places in zip(parts, v.split(lengths), s.split(lengths), strict=True):
        _fill(x, *places)
    return v, s


def _rows(x, v, s, K: tl.constexpr, BLOCK: tl.constexpr, ROUND: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    b = tl.load(x + row * K + k, mask=k < K, other=0.0).to(tl.float32)
    b, scale = e4m3_row(b, ROUND)
    tl.store(v + row * K + k, b.to(v.dtype.element_ty), mask=k < K)
    tl.store(s + row, scale)


def e4m3_row(b, ROUND: tl.constexpr):
    """A row in fp32 as numbers that a cast to E4M3 takes to the nearest, ties to even, and the row's scale.

    ROUND: whether they are rounded here, for the interpreter, whose cast is wrong at carries. That of a GPU takes no
    time, and keeps what is a bit beyond 448.
    """
    bits = b.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # whole numbers order like the magnitudes, NaN above all
    amax = tl.max(bits, axis=0).to(tl.float32, bitcast=True)
    amax = tl.maximum(amax, 2.0**-100, propagate_nan=tl.PropagateNan.ALL)
    b = b * tl.div_rn(448.0, amax)
    if ROUND:
        b = tl.clamp(b, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
        step = (b.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True) * 0.125
        shift = tl.maximum(step, 2.0**-9) * 12582912.0  # 1.5·2²³ steps: their last bit is one step
        b = (b + shift) - shift
    return b, tl.div_rn(amax, 448.0)


ROWS = _rows, e4m3_row
