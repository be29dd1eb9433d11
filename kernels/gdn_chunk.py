"""The delta rule of `gdn_scan` for many frames at once on a GPU, with gradients: one program per clip and head.

    D = V - g E S        what a frame does not yet find in the memory (one row per token)
    S ← g S + Kᵀ β D     the same as g (I - KᵀβE) S + KᵀβV
    o = Q S

S stays in registers from the first frame to the last; the backward pass reads the memories that the forward pass
kept and walks back through the same products. Products take bf16 operands as they are and round fp32 ones (S, D and
their gradients) to TF32, sums are fp32; all-fp32 inputs are multiplied in fp32. Twin and oracle: `gdn_scan`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 32  # tokens per step of a program
WARPS, WARPS_BACK = 4, 8
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
    o, last, _ = torch.ops.explorer.gdn_chunk(
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
        x.is_cuda
        and x.dtype != torch.float64
        and len(chunks) > 1
        and max(chunks) == 1
        and width in (16, 32, 64, 128)
    )


def tokens(x: Tensor) -> Tensor:
    """[B, H, F, N, K] -> [B, T, H, K], a view where memory is in that order."""
    return x.permute(0, 2, 3, 1, 4).flatten(1, 2)


@torch.library.custom_op(
    "explorer::gdn_chunk",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor e, Tensor v, Tensor beta, Tensor decay, Tensor S, bool same)"
    " -> (Tensor, Tensor, Tensor)",
)
def _gdn_chunk(
    q: Tensor, k: Tensor, e: Tensor, v: Tensor, beta: Tensor, decay: Tensor, S: Tensor, same: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, e: [B, T, H, K].  v: [B, T, H, V].  beta: [B, T, H].  decay: [B, F, H].  S: [B, H, K, V].

    same: e is k. Returns o [B, T, H, V], the memory after the last frame, and those before the first and after every
    frame, [B, H, F+1, K, V], for the way back.
    """
    q, k, e, v = (_rows(x) for x in (q, k, e, v))
    o, last, memories = _outputs(k, v, decay)
    _compiled("_forward")[(k.shape[0] * k.shape[2],)](
        q, k, e, v, beta.contiguous(), decay.contiguous(), S.contiguous(), o, last, memories,
        *_strides(q), *_strides(k), *_strides(e), *_strides(v), **_sizes(k, v, decay, warps=WARPS),
    )  # fmt: skip
    return o, last, memories


@_gdn_chunk.register_fake
def _(
    q: Tensor, k: Tensor, e: Tensor, v: Tensor, beta: Tensor, decay: Tensor, S: Tensor, same: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(k, v, decay)


@torch.library.custom_op(
    "explorer::gdn_chunk_back",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor e, Tensor v, Tensor beta, Tensor decay, Tensor memories, Tensor do, Tensor dS,"
    " bool same) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _gdn_chunk_back(
    q: Tensor,
    k: Tensor,
    e: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor,
    memories: Tensor,
    do: Tensor,
    dS: Tensor,
    same: bool,
) -> tuple[Tensor, ...]:
    """Gradients of q, k, e (empty where it is k), v, beta, decay and S.  do: [B, T, H, V].  dS: [B, H, K, V]."""
    q, k, e, v, do = (_rows(x) for x in (q, k, e, v, do))
    out = _gradients(q, k, e, v, beta, decay, dS, same)
    _compiled("_backward")[(k.shape[0] * k.shape[2],)](
        q, k, e, v, beta.contiguous(), decay.contiguous(), memories, do, dS.contiguous(), *out,
        *_strides(q), *_strides(k), *_strides(e), *_strides(v), *_strides(do), SAME=same,
        **_sizes(k, v, decay, warps=WARPS_BACK),
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
    do: Tensor,
    dS: Tensor,
    same: bool,
) -> tuple[Tensor, ...]:
    return _gradients(q, k, e, v, beta, decay, dS, same)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:6], output[2])
    ctx.same = inputs[7]


def _differentiate(
    ctx: Any, do: Tensor, dlast: Tensor | None, dmemories: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The memories in between are not given out, and carry no gradient."""
    q, k, e, v, beta, decay, memories = ctx.saved_tensors
    dS = torch.zeros_like(memories[:, :, 0]) if dlast is None else dlast
    dq, dk, de, dv, dbeta, ddecay, dS = torch.ops.explorer.gdn_chunk_back(
        q, k, e, v, beta, decay, memories, do, dS, ctx.same
    )
    return dq, dk, None if ctx.same else de, dv, dbeta, ddecay, dS, None


_gdn_chunk.register_autograd(_differentiate, setup_context=_keep)


def _outputs(k: Tensor, v: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    B, _, H, K = k.shape
    last = k.new_empty(B, H, K, v.shape[-1], dtype=torch.float32)
    return v.new_empty(v.shape), last, last.new_empty(B, H, decay.shape[1] + 1, *last.shape[2:])


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


def _rows(x: Tensor) -> Tensor:
    """Channels must lie side by side; the other strides are free."""
    return x if x.stride(-1) == 1 else x.contiguous()


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


@cache
def _compiled(name: str) -> Any:
    """A kernel below by name; only here is Triton imported."""
    import triton
    import triton.language

    globals()["tl"] = triton.language
    return triton.jit(globals()[name])


def _forward(
    q, k, e, v, beta, decay, s, o, last, memories,
    q_b, q_t, q_h, k_b, k_t, k_h, e_b, e_t, e_h, v_b, v_t, v_h,
    F: tl.constexpr, N: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    b, h = i // H, i % H
    c, d = tl.arange(0, K)[None, :], tl.arange(0, V)[None, :]
    square = tl.arange(0, K)[:, None] * V + d
    q += b * q_b + h * q_h
    k += b * k_b + h * k_h
    e += b * e_b + h * e_h
    v += b * v_b + h * v_h
    beta += b * F * N * H + h
    o += b * F * N * H * V + h * V
    memories += i * (F + 1) * K * V
    S = tl.load(s + i * K * V + square)
    tl.store(memories + square, S)
    for f in range(F):
        g = tl.load(decay + (b * F + f) * H + h)
        new = tl.zeros([K, V], dtype=tl.float32)
        for start in range(0, N, BLOCK):
            n = start + tl.arange(0, BLOCK)[:, None]
            live, t = n < N, (f * N + n).to(tl.int64)
            b_e = tl.load(e + t * e_t + c, mask=live, other=0.0).to(tl.float32)
            b_v = tl.load(v + t * v_t + d, mask=live, other=0.0).to(tl.float32)
            b_k = tl.load(k + t * k_t + c, mask=live, other=0.0).to(tl.float32)
            b_beta = tl.load(beta + t * H, mask=live, other=0.0)
            w = b_beta * (b_v - g * tl.dot(b_e, S, input_precision=PRECISION))
            new += tl.dot(tl.trans(b_k), w, input_precision=PRECISION)
        S = g * S + new
        tl.store(memories + (f + 1) * K * V + square, S)
        for start in range(0, N, BLOCK):
            n = start + tl.arange(0, BLOCK)[:, None]
            live, t = n < N, (f * N + n).to(tl.int64)
            b_q = tl.load(q + t * q_t + c, mask=live, other=0.0).to(tl.float32)
            b_o = tl.dot(b_q, S, input_precision=PRECISION)
            tl.store(o + t * H * V + d, b_o.to(o.dtype.element_ty), mask=live)
    tl.store(last + i * K * V + square, S)


def _backward(
    q, k, e, v, beta, decay, memories, do, ds, dq, dk, de, dv, dbeta, ddecay, ds_first,
    q_b, q_t, q_h, k_b, k_t, k_h, e_b, e_t, e_h, v_b, v_t, v_h, o_b, o_t, o_h,
    F: tl.constexpr, N: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr, SAME: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)
    b, h = i // H, i % H
    c, d = tl.arange(0, K)[None, :], tl.arange(0, V)[None, :]
    square = tl.arange(0, K)[:, None] * V + d
    q += b * q_b + h * q_h
    k += b * k_b + h * k_h
    e += b * e_b + h * e_h
    v += b * v_b + h * v_h
    do += b * o_b + h * o_h
    rows = b * F * N * H + h  # of the dense results, in tokens and heads
    memories += i * (F + 1) * K * V
    dS = tl.load(ds + i * K * V + square)
    S = tl.load(memories + F * K * V + square)
    for back in range(F):
        f = F - 1 - back
        g = tl.load(decay + (b * F + f) * H + h)
        for start in range(0, N, BLOCK):  # what the frame has read
            n = start + tl.arange(0, BLOCK)[:, None]
            live, t = n < N, (f * N + n).to(tl.int64)
            b_q = tl.load(q + t * q_t + c, mask=live, other=0.0).to(tl.float32)
            b_do = tl.load(do + t * o_t + d, mask=live, other=0.0).to(tl.float32)
            b_dq = tl.dot(b_do, tl.trans(S), input_precision=PRECISION)
            tl.store(dq + (rows + t * H) * K + c, b_dq.to(dq.dtype.element_ty), mask=live)
            dS += tl.dot(tl.trans(b_q), b_do, input_precision=PRECISION)
        S = tl.load(memories + f * K * V + square)  # before the frame
        erased = tl.zeros([K, V], dtype=tl.float32)
        dg = tl.sum(tl.sum(dS * S, axis=1), axis=0)
        for start in range(0, N, BLOCK):  # what it has written
            n = start + tl.arange(0, BLOCK)[:, None]
            live, t = n < N, (f * N + n).to(tl.int64)
            b_k = tl.load(k + t * k_t + c, mask=live, other=0.0).to(tl.float32)
            b_e = tl.load(e + t * e_t + c, mask=live, other=0.0).to(tl.float32)
            b_v = tl.load(v + t * v_t + d, mask=live, other=0.0).to(tl.float32)
            b_beta = tl.load(beta + b * F * N * H + h + t * H, mask=live, other=0.0)
            found = tl.dot(b_e, S, input_precision=PRECISION)
            missing = b_v - g * found
            dw = tl.dot(b_k, dS, input_precision=PRECISION)
            b_dv = b_beta * dw
            b_dk = tl.dot(b_beta * missing, tl.trans(dS), input_precision=PRECISION)
            b_de = -g * tl.dot(b_dv, tl.trans(S), input_precision=PRECISION)
            erased += tl.dot(tl.trans(b_e), b_dv, input_precision=PRECISION)
            dg -= tl.sum(tl.sum(b_dv * found, axis=1), axis=0)
            at = rows + t * H
            if SAME:
                b_dk += b_de
            else:
                tl.store(de + at * K + c, b_de.to(de.dtype.element_ty), mask=live)
            tl.store(dk + at * K + c, b_dk.to(dk.dtype.element_ty), mask=live)
            tl.store(dv + at * V + d, b_dv.to(dv.dtype.element_ty), mask=live)
            tl.store(dbeta + at, tl.sum(dw * missing, axis=1)[:, None], mask=live)
        tl.store(ddecay + (b * F + f) * H + h, dg)
        dS = g * (dS - erased)
    tl.store(ds_first + i * K * V + square, dS)
