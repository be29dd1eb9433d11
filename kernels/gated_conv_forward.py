# mypy: disable-error-code="assignment"
# ruff: noqa: RUF005
"""`gated_conv` without gradients, for few frames: everything between two products in one pass over memory.

A program walks down a strip of columns of one frame. A thread holds a pair of channels of all the strip's columns, so
that neighbours meet in registers: a number is loaded and put through SiLU once per strip, and used for nine taps of
three rows, whose sums are under way at any time. Sums are fp32. Twin and oracle: `gated_conv_plain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.program import compiled

if TYPE_CHECKING:
    import triton.language as tl

STRIP, CHANNELS, WARPS = 8, 64, 1  # columns and channels of a program
FILL = 1024  # programs that keep a GPU busy: rows are shared out among so many


def gated_conv_forward(h: Tensor, *, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """h: [R, N, 2M], frames of rows·columns tokens.  weight: [2M, 1, 3, 3].  bias: [2M].  Returns [R, N, M]."""
    if grid[0] * grid[1] != h.shape[1]:
        raise ValueError(f"frames of {h.shape[1]} tokens are no grid of {grid[0]}x{grid[1]}")
    return torch.ops.explorer.gated_conv_forward(h, weight, bias, *grid)


@torch.library.custom_op(
    "explorer::gated_conv_forward",
    mutates_args=(),
    schema="(Tensor h, Tensor weight, Tensor bias, int rows, int columns) -> Tensor",
)
def _gated_conv_forward(h: Tensor, weight: Tensor, bias: Tensor, rows: int, columns: int) -> Tensor:
    h, M = h.contiguous(), h.shape[2] // 2
    y = h.new_empty(*h.shape[:2], M)
    blocks, strips = -(-M // CHANNELS), -(-columns // STRIP)
    parts = min(-(-rows // 2), max(1, FILL // (blocks * strips * h.shape[0])))
    span = -(-rows // parts)
    compiled(*GATED)[(blocks, strips * -(-rows // span), h.shape[0])](
        h, weight.contiguous(), bias.contiguous(), y,
        ROWS=rows, COLUMNS=columns, M=M, SPAN=span, STRIP=STRIP, CHANNELS=CHANNELS, num_warps=WARPS,
    )  # fmt: skip
    return y


@_gated_conv_forward.register_fake
def _(h: Tensor, weight: Tensor, bias: Tensor, rows: int, columns: int) -> Tensor:
    return h.new_empty(*h.shape[:2], h.shape[2] // 2)


def nine(weight, m, known):
    """The taps of channels m, row by row."""
    taps = ()
    for tap in tl.static_range(9):
        taps = taps + (tl.load(weight + m * 9 + tap, mask=known, other=0.0).to(tl.float32),)
    return taps


def loaded(h, row, first, m, ROWS: tl.constexpr, COLUMNS: tl.constexpr, M: tl.constexpr, STRIP: tl.constexpr):
    """Channels m of a row, from the column before the first to the one after the last; zeros outside."""
    x = ()
    h += (row * COLUMNS + first - 1) * 2 * M + m
    width = tl.where((row >= 0) & (row < ROWS), M, 0)
    for j in tl.static_range(STRIP + 2):
        here = tl.where((first + j > 0) & (first + j <= COLUMNS), width, 0)
        x = x + (tl.load(h + j * 2 * M, mask=m < here, other=0.0),)
    return x


def silu(x):
    """In fp32, x/(1 + 2^(-x·log₂e)); the root's inverse twice takes half the instructions of a quotient."""
    x = x.to(tl.float32)
    r = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return x * r * r


def added(total, a, taps, ROW: tl.constexpr, STRIP: tl.constexpr):
    """The sums of a row's columns and what one row of a, times one row of taps, adds to them."""
    y = ()
    for j in tl.static_range(STRIP):
        y = y + (
            total[j] + taps[3 * ROW] * a[j] + taps[3 * ROW + 1] * a[j + 1] + taps[3 * ROW + 2] * a[j + 2],
        )
    return y


def moved_on(x, upper, lower, taps, bias, STRIP: tl.constexpr):
    """With a row of h: the sums of the row above, complete; then those of itself and of the row below."""
    a, fresh = (), ()
    for j in tl.static_range(STRIP + 2):
        a = a + (silu(x[j]),)
    for _ in tl.static_range(STRIP):
        fresh = fresh + (bias,)
    return added(upper, a, taps, 2, STRIP), added(lower, a, taps, 1, STRIP), added(fresh, a, taps, 0, STRIP)


def gated(
    h, weight, bias, y,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, M: tl.constexpr, SPAN: tl.constexpr, STRIP: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    STRIPS: tl.constexpr = (COLUMNS + STRIP - 1) // STRIP
    first, top = tl.program_id(1) % STRIPS * STRIP, tl.program_id(1) // STRIPS * SPAN
    known = m < M
    h += r * ROWS * COLUMNS * 2 * M
    y += r * ROWS * COLUMNS * M
    value_taps, gate_taps = nine(weight, m, known), nine(weight + 9 * M, m, known)
    value_bias = tl.load(bias + m, mask=known, other=0.0).to(tl.float32)
    gate_bias = tl.load(bias + M + m, mask=known, other=0.0).to(tl.float32)
    v_upper, v_lower, g_upper, g_lower = (), (), (), ()
    for _ in tl.static_range(STRIP):
        v_upper, v_lower = v_upper + (value_bias,), v_lower + (value_bias,)
        g_upper, g_lower = g_upper + (gate_bias,), g_lower + (gate_bias,)
    # The next half row is asked for before the sums of one, so that they need not wait for memory.
    v_x = loaded(h, top - 1, first, m, ROWS, COLUMNS, M, STRIP)
    for i in range(SPAN + 2):
        row = top + i - 1
        g_x = loaded(h + M, row, first, m, ROWS, COLUMNS, M, STRIP)
        value, v_upper, v_lower = moved_on(v_x, v_upper, v_lower, value_taps, value_bias, STRIP)
        v_x = loaded(h, row + 1, first, m, ROWS, COLUMNS, M, STRIP)
        gate, g_upper, g_lower = moved_on(g_x, g_upper, g_lower, gate_taps, gate_bias, STRIP)
        width = tl.where((row > top) & (row <= ROWS), M, 0)
        there = y + ((row - 1) * COLUMNS + first) * M + m
        for j in tl.static_range(STRIP):
            out = value[j] * silu(gate[j])
            live = m < tl.where(first + j < COLUMNS, width, 0)
            tl.store(there + j * M, out.to(y.dtype.element_ty), mask=live)


# with the functions that it calls, for `compiled`
GATED = (gated, nine, loaded, silu, added, moved_on)
