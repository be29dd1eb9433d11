"""The delta rule of `gdn_scan` for many frames at once on a GPU, with gradients.

    A_t = Kᵀ β E,  U_t = Kᵀ β V      of all frames side by side: sums over the tokens of a frame
    S_t = g (S_{t-1} - A_t S_{t-1}) + U_t     from frame to frame, K×V numbers that stay in registers
    o_t = Q S_t                      of all frames side by side

Only the middle line waits for the frame before. The way back has the same three parts, the second one from the last
frame to the first. Products take bf16 operands as they are and round fp32 ones (S, A and gradients) to TF32, sums
are fp32; all-fp32 inputs are multiplied in fp32. Twin and oracle: `gdn_scan`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.gdn_programs import read, read_back, recurrence, recurrence_back, written, written_back
from kernels.program import builds, compiled, rows

BLOCK = 32  # tokens per step of a program
WARPS, WARPS_BACK = 4, 4  # of the kernels that run over tokens
COLUMNS = 16  # the narrowest memory that the GPU's matrix units take


def gdn_chunk(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor,
    S: Tensor,
    erase: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Arguments and results of `gdn_scan` where every frame is a chunk; o in v's dtype.

    q, k, v, erase may be bf16. Fastest where they are views of [B, F, N, H, K] in memory. beta, decay and S in fp32.
    V = 1 is computed as COLUMNS equal columns.
    """
    F, V = k.shape[2], v.shape[4]
    if V < COLUMNS:
        v, S = v[..., :1].expand(*v.shape[:-1], COLUMNS), S[..., :1].expand(*S.shape[:-1], COLUMNS)
    o, last, *_ = torch.ops.explorer.gdn_chunk(
        tokens(q),
        tokens(k),
        tokens(k if erase is None else erase),
        tokens(v),
        beta.permute(0, 2, 3, 1).flatten(1, 2).float(),
        decay.mT.float(),
        S.float(),
        erase is None,
    )
    return o[..., :V].unflatten(1, (F, -1)).permute(0, 3, 1, 2, 4), last[..., :V]


def suits(x: Tensor, *, width: int, chunks: tuple[int, ...]) -> bool:
    """Whether `gdn_chunk` can stand in for `gdn_scan`, for heads of `width` and where x is."""
    return (
        x.dtype != torch.float64
        and len(chunks) > 1
        and max(chunks) == 1
        and width in (16, 32, 64, 128)
        and builds(x.device)
    )


def tokens(x: Tensor) -> Tensor:
    """[B, H, F, N, K] -> [B, T, H, K], a view where memory is in that order."""
    return x.permute(0, 2, 3, 1, 4).flatten(1, 2)


@torch.library.custom_op(
    "explorer::gdn_chunk",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor e, Tensor v, Tensor beta, Tensor decay, Tensor S, bool same)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
def _gdn_chunk(
    q: Tensor, k: Tensor, e: Tensor, v: Tensor, beta: Tensor, decay: Tensor, S: Tensor, same: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, e: [B, T, H, K].  v: [B, T, H, V].  beta: [B, T, H].  decay: [B, F, H].  S: [B, H, K, V].

    same: e is k. Returns o [B, T, H, V] and the memory after the last frame; and for the way back the memories before
    the first and after every frame, [B, H, F+1, K, V], and A, [B, H, F, K, K].
    """
    q, k, e, v = (rows(x) for x in (q, k, e, v))
    beta, decay = beta.contiguous(), decay.contiguous()
    o, last, memories, A = _outputs(k, v, decay)
    U = torch.empty_like(memories[:, :, 1:], memory_format=torch.contiguous_format)
    sizes = _sizes(k, v, decay, warps=WARPS)
    heads, frames = k.shape[0] * k.shape[2], decay.shape[1]
    compiled(written)[(heads * frames,)](
        k, e, v, beta, A, U, *_strides(k), *_strides(e), *_strides(v), **sizes
    )
    compiled(recurrence)[(heads,)](A, U, decay, S.contiguous(), last, memories, **_small(sizes))
    compiled(read)[(heads * frames,)](q, memories, o, *_strides(q), **sizes)
    return o, last, memories, A


@_gdn_chunk.register_fake
def _(
    q: Tensor, k: Tensor, e: Tensor, v: Tensor, beta: Tensor, decay: Tensor, S: Tensor, same: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(k, v, decay)


@torch.library.custom_op(
    "explorer::gdn_chunk_back",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor e, Tensor v, Tensor beta, Tensor decay, Tensor memories, Tensor A, Tensor do,"
    " Tensor dS, bool same) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _gdn_chunk_back(
    q: Tensor,
    k: Tensor,
    e: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor,
    memories: Tensor,
    A: Tensor,
    do: Tensor,
    dS: Tensor,
    same: bool,
) -> tuple[Tensor, ...]:
    """Gradients of q, k, e (empty where it is k), v, beta, decay and S.  do: [B, T, H, V].  dS: [B, H, K, V]."""
    q, k, e, v, do = (rows(x) for x in (q, k, e, v, do))
    beta, decay = beta.contiguous(), decay.contiguous()
    dq, dk, de, dv, dbeta, ddecay, dS_first = out = _gradients(q, k, e, v, beta, decay, dS, same)
    reads = torch.empty_like(
        memories[:, :, 1:], memory_format=torch.contiguous_format
    )  # then of each memory in all
    sizes = _sizes(k, v, decay, warps=WARPS_BACK)
    heads, frames = k.shape[0] * k.shape[2], decay.shape[1]
    compiled(read_back)[(heads * frames,)](q, do, memories, dq, reads, *_strides(q), *_strides(do), **sizes)
    compiled(recurrence_back)[(heads,)](
        A, decay, memories, dS.contiguous(), reads, ddecay, dS_first, **_small(sizes)
    )
    compiled(written_back)[(heads * frames,)](
        k, e, v, beta, decay, memories, reads, dk, de, dv, dbeta,
        *_strides(k), *_strides(e), *_strides(v), SAME=same, **sizes,
    )  # fmt: skip
    return out


@_gdn_chunk_back.register_fake
def _(
    q: Tensor,
    k: Tensor,
    e: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor,
    memories: Tensor,
    A: Tensor,
    do: Tensor,
    dS: Tensor,
    same: bool,
) -> tuple[Tensor, ...]:
    return _gradients(q, k, e, v, beta, decay, dS, same)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6], *output[2:])
    ctx.same = inputs[7]


def _differentiate(
    ctx: Any, do: Tensor, dlast: Tensor | None, *unused: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The memories in between and A are not given out, and carry no gradient."""
    q, k, e, v, beta, decay, memories, A = ctx.saved_tensors
    dS = torch.zeros_like(memories[:, :, 0]) if dlast is None else dlast
    dq, dk, de, dv, dbeta, ddecay, dS = torch.ops.explorer.gdn_chunk_back(
        q, k, e, v, beta, decay, memories, A, do, dS, ctx.same
    )
    return dq, dk, None if ctx.same else de, dv, dbeta, ddecay, dS, None


_gdn_chunk.register_autograd(_differentiate, setup_context=_keep)


def _outputs(k: Tensor, v: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, _, H, K = k.shape
    F = decay.shape[1]
    last = k.new_empty(B, H, K, v.shape[-1], dtype=torch.float32)
    return (
        v.new_empty(v.shape),
        last,
        last.new_empty(B, H, F + 1, *last.shape[2:]),
        last.new_empty(B, H, F, K, K),
    )


def _gradients(
    q: Tensor, k: Tensor, e: Tensor, v: Tensor, beta: Tensor, decay: Tensor, dS: Tensor, same: bool
) -> tuple[Tensor, ...]:
    de = e.new_empty(0 if same else e.shape)
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        de,
        v.new_empty(v.shape),
        beta.new_empty(beta.shape),
        decay.new_empty(decay.shape),
        dS.new_empty(dS.shape),
    )


def _strides(x: Tensor) -> tuple[int, int, int]:
    return x.stride(0), x.stride(1), x.stride(2)


def _sizes(k: Tensor, v: Tensor, decay: Tensor, *, warps: int) -> dict[str, Any]:
    exact = k.dtype == torch.float32
    return dict(
        F=decay.shape[1],
        N=k.shape[1] // decay.shape[1],
        H=k.shape[2],
        K=k.shape[3],
        V=v.shape[3],
        BLOCK=BLOCK,
        PRECISION="ieee" if exact else "tf32",
        num_warps=warps,
        num_stages=1 if exact else 2,
    )


def _small(sizes: dict[str, Any]) -> dict[str, Any]:
    """Of the kernels that go from frame to frame."""
    names = ("F", "H", "K", "V", "PRECISION")
    return {name: sizes[name] for name in names} | {"num_warps": 8, "num_stages": 1}
