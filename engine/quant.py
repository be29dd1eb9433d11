"""Which linear maps of sana-wm may lose bits, and the swap of each as soon as its weights are there.

The lists follow the released pipelines (NVIDIA's Transformer Engine recipes for SANA-WM): the refiner's attention and
feed-forward maps in all blocks; in stage 1 those of self-attention, cross-attention and feed-forward. Everything
outside blocks stays: patch and text projections, noise levels, the last layer. So do the gates of the recurrent
memory (a number per head), the convolutions over space and time, and the projection of camera rays, and no ray or
rope is ever computed inside a swapped map.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn

from engine.lowbit import Fp4Linear, Fp8Linear, LowBitLinear
from engine.place import Ready
from engine.setup import BYTES, Format
from kernels.fp4 import BLOCK

Part = Literal["world", "refiner"]


PATTERNS: dict[Part, re.Pattern[str]] = {
    "world": re.compile(
        r"blocks\.\d+\.(attn\.(qkv|[qkv]_proj_cam|out_proj_cam|output_gate|proj)"
        r"|cross_attn\.(q_linear|kv_linear|proj)"
        r"|mlp\.(inverted_conv|point_conv)\.conv)"  # 1×1: linear maps of single tokens
    ),
    "refiner": re.compile(r"transformer_blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ff\.net\.(0\.proj|2))"),
}


def lowered(part: Part, name: str, shape: Sequence[int]) -> bool:
    """Whether the map of this name, with a weight of this shape, is one of those that may lose bits.

    Inputs and outputs must come in sixteens: the blocks of NVFP4, and what GPUs ask of FP8.
    """
    return PATTERNS[part].fullmatch(name) is not None and not shape[0] % BLOCK and not shape[1] % BLOCK


def lowered_maps(model: nn.Module, part: Part) -> list[str]:
    """Their names, in order."""
    weights = ((name.removesuffix(".weight"), p.shape) for name, p in model.named_parameters() if p.ndim > 1)
    return [name for name, shape in weights if lowered(part, name, shape)]


def lowering(
    model: nn.Module, part: Part, form: Format, *, on: torch.device, say: Callable[[str], None]
) -> Ready:
    """What swaps the maps of `model` one by one while it is filled: there is never a second copy of its weights.

    on: where numbers are rounded, whatever host memory they come from and return to.  say: is told how far it is.
    """
    wanted = set(lowered_maps(model, part)) if form != "bf16" else set()
    done = 0

    def ready(name: str, module: nn.Module) -> None:
        nonlocal done
        if name not in wanted:
            return
        model.set_submodule(name, _swapped(module, part, form, on))
        done += 1
        if done % max(len(wanted) // 20, 1) == 0:
            say(f"rounding to {form}: {100 * done // len(wanted)} %")

    return ready


def _swapped(module: nn.Module, part: Part, form: Format, on: torch.device) -> LowBitLinear:
    weight, bias = module.get_parameter("weight"), module._parameters.get("bias")
    home, matrix = weight.device, weight.detach().flatten(1).to(on)
    low = Fp8Linear(matrix, bias) if form == "fp8" else Fp4Linear(matrix, bias, rotated=part == "world")
    return low.to(home).eval()


def stored_bytes(model: nn.Module, part: Part, form: Format, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of every parameter once the model is placed; `model` may be empty."""
    low = {f"{name}.weight" for name in lowered_maps(model, part)} if form != "bf16" else set()
    return {
        name: int(p.numel() * BYTES[form]) if name in low else p.numel() * dtype.itemsize
        for name, p in model.named_parameters()
    }
