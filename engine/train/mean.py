"""The mean of the weights of runs that continue one another: between two of them, good at what either is good at.

    python -m engine.train.mean --weights runs/a/world.safetensors runs/b/world.safetensors --out runs/mean

Runs that began from different random numbers have no such mean. Source: Wortsman et al. 2022, "Model soups", arXiv
2203.05482.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.checkpoint import save_module
from engine.config import as_record
from engine.train.long import stored_world


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Average the weights of world models of one size."""

    weights: tuple[Path, ...]
    """files of two or more runs, each a continuation of one before it"""
    out: Path = Path("runs/mean")
    """folder for world.safetensors"""

    def __post_init__(self) -> None:
        if len(self.weights) < 2:
            raise ValueError(f"{len(self.weights)} files of weights: a mean is of two or more")


@torch.no_grad()
def mean(options: Mean) -> None:
    """Write it. Raises ValueError for weights that cannot be read or are of another size than the first."""
    first = stored_world(options.weights[0])
    for count, path in enumerate(options.weights[1:], 2):
        other = stored_world(path)
        if other.config != first.config:
            raise ValueError(f"{path} is a world of other sizes or levels than {options.weights[0]}")
        for mine, theirs in zip(first.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, 1 / count)
    options.out.mkdir(parents=True, exist_ok=True)
    save_module(options.out / "world.safetensors", first, kind="world", config=as_record(first.config))


def main() -> None:
    """The command line of this file."""
    import tyro

    try:
        mean(tyro.cli(Mean, description=__doc__))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
