"""The middle of the feed-forward part on a GPU: SiLU, 3×3 convolution per channel inside a frame, gate; with gradients.

    a = silu(h)      c = conv(a)      y = c[:M]·silu(c[M:])

With gradients one program per frame and block of channels: a and the gradient of c go through memory once, and the
shifted reads hit the cache. Without, a stays in registers (`gated_conv_forward`). Sums are fp32. Twin and oracle:
`gated_conv_plain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.program import compiled

if TYPE_CHECKING:
    import triton.language as tl

BLOCK, CHANNELS, WARPS = 32, 64, 4  # tokens per step and channels of a program


def gated_conv_plain(h: Tensor, *, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """h: [R, N, 2M], frames of rows·columns tokens.  weight: [2M, 1, 3, 3].  bias: [2M].  Returns [R, N, M]."""
    a = F.silu(h)
    image = a.unflatten(1, grid).permute(0, 3, 1, 2)  # channels last in memory
    c = F.conv2d(image, weight, bias, padding=1, groups=h.shape[2]).permute(0, 2, 3, 1).reshape(h.shape)
    value, gate = c.chunk(2, dim=-1)
    return value * F.silu(gate)


def gated_conv(h: Tensor, *, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """`gated_conv_plain` by kernels. weight and bias in fp32."""
    taps = weight.flatten(1).mT.float()  # [9, 2M]
    return torch.ops.explorer.gated_conv(h, taps, bias.float(), *grid)[0]


@torch.library.custom_op(
    "explorer::gated_conv",
    mutates_args=(),
    schema="(Tensor h, Tensor taps, Tensor bias, int rows, int columns) -> (Tensor, Tensor)",
)
def _gated_conv(h: Tensor, taps: Tensor, bias: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """h: [R, N, 2M].  taps: [9, 2M].  Returns y [R, N, M] and a."""
    h = h.contiguous()
    y, a = h.new_empty(*h.shape[:2], h.shape[2] // 2), torch.empty_like(h)
    compiled(_forward)[_programs(h)](
        h, taps.contiguous(), bias.contiguous(), a, y, **_sizes(h, rows, columns)
    )
    return y, a


@_gated_conv.register_fake
def _(h: Tensor, taps: Tensor, bias: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    return h.new_empty(*h.shape[:2], h.shape[2] // 2), h.new_empty(h.shape)


@torch.library.custom_op(
    "explorer::gated_conv_back",
    mutates_args=(),
    schema="(Tensor h, Tensor a, Tensor taps, Tensor bias, Tensor dy, int rows, int columns)"
    " -> (Tensor, Tensor, Tensor)",
)
def _gated_conv_back(
    h: Tensor, a: Tensor, taps: Tensor, bias: Tensor, dy: Tensor, rows: int, columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of h, and those of taps [R, 9, 2M] and bias [R, 2M] frame by frame."""
    h, a, dy = h.contiguous(), a.contiguous(), dy.contiguous()
    dc, (dh, dtaps, dbias) = torch.empty_like(h), _gradients(h)
    compiled(_backward)[_programs(h)](
        h, a, taps.contiguous(), bias.contiguous(), dy, dc, dh, dtaps, dbias, **_sizes(h, rows, columns)
    )
    return dh, dtaps, dbias


@_gated_conv_back.register_fake
def _(
    h: Tensor, a: Tensor, taps: Tensor, bias: Tensor, dy: Tensor, rows: int, columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(h)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    h, taps, bias, ctx.rows, ctx.columns = inputs
    ctx.save_for_backward(h, output[1], taps, bias)


def _differentiate(ctx: Any, dy: Tensor, da: Tensor | None) -> tuple[Tensor | None, ...]:
    """a is not given out, and carries no gradient."""
    h, a, taps, bias = ctx.saved_tensors
    dh, dtaps, dbias = torch.ops.explorer.gated_conv_back(h, a, taps, bias, dy, ctx.rows, ctx.columns)
    return dh, dtaps.sum(0), dbias.sum(0), None, None


_gated_conv.register_autograd(_differentiate, setup_context=_keep)


def _gradients(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    R, _, C = h.shape
    return (
        h.new_empty(h.shape),
        h.new_empty(R, 9, C, dtype=torch.float32),
        h.new_empty(R, C, dtype=torch.float32),
    )


def _programs(h: Tensor) -> tuple[int, int]:
    """Frames first: their number has no limit that a clip could reach."""
    return h.shape[0], -(-h.shape[2] // 2 // CHANNELS)


def _sizes(h: Tensor, rows: int, columns: int) -> dict[str, Any]:
    if rows * columns != h.shape[1]:
        raise ValueError(f"frames of {h.shape[1]} tokens are no grid of {rows}x{columns}")
    return dict(
        ROWS=rows, COLUMNS=columns, M=h.shape[2] // 2, BLOCK=BLOCK, CHANNELS=CHANNELS, num_warps=WARPS
    )


def _forward(
    h, taps, bias, a, y,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = ROWS * COLUMNS
    r = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    h += r * N * 2 * M
    a += r * N * 2 * M
    y += r * N * M
    for start in range(0, N, BLOCK):
        n = start + tl.arange(0, BLOCK)[:, None]
        live = (n < N) & (m < M)
        for half in tl.static_range(2):
            at = n * 2 * M + half * M + m
            x = tl.load(h + at, mask=live, other=0.0).to(tl.float32)
            tl.store(a + at, (x / (1.0 + tl.exp(-x))).to(a.dtype.element_ty), mask=live)
    tl.debug_barrier()
    value_bias = tl.load(bias + m, mask=m < M, other=0.0)
    gate_bias = tl.load(bias + M + m, mask=m < M, other=0.0)
    for start in range(0, N, BLOCK):
        n = start + tl.arange(0, BLOCK)[:, None]
        live = (n < N) & (m < M)
        value = tl.zeros([BLOCK, CHANNELS], dtype=tl.float32) + value_bias
        gate = tl.zeros([BLOCK, CHANNELS], dtype=tl.float32) + gate_bias
        for tap in tl.static_range(9):
            row, column = n // COLUMNS + tap // 3 - 1, n % COLUMNS + tap % 3 - 1
            inside = live & (row >= 0) & (row < ROWS) & (column >= 0) & (column < COLUMNS)
            at = (row * COLUMNS + column) * 2 * M + m
            w = tl.load(taps + tap * 2 * M + m, mask=m < M, other=0.0)
            value += w * tl.load(a + at, mask=inside, other=0.0).to(tl.float32)
            w = tl.load(taps + tap * 2 * M + M + m, mask=m < M, other=0.0)
            gate += w * tl.load(a + at + M, mask=inside, other=0.0).to(tl.float32)
        out = value * gate / (1.0 + tl.exp(-gate))
        tl.store(y + n * M + m, out.to(y.dtype.element_ty), mask=live)


def _backward(
    h, a, taps, bias, dy, dc, dh, dtaps, dbias,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = ROWS * COLUMNS
    r = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    known = m < M
    h += r * N * 2 * M
    a += r * N * 2 * M
    dc += r * N * 2 * M
    dh += r * N * 2 * M
    dy += r * N * M
    dtaps += r * 9 * 2 * M
    dbias += r * 2 * M
    value_bias = tl.load(bias + m, mask=known, other=0.0)
    gate_bias = tl.load(bias + M + m, mask=known, other=0.0)
    for start in range(0, N, BLOCK):  # through the gate
        n = start + tl.arange(0, BLOCK)[:, None]
        live = (n < N) & known
        value = tl.zeros([BLOCK, CHANNELS], dtype=tl.float32) + value_bias
        gate = tl.zeros([BLOCK, CHANNELS], dtype=tl.float32) + gate_bias
        for tap in tl.static_range(9):
            row, column = n // COLUMNS + tap // 3 - 1, n % COLUMNS + tap % 3 - 1
            inside = live & (row >= 0) & (row < ROWS) & (column >= 0) & (column < COLUMNS)
            at = (row * COLUMNS + column) * 2 * M + m
            w = tl.load(taps + tap * 2 * M + m, mask=known, other=0.0)
            value += w * tl.load(a + at, mask=inside, other=0.0).to(tl.float32)
            w = tl.load(taps + tap * 2 * M + M + m, mask=known, other=0.0)
            gate += w * tl.load(a + at + M, mask=inside, other=0.0).to(tl.float32)
        d = tl.load(dy + n * M + m, mask=live, other=0.0).to(tl.float32)
        open = 1.0 / (1.0 + tl.exp(-gate))
        dvalue, dgate = d * gate * open, d * value * open * (1.0 + gate * (1.0 - open))
        at = n * 2 * M + m
        tl.store(dc + at, dvalue.to(dc.dtype.element_ty), mask=live)
        tl.store(dc + at + M, dgate.to(dc.dtype.element_ty), mask=live)
    tl.debug_barrier()
    for half in tl.static_range(2):
        channel = half * M + m
        total = tl.zeros([BLOCK, CHANNELS], dtype=tl.float32)
        for start in range(0, N, BLOCK):
            n = start + tl.arange(0, BLOCK)[:, None]
            total += tl.load(dc + n * 2 * M + channel, mask=(n < N) & known, other=0.0).to(tl.float32)
        tl.store(dbias + channel, tl.sum(total, axis=0)[None, :], mask=known)
        for moved in range(9):  # of the weights
            total = tl.zeros([BLOCK, CHANNELS], dtype=tl.float32)
            for start in range(0, N, BLOCK):
                n = start + tl.arange(0, BLOCK)[:, None]
                live = (n < N) & known
                row, column = n // COLUMNS + moved // 3 - 1, n % COLUMNS + moved % 3 - 1
                inside = live & (row >= 0) & (row < ROWS) & (column >= 0) & (column < COLUMNS)
                at = (row * COLUMNS + column) * 2 * M + channel
                b_dc = tl.load(dc + n * 2 * M + channel, mask=live, other=0.0).to(tl.float32)
                total += b_dc * tl.load(a + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(dtaps + moved * 2 * M + channel, tl.sum(total, axis=0)[None, :], mask=known)
        for start in range(0, N, BLOCK):  # of the input: every tap the other way
            n = start + tl.arange(0, BLOCK)[:, None]
            live = (n < N) & known
            da = tl.zeros([BLOCK, CHANNELS], dtype=tl.float32)
            for tap in tl.static_range(9):
                row, column = n // COLUMNS - (tap // 3 - 1), n % COLUMNS - (tap % 3 - 1)
                inside = live & (row >= 0) & (row < ROWS) & (column >= 0) & (column < COLUMNS)
                at = (row * COLUMNS + column) * 2 * M + channel
                w = tl.load(taps + tap * 2 * M + channel, mask=known, other=0.0)
                da += w * tl.load(dc + at, mask=inside, other=0.0).to(tl.float32)
            at = n * 2 * M + channel
            x = tl.load(h + at, mask=live, other=0.0).to(tl.float32)
            open = 1.0 / (1.0 + tl.exp(-x))
            tl.store(dh + at, (da * open * (1.0 + x * (1.0 - open))).to(dh.dtype.element_ty), mask=live)
