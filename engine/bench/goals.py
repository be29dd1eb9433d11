"""What the figures of `explorer bench` are held against, at true size on an H100: milliseconds.

Reference: NVIDIA's own code, timed by this project on one H100 with random weights. Published: the documentation of
the streaming release (NVlabs/Sana, 2026): 43 s of denoising for a 60 s clip, 1.09 times real time with refiner.
"""

from __future__ import annotations

from dataclasses import dataclass

CHUNK_S = 24 / 16  # a chunk of sana-wm, in seconds of flight


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Milliseconds."""

    goal: float
    reference: float | None = None
    published: float | None = None


GOALS = {
    "stage 1": Goal(reference=1171, goal=200),
    "60 s clip, stage 1": Goal(published=43_000, goal=8_000),
    "codec": Goal(reference=142, goal=60),
    "refiner": Goal(reference=931, goal=600),
    "stage 1 + codec": Goal(goal=1e3 * CHUNK_S / 5),
    "stage 1 + codec + refiner": Goal(published=1e3 * CHUNK_S / 1.09, goal=1e3 * CHUNK_S / 1.7),
    "GDN main branch": Goal(reference=0.75, goal=0.10),
    "pocket": Goal(goal=1e3 * 8 / 500),
}


def comparable(*, true_size: bool, device: str) -> bool:
    """Whether a figure may stand beside those above: GPUs of the Hopper class (H100, H200, GH200)."""
    if not true_size or device != "cuda":
        return False
    import torch

    return torch.cuda.get_device_capability() == (9, 0)
