"""What was seen is shown as it was seen: decoded frames with the detail and the depth of what the memory draws there.

A model that redraws a place every half second washes it out, a little each time. So it decides what is there and in
which light, which is all it is needed for where something is remembered, and the memory adds what is finer:

    shown = decoded + w · (e - low(e)),   e = warped - decoded

with low(e) the mean of e over cells of `BROAD` pixels, drawn between, less the share of a cell that is seen at first hand:
hardly redrawn since it was first seen, and from hardly farther than now. There the memory knows the light too. The weight w
falls where the memory has stretched or often redrawn what it shows, and where the two disagree even in the mean of small
cells: there the model has found something else to be true. It falls too where one picture ends and another begins, if the
two differ in light: a patchwork of hazes, each seen from elsewhere, is no detail. In the sky it falls well beyond there, so
that no strip of one light is left standing between two others. Depth is taken from the memory, so that places stay where they are,
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
JUMP = 0.03  # of magnification, in a narrow cell of sky, from one picture to another; generations tell pictures apart too
TORN = 0.06, 0.03  # mean difference of a narrow cell from its broad one, there, for 1/e; in the sky
BESIDE, ABOVE = 3, 7  # narrow cells: side of the square around a border in which it counts; in the sky
OLD = 4  # generations: where nothing is as old, there are no borders to speak of; the sky has some from the first
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
    mean, light = _mean(*cells), _mean(light, all_known)
    off = mean.abs().mean(dim=1, keepdim=True)
    rough = (mean - _each(light, mean)).abs().mean(dim=1, keepdim=True)
    light = light * (1 - _mean(fresh, all_known))
    sky = known * (seen.inverse_depth.flatten(0, 1)[:, None] <= MEMORY.sky)
    above = torch.cat((_ends(size, sky), _ends(age, sky)), dim=1)
    agree = (-((off / DOUBT) ** 2)).exp() * whole(rough, _ends(age, known), above)
    w = known * _falling(size, LARGE) * _falling(age, WORN) * _between(agree, e)
    w = torch.minimum(w, F.avg_pool2d(w, 3, 1, 1, count_include_pad=False))  # no hard borders
    told, found = seen.inverse_depth.to(dtype), inverse_depth.to(dtype)
    wrong = (told - found).abs() > APART * torch.maximum(told, found) + FAR
    wrong &= (seen.mask > 0) & (seen.generation >= REDRAWN)
    w = w * (1 - 3 * F.avg_pool2d(wrong.flatten(0, 1)[:, None].to(dtype), 3, 1, 1)).clamp_min(0)
    out = (decoded + w * (e - _between(light, e))).clamp(-1, 1)
    depth = torch.where((seen.mask > 0) & ~wrong, seen.inverse_depth.to(inverse_depth.dtype), inverse_depth)
    return out.unflatten(0, views), depth


def whole(rough: Tensor, ages: Tensor, above: Tensor) -> Tensor:
    """What is left of the weight of narrow cells [N, 1, rows, columns] beside borders between pictures, 0 to 1.

    rough: how far the light of each is from that of its broad cell.  ages: [N, 2, ...], the highest generation in it and
    the lowest one's negative.  above: [N, 4, ...], the same of the sky's magnification and generation there.
    """
    high, low = ages.split(1, dim=1)
    border = F.max_pool2d(((high + low > 0) & (high >= OLD)).to(rough.dtype), BESIDE, 1, BESIDE // 2)
    large, small, high, low = above.split(1, dim=1)
    seam = ((large + small > JUMP) | (high + low > 0)).to(rough.dtype)
    seam, roughest = F.max_pool2d(torch.cat((seam, rough), dim=1), ABOVE, 1, ABOVE // 2).split(1, dim=1)
    seam = F.avg_pool2d(seam, 3, 1, 1, count_include_pad=False)
    return (-border * (rough / TORN[0]) ** 2).exp() * (1 - seam * (1 - (-((roughest / TORN[1]) ** 2)).exp()))


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
        sky=MEMORY.sky,
        redrawn=REDRAWN,
        whole=whole,
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


def _ends(x: Tensor, part: Tensor) -> Tensor:
    """The highest x [N, 1, Y, X] in a part of small cells and the lowest one's negative, -1000 where there is nothing of it."""
    both = torch.cat((x, -x), dim=1)
    return F.max_pool2d(torch.where(part > 0, both, -1000), NARROW, ceil_mode=True)


def _mean(e: Tensor, known: Tensor) -> Tensor:
    """Means over what is known of cells of which these are the sums, 0 where nothing is."""
    return e / known.clamp_min(1)


def _each(broad: Tensor, narrow: Tensor) -> Tensor:
    """The value of its broad cell for every narrow one."""
    at = F.interpolate(broad, scale_factor=BROAD // NARROW)
    return at[..., : narrow.shape[-2], : narrow.shape[-1]]


def _between(cells: Tensor, like: Tensor) -> Tensor:
    """Values of cells at every pixel."""
    return F.interpolate(cells, size=like.shape[-2:], mode="bilinear", align_corners=False)
