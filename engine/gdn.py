"""Gated DeltaNet token mixer: the frame-wise recurrent memory, main and camera branch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.layout import Layout
from engine.mixer import Mixer, precise, split
from engine.rope import rotate
from engine.state import Memory
from engine.ucpe import cap_rms, into_erase, into_memory, into_query, out_of_ray
from kernels.gdn_chunk import gdn_chunk, suits
from kernels.gdn_heads import camera_heads, main_heads
from kernels.gdn_scan import gdn_scan
from kernels.gdn_stream import gdn_main, gdn_stream, streams

EPS = 1e-8  # of the main branch's denominator


class GDN(Mixer):
    """Reads a memory that is written frame by frame; sees back to the start and ahead to the end of its chunk."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        D, H = config.dim, config.heads
        self.beta_proj, self.gate_proj = nn.Linear(D, H), nn.Linear(D, H)
        self.A_log, self.dt_bias = nn.Parameter(torch.empty(H)), nn.Parameter(torch.empty(H))
        self.conv_k = nn.Conv1d(D, D, config.conv_taps, groups=D, bias=False)  # only its weight is used
        self.conv_k_cam = nn.Conv1d(D, D, config.conv_taps, groups=D, bias=False)

    def forward(self, u: Tensor, layout: Layout, past: Memory | None) -> tuple[Tensor, Memory]:
        """u: [B, T, D] normed tokens. Returns the mixed tokens and the memory after them."""
        past = self.blank(u, layout) if past is None else past
        beta, decay = self.gates(u, layout)
        main, S, z, conv = self.main(u, layout, past, beta=beta, decay=decay)
        camera, cam_S, cam_conv = self.camera(u, layout, past, beta=beta, decay=decay)
        return self.join(u, main, camera), Memory(S=S, z=z, cam_S=cam_S, conv=conv, cam_conv=cam_conv)

    def gates(self, u: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Write strength per token [B, H, F, N] and decay per frame [B, H, F]."""
        dtype = precise(u.dtype)
        frames = u.unflatten(1, (layout.frames, layout.tokens))
        beta = self.beta_proj(frames).to(dtype).sigmoid().permute(0, 3, 1, 2)
        rate = F.softplus(self.gate_proj(frames.mean(2)).to(dtype) + self.dt_bias.to(dtype))
        return beta, torch.exp(-self.A_log.to(dtype).exp() * rate).mT

    def main(
        self, u: Tensor, layout: Layout, past: Memory, *, beta: Tensor, decay: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(u).chunk(3, dim=-1)
        if streams(u, width=self.config.head_dim, chunks=layout.chunks):
            given = dict(beta=beta, decay=decay, S=past.S, z=past.z)
            q, k, conv = self.main_heads(q, k, layout, past.conv)
            q, k, v = (split(x, self.config.heads, layout) for x in (q, k, v))
            turn = dict(cos=layout.rotary.cos, sin=layout.rotary.sin)
            return *gdn_main(q=q, k=k, v=v, **turn, **given, eps=EPS), conv
        k, conv = short_conv(k, self.conv_k.weight, layout=layout, tail=past.conv)
        q, k, v = self.positive(self.q_norm(q), self.k_norm(k), v, layout)
        o, S, z = self.weighed(u, layout, q=q, k=k, v=v, beta=beta, decay=decay, S=past.S, z=past.z)
        return o, S, z, conv

    def main_heads(self, q: Tensor, k: Tensor, layout: Layout, tail: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`short_conv`, norms and `positive` by a kernel: queries and keys [B, T, D] in 16 bits, and the next tail."""
        q, new = main_heads(
            q=q,
            k=k,
            tail=tail,
            q_weight=self.q_norm.weight,
            k_weight=self.k_norm.weight,
            conv=_taps(self.conv_k.weight),
            frames=layout.frames,
            eps=self.q_norm.eps,
            scale=self.key_scale(layout),
        )
        return q, new, next_tail(k, tail, layout=layout, count=self.config.conv_taps - 1)

    def weighed(
        self,
        u: Tensor,
        layout: Layout,
        *,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        decay: Tensor,
        S: Tensor,
        z: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Twin of `gdn_main`: what is read by place over how much is read in all."""
        v, gates = v.to(q.dtype), dict(beta=beta, decay=decay)
        q_turned, k_turned = rotate(q, layout.rotary), rotate(k, layout.rotary)
        num, S = self.scan(u, layout, q=q_turned, k=k_turned, v=v, S=S, **gates)
        den, z = self.scan(u, layout, q=q, k=k, v=torch.ones_like(v[..., :1]), S=z, **gates)
        return num / (den + EPS), S, z

    def camera(
        self, u: Tensor, layout: Layout, past: Memory, *, beta: Tensor, decay: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        rays, semantics = layout.rays, self.config.semantics
        carry = semantics.carry_camera_conv
        q, k, v = self.q_proj_cam(u), self.k_proj_cam(u), self.v_proj_cam(u)
        gates = dict(decay=decay, S=past.cam_S)
        if (
            streams(u, width=self.config.head_dim, chunks=layout.chunks)
            and rays.erase is None
            and not semantics.cap_camera_rms
        ):
            q, k, v, growth, conv = self.camera_heads(q, k, v, layout, past.cam_conv if carry else None)
            q, k, v = (split(x, self.config.heads, layout) for x in (q, k, v))
            o, S = gdn_stream(q=q, k=k, v=v, beta=_tamed(beta, growth), **gates)
            return out_of_ray(o, rays), S, conv if carry else None
        k, conv = short_conv(k, self.conv_k_cam.weight, layout=layout, tail=past.cam_conv, across=carry)
        q, k, v = self.positive(self.q_norm_cam(q), self.k_norm_cam(k), v, layout)
        v = v.to(k.dtype)
        k_in, v_in, q_in = into_memory(k, rays), into_memory(v, rays), into_query(q, rays)
        erase, own = into_erase(k, rays)
        own = k_in if own is None else own
        if semantics.cap_camera_rms:
            q_in, v_in, k_in = cap_rms(q_in, q), cap_rms(v_in, v), cap_rms(k_in, k)
            own = k_in
        growth = (own.norm(dim=-1).clamp_min(1e-6) / k.norm(dim=-1).clamp_min(1e-6)).square()
        beta = _tamed(beta, growth)
        o, S = self.scan(u, layout, q=q_in, k=k_in, v=v_in, beta=beta, erase=erase, **gates)
        return out_of_ray(o, rays), S, conv if carry else None

    def camera_heads(
        self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, tail: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All between projections and memory by a kernel: q, k, v [B, T, D] in 16 bits, growth of keys [B, H, F, N],
        and the next tail.
        """
        rays = layout.rays
        q, new, v, growth = camera_heads(
            q=q,
            k=k,
            v=v,
            tail=tail,
            q_weight=self.q_norm_cam.weight,
            k_weight=self.k_norm_cam.weight,
            conv=_taps(self.conv_k_cam.weight),
            P=rays.P,
            P_inv=rays.P_inv,
            cos=rays.rotary.cos,
            sin=rays.rotary.sin,
            heads=self.config.heads,
            frames=layout.frames,
            eps=self.q_norm_cam.eps,
            scale=self.key_scale(layout),
        )
        growth = growth.unflatten(1, (layout.frames, layout.tokens)).permute(0, 3, 1, 2)
        return q, new, v, growth, next_tail(k, tail, layout=layout, count=self.config.conv_taps - 1)

    def scan(
        self,
        u: Tensor,
        layout: Layout,
        *,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        decay: Tensor,
        S: Tensor,
        erase: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`gdn_scan`; on a GPU by one kernel for clips and one for streams, which read vectors in the dtype of u."""
        if erase is None and streams(u, width=q.shape[-1], chunks=layout.chunks):
            q, k, v = (x.to(u.dtype) for x in (q, k, v))
            return gdn_stream(q=q, k=k, v=v, beta=beta, decay=decay, S=S)
        if not suits(u, width=q.shape[-1], chunks=layout.chunks):
            return gdn_scan(q=q, k=k, v=v, beta=beta, decay=decay, S=S, chunks=layout.chunks, erase=erase)
        q, k = q.to(u.dtype), k.to(u.dtype)
        v = v.to(u.dtype) if v.shape[-1] > 1 else v  # a denominator stays in fp32
        erase = None if erase is None else erase.to(u.dtype)
        return gdn_chunk(q=q, k=k, v=v, beta=beta, decay=decay, S=S, erase=erase)

    def positive(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Heads of the normed queries and keys, cut at zero; keys so small that a frame overwrites at most itself."""
        k = k.relu() * self.key_scale(layout)
        q, k, v = (split(x, self.config.heads, layout) for x in (q.relu(), k, v))
        return q, k, v

    def key_scale(self, layout: Layout) -> float:
        return float((self.config.head_dim * layout.tokens) ** -0.5)

    def blank(self, u: Tensor, layout: Layout) -> Memory:
        """The memory before the first chunk."""
        B, H, K = u.shape[0], self.config.heads, self.config.head_dim
        S = u.new_zeros(B, H, K, K, dtype=precise(u.dtype))
        conv = u.new_zeros(B, self.config.conv_taps - 1, layout.tokens, u.shape[-1])
        return Memory(S=S, z=S[..., :1], cam_S=S, conv=conv, cam_conv=conv)

    @torch.no_grad()
    def reset(self) -> None:
        """Heads that forget from slowly to fast (half a thousand frames to four), and convolutions that do nothing."""
        rate = torch.logspace(math.log10(1 / 512), math.log10(1 / 4), self.config.heads, device="cpu")
        self.A_log.copy_(rate.log())
        self.dt_bias.fill_(math.log(math.e - 1))  # softplus of it is 1
        nn.init.normal_(self.gate_proj.weight, std=0.02)
        nn.init.zeros_(self.gate_proj.bias)
        nn.init.normal_(self.beta_proj.weight, std=0.02)
        nn.init.ones_(self.beta_proj.bias)
        for conv in (self.conv_k, self.conv_k_cam):
            conv.weight.zero_()[..., -1] = 1


def short_conv(
    k: Tensor, weight: Tensor, *, layout: Layout, tail: Tensor | None, across: bool = True
) -> tuple[Tensor, Tensor]:
    """Convolve keys over frames, per channel: the past from `tail`, the future only inside the chunk.

    k: [B, T, D].  weight: [D, 1, taps], the last tap is the frame itself, and j taps before it are both j frames
    back and j frames ahead.  tail: [B, taps-1, N, D], the frames before; None: nothing.
    across: whether the past reaches into earlier chunks.  Returns [B, T, D] and the next tail.
    """
    w = _taps(weight).to(k.dtype)
    taps = w.shape[0]
    k = k.unflatten(1, (layout.frames, layout.tokens))
    count = layout.frames
    if tail is None:
        tail = torch.zeros_like(k[:, :1]).expand(-1, taps - 1, -1, -1)
    long = torch.cat((tail.to(k.dtype), k), dim=1)
    y = k * w[-1]
    for j in range(1, taps):
        past = long[:, taps - 1 - j : taps - 1 - j + count]
        y = y + (past if across else past * layout.behind[j - 1].to(k.dtype)) * w[-1 - j]
    for j, same in enumerate(layout.ahead[: count - 1], start=1):
        future = F.pad(k[:, j:], (0, 0, 0, 0, 0, j)) * same.to(k.dtype)
        y = y + future * w[-1 - j]
    return y.flatten(1, 2), long[:, -(taps - 1) :]


def next_tail(k: Tensor, tail: Tensor | None, *, layout: Layout, count: int) -> Tensor:
    """What `short_conv` returns second, for `count` frames: [B, count, N, D]."""
    k = k.unflatten(1, (layout.frames, layout.tokens))
    if layout.frames < count:
        before = k.new_zeros(1).expand(k.shape[0], count, *k.shape[2:]) if tail is None else tail.to(k.dtype)
        k = torch.cat((before, k), dim=1)
    return k[:, -count:].contiguous()


def _taps(weight: Tensor) -> Tensor:
    """[D, 1, taps] -> [taps, D]."""
    return weight[:, 0].mT.contiguous()


def _tamed(beta: Tensor, growth: Tensor) -> Tensor:
    """Write strengths [B, H, F, N], less for frames whose keys grow, so that they still overwrite at most themselves."""
    return beta / growth.mean(-1, keepdim=True).clamp_min(1.0)
