"""What was seen is shown as it was seen: decoded frames with the detail and the depth of what the memory draws there.

A model that redraws a place every half second washes it out, a little each time. So it decides what is there and in
which light, which is all it is needed for where something is remembered, and the memory adds what is finer:

    shown = decoded + w · (e - low(e)),   e = warped - decoded

with low(e) the mean of e over cells of `BROAD` pixels, drawn between, less the share of a cell that is seen at first hand:
hardly redrawn since it was first seen, and from hardly farther than now. There the memory knows the light too. The weight w
falls where the memory has stretched or often redrawn what it shows, and where the two disagree even in the mean of small
cells: there the model has found something else to be true. It falls too where the sky changes from one picture to another,
so that two lights meet softly and not along a line. Depth is taken from the memory, so that places stay where they are,
unless what was redrawn before contradicts the decoder outright: a rest of sky at the distance of a tree, say. There the
decoder is right, in colour too, or torn rests would be drawn again and again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import MEMORY
from engine.warp import Warped
from kernels.composite_frames import composite_frames
from kernels.program import suits

BROAD, NARROW = 32, 4  # pixels: cells whose mean the model decides, and cells in which both must agree
DOUBT = 0.8  # mean difference of a narrow cell, of 2, at which the weight has fallen to 1/e
LARGE = (1.5, 3.0)  # magnifications from which the weight falls, and at which it is 0
WORN = (2.0, 7.0)  # the same of generations
CLOSE, FRESH = (1.2, 2.0), (1.0, 3.0)  # the same two, from and at which it is not at first hand
APART, FAR = (
    0.5,
    0.004,
)  # inverse depths contradict if they differ by this share of the larger and by this, 1/m
JUMP = 0.03  # of magnification, in a narrow cell of sky, from one picture to another
REDRAWN = 2  # generations from which a memory that contradicts the decoder is wrong


def composite(rgb: Tensor, inverse_depth: Tensor, seen: Warped) -> tuple[Tensor, Tensor]:
    """Frames [B, V, 3, Y, X] in [-1, 1] and their inverse depth [B, V, Y, X], both decoded, with what was seen of them.

    Returns the same, colours as fp32, or fp64 if given so.
    """
    views, dtype = rgb.shape[:2], torch.promote_types(rgb.dtype, torch.float32)
    known = seen.mask.flatten(0, 1)[:, None].to(dtype)  # [B·V, 1, Y, X]
    decoded = rgb.flatten(0, 1).to(dtype)
    e = (seen.rgb.flatten(0, 1).movedim(-1, 1).to(dtype) / 127.5 - 1 - decoded) * known
    size, age = (x.flatten(0, 1)[:, None].to(dtype) for x in (seen.magnification, seen.generation))
    cells = _sums(e, NARROW), _sums(known, NARROW)
    fresh = _sums(known * _falling(size, CLOSE) * _falling(age, FRESH), NARROW)
    light, all_known, fresh = (_sums(x, BROAD // NARROW) for x in (*cells, fresh))
    light = _mean(light, all_known) * (1 - _mean(fresh, all_known))
    off = _mean(*cells).abs().mean(dim=1, keepdim=True)
    sky = known * (seen.inverse_depth.flatten(0, 1)[:, None] <= MEMORY.sky)
    seam = (_spread(size, sky) > JUMP) | (_spread(age, sky) > 0)
    agree = (-((off / DOUBT) ** 2)).exp() * (1 - F.max_pool2d(seam.to(dtype), 3, 1, 1))
    w = known * _falling(size, LARGE) * _falling(age, WORN) * _between(agree, e)
    w = torch.minimum(w, F.avg_pool2d(w, 3, 1, 1, count_include_pad=False))  # no hard borders
    told, found = seen.inverse_depth.to(dtype), inverse_depth.to(dtype)
    wrong = (told - found).abs() > APART * torch.maximum(told, found) + FAR
    wrong &= (seen.mask > 0) & (seen.generation >= REDRAWN)
    w = w * (1 - 3 * F.avg_pool2d(wrong.flatten(0, 1)[:, None].to(dtype), 3, 1, 1)).clamp_min(0)
    out = (decoded + w * (e - _between(light, e))).clamp(-1, 1)
    depth = torch.where((seen.mask > 0) & ~wrong, seen.inverse_depth.to(inverse_depth.dtype), inverse_depth)
    return out.unflatten(0, views), depth


def composite_bytes(rgb: Tensor, inverse_depth: Tensor, seen: Warped) -> tuple[Tensor, Tensor]:
    """The same with colours as they are shown, uint8 [B, V, Y, X, 3]; by kernels where they can be built."""
    if not suits(rgb):
        out, depth = composite(rgb, inverse_depth, seen)
        return to_bytes(out), depth
    return composite_frames(
        rgb,
        inverse_depth,
        seen=seen.rgb,
        mask=seen.mask,
        magnification=seen.magnification,
        generation=seen.generation,
        seen_depth=seen.inverse_depth,
        cells=(BROAD, NARROW),
        doubt=DOUBT,
        close=CLOSE,
        fresh=FRESH,
        large=LARGE,
        worn=WORN,
        apart=(APART, FAR),
        seams=(MEMORY.sky, JUMP),
        redrawn=REDRAWN,
    )


def to_bytes(rgb: Tensor) -> Tensor:
    """[..., 3, Y, X] in [-1, 1] → uint8 [..., Y, X, 3]."""
    x = rgb.to(torch.promote_types(rgb.dtype, torch.float32))
    return ((x + 1) * 127.5).round().movedim(-3, -1).to(torch.uint8)


def _falling(x: Tensor, ends: tuple[float, float]) -> Tensor:
    """1 up to the first end, 0 from the second."""
    return ((ends[1] - x) / (ends[1] - ends[0])).clamp(0, 1)


def _sums(x: Tensor, cell: int) -> Tensor:
    """Of square cells, those at the border cut. x: [N, C, Y, X]. Sums of sums are what a GPU has enough threads for."""
    return F.avg_pool2d(x, cell, ceil_mode=True, divisor_override=1)


def _spread(x: Tensor, part: Tensor) -> Tensor:
    """From the lowest to the highest x in a part of small cells, below 0 where a cell has nothing of it. x from 0 to 1000."""
    high, low = (F.max_pool2d(torch.where(part > 0, y, -1000), NARROW, ceil_mode=True) for y in (x, -x))
    return high + low


def _mean(e: Tensor, known: Tensor) -> Tensor:
    """Means over what is known of cells of which these are the sums, 0 where nothing is."""
    return e / known.clamp_min(1)


def _between(cells: Tensor, like: Tensor) -> Tensor:
    """Values of cells at every pixel."""
    return F.interpolate(cells, size=like.shape[-2:], mode="bilinear", align_corners=False)
