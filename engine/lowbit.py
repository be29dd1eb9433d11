"""Linear maps in eight or four bits, which take the place of `nn.Linear`.

FP8: weights with a scale per output, inputs with a scale per token, multiplied as they are by Hopper and newer GPUs.
NVFP4: weights only, unpacked inside the product. Elsewhere the same numbers are multiplied in plain floating point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.fp4 import Fp4, quantise, rotate, rotation
from kernels.fp4_linear import fp4_linear, fp4_linear_plain
from kernels.fp4_unpack import fp4_unpack
from kernels.fp8_rows import fp8_rows, fp8_rows_plain

# Rows from which NVFP4 weights are unpacked once, for cuBLAS, and not in every tile: by counted bytes and FLOPs
# of an H100, unpacking then costs a quarter of the product at most (2.6 N·K bytes at 3 TB/s beside 2·M·N·K FLOPs).
MANY = 1024


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens in FP8 as an `Fp8Linear` multiplies them: made once for all that read them."""

    v: Tensor  # [..., K] e4m3
    s: Tensor  # [..., 1] fp32
    dtype: torch.dtype  # of what is computed from them


class LowBitLinear(nn.Module):
    """x: [..., K] -> [..., N] in x's dtype."""

    def __init__(self, outputs: int, inputs: int, bias: Tensor | None) -> None:
        super().__init__()
        if outputs % 16 or inputs % 16:
            raise ValueError(
                f"a linear map of {inputs} inputs and {outputs} outputs: both must be multiples of 16"
            )
        self.in_features, self.out_features = inputs, outputs
        self.bias = None if bias is None else _fixed(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x.reshape(-1, self.in_features)).unflatten(0, x.shape[:-1])

    def rows(self, x: Tensor) -> Tensor:
        """x: [M, K]."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


class Fp8Linear(LowBitLinear):
    """W8A8 in E4M3."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight: [N, K], any floating dtype.  bias: [N]."""
        super().__init__(weight.shape[0], weight.shape[1], bias)
        rows, scale = fp8_rows_plain(weight)
        self.weight, self.scale = _fixed(rows), _fixed(scale)  # [N, K] e4m3, [N, 1] fp32

    def forward(self, x: Tensor | Rows) -> Tensor:
        """Rows are multiplied as they are."""
        return product(x, self.weight, self.scale, self.bias) if isinstance(x, Rows) else super().forward(x)

    def rows(self, x: Tensor) -> Tensor:
        v, s = fp8_rows(x) if _multiplied(x, x.dtype) else fp8_rows_plain(x)
        return _product(v, s, self.weight, self.scale, self.bias, x.dtype)


def product(x: Rows, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x: [..., K].  weight: [N, K] e4m3.  scale: [N, 1].  bias: [N].  Returns [..., N]."""
    v, s = x.v.flatten(0, -2), x.s.flatten(0, -2)
    return _product(v, s, weight, scale, bias, x.dtype).unflatten(0, x.v.shape[:-1])


def _multiplied(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether FP8 units do it, which give bfloat16."""
    return x.is_cuda and dtype == torch.bfloat16


def _product(
    v: Tensor, s: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    if _multiplied(v, dtype):
        return torch._scaled_mm(
            v,
            weight.mT,
            scale_a=s,
            scale_b=scale.mT,
            bias=bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
    wide = torch.promote_types(dtype, torch.float32)
    y = (v.to(wide) @ weight.to(wide).mT) * (s.to(wide) * scale.to(wide).mT)
    return (y if bias is None else y + bias.to(wide)).to(dtype)


class Fp4Linear(LowBitLinear):
    """NVFP4 weights; inputs keep their dtype. Rotated: both go through random signs and a Hadamard matrix first."""

    turn: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, *, rotated: bool) -> None:
        """weight: [N, K], any floating dtype.  bias: [N]."""
        super().__init__(weight.shape[0], weight.shape[1], bias)
        turn = rotation(dtype=torch.float32, device=weight.device) if rotated else None
        w = quantise(weight.float() if turn is None else rotate(weight.float(), turn))
        self.weight, self.scale, self.whole = _fixed(w.packed), _fixed(w.scale), _fixed(w.whole)
        self.register_buffer("turn", turn if turn is None else turn.to(weight.dtype), persistent=False)

    def rows(self, x: Tensor) -> Tensor:
        if self.turn is not None:
            x = rotate(x, self.turn.to(x.dtype))
        w = Fp4(self.weight, self.scale, self.whole)
        if not x.is_cuda or x.dtype == torch.float64:
            return fp4_linear_plain(x, w, self.bias)
        if len(x) >= MANY:
            return F.linear(x, fp4_unpack(w, dtype=x.dtype), self.bias)
        return fp4_linear(x, w, self.bias)


def _fixed(t: Tensor) -> nn.Parameter:
    return nn.Parameter(t.detach(), requires_grad=False)
