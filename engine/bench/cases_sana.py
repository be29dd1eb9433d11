"""Cases of the kernels of sana-wm and its refiner that stand between large products, and of those in few bits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.bench.case import APART, REFINED, SINK, STREAM, WORDS, Case, Shape
from engine.rope import Rotary, rotary_tables, rotate_real
from engine.ucpe import fours_by_sums
from kernels.fp4 import Fp4, dequantise, quantise
from kernels.fp4_linear import fp4_linear, fp4_linear_plain
from kernels.fp4_unpack import fp4_unpack
from kernels.fp8_rows import fp8_rows, fp8_rows_plain
from kernels.gdn_heads import camera_heads, main_heads
from kernels.gelu_rows import gelu_rows_plain, gelu_rows_triton
from kernels.merge_parts import merge_parts_plain, merge_parts_triton
from kernels.norm_modulate import norm_modulate_plain, norm_modulate_triton
from kernels.norm_rows import norm_rows_plain, norm_rows_triton
from kernels.norm_turn import norm_turn_plain, norm_turn_triton
from kernels.turn_into import turn_into_plain, turn_into_triton

TAPS = 4  # of the short convolution
PARTS = 4  # of the refiner's keys on 132 multiprocessors


class Random:
    """Normal numbers from one seed."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator(device).manual_seed(0)

    def __call__(self, *size: int, dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or self.dtype
        return torch.randn(size, generator=self.generator, device=self.device, dtype=dtype)


def main_heads_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Queries and keys are views of one product, as a block makes them."""
    draw, T, D = Random(device, dtype), shape.frames * shape.tokens, shape.dim
    q, k, _ = draw(shape.clips, T, 3 * D).chunk(3, dim=-1)
    return dict(
        q=q,
        k=k,
        tail=draw(shape.clips, TAPS - 1, shape.tokens, D),
        q_weight=draw(D),
        k_weight=draw(D),
        conv=draw(TAPS, D),
        frames=shape.frames,
        eps=1e-5,
        scale=(shape.width * shape.tokens) ** -0.5,
    )


def camera_heads_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The same with values, ray matrices and angles."""
    draw = Random(device, dtype)
    where = shape.clips, 1, shape.frames, shape.tokens, 4, 4
    _, rotary = rotary_tables(
        frame=4,
        frames=shape.frames,
        grid=shape.grid,
        head_dim=shape.width,
        device=device,
        dtype=torch.float32,
    )
    P, P_inv = (draw(*where, dtype=torch.float32) for _ in range(2))
    own = {name: draw(shape.clips, shape.frames * shape.tokens, shape.dim) for name in "qkv"}
    return {
        **main_heads_inputs(shape, device, dtype),
        **own,
        **dict(P=P, P_inv=P_inv, cos=rotary.cos, sin=rotary.sin, heads=shape.heads),
    }


def main_heads_twin(
    *,
    q: Tensor,
    k: Tensor,
    tail: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    conv: Tensor,
    frames: int,
    eps: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Convolution over frames, norms, ReLU, scale."""
    long = torch.cat((tail, k.unflatten(1, (frames, -1)), torch.zeros_like(tail)), dim=1)
    taps = [long[:, TAPS - 1 + j :][:, :frames] for j in range(1 - TAPS, TAPS)]
    k = sum((x * conv[i if i < TAPS else 2 * TAPS - 2 - i] for i, x in enumerate(taps)), start=0 * taps[0])
    k = k.flatten(1, 2)
    q, k = (F.rms_norm(x, x.shape[-1:], w, eps).relu() for x, w in ((q, q_weight), (k, k_weight)))
    return q, k * scale


def camera_heads_twin(
    *, v: Tensor, P: Tensor, P_inv: Tensor, cos: Tensor, sin: Tensor, heads: int, frames: int, **rest: Any
) -> tuple[Tensor, ...]:
    """Then fours of channels by the matrices of rays, and pairs by their angles."""
    q, k = main_heads_twin(frames=frames, **rest)

    def split(x: Tensor) -> Tensor:
        x = x.float().unflatten(-1, (heads, -1)).unflatten(1, (frames, -1))
        return x.permute(0, 3, 1, 2, 4)

    def placed(x: Tensor, M: Tensor) -> Tensor:
        a, b = split(x).chunk(2, dim=-1)
        return torch.cat((fours_by_sums(a, M), rotate_real(b, Rotary(cos, sin, None), back=False)), dim=-1)

    def rows(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2).to(v.dtype)

    turned = placed(k, P_inv)
    growth = (turned.norm(dim=-1).clamp_min(1e-6) / split(k).norm(dim=-1).clamp_min(1e-6)).square()
    growth = growth.permute(0, 2, 3, 1).flatten(1, 2)
    return rows(placed(q, P.mT)), rows(turned), rows(placed(v, P_inv)), growth


def modulate_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    draw, T = Random(device, dtype), shape.frames * shape.tokens
    rows = {name: draw(shape.clips, 1, shape.dim) for name in ("gate", "scale", "shift")}
    return dict(x=draw(shape.clips, T, shape.dim), y=draw(shape.clips, T, shape.dim), eps=1e-6, **rows)


def turn_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    draw, T = Random(device, dtype), shape.frames * shape.tokens
    return dict(
        {name: draw(shape.clips, T, shape.dim) for name in "qkv"},
        q_weight=draw(shape.dim),
        k_weight=draw(shape.dim),
        **_turns(shape, draw),
        eps=1e-6,
    )


def _turns(shape: Shape, draw: Random) -> dict[str, Any]:
    rows, columns = shape.frames * shape.grid[0], shape.grid[1]
    angle = draw(rows + columns, shape.heads, shape.width // 2, dtype=torch.float32)
    return dict(cos=angle.cos(), sin=angle.sin(), columns=columns, split=False)


def turn_kernel(**given: Any) -> tuple[Tensor, ...]:
    """With what it fills."""
    k, v = _places(**given)
    return norm_turn_triton(**given, k_out=k, v_out=v), k, v


def turn_twin(**given: Any) -> tuple[Tensor, ...]:
    k, v = _places(**given)
    return norm_turn_plain(**given, k_out=k, v_out=v), k, v


def _places(*, q: Tensor, cos: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    """Where keys and values go, [B, T, H, K]."""
    k, v = (q.new_empty(q.shape).unflatten(-1, (cos.shape[1], -1)) for _ in range(2))
    return k, v


def sink_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Keys and values of the first frame."""
    draw, T = Random(device, dtype), shape.frames * shape.tokens
    kv = {name: draw(shape.clips, T, shape.heads, shape.width) for name in "kv"}
    return dict(kv, **_turns(shape, draw))


def sink_kernel(**given: Any) -> tuple[Tensor, Tensor]:
    """What it fills."""
    places = torch.empty_like(given["k"]), torch.empty_like(given["v"])
    turn_into_triton(**given, k_out=places[0], v_out=places[1])
    return places


def sink_twin(**given: Any) -> tuple[Tensor, Tensor]:
    places = torch.empty_like(given["k"]), torch.empty_like(given["v"])
    turn_into_plain(**given, k_out=places[0], v_out=places[1])
    return places


def part_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    draw = Random(device, dtype)
    lse = draw(PARTS, shape.heads, shape.tokens, dtype=torch.float32)
    return dict(o=draw(PARTS, shape.tokens, shape.heads, shape.width), lse=lse)


def row_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    return dict(x=Random(device, dtype)(shape.clips * shape.frames * shape.tokens, shape.dim))


def wide_row_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Rows between the two maps of a feed-forward part."""
    return dict(x=Random(device, dtype)(shape.clips * shape.frames * shape.tokens, 4 * shape.dim))


def few_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Rows, and the weights that make keys and values of them."""
    draw = Random(device, dtype)
    w = quantise(draw(2 * shape.dim, shape.dim, dtype=torch.float32))
    return dict(row_inputs(shape, device, dtype), w=w, bias=draw(2 * shape.dim))


def packed_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The first weights of a feed-forward part."""
    draw = Random(device, torch.float32)
    return dict(w=quantise(draw(4 * shape.dim, shape.dim)), dtype=dtype)


def unpack_twin(w: Fp4, *, dtype: torch.dtype) -> Tensor:
    return dequantise(w).to(dtype)


SANA_CASES = (
    Case(
        name="gdn_heads, main",
        shape=STREAM,
        inputs=main_heads_inputs,
        kernel=main_heads,
        twin=main_heads_twin,
    ),
    Case(
        name="gdn_heads, camera",
        shape=STREAM,
        inputs=camera_heads_inputs,
        kernel=camera_heads,
        twin=camera_heads_twin,
    ),
    Case(
        name="norm_modulate",
        shape=REFINED,
        inputs=modulate_inputs,
        kernel=norm_modulate_triton,
        twin=norm_modulate_plain,
    ),
    Case(name="norm_turn", shape=REFINED, inputs=turn_inputs, kernel=turn_kernel, twin=turn_twin),
    Case(name="turn_into", shape=SINK, inputs=sink_inputs, kernel=sink_kernel, twin=sink_twin),
    Case(
        name="merge_parts", shape=APART, inputs=part_inputs, kernel=merge_parts_triton, twin=merge_parts_plain
    ),
    Case(name="fp8_rows", shape=REFINED, inputs=row_inputs, kernel=fp8_rows, twin=fp8_rows_plain),
    Case(
        name="norm_rows",
        shape=REFINED,
        inputs=modulate_inputs,
        kernel=norm_rows_triton,
        twin=norm_rows_plain,
    ),
    Case(
        name="gelu_rows",
        shape=REFINED,
        inputs=wide_row_inputs,
        kernel=gelu_rows_triton,
        twin=gelu_rows_plain,
    ),
    Case(name="fp4_linear", shape=WORDS, inputs=few_inputs, kernel=fp4_linear, twin=fp4_linear_plain),
    Case(name="fp4_unpack", shape=REFINED, inputs=packed_inputs, kernel=fp4_unpack, twin=unpack_twin),
)
