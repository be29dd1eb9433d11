"""Queries and keys of an attention normed over all heads and turned, keys and values put where they will be read.

    q̂ = turn(q/√(mean q² + ε)·w)      the same of k      turn: pairs (a, b) → (a·cos - b·sin, b·cos + a·sin)

A program takes one token through all of it: q, k and v are read once and written once, k and v straight into the
memory that holds what came before them. Cosines and sines come of two small tables, which stay on the chip: those of
every token would be a quarter of all that is moved. Inside all is fp32. Twin and oracle: `norm_turn_plain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.program import compiled, either, power_of_two, rows

if TYPE_CHECKING:
    import triton.language as tl

WARPS = 8


def norm_turn_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    columns: int,
    split: bool,
    eps: float,
    k_out: Tensor,
    v_out: Tensor,
    raw: Tensor | None = None,
) -> Tensor:
    """Fills k_out and v_out, and raw, if it is there, with the normed keys before they turn. Returns queries [B, T, H, K].

    q, k, v: [B, T, H·K], tokens frame by frame and row by row.  q_weight, k_weight: [H·K].  cos, sin, columns: as
    `turned` takes them.  k_out, v_out, raw: [B, T, H, K], of any stride over B and T.
    """
    heads = k_out.shape[2:]
    q, k = (F.rms_norm(x, w.shape, w, eps).unflatten(-1, heads) for x, w in ((q, q_weight), (k, k_weight)))
    k_out.copy_(turned(k, cos=cos, sin=sin, columns=columns, split=split))
    v_out.copy_(v.unflatten(-1, heads))
    if raw is not None:
        raw.copy_(k)
    return turned(q, cos=cos, sin=sin, columns=columns, split=split)


def turned(x: Tensor, *, cos: Tensor, sin: Tensor, columns: int, split: bool) -> Tensor:
    """x: [B, T, H, K] as a rotary embedding turns it, computed in fp32 at least.

    cos, sin: [rows + columns, H, K/2], of which those of a token are the sum of its row's and its column's: each pair of
    channels has zeros in one of them. columns: so many tokens are a row.  split: channels i and i + K/2 of a head are a
    pair, else adjacent ones.
    """
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    c, s = (of_tokens(table.to(y.dtype), columns) for table in (cos, sin))
    a, b = y.chunk(2, dim=-1) if split else y.unflatten(-1, (-1, 2)).unbind(-1)
    parts = (a * c - b * s, b * c + a * s)
    return (torch.cat(parts, -1) if split else torch.stack(parts, -1).flatten(-2)).to(x.dtype)


def of_tokens(table: Tensor, columns: int) -> Tensor:
    """Rows and columns added up for every token: [T, H, K/2]."""
    return (table[:-columns, None] + table[-columns:]).flatten(0, 1)


def norm_turn_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    columns: int,
    split: bool,
    eps: float,
    k_out: Tensor,
    v_out: Tensor,
    raw: Tensor | None = None,
) -> Tensor:
    B, T, H, K = k_out.shape
    D = H * K
    given = [rows(x) for x in (q, k, v)]
    filled = [k_out, v_out, k_out if raw is None else raw]
    for x in filled:
        if x.stride()[2:] != (K, 1):
            raise ValueError(f"strides {x.stride()} of a place for keys and values: heads must be adjacent")
    q_out = q.new_empty(B, T, H, K)
    kernel = compiled(*NORM_TURN)
    kernel[(B * T,)](
        *given, q_weight, k_weight, cos.contiguous(), sin.contiguous(), q_out, *filled, T, eps, columns,
        *(s for x in (*given, q_out, *filled) for s in x.stride()[:2]),
        D=D, K=K, PAIRS=power_of_two(D // 2), SPLIT=split, RAW=raw is not None, num_warps=WARPS,
    )  # fmt: skip
    return q_out


norm_turn = either(norm_turn_triton, norm_turn_plain)


def _norm_turn(
    q, k, v, q_weight, k_weight, cos, sin, q_out, k_out, v_out, raw, T, eps, columns,
    q_b, q_t, k_b, k_t, v_b, v_t, q_out_b, q_out_t, k_out_b, k_out_t, v_out_b, v_out_t, raw_b, raw_t,
    D: tl.constexpr, K: tl.constexpr, PAIRS: tl.constexpr, SPLIT: tl.constexpr, RAW: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    b, t = i // T, i % T
    p = tl.arange(0, PAIRS)
    d = tl.arange(0, 2 * PAIRS)
    known, live = p < D // 2, d < D
    first = p // (K // 2) * K + p % (K // 2)  # channel of the first of a pair, where they are split
    b_v = tl.load(v + b * v_b + t * v_t + d, mask=live, other=0.0)
    tl.store(v_out + b * v_out_b + t * v_out_t + d, b_v, mask=live)
    b_cos, b_sin = turn_of(cos, sin, t, T, columns, D, PAIRS)
    for which in tl.static_range(2):
        if which == 0:
            x, weight, out = q + b * q_b + t * q_t, q_weight, q_out + b * q_out_b + t * q_out_t
        else:
            x, weight, out = k + b * k_b + t * k_t, k_weight, k_out + b * k_out_b + t * k_out_t
        kept = raw + b * raw_b + t * raw_t
        if SPLIT:
            one = tl.load(x + first, mask=known, other=0.0).to(tl.float32)
            two = tl.load(x + first + K // 2, mask=known, other=0.0).to(tl.float32)
            mean = tl.sum(one * one + two * two, axis=0) / D
            one *= tl.load(weight + first, mask=known, other=0.0).to(tl.float32)
            two *= tl.load(weight + first + K // 2, mask=known, other=0.0).to(tl.float32)
        else:
            row = tl.load(x + d, mask=live, other=0.0).to(tl.float32)
            mean = tl.sum(row * row, axis=0) / D
            row *= tl.load(weight + d, mask=live, other=0.0).to(tl.float32)
            one, two = tl.split(tl.reshape(row, [PAIRS, 2]))
        size = 1.0 / tl.sqrt(mean + eps)
        one *= size
        two *= size
        turned_one, turned_two = one * b_cos - two * b_sin, two * b_cos + one * b_sin
        if SPLIT:
            tl.store(out + first, turned_one.to(out.dtype.element_ty), mask=known)
            tl.store(out + first + K // 2, turned_two.to(out.dtype.element_ty), mask=known)
        else:
            both = tl.interleave(turned_one, turned_two)
            tl.store(out + d, both.to(out.dtype.element_ty), mask=live)
        if RAW and which == 1:
            if SPLIT:
                tl.store(kept + first, one.to(raw.dtype.element_ty), mask=known)
                tl.store(kept + first + K // 2, two.to(raw.dtype.element_ty), mask=known)
            else:
                tl.store(kept + d, tl.interleave(one, two).to(raw.dtype.element_ty), mask=live)


def turn_of(cos, sin, t, T, columns, D: tl.constexpr, PAIRS: tl.constexpr):
    """Cosines and sines of token t."""
    p = tl.arange(0, PAIRS)
    known = p < D // 2
    row, column = t // columns * (D // 2) + p, (T // columns + t % columns) * (D // 2) + p
    b_cos = tl.load(cos + row, mask=known, other=0.0).to(tl.float32)
    b_cos += tl.load(cos + column, mask=known, other=0.0).to(tl.float32)
    b_sin = tl.load(sin + row, mask=known, other=0.0).to(tl.float32)
    b_sin += tl.load(sin + column, mask=known, other=0.0).to(tl.float32)
    return b_cos, b_sin


NORM_TURN = _norm_turn, turn_of
