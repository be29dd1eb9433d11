"""Train the world model to live with its own output: true frames are learned from context that it made itself.

    python -m engine.train.long --init runs/world/world.safetensors --minutes 6 --out runs/long

Every so often the averaged model continues a few hundred clips from their first true frames, as in flight. Until the
next time they are half of every batch: the flight is the context, the true frames along the same poses the target.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from engine.checkpoint import load_module, read_config
from engine.config import ModelConfig, from_record
from engine.generator import Generator
from engine.model import WorldModel
from engine.train.host import Host
from engine.train.loop import Stateful
from engine.train.optim import OptimConfig
from engine.train.rollout import Shelf, fly_on, joined, with_true
from engine.train.run import RunOptions
from engine.train.world import Training, carry_out


@dataclass(frozen=True, kw_only=True)
class RolloutOptions(RunOptions):
    """What the stages have in common that train on self-made flights."""

    init: Path = Path("runs/world/world.safetensors")
    """weights to start from"""
    frames: int = 25
    """latent frames of a clip, the first picture included"""
    begin: tuple[int, int] = (1, 6)
    """fewest and most true frames that a flight continues"""
    flights: int = 256
    """clips that are flown at a time"""
    fly_every: int = 32
    """steps until they are flown anew"""
    trust: float = 1.0
    """how far a cell of a flight may be from the truth (in standard deviations of latents) and still be pulled back; 0: always"""

    def __post_init__(self) -> None:
        low, high = self.begin
        if not 1 <= low <= high < self.frames <= self.chunks + 1:
            raise ValueError(
                f"begin={self.begin} and frames={self.frames}: flights begin with at least 1 frame and fewer than "
                f"the clip has, and a clip has at most chunks + 1 = {self.chunks + 1}"
            )
        if self.flights < self.batch or self.fly_every < 1:
            raise ValueError(
                f"flights={self.flights} and fly_every={self.fly_every}: at least batch={self.batch} clips are "
                "flown, every step at most"
            )


@dataclass(frozen=True, kw_only=True)
class LongTraining(RolloutOptions):
    """Train on self-made context. Ctrl-C saves; the same command continues."""

    out: Path = Path("runs/long")
    """folder for state, metrics, sample sheets and, at the end, world.safetensors and world.json"""
    minutes: float = 6.0
    """wall clock, compilation included, filling the pool not"""
    batch: int = 33
    """clips per step and process: as many as at the end of `train world`, whose compiled code fits"""
    rollout: tuple[int, int] = (4, 20)
    """chunks of the flights at the start and, after `grown` of the run, at the end"""
    grown: float = 0.6
    """share of the run over which flights grow"""
    own: float = 0.5
    """share of a batch that has self-made context"""

    def __post_init__(self) -> None:
        RolloutOptions.__post_init__(self)
        if not 0 <= self.rollout[0] <= self.rollout[1] or not 0 <= self.own <= 1:
            raise ValueError(f"rollout={self.rollout} must not shrink, and own={self.own} is a share of 1")

    def length(self, fraction: float) -> int:
        """Chunks of a flight after `fraction` of the run."""
        low, high = self.rollout
        return round(low + (high - low) * min(1.0, fraction / self.grown if self.grown else 1.0))


class RolloutRun(Training):
    """A run that starts from given weights and keeps a shelf of self-made flights."""

    options: RolloutOptions
    gap = 1  # frames from one that the teacher is asked for to the next

    def __init__(self, options: RolloutOptions, host: Host) -> None:
        super().__init__(options, host)
        self.shelf = Shelf()
        self.flyer = self.flying(copy.deepcopy(self.ema.module))

    def built(self) -> WorldModel:
        return stored_world(self.options.init)

    def parts(self) -> dict[str, Stateful]:
        return {**super().parts(), "shelf": self.shelf}

    def frames(self) -> int:
        return self.options.frames

    def flying(self, model: WorldModel, *, levels: tuple[float, ...] | None = None) -> Generator:
        """For many flights at once, in the precision of the run. levels: None: the model's own."""
        model = model.to(self.host.device, self.dtype).eval().requires_grad_(False)
        return Generator(model, levels=levels, fast=self.options.compile)

    def teacher(self) -> Generator | None:
        """Who says what it would have made of the same noise; None: nobody."""
        return None

    def fly(self, step: int, chunks: int, *, frames: int) -> None:
        """Let the averaged model make new flights when it is time; after a resumption those of before are still there.

        frames: of the clips that are flown, `chunks` of them or as many as there are after the beginning.
        """
        o = self.options
        if step % o.fly_every and self.shelf.batch is not None:
            return
        generator = self.host.generator(o.seed + 7, step)
        low, high = o.begin
        start = int(torch.randint(low, high + 1, (), device=generator.device, generator=generator))
        batch = self.pool.draw(o.flights, frames, generator=generator)
        chunks = min(chunks, frames - start)
        for mine, averaged in zip(self.flyer.model.parameters(), self.ema.module.parameters(), strict=True):
            mine.data.copy_(averaged)
        flown = fly_on(
            self.flyer,
            batch,
            start=start,
            chunks=chunks,
            generator=generator,
            codec=self.codec,
            teacher=self.teacher(),
            gap=self.gap,
        )
        batch = replace(batch, memory=flown.memory)
        self.shelf.put(batch, flown, start=start, chunks=chunks, gap=self.gap)

    def warm_flights(self) -> None:
        """Long enough for a chunk of a full window, which is what is compiled."""
        self.make_up()
        frames = min(self.options.chunks + 1, self.model.config.window + self.options.begin[1] + 3)
        self.fly(0, frames, frames=frames)


class LongRun(RolloutRun):
    """Diffusion forcing with self-made context."""

    name = "long"
    options: LongTraining
    optim = OptimConfig(muon=0.008, adam=2e-4, momentum=0.95, warmup=0.03, decay=0.6)

    def step(self, step: int, fraction: float) -> Mapping[str, Tensor]:
        o = self.options
        self.freshen(step)
        chunks = o.length(fraction)
        own = min(round(o.batch * o.own), o.batch - 1) if chunks else 0
        generator = self.host.generator(o.seed, step)
        batch = self.pool.draw(o.batch - own, o.frames, generator=generator)
        if not own:
            loss = self.learner.loss(batch, corrupt=False, generator=generator)
        else:
            self.fly(step, chunks, frames=o.frames)
            flown, made, _ = self.shelf.draw(own, generator=generator, trust=o.trust)
            loss = self.learner.loss(
                joined(flown, batch), corrupt=False, generator=generator, own=with_true(made, batch)
            )
        loss.backward()
        self.learn(fraction)
        return {"loss": loss.detach(), "flight": torch.full_like(loss, float(chunks))}

    def warmings(self) -> tuple[Callable[[], None], ...]:
        return self.warm_flights, self.warm_learning

    def warm_learning(self) -> None:
        batch = self.made_up(self.options.batch, self.options.frames)
        self.learner.loss(batch, corrupt=False, generator=self.host.generator(0, 0)).backward()


def stored_world(path: Path, *, levels: tuple[float, ...] | None = None) -> WorldModel:
    """A world model of the size that its file says, ready to train. levels: to fly with, None: as the file says.

    Raises ValueError.
    """
    config = from_record(ModelConfig, read_config(path, kind="world"))
    model = WorldModel(config if levels is None else replace(config, levels=levels))
    load_module(path, model, kind="world")
    return model


def train_long(options: LongTraining) -> None:
    """Run the stage. Raises ValueError for weights that cannot be read or a state that does not fit."""
    carry_out(LongRun, options)


def main() -> None:
    """The command line of this file."""
    import tyro

    train_long(tyro.cli(LongTraining, description=__doc__))


if __name__ == "__main__":
    main()
