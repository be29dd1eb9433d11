"""`norm_modulate` for layers that multiply in FP8: its result as rows in E4M3, each with a scale.

    x ← x + y·gate      n = x/√(mean x² + ε)·(1 + scale) + shift      s = max|n| / 448      v = e4m3(n / s)

n itself never reaches memory, where it would be written once and read once more. Inside all is fp32. Twin and oracle:
`norm_rows_plain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.fp8_rows import e4m3_row, fp8_rows_plain
from kernels.norm_modulate import WARPS, norm_modulate_plain, normed_row, summed
from kernels.program import compiled, either

if TYPE_CHECKING:
    import triton.language as tl


def norm_rows_plain(
    x: Tensor,
    *,
    eps: float,
    y: Tensor | None = None,
    gate: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments as in `norm_modulate_plain`. Returns the sum, e4m3 [B, T, D] and scales [B, T, 1] in fp32."""
    total, n = norm_modulate_plain(x, eps=eps, y=y, gate=gate, scale=scale, shift=shift)
    v, s = fp8_rows_plain(n.flatten(0, 1))
    return total, v.unflatten(0, x.shape[:2]), s.unflatten(0, x.shape[:2])


def norm_rows_triton(
    x: Tensor,
    *,
    eps: float,
    y: Tensor | None = None,
    gate: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    B, T, D = x.shape
    given, total, flags = summed(x, y, gate, scale, shift)
    v = x.new_empty(B, T, D, dtype=torch.float8_e4m3fn)
    s = x.new_empty(B, T, 1, dtype=torch.float32)
    kernel = compiled(*NORM_ROWS)
    kernel[(B * T,)](*given, total, v, s, T, eps, **flags, ROUND=not x.is_cuda, num_warps=WARPS)
    return total, v, s


norm_rows = either(norm_rows_triton, norm_rows_plain)


def _norm_rows(
    x, y, gate, scale, shift, total, v, s, T, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, GATE: tl.constexpr, MODULATE: tl.constexpr,
    ROUND: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    b_n = normed_row(x, y, gate, scale, shift, total, t, T, eps, D, BLOCK, ADD, GATE, MODULATE)
    b_v, b_s = e4m3_row(b_n, ROUND)
    tl.store(v + t * D + d, b_v.to(v.dtype.element_ty), mask=d < D)
    tl.store(s + t, b_s)


NORM_ROWS = _norm_rows, normed_row, e4m3_row
