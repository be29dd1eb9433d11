"""Decoded frames with the detail and depth of what was seen of them, as bytes, in two passes over what is given.

The first sums the difference of both in cells: how far small ones agree and whether pictures meet there, and what of the
mean of large ones was not seen at first hand. The second reads them between cells, with the weight of each pixel and of the
eight around it, and stores what is shown. Definition, twin and oracle: `engine.composite.composite`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kernels.program import compiled

if TYPE_CHECKING:
    import triton.language as tl

BLOCK, WARPS = 256, 4  # pixels of a program of the second pass; the first takes a large cell


def composite_frames(
    rgb: Tensor,
    inverse_depth: Tensor,
    *,
    seen: Tensor,
    mask: Tensor,
    magnification: Tensor,
    generation: Tensor,
    seen_depth: Tensor,
    cells: tuple[int, int],
    doubt: float,
    close: tuple[float, float],
    fresh: tuple[float, float],
    large: tuple[float, float],
    worn: tuple[float, float],
    apart: tuple[float, float],
    sky: float,
    redrawn: int,
    whole: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """rgb: [B, V, 3, Y, X] in [-1, 1], any strides, and inverse_depth [B, V, Y, X], decoded.  seen: uint8 [B, V, Y, X, 3].
    mask, generation: uint8, magnification, seen_depth: fp32, all [B, V, Y, X].  cells: sides of large and of small ones.
    The other numbers are those of `engine.composite`, in pairs where it has two ends; sky: the inverse depth up to which it is.
    whole: that of `engine.composite`.

    Returns colours, uint8 [B, V, Y, X, 3], and inverse depth like the decoded one. Sums in fp32.
    """
    B, V, _, Y, X = rgb.shape
    N, (broad, narrow), decoded = B * V, cells, rgb.flatten(0, 1)
    inverse_depth, seen, mask, magnification, generation, seen_depth = (
        x.contiguous() for x in (inverse_depth, seen, mask, magnification, generation, seen_depth)
    )
    few, many = (-(-Y // broad), -(-X // broad)), (-(-Y // narrow), -(-X // narrow))
    light = torch.empty(N, *few, 3, device=rgb.device)
    agree, rough = (torch.empty(N, 1, *many, device=rgb.device) for _ in range(2))
    ages, above = (torch.empty(N, ends, *many, device=rgb.device) for ends in (2, 4))
    sizes: dict[str, Any] = dict(Y=Y, X=X, BROAD=broad, NARROW=narrow, num_warps=WARPS)
    compiled(*CELLS)[(N, *few)](
        decoded, seen, mask, magnification, generation, seen_depth, light, agree, rough, ages, above,
        *decoded.stride(), **sizes,
        DOUBT=doubt, SKY=sky,
        CLOSE=close[0], NOT_CLOSE=close[1], FRESH=fresh[0], NOT_FRESH=fresh[1],
    )  # fmt: skip
    agree *= whole(rough, ages, above)
    colors, depth = torch.empty_like(seen), torch.empty_like(inverse_depth)
    compiled(*SHOWN)[(N, -(-Y * X // BLOCK))](
        decoded, inverse_depth, seen, mask, magnification, generation, seen_depth, light, agree, colors, depth,
        *decoded.stride(), **sizes, BLOCK=BLOCK, LARGE=large[0], TOO_LARGE=large[1], WORN=worn[0], TOO_WORN=worn[1],
        APART=apart[0], FAR=apart[1], REDRAWN=redrawn,
    )  # fmt: skip
    return colors, depth


def _off(decoded, seen, known, at, channel: tl.constexpr, live, s_c):
    """Warped less decoded in one colour, 0 where nothing is known. at: of the pixels in the picture that was seen."""
    here = tl.load(decoded + channel * s_c, mask=live, other=0.0).to(tl.float32)
    warped = tl.load(seen + at * 3 + channel, mask=live, other=0).to(tl.float32)
    return here, (warped / 127.5 - 1.0 - here) * known


def _summed(x, BROAD: tl.constexpr, NARROW: tl.constexpr):
    """Of the small cells of a large one."""
    side: tl.constexpr = BROAD // NARROW
    return tl.sum(tl.sum(tl.reshape(x, [side, NARROW, side, NARROW]), axis=3), axis=1)


def _highest(x, part, BROAD: tl.constexpr, NARROW: tl.constexpr):
    """x in a part of the small cells of a large one, -1000 where there is nothing of it."""
    side: tl.constexpr = BROAD // NARROW
    high = tl.reshape(tl.where(part, x, -1000.0), [side, NARROW, side, NARROW])
    return tl.max(tl.max(high, axis=3), axis=1)


def _cells(
    decoded, seen, mask, magnification, generation, seen_depth, light, agree, rough, ages, above,
    s_n, s_c, s_y, s_x,
    Y: tl.constexpr, X: tl.constexpr, BROAD: tl.constexpr, NARROW: tl.constexpr, DOUBT: tl.constexpr,
    SKY: tl.constexpr,
    CLOSE: tl.constexpr, NOT_CLOSE: tl.constexpr, FRESH: tl.constexpr, NOT_FRESH: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)  # view of a flight
    i_y, i_x = tl.program_id(1), tl.program_id(2)
    row, column = i_y * BROAD + tl.arange(0, BROAD)[:, None], i_x * BROAD + tl.arange(0, BROAD)[None, :]
    live, at = (row < Y) & (column < X), i * Y * X + row * X + column
    known = (tl.load(mask + at, mask=live, other=0) > 0).to(tl.float32)
    decoded += i * s_n + row * s_y + column * s_x
    count = _summed(known, BROAD, NARROW)
    all_of = tl.maximum(tl.sum(tl.sum(count, axis=1), axis=0), 1.0)
    count = tl.maximum(count, 1.0)
    size = tl.load(magnification + at, mask=live, other=0.0)
    age = tl.load(generation + at, mask=live, other=0).to(tl.float32)
    depth = tl.load(seen_depth + at, mask=live, other=0.0)
    fresh = known * _falling(size, CLOSE, NOT_CLOSE) * _falling(age, FRESH, NOT_FRESH)
    doubted = 1.0 - tl.sum(tl.sum(fresh, axis=1), axis=0) / all_of
    off, apart = tl.zeros_like(count), tl.zeros_like(count)
    light += ((i * tl.num_programs(1) + i_y) * tl.num_programs(2) + i_x) * 3
    for channel in tl.static_range(3):
        _, e = _off(decoded, seen, known, at, channel, live, s_c)
        sums = _summed(e, BROAD, NARROW)
        off += tl.abs(sums / count)
        broad = tl.sum(tl.sum(sums, axis=1), axis=0) / all_of
        apart += tl.abs(sums / count - broad)
        tl.store(light + channel, broad * doubted)
    off /= 3.0 * DOUBT
    side: tl.constexpr = BROAD // NARROW
    rows: tl.constexpr = (Y + NARROW - 1) // NARROW
    columns: tl.constexpr = (X + NARROW - 1) // NARROW
    r, c = i_y * side + tl.arange(0, side)[:, None], i_x * side + tl.arange(0, side)[None, :]
    cell, live = (i * rows + r) * columns + c, (r < rows) & (c < columns)
    tl.store(agree + cell, tl.exp(-off * off), mask=live)
    tl.store(rough + cell, apart / 3.0, mask=live)
    sky = (known > 0) & (depth <= SKY)
    plane: tl.constexpr = rows * columns
    cell -= i * plane
    for end in tl.static_range(2):
        sign = 1.0 - 2.0 * end
        aged = _highest(sign * age, known > 0, BROAD, NARROW)
        tl.store(ages + (i * 2 + end) * plane + cell, aged, mask=live)
        tl.store(above + (i * 4 + end) * plane + cell, _highest(sign * size, sky, BROAD, NARROW), mask=live)
        tl.store(
            above + (i * 4 + 2 + end) * plane + cell, _highest(sign * age, sky, BROAD, NARROW), mask=live
        )


def _beside(n, cells: tl.constexpr, pixels: tl.constexpr):
    """The two cells between whose centres pixels n of a side lie, and the share of the second."""
    at = tl.maximum((n.to(tl.float32) + 0.5) * (cells / pixels) - 0.5, 0.0)
    first = tl.minimum(at.to(tl.int32), cells - 1)
    return first, tl.minimum(first + 1, cells - 1), at - first.to(tl.float32)


def _falling(x, FIRST: tl.constexpr, LAST: tl.constexpr):
    """1 up to the first end, 0 from the last."""
    return tl.minimum(tl.maximum((LAST - x) / (LAST - FIRST), 0.0), 1.0)


def _shown(
    decoded, inverse_depth, seen, mask, magnification, generation, seen_depth, light, agree, colors, depth,
    s_n, s_c, s_y, s_x,
    Y: tl.constexpr, X: tl.constexpr, BROAD: tl.constexpr, NARROW: tl.constexpr, BLOCK: tl.constexpr,
    LARGE: tl.constexpr, TOO_LARGE: tl.constexpr, WORN: tl.constexpr, TOO_WORN: tl.constexpr,
    APART: tl.constexpr, FAR: tl.constexpr, REDRAWN: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64)  # view of a flight
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, column, live = n // X, n % X, n < Y * X
    rows: tl.constexpr = (Y + NARROW - 1) // NARROW
    columns: tl.constexpr = (X + NARROW - 1) // NARROW
    agree += i * rows * columns
    nothing = tl.zeros([BLOCK], dtype=tl.float32)
    own, total, count, wrong, bad = nothing, nothing, nothing, nothing, nothing > 0
    for k in tl.static_range(9):
        r, c = row + (k // 3 - 1), column + (k % 3 - 1)
        inside = live & (r >= 0) & (r < Y) & (c >= 0) & (c < X)
        at = i * Y * X + r * X + c
        known = inside & (tl.load(mask + at, mask=inside, other=0) > 0)
        size = tl.load(magnification + at, mask=known, other=TOO_LARGE)
        age = tl.load(generation + at, mask=known, other=0).to(tl.float32)
        up, down, f_y = _beside(r, rows, Y)
        left, right, f_x = _beside(c, columns, X)
        above = tl.load(agree + up * columns + left, mask=known, other=0.0) * (1.0 - f_x)
        above += tl.load(agree + up * columns + right, mask=known, other=0.0) * f_x
        below = tl.load(agree + down * columns + left, mask=known, other=0.0) * (1.0 - f_x)
        below += tl.load(agree + down * columns + right, mask=known, other=0.0) * f_x
        w = _falling(size, LARGE, TOO_LARGE) * _falling(age, WORN, TOO_WORN)
        w *= above * (1.0 - f_y) + below * f_y
        total += w
        count += inside.to(tl.float32)
        told = tl.load(seen_depth + at, mask=known, other=0.0)
        found = tl.load(inverse_depth + at, mask=known, other=0.0).to(tl.float32)
        off = tl.abs(told - found) > APART * tl.maximum(told, found) + FAR
        off &= known & (age >= REDRAWN)
        wrong += off.to(tl.float32)
        if k == 4:
            own, bad = w, off
    w = tl.minimum(own, total / tl.maximum(count, 1.0))  # no hard borders
    w *= tl.maximum(1.0 - wrong / 3.0, 0.0)
    at = i * Y * X + n
    known = tl.load(mask + at, mask=live, other=0) > 0
    broad_rows: tl.constexpr = (Y + BROAD - 1) // BROAD
    broad_columns: tl.constexpr = (X + BROAD - 1) // BROAD
    light += i * broad_rows * broad_columns * 3
    up, down, f_y = _beside(row, broad_rows, Y)
    left, right, f_x = _beside(column, broad_columns, X)
    up, down = up * broad_columns, down * broad_columns
    decoded += i * s_n + row * s_y + column * s_x
    for channel in tl.static_range(3):
        above = tl.load(light + (up + left) * 3 + channel, mask=live, other=0.0) * (1.0 - f_x)
        above += tl.load(light + (up + right) * 3 + channel, mask=live, other=0.0) * f_x
        below = tl.load(light + (down + left) * 3 + channel, mask=live, other=0.0) * (1.0 - f_x)
        below += tl.load(light + (down + right) * 3 + channel, mask=live, other=0.0) * f_x
        here, e = _off(decoded, seen, known.to(tl.float32), at, channel, live, s_c)
        x = here + w * (e - (above * (1.0 - f_y) + below * f_y))
        x = (tl.minimum(tl.maximum(x, -1.0), 1.0) + 1.0) * 127.5
        x = (
            x + 12582912.0
        ) - 12582912.0  # to the nearest whole number, of two to the even one: 1.5 · 2²³ has no fraction
        tl.store(colors + at * 3 + channel, x.to(tl.uint8), mask=live)
    d = tl.load(inverse_depth + at, mask=live, other=0.0)
    there = tl.load(seen_depth + at, mask=live, other=0.0).to(d.dtype)
    tl.store(depth + at, tl.where(known & (bad == 0), there, d), mask=live)


# Each with the functions that it calls
CELLS, SHOWN = (_cells, _off, _summed, _falling, _highest), (_shown, _off, _beside, _falling)
