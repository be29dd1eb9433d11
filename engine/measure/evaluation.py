"""What `explorer evaluate` is asked for. Imports no torch, so that its flags are explained at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Measure the built-in world on the fixed set: 64 held-out worlds, a simple and a hard minute through each.

    Flights know the depth of their first picture, as scenes of the gallery do. Minutes on a GPU, hours on two cores;
    Ctrl-C keeps what is measured and the same command continues. --quick is for two cores: 12 calm flights of 10 s,
    flown both with that depth and from the picture alone.
    """

    out: Path = Path("runs/evaluate")
    """folder for evaluation.json, table.txt, curves and contact sheets"""
    assets: Path | None = None
    """folder with world.safetensors and codec.safetensors; default: those that came with the program"""
    quick: bool = False
    """a first look in about ten minutes on two cores instead of the fixed set"""
    picture_alone: bool = False
    """fly the fixed set as from a photograph: the model guesses the depth of the first picture, so its scale is a guess"""
    worlds: int = 64
    """of the fixed set, from the first"""
    flights: int | None = None
    """of --quick: held-out worlds, one flight through each; default 12"""
    chunks: int | None = None
    """of --quick: length of the flights, 0.5 s each; default 20"""
    part: tuple[int, int] = (1, 1)
    """K N: the K-th of N parts of the set. Several processes share a folder, and the last to end writes the report"""
    seed: int = 0
    """of the noise"""
    batch: int | None = None
    """flights at a time; default 1 on a CPU, 32 on a GPU (0.7 GB each)"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """where to render and fly"""

    @property
    def told(self) -> bool:
        """Whether flights of the fixed set know the depth of their first picture."""
        return not self.picture_alone

    def __post_init__(self) -> None:
        from engine.train.data import HELD_OUT

        if not 1 <= self.worlds <= len(HELD_OUT):
            raise ValueError(f"worlds={self.worlds}: the fixed set has 1 … {len(HELD_OUT)}")
        if not 1 <= self.part[0] <= self.part[1] <= 2 * self.worlds:
            raise ValueError(f"part={self.part}: K of N, with N at most the {2 * self.worlds} flights")
        for name in ("flights", "chunks", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: at least 1")
        if not self.quick and (self.flights or self.chunks):
            raise ValueError("--flights and --chunks belong to --quick: the fixed set is sized by --worlds")
        if self.quick and self.picture_alone:
            raise ValueError("--picture-alone belongs to the fixed set: --quick flies both ways")
        if self.quick and (self.worlds != len(HELD_OUT) or self.batch or self.part != (1, 1)):
            raise ValueError(
                "--worlds, --batch and --part belong to the fixed set: --quick is sized by --flights"
            )
