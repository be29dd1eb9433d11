"""Add what a layer computed, norm the sum for the next one, and modulate it: between any two layers of a transformer.

    x ← x + y·gate      n = x/√(mean x² + ε)·(1 + scale) + shift

One pass over memory instead of six: x and y are read once, both results written once. Inside all is fp32. Twin and
oracle: `norm_modulate_plain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from kernels.program import compiled, either, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

WARPS = 8


def norm_modulate_plain(
    x: Tensor,
    *,
    eps: float,
    y: Tensor | None = None,
    gate: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x, y: [B, T, D].  gate, scale, shift: [B, 1, D]; scale and shift come together. Returns the sum and n.

    What is None is left out: without y the sum is x itself, without a gate y is added as it is.
    """
    if y is not None:
        x = x + (y if gate is None else y * gate)
    n = F.rms_norm(x, x.shape[-1:], eps=eps)
    if scale is not None and shift is not None:
        n = n * (1 + scale) + shift
    return x, n


def norm_modulate_triton(
    x: Tensor,
    *,
    eps: float,
    y: Tensor | None = None,
    gate: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    given, total, flags = summed(x, y, gate, scale, shift)
    n = total.new_empty(total.shape)
    compiled(*NORM)[(x.shape[0] * x.shape[1],)](*given, total, n, x.shape[1], eps, **flags, num_warps=WARPS)
    return total, n


def summed(
    x: Tensor, y: Tensor | None, gate: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> tuple[list[Tensor], Tensor, dict[str, Any]]:
    """What `normed_row` reads, the place of the sum, and its flags."""
    B, _, D = x.shape
    x = x.contiguous()
    total = x if y is None else x.new_empty(x.shape)
    rows = [x if r is None else r.expand(B, 1, D).contiguous() for r in (gate, scale, shift)]
    flags = dict(ADD=y is not None, GATE=gate is not None, MODULATE=scale is not None)
    return [x, x if y is None else y.contiguous(), *rows], total, dict(D=D, BLOCK=power_of_two(D), **flags)


norm_modulate = either(norm_modulate_triton, norm_modulate_plain)


def _norm_modulate(
    x, y, gate, scale, shift, total, n, T, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, GATE: tl.constexpr, MODULATE: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    b_n = normed_row(x, y, gate, scale, shift, total, t, T, eps, D, BLOCK, ADD, GATE, MODULATE)
    tl.store(n + t * D + d, b_n.to(n.dtype.element_ty), mask=d < D)


def normed_row(
    x, y, gate, scale, shift, total, t, T, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, GATE: tl.constexpr, MODULATE: tl.constexpr,
):  # fmt: skip
    """Token t of all, in fp32. Leaves the sum."""
    row = t // T * D  # of the clip
    d = tl.arange(0, BLOCK)
    live = d < D
    b_x = tl.load(x + t * D + d, mask=live, other=0.0).to(tl.float32)
    if ADD:
        b_y = tl.load(y + t * D + d, mask=live, other=0.0).to(tl.float32)
        if GATE:
            b_y *= tl.load(gate + row + d, mask=live, other=0.0).to(tl.float32)
        b_x += b_y
        tl.store(total + t * D + d, b_x.to(total.dtype.element_ty), mask=live)
    b_n = b_x * (1.0 / tl.sqrt(tl.sum(b_x * b_x, axis=0) / D + eps))
    if MODULATE:
        b_scale = tl.load(scale + row + d, mask=live, other=0.0).to(tl.float32)
        b_shift = tl.load(shift + row + d, mask=live, other=0.0).to(tl.float32)
        b_n = b_n * (1.0 + b_scale) + b_shift
    return b_n


NORM = _norm_modulate, normed_row
