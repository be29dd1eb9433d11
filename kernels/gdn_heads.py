"""Queries, keys and values of a Gated DeltaNet block out of its projections, for one chunk of a stream on a GPU.

    k ← Σ_j w_j (k of j frames back and j frames ahead)      per channel; the past from a tail, the future from the chunk
    q̂ = relu(norm q),  k̂ = scale·relu(norm k)                RMS norm over all heads
    camera: q̃ = (Pᵀ, turn) q̂,  k̃ = (P⁻¹, turn) k̂,  ṽ = (P⁻¹, turn) v
            by four channels of the first half of a head, by pairs of the second; and how much keys grow, |k̃|²/|k̂|²

One program per token: what it needs is read once and what the memory needs written once, in 16 bits; inside all is
fp32. Twin and oracle: what `engine/gdn.py` does elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.gdn_stream_programs import turned
from kernels.program import compiled, power_of_two, rows

if TYPE_CHECKING:
    import triton.language as tl

WARPS = 4


def main_heads(
    *,
    q: Tensor,
    k: Tensor,
    tail: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    conv: Tensor,
    frames: int,
    eps: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """q̂ and k̂, [B, T, D] in the dtype of q.

    q, k: [B, T, D].  tail: [B, taps-1, N, D], keys of the frames before; None: nothing.  q_weight, k_weight: [D] of
    the norms.  conv: [taps, D], the last tap is the frame itself.
    """
    return torch.ops.explorer.gdn_main_heads(q, k, tail, q_weight, k_weight, conv, frames, eps, scale)


def camera_heads(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tail: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    conv: Tensor,
    P: Tensor,
    P_inv: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    frames: int,
    eps: float,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q̃, k̃, ṽ, [B, T, D] in the dtype of q, and the growth of keys [B, T, H] in fp32.

    v: [B, T, D].  P, P_inv: fp32, 4×4 for each of B·T tokens.  cos, sin: [F, N, K/4] fp32.  The rest as above.
    """
    return torch.ops.explorer.gdn_camera_heads(
        q, k, v, tail, q_weight, k_weight, conv, P, P_inv, cos, sin, heads, frames, eps, scale
    )


@torch.library.custom_op(
    "explorer::gdn_main_heads",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor? tail, Tensor q_weight, Tensor k_weight, Tensor conv, int frames,"
    " float eps, float scale) -> (Tensor, Tensor)",
)
def _main_heads(
    q: Tensor,
    k: Tensor,
    tail: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    conv: Tensor,
    frames: int,
    eps: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    q, k, before, conv = rows(q), rows(k), _before(k, tail), conv.contiguous()
    q_out, k_out = q.new_empty(q.shape), q.new_empty(q.shape)
    compiled(*MAIN)[(q.shape[0] * q.shape[1],)](
        q, k, before, q_weight, k_weight, conv, q_out, k_out, eps, scale, *q.stride()[:2], *k.stride()[:2],
        F=frames, N=q.shape[1] // frames, D=q.shape[2], BLOCK=power_of_two(q.shape[2]),
        TAPS=len(conv), TAIL=tail is not None, num_warps=WARPS,
    )  # fmt: skip
    return q_out, k_out


@_main_heads.register_fake
def _(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape)


@torch.library.custom_op(
    "explorer::gdn_camera_heads",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor? tail, Tensor q_weight, Tensor k_weight, Tensor conv, Tensor P,"
    " Tensor P_inv, Tensor cos, Tensor sin, int heads, int frames, float eps, float scale)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
def _camera_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tail: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    conv: Tensor,
    P: Tensor,
    P_inv: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    frames: int,
    eps: float,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v, before, conv = rows(q), rows(k), rows(v), _before(k, tail), conv.contiguous()
    outs = [q.new_empty(q.shape) for _ in range(3)]
    growth = P.new_empty(*q.shape[:2], heads)
    B, T, D = q.shape
    K = D // heads
    room = dict(HEADS=power_of_two(heads), WIDTH=power_of_two(K // 2))
    compiled(*CAMERA)[(B * T,)](
        q, k, v, before, q_weight, k_weight, conv, P.contiguous(), P_inv.contiguous(),
        cos.contiguous(), sin.contiguous(), *outs, growth, eps, scale,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2],
        F=frames, N=T // frames, D=D, H=heads, K=K, **room,
        TAPS=len(conv), TAIL=tail is not None, num_warps=WARPS,
    )  # fmt: skip
    return outs[0], outs[1], outs[2], growth


@_camera_heads.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tail: Tensor | None,
    q_weight: Tensor,
    k_weight: Tensor,
    conv: Tensor,
    P: Tensor,
    P_inv: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    frames: int,
    eps: float,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, c = (q.new_empty(q.shape) for _ in range(3))
    return a, b, c, P.new_empty(*q.shape[:2], heads)


def _before(k: Tensor, tail: Tensor | None) -> Tensor:
    """The tail; where there is none anything, which is never looked at."""
    return k if tail is None else tail.contiguous()


def convolved(
    k, tail, conv, d, live, f, n, k_t,
    F: tl.constexpr, N: tl.constexpr, D: tl.constexpr, TAPS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Channels d of the keys of token n of frame f, over frames. k, tail: of the clip."""
    k += (f * N + n) * k_t
    tail += ((TAPS - 1 + f) * N + n) * D
    x = loaded(conv + (TAPS - 1) * D, d, live) * loaded(k, d, live)
    for j in tl.static_range(1, TAPS):
        y = loaded(k - j * N * k_t, d, live & (d < tl.where(f >= j, D, 0)))
        y += loaded(k + j * N * k_t, d, live & (d < tl.where(f + j < F, D, 0)))
        if TAIL:
            y += loaded(tail - j * N * D, d, live & (d < tl.where(f < j, D, 0)))
        x += y * loaded(conv + (TAPS - 1 - j) * D, d, live)
    return x


def loaded(x, d, live):
    return tl.load(x + d, mask=live, other=0.0).to(tl.float32)


def stored(out, d, live, x):
    tl.store(out + d, x.to(out.dtype.element_ty), mask=live)


def main(
    q, k, tail, q_weight, k_weight, conv, q_out, k_out, eps, scale, q_b, q_t, k_b, k_t,
    F: tl.constexpr, N: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, TAPS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    b, t = i // (F * N), i % (F * N)
    d = tl.arange(0, BLOCK)
    live = d < D
    x = loaded(q + b * q_b + t * q_t, d, live)
    x *= tl.rsqrt(tl.sum(x * x, axis=0) / D + eps)
    stored(q_out + i * D, d, live, tl.maximum(x * loaded(q_weight, d, live), 0.0))
    tail += b * (TAPS - 1) * N * D
    y = convolved(k + b * k_b, tail, conv, d, live, t // N, t % N, k_t, F, N, D, TAPS, TAIL)
    y *= tl.rsqrt(tl.sum(y * y, axis=0) / D + eps) * scale
    stored(k_out + i * D, d, live, tl.maximum(y * loaded(k_weight, d, live), 0.0))


def squared(x, y):
    """The squares of each head out of its two halves."""
    return tl.sum(x * x, axis=1) + tl.sum(y * y, axis=1)


def normed(x, y, weight, c, half, live, scale, eps, D: tl.constexpr):
    """Both halves of all heads, cut at zero."""
    size = tl.rsqrt(tl.sum(squared(x, y), axis=0) / D + eps) * scale
    x, y = x * size * loaded(weight, c, live), y * size * loaded(weight, c + half, live)
    return tl.maximum(x, 0.0), tl.maximum(y, 0.0)


def multiplied(x, M, row, column, HEADS: tl.constexpr, WIDTH: tl.constexpr):
    """Fours of channels by the matrix at M, of whose numbers i, j stands at i·row + j·column. x: [HEADS, WIDTH]."""
    even, odd = tl.split(tl.reshape(x, [HEADS, WIDTH // 4, 2, 2]))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    y0, y1 = times(M, x0, x1, x2, x3, column), times(M + row, x0, x1, x2, x3, column)
    y2, y3 = times(M + 2 * row, x0, x1, x2, x3, column), times(M + 3 * row, x0, x1, x2, x3, column)
    return tl.reshape(tl.join(tl.join(y0, y2), tl.join(y1, y3)), [HEADS, WIDTH])


def times(m, x0, x1, x2, x3, column):
    """One row of a matrix."""
    y = tl.load(m) * x0 + tl.load(m + column) * x1
    return y + tl.load(m + 2 * column) * x2 + tl.load(m + 3 * column) * x3


def camera(
    q, k, v, tail, q_weight, k_weight, conv, P, P_inv, cos, sin, q_out, k_out, v_out, growth, eps, scale,
    q_b, q_t, k_b, k_t, v_b, v_t,
    F: tl.constexpr, N: tl.constexpr, D: tl.constexpr, H: tl.constexpr, K: tl.constexpr, HEADS: tl.constexpr,
    WIDTH: tl.constexpr, TAPS: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    b, t = i // (F * N), i % (F * N)
    half: tl.constexpr = K // 2
    h, w = tl.arange(0, HEADS)[:, None], tl.arange(0, WIDTH)[None, :]
    c, live = h * K + w, (h < H) & (w < half)  # channels of the first half of each head
    pair = tl.arange(0, WIDTH // 2)[None, :]
    b_cos = loaded(cos + t * (half // 2), pair, pair < half // 2)
    b_sin = loaded(sin + t * (half // 2), pair, pair < half // 2)
    P += i * 16
    P_inv += i * 16

    v += b * v_b + t * v_t
    x = multiplied(loaded(v, c, live), P_inv, 4, 1, HEADS, WIDTH)
    stored(v_out + i * D, c, live, x)
    stored(v_out + i * D, c + half, live, turned(loaded(v, c + half, live), b_cos, b_sin, HEADS, WIDTH))

    q += b * q_b + t * q_t
    x, y = loaded(q, c, live), loaded(q, c + half, live)
    x, y = normed(x, y, q_weight, c, half, live, 1.0, eps, D)
    stored(q_out + i * D, c, live, multiplied(x, P, 1, 4, HEADS, WIDTH))
    stored(q_out + i * D, c + half, live, turned(y, b_cos, b_sin, HEADS, WIDTH))

    k += b * k_b
    tail += b * (TAPS - 1) * N * D
    x = convolved(k, tail, conv, c, live, t // N, t % N, k_t, F, N, D, TAPS, TAIL)
    y = convolved(k, tail, conv, c + half, live, t // N, t % N, k_t, F, N, D, TAPS, TAIL)
    x, y = normed(x, y, k_weight, c, half, live, scale, eps, D)
    before = tl.maximum(squared(x, y), 1e-12)
    x, y = multiplied(x, P_inv, 4, 1, HEADS, WIDTH), turned(y, b_cos, b_sin, HEADS, WIDTH)
    stored(k_out + i * D, c, live, x)
    stored(k_out + i * D, c + half, live, y)
    one = tl.arange(0, HEADS)
    tl.store(growth + i * H + one, tl.maximum(squared(x, y), 1e-12) / before, mask=one < H)


# each with the functions that it calls, for `compiled`
MAIN = (main, convolved, loaded, stored)
CAMERA = (camera, convolved, loaded, stored, squared, normed, multiplied, times, turned)
