"""Blocks of the refiner in memory that stays, and behind a full window all their passes as one CUDA graph.

A graph reads and writes where it was captured. So the rooms of all layers keep their place from block to block; they
are filled from a state before the passes, and what is remembered is copied out of them: a state stays a value. Behind
a full window only what does not stand there yet is filled in, which changes no bit of what does.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from engine.graphed import Graphed
from engine.refiner_model import RefinerModel
from engine.refiner_passes import Told, denoised, remembered
from engine.refiner_room import KV, Past, Room, empty_memory, room_in


@dataclass(frozen=True, slots=True)
class Stands:
    """What history a memory holds. Its newest block says so: a block is made once, from one past, and never edited."""

    k: weakref.ref[Tensor]  # keys of that block in the first layer
    begin: int  # where it begins: the same past at another time has other places

    def newer(self, past: Past) -> int | None:
        """How many blocks of a full history, the first layer's, came after those that stand; None: others stand there."""
        for i, (begin, block) in enumerate(reversed(past.places)):
            if block.k is self.k():
                return i if begin == self.begin else None
        return None


class SteadyBlock:
    """Holds the rooms of one shape: between blocks nobody reads what is in them, but for what stays of a full history."""

    def __init__(self, model: RefinerModel) -> None:
        self.model = model
        self._memory: tuple[KV, ...] = ()  # per layer, as long as the window and a block
        self._stands: Stands | None = None
        self._graphed = Graphed(self._passes, patient=True)

    def fits(self, latents: Tensor, held: int) -> bool:
        """Whether blocks such as latents [B, C, F, h, w] come again and again. Any other length is for fresh memory.

        held: latent frames in the history, which may be of a longer window.
        """
        config = self.model.config
        return config.hold and latents.shape[2] == config.block <= config.window and held <= config.history

    @property
    def ready(self) -> bool:
        """Whether a block behind a full window is captured."""
        return self._graphed.captured > 0

    def enter(self, past: Sequence[Past], cells: int) -> tuple[Room, ...]:
        """The rooms of all layers with what a block sees before itself.  cells: tokens of a latent frame."""
        config = self.model.config
        self._provide(past[0].sink.k, (config.window + config.block) * cells, layers=len(past))
        rooms = tuple(room_in(m, past[0].tokens, config.block * cells) for m in self._memory)
        full = self._full(rooms[0])
        stands, self._stands = self._stands, None  # until everything is in its place
        new = stands.newer(past[0]) if full and stands is not None else None
        for p, room in zip(past, rooms, strict=True):
            p.fill(room, new=new)
        if full and past[0].history:
            begin, last = past[0].places[-1]
            self._stands = Stands(weakref.ref(last.k), begin)
        return rooms

    def _provide(self, like: Tensor, count: int, *, layers: int) -> None:
        """Memory for so many tokens like [B, ·, H, K] in each layer, unless it is there."""
        shape = (like.shape[0], count, *like.shape[2:])
        if self._memory and (self._memory[0].k.shape, self._memory[0].k.dtype) == (shape, like.dtype):
            return
        self._graphed = Graphed(self._passes, patient=True)
        self._memory, self._stands = (), None  # let go before there is more
        self._memory = tuple(empty_memory(like, count) for _ in range(layers))

    def _full(self, room: Room) -> bool:
        """Whether a room takes all of its memory: that behind a full window."""
        return room.all.tokens == self._memory[0].tokens

    def __call__(self, latents: Tensor, noise: Tensor, told: Told, rooms: Sequence[Room]) -> Tensor:
        """All passes of a block in the rooms that `enter` made ready. Returns refined latents in fp32.

        latents, noise: [B, C, F, h, w], where the model is; noise in its dtype.
        """
        before = rooms[0].all.tokens - rooms[0].own.tokens
        return (self._graphed if self._full(rooms[0]) else self._passes)(latents, noise, told, before)

    def _passes(self, latents: Tensor, noise: Tensor, told: Told, before: int) -> Tensor:
        """before: tokens that stand in the rooms before those of the block."""
        rooms = [room_in(memory, before, latents[0, 0].numel()) for memory in self._memory]
        for _x, _clean, out in denoised(self.model, told, rooms, latents, noise):
            refined = out
        remembered(self.model, told, rooms, refined, dtype=noise.dtype)
        return refined
