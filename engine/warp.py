"""Draw remembered pictures into coming views: the definition, in plain torch, batched, on any device.

    p = M (x, y, 1, d)      a pixel x, y of inverse depth d, seen by another camera, M = [K' R K⁻¹ | K' t]
    (x', y', d') = (p₀, p₁, d) / p₂

which holds for the sky (d = 0) too. Colour is never splatted: the sources' inverse depth is (2×2 pixels, one if it
lands on a centre; nearest wins, holes of up to two pixels closed), and every pixel of a view then looks its surface
up in each source, where the depth must agree. Of those that agree the least magnified and least often redrawn is
taken. Where two surfaces meet in a source, the depth of the very pixel must agree, and as the farther one's pixels
have some of the nearer one's colour, they are taken only where the view has the nearer one beside them too.
`engine/warp_cpu.py` is the same as a native loop, `engine/warp_gpu.py` by GPU kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import MEMORY, MemoryConfig
from engine.values import mapped

NEAR = 1e-4  # p₂ below which a point is not in front of the camera
EDGE = (
    0.3,
    0.02,
)  # share of the nearer and 1/m: between depths that differ by more, and near neither, is no surface
SPREAD = (-0.49, 0.49)  # a splatted point covers the pixels that these offsets lead to: one if on its centre
STRICT = 0.2  # share of the nearer: where surfaces meet, a pixel that differs by more shows another one
KEEP = 0.05  # share: where a source's inverse depth differs by no more from the splat's, it is taken instead
GREY = 128  # where nothing at all is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """S pictures with depth, of each of B flights."""

    rgb: Tensor  # uint8 [B, S, Y, X, 3]
    inverse_depth: (
        Tensor  # fp16 [B, S, Y, X], 1/m along the optical axis, 0: sky, below 0: nothing to be drawn
    )
    generation: Tensor  # uint8 [B, S, Y, X]: how often the surface was redrawn since it was first seen
    poses: Tensor  # fp64 [B, S, 4, 4] camera-to-world
    intrinsics: Tensor  # fp64 [B, S, 4] fx, fy, cx, cy in pixels
    index: Tensor  # int64 [B, S] pixel frame; -1: nothing here

    @property
    def used(self) -> Tensor:
        """[B, S] bool."""
        return self.index >= 0

    def take(self, slots: Tensor) -> Sources:
        """Those in slots [B, n] of each flight."""
        flight = torch.arange(len(slots), device=slots.device)[:, None]
        return Sources(**{f.name: getattr(self, f.name)[flight, slots] for f in fields(self)})

    def only(self, keep: Tensor) -> Sources:
        """The same with nothing where keep [B, S] is false."""
        return replace(self, index=self.index.masked_fill(~keep, -1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Warped:
    """What the sources show in V views. Pixels outside the mask are filled from a blurred pyramid."""

    rgb: Tensor  # uint8 [B, V, Y, X, 3]
    mask: Tensor  # uint8 [B, V, Y, X], 1: known
    magnification: Tensor  # fp32 [B, V, Y, X]: size here over size in the source; 0 where unknown
    generation: Tensor  # uint8 [B, V, Y, X]: of a frame drawn from this; 0 where unknown
    inverse_depth: Tensor  # fp32 [B, V, Y, X]: 1/m along the view's optical axis; 0 where unknown

    def last(self) -> Warped:
        """The last view alone."""
        return mapped(self, lambda x: x[:, -1:])


def between(poses: Tensor, intrinsics: Tensor, other_poses: Tensor, other_intrinsics: Tensor) -> Tensor:
    """M of the module's first lines, from cameras [..., 4, 4] to other cameras, broadcasting: fp32 [..., 3, 4]."""
    rays = _from_pixels(poses.double(), intrinsics.double())
    pixels = _to_pixels(other_poses.double(), other_intrinsics.double())
    return (pixels[..., None] * rays[..., None, :, :]).sum(-2).float()


def _from_pixels(pose: Tensor, intrinsics: Tensor) -> Tensor:
    """A pixel (x, y, 1, d) of a camera to its point of the world, times d: [..., 4, 4]."""
    focal, centre = intrinsics[..., None, :2], intrinsics[..., None, 2:]
    across = pose[..., :2] / focal
    ahead = pose[..., 2:3] - (across * centre).sum(-1, keepdim=True)
    return torch.cat([across, ahead, pose[..., 3:]], dim=-1)


def _to_pixels(pose: Tensor, intrinsics: Tensor) -> Tensor:
    """A point of the world to a camera's (p₀, p₁, p₂): [..., 3, 4]."""
    focal, centre = intrinsics[..., :2, None], intrinsics[..., 2:, None]
    R, t = pose[..., :3, :3], pose[..., :3, 3:]
    seen = torch.cat([R.mT, -(R * t).sum(-2)[..., None]], dim=-1)
    ahead = seen[..., 2:, :]
    return torch.cat([seen[..., :2, :] * focal + ahead * centre, ahead], dim=-2)


def project(M: Tensor, x: Tensor, y: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p₀, p₁, p₂ of pixels x, y of inverse depth d. M: [..., 3, 4]; the others broadcast against [..., 1]."""
    m = M[..., None]
    p0, p1, p2 = (
        m[..., i, 0, :] * x + m[..., i, 1, :] * y + m[..., i, 2, :] + m[..., i, 3, :] * d for i in range(3)
    )
    return p0, p1, p2


def centres(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x and y of all pixel centres, each [Y·X]."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    return x.flatten(), y.flatten()


def around(d: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest of the 3×3 pixels around each, [N, Y, X]."""
    return -F.max_pool2d(-d[:, None], 3, 1, 1)[:, 0], F.max_pool2d(d[:, None], 3, 1, 1)[:, 0]


def warp(sources: Sources, poses: Tensor, intrinsics: Tensor, *, config: MemoryConfig = MEMORY) -> Warped:
    """Draw the sources into the views of poses [B, V, 4, 4] and intrinsics [B, V, 4]. About 90 bytes · B·S·V·Y·X beside."""
    B, S, Y, X = sources.inverse_depth.shape
    depth = sources.inverse_depth.float().flatten(0, 1)  # [B·S, Y, X]
    low, high = (d.view(B, S, Y * X) for d in around(depth))
    there = (sources.poses[:, :, None], sources.intrinsics[:, :, None])
    here = (poses[:, None], intrinsics[:, None])
    z, top = _splat(depth.view(B, S, -1), low, high, between(*there, *here), sources.used, config, (Y, X))
    V = poses.shape[1]
    lens = sources.intrinsics[:, :, None, 0] / intrinsics[:, None, :, 0].double()  # fx of source over view
    z, top, back = z.flatten(2), top.flatten(2), between(*here, *there)
    where, ok, edge, cost, magnification = _look_up(
        z, top, low, high, sources, back, 1 / lens.float(), config, (Y, X)
    )
    best = cost.argmin(dim=1, keepdim=True)  # [B, 1, V, N]
    mask = ok.any(dim=1)
    picture = _sampled(sources.rgb, where, (Y, X)).gather(1, best[..., None].expand(-1, -1, -1, -1, 3))[:, 0]
    age = sources.generation.view(B, S, Y * X).gather(2, _nearest(where, (Y, X)).flatten(2)).view(B, S, V, -1)
    age = (age.gather(1, best)[:, 0].int() + 1).clamp_max(255) * mask
    carried = torch.where(edge, z[:, None], _carried(z, depth, where, back, config, (Y, X)))
    rgb = fill(picture.view(B * V, Y, X, 3), mask.view(B * V, Y, X))
    return Warped(
        rgb=rgb.view(B, V, Y, X, 3),
        mask=mask.view(B, V, Y, X).to(torch.uint8),
        magnification=(magnification.gather(1, best)[:, 0] * mask).view(B, V, Y, X),
        generation=age.view(B, V, Y, X).to(torch.uint8),
        inverse_depth=(carried.gather(1, best)[:, 0] * mask).view(B, V, Y, X),
    )


def _splat(
    d: Tensor, low: Tensor, high: Tensor, M: Tensor, used: Tensor, config: MemoryConfig, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Nearest inverse depth of all sources in every view, small holes closed, and the largest beside each pixel.

    Both [B, V, Y, X], -1: nothing.
    d, low, high: [B, S, Y·X].  M: [B, S, V, 3, 4].  Maxima are taken of the bits, which order like the numbers ≥ 0.
    """
    (Y, X), B, V = size, len(M), M.shape[2]
    x, y = centres(Y, X, d.device)
    p0, p1, p2 = project(M, x, y, d[:, :, None])  # [B, S, V, N]
    keep = (used[..., None] & (d >= 0) & ~_mixed(d, low, high, config))[:, :, None] & (p2 > NEAR)
    p2 = torch.where(keep, p2, 1.0)
    # a ring two pixels wide catches what falls outside
    left, right = (
        torch.where(keep, (p0 / p2 + shift).floor().clamp(-2, X + 1), -2.0).long() + 2 for shift in SPREAD
    )
    up, down = (
        torch.where(keep, (p1 / p2 + shift).floor().clamp(-2, Y + 1), -2.0).long() + 2 for shift in SPREAD
    )
    bits = (d[:, :, None] / p2).transpose(1, 2).reshape(B * V, -1).view(torch.int32)
    buffer = torch.full((B * V, (Y + 4) * (X + 4)), -1, dtype=torch.int32, device=d.device)
    for row, column in product((up, down), (left, right)):
        at = (row * (X + 4) + column).transpose(1, 2).reshape(B * V, -1)
        buffer.scatter_reduce_(1, at, bits, "amax")
    bits = buffer.view(B * V, Y + 4, X + 4)[:, 2:-2, 2:-2]
    z = torch.where(bits < 0, -1.0, bits.contiguous().view(torch.float32))
    closed, top = around(F.max_pool2d(z[:, None], 3, 1, 1)[:, 0])
    return closed.view(B, V, Y, X), top.view(B, V, Y, X)


def _apart(low: Tensor, high: Tensor) -> Tensor:
    """Whether these inverse depths are of two surfaces."""
    return high - low > (EDGE[0] * high).clamp_min(EDGE[1])


def _mixed(d: Tensor, low: Tensor, high: Tensor, config: MemoryConfig) -> Tensor:
    """Pixels in which a decoder has averaged two surfaces."""
    t, e = config.tolerance, config.sky
    return _apart(low, high) & (d * (1 + t) + e < high) & (d * (1 - t) - e > low)


def _look_up(
    z: Tensor,
    top: Tensor,
    low: Tensor,
    high: Tensor,
    sources: Sources,
    M: Tensor,
    lens: Tensor,
    config: MemoryConfig,
    size: tuple[int, int],
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor, Tensor]:
    """Where each source shows the surfaces z [B, V, N] of the views. top [B, V, N]: the nearest beside each.

    M: [B, S, V, 3, 4] view to source.  lens: [B, S, V] focal length of view over source.
    Returns pixels (u, v), whether the source has that surface there, whether two meet there, cost and magnification,
    each [B, S, V, N].
    """
    (Y, X), t, e = size, config.tolerance, config.sky
    x, y = centres(Y, X, z.device)
    p0, p1, p2 = project(M, x, y, z[:, None])
    ahead = (p2 > NEAR) & (z >= 0)[:, None] & sources.used[..., None, None]
    p2 = torch.where(ahead, p2, 1.0)
    u, v, d = p0 / p2, p1 / p2, z[:, None] / p2
    at = _nearest((u, v), size).flatten(2)

    def look(table: Tensor) -> Tensor:
        return table.gather(2, at).view(d.shape)

    ok = ahead & (u >= 0) & (u <= X) & (v >= 0) & (v <= Y)
    own, low, high = look(sources.inverse_depth.float().flatten(2)), look(low), look(high)
    ok = ok & (d >= low * (1 - t) - e) & (d <= high * (1 + t) + e)
    edge = _apart(low, high)
    ok = ok & (~edge | ((own - d).abs() <= STRICT * torch.maximum(own, d) + e))
    behind = edge & (own < (low + high) / 2)  # its colour has some of the nearer surface's
    ok = ok & (~behind | _apart(z, top)[:, None])
    magnification = lens[..., None] * p2
    worn = (1 + look(sources.generation.flatten(2)).float()).sqrt()
    cost = torch.where(ok, magnification.clamp_min(1) * worn, torch.inf)
    return (u, v), ok, edge, cost, magnification


def _carried(
    z: Tensor,
    depth: Tensor,
    where: tuple[Tensor, Tensor],
    M: Tensor,
    config: MemoryConfig,
    size: tuple[int, int],
) -> Tensor:
    """Inverse depth in the views of what depth [B·S, Y, X] has at `where`; z where that is another surface.

    Inverts d = z / p₂ = z / (a + b z). The splat's is the nearest of 2×2 pixels, this is exact.
    """
    x, y = centres(*size, z.device)
    _, _, a = project(M, x, y, torch.zeros_like(x))
    d = _sampled(depth[..., None].view(*M.shape[:2], *size, 1), where, size, mode="bilinear")[..., 0]
    scale = 1 - d * M[..., 2, 3, None]
    ahead = scale > NEAR
    carried = d * a / torch.where(ahead, scale, 1.0)
    z = z[:, None]
    return torch.where(ahead & ((carried - z).abs() <= KEEP * z + config.sky), carried, z)


def _nearest(where: tuple[Tensor, Tensor], size: tuple[int, int]) -> Tensor:
    """Flat index of the pixel that u, v lie in."""
    (Y, X), (u, v) = size, where
    return v.floor().clamp(0, Y - 1).long() * X + u.floor().clamp(0, X - 1).long()


def _sampled(
    table: Tensor, where: tuple[Tensor, Tensor], size: tuple[int, int], *, mode: str = "bicubic"
) -> Tensor:
    """table [B, S, Y, X, C] at pixels u, v [B, S, V, N], cubic with a = -0.75: fp32 [B, S, V, N, C]."""
    (Y, X), (u, v) = size, where
    grid = torch.stack([u * (2 / X) - 1, v * (2 / Y) - 1], dim=-1).clamp(-2, 2)
    picture = table.flatten(0, 1).movedim(-1, 1).float()
    out = F.grid_sample(picture, grid.flatten(0, 1), mode=mode, padding_mode="border", align_corners=False)
    return out.movedim(1, -1).unflatten(0, table.shape[:2])


def fill(picture: Tensor, mask: Tensor) -> Tensor:
    """Put a blurred pyramid of the known pixels behind the unknown ones.

    picture: fp32 [N, Y, X, 3], 0 … 255.  mask: [N, Y, X] bool.  Returns uint8. Levels halve while both sides are even.
    """
    w = mask[:, None].float()
    c = picture.clamp(0, 255).round().movedim(-1, 1) * w
    levels = [(c, w)]
    while not (c.shape[-1] % 2 or c.shape[-2] % 2):
        c, w = F.avg_pool2d(c, 2), F.avg_pool2d(w, 2)
        levels.append((c, w))
    total = w.mean(dim=(2, 3), keepdim=True)
    mean = torch.where(total > 0, c.mean(dim=(2, 3), keepdim=True) / total.clamp_min(1e-9), GREY)
    out = mean.expand_as(c)
    for c, w in reversed(levels):
        if out.shape[-1] != c.shape[-1]:
            out = F.interpolate(out, scale_factor=2.0, mode="bilinear", align_corners=False)
        out = c + (1 - w) * out
    return out.round().clamp(0, 255).to(torch.uint8).movedim(1, -1)
