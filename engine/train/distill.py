"""Distil the world model to the few steps it is flown in, with a loss on how its frames look, inside its own flights.

    python -m engine.train.distill --init runs/world/world.safetensors --minutes 13 --out runs/distill

Every step gives the model flights it made itself and lets it make some of their frames anew, by all steps of the
sampler, with gradient. Where their memory decides what is there they are pulled to the true frames; where it does not,
to what the model it began as makes of the same noise in many steps, which is a definite thing and no mean of things. A
judge pushes them to where it takes them for true ones, and must be calm: a little noise may not change its mind. And
whatever they invent should look like the truth along their way as a whole, in colours and in how much there is to see:
without that, ground that was green is pink after five minutes.

With --firsts a step now and then is about pictures that nothing came before, made of words alone: what `engine/dream.py`
draws. They have a judge of their own: one that saw both told nothing apart after sixty steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.conditioning import Conditioning, condition_clip
from engine.dream import LEVELS as FIRST_LEVELS
from engine.generator import Generator
from engine.model import WorldModel
from engine.schedule import add_noise, euler, steps, timestep
from engine.train.host import Host
from engine.train.judge import Judge, blended, distance, roughness, single, single_cameras, style
from engine.train.long import RolloutOptions, RolloutRun, stored_world
from engine.train.loop import Stateful
from engine.train.losses import gradient_penalty, hinge_fool, hinge_judge
from engine.train.optim import OptimConfig, Optimiser
from engine.train.pool import Batch
from engine.train.rollout import GIVEN, Flown, SelfMade, Shelf, memory_of
from engine.train.world import RADII, carry_out

RAMP = (
    0.04,
    0.12,
)  # shares of the run between which the judge gets its say: it must have learned something first
GAP = 3  # frames from one made anew to the next: most of what they see is flight, and others need no teacher
BEGINNINGS = 0.4  # share of steps that see flights from their first picture on; the others any part of them
STILL_PUSHED = 0.1  # least weight of judge and style in a cell: what the truth settles hardly needs them
UNSAID = 0.5  # of the words of first pictures: nobody names all there is to see
SHOWN = 6  # frames of each clip that the judge sees a step: always as many, so that compiled code fits
JUDGED = 0.5  # frames are judged under noise of up to this level, mostly under little
SHAKE = 0.1  # standard deviation of the noise under which the judge's score of a true frame should stay what it was


@dataclass(frozen=True, kw_only=True)
class DistillTraining(RolloutOptions):
    """Distil to few steps. Ctrl-C saves; the same command continues."""

    out: Path = Path("runs/distill")
    """folder for state, metrics, sample sheets and, at the end, world.safetensors and world.json"""
    init: Path = Path("runs/world/world.safetensors")
    """weights to start from; teacher and judge start from them too"""
    minutes: float = 13.0
    """wall clock, compilation included, filling the pool not"""
    batch: int = 12
    """clips per step and process; all steps of the sampler are held in memory"""
    pool: int = 192
    """clips kept encoded on each device"""
    chunks: int = 120
    """chunks of a rendered clip, 0.5 s each"""
    flights: int = 64
    """clips that are flown at a time"""
    fly_every: int = 128
    """steps until they are flown anew, which takes as long as 60 steps"""
    fresh: int = 32
    """clips rendered at a time to replace the oldest"""
    fresh_every: int = 0
    """steps between them; 0: never"""
    rollout: int = 116
    """chunks of the flights, of which a step sees `frames`: what goes wrong after a minute is not to be seen in a quarter"""
    levels: tuple[float, ...] = (1.0, 0.6)
    """noise levels to fly with, which are also written into the weights"""
    teacher: tuple[float, ...] = (1.0, 0.94, 0.87, 0.78, 0.67, 0.53, 0.36, 0.18)
    """noise levels in which the teacher makes of the same noise what is aimed at; none: the truth alone is"""
    taught_by: Path | None = None
    """weights of the teacher, if it is not to be what the model starts from: for a run that continues another"""
    adversary: float = 2.0
    """length of the judge's gradient, in lengths of the regression's: more is sharper and less true"""
    style: float = 2.0
    """weight of how far flights go from the style of the truth along their way: colours and fullness, not what is where"""
    rate: float = 2e-4
    """learning rate of the model"""
    judge_rate: float = 2e-4
    """learning rate of the judge"""
    firsts: int = 0
    """of so many steps one is about first pictures made of words; 0: none. Not proven yet"""
    calm: float = 2.0
    """weight of the judge's calm: 0 lets it tell true from made by whatever it finds, 100 lets it tell nothing"""

    def __post_init__(self) -> None:
        RolloutOptions.__post_init__(self)
        if self.rollout < 1:
            raise ValueError(f"rollout={self.rollout}: flights have at least 1 chunk")
        if self.firsts and (self.firsts < 2 or not self.teacher):
            raise ValueError(f"firsts={self.firsts}: at least 2, and there must be a teacher, or 0 for none")
        falls(self.levels, "levels")
        if self.teacher:
            falls(self.teacher, "teacher")


def falls(levels: tuple[float, ...], name: str) -> None:
    """Raise ValueError unless noise levels lead from noise to clean."""
    if levels[:1] != (1.0,) or any(a <= b for a, b in steps(levels)):
        raise ValueError(f"{name}={levels} must fall from 1.0 and stay above 0")


class DistillRun(RolloutRun):
    """Student, teacher and judge."""

    name = "distill"
    options: DistillTraining
    decay = 0.99
    remembers = False  # flights remember what they flew, and only flights are learned from
    other_levels = ()
    gap = GAP

    def __init__(self, options: DistillTraining, host: Host) -> None:
        self.optim = OptimConfig(adam=options.rate, betas=(0.5, 0.95), warmup=0.03, decay=0.4)
        super().__init__(options, host)
        self.court = self.judging()
        self.court_of_firsts = self.judging() if options.firsts else None
        self.many: Generator | None = None
        if options.teacher:
            frozen = self.started(stored_world(options.taught_by or options.init))
            self.many = self.flying(frozen, levels=options.teacher)

    def judging(self) -> Court:
        """A new judge."""
        judge = Judge(self.ema.module).train()
        self.host.share_weights(judge)
        if self.options.compile and self.host.device.type == "cuda":
            for block in judge.trunk.blocks:
                block.compile(dynamic=False)
        learns = OptimConfig(adam=self.options.judge_rate, betas=(0.5, 0.95), warmup=0.02, decay=0.3)
        return Court(judge, Optimiser(judge, learns, adam=lambda name: True), self.options.calm)

    def built(self) -> WorldModel:
        return stored_world(self.options.init, levels=self.options.levels)

    def teacher(self) -> Generator | None:
        return self.many

    def by_adam(self, name: str) -> bool:
        return True

    def parts(self) -> dict[str, Stateful]:
        both = {"judge": self.court, "judge of firsts": self.court_of_firsts}
        return {**super().parts(), **{name: court for name, court in both.items() if court is not None}}

    def step(self, step: int, fraction: float) -> Mapping[str, Tensor]:
        o = self.options
        self.freshen(step)
        self.fly(step, o.rollout, frames=o.chunks + 1)
        generator = self.host.generator(o.seed, step)
        if self.many is not None and self.court_of_firsts is not None and step % o.firsts == o.firsts - 1:
            return self.learn_firsts(self.many, self.court_of_firsts, generator, fraction)
        return self.learn_flights(step, generator, fraction)

    def learn_flights(self, step: int, generator: torch.Generator, fraction: float) -> Mapping[str, Tensor]:
        """Make some frames of some flights anew, and follow what is said of them."""
        o = self.options
        shelf = self.shelf.cut(self.part(step), o.frames)
        batch, own, flown = shelf.draw(o.batch, generator=generator, trust=o.trust)
        frames = shelf.taught
        low, high = RADII
        radius = low + (high - low) * torch.rand(o.batch, device=self.host.device, generator=generator)
        grid = self.learner.grid
        cond = condition_clip(
            batch.poses, batch.intrinsics, grid=grid, config=self.model.config, radius=radius
        )
        made = single(self.made(batch, own, flown, frames, cond, generator), frames)
        true = single(batch.latents.float(), frames)
        sure, settled = (x[:, frames].flatten(0, 1).unsqueeze(1) for x in self.sure(batch, own, flown))
        shown = self.shown(step, len(frames))
        rows = torch.tensor([[b * len(frames) + i for i in shown] for b in range(o.batch)]).flatten()
        rows = rows.to(made.device)
        look = Look(batch, [frames[i] for i in shown], cond, generator)
        verdict, unrest = self.court.learn(look, true[rows], made.detach()[rows], generator, fraction)

        leaf = made.detach().requires_grad_()
        regression, (scores,) = distance(leaf, true, sure), look(self.court.judge, leaf[rows])
        fooled = hinge_fool(scores)
        if flown.taught is not None:
            regression = regression + distance(leaf, single(flown.taught.float(), frames), 1 - sure)
        astray = self.astray(leaf, true, len(frames))
        pull, turn, push = (torch.autograd.grad(x, leaf)[0] for x in (regression, astray, fooled))
        heard = (1 - settled).clamp_min(STILL_PUSHED).unsqueeze(1)
        pull, push = pull + o.style * heard * turn, heard * push
        made.backward(blended(pull, push, self.say(fraction)))
        self.learn(fraction)
        losses = {
            "regression": regression,
            "astray": astray,
            "judge": verdict,
            "unrest": unrest,
            "fooled": fooled,
        }
        return {
            **losses,
            **health(leaf.detach(), true),
            "new": (1 - sure).mean(),
            "open": (1 - settled).mean(),
        }

    def learn_firsts(
        self, teacher: Generator, court: Court, generator: torch.Generator, fraction: float
    ) -> Mapping[str, Tensor]:
        """Make pictures of words, and follow what is said of them: the teacher knows what, the judge how crisp.

        The truth is what is to be seen under the same words, somewhere else.
        """
        batch, cond, noise = self.beginnings(generator)
        taught = teacher.first(noise, text=batch.words, cond=cond)
        made, true = self.made_first(batch.words, cond, noise), batch.latents.float()
        look = Look(batch, [0], cond, generator)
        verdict, unrest = court.learn(look, true, made.detach(), generator, fraction)
        leaf = made.detach().requires_grad_()
        regression = distance(leaf, taught, torch.ones_like(leaf[:, 0]))
        (scores,) = look(court.judge, leaf)
        fooled = hinge_fool(scores)
        pull, push = (torch.autograd.grad(x, leaf)[0] for x in (regression, fooled))
        made.backward(blended(pull, push, self.say(fraction)))
        self.learn(fraction)
        losses = {"regression": regression, "judge": verdict, "unrest": unrest, "fooled": fooled}
        return {f"first {n}": x for n, x in {**losses, **health(leaf.detach(), true)}.items()}

    def say(self, fraction: float) -> float:
        """How long the judge's gradient is, in lengths of the pull."""
        return self.options.adversary * min(1.0, max(0.0, (fraction - RAMP[0]) / (RAMP[1] - RAMP[0])))

    def beginnings(self, generator: torch.Generator) -> tuple[Batch, Conditioning, Tensor]:
        """True pictures with some of their words, their cameras, and noise: as many as the judge sees in any step."""
        count = self.options.batch * SHOWN
        drawn = self.pool.draw(count, 2, generator=generator)
        said = torch.rand(drawn.words.shape, device=drawn.words.device, generator=generator) >= UNSAID
        batch = Batch(
            latents=drawn.latents[:, :, :1],
            poses=drawn.poses[:, :1],
            intrinsics=drawn.intrinsics[:, :1],
            words=drawn.words * said,
        )
        cond = condition_clip(batch.poses, batch.intrinsics, grid=self.learner.grid, config=self.model.config)
        noise = torch.randn(batch.latents.shape, device=self.host.device, generator=generator)
        return batch, cond, noise

    def made_first(self, words: Tensor, cond: Conditioning, noise: Tensor) -> Tensor:
        """Pictures [N, C, 1, h, w] fp32 that nothing came before, made of noise by the sampler, with gradient."""
        x, dtype = noise, torch.bfloat16 if noise.is_cuda else noise.dtype
        for level, target in steps(FIRST_LEVELS):
            levels = x.new_full((len(x), 1), timestep(level) / 1000)
            flow = self.learner.flow(x.to(dtype), levels, words, cond)
            x = euler(x, flow.float(), level=level, target=target)
        return x

    def astray(self, made: Tensor, true: Tensor, frames: int) -> Tensor:
        """How far the flights have gone from the style of the true frames along the same poses."""
        have, want = style(made, frames=frames), style(true, frames=frames)
        return distance(have, want, torch.ones_like(have[:, 0]))

    def sure(self, batch: Batch, own: SelfMade, flown: Flown) -> tuple[Tensor, Tensor]:
        """How much the truth is what should be shown, and shown just so: two of [B, F, h, w].

        Both where the flight kept to the truth, and the memory decides or settles what is there.
        """
        trusted = own.trusted(batch.latents)
        if flown.firm is None or not self.options.teacher:
            return trusted, trusted
        decided, settled = flown.firm.float().unbind(1)
        return trusted * decided, trusted * settled

    def part(self, step: int) -> int:
        """The frame with which this step's part of the flights begins."""
        dice = self.host.generator(self.options.seed + 13, step, device=torch.device("cpu"))
        o = self.options
        left = o.rollout - GIVEN - GAP + 1  # from there on there may be none to be made anew
        last = min(o.chunks + 1 - o.frames, max(left, 0)) if o.frames >= GIVEN + GAP else 0
        if float(torch.rand((), generator=dice)) < BEGINNINGS:
            return 0
        return int(torch.randint(last + 1, (), generator=dice))

    def shown(self, step: int, count: int) -> list[int]:
        """Which of `count` frames made anew the judge sees: `SHOWN` of them, some twice where there are fewer."""
        dice = self.host.generator(self.options.seed + 17, step, device=torch.device("cpu"))
        order = torch.randperm(count, generator=dice).tolist()
        return sorted((order * SHOWN)[:SHOWN])

    def made(
        self,
        batch: Batch,
        own: SelfMade,
        flown: Flown,
        frames: list[int],
        cond: Conditioning,
        generator: torch.Generator,
    ) -> Tensor:
        """Flights [B, C, F, h, w] fp32 in which `frames` are made anew from their noise, by the sampler, with gradient."""
        flight = own.latents.float()
        dtype = torch.bfloat16 if flight.is_cuda else flight.dtype
        anew = torch.zeros(flight.shape[2], dtype=torch.bool, device=flight.device)
        anew[frames] = True
        anew5 = anew[:, None, None]
        words = self.learner.words(batch.words, generator)
        x = torch.where(anew5, flown.noise.float(), flight)
        for level, target in steps(self.model.config.levels):
            levels = (anew * (timestep(level) / 1000)).expand(flight.shape[0], -1)
            flow = self.learner.flow(x.to(dtype), levels, words, cond, memory_of(batch))
            x = torch.where(anew5, euler(x, flow.float(), level=level, target=target), flight)
        return x

    def warmings(self) -> tuple[Callable[[], None], ...]:
        looks = partial(self.warm_judge, kinds=3), partial(self.warm_judge, kinds=1)
        firsts = (self.warm_firsts,) if self.options.firsts else ()
        return (self.warm_flights, self.warm_student, *firsts, *looks)

    def warm_firsts(self) -> None:
        self.make_up()
        batch, cond, noise = self.beginnings(self.host.generator(0, 0))
        if self.many is not None:
            self.many.first(noise, text=batch.words, cond=cond)
        self.made_first(batch.words, cond, noise).sum().backward()

    def warm_student(self) -> None:
        batch, own, flown, cond = self._nothing_flown()
        generator = self.host.generator(0, 0)
        self.made(batch, own, flown, [GAP], cond, generator).sum().backward()

    def warm_judge(self, kinds: int) -> None:
        """kinds: 3, true, made and shaken frames, or 1, those that are to fool it."""
        batch, _, _, cond = self._nothing_flown()
        shown = [0] * SHOWN
        frames = single(batch.latents.float(), shown).requires_grad_(kinds == 1)
        look = Look(batch, shown, cond, self.host.generator(0, 0))
        torch.cat(look(self.court.judge, *[frames] * kinds)).sum().backward()

    def _nothing_flown(self) -> tuple[Batch, SelfMade, Flown, Conditioning]:
        """Flights of nothing."""
        o, frames = self.options, self.options.frames
        batch = self.made_up(o.batch, frames)
        x = batch.latents
        memory = x.new_zeros(len(x), self.model.config.memory_channels, *x.shape[2:])
        batch = replace(batch, memory=memory)
        shelf = Shelf()
        shelf.put(batch, Flown(latents=x, memory=memory, noise=x, taught=x), start=1, chunks=frames - 1)
        batch, own, flown = shelf.draw(o.batch, generator=self.host.generator(0, 0), trust=o.trust)
        grid = self.learner.grid
        cond = condition_clip(batch.poses, batch.intrinsics, grid=grid, config=self.model.config)
        return batch, own, flown, cond


class Court:
    """A judge, and how it learns."""

    def __init__(self, judge: Judge, critic: Optimiser, calm: float) -> None:
        self.judge, self.critic, self.calm = judge, critic, calm

    def learn(
        self, look: Look, true: Tensor, made: Tensor, generator: torch.Generator, fraction: float
    ) -> tuple[Tensor, Tensor]:
        """Tell frames [N, C, 1, h, w] apart. Returns its loss, and how much a little noise changes its mind."""
        real, fake, shaken = look(self.judge, true, made, shake(true, generator=generator))
        verdict, unrest = hinge_judge(real, fake), gradient_penalty(real, shaken)
        (verdict + self.calm * unrest).backward()
        nn.utils.clip_grad_norm_(self.judge.parameters(), 1.0)
        self.critic.step(fraction)
        return verdict, unrest

    def state_dict(self) -> dict[str, Any]:
        return {"judge": self.judge.state_dict(), "critic": self.critic.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.judge.load_state_dict(state["judge"])
        self.critic.load_state_dict(state["critic"])


class Look:
    """How the judge is shown frames in one step: true and made ones under the same noise."""

    def __init__(
        self, batch: Batch, frames: list[int], cond: Conditioning, generator: torch.Generator
    ) -> None:
        self.cond = single_cameras(cond, frames)
        self.words = batch.words.repeat_interleave(len(frames), 0)
        count, device = len(self.words), batch.latents.device
        self.levels = JUDGED * torch.rand(count, device=device, generator=generator).square()
        _, C, _, h, w = batch.latents.shape
        self.noise = torch.randn(count, C, 1, h, w, device=device, generator=generator)

    def __call__(self, judge: Judge, *kinds: Tensor) -> tuple[Tensor, ...]:
        """Scores [N, h, w] of each of some kinds of frames [N, C, 1, h, w], judged at once."""
        n, levels = len(kinds), self.levels[:, None, None, None, None]
        x = torch.cat([add_noise(x, self.noise, levels) for x in kinds])
        cond = replace(
            self.cond,
            P=self.cond.P.repeat(n, 1, 1, 1, 1),
            P_inv=self.cond.P_inv.repeat(n, 1, 1, 1, 1),
            plucker=self.cond.plucker.repeat(n, 1, 1, 1, 1),
        )
        scores = judge(x, levels=self.levels.repeat(n), words=self.words.repeat(n, 1), cond=cond)
        return scores.chunk(n)


def shake(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """x under a little noise."""
    return x + SHAKE * torch.randn(x.shape, device=x.device, generator=generator)


def health(made: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Signs of collapse, each 1 where all is well: spread of channels (mean and narrowest) and roughness, against the truth.

    made, true: [N, C, 1, h, w].
    """
    spread = made.std(dim=(0, 2, 3, 4)) / true.std(dim=(0, 2, 3, 4)).clamp_min(1e-6)
    return {
        "spread": spread.mean(),
        "narrowest": spread.min(),
        "roughness": roughness(made) / roughness(true).clamp_min(1e-6),
    }


def train_distill(options: DistillTraining) -> None:
    """Run the stage. Raises ValueError for weights that cannot be read or a state that does not fit."""
    carry_out(DistillRun, options)


def main() -> None:
    """The command line of this file."""
    import tyro

    train_distill(tyro.cli(DistillTraining, description=__doc__))


if __name__ == "__main__":
    main()
