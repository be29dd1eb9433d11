"""What all stages of training the world model are told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a stage reads and writes, how long it runs, and which clips it sees."""

    out: Path = Path("runs/world")
    """folder for state, metrics, sample sheets and, at the end, world.safetensors and world.json"""
    codec: Path = Path("runs/codec/codec.safetensors")
    """trained codec"""
    init: Path | None = None
    """weights to start from instead of random ones"""
    memory: bool = True
    """spatial memory: also warps what was seen before into every chunk. Weights to start from may be without it"""
    minutes: float = 15.0
    """wall clock, compilation included, filling the pool not"""
    steps: int | None = None
    """count steps instead of minutes"""
    batch: int = 64
    """clips per step and process"""
    pool: int = 2048
    """clips kept encoded on each device"""
    chunks: int = 24
    """chunks of a rendered clip, 0.5 s each"""
    pool_file: Path | None = None
    """keep the first pool of each process here, so that the next stage with this file need not render it again"""
    fresh: int = 8
    """clips rendered at a time to replace the oldest"""
    fresh_every: int = 12
    """steps between them; 0: never"""
    held_out: int = 12
    """flights to measure on, never trained on"""
    measure_chunks: int = 40
    """length of the measured flights"""
    seed: int = 0
    """of weights, clips and noise"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """where to train"""
    compile: bool = True
    """compile the blocks on a GPU"""
    warm_only: bool = False
    """fill the compiler's cache and leave: run beside an earlier stage"""
