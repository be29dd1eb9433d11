"""The world model: stage-1 transformer of SANA-WM, blocks in order, camera and noise-level modulation.

One class, sized by `ModelConfig`, for `sana-wm` and `pocket`. Parameters carry their names in the released
checkpoints; `engine/native.py` maps the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.attention import CrossAttention, Softmax
from engine.compiler import Form, as_it_is
from engine.conditioning import Conditioning
from engine.config import ModelConfig
from engine.embed import CellEmbed, FinalLayer, LevelEmbed, TextEmbed, modulate
from engine.ffn import FFN
from engine.gdn import GDN
from engine.layout import Layout, layout
from engine.mixer import RMSNorm, precise
from engine.state import BlockState, Keys, Memory, reanchor, within_window
from engine.ucpe import whole_move
from engine.window import attention_mask

Words = tuple[tuple[Tensor, Tensor], ...]  # per block: keys and values of the text


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What stays the same over the denoising passes of a chunk: made once, read by every pass."""

    layout: Layout
    rays: tuple[Tensor, ...]  # per block [B, T, D]: what the Plücker rays add to the residual stream
    words: Words
    text_mask: Tensor | None
    past: tuple[BlockState, ...] | None


class Block(nn.Module):
    """Self-attention (GDN or softmax), rays, cross-attention, feed-forward. Two parts are modulated by noise level."""

    def __init__(self, config: ModelConfig, *, softmax: bool) -> None:
        super().__init__()
        self.attn = Softmax(config) if softmax else GDN(config)
        self.cross_attn = CrossAttention(config)
        self.mlp = FFN(config)
        self.plucker_proj = nn.Linear(config.dim, config.dim)
        self.scale_shift_table = nn.Parameter(torch.empty(6, config.dim))

    def forward(
        self,
        x: Tensor,
        *,
        modulation: Tensor,
        rays: Tensor,
        words: tuple[Tensor, Tensor],
        text_mask: Tensor | None,
        layout: Layout,
        mixer: Memory | Keys | None,
        tail: Tensor | None,
    ) -> tuple[Tensor, Memory | Keys, Tensor]:
        """x: [B, T, D].  modulation: [B, F, 6, D].  mixer, tail: what the block remembers, None at the start.

        Returns the tokens and what the block remembers now (keys not yet cut to the window).
        """
        rows = (self.scale_shift_table + modulation).to(x.dtype).unsqueeze(3).unbind(2)  # each [B, F, 1, D]
        a1, b1, g1, a2, b2, g2 = rows
        mixed, mixer = self.attn(modulate(x, a1, b1), layout, mixer)
        x = gated(x, mixed, g1) + rays
        x = x + self.cross_attn(x, words, text_mask)
        y, tail = self.mlp(modulate(x, a2, b2), layout, tail)
        return gated(x, y, g2), mixer, tail


BlockForm = Callable[..., tuple[Tensor, Memory | Keys, Tensor]]


def plain(block: Block, x: Tensor, **given: Any) -> tuple[Tensor, Memory | Keys, Tensor]:
    """A block called as it is; the form that is compiled elsewhere."""
    result: tuple[Tensor, Memory | Keys, Tensor] = block(x, **given)
    return result


class WorldModel(nn.Module):
    """Predicts the flow (noise - clean) of latent frames seen from given cameras, given what came before."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, C = config.dim, config.latent_channels
        self.config = config
        self.x_embedder = CellEmbed(C + config.memory_channels, D)
        self.plucker_embedder = CellEmbed(6 * config.stride[0], D)
        self.t_embedder = LevelEmbed(D)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(D, 6 * D))
        self.y_embedder = TextEmbed(config)
        self.attention_y_norm = RMSNorm(D, eps=1e-5)
        self.blocks = nn.ModuleList(
            Block(config, softmax=i in config.softmax_blocks) for i in range(config.depth)
        )
        self.final_layer = FinalLayer(D, C)
        self.reset()

    def embed_text(self, y: Tensor) -> Tensor:
        """Encoder states [B, L, caption_dim], or word ids [B, L] int64 where the config has words: -> [B, L, D]."""
        y = self.y_embedder(y)
        return self.attention_y_norm(y).to(y.dtype)

    def forward(
        self,
        x: Tensor,
        *,
        timestep: Tensor,
        text: Tensor,
        text_mask: Tensor | None,
        cond: Conditioning,
        past: tuple[BlockState, ...] | None = None,
        chunks: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, tuple[BlockState, ...]]:
        """Flow of the latent frames x, and the state after them.

        x: [B, C + memory, F, h, w].  timestep: [B, F] in 0…1000, its fraction is dropped.  text: [B, L, D] from
        `embed_text`.  text_mask: [B, L] bool, True: a word; None: all are.
        chunks: lengths that add up to F; default one chunk, or single frames for a model of single frames.
        past: state of the frames before; None at the start. One chunk with a past is streaming, several chunks
        with or without one is the dense chunk-causal form; both compute the same.
        Returns flow [B, C, F, h, w].
        """
        given = self.given(text=text, text_mask=text_mask, cond=cond, past=past, chunks=chunks, dtype=x.dtype)
        return self.denoise(x, timestep=timestep, given=given)

    def given(
        self,
        *,
        text: Tensor,
        text_mask: Tensor | None,
        cond: Conditioning,
        past: tuple[BlockState, ...] | None,
        chunks: tuple[int, ...] | None = None,
        dtype: torch.dtype,
        at: Tensor | None = None,
        words: Words | None = None,
        form: Form = as_it_is,
    ) -> Given:
        """Work out what does not depend on the noise level. Arguments as in `forward`; dtype: of the latents.

        words: of the text, where they are known.
        at: the index of the first latent frame as a tensor [], where a graph must not be of one; None: `cond` says it.
        form: of what moves the past to another anchor.
        """
        chunks = self._checked_chunks(cond.P.shape[1], chunks)
        if past is not None and cond.reanchor is not None:
            past = form(reanchor)(past, whole_move(cond.reanchor))
        index, cached = (0, ()) if past is None else _bookkeeping(past)
        visible = None
        if self.config.softmax_blocks:
            visible = attention_mask(
                index=index, cached=cached, chunks=chunks, config=self.config, device=cond.P.device
            )
        place = layout(cond, chunks=chunks, visible=visible, config=self.config, dtype=precise(dtype), at=at)
        E = self.plucker_embedder(cond.plucker.to(dtype))
        return Given(
            layout=place,
            rays=tuple(block.plucker_proj(E) for block in self._blocks()),
            words=self.words(text) if words is None else words,
            text_mask=text_mask,
            past=past,
        )

    def words(self, text: Tensor) -> Words:
        """Keys and values of embedded words [B, L, D] in every block: constant for a prompt."""
        return tuple(block.cross_attn.keys(text) for block in self._blocks())

    def denoise(self, x: Tensor, *, timestep: Tensor, given: Given) -> tuple[Tensor, tuple[BlockState, ...]]:
        """One pass. x, timestep and results as in `forward`."""
        flow, mixers, tails = self.run(x, timestep=timestep, given=given)
        return flow, self.after(given, mixers, tails)

    def run(
        self, x: Tensor, *, timestep: Tensor, given: Given, block: BlockForm = plain
    ) -> tuple[Tensor, tuple[Memory | Keys, ...], tuple[Tensor, ...]]:
        """The tensors of one pass: flow, and what each block remembers, its mixer's (keys not yet cut) and FFN's.

        block: how a block is called.
        """
        place, dtype = given.layout, x.dtype
        x = self.x_embedder(x).to(dtype)
        e = self.t_embedder(timestep, dtype)  # [B, F, D]
        modulation = self.t_block(e).unflatten(-1, (6, -1))
        mixers, tails = [], []
        for i, each in enumerate(self._blocks()):
            old = None if given.past is None else given.past[i]
            x, mixer, tail = block(
                each,
                x,
                modulation=modulation,
                rays=given.rays[i],
                words=given.words[i],
                text_mask=given.text_mask,
                layout=place,
                mixer=None if old is None else old.mixer,
                tail=None if old is None else old.ffn,
            )
            mixers.append(mixer)
            tails.append(tail)
        flow = self.final_layer(x, e)
        return flow.mT.unflatten(2, (place.frames, *place.grid)).to(dtype), tuple(mixers), tuple(tails)

    def after(
        self, given: Given, mixers: tuple[Memory | Keys, ...], tails: tuple[Tensor, ...]
    ) -> tuple[BlockState, ...]:
        """The state after a pass that began at `given` and of which `run` returned the rest."""
        return self.committed(given.past, mixers, tails, chunks=given.layout.chunks)

    def committed(
        self,
        past: tuple[BlockState, ...] | None,
        mixers: tuple[Memory | Keys, ...],
        tails: tuple[Tensor, ...],
        *,
        chunks: tuple[int, ...],
    ) -> tuple[BlockState, ...]:
        """The same after `past` (only its bookkeeping is read) and chunks of these lengths."""
        olds = past or (None,) * len(mixers)
        return tuple(
            self._committed(mixer, tail, old, chunks)
            for mixer, tail, old in zip(mixers, tails, olds, strict=True)
        )

    def _committed(
        self, mixer: Memory | Keys, tail: Tensor, old: BlockState | None, chunks: tuple[int, ...]
    ) -> BlockState:
        index, cached = (0, ()) if old is None else (old.index, old.chunks)
        kept: tuple[int, ...] = ()
        if isinstance(mixer, Keys):
            mixer, kept = within_window(mixer, cached=cached, chunks=chunks, index=index, config=self.config)
        return BlockState(mixer=mixer, ffn=tail, chunks=kept, index=index + len(chunks))

    def _checked_chunks(self, frames: int, chunks: tuple[int, ...] | None) -> tuple[int, ...]:
        if chunks is None:
            return (1,) * frames if self.config.lone else (frames,)
        if sum(chunks) != frames or min(chunks) < 1:
            raise ValueError(f"chunks={chunks} do not add up to the {frames} latent frames of the camera")
        if self.config.lone and max(chunks) > 1:
            raise ValueError(f"chunks={chunks}: this model was built for chunks of one latent frame")
        if not self.config.causal and len(chunks) > 1:
            raise ValueError(f"chunks={chunks}: a bidirectional model takes the whole clip as one chunk")
        return chunks

    def _blocks(self) -> list[Block]:
        return [b for b in self.blocks if isinstance(b, Block)]

    @torch.no_grad()
    def reset(self) -> None:
        """Initialise for training from scratch: every block starts as its mixer and FFN only.

        Camera branch, rays, words, memory and temporal convolution open from zero through one zero matrix each.
        """
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        self.x_embedder.reset(used=self.config.latent_channels)
        self.plucker_embedder.reset(used=6 * self.config.stride[0])
        for part in (*self.t_embedder.modules(), *self.t_block.modules()):
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
        for block in self._blocks():
            _reset_block(block, depth=self.config.depth)
        self.final_layer.scale_shift_table.zero_()
        nn.init.zeros_(self.final_layer.linear.weight)


def beside(x: Tensor, memory: Tensor | None, config: ModelConfig) -> Tensor:
    """The model's input: latents [B, C, F, h, w], then the memory's channels where the model has any, zeros for None."""
    if not config.memory_channels:
        return x
    blank = (x.shape[0], config.memory_channels, *x.shape[2:])
    return torch.cat((x, x.new_zeros(blank) if memory is None else memory.to(x)), dim=1)


def with_memory(weights: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Weights of a model without memory as those of one with `channels` memory channels, which count for nothing yet."""
    name = "x_embedder.proj.weight"
    old = weights[name]  # [D, C, 1, 1, 1]
    return {**weights, name: torch.cat([old, old.new_zeros(old.shape[0], channels, *old.shape[2:])], dim=1)}


def gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + gate·y, the gate [B, F, 1, D] by frame."""
    shape = (gate.shape[1], -1)
    return torch.addcmul(x.unflatten(1, shape), y.unflatten(1, shape), gate).flatten(1, 2)


def _bookkeeping(past: tuple[BlockState, ...]) -> tuple[int, tuple[int, ...]]:
    """Chunks so far, and frames of each chunk that the softmax blocks still hold."""
    held = [block.chunks for block in past if isinstance(block.mixer, Keys)]
    return past[0].index, held[0] if held else ()


def _reset_block(block: Block, *, depth: int) -> None:
    """Output projections shrink with depth (Radford 2019, GPT-2 §2.3); gates start open."""
    nn.init.zeros_(block.scale_shift_table)
    block.scale_shift_table[[2, 5]] = 1.0
    for linear in (block.plucker_proj, block.attn.out_proj_cam, block.cross_attn.proj):
        nn.init.zeros_(linear.weight)
    nn.init.zeros_(block.mlp.t_conv.weight)
    for conv in (block.mlp.inverted_conv.conv, block.mlp.point_conv.conv):
        nn.init.xavier_uniform_(conv.weight.flatten(1))
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    block.attn.proj.weight.mul_((2 * depth) ** -0.5)
    block.mlp.point_conv.conv.weight.mul_((2 * depth) ** -0.5)
    nn.init.constant_(block.attn.output_gate.bias, 1.278)  # SiLU of it is 1
    if isinstance(block.attn, GDN):
        block.attn.reset()
