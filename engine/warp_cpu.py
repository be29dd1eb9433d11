"""`engine.warp.warp` as a native loop for the CPU: same definition, a tenth of the time. Needs numba.

Compiled at first use and kept on disk. Nobody waits for that: until it is done the engine uses the one in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from engine.config import MEMORY, MemoryConfig
from engine.warp import EDGE, GREY, KEEP, NEAR, SPREAD, STRICT, Sources, Warped, between

compiled: Callable[..., Any] = njit(nogil=True, cache=True, error_model="numpy")

_near, _grey, _share, _step, _strict, _keep = (np.float32(x) for x in (NEAR, GREY, *EDGE, STRICT, KEEP))
_first, _last = (np.float32(x) for x in SPREAD)


def warp(sources: Sources, poses: Tensor, intrinsics: Tensor, *, config: MemoryConfig = MEMORY) -> Warped:
    """As `engine.warp.warp`, for tensors on the CPU; views are spread over the threads that torch may use."""
    flights = [
        _warp_one(sources, b, poses[b], intrinsics[b], config=config) for b in range(sources.index.shape[0])
    ]
    rgb, *rest = (torch.from_numpy(np.stack(x)) for x in zip(*flights, strict=True))
    mask, magnification, generation, inverse_depth = rest
    return Warped(
        rgb=rgb, mask=mask, magnification=magnification, generation=generation, inverse_depth=inverse_depth
    )


def _warp_one(
    sources: Sources, b: int, poses: Tensor, intrinsics: Tensor, *, config: MemoryConfig
) -> tuple[np.ndarray, ...]:
    used = sources.used[b].nonzero().flatten()
    S, V, (Y, X) = len(used), len(poses), sources.inverse_depth.shape[2:]
    rgb, mask = np.empty((V, Y, X, 3), np.uint8), np.empty((V, Y, X), np.uint8)
    magnification, generation = np.empty((V, Y, X), np.float32), np.empty((V, Y, X), np.uint8)
    inverse_depth = np.empty((V, Y, X), np.float32)
    camera = (sources.poses[b, used][:, None], sources.intrinsics[b, used][:, None])
    view = (poses[None], intrinsics[None])
    there, back = between(*camera, *view).numpy(), between(*view, *camera).numpy()
    lens = (1 / (camera[1][..., 0] / view[1][..., 0].double()).float()).numpy()
    depth = sources.inverse_depth[b, used].numpy().astype(np.float32)
    pictures, ages = sources.rgb[b, used].numpy().astype(np.float32), sources.generation[b, used].numpy()
    low, high, keep = np.empty_like(depth), np.empty_like(depth), np.empty(depth.shape, np.bool_)
    limits = (np.float32(config.tolerance), np.float32(config.sky))
    for s in range(S):
        _surfaces(depth[s], low[s], high[s], keep[s], *limits)

    def draw(v: int) -> None:
        found = magnification[v], generation[v], inverse_depth[v]
        tables = (depth, low, high, keep, pictures, ages)
        m = [np.ascontiguousarray(a[:, v]) for a in (there, back, lens)]
        _view(*tables, *m, rgb[v], mask[v], found, *limits)

    workers = max(1, min(V, torch.get_num_threads()))
    if workers == 1:
        for v in range(V):
            draw(v)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(draw, range(V)))
    return rgb, mask, magnification, generation, inverse_depth


@compiled
def _surfaces(d, low, high, keep, t, e):
    """3×3 minimum and maximum of d [Y, X], and which pixels belong to one surface."""
    Y, X = d.shape
    one = np.float32(1)
    for y in range(Y):
        for x in range(X):
            lo = hi = d[y, x]
            for j in range(max(y - 1, 0), min(y + 2, Y)):
                for i in range(max(x - 1, 0), min(x + 2, X)):
                    lo, hi = min(lo, d[j, i]), max(hi, d[j, i])
            low[y, x], high[y, x] = lo, hi
            mixed = _apart(lo, hi) and (d[y, x] * (one + t) + e < hi) and (d[y, x] * (one - t) - e > lo)
            keep[y, x] = d[y, x] >= 0 and not mixed


@compiled
def _apart(low, high):
    """Whether these inverse depths are of two surfaces."""
    return high - low > max(_share * high, _step)


@compiled
def _view(depth, low, high, keep, pictures, ages, there, back, lens, rgb, mask, found, t, e):
    """Everything of one view."""
    S, Y, X = depth.shape
    z = np.full((Y + 4, X + 4), np.float32(-1))
    for s in range(S):
        _splat(z, depth[s], keep[s], there[s])
    z, wide = _closed(z)
    weight = np.empty((Y, X), np.float32)
    color = np.empty((Y, X, 3), np.float32)
    tables = (depth, low, high, pictures, ages)
    _gather(z, wide, tables, back, lens, color, weight, found, t, e)
    _fill(color, weight, rgb)
    for y in range(Y):
        for x in range(X):
            mask[y, x] = np.uint8(weight[y, x])


@compiled
def _splat(z, d, keep, M):
    Y, X = d.shape
    two = np.float32(2)
    for j in range(Y):
        y = np.float32(j + 0.5)
        for i in range(X):
            x = np.float32(i + 0.5)
            p2 = M[2, 0] * x + M[2, 1] * y + M[2, 2] + M[2, 3] * d[j, i]
            if not keep[j, i] or not p2 > _near:
                continue
            u = (M[0, 0] * x + M[0, 1] * y + M[0, 2] + M[0, 3] * d[j, i]) / p2
            v = (M[1, 0] * x + M[1, 1] * y + M[1, 2] + M[1, 3] * d[j, i]) / p2
            if u < -1 or v < -1 or u > X + 1 or v > Y + 1:
                continue
            # floor, and the ring of two
            left, right = int(u + _first + two), int(u + _last + two)
            up, down = int(v + _first + two), int(v + _last + two)
            near = d[j, i] / p2
            z[up, left] = max(z[up, left], near)
            z[up, right] = max(z[up, right], near)
            z[down, left] = max(z[down, left], near)
            z[down, right] = max(z[down, right], near)


@compiled
def _closed(ring):
    """3×3 maximum, then 3×3 minimum, of what lies inside the ring; and the maximum alone."""
    z = ring[2:-2, 2:-2]
    Y, X = z.shape
    a, b, c = np.empty((Y, X), np.float32), np.empty((Y, X), np.float32), np.empty((Y, X), np.float32)
    for y in range(Y):
        up, down = max(y - 1, 0), min(y + 1, Y - 1)
        for x in range(X):
            a[y, x] = max(z[up, x], z[y, x], z[down, x])
    for y in range(Y):
        b[y, 0], b[y, X - 1] = max(a[y, 0], a[y, 1]), max(a[y, X - 2], a[y, X - 1])
        for x in range(1, X - 1):
            b[y, x] = max(a[y, x - 1], a[y, x], a[y, x + 1])
    for y in range(Y):
        up, down = max(y - 1, 0), min(y + 1, Y - 1)
        for x in range(X):
            a[y, x] = min(b[up, x], b[y, x], b[down, x])
    for y in range(Y):
        c[y, 0], c[y, X - 1] = min(a[y, 0], a[y, 1]), min(a[y, X - 2], a[y, X - 1])
        for x in range(1, X - 1):
            c[y, x] = min(a[y, x - 1], a[y, x], a[y, x + 1])
    return c, b


@compiled
def _top(z, y, x):
    """Largest of the 3×3 pixels around."""
    Y, X = z.shape
    top = z[y, x]
    for j in range(max(y - 1, 0), min(y + 2, Y)):
        for i in range(max(x - 1, 0), min(x + 2, X)):
            top = max(top, z[j, i])
    return top


@compiled
def _gather(z, wide, tables, back, lens, color, weight, found, t, e):
    """Look the surface of every pixel up in each source; sample the one of lowest cost."""
    depth, low, high, pictures, ages = tables
    magnification, generation, inverse_depth = found
    S, Y, X = depth.shape
    one, half = np.float32(1), np.float32(0.5)
    worn = np.sqrt(np.arange(1, 257).astype(np.float32))
    for j in range(Y):
        y = np.float32(j + 0.5)
        for i in range(X):
            x, d = np.float32(i + 0.5), z[j, i]
            best, lowest = -1, np.float32(np.inf)
            best_u = best_v = best_size = np.float32(0)
            age, meet = 0, False
            for s in range(S if d >= 0 else 0):
                M = back[s]
                p2 = M[2, 0] * x + M[2, 1] * y + M[2, 2] + M[2, 3] * d
                if not p2 > _near:
                    continue
                u = (M[0, 0] * x + M[0, 1] * y + M[0, 2] + M[0, 3] * d) / p2
                v = (M[1, 0] * x + M[1, 1] * y + M[1, 2] + M[1, 3] * d) / p2
                if not (u >= 0 and u <= X and v >= 0 and v <= Y):
                    continue
                a, b, there = min(int(u), X - 1), min(int(v), Y - 1), d / p2
                lo, hi = low[s, b, a], high[s, b, a]
                if there < lo * (one - t) - e or there > hi * (one + t) + e:
                    continue
                edge = _apart(lo, hi)
                if edge:
                    own = depth[s, b, a]
                    if abs(own - there) > _strict * max(own, there) + e:
                        continue
                    if own < (lo + hi) * half and not _apart(d, _top(wide, j, i)):
                        continue
                size = lens[s] * p2
                cost = max(size, one) * worn[ages[s, b, a]]
                if cost < lowest:
                    best, lowest, best_u, best_v, best_size = s, cost, u, v, size
                    age, meet = ages[s, b, a], edge
            if best < 0:
                weight[j, i] = magnification[j, i] = 0
                generation[j, i] = 0
                inverse_depth[j, i] = 0
                color[j, i, 0] = color[j, i, 1] = color[j, i, 2] = 0
            else:
                weight[j, i], magnification[j, i] = one, best_size
                generation[j, i] = np.uint8(min(age + 1, 255))
                inverse_depth[j, i] = d
                if not meet:
                    M, known = back[best], _bilinear(depth[best], best_u, best_v)
                    scale = one - known * M[2, 3]
                    carried = known * (M[2, 0] * x + M[2, 1] * y + M[2, 2]) / scale
                    if scale > _near and abs(carried - d) <= _keep * d + e:
                        inverse_depth[j, i] = carried
                _bicubic(pictures[best], best_u, best_v, color[j, i])


@compiled
def _bilinear(d, u, v):
    Y, X = d.shape
    u, v = u - np.float32(0.5), v - np.float32(0.5)
    x0, y0 = int(np.floor(u)), int(np.floor(v))
    fx, fy, one = u - np.float32(x0), v - np.float32(y0), np.float32(1)
    left, right, up, down = max(x0, 0), min(x0 + 1, X - 1), max(y0, 0), min(y0 + 1, Y - 1)
    above = d[up, left] * (one - fx) + d[up, right] * fx
    below = d[down, left] * (one - fx) + d[down, right] * fx
    return above * (one - fy) + below * fy


@compiled
def _bicubic(picture, u, v, out):
    """Keys 1981 with a = -0.75, as torch has it; taps outside repeat the border."""
    Y, X = picture.shape[:2]
    u, v = u - np.float32(0.5), v - np.float32(0.5)
    x0, y0 = int(np.floor(u)), int(np.floor(v))
    wx0, wx1, wx2, wx3 = _taps(u - np.float32(x0))
    wy0, wy1, wy2, wy3 = _taps(v - np.float32(y0))
    r = g = b = np.float32(0)
    xa, xb, xc, xd = max(x0 - 1, 0), max(x0, 0), min(x0 + 1, X - 1), min(x0 + 2, X - 1)
    for n in range(4):
        wy = wy0 if n == 0 else wy1 if n == 1 else wy2 if n == 2 else wy3
        row = picture[min(max(y0 - 1 + n, 0), Y - 1)]
        r += wy * (wx0 * row[xa, 0] + wx1 * row[xb, 0] + wx2 * row[xc, 0] + wx3 * row[xd, 0])
        g += wy * (wx0 * row[xa, 1] + wx1 * row[xb, 1] + wx2 * row[xc, 1] + wx3 * row[xd, 1])
        b += wy * (wx0 * row[xa, 2] + wx1 * row[xb, 2] + wx2 * row[xc, 2] + wx3 * row[xd, 2])
    out[0], out[1], out[2] = _rounded(r), _rounded(g), _rounded(b)


@compiled
def _taps(f):
    a, one = np.float32(-0.75), np.float32(1)
    two, three, four, five, eight = (
        np.float32(2),
        np.float32(3),
        np.float32(4),
        np.float32(5),
        np.float32(8),
    )
    g, far, near = one - f, f + one, two - f
    return (
        ((a * far - five * a) * far + eight * a) * far - four * a,
        ((a + two) * f - (a + three)) * f * f + one,
        ((a + two) * g - (a + three)) * g * g + one,
        ((a * near - five * a) * near + eight * a) * near - four * a,
    )


@compiled
def _rounded(c):
    """To the nearest of 0 … 255, halves to even."""
    return np.float32(np.rint(min(max(c, np.float32(0)), np.float32(255))))


@compiled
def _fill(color, weight, rgb):
    """Blurred pyramid behind unknown pixels: averages down, bilinear up."""
    Y, X = weight.shape
    if _all_known(weight):
        for y in range(Y):
            for x in range(X):
                for k in range(3):
                    rgb[y, x, k] = np.uint8(color[y, x, k])
        return
    colors, weights = [color], [weight]
    while colors[-1].shape[0] % 2 == 0 and colors[-1].shape[1] % 2 == 0:
        c, w = _halved(colors[-1], weights[-1])
        colors.append(c)
        weights.append(w)
    coarse = _mean(colors[-1], weights[-1])
    for level in range(len(colors) - 1, 0, -1):
        c, w = colors[level], weights[level]
        if level < len(colors) - 1:
            for y in range(w.shape[0]):
                for x in range(w.shape[1]):
                    for k in range(3):
                        c[y, x, k] += (1 - w[y, x]) * _between_four(coarse, y, x, k)
        else:
            for y in range(w.shape[0]):
                for x in range(w.shape[1]):
                    for k in range(3):
                        c[y, x, k] += (1 - w[y, x]) * coarse[0, 0, k]
        coarse = c
    whole = len(colors) == 1
    for y in range(Y):
        for x in range(X):
            for k in range(3):
                c0 = color[y, x, k]
                if weight[y, x] == 0:
                    c0 = _rounded(coarse[0, 0, k] if whole else _between_four(coarse, y, x, k))
                rgb[y, x, k] = np.uint8(c0)


@compiled
def _all_known(weight):
    for y in range(weight.shape[0]):
        for x in range(weight.shape[1]):
            if weight[y, x] == 0:
                return False
    return True


@compiled
def _halved(color, weight):
    Y, X = weight.shape[0] // 2, weight.shape[1] // 2
    c, w = np.empty((Y, X, 3), np.float32), np.empty((Y, X), np.float32)
    quarter = np.float32(0.25)
    for y in range(Y):
        for x in range(X):
            a, b = 2 * y, 2 * x
            w[y, x] = quarter * (weight[a, b] + weight[a, b + 1] + weight[a + 1, b] + weight[a + 1, b + 1])
            for k in range(3):
                c[y, x, k] = quarter * (
                    color[a, b, k] + color[a, b + 1, k] + color[a + 1, b, k] + color[a + 1, b + 1, k]
                )
    return c, w


@compiled
def _mean(color, weight):
    """[1, 1, 3] of everything known; grey if nothing is."""
    out = np.empty((1, 1, 3), np.float32)
    total = np.float32(0)
    for y in range(weight.shape[0]):
        for x in range(weight.shape[1]):
            total += weight[y, x]
    for k in range(3):
        s = np.float32(0)
        for y in range(weight.shape[0]):
            for x in range(weight.shape[1]):
                s += color[y, x, k]
        out[0, 0, k] = s / total if total > 0 else _grey
    return out


@compiled
def _between_four(coarse, y, x, k):
    """Bilinear value of a map of half the size at pixel y, x; the border repeats."""
    Y, X = coarse.shape[:2]
    a, b = y // 2, x // 2
    c = min(a + 1, Y - 1) if y % 2 else max(a - 1, 0)
    d = min(b + 1, X - 1) if x % 2 else max(b - 1, 0)
    near, far = np.float32(0.75), np.float32(0.25)
    return near * (near * coarse[a, b, k] + far * coarse[a, d, k]) + far * (
        near * coarse[c, b, k] + far * coarse[c, d, k]
    )


def compile_now() -> None:
    """Compile, or read what was compiled before; about 8 s the first time on a machine."""
    eye = torch.eye(4, dtype=torch.float64).expand(1, 1, 4, 4)
    lens = torch.tensor([20.0, 20.0, 16.0, 16.0], dtype=torch.float64).expand(1, 1, 4)
    blank = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    sources = Sources(
        rgb=torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8),
        inverse_depth=blank.half(),
        generation=blank,
        poses=eye,
        intrinsics=lens,
        index=torch.zeros(1, 1, dtype=torch.int64),
    )
    warp(sources, eye, lens)
