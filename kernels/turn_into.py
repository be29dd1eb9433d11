"""Keys turned and put, with their values, where a block will read them.

    k̂ = turn(k)      turn: pairs (a, b) → (a·cos - b·sin, b·cos + a·sin)

One pass over memory: a program takes one token. Inside all is fp32. Twin and oracle: `turn_into_plain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kernels.norm_turn import turn_of, turned
from kernels.program import compiled, either, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

WARPS = 4


def turn_into_plain(
    k: Tensor, v: Tensor, *, cos: Tensor, sin: Tensor, columns: int, split: bool, k_out: Tensor, v_out: Tensor
) -> None:
    """Fills k_out and v_out.

    k, v, k_out, v_out: [B, T, H, K], of any stride over B and T.  cos, sin, columns, split: as `turned` takes them.
    """
    k_out.copy_(turned(k, cos=cos, sin=sin, columns=columns, split=split))
    v_out.copy_(v)


def turn_into_triton(
    k: Tensor, v: Tensor, *, cos: Tensor, sin: Tensor, columns: int, split: bool, k_out: Tensor, v_out: Tensor
) -> None:
    B, T, H, K = k.shape
    placed = (k, v, k_out, v_out)
    for x in placed:
        if x.stride()[2:] != (K, 1):
            raise ValueError(f"strides {x.stride()} of keys or values: heads must be adjacent")
    kernel = compiled(*TURN_INTO)
    kernel[(B * T,)](
        *placed, cos.contiguous(), sin.contiguous(), T, columns, *(s for x in placed for s in x.stride()[:2]),
        D=H * K, K=K, PAIRS=power_of_two(H * K // 2), SPLIT=split, num_warps=WARPS,
    )  # fmt: skip


turn_into = either(turn_into_triton, turn_into_plain)


def _turn_into(
    k, v, k_out, v_out, cos, sin, T, columns,
    k_b, k_t, v_b, v_t, k_out_b, k_out_t, v_out_b, v_out_t,
    D: tl.constexpr, K: tl.constexpr, PAIRS: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    b, t = i // T, i % T
    p = tl.arange(0, PAIRS)
    d = tl.arange(0, 2 * PAIRS)
    known, live = p < D // 2, d < D
    k += b * k_b + t * k_t
    k_out += b * k_out_b + t * k_out_t
    b_v = tl.load(v + b * v_b + t * v_t + d, mask=live, other=0.0)
    tl.store(v_out + b * v_out_b + t * v_out_t + d, b_v, mask=live)
    b_cos, b_sin = turn_of(cos, sin, t, T, columns, D, PAIRS)
    if SPLIT:
        first = p // (K // 2) * K + p % (K // 2)  # channel of the first of a pair
        one = tl.load(k + first, mask=known, other=0.0).to(tl.float32)
        two = tl.load(k + first + K // 2, mask=known, other=0.0).to(tl.float32)
        tl.store(k_out + first, (one * b_cos - two * b_sin).to(k_out.dtype.element_ty), mask=known)
        tl.store(k_out + first + K // 2, (two * b_cos + one * b_sin).to(k_out.dtype.element_ty), mask=known)
    else:
        row = tl.load(k + d, mask=live, other=0.0).to(tl.float32)
        one, two = tl.split(tl.reshape(row, [PAIRS, 2]))
        both = tl.interleave(one * b_cos - two * b_sin, two * b_cos + one * b_sin)
        tl.store(k_out + d, both.to(k_out.dtype.element_ty), mask=live)


TURN_INTO = _turn_into, turn_of
