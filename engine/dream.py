"""A first picture from words alone: what the world model makes of noise, seen by a camera at rest that remembers nothing."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.codec import Codec
from engine.composite import to_bytes
from engine.conditioning import condition_clip
from engine.generator import Generator
from engine.model import WorldModel

LEVELS = (1.0, 0.85, 0.6, 0.3)  # nothing moves yet, and there is time for more steps than in flight
TRIES = 6  # pictures to choose from
CROWD = 4.0  # metres: what is nearer, in the upper half, stands in the way


@torch.inference_mode()
def drawn(
    model: WorldModel, codec: Codec, words: Tensor, *, lens: Tensor, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """The picture [Y, X, 3] of a place that words [8] of the vocabulary name, and its inverse depth [Y, X], 1/m, sky 0.

    lens: [4] fx, fy, cx, cy in pixels; the camera is level.  Of a few pictures the one with the freest view is taken.
    """
    device, grid = codec.mean.device, codec.config.grid
    poses = torch.eye(4, dtype=torch.float64, device=device).expand(TRIES, 1, 4, 4)
    cond = condition_clip(poses, lens.to(device).expand(TRIES, 1, 4), grid=grid, config=model.config)
    shape = (TRIES, model.config.latent_channels, 1, *grid)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    text = words.to(device).expand(TRIES, -1)
    latent = Generator(model, levels=LEVELS).first(noise, text=text, cond=cond)[:, :, 0].to(codec.mean.dtype)
    rgb, depth = codec.decode(latent, latent)
    crowded = (depth[:, -1, : codec.config.height // 2] > 1 / CROWD).float().mean(dim=(1, 2))
    best = int(crowded.argmin())
    return to_bytes(rgb[best, -1]).cpu().numpy(), depth[best, -1].to("cpu", torch.float16).numpy()
