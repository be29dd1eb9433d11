"""Flights that the model makes itself from true beginnings, and training clips in which they stand for the truth.

Source of the idea: Huang et al. 2025, "Self Forcing", arXiv 2506.08009. There the loss sees the rollout itself; here
the rollout is context, and what comes next is learned from the true frames along the same poses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.codec import Codec
from engine.conditioning import Conditioning, condition_clip
from engine.config import memory_channels
from engine.generator import Generator
from engine.memory import begin, insert
from engine.model import beside
from engine.recall import draw_on, frame_source, recall
from engine.state import StreamState
from engine.train.forcing import ForcingConfig, draw_levels
from engine.train.pool import Batch
from engine.train.remember import last_frame
from engine.warp import Sources, Warped

TOGETHER = (
    192  # flights whose memory is made at a time, 24 GB: many small steps keep a GPU waiting for launches
)
GIVEN = 4  # frames of a flight that a part from its middle begins with: nothing before them is seen
FAR = 60.0  # metres from which on what is remembered does not say what will be seen there
STRETCHED = 1.5  # magnification from which on it does not say in what detail
WORN = 4  # and generation: so often redrawn
SHARE = (0.15, 0.5)  # of the self-made frames are noised true frames instead, to be learned; drawn per clip
NOISY = ForcingConfig(context=(0.0, 0.0), first_context=0.0)  # every frame is to be learned

V = TypeVar("V", "Batch", "Flown")


def each(values: V, change: Callable[[Tensor], Tensor]) -> V:
    """The same with every tensor changed; what it does not have stays None."""
    changed: dict[str, Any] = {n: None if x is None else change(x) for n, x in _tensors(values).items()}
    return type(values)(**changed)


def joined(a: Batch, b: Batch) -> Batch:
    """Clips of both batches, one after the other."""
    values: dict[str, Any] = {}
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        values[f.name] = None if x is None else torch.cat((x, y))
    return Batch(**values)


def memory_of(batch: Batch) -> Tensor | None:
    """Spatial memory of the clips [B, memory channels, F, h, w], where the pool keeps one."""
    memory: Tensor | None = getattr(batch, "memory", None)
    return memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Flown:
    """What `fly_on` made."""

    latents: Tensor  # [B, C, F, h, w] those of the batch with the self-made frames in place, in their dtype
    memory: Tensor | None  # [B, memory_channels, F, h, w] what was remembered
    noise: Tensor  # [B, C, F, h, w] what self-made frames began with; 0 elsewhere
    taught: (
        Tensor | None
    )  # [B, C, F, h, w] what the teacher makes of that noise, where it was asked; None: nobody taught
    firm: Tensor | None = None  # [B, 2, F, h, w] `firm_shares`; None: nothing was remembered in flight


@torch.no_grad()
def fly_on(
    flyer: Generator,
    batch: Batch,
    *,
    start: int,
    chunks: int,
    generator: torch.Generator,
    codec: Codec | None = None,
    teacher: Generator | None = None,
    gap: int = 1,
) -> Flown:
    """Let a model continue clips from their first `start` true frames, as it would in flight.

    flyer: of single-frame chunks, in the precision it is flown in.  codec: to remember what was flown, as in flight, if
    the model remembers; None: what the batch says is remembered.  teacher: sees every flight and says what it would
    have made of the same noise, for every `gap`-th of the frames made.  Frames start … start + chunks - 1 are made.
    Raises NotFinite.
    """
    made, stop = batch.latents.clone(), start + chunks
    begun = torch.zeros_like(made)
    taught = None if teacher is None else made.clone()
    cond = condition_clip(
        batch.poses, batch.intrinsics, grid=(made.shape[3], made.shape[4]), config=flyer.config
    )
    memory = memory_of(batch)
    own = None if codec is None or not flyer.config.memory_channels else Remembering(codec, batch)
    if own is not None:
        memory = own.channels
        for i in range(1, start):
            own.recall(i)
            own.see(i, made)
    state = _committed(flyer, batch, memory, cond, start)
    watched = None if teacher is None else _committed(teacher, batch, memory, cond, start)
    for i in range(start, stop):
        if own is not None:
            own.recall(i)
        noise = torch.randn(made[:, :, :1].shape, device=made.device, generator=generator)
        noise = noise.to(begun.dtype).float()  # what is kept is what was flown
        seen = None if memory is None else memory[:, :, i : i + 1]
        at = cond.part(i, i + 1)
        latents, state = flyer.step(state, cond=at, memory=seen, noise=noise)
        made[:, :, i] = latents[:, :, 0].to(made.dtype)
        begun[:, :, i] = noise[:, :, 0].to(begun.dtype)
        if teacher is not None and watched is not None and taught is not None:
            if (i - start) % gap == 0:
                shown = teacher.sample(watched, cond=at, memory=seen, noise=noise)
                taught[:, :, i] = shown[:, :, 0].to(taught.dtype)
            watched = teacher.commit(watched, latents, cond=at, memory=seen)
        if own is not None and i + 1 < stop:
            own.see(i, made)
    firm = None if own is None else own.firm
    return Flown(latents=made, memory=memory, noise=begun, taught=taught, firm=firm)


class Remembering:
    """The spatial memories of a batch of flights, made of what was flown, a few flights at a time."""

    def __init__(self, codec: Codec, batch: Batch) -> None:
        """They begin with the first picture, as the codec shows it."""
        memory, (count, _, frames, h, w) = memory_of(batch), batch.latents.shape
        self.codec, self.batch, self.frames = codec, batch, codec.config.frames
        blank = batch.latents.new_zeros(count, memory_channels(codec.config), frames, h, w)
        self.channels = blank if memory is None else memory.clone()  # [B, memory_channels, F, h, w]
        self.firm = torch.zeros_like(blank[:, :2])  # [B, 2, F, h, w]
        self.parts = [slice(i, min(i + TOGETHER, count)) for i in range(0, count, TOGETHER)]
        self.recalled: list[Warped | None] = [None] * len(self.parts)  # of the last view
        self.memories = [begin(self._source(k, 0, batch.latents)) for k in range(len(self.parts))]

    def recall(self, chunk: int) -> None:
        """What is remembered of the frames of a chunk, into `channels`."""
        views = slice(self.frames * (chunk - 1) + 1, self.frames * chunk + 1)
        for k, at in enumerate(self.parts):
            recalled = recall(
                self.memories[k],
                self.batch.poses[at, views],
                self.batch.intrinsics[at, views],
                codec=self.codec,
                draw=draw_on(self.channels.device),
                half=self.channels.is_cuda,
            )
            self.channels[at, :, chunk] = recalled.channels[:, :, 0].to(self.channels.dtype)
            firm = firm_shares(recalled.warped, stride=self.codec.config.stride)
            self.firm[at, :, chunk] = firm.to(self.firm.dtype)
            self.recalled[k] = recalled.warped.last()

    def see(self, chunk: int, latents: Tensor) -> None:
        """Remember the last frame of a chunk of `latents` [B, C, F, h, w], whose views were just recalled."""
        for k in range(len(self.parts)):
            self.memories[k] = insert(self.memories[k], self._source(k, chunk, latents))

    def _source(self, k: int, chunk: int, latents: Tensor) -> Sources:
        at, seen = self.parts[k], self.recalled[k]
        color, depth = last_frame(self.codec, latents[at, :, max(chunk - 1, 0)], latents[at, :, chunk], seen)
        age = seen.generation[:, -1] if seen is not None else torch.zeros_like(depth, dtype=torch.uint8)
        i = self.frames * chunk
        index = torch.full((len(color),), i, device=color.device)
        pose, lens = self.batch.poses[at, i], self.batch.intrinsics[at, i]
        return frame_source(color, depth, age, pose=pose, intrinsics=lens, index=index)


def firm_shares(seen: Warped, *, stride: int) -> Tensor:
    """How much of every cell the memory decides, and how much it settles: [B, 2, h, w].

    It decides where it shows the sky, or things near by: the truth is what belongs there. What is far comes out of the
    haze only as one draws near, and the truth is one of many things that could; nor is a cell decided beside one that
    shows something far, for a tree that appears is higher than the ground it stands on. It settles, detail and all, what
    it decides and has neither stretched nor often redrawn: an old flight walks over ground first seen from afar.
    """
    known, depth = seen.mask > 0, seen.inverse_depth
    far = known & (depth > 0) & (depth < 1 / FAR)
    near = known & ~far
    crisp = near & (seen.magnification < STRETCHED) & (seen.generation < WORN)
    both = torch.stack((near, crisp), dim=2).float()  # [B, V, 2, Y, X]
    share = F.avg_pool2d(both.flatten(0, 1), stride).unflatten(0, both.shape[:2]).mean(dim=1)
    distant = F.avg_pool2d(far.float(), stride).amax(dim=1, keepdim=True)
    return share * (1 - F.max_pool2d(distant, 3, 1, 1))


def _committed(
    flyer: Generator, batch: Batch, memory: Tensor | None, cond: Conditioning, start: int
) -> StreamState:
    """The state after `start` true frames, written in one dense pass."""
    past = batch.latents[:, :, :start].to(flyer.dtype)
    text = flyer.model.embed_text(batch.words)
    x = beside(past, None if memory is None else memory[:, :, :start], flyer.config)
    rest = torch.zeros(past.shape[0], start, device=past.device)
    _, blocks = flyer.model(x, timestep=rest, text=text, text_mask=None, cond=cond.part(0, start))
    return StreamState(
        blocks=blocks,
        frame=start,
        chunk=start,
        seed=0,
        text=text,
        text_mask=None,
        latent=past[:, :, -1],
        anchor=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfMade:
    """Which frames of a training batch the model made itself, and what they look like."""

    latents: Tensor  # [B, C, F, h, w] clips with the self-made frames in place
    made: Tensor  # [B, F] bool
    before: Tensor  # [B, F] bool: the true frames that the self-made ones continue
    trust: float  # how far a cell may be from the truth before the truth has little to say about it; 0: endlessly

    def given(
        self, clean: Tensor, levels: Tensor, weights: Tensor, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the model is given, at which noise levels, and what weighs how much in the loss [B, F, h, w].

        Self-made frames are given clean, as they are committed in flight, and weigh nothing; some of them are the
        true frame, noised, to be learned from the self-made ones before it. Frames after the flight stay as drawn.
        """
        low, high = SHARE
        count, frames = levels.shape
        free, _ = draw_levels(count, frames, NOISY, generator=generator)
        share = low + (high - low) * torch.rand(count, 1, device=clean.device, generator=generator)
        learned = torch.rand(levels.shape, device=clean.device, generator=generator) < share
        learned = self.made & (learned | self.last())
        context = (self.made & ~learned) | self.before
        levels = torch.where(learned, free, levels).masked_fill(context, 0.0)
        weights = torch.where(learned, 1.0, weights).masked_fill(context, 0.0)
        x = torch.where((self.made & ~learned)[:, None, :, None, None], self.latents.to(clean.dtype), clean)
        cells = torch.where(learned[..., None, None], self.trusted(clean), 1.0)
        return x, levels, weights[..., None, None] * cells

    def last(self) -> Tensor:
        """[B, F] bool: the last self-made frame of each clip."""
        later = self.made.flip(1).cumsum(1).flip(1)
        return self.made & (later == 1)

    def trusted(self, clean: Tensor) -> Tensor:
        """Weights of cells [B, F, h, w]: 1 where the flight kept to the truth, less where it invented something else.

        In places that no frame has shown the truth is not better than the invention, and pulling towards it would
        only teach to wash inventions out.
        """
        if not self.trust:
            return torch.ones_like(clean[:, 0], dtype=torch.float32)
        off = (self.latents.float() - clean.float()).square().mean(dim=1)
        return 1 / (1 + (off / self.trust**2).square())


class Shelf:
    """The last self-made flights: rolled out many at a time, because small passes cost a GPU as much as large ones."""

    def __init__(self) -> None:
        self.batch: Batch | None = None
        self.flown: Flown | None = None
        self.start = self.chunks = 0
        self.taught: list[int] = []  # frames of which the teacher was asked, had there been one

    def put(self, batch: Batch, flown: Flown, *, start: int, chunks: int, gap: int = 1) -> None:
        """batch: true clips.  flown: what `fly_on` returned for them.  start, chunks, gap: as they were given to it."""
        self.batch, self.flown, self.start, self.chunks = batch, flown, start, chunks
        self.taught = list(range(start, start + chunks, gap))

    def cut(self, at: int, frames: int) -> Shelf:
        """The same flights, `frames` frames of them from frame `at` on. Before those that count as made, some are given."""
        batch, flown = self._full()
        if not at and frames == batch.latents.shape[2]:
            return self
        stride = (batch.poses.shape[1] - 1) // (batch.latents.shape[2] - 1)
        part, views = slice(at, at + frames), slice(stride * at, stride * (at + frames - 1) + 1)
        memory = memory_of(batch)
        shelf = Shelf()
        shelf.put(
            Batch(
                latents=batch.latents[:, :, part],
                poses=batch.poses[:, views],
                intrinsics=batch.intrinsics[:, views],
                words=batch.words,
                memory=None if memory is None else memory[:, :, part],
            ),
            each(flown, lambda x: x[:, :, part]),
            start=max(self.start - at, GIVEN if at else 1),
            chunks=0,
        )
        shelf.chunks = min(self.start + self.chunks - at, frames) - shelf.start
        made = range(shelf.start, shelf.start + shelf.chunks)
        shelf.taught = [frame - at for frame in self.taught if frame - at in made]
        return shelf

    def draw(self, count: int, *, generator: torch.Generator, trust: float) -> tuple[Batch, SelfMade, Flown]:
        """`count` of the flights: the true clips, what was made of them, and from what."""
        batch, flown = self._full()
        made = flown.latents
        index = torch.randperm(len(made), device=made.device, generator=generator)[:count]
        made = made[index]
        frame = torch.arange(made.shape[2], device=made.device).expand(len(made), -1)
        own = SelfMade(
            latents=made,
            made=(frame >= self.start) & (frame < self.start + self.chunks),
            before=frame < self.start,
            trust=trust,
        )
        return each(batch, lambda x: x[index]), own, each(flown, lambda x: x[index])

    def _full(self) -> tuple[Batch, Flown]:
        if self.batch is None or self.flown is None:
            raise RuntimeError("the shelf is empty: put flights on it first")
        return self.batch, self.flown

    def state_dict(self) -> dict[str, Any]:
        if self.batch is None or self.flown is None:
            return {"batch": None}
        both = {"batch": _tensors(self.batch), "flown": _tensors(self.flown)}
        return {**both, "start": self.start, "chunks": self.chunks, "taught": self.taught}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["batch"] is not None:
            batch, flown = Batch(**state["batch"]), Flown(**state["flown"])
            self.put(batch, flown, start=int(state["start"]), chunks=int(state["chunks"]))
            self.taught = [int(frame) for frame in state["taught"]]


def _tensors(value: Batch | Flown) -> dict[str, Any]:
    """The fields by name."""
    return {f.name: getattr(value, f.name) for f in fields(value)}


def with_true(own: SelfMade, true: Batch) -> SelfMade:
    """The same for a batch in which `true` clips follow the self-made ones."""
    none = torch.zeros(true.latents.shape[0], own.made.shape[1], dtype=torch.bool, device=own.made.device)
    return SelfMade(
        latents=torch.cat((own.latents, true.latents)),
        made=torch.cat((own.made, none)),
        before=torch.cat((own.before, none)),
        trust=own.trust,
    )
