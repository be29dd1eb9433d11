"""Tensors of the host on their way to a GPU, which nobody waits for."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(x: Tensor, device: torch.device) -> Tensor:
    """x on a device. What is launched on a GPU after this finds it there; x itself may be forgotten, not edited."""
    if device.type != "cuda":
        return x.to(device)
    return (x if x.is_cuda else x.contiguous().pin_memory()).to(device, non_blocking=True)
