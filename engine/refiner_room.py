"""Where keys and values of a block of frames stand during its passes: behind those that it sees, in one memory.

Passes overwrite their own part and leave the rest, so that sink and history are turned and joined once per block.
Attention does not ask in which order keys stand. So a full history is a ring: every latent frame has a place that
follows from its number alone, where the newest takes that of the one just forgotten and all others stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from torch import Tensor

from engine.refiner_rope import Turn
from kernels.turn_into import turn_into


@dataclass(frozen=True, slots=True)
class KV:
    """Keys and values [B, T, H, K] of one layer."""

    k: Tensor
    v: Tensor

    @property
    def tokens(self) -> int:
        return self.k.shape[1]

    def part(self, first: int, count: int) -> KV:
        """Views of `count` tokens."""
        return KV(self.k[:, first : first + count], self.v[:, first : first + count])

    def copied(self) -> KV:
        """In memory of its own: a view keeps all that it is part of."""
        return KV(self.k.clone(), self.v.clone())

    def fill(self, first: int, other: KV) -> None:
        """Overwrite tokens from `first` on."""
        there = self.part(first, other.tokens)
        there.k.copy_(other.k)
        there.v.copy_(other.v)

    def fill_round(self, first: int, other: KV) -> None:
        """The same, and from the beginning what does not fit before the end."""
        fits = min(other.tokens, self.tokens - first)
        self.fill(first, other.part(0, fits))
        if fits < other.tokens:
            self.fill(0, other.part(fits, other.tokens - fits))


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Of one layer. The last tokens are the block's own."""

    all: KV
    own: KV  # a view of the end
    raw: Tensor | None = None  # own keys before they turn, for whom they are wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a block sees before itself in one layer. `history` is rotated, `sink` not yet."""

    sink: KV
    at: Turn  # where the sink is to stand
    history: tuple[KV, ...]  # oldest first
    first: int  # where the oldest begins in the tokens of the history, a ring: counted on beyond its end
    split: bool  # how it turns

    @property
    def tokens(self) -> int:
        return self.sink.tokens + self.held

    @property
    def held(self) -> int:
        """Tokens of the history."""
        return sum(block.tokens for block in self.history)

    @property
    def places(self) -> tuple[tuple[int, KV], ...]:
        """The blocks of the history, and where in it each begins."""
        held, lengths = self.held, (block.tokens for block in self.history)
        begins = accumulate(lengths, initial=self.first)
        return tuple((begin % held, block) for begin, block in zip(begins, self.history, strict=False))

    def room(self, own: int, *, size: int = 0) -> Room:
        """Joined in new memory, with place for a block of `own` tokens.

        size: tokens of memory taken, if more than those.
        """
        room = room_in(empty_memory(self.sink.k, max(size, self.tokens + own)), self.tokens, own)
        self.fill(room)
        return room

    def fill(self, room: Room, *, new: int | None = None) -> None:
        """Turn the sink into its place, and put the blocks of the history into theirs.

        new: how many of them, the newest ones, do not stand there already; None: all.
        """
        first = room.all.part(0, self.sink.tokens)
        turn_into(
            self.sink.k,
            self.sink.v,
            cos=self.at.cos,
            sin=self.at.sin,
            columns=self.at.columns,
            split=self.split,
            k_out=first.k,
            v_out=first.v,
        )
        ring = room.all.part(self.sink.tokens, self.held)
        known = 0 if new is None else len(self.history) - new
        for begin, block in self.places[known:]:
            ring.fill_round(begin, block)


def newest(blocks: Sequence[KV], count: int) -> tuple[KV, ...]:
    """The last `count` tokens of blocks one after the other; that which is cut is copied."""
    kept: list[KV] = []
    for block in reversed(blocks):
        n = min(count, block.tokens)
        if n:
            kept.insert(0, block if n == block.tokens else block.part(block.tokens - n, n).copied())
        count -= n
    return tuple(kept)


def empty_memory(like: Tensor, count: int) -> KV:
    """For so many tokens. like: [B, ·, H, K]."""
    shape = (like.shape[0], count, *like.shape[2:])
    return KV(like.new_empty(shape), like.new_empty(shape))


def room_in(memory: KV, past: int, own: int) -> Room:
    """At the beginning of a memory, views of it."""
    both = memory.part(0, past + own)
    return Room(all=both, own=both.part(past, own))


def first_room(like: Tensor, own: int) -> Room:
    """Of tokens before which nothing stands, whose keys are also wanted as they are before they turn."""
    room = room_in(empty_memory(like, own), 0, own)
    return replace(room, raw=like.new_empty(room.own.k.shape))


class Rooms:
    """The rooms of all layers for one block: a new iteration for every pass.

    Held from pass to pass if that is asked for, unless the block is longer than the window, such as a whole clip,
    whose keys and values in all layers would fill the memory.
    """

    def __init__(self, past: Sequence[Past], own: int, *, window: int, hold: bool) -> None:
        """own: tokens of the block.  window: at most so many stand before it; rooms are as large while it fills."""
        self._past, self._own = past, own
        hold = hold and own <= window
        self._held = [p.room(own, size=window + own) if hold else None for p in past]

    def __iter__(self) -> Iterator[Room]:
        for past, held in zip(self._past, self._held, strict=True):
            yield held or past.room(self._own)

    def last(self) -> Iterator[Room]:
        """For the last pass: a room is let go when the next is asked for."""
        for i, past in enumerate(self._past):
            room, self._held[i] = self._held[i] or past.room(self._own), None
            yield room
