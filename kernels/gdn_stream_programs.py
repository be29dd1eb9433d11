"""The GPU programs of `gdn_stream`: what a chunk writes, the recurrence over its frames, what it reads.

The letters are those of `gdn_stream`. Widths that are no powers of two are padded with zeros: K to KP, V to VP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import triton.language as tl


def turned(x, cos, sin, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Pairs of adjacent channels by their angles. x: [ROWS, WIDTH].  cos, sin: [ROWS, WIDTH/2]."""
    even, odd = tl.split(tl.reshape(x, [ROWS, WIDTH // 2, 2]))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), [ROWS, WIDTH])


def products(
    k, v, cos, sin, beta, k_t, v_t, beta_n, first,
    N: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, SPAN: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr, TURN: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """Of SPAN tokens of a frame from the first: Σ β k kᵀ, or Σ β k vᵀ with VALUES; and Σ β k."""
    c, p = tl.arange(0, KP)[None, :], tl.arange(0, KP // 2)[None, :]
    d = tl.arange(0, VP)[None, :]
    WIDTH: tl.constexpr = VP if VALUES else KP
    total, single = tl.zeros([KP, WIDTH], dtype=tl.float32), tl.zeros([KP], dtype=tl.float32)
    for start in range(0, SPAN, BLOCK):
        n = first + start + tl.arange(0, BLOCK)[:, None]
        live = n < N
        x = tl.load(k + n * k_t + c, mask=live & (c < K), other=0.0).to(tl.float32)
        if TURN:
            at, inside = n * (K // 2) + p, live & (p < K // 2)
            x = turned(
                x,
                tl.load(cos + at, mask=inside, other=0.0),
                tl.load(sin + at, mask=inside, other=0.0),
                BLOCK,
                KP,
            )
        write = x * tl.load(beta + n * beta_n, mask=live, other=0.0)
        y = x.to(v.dtype.element_ty)
        if VALUES:
            y = tl.load(v + n * v_t + d, mask=live & (d < V), other=0.0)
        total = tl.dot(tl.trans(write.to(v.dtype.element_ty)), y, acc=total, input_precision=PRECISION)
        single += tl.sum(write, axis=0)
    return total, single


def written(
    k, v, cos, sin, beta, a, u, w, k_b, k_t, k_h, v_b, v_t, v_h, beta_b, beta_h, beta_f, beta_n,
    F: tl.constexpr, N: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr,
    VP: tl.constexpr, PARTS: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
    MAIN: tl.constexpr,
):  # fmt: skip
    """One of A, U and (MAIN) A and Σ β k of the keys before they turn, from one part of a frame of a head of a clip."""
    i = tl.program_id(0).to(tl.int64)
    part, kind = tl.program_id(1) % PARTS, tl.program_id(1) // PARTS
    f, h, b = i % F, (i // F) % H, i // (F * H)
    k += b * k_b + h * k_h + f * N * k_t
    v += b * v_b + h * v_h + f * N * v_t
    beta += b * beta_b + h * beta_h + f * beta_f
    cos += f * N * (K // 2)
    sin += f * N * (K // 2)
    r, c, d = tl.arange(0, KP)[:, None], tl.arange(0, KP)[None, :], tl.arange(0, VP)[None, :]
    i += part * tl.num_programs(0).to(tl.int64)
    first = part * SPAN
    if kind == 1:
        U, _ = products(
            k, v, cos, sin, beta, k_t, v_t, beta_n, first, N, K, V, KP, VP, SPAN, BLOCK, PRECISION, MAIN, True
        )
        tl.store(u + i * K * V + r * V + d, U, mask=(r < K) & (d < V))
    elif kind == 0:
        A, _ = products(
            k,
            v,
            cos,
            sin,
            beta,
            k_t,
            v_t,
            beta_n,
            first,
            N,
            K,
            V,
            KP,
            VP,
            SPAN,
            BLOCK,
            PRECISION,
            MAIN,
            False,
        )
        tl.store(a + i * K * K + r * K + c, A, mask=(r < K) & (c < K))
    else:
        plain, single = products(
            k,
            v,
            cos,
            sin,
            beta,
            k_t,
            v_t,
            beta_n,
            first,
            N,
            K,
            V,
            KP,
            VP,
            SPAN,
            BLOCK,
            PRECISION,
            False,
            False,
        )
        a += PARTS * tl.num_programs(0).to(tl.int64) * K * K
        tl.store(a + i * K * K + r * K + c, plain, mask=(r < K) & (c < K))
        one = tl.arange(0, KP)
        tl.store(w + i * K + one, single, mask=one < K)


def gathered(x, at, mask, stride, PARTS: tl.constexpr):
    """The sum of all parts, in their order."""
    total = tl.load(x + at, mask=mask, other=0.0)
    for part in tl.static_range(1, PARTS):
        total += tl.load(x + part * stride + at, mask=mask, other=0.0)
    return total


def columns(
    a, u, decay, decay_f, s, last, ahead, memory, i, frames, d,
    F: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The columns d of head i's memory: R of each frame is kept in `ahead` until S gets there."""
    r, c = tl.arange(0, KP)[:, None], tl.arange(0, KP)[None, :]
    wide, square = r * K + c, r * V + d
    inside, held = (r < K) & (c < K), (r < K) & (d < V)
    if F > 1:
        R = gathered(u, (i * F + F - 1) * K * V + square, held, frames * K * V, PARTS)
        tl.store(ahead + (i * F + F - 2) * K * V + square, R, mask=held)
        for back in range(F - 2):
            at = i * F + F - 2 - back
            A = gathered(a, at * K * K + wide, inside, frames * K * K, PARTS)
            U = gathered(u, at * K * V + square, held, frames * K * V, PARTS)
            g = tl.load(decay + (F - 2 - back) * decay_f)
            R = g * (R - tl.dot(A, R, input_precision=PRECISION)) + U
            tl.store(ahead + (at - 1) * K * V + square, R, mask=held)
        tl.debug_barrier()  # what one thread has stored another may load below
    S = tl.load(s + i * K * V + square, mask=held, other=0.0)
    for f in range(F):
        at = i * F + f
        A = gathered(a, at * K * K + wide, inside, frames * K * K, PARTS)
        U = gathered(u, at * K * V + square, held, frames * K * V, PARTS)
        g = tl.load(decay + f * decay_f)
        S = g * (S - tl.dot(A, S, input_precision=PRECISION)) + U
        seen = S + tl.load(ahead + at * K * V + square, mask=held & (f < F - 1), other=0.0)
        tl.store(memory + at * K * V + square, seen.to(memory.dtype.element_ty), mask=held)
    tl.store(last + i * K * V + square, S, mask=held)


def vector(
    a, w, decay, decay_f, z, last, ahead, memory, i, frames,
    F: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The same for the denominator: one column, without matrix units."""
    r, c, one = tl.arange(0, KP)[:, None], tl.arange(0, KP)[None, :], tl.arange(0, KP)
    wide, inside, held = r * K + c, (r < K) & (c < K), one < K
    if F > 1:
        R = gathered(w, (i * F + F - 1) * K + one, held, frames * K, PARTS)
        tl.store(ahead + (i * F + F - 2) * K + one, R, mask=held)
        for back in range(F - 2):
            at = i * F + F - 2 - back
            A = gathered(a, at * K * K + wide, inside, frames * K * K, PARTS)
            U = gathered(w, at * K + one, held, frames * K, PARTS)
            g = tl.load(decay + (F - 2 - back) * decay_f)
            R = g * (R - tl.sum(A * R[None, :], axis=1)) + U
            tl.store(ahead + (at - 1) * K + one, R, mask=held)
        tl.debug_barrier()
    Z = tl.load(z + i * K + one, mask=held, other=0.0)
    for f in range(F):
        at = i * F + f
        A = gathered(a, at * K * K + wide, inside, frames * K * K, PARTS)
        U = gathered(w, at * K + one, held, frames * K, PARTS)
        g = tl.load(decay + f * decay_f)
        Z = g * (Z - tl.sum(A * Z[None, :], axis=1)) + U
        seen = Z + tl.load(ahead + at * K + one, mask=held & (f < F - 1), other=0.0)
        tl.store(memory + at * K + one, seen, mask=held)
    tl.store(last + i * K + one, Z, mask=held)


def recurrence(
    a, u, w, decay, s, z, last, z_last, ahead, z_ahead, memory, z_memory, decay_b, decay_h, decay_f,
    F: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, PARTS: tl.constexpr,
    COLUMNS: tl.constexpr, PRECISION: tl.constexpr, MAIN: tl.constexpr,
):  # fmt: skip
    """From frame to frame, back and forth: some columns of the memory of a head of a clip; or (MAIN, the last) z."""
    i = tl.program_id(0).to(tl.int64)  # head of a clip
    frames = tl.num_programs(0).to(tl.int64) * F  # of all heads and clips
    decay += i // H * decay_b + i % H * decay_h
    column = tl.program_id(1) * COLUMNS
    if column < V:
        d = column + tl.arange(0, COLUMNS)[None, :]
        columns(a, u, decay, decay_f, s, last, ahead, memory, i, frames, d, F, K, V, KP, PARTS, PRECISION)
    elif MAIN:
        a += PARTS * frames * K * K  # of the keys before they turn
        vector(a, w, decay, decay_f, z, z_last, z_ahead, z_memory, i, frames, F, K, KP, PARTS)


def read(
    q, cos, sin, memory, z_memory, o, q_b, q_t, q_h, eps,
    F: tl.constexpr, N: tl.constexpr, H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr,
    VP: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr, MAIN: tl.constexpr,
):  # fmt: skip
    """What BLOCK tokens of a frame of a head of a clip see; MAIN: turned, and over what they see of z."""
    i = tl.program_id(0).to(tl.int64)
    f, h, b = i % F, (i // F) % H, i // (F * H)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    live = n < N
    r, c, d = tl.arange(0, KP)[:, None], tl.arange(0, KP)[None, :], tl.arange(0, VP)[None, :]
    q += b * q_b + h * q_h + f * N * q_t
    x = tl.load(q + n * q_t + c, mask=live & (c < K), other=0.0).to(tl.float32)
    S = tl.load(memory + i * K * V + r * V + d, mask=(r < K) & (d < V), other=0.0)
    if MAIN:
        z = tl.load(z_memory + i * K + c, mask=c < K, other=0.0)
        weight = tl.sum(x * z, axis=1)[:, None] + eps
        p = tl.arange(0, KP // 2)[None, :]
        at, inside = (f * N + n) * (K // 2) + p, live & (p < K // 2)
        x = turned(
            x, tl.load(cos + at, mask=inside, other=0.0), tl.load(sin + at, mask=inside, other=0.0), BLOCK, KP
        )
    y = tl.dot(x.to(S.dtype), S, input_precision=PRECISION)
    if MAIN:
        y = y / weight
    o += (b * F + f) * N * H * V + h * V
    tl.store(o + n * (H * V) + d, y.to(o.dtype.element_ty), mask=live & (d < V))


# each with the functions that it calls, for `compiled`
WRITTEN, RECURRENCE, READ = (
    (written, products, turned),
    (recurrence, columns, vector, gathered),
    (read, turned),
)
