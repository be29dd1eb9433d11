"""Pictures with depth drawn into other views on a GPU, with nothing per source and view in memory.

First the sources' inverse depth is splatted into every view, as maxima of its bits: they order like the numbers ≥ 0,
and no order of arrival changes them. Then small holes are closed, and every pixel of a view looks its surface up in
each source and samples the cheapest one. Definition, twin and oracle: `engine.warp.warp`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kernels.program import compiled

if TYPE_CHECKING:
    import triton.language as tl

BLOCK, WARPS = 256, 4  # pixels of a program


def warp_draw(
    rgb: Tensor,
    inverse_depth: Tensor,
    generation: Tensor,
    index: Tensor,
    *,
    there: Tensor,
    back: Tensor,
    lens: Tensor,
    tolerance: float,
    sky: float,
    near: float,
    edge: tuple[float, float],
    spread: tuple[float, float],
    strict: float,
    keep: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """rgb: uint8 [B, S, Y, X, 3].  inverse_depth: fp16 and generation: uint8 [B, S, Y, X].  index: [B, S], below 0: unused.
    there, back: fp32 [B, S, V, 3, 4], projections from source to view and from view to source.
    lens: fp32 [B, S, V], focal length of view over source.

    Returns, per pixel of the views: colour fp32 [B, V, Y, X, 3], 0 … 255 but for overshoot; uint8 whether it is known;
    fp32 magnification; uint8 generation; fp32 inverse depth. All are 0 where nothing is known.
    """
    B, S, Y, X = inverse_depth.shape
    V, device = there.shape[2], rgb.device
    rgb, inverse_depth, generation, index, there, back, lens = (
        x.contiguous() for x in (rgb, inverse_depth, generation, index, there, back, lens)
    )
    sizes: dict[str, Any] = dict(S=S, V=V, Y=Y, X=X, BLOCK=BLOCK)
    sizes |= dict(TOLERANCE=tolerance, SKY=sky, NEAR=near, SHARE=edge[0], STEP=edge[1])
    launch: dict[str, Any] = dict(num_warps=WARPS, enable_fp_fusion=False)  # rounds as separate operations do
    blocks = -(-Y * X // BLOCK)
    z = torch.full((B, V, Y, X), -1.0, device=device)
    wide = torch.empty_like(z)
    compiled(*SPLAT)[(B * S, blocks)](
        inverse_depth, index, there, z.view(torch.int32),
        **sizes, FIRST=spread[0], LAST=spread[1], **launch
    )  # fmt: skip
    compiled(*WIDEN)[(B * V, blocks)](z, wide, Y=Y, X=X, BLOCK=BLOCK, num_warps=WARPS)
    color = torch.empty(B, V, Y, X, 3, device=device)
    magnification, carried = (torch.empty(B, V, Y, X, device=device) for _ in range(2))
    mask, age = (torch.empty(B, V, Y, X, dtype=torch.uint8, device=device) for _ in range(2))
    compiled(*DRAW)[(B * V, blocks)](
        wide, rgb, inverse_depth, generation, index, back, lens, color, mask, magnification, age, carried,
        **sizes, STRICT=strict, KEEP=keep, **launch
    )  # fmt: skip
    return color, mask, magnification, age, carried


def _projected(m, x, y, d):
    """p₀, p₁, p₂ of pixels x, y of inverse depth d by the matrix [3, 4] at m."""
    p0 = tl.load(m) * x + tl.load(m + 1) * y + tl.load(m + 2) + tl.load(m + 3) * d
    p1 = tl.load(m + 4) * x + tl.load(m + 5) * y + tl.load(m + 6) + tl.load(m + 7) * d
    p2 = tl.load(m + 8) * x + tl.load(m + 9) * y + tl.load(m + 10) + tl.load(m + 11) * d
    return p0, p1, p2


def _extent(depth, row, column, Y: tl.constexpr, X: tl.constexpr):
    """Smallest and largest of the 3×3 pixels around, fp32; what lies outside repeats the border."""
    low = tl.full(row.shape, float("inf"), tl.float32)
    high = tl.full(row.shape, float("-inf"), tl.float32)
    for n in tl.static_range(9):
        r = tl.minimum(tl.maximum(row + (n // 3 - 1), 0), Y - 1)
        c = tl.minimum(tl.maximum(column + (n % 3 - 1), 0), X - 1)
        d = tl.load(depth + r * X + c).to(tl.float32)
        low, high = tl.minimum(low, d), tl.maximum(high, d)
    return low, high


def _apart(low, high, SHARE: tl.constexpr, STEP: tl.constexpr):
    """Whether these inverse depths are of two surfaces."""
    return high - low > tl.maximum(SHARE * high, STEP)


def _bilinear(depth, x, y, Y: tl.constexpr, X: tl.constexpr):
    """Value at x, y, fp32; what lies outside repeats the border."""
    x0, y0 = tl.floor(x - 0.5), tl.floor(y - 0.5)
    fx, fy = x - 0.5 - x0, y - 0.5 - y0
    left, right = tl.maximum(x0.to(tl.int32), 0), tl.minimum(x0.to(tl.int32) + 1, X - 1)
    up, down = tl.maximum(y0.to(tl.int32), 0) * X, tl.minimum(y0.to(tl.int32) + 1, Y - 1) * X
    above = tl.load(depth + up + left).to(tl.float32) * (1.0 - fx)
    above += tl.load(depth + up + right).to(tl.float32) * fx
    below = tl.load(depth + down + left).to(tl.float32) * (1.0 - fx)
    below += tl.load(depth + down + right).to(tl.float32) * fx
    return above * (1.0 - fy) + below * fy


def _tap(n: tl.constexpr, f):
    """Weight of tap n of 4 at f between the middle two: Keys 1981 with a = -0.75."""
    t = tl.abs(f - (n - 1))
    inner = (1.25 * t - 2.25) * t * t + 1.0
    outer = ((-0.75 * t + 3.75) * t - 6.0) * t + 3.0
    return inner if n == 1 or n == 2 else outer


def _splat(
    depth, index, there, z,
    S: tl.constexpr, V: tl.constexpr, Y: tl.constexpr, X: tl.constexpr, BLOCK: tl.constexpr,
    TOLERANCE: tl.constexpr, SKY: tl.constexpr, NEAR: tl.constexpr, SHARE: tl.constexpr, STEP: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)  # source of a flight
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, column = n // X, n % X
    x, y = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
    depth += i * Y * X
    d = tl.load(depth + n, mask=n < Y * X, other=0.0).to(tl.float32)
    low, high = _extent(depth, row, column, Y, X)
    mixed = _apart(low, high, SHARE, STEP)  # a decoder has averaged two surfaces
    mixed &= (d * (1.0 + TOLERANCE) + SKY < high) & (d * (1.0 - TOLERANCE) - SKY > low)
    keep = (n < Y * X) & (d >= 0) & (mixed == 0)
    if tl.load(index + i) >= 0:
        for v in range(V):
            p0, p1, p2 = _projected(there + (i * V + v) * 12, x, y, d)
            ahead = keep & (p2 > NEAR)
            p2 = tl.where(ahead, p2, 1.0)
            u = tl.minimum(tl.maximum(tl.div_rn(p0, p2), -1.0), X + 1)
            w = tl.minimum(tl.maximum(tl.div_rn(p1, p2), -1.0), Y + 1)
            left, right = tl.floor(u + FIRST).to(tl.int32), tl.floor(u + LAST).to(tl.int32)
            up, down = tl.floor(w + FIRST).to(tl.int32), tl.floor(w + LAST).to(tl.int32)
            bits = tl.div_rn(d, p2).to(tl.int32, bitcast=True)
            view = z + (i // S * V + v) * Y * X
            for corner in tl.static_range(4):
                to_r, to_c = (down if corner // 2 else up), (right if corner % 2 else left)
                inside = ahead & (to_r >= 0) & (to_r < Y) & (to_c >= 0) & (to_c < X)
                tl.atomic_max(view + to_r * X + to_c, bits, mask=inside, sem="relaxed")


def _widen(z, wide, Y: tl.constexpr, X: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)  # view of a flight
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    _, high = _extent(z + i * Y * X, n // X, n % X, Y, X)
    tl.store(wide + i * Y * X + n, high, mask=n < Y * X)


def _draw(
    wide, rgb, depth, generation, index, back, lens, color, mask, magnification, age, carried,
    S: tl.constexpr, V: tl.constexpr, Y: tl.constexpr, X: tl.constexpr, BLOCK: tl.constexpr,
    TOLERANCE: tl.constexpr, SKY: tl.constexpr, NEAR: tl.constexpr, SHARE: tl.constexpr, STEP: tl.constexpr,
    STRICT: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)  # view of a flight
    b, v = i // V, i % V
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, column, live = n // X, n % X, n < Y * X
    x, y = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
    d, top = _extent(wide + i * Y * X, row, column, Y, X)  # small holes closed; the nearest beside
    rim = _apart(d, top, SHARE, STEP)
    lowest = tl.full([BLOCK], float("inf"), tl.float32)
    best_x, best_y = tl.full([BLOCK], 0.5, tl.float32), tl.full([BLOCK], 0.5, tl.float32)
    best_size = tl.zeros([BLOCK], dtype=tl.float32)
    best, best_age = tl.zeros([BLOCK], dtype=tl.int32), tl.zeros([BLOCK], dtype=tl.int32)
    meet = best > 0  # nowhere
    for s in range(S):
        k = b * S + s
        if tl.load(index + k) >= 0:
            p0, p1, p2 = _projected(back + (k * V + v) * 12, x, y, d)
            ok = (d >= 0.0) & (p2 > NEAR)
            p2 = tl.where(ok, p2, 1.0)
            u, w, there = tl.div_rn(p0, p2), tl.div_rn(p1, p2), tl.div_rn(d, p2)
            ok &= (u >= 0.0) & (u <= X) & (w >= 0.0) & (w <= Y)
            c = tl.minimum(tl.maximum(tl.floor(u), 0.0), X - 1).to(tl.int32)
            r = tl.minimum(tl.maximum(tl.floor(w), 0.0), Y - 1).to(tl.int32)
            low, high = _extent(depth + k * Y * X, r, c, Y, X)
            ok &= (there >= low * (1.0 - TOLERANCE) - SKY) & (there <= high * (1.0 + TOLERANCE) + SKY)
            own, edge = tl.load(depth + k * Y * X + r * X + c).to(tl.float32), _apart(low, high, SHARE, STEP)
            ok &= (edge == 0) | (tl.abs(own - there) <= STRICT * tl.maximum(own, there) + SKY)
            ok &= (edge == 0) | (own >= (low + high) * 0.5) | rim
            drawn = tl.load(generation + k * Y * X + r * X + c).to(tl.int32)
            size = tl.load(lens + k * V + v) * p2
            cost = tl.maximum(size, 1.0) * tl.sqrt_rn(1.0 + drawn.to(tl.float32))
            better = ok & (cost < lowest)
            lowest, best_size = tl.where(better, cost, lowest), tl.where(better, size, best_size)
            best_x, best_y = tl.where(better, u, best_x), tl.where(better, w, best_y)
            best, best_age = tl.where(better, s, best), tl.where(better, drawn + 1, best_age)
            meet = (better & edge) | ((better == 0) & meet)
    known = lowest < float("inf")
    k = b * S + best
    M = back + (k * V + v) * 12
    _, _, plain = _projected(M, x, y, 0.0)  # d = z / (plain + turn · z), solved for z
    turn, surface = tl.load(M + 11), _bilinear(depth + k * Y * X, best_x, best_y, Y, X)
    scale = 1.0 - surface * turn
    exact = tl.div_rn(surface * plain, tl.where(scale > NEAR, scale, 1.0))
    exact = tl.where((meet == 0) & (scale > NEAR) & (tl.abs(exact - d) <= KEEP * d + SKY), exact, d)
    x0, y0 = tl.floor(best_x - 0.5), tl.floor(best_y - 0.5)
    fx, fy = best_x - 0.5 - x0, best_y - 0.5 - y0
    picture = rgb + k * Y * X * 3
    nothing = tl.zeros([BLOCK], dtype=tl.float32)
    red, green, blue = nothing, nothing, nothing
    for j in tl.static_range(4):
        r = tl.minimum(tl.maximum(y0.to(tl.int32) + (j - 1), 0), Y - 1)
        row_red, row_green, row_blue = nothing, nothing, nothing
        for m in tl.static_range(4):
            c = tl.minimum(tl.maximum(x0.to(tl.int32) + (m - 1), 0), X - 1)
            at, weight = picture + (r * X + c) * 3, _tap(m, fx)
            row_red += weight * tl.load(at).to(tl.float32)
            row_green += weight * tl.load(at + 1).to(tl.float32)
            row_blue += weight * tl.load(at + 2).to(tl.float32)
        weight = _tap(j, fy)
        red += weight * row_red
        green += weight * row_green
        blue += weight * row_blue
    at = i * Y * X + n
    tl.store(color + at * 3, tl.where(known, red, 0.0), mask=live)
    tl.store(color + at * 3 + 1, tl.where(known, green, 0.0), mask=live)
    tl.store(color + at * 3 + 2, tl.where(known, blue, 0.0), mask=live)
    tl.store(mask + at, known.to(tl.uint8), mask=live)
    tl.store(magnification + at, best_size, mask=live)
    tl.store(age + at, tl.minimum(best_age, 255).to(tl.uint8), mask=live)
    tl.store(carried + at, tl.where(known, exact, 0.0), mask=live)


# Each with the functions that it calls
SPLAT, WIDEN = (_splat, _projected, _extent, _apart), (_widen, _extent)
DRAW = (_draw, _projected, _extent, _apart, _bilinear, _tap)
