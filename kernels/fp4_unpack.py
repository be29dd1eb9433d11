"""Weights in NVFP4 as a matrix in bf16, for products of so many rows that unpacking once costs less than in every tile.

Exact: e2m1·e4m3·g has six significant bits. One program per part of a row. Twin and oracle: `fp4.dequantise`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.fp4 import Fp4
from kernels.program import compiled

if TYPE_CHECKING:
    import triton.language as tl

PART = 2048  # inputs of one program


def fp4_unpack(w: Fp4, *, dtype: torch.dtype) -> Tensor:
    """[N, K] by a kernel."""
    return torch.ops.explorer.fp4_unpack(w.packed, w.scale, w.whole, dtype)


@torch.library.custom_op(
    "explorer::fp4_unpack",
    mutates_args=(),
    schema="(Tensor packed, Tensor scale, Tensor whole, ScalarType dtype) -> Tensor",
)
def _fp4_unpack(packed: Tensor, scale: Tensor, whole: Tensor, dtype: torch.dtype) -> Tensor:
    w = _place(packed, scale, whole, dtype)
    N, K = w.shape
    compiled(_unpack)[(N, -(-K // PART))](
        packed, scale.view(torch.uint8), whole, w, K=K, PART=PART, num_warps=4
    )
    return w


@_fp4_unpack.register_fake
def _place(packed: Tensor, scale: Tensor, whole: Tensor, dtype: torch.dtype) -> Tensor:
    return packed.new_empty(packed.shape[0], 2 * packed.shape[1], dtype=dtype)


def _unpack(packed, scale, whole, w, K: tl.constexpr, PART: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * PART
    half, block = start // 2 + tl.arange(0, PART // 2), start // 16 + tl.arange(0, PART // 16)
    pair = tl.load(packed + row * (K // 2) + half, mask=half < K // 2, other=0)
    s = tl.load(scale + row * (K // 16) + block, mask=block < K // 16, other=0).to(tl.int32)
    code = tl.reshape(tl.join(pair & 15, pair >> 4), (PART // 16, 16)).to(tl.int32)
    # As the top bits of an fp32, both kinds of numbers differ by a power of two only, the smallest ones too.
    number = (((code & 8) << 28) | ((code & 7) << 22)).to(tl.float32, bitcast=True) * 2.0**126
    step = ((s & 127) << 20).to(tl.float32, bitcast=True) * 2.0**120 * tl.load(whole)
    k = start + tl.arange(0, PART)
    full = tl.reshape(number * step[:, None], (PART,))
    tl.store(w + row * K + k, full.to(w.dtype.element_ty), mask=k < K)
