"""The critic of the codec's polish: looks at patches of single frames and says how true they look."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Adversary(nn.Module):
    """Five plain convolutions on frames unshuffled by 2. Source: PatchGAN, Isola et al. 2017, arXiv 1611.07004, §3.2."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(12, width, 3, padding=1),
                nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
                nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
                nn.Conv2d(4 * width, 4 * width, 3, padding=1),
                nn.Conv2d(4 * width, 1, 3, padding=1),
            ]
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from the stubs

    def forward(self, frames: Tensor) -> Tensor:
        """frames: [N, 3, Y, X] in [-1, 1] → a score per patch [N, 1, Y/8, X/8]."""
        x = F.pixel_unshuffle(frames, 2).contiguous(memory_format=torch.channels_last)
        for i, layer in enumerate(self.layers):
            x = layer(x if i == 0 else F.leaky_relu(x, 0.2))
        return x
