"""What a memory is given, by kernels out of a block's projections, interpreted where no GPU is, against the plain form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.gdn import GDN, short_conv
from engine.layout import Layout, layout
from engine.mixer import merge
from engine.ucpe import into_memory, into_query
from tests.flights import CHUNKY, distance, flight, random_model

pytest.importorskip("triton", reason="needs Triton (its interpreter where no GPU is)")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [(1, 1, 8), (3, 3, 40), (2, 5, 24), (5, 2, 112)]  # heads, frames, width of a head
Results = dict[str, Tensor]


def block(heads: int, width: int) -> GDN:
    """Norm weights, convolutions and all else at random, in fp64."""
    config = replace(CHUNKY, dim=heads * width, heads=heads, cross_heads=1, depth=1, softmax_blocks=())
    attn = random_model(config, seed=heads).blocks[0].attn
    assert isinstance(attn, GDN)
    return attn.requires_grad_(False)


def place(config: ModelConfig, frames: int, dtype: torch.dtype, device: str = DEVICE) -> Layout:
    cond = flight(frames, config).to(device)
    return layout(cond, chunks=(frames,), visible=None, config=config, dtype=dtype)


def given(attn: GDN, frames: int) -> Results:
    """Projections of two clips, which lie side by side in memory; and keys of the frames before."""
    g = torch.Generator().manual_seed(frames)
    D = attn.config.dim
    qkv = 2 * torch.randn(2, frames * 6, 3 * D, generator=g, dtype=torch.float64)
    tail = torch.randn(2, attn.config.conv_taps - 1, 6, D, generator=g, dtype=torch.float64)
    return dict(zip("qkv", qkv.chunk(3, dim=-1), strict=True)) | dict(tail=tail)


def plain(attn: GDN, x: Results, there: Layout, *, across: bool) -> Results:
    """Of both branches, by what the model calls elsewhere."""
    out, tail = {}, x["tail"]
    for name, conv, norms in (
        ("main", attn.conv_k, (attn.q_norm, attn.k_norm)),
        ("camera", attn.conv_k_cam, (attn.q_norm_cam, attn.k_norm_cam)),
    ):
        k, out[f"{name} tail"] = short_conv(x["k"], conv.weight, layout=there, tail=tail, across=across)
        q, k, v = attn.positive(norms[0](x["q"]), norms[1](k), x["v"], there)
        if name == "camera":
            before, rays = k, there.rays
            q, k, v = into_query(q, rays), into_memory(k, rays), into_memory(v.to(k.dtype), rays)
            growth = (k.norm(dim=-1).clamp_min(1e-6) / before.norm(dim=-1).clamp_min(1e-6)).square()
            out |= {"v": merge(v), "growth": growth}
        out |= {f"{name} q": merge(q), f"{name} k": merge(k)}
    return out


def kernels(attn: GDN, x: Results, there: Layout, *, across: bool) -> Results:
    out, tail = {}, x["tail"] if across else None
    out["main q"], out["main k"], out["main tail"] = attn.main_heads(x["q"], x["k"], there, tail)
    found = attn.camera_heads(x["q"], x["k"], x["v"], there, tail)
    return out | dict(zip(("camera q", "camera k", "v", "growth", "camera tail"), found, strict=True))


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_equal_the_plain_form(size: tuple[int, int, int], across: bool) -> None:
    heads, frames, width = size
    attn = block(heads, width)
    x = given(attn, frames)
    exact = plain(attn, x, place(attn.config, frames, torch.float64, "cpu"), across=across)
    attn.to(DEVICE, torch.float32)
    x = {n: t.to(DEVICE, torch.float32) for n, t in x.items()}
    there = place(attn.config, frames, torch.float32)
    twin, ours = (f(attn, x, there, across=across) for f in (plain, kernels))
    for name, want in exact.items():
        if name.endswith("tail") and not across:
            continue  # is nobody's past
        floor = torch.finfo(torch.float32).eps
        assert ours[name].shape == want.shape
        assert distance(ours[name].cpu(), want) <= 2 * max(distance(twin[name].cpu(), want), floor), name


def test_results_have_the_dtype_of_the_projections() -> None:
    """fp16, which an interpreter rounds; what keys grow by is in fp32. No further from fp64 than rounding takes it."""
    attn = block(3, 40)
    x = {n: t.half() for n, t in given(attn, 3).items()}
    attn.half()
    there, wide = (place(attn.config, 3, t, "cpu") for t in (torch.float32, torch.float64))
    ours = kernels(
        attn.to(DEVICE),
        {n: t.to(DEVICE) for n, t in x.items()},
        place(attn.config, 3, torch.float32),
        across=True,
    )
    twin = plain(attn.cpu(), x, there, across=True)
    exact = plain(attn.double(), {n: t.double() for n, t in x.items()}, wide, across=True)
    for name, want in exact.items():
        assert ours[name].dtype == (torch.float32 if name == "growth" else torch.float16)
        rounded = twin[name].to(ours[name].dtype)
        assert distance(ours[name].cpu(), want) <= 2 * distance(rounded, want), name


def test_the_operators_are_well_formed() -> None:
    """Schema and shapes without data agree, as compilers need."""
    attn = block(2, 16).to(DEVICE, torch.float32)
    x = {n: t.to(DEVICE, torch.float32) for n, t in given(attn, 2).items()}
    there = place(attn.config, 2, torch.float32)
    taps, w = attn.conv_k.weight[:, 0].mT.contiguous(), attn.q_norm.weight
    kinds = ("test_schema", "test_faketensor")
    common = (x["tail"], w, w, taps)
    op = torch.ops.explorer.gdn_main_heads.default
    torch.library.opcheck(op, (x["q"], x["k"], *common, 2, 1e-5, 0.5), test_utils=kinds)
    turn = there.rays.rotary
    camera = (
        x["q"],
        x["k"],
        x["v"],
        *common,
        there.rays.P,
        there.rays.P_inv,
        turn.cos,
        turn.sin,
        2,
        2,
        1e-5,
        0.5,
    )
    torch.library.opcheck(torch.ops.explorer.gdn_camera_heads.default, camera, test_utils=kinds)
