"""NVFP4: four-bit numbers in blocks of sixteen, each block with a scale in FP8, all with one scale in FP32.

    w ≈ e2m1 · e4m3 · g        g ≥ max|w| / (6·448)        scale of a block = e4m3(max|block| / (6·g))

E2M1 as in the OCP Microscaling Formats Specification 1.0, §5.3.3: a sign, two bits of exponent with bias 1, one of
mantissa. Blocks of 16 along the input axis and both levels of scales: NVIDIA, "Pretraining Large Language Models with
NVFP4", arXiv 2509.25149, §2. g is rounded up to a power of two: scales are floating, so that this costs none of their
precision, and a number of the format, which then has six significant bits, is exact in bf16. Two numbers share a
byte, the first in its low bits, as in PyTorch's float4_e2m1fn_x2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 16
LARGEST, LARGEST_SCALE = 6.0, 448.0
SIGNS = (1, 1, -1, 1, 1, -1, -1, 1, -1, 1, 1, 1, -1, -1, 1, -1)  # drawn once; weights and inputs must agree


class Fp4(NamedTuple):
    """A matrix [N, K] in NVFP4."""

    packed: Tensor  # [N, K/2] uint8
    scale: Tensor  # [N, K/16] e4m3
    whole: Tensor  # g, one power of two in fp32, shape []


def to_e2m1(x: Tensor) -> Tensor:
    """Codes 0…15 as uint8 of the nearest numbers, ties to the even code; beyond 6 the largest."""
    m = x.abs().clamp(max=LARGEST)
    step = torch.where(m < 2, 0.5, torch.where(m < 4, 1.0, 2.0))
    halves = (m / step).round() * step * 2  # 0 1 2 3 4 6 8 12
    code = halves.clamp(max=4) + (halves - 4).clamp(0, 4) / 2 + (halves - 8).clamp(min=0) / 4
    return code.to(torch.uint8) | (x.signbit().to(torch.uint8) << 3)


def from_e2m1(code: Tensor) -> Tensor:
    """Numbers in fp32 of codes 0…15."""
    m = (code & 7).int()
    quarters = torch.where(m < 2, 2 * m, (2 + (m & 1)) << (m >> 1))  # of e2m1, by exponent and mantissa
    number = 0.25 * quarters.float()
    return torch.where(code < 8, number, -number)


def pack(code: Tensor) -> Tensor:
    """Codes [..., K] -> bytes [..., K/2]."""
    return code[..., 0::2] | (code[..., 1::2] << 4)


def unpack(packed: Tensor) -> Tensor:
    """The inverse of `pack`."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def quantise(w: Tensor) -> Fp4:
    """w: [N, K], K a multiple of 16. One number that is not finite makes NaN of all."""
    w = w.float()
    largest = w.abs().amax()
    part, exponent = torch.frexp((largest / (LARGEST * LARGEST_SCALE)).clamp_min(2.0**-100))
    whole = torch.ldexp(
        torch.ones_like(part), exponent - (part == 0.5).int()
    )  # rounded up: part is in [½, 1)
    whole = torch.where(largest.isfinite(), whole, torch.nan)
    blocks = w.unflatten(1, (-1, BLOCK))
    scale = (blocks.abs().amax(dim=2) / (LARGEST * whole)).clamp(max=LARGEST_SCALE).to(torch.float8_e4m3fn)
    step = (scale.float() * whole)[..., None]
    code = to_e2m1(torch.where(step > 0, blocks / step, 0.0))
    return Fp4(pack(code.flatten(1)), scale, whole)


def dequantise(w: Fp4) -> Tensor:
    """[N, K] in fp32, each exact in bf16."""
    scale = (w.scale.float() * w.whole)[..., None]
    return (from_e2m1(unpack(w.packed)).unflatten(1, (-1, BLOCK)) * scale).flatten(1)


def rotation(*, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Orthogonal [16, 16]: random signs, then the Hadamard matrix (Sylvester) over 4. Entries ±1/4."""
    h = torch.ones(1, 1)
    while len(h) < BLOCK:
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    return (torch.tensor(SIGNS)[:, None] * h / 4).to(device=device, dtype=dtype)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Every block of 16 along the last axis through `turn`: outliers are spread. (x·R)(w·R)ᵀ is x·wᵀ."""
    return (x.unflatten(-1, (-1, BLOCK)) @ turn).flatten(-2)
