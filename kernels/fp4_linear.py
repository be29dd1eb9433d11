"""A product with weights in NVFP4 on GPUs that cannot multiply them: unpacked in registers, multiplied as bf16.

    y = (x · (e2m1·e4m3)ᵀ)·g + b

e2m1·e4m3 has six significant bits, which bf16 and fp16 hold, and sums are fp32: nothing is lost but by the weights' own
rounding. Twin and oracle: `fp4_linear_plain`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.fp4 import Fp4, dequantise
from kernels.program import compiled

if TYPE_CHECKING:
    import triton.language as tl

# Of one program: outputs, rows of x, inputs per step. Weights are the left factor, which may stay in registers.
TILE = dict(BN=128, BM=128, BK=64, GROUP=8, num_warps=8, num_stages=3)


def fp4_linear_plain(x: Tensor, w: Fp4, bias: Tensor | None) -> Tensor:
    """x: [M, K].  bias: [N].  Sums in fp32, or fp64 for x in fp64.  Returns [M, N] in x's dtype."""
    wide = torch.promote_types(x.dtype, torch.float32)
    y = x.to(wide) @ dequantise(w).to(wide).mT
    return (y if bias is None else y + bias.to(wide)).to(x.dtype)


def fp4_linear(x: Tensor, w: Fp4, bias: Tensor | None) -> Tensor:
    """`fp4_linear_plain` by a kernel. x: bf16, fp16 or fp32."""
    return torch.ops.explorer.fp4_linear(x, w.packed, w.scale, w.whole, bias)


@torch.library.custom_op(
    "explorer::fp4_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor packed, Tensor scale, Tensor whole, Tensor? bias) -> Tensor",
)
def _fp4_linear(x: Tensor, packed: Tensor, scale: Tensor, whole: Tensor, bias: Tensor | None) -> Tensor:
    x, M, N = x.contiguous(), x.shape[0], packed.shape[0]
    y = x.new_empty(M, N)
    programs = -(-M // TILE["BM"]) * -(-N // TILE["BN"])
    biases = whole if bias is None else bias.contiguous()
    compiled(_product)[(programs,)](
        x,
        packed,
        scale.view(torch.uint8),
        whole,
        biases,
        y,
        M,
        N=N,
        K=x.shape[1],
        BIAS=bias is not None,
        **TILE,
    )
    return y


@_fp4_linear.register_fake
def _(x: Tensor, packed: Tensor, scale: Tensor, whole: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], packed.shape[0])


def _product(
    x, packed, scale, whole, bias, y, M,
    N: tl.constexpr, K: tl.constexpr, BIAS: tl.constexpr,
    BN: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # GROUP tiles of rows go through all outputs together: their weights and rows stay in the cache.
    across = (N + BN - 1) // BN
    i = tl.program_id(0)
    first = i // (GROUP * across) * GROUP
    height = tl.minimum((M + BM - 1) // BM - first, GROUP)
    i_m = first + i % (GROUP * across) % height
    i_n = i % (GROUP * across) // height
    m = (i_m * BM + tl.arange(0, BM)).to(tl.int64)
    n = (i_n * BN + tl.arange(0, BN)).to(tl.int64)
    total = tl.zeros([BN, BM], dtype=tl.float32)
    for start in range(0, K, BK):
        k, half, block = (
            start + tl.arange(0, BK),
            start // 2 + tl.arange(0, BK // 2),
            start // 16 + tl.arange(0, BK // 16),
        )
        live = (n < N)[:, None]
        pair = tl.load(
            packed + n[:, None] * (K // 2) + half[None, :], mask=live & (half < K // 2)[None, :], other=0
        )
        s = tl.load(
            scale + n[:, None] * (K // 16) + block[None, :], mask=live & (block < K // 16)[None, :], other=0
        )
        code = tl.reshape(tl.join(pair & 15, pair >> 4), (BN, BK)).to(tl.int32)
        # As the top bits of an fp32, both kinds of numbers differ by a power of two only, the smallest ones too.
        number = (((code & 8) << 28) | ((code & 7) << 22)).to(tl.float32, bitcast=True) * 2.0**126
        step = ((s & 127).to(tl.int32) << 20).to(tl.float32, bitcast=True) * 2.0**120
        w = tl.reshape(tl.reshape(number, (BN, BK // 16, 16)) * step[:, :, None], (BN, BK))
        b = tl.load(x + m[None, :] * K + k[:, None], mask=(m < M)[None, :] & (k < K)[:, None], other=0.0)
        total = tl.dot(w.to(x.dtype.element_ty), b, total, input_precision="ieee")
    total *= tl.load(whole)
    if BIAS:
        total += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    tl.store(
        y + m[None, :] * N + n[:, None],
        total.to(y.dtype.element_ty),
        mask=(m < M)[None, :] & (n < N)[:, None],
    )
