"""The LTX-2 transformer, its video part. Parameters carry their names in the released checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.embed import SINUSOID
from engine.ltx2 import RefinerConfig
from engine.refiner_rope import Turn, turn

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class KV:
    """Keys and values [B, T, H, K] of one layer."""

    k: Tensor
    v: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """What the active tokens of one layer see before themselves. `history` is rotated, `sink` not yet."""

    sink: KV
    at: Turn  # where the sink is to stand
    history: KV | None


Capture = Callable[[Prefix | None, KV, KV], None]  # prefix of a layer, its own keys before and after rotation


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

    def query(self, x: Tensor) -> Tensor:
        return self.norm_q(self.to_q(x)).unflatten(-1, (self.heads, -1))

    def kv(self, x: Tensor) -> KV:
        k, v = self.norm_k(self.to_k(x)), self.to_v(x)
        return KV(k.unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1)))

    def see(self, q: Tensor, kv: KV, mask: Tensor | None = None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, kv.k, kv.v))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out[0](o.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, at: Turn, prefix: Prefix | None) -> tuple[Tensor, KV, KV]:
        """x: [B, T, D]. Returns the mixed tokens, and their keys and values before and after rotation."""
        q, raw = turn(self.query(x), at, split=self.split), self.kv(x)
        own = KV(turn(raw.k, at, split=self.split), raw.v)
        seen = own
        if prefix is not None:
            sink = KV(turn(prefix.sink.k, prefix.at, split=self.split), prefix.sink.v)
            seen = join(sink, prefix.history, own)
        return self.see(q, seen), raw, own


def join(*parts: KV | None) -> KV:
    """One after the other along tokens."""
    there = [p for p in parts if p is not None]
    return KV(torch.cat([p.k for p in there], dim=1), torch.cat([p.v for p in there], dim=1))


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
        angle = timestep.float()[:, None] * torch.exp(-power * torch.tensor(10000.0).log())
        wave = torch.cat((angle.cos(), angle.sin()), dim=-1).to(self.linear.weight.dtype)
        e = self.emb["timestep_embedder"](wave)
        return e, self.linear(F.silu(e)).unflatten(-1, (6, -1))


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [nn.ModuleDict({"proj": nn.Linear(dim, 4 * dim)}), nn.Identity(), nn.Linear(4 * dim, dim)]
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.net[0]
        assert isinstance(first, nn.ModuleDict)
        return self.net[2](F.gelu(first["proj"](x), approximate="tanh"))


def rms(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=EPS)


class Block(nn.Module):
    """Self-attention and feed-forward, modulated by noise level; attention to words between them, not modulated."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(config), Attention(config)
        self.ff = FeedForward(config.dim)
        self.scale_shift_table = nn.Parameter(torch.empty(6, config.dim))

    def forward(
        self, x: Tensor, *, rows: Tensor, at: Turn, prefix: Prefix | None, words: KV, mask: Tensor | None
    ) -> tuple[Tensor, KV, KV]:
        """x: [B, T, D].  rows: [B, 6, D].  Returns the tokens, and keys and values before and after rotation."""
        b1, a1, g1, b2, a2, g2 = (self.scale_shift_table + rows).unsqueeze(2).unbind(1)  # each [B, 1, D]
        mixed, raw, own = self.attn1(rms(x) * (1 + a1) + b1, at, prefix)
        x = x + mixed * g1
        x = x + self.attn2.see(self.attn2.query(rms(x)), words, mask)
        return x + self.ff(rms(x) * (1 + a2) + b2) * g2, raw, own


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
        prefix: tuple[Prefix, ...] | None,
        words: tuple[KV, ...],
        mask: Tensor | None,
        capture: Capture | None = None,
    ) -> Tensor:
        """Velocity [B, T, C] of tokens x [B, T, C], all at noise level sigma in 0…1.

        prefix: per layer; None: the tokens see only themselves.  mask: [B, 1, 1, L] bool, True: a word.
        capture: is handed keys and values of each layer as soon as they are there.
        """
        e, rows = self.time_embed(x.new_full((x.shape[0],), 1000.0 * sigma, dtype=torch.float32))
        h = self.proj_in(x)
        for i, block in enumerate(self.blocks()):
            before = None if prefix is None else prefix[i]
            h, raw, own = block(h, rows=rows, at=at, prefix=before, words=words[i], mask=mask)
            if capture is not None:
                capture(before, raw, own)
        shift, scale = (self.scale_shift_table + e[:, None]).unsqueeze(2).unbind(1)
        h = F.layer_norm(h, h.shape[-1:], eps=EPS) * (1 + scale) + shift
        return self.proj_out(h)
