"""Blocks of the refiner in memory that stays, and behind a full window all their passes as one CUDA graph.

A graph reads and writes where it was captured. So the rooms of all layers keep their place from block to block; they
are filled from a state before the passes, and what is remembered is copied out of them: a state stays a value.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from engine.graphed import Graphed
from engine.refiner_model import RefinerModel
from engine.refiner_passes import Told, denoised, remembered
from engine.refiner_room import KV, Past, Room, empty_memory, room_in


class SteadyBlock:
    """Holds the rooms of one shape: between blocks nobody reads what is in them."""

    def __init__(self, model: RefinerModel) -> None:
        self.model = model
        self._memory: tuple[KV, ...] = ()  # per layer, as long as the window and a block
        self._graphed = Graphed(self._passes, patient=True)

    def fits(self, latents: Tensor) -> bool:
        """Whether blocks such as latents [B, C, F, h, w] come again and again. Any other length is for fresh memory."""
        config = self.model.config
        return config.hold and latents.shape[2] == config.block <= config.window

    @property
    def ready(self) -> bool:
        """Whether a block behind a full window is captured."""
        return self._graphed.captured > 0

    def enter(self, past: Sequence[Past], cells: int) -> tuple[Room, ...]:
        """The rooms of all layers with what a block sees before itself.  cells: tokens of a latent frame."""
        config, like = self.model.config, past[0].sink.k
        shape = (like.shape[0], (config.window + config.block) * cells, *like.shape[2:])
        if not self._memory or (self._memory[0].k.shape, self._memory[0].k.dtype) != (shape, like.dtype):
            self._graphed = Graphed(self._passes, patient=True)
            self._memory = ()  # let go before there is more
            self._memory = tuple(empty_memory(like, shape[1]) for _ in past)
        own = config.block * cells
        return tuple(p.room(own, memory=m) for p, m in zip(past, self._memory, strict=True))

    def __call__(self, latents: Tensor, noise: Tensor, told: Told, rooms: Sequence[Room]) -> Tensor:
        """All passes of a block in the rooms that `enter` made ready. Returns refined latents in fp32.

        latents, noise: [B, C, F, h, w], where the model is; noise in its dtype.
        """
        before = rooms[0].all.tokens - rooms[0].own.tokens
        full = rooms[0].all.tokens == self._memory[0].tokens
        return (self._graphed if full else self._passes)(latents, noise, told, before)

    def _passes(self, latents: Tensor, noise: Tensor, told: Told, before: int) -> Tensor:
        """before: tokens that stand in the rooms before those of the block."""
        rooms = [room_in(memory, before, latents[0, 0].numel()) for memory in self._memory]
        for _x, _clean, out in denoised(self.model, told, rooms, latents, noise):
            refined = out
        remembered(self.model, told, rooms, refined, dtype=noise.dtype)
        return refined
