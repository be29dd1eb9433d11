"""The LTX-2 transformer, its video part. Parameters carry their names in the released checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.embed import SINUSOID
from engine.joined import Joined, joined
from engine.lowbit import Fp8Linear, Rows
from engine.ltx2 import RefinerConfig
from engine.refiner_room import KV, Room
from engine.refiner_rope import Turn
from engine.waves import attended, attention
from kernels.fp8_rows import fp8_rows_stacked
from kernels.gelu_rows import gelu_rows
from kernels.norm_modulate import norm_modulate
from kernels.norm_rows import norm_rows
from kernels.norm_turn import norm_turn

EPS = 1e-6


def is_unread(name: str) -> bool:
    """Whether the release stores this tensor for sound only, so that `RefinerModel` has no place for it.

    All of sound and of the exchange between sound and picture carries `audio`, `a2v`, `v2a` or `av_cross_attn` in
    its name, and nothing else does.
    """
    return any(mark in name for mark in ("audio", "a2v", "v2a", "av_cross_attn"))


class Attention(nn.Module):
    """Self-attention over [sink, history, active], or attention to words."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        D = config.dim
        self.heads, self.split = config.heads, config.rope == "split"
        self.to_q, self.to_k, self.to_v = (nn.Linear(D, D) for _ in range(3))
        self.norm_q, self.norm_k = (nn.RMSNorm(D, eps=EPS) for _ in range(2))  # across heads
        self.to_out = nn.ModuleList([nn.Linear(D, D)])
        self._joined: Joined | None = None

    @property
    def in_rows(self) -> bool:
        """Whether it reads tokens in FP8."""
        return isinstance(self.to_q, Fp8Linear)

    def join(self) -> None:
        """From now on make queries, keys and values in one product. For weights that stay where they are."""
        self._joined = joined((self.to_q, self.to_k, self.to_v))

    def query(self, x: Tensor | Rows) -> Tensor:
        return self.norm_q(self.to_q(x)).unflatten(-1, (self.heads, -1))

    def kv(self, x: Tensor) -> KV:
        k, v = self.norm_k(self.to_k(x)), self.to_v(x)
        return KV(k.unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1)))

    def see(self, q: Tensor, kv: KV, mask: Tensor | None = None) -> Tensor:
        out = self.to_out[0]
        if not isinstance(out, Fp8Linear):
            return out(attention(q, kv.k, kv.v, mask=mask).flatten(2))
        parts = attended(q, kv.k, kv.v, mask=mask)
        v, s = fp8_rows_stacked([x.flatten(2).flatten(0, 1) for x in parts])
        return out(Rows(v.unflatten(0, q.shape[:2]), s.unflatten(0, q.shape[:2]), q.dtype))

    def enter(self, x: Tensor | Rows, at: Turn, room: Room) -> Tensor:
        """Put keys and values of x [B, T, D] into their room. Returns queries [B, T, H, K]."""
        if self._joined is not None:
            q, k, v = self._joined(x).chunk(3, dim=-1)
        else:
            q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        return norm_turn(
            q,
            k,
            v,
            q_weight=self.norm_q.weight,
            k_weight=self.norm_k.weight,
            cos=at.cos,
            sin=at.sin,
            columns=at.columns,
            split=self.split,
            eps=EPS,
            k_out=room.own.k,
            v_out=room.own.v,
            raw=room.raw,
        )


class Projection(nn.Module):
    """Two linear maps with an activation between."""

    def __init__(self, channels: int, dim: int, *, act: nn.Module) -> None:
        super().__init__()
        self.linear_1, self.act, self.linear_2 = nn.Linear(channels, dim), act, nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


class LevelEmbed(nn.Module):
    """Noise level -> its embedding [B, D], and six modulation rows [B, 6, D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": Projection(SINUSOID, dim, act=nn.SiLU())})
        self.linear = nn.Linear(dim, 6 * dim)

    def forward(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """timestep: [B] in 0…1000, its fraction counts."""
        half = SINUSOID // 2
        power = torch.arange(half, device=timestep.device, dtype=torch.float32) / half
        angle = timestep.float()[:, None] * torch.exp(-power * math.log(10000.0))
        wave = torch.cat((angle.cos(), angle.sin()), dim=-1).to(self.linear.weight.dtype)
        e = self.emb["timestep_embedder"](wave)
        return e, self.linear(F.silu(e)).unflatten(-1, (6, -1))


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [nn.ModuleDict({"proj": nn.Linear(dim, 4 * dim)}), nn.Identity(), nn.Linear(4 * dim, dim)]
        )

    @property
    def in_rows(self) -> bool:
        """Whether it reads tokens in FP8."""
        return isinstance(self._first, Fp8Linear)

    @property
    def _first(self) -> nn.Module:
        first = self.net[0]
        assert isinstance(first, nn.ModuleDict)
        return first["proj"]

    def forward(self, x: Tensor | Rows) -> Tensor:
        last = self.net[2]
        if not isinstance(x, Rows):
            return last(gelu_of(self._first, x))
        h = self._first(x)
        return last(Rows(*gelu_rows(h), h.dtype))


def gelu_of(linear: nn.Module, x: Tensor) -> Tensor:
    """GELU, by tanh, of a linear map of x [B, T, D].

    On a GPU the product applies it to its fp32 sums: a pass over memory less, and a rounding. Not where something else
    stands in for the map, or visits for it: only a call of the module knows of that. Not in fp32, where the tanh of
    such a product is not promised to be as exact as torch's.
    """
    fits = x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and not torch.is_grad_enabled()
    if fits and isinstance(linear, nn.Linear) and type(linear) is nn.Linear and not linear._forward_pre_hooks:
        rows = torch._addmm_activation(linear.bias, x.flatten(0, -2), linear.weight.mT, use_gelu=True)
        return rows.unflatten(0, x.shape[:-1])
    return F.gelu(linear(x), approximate="tanh")


@dataclass(frozen=True, slots=True)
class Sum:
    """Tokens x + y·gate that are added where they are read next. Without y: x alone."""

    x: Tensor  # [B, T, D]
    y: Tensor | None = None  # [B, T, D]
    gate: Tensor | None = None  # [B, 1, D]

    def normed(
        self, *, scale: Tensor | None = None, shift: Tensor | None = None, rows: bool = False
    ) -> tuple[Tensor, Tensor | Rows]:
        """The tokens, and normed and modulated what the next layer reads.  rows: whether in FP8."""
        given = dict(y=self.y, gate=self.gate, scale=scale, shift=shift)
        if not rows:
            return norm_modulate(self.x, eps=EPS, **given)
        x, v, s = norm_rows(self.x, eps=EPS, **given)
        return x, Rows(v, s, x.dtype)


class Block(nn.Module):
    """Self-attention and feed-forward, modulated by noise level; attention to words between them, not modulated."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(config), Attention(config)
        self.ff = FeedForward(config.dim)
        self.scale_shift_table = nn.Parameter(torch.empty(6, config.dim))

    def forward(
        self, before: Sum, *, rows: Tensor, at: Turn, room: Room, words: KV, mask: Tensor | None
    ) -> Sum:
        """rows: [B, 6, D]. Leaves keys and values of the tokens in their room."""
        b1, a1, g1, b2, a2, g2 = (self.scale_shift_table + rows).unsqueeze(2).unbind(1)  # each [B, 1, D]
        x, n = before.normed(scale=a1, shift=b1, rows=self.attn1.in_rows)
        q = self.attn1.enter(n, at, room)
        x, n = Sum(x, self.attn1.see(q, room.all), g1).normed(rows=self.attn2.in_rows)
        seen = self.attn2.see(self.attn2.query(n), words, mask)
        x, n = Sum(x, seen).normed(scale=a2, shift=b2, rows=self.ff.in_rows)
        return Sum(x, self.ff(n), g2)

    def remember(self, before: Sum, *, rows: Tensor, at: Turn, room: Room) -> None:
        """Only leave keys and values of the tokens in their room."""
        b1, a1, *_ = (self.scale_shift_table + rows).unsqueeze(2).unbind(1)
        _, n = before.normed(scale=a1, shift=b1, rows=self.attn1.in_rows)
        self.attn1.enter(n, at, room)


class RefinerModel(nn.Module):
    """Predicts the velocity (noise - clean) of latent frames, given a text and what stands before them."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        D, C = config.dim, config.latent_channels
        self.config = config
        self.proj_in = nn.Linear(C, D)
        self.caption_projection = Projection(config.caption_dim, D, act=nn.GELU(approximate="tanh"))
        self.time_embed = LevelEmbed(D)
        self.transformer_blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.scale_shift_table = nn.Parameter(torch.empty(2, D))
        self.proj_out = nn.Linear(D, C)

    def blocks(self) -> list[Block]:
        return [b for b in self.transformer_blocks if isinstance(b, Block)]

    def join(self) -> None:
        """Fewer and larger products. For weights that stay where they are, and in their dtype."""
        for block in self.blocks():
            block.attn1.join()

    def words(self, embeds: Tensor) -> tuple[KV, ...]:
        """Text embeddings [B, L, caption_dim] -> keys and values per layer, once per prompt."""
        text = self.caption_projection(embeds.to(self.proj_in.weight.dtype))
        return tuple(block.attn2.kv(text) for block in self.blocks())

    def forward(
        self,
        x: Tensor,
        *,
        sigma: float,
        at: Turn,
        rooms: Iterable[Room],
        words: tuple[KV, ...],
        mask: Tensor | None,
    ) -> Tensor:
        """Velocity [B, T, C] of tokens x [B, T, C], all at noise level sigma in 0…1.

        rooms: per layer what the tokens see; left with their own keys and values.  mask: [B, 1, 1, L] bool, True: a word.
        """
        e, rows = self._level(x, sigma)
        h = Sum(self.proj_in(x))
        for block, room, kv in zip(self.blocks(), rooms, words, strict=True):
            h = block(h, rows=rows, at=at, room=room, words=kv, mask=mask)
        shift, scale = (self.scale_shift_table + e[:, None]).unsqueeze(2).unbind(1)
        last, _ = h.normed()
        return self.proj_out(F.layer_norm(last, last.shape[-1:], eps=EPS) * (1 + scale) + shift)

    def remember(
        self,
        x: Tensor,
        *,
        at: Turn,
        rooms: Iterable[Room],
        words: tuple[KV, ...],
        mask: Tensor | None,
        keep: Callable[[Room], None],
    ) -> None:
        """Hand over the room of each layer as soon as clean tokens x [B, T, C] have left their keys and values there."""
        _, rows = self._level(x, 0.0)
        h, blocks = Sum(self.proj_in(x)), self.blocks()
        for block, room, kv in zip(blocks, rooms, words, strict=True):
            if block is blocks[-1]:  # nobody reads what it computes
                block.remember(h, rows=rows, at=at, room=room)
            else:
                h = block(h, rows=rows, at=at, room=room, words=kv, mask=mask)
            keep(room)

    def _level(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        return self.time_embed(x.new_full((x.shape[0],), 1000.0 * sigma, dtype=torch.float32))
