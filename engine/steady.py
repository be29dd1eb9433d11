"""The steady chunk of a stream on a GPU: all its passes as one CUDA graph of compiled blocks."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.compiler import Form, as_it_is, compiled
from engine.conditioning import Conditioning
from engine.graphed import Graphed
from engine.model import BlockForm, Given, Words, WorldModel, beside, plain
from engine.schedule import euler, steps, timestep
from engine.state import BlockState, Keys, Memory, timeless, with_room

Mixers = tuple[Memory | Keys, ...]
Passes = tuple[Tensor, Tensor, Mixers, tuple[Tensor, ...]]  # latents, whether all is finite, mixers, tails


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a chunk is made from besides noise, without its time in anything but `at`."""

    text: Tensor
    text_mask: Tensor | None
    words: Words
    cond: Conditioning
    past: tuple[BlockState, ...]
    at: Tensor  # [] int64, index of the first latent frame
    memory: Tensor | None = None  # [B, memory_channels, F, h, w], where the model has such channels


class SteadyChunk:
    """Called for the chunks of a full window: the first is compiled and captured, all later ones are replayed."""

    def __init__(self, model: WorldModel, levels: tuple[float, ...]) -> None:
        self.model, self.levels = model, levels
        self._graphed = Graphed(self._compiled, eager=self._plain)
        self._text: weakref.ref[Tensor] | None = None
        self._words: Words = ()

    def fits(self, past: tuple[BlockState, ...]) -> bool:
        """Whether what the blocks remember after the coming chunk has the shapes of what they do before it."""
        held = [len(b.chunks) for b in past if isinstance(b.mixer, Keys)]
        return bool(past) and all(n == self.model.config.window for n in held)

    @property
    def captured(self) -> int:
        """How many sets of shapes are."""
        return self._graphed.captured

    def __call__(
        self,
        noise: Tensor,
        *,
        text: Tensor,
        text_mask: Tensor | None,
        cond: Conditioning,
        past: tuple[BlockState, ...],
        memory: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, tuple[BlockState, ...]]:
        """noise: [B, C, F, h, w] fp32, of no levels the clean latents; the rest as in `WorldModel.forward`, memory beside
        the latents. All of it becomes one chunk.

        Returns latents like noise, whether all numbers are finite as a bool scalar, and the new state.
        """
        told = Told(
            text=text,
            text_mask=text_mask,
            words=self.known(text),
            cond=replace(cond, frame=0),
            past=timeless(past),
            at=torch.full((), cond.frame, device=noise.device),
            memory=memory,
        )
        x, finite, mixers, tails = self._graphed(noise, told)
        return x, finite, self.model.committed(past, mixers, tails, chunks=(noise.shape[2],))

    def known(self, text: Tensor) -> Words:
        """Keys and values of the words, worked out where the text is another than the last time."""
        if self._text is None or self._text() is not text:
            self._words, self._text = self.model.words(text), weakref.ref(text)
        return self._words

    def _plain(self, x: Tensor, told: Told) -> Passes:
        return self._passes(x, told, as_it_is)

    def _compiled(self, x: Tensor, told: Told) -> Passes:
        return self._passes(x, told, compiled)

    def _passes(self, x: Tensor, told: Told, form: Form) -> Passes:
        given = self.model.given(
            text=told.text,
            text_mask=told.text_mask,
            words=told.words,
            cond=told.cond,
            past=told.past,
            dtype=self.model.final_layer.linear.weight.dtype,
            at=told.at,
            form=form,
        )
        return self.passes(x, given, form(plain), told.memory)

    def passes(self, x: Tensor, given: Given, block: BlockForm, memory: Tensor | None = None) -> Passes:
        """All of a chunk. memory: [B, memory_channels, F, h, w] for a model that has such channels."""
        given = roomy(given)
        for level, target in steps(self.levels):
            flow, _, _ = self._pass(x, level, given, block, memory)
            x = euler(x, flow.float(), level=level, target=target)
        flow, mixers, tails = self._pass(x, 0.0, given, block, memory)
        return x, all_finite(x, flow, *mixers), mixers, tails

    def _pass(
        self, x: Tensor, level: float, given: Given, block: BlockForm, memory: Tensor | None
    ) -> tuple[Tensor, Mixers, tuple[Tensor, ...]]:
        t = x.new_full((x.shape[0], x.shape[2]), timestep(level))
        x = beside(x, memory, self.model.config).to(self.model.final_layer.linear.weight.dtype)
        return self.model.run(x, timestep=t, given=given, block=block)


def roomy(given: Given) -> Given:
    """Keys of the past joined once for all passes, with room for those of the chunk."""
    own = given.layout.frames * given.layout.tokens
    past = tuple(
        replace(b, mixer=with_room(b.mixer, own)) if isinstance(b.mixer, Keys) else b
        for b in given.past or ()
    )
    return replace(given, past=past or None)


def all_finite(*values: Tensor | Memory | Keys) -> Tensor:
    """Whether all numbers are, as a bool scalar; of memories the recurrent parts, and no keys."""
    held = [(v.S, v.z, v.cam_S) if isinstance(v, Memory) else (v,) for v in values if not isinstance(v, Keys)]
    numbers = [x.to(torch.promote_types(x.dtype, torch.float32)) for parts in held for x in parts]
    return torch.stack(torch._foreach_norm(numbers, math.inf)).isfinite().all()  # NaN if one of them is
