"""How many operations the models need, counted on their shapes: tensors without data, modules in their plain form.

PyTorch counts products, convolutions and attention; what stands between them is memory traffic, not arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.codec import Codec
from engine.conditioning import Conditioning
from engine.config import CodecConfig, ModelConfig
from engine.ltx2 import RefinerConfig, VaeConfig
from engine.model import WorldModel
from engine.refiner import Refiner
from engine.refiner_model import RefinerModel
from engine.release import empty
from engine.state import BlockState
from engine.vae import Vae

Grid = tuple[int, int]  # latent rows and columns
DTYPE = torch.float32  # any would do
P = ParamSpec("P")
R = TypeVar("R")


def _without_data(count: Callable[P, R]) -> Callable[P, R]:
    """Whatever is made inside has a shape and nothing else, as if on a CPU."""

    @wraps(count)
    def counted(*args: P.args, **kwargs: P.kwargs) -> R:
        with FakeTensorMode():
            return count(*args, **kwargs)

    return counted


def flops(call: Callable[[], Any]) -> float:
    """Floating-point operations of a call on tensors with or without data, two for each product of numbers."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


@_without_data
def stage1_flops(config: ModelConfig, grid: Grid) -> float:
    """One chunk with full windows: all denoising passes and the one that commits."""
    model = WorldModel(config)
    text = torch.empty(1, config.caption_tokens, config.dim, dtype=DTYPE)
    past: tuple[BlockState, ...] | None = None
    frame = 0
    for chunk in range(max(config.window, 0) + 1):
        frames = config.chunk if chunk else config.first_chunk
        cond = _nowhere(config, grid, frame=frame, frames=frames)
        channels = config.latent_channels + config.memory_channels
        x = torch.empty(1, channels, frames, *grid, dtype=DTYPE)
        prepare = partial(model.given, text=text, text_mask=None, cond=cond, past=past, dtype=DTYPE)
        given, prepared = _counted(prepare)
        once = partial(model.denoise, x, timestep=torch.empty(1, frames), given=given)
        (_, past), passed = _counted(once)
        frame += frames
    return prepared + passed * (len(config.levels) + 1)


@_without_data
def vae_flops(config: VaeConfig, grid: Grid, *, frames: int) -> float:
    """The decoding of some latent frames in the middle of a flight."""
    vae = Vae(config)
    x = torch.empty(1, config.latent_channels, frames, *grid, dtype=DTYPE)
    with torch.no_grad():
        _, state = vae.decode(x[:, :, :1])
    return flops(lambda: vae.decode(x, state))


@_without_data
def refiner_flops(config: RefinerConfig, grid: Grid, *, words: int) -> float:
    """One block with a full window: all steps and the pass that commits."""
    refiner = Refiner(RefinerModel(config))
    told = torch.empty(1, words, config.caption_dim, dtype=DTYPE)
    x = torch.empty(1, config.latent_channels, config.block, *grid)
    state = refiner.start(x[:, :, : config.sink], prompt=refiner.prompt(told))
    for _ in range(-(-config.history // config.block)):
        state = refiner.commit(state, x)
    return flops(lambda: refiner.step(state, x))


def codec_flops(config: CodecConfig) -> tuple[float, float]:
    """Encoding of a chunk of pocket, and its decoding."""
    codec = empty(lambda: Codec(config))
    frames = torch.empty(1, config.frames, 3, config.height, config.width, device="meta")
    latent = torch.empty(1, config.latent_channels, *config.grid, device="meta")
    return flops(lambda: codec.encode(frames)), flops(lambda: codec.decode(latent, latent))


def _counted(call: Callable[[], Any]) -> tuple[Any, float]:
    """A call's result, and its operations."""
    results: list[Any] = []
    count = flops(lambda: results.append(call()))
    return results[0], count


def _nowhere(config: ModelConfig, grid: Grid, *, frame: int, frames: int) -> Conditioning:
    """A camera without data."""
    rays = torch.empty(1, frames, grid[0] * grid[1], 4, 4)
    plucker = torch.empty(1, 6 * config.stride[0], frames, *grid)
    return Conditioning(P=rays, P_inv=rays, plucker=plucker, frame=frame, reanchor=None)
