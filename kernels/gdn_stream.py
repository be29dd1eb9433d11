"""The delta rule of `gdn_scan` for one chunk of a stream on a GPU, without gradients: memory in, memory out.

    A_f = Kᵀ β K,  U_f = Kᵀ β V      of all frames side by side; a frame's tokens may be split into parts
    R_f, S_f                         back and forth over the frames, columns of V side by side
    o_f = Q (S_f + R_f)              of all blocks of tokens side by side

Three launches, also for the main branch, whose numerator turns keys and queries by rotary angles and whose denominator
is the same rule with V = 1, v = 1 and keys and queries before they turn. Products over tokens take operands in v's
dtype and add in fp32; the recurrence keeps fp32 (bf16: by three TF32 products), and only what is read of it is rounded to
v's dtype. All-fp32 inputs are multiplied in fp32. Parts are added in one order, so results repeat bit for bit.
Twin and oracle: `gdn_scan`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.gdn_chunk import tokens
from kernels.gdn_stream_programs import READ, RECURRENCE, WRITTEN
from kernels.program import builds, compiled, power_of_two, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Tokens per step, warps and pipeline stages of the three programs. Chosen on an H100 at 3×880 tokens, 20×112."""

    parts: int = 1  # of a frame's tokens, summed by different programs
    block: int = 64
    warps: int = 4
    stages: int = 1
    columns: int = 32  # of the memory per program of the recurrence; at least 16
    recurrence_warps: int = 8
    recurrence_stages: int = 2
    read_block: int = 64
    read_warps: int = 8


TUNING = Tuning()
EXACT = Tuning(  # fp32 operands take twice the room
    block=32, warps=8, columns=16, recurrence_warps=16, recurrence_stages=1, read_block=32, read_warps=8
)


def gdn_stream(
    *, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, S: Tensor
) -> tuple[Tensor, Tensor]:
    """Arguments and results of `gdn_scan` for F frames in one chunk; o in v's dtype.

    v decides the operands of products: fp32, bf16 or fp16; q and k may be wider. Fastest where q, k, v are views of
    [B, F, N, H, K] in memory. beta, decay and S in fp32.  K ≤ 128.
    """
    o, last = torch.ops.explorer.gdn_stream(*(rows(tokens(x)) for x in (q, k, v)), beta, decay, S)
    return heads(o, frames=k.shape[2]), last


def gdn_main(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    beta: Tensor,
    decay: Tensor,
    S: Tensor,
    z: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The main branch: `gdn_scan` of turned q and k over (`gdn_scan` of q and k with v = 1, plus eps).

    q … S as in `gdn_stream`.  cos, sin: [F, N, K/2] of adjacent channels.  z: [B, H, K, 1] fp32, the denominator's memory.
    Returns o [B, H, F, N, V], and S and z after the last frame.
    """
    o, last, z = torch.ops.explorer.gdn_main(
        *(rows(tokens(x)) for x in (q, k, v)), cos, sin, beta, decay, S, z, eps
    )
    return heads(o, frames=k.shape[2]), last, z


def streams(x: Tensor, *, width: int, chunks: tuple[int, ...]) -> bool:
    """Whether the two above stand in for `gdn_scan`: one chunk of a 16-bit model on a GPU from Ampere on, no gradients.

    width: of heads.  Models in fp32 stay with torch, whose fp32 products are as good.
    """
    return (
        x.dtype in (torch.bfloat16, torch.float16)
        and len(chunks) == 1
        and width <= 128
        and not torch.is_grad_enabled()
        and builds(x.device)
    )


def heads(x: Tensor, *, frames: int) -> Tensor:
    """[B, T, H, V] -> [B, H, F, N, V], a view."""
    return x.unflatten(1, (frames, -1)).permute(0, 3, 1, 2, 4)


@torch.library.custom_op(
    "explorer::gdn_stream",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor beta, Tensor decay, Tensor S) -> (Tensor, Tensor)",
)
def _gdn_stream(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, S: Tensor
) -> tuple[Tensor, Tensor]:
    """q, k: [B, T, H, K].  v: [B, T, H, V].  beta: [B, H, F, N].  decay: [B, H, F].  S: [B, H, K, V]."""
    o, last = v.new_empty(v.shape), S.new_empty(S.shape)
    none = last  # never looked at
    _launch(q, k, v, none, none, beta, decay, S, none, o, last, none, main=False, eps=0.0)
    return o, last


@_gdn_stream.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), S.new_empty(S.shape)


@torch.library.custom_op(
    "explorer::gdn_main",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, Tensor beta, Tensor decay, Tensor S, Tensor z,"
    " float eps) -> (Tensor, Tensor, Tensor)",
)
def _gdn_main(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    beta: Tensor,
    decay: Tensor,
    S: Tensor,
    z: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `gdn_stream`.  cos, sin: [F, N, K/2].  z: [B, H, K, 1]."""
    o, last, z_last = v.new_empty(v.shape), S.new_empty(S.shape), z.new_empty(z.shape)
    _launch(
        q, k, v, cos.contiguous(), sin.contiguous(), beta, decay, S, z.contiguous(), o, last, z_last, main=True, eps=eps
    )  # fmt: skip
    return o, last, z_last


@_gdn_main.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    beta: Tensor,
    decay: Tensor,
    S: Tensor,
    z: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return v.new_empty(v.shape), S.new_empty(S.shape), z.new_empty(z.shape)


def _launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    beta: Tensor,
    decay: Tensor,
    S: Tensor,
    z: Tensor,
    o: Tensor,
    last: Tensor,
    z_last: Tensor,
    *,
    main: bool,
    eps: float,
) -> None:
    """Fill o, last and (main) z_last."""
    exact = v.dtype == torch.float32
    tuning = EXACT if exact else TUNING
    B, H, F, N = beta.shape
    K, V = k.shape[3], v.shape[3]
    steps = -(-N // tuning.block)
    parts = min(tuning.parts, steps)
    shared = dict(F=F, H=H, K=K, V=V, KP=padded(K), PRECISION="ieee" if exact else "tf32x3", MAIN=main)
    tokenwise = dict(N=N, VP=padded(V))

    a = S.new_empty(2 if main else 1, parts, B * H * F, K, K)
    u, w = S.new_empty(parts, B * H * F, K, V), S.new_empty(parts, B * H * F, K)
    compiled(*WRITTEN)[(B * H * F, (3 if main else 2) * parts)](
        k, v, cos, sin, beta, a, u, w, *k.stride()[:3], *v.stride()[:3], *beta.stride(),
        **shared, **tokenwise, PARTS=parts, SPAN=-(-steps // parts) * tuning.block, BLOCK=tuning.block,
        num_warps=tuning.warps, num_stages=tuning.stages,
    )  # fmt: skip
    memory, z_memory = v.new_empty(B * H * F, K, V), S.new_empty(B * H * F, K)
    ahead, z_ahead = S.new_empty(memory.shape), S.new_empty(z_memory.shape)
    compiled(*RECURRENCE)[(B * H, -(-V // tuning.columns) + main)](
        a, u, w, decay, S.contiguous(), z, last, z_last, ahead, z_ahead, memory, z_memory, *decay.stride(),
        **shared, PARTS=parts, COLUMNS=tuning.columns,
        num_warps=tuning.recurrence_warps, num_stages=tuning.recurrence_stages,
    )  # fmt: skip
    compiled(*READ)[(B * H * F, -(-N // tuning.read_block))](
        q, cos, sin, memory, z_memory, o, *q.stride()[:3], eps,
        **shared, **tokenwise, BLOCK=tuning.read_block, num_warps=tuning.read_warps,
    )  # fmt: skip


def padded(width: int) -> int:
    """To what matrix units take: a power of two, at least 16."""
    return max(16, power_of_two(width))
