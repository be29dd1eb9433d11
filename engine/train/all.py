"""Train the built-in world from nothing: every stage in its order, each a process of its own.

    explorer train all --out runs

Ctrl-C saves the stage under way; the same command continues there. A stage whose weights exist is not repeated.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class AllTraining:
    """Train the built-in world from nothing on one GPU. The defaults take about 40 minutes on an H200."""

    out: Path = Path("runs")
    """folder with one folder per stage"""
    codec_minutes: float = 5.0
    """reconstruction of pictures and depth; 0.2 of it is added for the adversarial polish"""
    world_minutes: float = 13.0
    """diffusion forcing; 0: stop after the codec"""
    long_minutes: float = 0.0
    """the model's own flights as context; 0: leave out, because it made flights truer and emptier"""
    distill_minutes: float = 14.0
    """to be sharp in two steps: a teacher of many and a judge; 0: leave out"""
    memory: bool = True
    """spatial memory"""
    pool: int = 1536
    """clips kept encoded on the GPU"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """where to train"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One process and the weights that it leaves."""

    name: str
    flags: tuple[str, ...]
    weights: Path

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", f"engine.train.{self.name}", *self.flags]


def stages(options: AllTraining) -> tuple[Stage, ...]:
    """What is to be run, each stage starting from the weights of the one before."""
    o = options
    codec = o.out / "codec" / "codec.safetensors"
    minutes = ("--minutes", f"{o.codec_minutes:g}", "--polish-minutes", f"{0.2 * o.codec_minutes:g}")
    plan = [_stage(o, "codec", codec, minutes)]
    before: Path | None = None
    for name, length in (
        ("world", o.world_minutes),
        ("long", o.long_minutes),
        ("distill", o.distill_minutes),
    ):
        if length <= 0:
            continue
        if name != "world" and before is None:
            raise ValueError(
                f"{name}_minutes={length:g} without world_minutes: there is nothing to start from"
            )
        flags = ["--minutes", f"{length:g}", "--codec", str(codec)]
        if name != "distill":  # its clips are longer, and fewer
            flags += ["--pool", str(o.pool), "--pool-file", str(o.out / "pool")]
        flags += ["--init", str(before)] if before else []
        flags += [] if o.memory else ["--no-memory"]
        before = o.out / name / "world.safetensors"
        plan.append(_stage(o, name, before, tuple(flags)))
    return tuple(plan)


def _stage(options: AllTraining, name: str, weights: Path, flags: tuple[str, ...]) -> Stage:
    shared = ("--out", str(options.out / name), "--device", options.device)
    return Stage(name=name, flags=(*shared, *flags), weights=weights)


def train_all(options: AllTraining) -> None:
    """Run the stages. Leaves with the exit status of one that fails or is interrupted."""
    say = Console(stderr=True, highlight=False).print
    plan = stages(options)
    for stage in plan:
        if stage.weights.is_file():
            say(f"{stage.name}: {stage.weights} is there already")
            continue
        say(f"{stage.name}: {' '.join(stage.command[1:])}")
        with _warming(plan[1] if stage.name == "codec" and len(plan) > 1 else None):
            status = _finished(subprocess.Popen(stage.command))
        if status:
            raise SystemExit(status)
    say(f"done: copy {plan[0].weights} and {plan[-1].weights} to assets/pocket to fly them")


def _finished(process: subprocess.Popen[bytes]) -> int:
    """Wait for a stage. On Ctrl-C, which it has heard too, until it has saved."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        return process.wait()


@contextmanager
def _warming(stage: Stage | None) -> Iterator[None]:
    """Fill the compiler's cache for a later stage while the body runs."""
    if stage is None:
        yield
        return
    beside = subprocess.Popen(
        [*stage.command, "--warm-only"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        beside.terminate()
        beside.wait()


def main() -> None:
    """The command line of this file."""
    import tyro

    train_all(tyro.cli(AllTraining, description=__doc__))


if __name__ == "__main__":
    main()
