"""The GPU programs of `gdn_chunk`: written and read frame by frame, side by side, and the recurrence between.

A frame of a head of a clip is one program, or (recurrences) a head of a clip. The letters are those of `gdn_chunk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import triton.language as tl


def written(
    k, e, v, beta, a, u, k_b, k_t, k_h, e_b, e_t, e_h, v_b, v_t, v_h,
    F: tl.constexpr, N: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)  # frame of a head of a clip
    f, h, b = i % F, (i // F) % H, i // (F * H)
    c, d = tl.arange(0, K)[None, :], tl.arange(0, V)[None, :]
    rows = tl.arange(0, K)[:, None]
    k += b * k_b + h * k_h
    e += b * e_b + h * e_h
    v += b * v_b + h * v_h
    beta += b * F * N * H + h
    A, U = tl.zeros([K, K], dtype=tl.float32), tl.zeros([K, V], dtype=tl.float32)
    for start in range(0, N, BLOCK):
        n = start + tl.arange(0, BLOCK)[:, None]
        live, t = n < N, (f * N + n).to(tl.int64)
        b_k = tl.load(k + t * k_t + c, mask=live, other=0.0).to(tl.float32)
        b_e = tl.load(e + t * e_t + c, mask=live, other=0.0).to(tl.float32)
        b_v = tl.load(v + t * v_t + d, mask=live, other=0.0).to(tl.float32)
        write = tl.trans(b_k * tl.load(beta + t * H, mask=live, other=0.0))
        A += tl.dot(write, b_e, input_precision=PRECISION)
        U += tl.dot(write, b_v, input_precision=PRECISION)
    tl.store(a + i * K * K + rows * K + c, A)
    tl.store(u + i * K * V + rows * V + d, U)


def recurrence(
    a, u, decay, s, last, memories,
    F: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)  # head of a clip
    b, h = i // H, i % H
    rows = tl.arange(0, K)[:, None]
    square, wide = rows * V + tl.arange(0, V)[None, :], rows * K + tl.arange(0, K)[None, :]
    memories += i * (F + 1) * K * V
    S = tl.load(s + i * K * V + square)
    tl.store(memories + square, S)
    for f in range(F):
        g = tl.load(decay + (b * F + f) * H + h)
        A, U = tl.load(a + (i * F + f) * K * K + wide), tl.load(u + (i * F + f) * K * V + square)
        S = g * (S - tl.dot(A, S, input_precision=PRECISION)) + U
        tl.store(memories + (f + 1) * K * V + square, S)
    tl.store(last + i * K * V + square, S)


def read(
    q, memories, o, q_b, q_t, q_h,
    F: tl.constexpr, N: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)  # frame of a head of a clip
    f, h, b = i % F, (i // F) % H, i // (F * H)
    c, d = tl.arange(0, K)[None, :], tl.arange(0, V)[None, :]
    q += b * q_b + h * q_h
    o += b * F * N * H * V + h * V
    S = tl.load(memories + (i // F * (F + 1) + f + 1) * K * V + tl.arange(0, K)[:, None] * V + d)
    for start in range(0, N, BLOCK):
        n = start + tl.arange(0, BLOCK)[:, None]
        live, t = n < N, (f * N + n).to(tl.int64)
        b_q = tl.load(q + t * q_t + c, mask=live, other=0.0).to(tl.float32)
        b_o = tl.dot(b_q, S, input_precision=PRECISION)
        tl.store(o + t * H * V + d, b_o.to(o.dtype.element_ty), mask=live)


def read_back(
    q, do, memories, dq, reads, q_b, q_t, q_h, o_b, o_t, o_h,
    F: tl.constexpr, N: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)  # frame of a head of a clip
    f, h, b = i % F, (i // F) % H, i // (F * H)
    c, d = tl.arange(0, K)[None, :], tl.arange(0, V)[None, :]
    square = tl.arange(0, K)[:, None] * V + d
    q += b * q_b + h * q_h
    do += b * o_b + h * o_h
    dq += b * F * N * H * K + h * K
    S = tl.load(memories + (i // F * (F + 1) + f + 1) * K * V + square)
    total = tl.zeros([K, V], dtype=tl.float32)
    for start in range(0, N, BLOCK):
        n = start + tl.arange(0, BLOCK)[:, None]
        live, t = n < N, (f * N + n).to(tl.int64)
        b_q = tl.load(q + t * q_t + c, mask=live, other=0.0).to(tl.float32)
        b_do = tl.load(do + t * o_t + d, mask=live, other=0.0).to(tl.float32)
        b_dq = tl.dot(b_do, tl.trans(S), input_precision=PRECISION)
        tl.store(dq + t * H * K + c, b_dq.to(dq.dtype.element_ty), mask=live)
        total += tl.dot(tl.trans(b_q), b_do, input_precision=PRECISION)
    tl.store(reads + i * K * V + square, total)


def recurrence_back(
    a, decay, memories, ds, reads, ddecay, ds_first,
    F: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)  # head of a clip
    b, h = i // H, i % H
    rows = tl.arange(0, K)[:, None]
    square, wide = rows * V + tl.arange(0, V)[None, :], rows * K + tl.arange(0, K)[None, :]
    memories += i * (F + 1) * K * V
    dS = tl.load(ds + i * K * V + square)
    for back in range(F):
        f = F - 1 - back
        at = (i * F + f) * K * V + square
        g = tl.load(decay + (b * F + f) * H + h)
        dS += tl.load(reads + at)
        tl.store(reads + at, dS)  # of the memory after the frame, by all who read it
        S = tl.load(memories + f * K * V + square)
        kept = dS - tl.dot(tl.trans(tl.load(a + (i * F + f) * K * K + wide)), dS, input_precision=PRECISION)
        tl.store(ddecay + (b * F + f) * H + h, tl.sum(tl.sum(kept * S, axis=1), axis=0))
        dS = g * kept
    tl.store(ds_first + i * K * V + square, dS)


def written_back(
    k, e, v, beta, decay, memories, grads, dk, de, dv, dbeta,
    k_b, k_t, k_h, e_b, e_t, e_h, v_b, v_t, v_h,
    F: tl.constexpr, N: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr, SAME: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)  # frame of a head of a clip
    f, h, b = i % F, (i // F) % H, i // (F * H)
    c, d = tl.arange(0, K)[None, :], tl.arange(0, V)[None, :]
    square = tl.arange(0, K)[:, None] * V + d
    k += b * k_b + h * k_h
    e += b * e_b + h * e_h
    v += b * v_b + h * v_h
    first = b * F * N * H + h  # of the dense results, in tokens and heads
    g = tl.load(decay + (b * F + f) * H + h)
    S = tl.load(memories + (i // F * (F + 1) + f) * K * V + square)  # before the frame
    dS = tl.load(grads + i * K * V + square)  # after it
    for start in range(0, N, BLOCK):
        n = start + tl.arange(0, BLOCK)[:, None]
        live, t = n < N, (f * N + n).to(tl.int64)
        b_k = tl.load(k + t * k_t + c, mask=live, other=0.0).to(tl.float32)
        b_e = tl.load(e + t * e_t + c, mask=live, other=0.0).to(tl.float32)
        b_v = tl.load(v + t * v_t + d, mask=live, other=0.0).to(tl.float32)
        at = first + t * H
        b_beta = tl.load(beta + at, mask=live, other=0.0)
        missing = b_v - g * tl.dot(b_e, S, input_precision=PRECISION)
        dw = tl.dot(b_k, dS, input_precision=PRECISION)
        b_dv = b_beta * dw
        b_dk = tl.dot(b_beta * missing, tl.trans(dS), input_precision=PRECISION)
        b_de = -g * tl.dot(b_dv, tl.trans(S), input_precision=PRECISION)
        if SAME:
            b_dk += b_de
        else:
            tl.store(de + at * K + c, b_de.to(de.dtype.element_ty), mask=live)
        tl.store(dk + at * K + c, b_dk.to(dk.dtype.element_ty), mask=live)
        tl.store(dv + at * V + d, b_dv.to(dv.dtype.element_ty), mask=live)
        tl.store(dbeta + at, tl.sum(dw * missing, axis=1)[:, None], mask=live)
