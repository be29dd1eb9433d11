"""ltx2.safetensors: autoencoder and refiner on weights from numpy seeds, computed by diffusers 0.42.1 in fp32.

`tests/test_ltx2_oracle.py` holds the other side and repeats it where diffusers is installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.ltx2 import RefinerConfig, VaeConfig
from engine.refiner import Refiner
from engine.refiner_model import RefinerModel
from engine.vae import Vae
from tests.checks.check import WHOLE, Check, relative
from tests.checks.vae import streamed

FILE = "ltx2.safetensors"
LAYOUTS: tuple[Literal["interleaved", "split"], ...] = ("interleaved", "split")
SMALL_VAE = VaeConfig(
    latent_channels=8,
    encoder_widths=(8, 16, 16, 32),
    encoder_layers=(1, 2, 1, 1, 1),
    decoder_widths=(32, 16, 8),
    decoder_layers=(1, 2, 1, 1),
)
SMALL_REFINER = RefinerConfig(
    latent_channels=8, heads=2, head_dim=20, depth=2, caption_dim=12, window=5
)  # 40 channels: 40 // 6 leaves pairs that do not turn, and splits no axis evenly over heads
GRID, FRAMES = (2, 3), 8  # sink, two blocks of three, one of a single frame


def seeded(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights from numpy's seed j, j the place among the sorted names. Statistics of latents are positive."""
    out = {}
    for j, (name, shape) in enumerate(sorted(shapes.items())):
        z = np.random.RandomState(j).standard_normal(shape)
        if len(shape) >= 2:
            z = z / np.sqrt(np.prod(shape[1:]))
        elif "norm" in name or name.endswith("_std"):
            z = 1 + 0.1 * z
        out[name] = torch.from_numpy(z.astype(np.float32))
    return out


def filled(model: nn.Module) -> nn.Module:
    """A model of ours with such weights."""
    model.load_state_dict(seeded({name: tuple(t.shape) for name, t in model.state_dict().items()}))
    return model.eval()


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def thinned(frames: Tensor) -> Tensor:
    """Few enough numbers to keep, from every phase of the 8 frames, and of the 4 pixels of a patch."""
    return frames[:, :, ::3, 1::7, ::5].contiguous()


@torch.no_grad()
def ltx2(folder: Path) -> Iterator[Check]:
    t = load_file(folder / FILE)
    yield from autoencoder(t)
    for layout in LAYOUTS:
        yield from blocks(t, layout)


def autoencoder(t: dict[str, Tensor]) -> Iterator[Check]:
    causal, ahead = (filled(Vae(replace(SMALL_VAE, decoder_causal=causal))) for causal in (True, False))
    assert isinstance(causal, Vae)
    assert isinstance(ahead, Vae)
    latents = normal(9001, 1, 8, 4, *GRID)
    yield relative(FILE, "decoded at once", thinned(causal.decode_clip(latents)), t["decoded"], WHOLE)
    for chunk in (1, 3):
        frames, _ = streamed(causal, latents, chunk)
        yield relative(FILE, f"decoded in chunks of {chunk}", thinned(frames), t["decoded"], WHOLE)
    yield relative(
        FILE, "decoded looking ahead", thinned(ahead.decode_clip(latents)), t["decoded_ahead"], WHOLE
    )
    yield relative(FILE, "encoded", causal.mode(normal(9002, 1, 3, 9, 64, 96)), t["encoded"], WHOLE)


def blocks(t: dict[str, Tensor], layout: Literal["interleaved", "split"]) -> Iterator[Check]:
    model = filled(RefinerModel(replace(SMALL_REFINER, rope=layout)))
    assert isinstance(model, RefinerModel)
    refiner = Refiner(model)
    latents, noise, embeds, mask = refiner_inputs()
    state = refiner.start(latents[:, :, :1], prompt=refiner.prompt(embeds, mask))
    done = []
    for part, eps in zip(latents[:, :, 1:].split(3, dim=2), noise.split(3, dim=2), strict=True):
        refined, state = refiner.step(state, part, noise=eps)
        done.append(refined)
    yield relative(FILE, f"refined, {layout}", torch.cat(done, dim=2), t[f"refined_{layout}"], WHOLE)


def refiner_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents with the sink, noise without it, text and its mask."""
    mask = torch.ones(1, 7)
    mask[:, :2] = 0
    latents, noise = normal(9003, 1, 8, FRAMES, *GRID), normal(9004, 1, 8, FRAMES - 1, *GRID)
    return latents, noise, normal(9005, 1, 7, 12), mask
