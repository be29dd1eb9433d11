"""Whole-model numbers of a deterministic model, computed once by an independent fp64 implementation of SANA-WM.

Weights and inputs come from numpy seeds (see `deterministic`, `clip`); figures are rounded to six decimals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.conditioning import Conditioning, from_rows, prepare
from engine.config import DIFFUSERS, RELEASE_2026, SGLANG, ModelConfig
from engine.model import WorldModel
from engine.native import load_native
from engine.state import BlockState, Keys, Memory
from engine.window import chunk_lengths

GRID = (4, 6)
NARROW = ModelConfig(
    dim=128,
    heads=4,
    cross_heads=4,
    depth=4,
    softmax_blocks=(3,),
    latent_channels=16,
    caption_dim=32,
    caption_tokens=11,
)
WIDE = replace(NARROW, dim=224, heads=2, cross_heads=2)  # heads of 112, as released: padding to 128 shows


def deterministic(config: ModelConfig) -> WorldModel:
    """Every native parameter from numpy's seed j, j its place among the sorted native names."""
    model = WorldModel(config).double().eval()
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()} | unread(config)
    weights = {
        name: torch.from_numpy(value(name, s, j)) for j, (name, s) in enumerate(sorted(shapes.items()))
    }
    assert len(weights) == 186
    load_native(model, weights)
    return model


def unread(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Native parameters that count in the order of names but that our model does not have."""
    D, H = config.dim, config.heads
    out: dict[str, tuple[int, ...]] = {
        "raymap_embedder.proj.weight": (D, 3, 1, 1, 1),
        "raymap_embedder.proj.bias": (D,),
    }
    for i in config.softmax_blocks:
        gates = {"A_log": (H,), "dt_bias": (H,), "beta_proj.weight": (H, D), "beta_proj.bias": (H,)}
        gates |= {"gate_proj.weight": (H, D), "gate_proj.bias": (H,)}
        out |= {f"blocks.{i}.attn.{name}": shape for name, shape in gates.items()}
    return out


def value(name: str, shape: tuple[int, ...], j: int) -> np.ndarray:
    z = np.random.RandomState(j).standard_normal(shape)
    if name.endswith(("conv_k.weight", "conv_k_cam.weight")):
        z = 0.3 * z
        z[..., -1] += 1
    elif "norm" in name:
        z = 1 + 0.1 * z
    elif name.endswith("A_log"):
        z = 0.5 * z
    elif name.endswith("dt_bias"):
        z = -3 + z
    else:
        z = z / np.sqrt(np.prod(shape[1:])) if len(shape) >= 2 else 0.1 * z
    return z.astype(np.float32).astype(np.float64)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


def clip(model: WorldModel, frames: int) -> tuple[Tensor, Tensor, Conditioning, dict[str, Tensor]]:
    """Latents, timesteps, camera and text of a clip of `frames` latent frames."""
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, 4:] = False
    t = torch.full((2, frames), 727.0)
    t[:, 0] = 0.0
    f = torch.arange(8 * (frames - 1) + 1, dtype=torch.float64)
    poses = torch.eye(4, dtype=torch.float64).repeat(len(f), 1, 1)
    a = 0.01 * f
    poses[:, 0, 0], poses[:, 0, 2], poses[:, 2, 0], poses[:, 2, 2] = a.cos(), a.sin(), -a.sin(), a.cos()
    poses[:, 0, 3], poses[:, 2, 3] = 0.02 * f, 0.05 * f
    lens = torch.tensor([150.0, 150.0, 96.0, 64.0], dtype=torch.float64).expand(2, len(f), 4)
    rows, rays = prepare(poses.expand(2, -1, -1, -1), lens, grid=GRID, config=model.config)
    cond = from_rows(rows.double(), rays.double(), grid=GRID, config=model.config)
    text = dict(text=model.embed_text(normal(9002, 2, 11, 32)), text_mask=mask)
    return normal(9001, 2, 16, frames, *GRID), t, cond, text


def dense(model: WorldModel, frames: int, chunks: tuple[int, ...] | None = None) -> Tensor:
    x, t, cond, text = clip(model, frames)
    return model(x, timestep=t, cond=cond, chunks=chunks, **text)[0]


def stream(model: WorldModel, frames: int, *, commit: float = 0.0) -> tuple[Tensor, tuple[BlockState, ...]]:
    """One read-only forward and one committing forward per chunk, on the same latents.

    commit: factor on the timesteps of the committing forward.
    """
    x, t, cond, text = clip(model, frames)
    past: tuple[BlockState, ...] | None = None
    out, a = [], 0
    for n in chunk_lengths(frames, model.config):
        part = slice(a, a + n)
        given = dict(cond=cond.part(a, a + n), past=past, **text)
        out.append(model(x[:, :, part], timestep=t[:, part], **given)[0])
        past = model(x[:, :, part], timestep=t[:, part] * commit, **given)[1]
        a += n
    assert past is not None
    return torch.cat(out, dim=2), past


def figures(out: Tensor) -> list[float]:
    return [
        out.sum().item(),
        out.norm().item(),
        *out[0, 0, 0, 0, :4].tolist(),
        *out[1, 7, -1, 3, 2:6].tolist(),
    ]


def close(out: Tensor, golden: str) -> bool:
    """1e-5 relative, and half a unit of the sixth decimal."""
    want = [float(v) for v in golden.split()]
    return figures(out) == pytest.approx(want, rel=1e-5, abs=5.1e-7)


BIDIRECTIONAL: Mapping[str, tuple[ModelConfig, str]] = {
    "head": (
        NARROW,
        "2226.337694 94.593825 -.424341 .111795 -.658221 .208683 1.119609 .644430 -.253823 .527226",
    ),
    "clamp": (
        replace(NARROW, semantics=DIFFUSERS),
        "2194.804034 93.960866 -.342485 .219279 -.654423 .212527 1.030657 .438392 -.200654 .244201",
    ),
    "wide head": (
        WIDE,
        "-818.270194 88.060848 -1.736108 1.016859 .017077 -1.710275 -.289962 -1.240778 .016248 -.643102",
    ),
    "wide diffusers": (
        replace(WIDE, semantics=DIFFUSERS),
        "-720.817954 87.029060 -1.782335 .989023 .001959 -1.752422 -.032294 -1.073564 .071502 -.527484",
    ),
}
STREAMS: Mapping[str, tuple[ModelConfig, str]] = {
    "head": (
        NARROW,
        "4439.861022 129.552519 -.741577 .506924 -.112218 -.493492 1.084238 -.368809 -.084237 .591948",
    ),
    "no sink": (
        replace(NARROW, sink=False),
        "4433.595956 129.382961 -.741577 .506924 -.112218 -.493492 1.051284 -.380128 -.080403 .589021",
    ),
    "sglang": (
        replace(NARROW, semantics=SGLANG),
        "4240.310598 128.447840 -.762951 .454782 -.102105 -.479996 1.096079 -.445106 -.529702 .192137",
    ),
    "wide head": (
        WIDE,
        "-2114.812313 126.141048 -.977385 1.294047 .449940 .306295 -.881599 -1.048264 -.212527 -.728623",
    ),
    "wide release": (
        replace(WIDE, semantics=RELEASE_2026),
        "-2157.071024 126.022133 -.977221 1.295198 .449377 .305695 -.919894 -1.063314 -.188978 -.759880",
    ),
    "wide sglang": (
        replace(WIDE, semantics=SGLANG),
        "-1766.466526 123.830809 -.998440 1.259267 .454791 .275128 -.538644 -.865732 -.116288 -.340996",
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("case", BIDIRECTIONAL)
def test_bidirectional(case: str) -> None:
    config, golden = BIDIRECTIONAL[case]
    assert close(dense(deterministic(replace(config, causal=False)), 7), golden)


@torch.no_grad()
def test_without_camera_branch() -> None:
    """No bias of the camera branch either. The figures are of an fp32 run."""
    model = deterministic(replace(NARROW, causal=False))
    for block in model.blocks:
        block.attn.out_proj_cam.weight.zero_()
        block.attn.out_proj_cam.bias.zero_()
    golden = "1965.760560 93.229617 -1.297112 .367097 -1.393949 .070269 1.265495 .109452 -.844151 -.467379"
    assert figures(dense(model, 7)) == pytest.approx([float(v) for v in golden.split()], rel=1e-5, abs=5e-6)


@torch.no_grad()
@pytest.mark.parametrize("case", STREAMS)
def test_stream(case: str) -> None:
    config, golden = STREAMS[case]
    assert close(stream(deterministic(config), 13)[0], golden)


@torch.no_grad()
def test_dense_chunks_equal_the_stream_that_commits_what_it_read() -> None:
    model = deterministic(replace(NARROW, window=-1))
    out, _ = stream(model, 13, commit=1.0)
    golden = "4368.623497 128.963444 -.741577 .506924 -.112218 -.493492 1.518761 -.323356 -.074961 .966555"
    assert close(out, golden)
    assert close(dense(model, 13, (4, 3, 3, 3)), golden)


@torch.no_grad()
def test_state_after_a_stream() -> None:
    """Norms of an fp32 run."""
    _, past = stream(deterministic(NARROW), 13)
    memory, keys = past[0].mixer, past[3].mixer
    assert isinstance(memory, Memory)
    assert isinstance(keys, Keys)
    assert memory.cam_conv is not None
    held = (memory.S, memory.z, memory.cam_S, memory.conv, memory.cam_conv, past[0].ffn)
    last = 3 * GRID[0] * GRID[1]
    held += tuple(x[:, :, -last:] for x in (keys.k, keys.v, keys.cam_k, keys.cam_v))
    want = (49.756877, 17.927336, 42.672411, 147.612297, 150.746472, 14.091017)
    want += (137.589050, 153.033761, 240.363123, 298.964541)
    assert [x.norm().item() for x in held] == pytest.approx(want, rel=1e-6)
