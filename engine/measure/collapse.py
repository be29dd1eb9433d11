"""When a generated picture is no picture any more: black, one flat colour, without any edge, or noise. Pure.

Limits lie beyond all of 896 true frames of the fixed set (64 worlds, simple and hard, seven times of the minute): at
three quarters of their least brightness 0.220, contrast 0.0221 (a lawn from close by) and roughness 0.0213, and at four
thirds of their greatest roughness 0.424. A flight that had become one green had a contrast of 0.012.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.metrics import sharpness

DARK, FLAT, SMOOTH, NOISY = 0.165, 0.0166, 0.016, 0.565
CELL = 8  # pixels over which contrast does not count


def signs(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Brightness, contrast and roughness of pictures [P, 3, Y, X] in [-1, 1], each [P].

    brightness: mean grey, 0 … 1.  contrast: standard deviation of the grey of cells of 8×8 pixels.  roughness: mean
    absolute Laplacian of grey over its standard deviation, 3.6 for white noise.
    """
    grey = (frames.float().mean(dim=1) + 1) / 2
    contrast = F.avg_pool2d(grey, CELL).flatten(1).std(dim=1)
    rough = sharpness(frames) / 2 / grey.flatten(1).std(dim=1).clamp_min(1e-3)
    return grey.mean(dim=(1, 2)), contrast, rough


def collapse(frames: Tensor) -> str | None:
    """What most of the pictures [P, 3, Y, X] in [-1, 1] have become; None while they are pictures."""
    brightness, contrast, rough = signs(frames)
    kinds = {
        "black": brightness < DARK,
        "noise": rough > NOISY,
        "flat": contrast < FLAT,
        "blurred": rough < SMOOTH,
    }
    if not float(torch.stack(list(kinds.values())).any(dim=0).float().mean()) > 0.5:
        return None
    return max(kinds, key=lambda kind: int(kinds[kind].sum()))
