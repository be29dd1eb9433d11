"""Where keys and values of a block of frames stand during its passes: behind those that it sees, in one memory.

Passes overwrite their own part and leave the rest, so that sink and history are turned and joined once per block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
    history: tuple[KV, ...]
    split: bool  # how it turns

    @property
    def tokens(self) -> int:
        return self.sink.tokens + sum(block.tokens for block in self.history)

    def room(self, own: int, *, size: int = 0, memory: KV | None = None) -> Room:
        """Joined, with place for a block of `own` tokens.

        size: tokens of memory taken, if more than those.  memory: at the beginning of which to stand; None: new one.
        """
        if memory is None:
            memory = empty_memory(self.sink.k, max(size, self.tokens + own))
        room = room_in(memory, self.tokens, own)
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
        filled = self.sink.tokens
        for block in self.history:
            room.all.fill(filled, block)
            filled += block.tokens
        return room


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
