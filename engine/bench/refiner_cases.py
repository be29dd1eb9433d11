"""What the kernels of the second stage, and that of products in FP8, are measured with: as in `cases`."""

from __future__ import annotations

from typing import Any

import torch

from engine.bench.case import Case, Shape
from engine.ltx2 import LTX2_REFINER
from engine.refiner_model import EPS
from engine.setup import Sizes
from kernels.fp8_rows import fp8_rows, fp8_rows_plain
from kernels.norm_modulate import norm_modulate_plain, norm_modulate_triton
from kernels.norm_turn import norm_turn_plain, norm_turn_triton

BLOCK = Shape(
    clips=1,
    frames=LTX2_REFINER.block,
    grid=Sizes().grid,
    heads=LTX2_REFINER.heads,
    width=LTX2_REFINER.head_dim,
)  # latent frames that are refined together


def modulate_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Between two layers."""
    values = _draws(device, dtype)
    clip, row = (shape.clips, shape.frames * shape.tokens, shape.dim), (shape.clips, 1, shape.dim)
    return dict(
        x=values(*clip), y=values(*clip), gate=values(*row), scale=values(*row), shift=values(*row), eps=EPS
    )


def turn_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Before an attention."""
    values, exact = _draws(device, dtype), _draws(device, torch.float32)
    T, heads = shape.frames * shape.tokens, (shape.heads, shape.width)
    q, k, v = (values(shape.clips, T, shape.dim) for _ in range(3))
    k_out, v_out = (q.new_empty(shape.clips, T, *heads) for _ in range(2))
    angle = exact(T, shape.heads, shape.width // 2)
    return dict(
        q=q,
        k=k,
        v=v,
        q_weight=values(shape.dim),
        k_weight=values(shape.dim),
        cos=angle.cos(),
        sin=angle.sin(),
        split=LTX2_REFINER.rope == "split",
        eps=EPS,
        k_out=k_out,
        v_out=v_out,
    )


def rows_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Of a linear map in FP8."""
    return dict(x=_draws(device, dtype)(shape.frames * shape.tokens, shape.dim))


def _draws(device: torch.device, dtype: torch.dtype) -> Any:
    """What draws numbers of any shape."""
    g = torch.Generator(device).manual_seed(0)
    return lambda *size: torch.randn(size, generator=g, device=device, dtype=dtype)


REFINER_CASES = (
    Case(
        name="norm_modulate",
        shape=BLOCK,
        inputs=modulate_inputs,
        kernel=norm_modulate_triton,
        twin=norm_modulate_plain,
    ),
    Case(name="norm_turn", shape=BLOCK, inputs=turn_inputs, kernel=norm_turn_triton, twin=norm_turn_plain),
    Case(name="fp8_rows", shape=BLOCK, inputs=rows_inputs, kernel=fp8_rows, twin=fp8_rows_plain),
)
