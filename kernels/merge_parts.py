"""Attention over many keys that was computed part by part, and the parts put together.

    o = Σ_i o_i·w_i / Σ_i w_i      w_i = exp(l_i), l_i: log of the sum of exp(scores) over part i

A program takes some heads of some tokens through all parts, in their order; inside all is fp32. Twin and oracle:
`merge_parts_plain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kernels.program import compiled, either, power_of_two, rows

if TYPE_CHECKING:
    import triton.language as tl

BLOCK, WARPS = 16, 4  # heads of tokens of a program


def merge_parts_plain(o: Tensor, lse: Tensor) -> Tensor:
    """o: [P, T, H, K], what each part says.  lse: [P, H, T], natural logarithms, in fp32.  Returns [T, H, K]."""
    weight = lse.softmax(0).mT[..., None]  # [P, T, H, 1]
    return (o * weight).sum(0).to(o.dtype)


def merge_parts_triton(o: Tensor, lse: Tensor) -> Tensor:
    P, T, H, K = o.shape
    o = rows(o)
    out = o.new_empty(T, H, K)
    kernel = compiled(_merge_parts)
    kernel[(-(-T * H // BLOCK),)](
        o, lse, out, T, *o.stride()[:3], *lse.stride(),
        P=P, H=H, K=K, KP=power_of_two(K), BLOCK=BLOCK, num_warps=WARPS,
    )  # fmt: skip
    return out


merge_parts = either(merge_parts_triton, merge_parts_plain)


def _merge_parts(
    o, lse, out, T, o_p, o_t, o_h, lse_p, lse_h, lse_t,
    P: tl.constexpr, H: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]  # token and head
    t, h = i // H, i % H
    c = tl.arange(0, KP)[None, :]
    there = t < T
    live = there & (c < K)
    lse += h * lse_h + t * lse_t
    o += t * o_t + h * o_h + c
    top = tl.load(lse, mask=there, other=0.0)
    for part in tl.static_range(1, P):
        top = tl.maximum(top, tl.load(lse + part * lse_p, mask=there, other=0.0))
    weights = tl.zeros([BLOCK, 1], dtype=tl.float32)
    total = tl.zeros([BLOCK, KP], dtype=tl.float32)
    for part in tl.static_range(P):
        weight = tl.exp(tl.load(lse + part * lse_p, mask=there, other=0.0) - top)
        weights += weight
        total += weight * tl.load(o + part * o_p, mask=live, other=0.0).to(tl.float32)
    tl.store(out + i * K + c, (total / weights).to(out.dtype.element_ty), mask=live)
