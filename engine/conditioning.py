"""What the model is told of the camera: ray matrices (UCPE), Plücker rays and the anchor that poses refer to.

Source: `P` is the ray-relative camera encoding of the SANA-WM release (its "UCPE single path"), the 48-channel
map its chunk Plücker rays; cells are sampled at integer coordinates, as released, without a half-cell shift.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.camera import Pose
from engine.config import ModelConfig

Grid = tuple[int, int]  # latent rows and columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """What the model is told of the camera, computed once per chunk (or per training clip)."""

    P: Tensor  # [B, F, h*w, 4, 4] world (anchor) -> ray, translations in model units
    P_inv: Tensor  # [B, F, h*w, 4, 4] its closed-form inverse
    plucker: Tensor  # [B, 48, F, h, w]
    frame: int  # absolute index of the first latent frame (rotary time)
    reanchor: Tensor | None  # [B, F, 4, 4] rigid G, applied to memory before frame f; None: the anchor stays

    def part(self, start: int, stop: int) -> Conditioning:
        """Latent frames `start` … `stop`-1 of this one, counted from its own first frame."""
        G = self.reanchor
        return replace(
            self,
            P=self.P[:, start:stop],
            P_inv=self.P_inv[:, start:stop],
            plucker=self.plucker[:, :, start:stop],
            frame=self.frame + start,
            reanchor=None if G is None else G[:, start:stop],
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """The same on another device or in another floating dtype."""
        G = self.reanchor
        return replace(
            self,
            P=self.P.to(device, dtype),
            P_inv=self.P_inv.to(device, dtype),
            plucker=self.plucker.to(device, dtype),
            reanchor=None if G is None else G.to(device, dtype),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What a stream remembers of its camera between chunks. World coordinates, metres, float64."""

    pose: Tensor  # [B, 4, 4] the frame that poses are relative to
    camera: Tensor  # [B, 4, 4] last camera of the chunk before

    def to(self, like: Tensor) -> Anchor:
        """The same where another tensor is, in its dtype."""
        return Anchor(pose=self.pose.to(like), camera=self.camera.to(like))


# --- rigid motions ---------------------------------------------------------------------------------------------


def pose_tensor(poses: Sequence[Pose]) -> Tensor:
    """Stack poses of the rim into [1, N, 4, 4] float64, as `condition_chunk` takes them."""
    return torch.from_numpy(np.stack([p.matrix for p in poses]))[None]


def rigid_inverse(m: Tensor) -> Tensor:
    """Invert rigid matrices [..., 4, 4] in closed form: rotation transposed, translation -Rᵀt."""
    Rt = m[..., :3, :3].mT
    return _rigid(Rt, -(Rt @ m[..., :3, 3:]))


def relative_poses(poses: Tensor) -> Tensor:
    """Express camera-to-world [B, P, 4, 4] relative to the first one, which becomes exactly the identity."""
    rel = rigid_inverse(poses[:, :1]) @ poses
    eye = torch.eye(4, dtype=rel.dtype, device=rel.device).expand_as(rel[:, :1])
    return torch.cat([eye, rel[:, 1:]], dim=1)


def upright(pose: Tensor) -> Tensor:
    """Keep position and yaw of camera-to-world [..., 4, 4]; drop pitch and roll. Always rigid."""
    yaw = torch.atan2(pose[..., 0, 2], pose[..., 2, 2])
    c, s, o, i = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    R = torch.stack([c, o, s, o, i, o, -s, o, c], dim=-1).unflatten(-1, (3, 3))
    return _rigid(R, pose[..., :3, 3:])


def _rigid(R: Tensor, t: Tensor) -> Tensor:
    """R [..., 3, 3] and t [..., 3, 1] as [..., 4, 4]."""
    last = torch.eye(4, dtype=R.dtype, device=R.device)[3]  # a list would have to be sent to a GPU
    return torch.cat([torch.cat([R, t], dim=-1), last.expand(*R.shape[:-2], 1, 4)], dim=-2)


def _scaled(pose: Tensor, scale: float) -> Tensor:
    """Translations times `scale`: metres to model units."""
    return _rigid(pose[..., :3, :3], pose[..., :3, 3:] * scale)


# --- rays ------------------------------------------------------------------------------------------------------


def cell_rays(intrinsics: Tensor, grid: Grid) -> Tensor:
    """Points at depth 1 behind each latent cell, camera axes: [..., 4] latent intrinsics -> [..., h, w, 3]."""
    fx, fy, cx, cy = intrinsics[..., None, None, :].unbind(-1)
    h, w = grid
    v = torch.arange(h, dtype=intrinsics.dtype, device=intrinsics.device)[:, None]
    u = torch.arange(w, dtype=intrinsics.dtype, device=intrinsics.device)
    x, y = torch.broadcast_tensors((u - cx) / fx, (v - cy) / fy)
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def ray_matrices(poses: Tensor, intrinsics: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """World-to-ray transform of each cell, and its inverse.

    poses: [B, F, 4, 4] relative camera-to-world.  intrinsics: [B, F, 4] latent.
    Returns P and P⁻¹, [B, F, h*w, 4, 4]: +z along the ray, +x across the camera's down axis. A ray that is not
    a number gets the identity.
    """
    cells = cell_rays(intrinsics, grid).flatten(-3, -2)  # [B, F, N, 3]
    r2 = cells[..., 0] ** 2 + cells[..., 1] ** 2
    gamma = (1 + r2).sqrt() / (1 + r2)  # this form of 1/sqrt(1 + r2) rounds as the release does
    R, t = poses[..., :3, :3], poses[..., :3, 3]
    z = _unit((cells * gamma[..., None]) @ R.mT)
    x = _unit(torch.linalg.cross(R[..., None, :, 1].expand_as(z), z))
    y = _unit(torch.linalg.cross(z, x))
    axes = torch.stack([x, y, z], dim=-2)  # [B, F, N, 3, 3] rows
    P = _rigid(axes, -(axes @ t[..., None, :, None]))
    eye = torch.eye(4, dtype=P.dtype, device=P.device)
    P = torch.where(P.isfinite().all(-1).all(-1)[..., None, None], P, eye)
    return P, rigid_inverse(P)


def plucker_rays(poses: Tensor, intrinsics: Tensor, grid: Grid, *, origin: Tensor, scale: float) -> Tensor:
    """Direction and moment of every ray of the pixel frames behind each latent frame.

    poses: [B, F, n, 4, 4].  intrinsics: [B, F, n, 4] latent.  origin: [B, F, 3], the point that moments refer to.
    Returns [B, 6n, F, h, w], channel 6j + (d_x, d_y, d_z, m_x, m_y, m_z), with m = scale·(t - origin) × d.
    """
    R, t = poses[..., :3, :3], poses[..., :3, 3]
    cells = cell_rays(intrinsics, grid).flatten(-3, -2)  # [B, F, n, N, 3]
    d = F.normalize(cells @ R.mT, dim=-1)
    arm = (t - origin[..., None, :]) * scale
    m = torch.linalg.cross(arm[..., None, :].expand_as(d), d)
    rays = torch.cat([d, m], dim=-1)  # [B, F, n, N, 6]
    return rays.permute(0, 2, 4, 1, 3).flatten(1, 2).unflatten(-1, grid)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def _focal_through_fov(f: Tensor, size: int) -> Tensor:
    """A focal length taken to a field of view and back, with the roundings of the release; exact otherwise."""
    fov = torch.rad2deg(2 * torch.atan(1 / (2 * f / size)))
    half = torch.deg2rad(fov / 2)
    return (size / 2) * half.cos() / half.sin().clamp_min(1e-6)


# --- the released layout: 20 numbers per latent frame ------------------------------------------------------------


def prepare(poses: Tensor, intrinsics: Tensor, *, grid: Grid, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Camera rows [B, F, 20] and Plücker map [B, 48, F, h, w] of a clip, float32, relative to its first frame.

    poses: [B, P, 4, 4] camera-to-world, P = 1 + 8k (the stride's frames).  intrinsics: [B, P, 4] pixels.
    """
    poses, intrinsics = _checked(poses, intrinsics, first=True, config=config)
    rel, lat = relative_poses(poses), latent_intrinsics(intrinsics, config)
    n = config.stride[0]
    rows = torch.cat([rel[:, ::n].flatten(-2), lat[:, ::n]], dim=-1)
    index = _pixel_frames(poses.shape[1], config=config, first=True, device=poses.device)
    zero = rel.new_zeros(*rows.shape[:2], 3)
    plucker = plucker_rays(rel[:, index], lat[:, index], grid, origin=zero, scale=1.0)
    return rows.float(), plucker.float()


def from_rows(
    camera_conditions: Tensor,
    chunk_plucker: Tensor,
    *,
    grid: Grid,
    config: ModelConfig,
    frame: int = 0,
    dtype: torch.dtype | None = None,
) -> Conditioning:
    """Conditioning from the released layout. The anchor never moves.

    camera_conditions: [B, F, 20], a camera-to-world 4×4 row by row, then fx, fy, cx, cy in latent cells.
    chunk_plucker: [B, 48, F, h, w].
    dtype: what the ray matrices are computed in, else that of the rows. The release computes them in bfloat16,
    which turns rays by up to 0.44°; with bfloat16 the operations here round in the same order.
    """
    if camera_conditions.shape[-1] != 20:
        raise ValueError(
            f"camera rows have {camera_conditions.shape[-1]} numbers: 16 of the pose and 4 intrinsics make 20"
        )
    want = (camera_conditions.shape[0], 6 * config.stride[0], camera_conditions.shape[1], *grid)
    if chunk_plucker.shape != want:
        raise ValueError(f"the Plücker map is {tuple(chunk_plucker.shape)}: these camera rows need {want}")
    rows = camera_conditions.to(dtype or camera_conditions.dtype)
    fx, fy, cx, cy = rows[..., 16:].unbind(-1)
    focal = _focal_through_fov(fx, grid[1]), _focal_through_fov(fy, grid[0])
    P, P_inv = ray_matrices(rows[..., :16].unflatten(-1, (4, 4)), torch.stack([*focal, cx, cy], dim=-1), grid)
    out = torch.promote_types(P.dtype, torch.float32)
    return Conditioning(P=P.to(out), P_inv=P_inv.to(out), plucker=chunk_plucker, frame=frame, reanchor=None)


# --- clips and chunks --------------------------------------------------------------------------------------------


def condition_clip(
    poses: Tensor, intrinsics: Tensor, *, grid: Grid, config: ModelConfig, radius: Tensor | None = None
) -> Conditioning:
    """Conditioning of whole clips, on the device of the poses.

    poses: [B, P, 4, 4] camera-to-world in metres, P = 1 + 8k.  intrinsics: [B, P, 4] pixels.
    radius: [B] metres at which each clip's anchor moves, else `config.anchor_radius`.
    """
    poses, intrinsics = _checked(poses, intrinsics, first=True, config=config)
    latents = (poses.shape[1] - 1) // config.stride[0] + 1
    limit = poses.new_full(poses.shape[:1], config.anchor_radius) if radius is None else radius.to(poses)
    stay, last = [0], 0  # pixel frame of the camera before each latent frame's chunk
    for f in range(1, latents):
        last = config.stride[0] * (f - 1) if _starts_chunk(f, config) else last
        stay.append(last)
    before = poses[:, stay]
    if config.anchor == "first":
        A = before[:, :1].expand_as(before)
        return _condition(poses, intrinsics, A, before, grid=grid, config=config, frame=0)
    A, moved = _anchors(before, limit)
    G = _scaled(rigid_inverse(A[:, 1:]) @ A[:, :-1], config.translation_scale)
    eye = torch.eye(4, dtype=poses.dtype, device=poses.device).expand_as(A)
    G = torch.where(moved[..., None, None], torch.cat([eye[:, :1], G], dim=1), eye)
    cond = _condition(poses, intrinsics, A, before, grid=grid, config=config, frame=0)
    return replace(cond, reanchor=G.float())


def _anchors(before: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The anchor [B, F, 4, 4] in force at every frame of a clip, and where it has moved, [B, F].

    before: [B, F, 4, 4], the camera that each frame's chunk starts from.  radius: [B] metres. As `_follow`, for a
    whole clip with few operations: only the choice goes frame by frame.
    """
    places, count = before[..., :3, 3], before.shape[1]
    here, which = places[:, 0], torch.zeros_like(radius, dtype=torch.int64)
    chosen = [which]
    for f in range(1, count):
        far = (places[:, f] - here).norm(dim=-1) > radius
        here = torch.where(far[:, None], places[:, f], here)
        which = torch.where(far, f, which)
        chosen.append(which)
    index = torch.stack(chosen, dim=1)
    moved = torch.cat([torch.zeros_like(index[:, :1], dtype=torch.bool), index.diff(dim=1) != 0], dim=1)
    anchors = upright(before).flatten(2).gather(1, index[..., None].expand(-1, -1, 16))
    return anchors.unflatten(2, (4, 4)), moved


def condition_chunk(
    anchor: Anchor | None, poses: Tensor, intrinsics: Tensor, *, frame: int, grid: Grid, config: ModelConfig
) -> tuple[Conditioning, Anchor]:
    """Conditioning of the next chunk of a stream, and the anchor to pass with the one after it.

    anchor: None for the chunk that starts the stream, else what the call before returned.
    poses: [B, n, 4, 4] camera-to-world in metres, float64: the chunk's pixel frames, 1 + 8k at the start, else 8k.
    intrinsics: [B, n, 4] pixels.  frame: index of the chunk's first latent frame.
    """
    if (anchor is None) != (frame == 0):
        raise ValueError(f"chunk at latent frame {frame}: pass an anchor with every chunk but the first")
    poses, intrinsics = _checked(poses, intrinsics, first=anchor is None, config=config)
    if anchor is None:
        pose, camera, G = _first_anchor(poses[:, 0], config), poses[:, 0], None
    elif config.anchor == "first":
        pose, camera, G = anchor.pose.to(poses), anchor.camera.to(poses), None
    else:
        camera = anchor.camera.to(poses)
        limit = poses.new_full(poses.shape[:1], config.anchor_radius)
        pose, G = _follow(anchor.pose.to(poses), camera, limit, config)
    latents = -(-poses.shape[1] // config.stride[0])
    A, C = (x[:, None].expand(-1, latents, -1, -1) for x in (pose, camera))
    cond = _condition(poses, intrinsics, A, C, grid=grid, config=config, frame=frame)
    if anchor is not None and G is not None and not torch.equal(pose, anchor.pose.to(poses)):
        eye = torch.eye(4, dtype=G.dtype, device=G.device).expand(G.shape[0], latents - 1, 4, 4)
        cond = replace(cond, reanchor=torch.cat([G[:, None], eye], dim=1).float())
    return cond, Anchor(pose=pose, camera=poses[:, -1])


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products of fp32 matrices in fp32, whatever a training allows: poses need their digits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@_full_precision()
def _condition(
    poses: Tensor,
    intrinsics: Tensor,
    anchors: Tensor,
    before: Tensor,
    *,
    grid: Grid,
    config: ModelConfig,
    frame: int,
) -> Conditioning:
    """All latent frames at once. anchors, before: [B, F, 4, 4], in force at each latent frame; float64 until the rays."""
    index = _pixel_frames(poses.shape[1], config=config, first=frame == 0, device=poses.device)  # [F, n]
    last = index[:, -1].clone()
    if frame == 0:
        last[:1].zero_()
    world = rigid_inverse(anchors)
    lat = latent_intrinsics(intrinsics, config).float()
    here = (world @ poses[:, last]).float()
    P, P_inv = ray_matrices(_scaled(here, config.translation_scale), lat[:, last], grid)
    rays = world[:, :, None] @ poses[:, index]
    origin = (world @ before)[..., :3, 3]
    if config.plucker_origin == "anchor":
        origin = torch.zeros_like(origin)
    rays = _rigid(rays[..., :3, :3], rays[..., :3, 3:] - origin[:, :, None, :, None]).float()
    zero = torch.zeros_like(origin, dtype=torch.float32)
    plucker = plucker_rays(rays, lat[:, index], grid, origin=zero, scale=config.moment_scale)
    return Conditioning(P=P, P_inv=P_inv, plucker=plucker, frame=frame, reanchor=None)


def _first_anchor(pose: Tensor, config: ModelConfig) -> Tensor:
    return pose if config.anchor == "first" else upright(pose)


def _follow(anchor: Tensor, camera: Tensor, radius: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Move the anchors [B, 4, 4] that the camera has left behind by more than `radius` [B] metres.

    Returns the anchors, and G in model units with X_new = G X_old: the identity where the anchor stays.
    """
    eye = torch.eye(4, dtype=anchor.dtype, device=anchor.device).expand_as(anchor)
    far = (camera[:, :3, 3] - anchor[:, :3, 3]).norm(dim=-1) > radius
    new = torch.where(far[:, None, None], upright(camera), anchor)
    G = _scaled(rigid_inverse(new) @ anchor, config.translation_scale)
    return new, torch.where(far[:, None, None], G, eye)


def _starts_chunk(f: int, config: ModelConfig) -> bool:
    return config.causal and f >= config.first_chunk and (f - config.first_chunk) % config.chunk == 0


def _pixel_frames(count: int, *, config: ModelConfig, first: bool, device: torch.device) -> Tensor:
    """Which of `count` pixel frames stand behind each latent frame: [F, n]. Latent 0 has a rule of its own."""
    n = config.stride[0]
    if not first:
        return torch.arange(count, device=device).unflatten(0, (-1, n))
    ahead = torch.arange(n, device=device).clamp_max(count - 1)
    zero = ahead if config.first_looks_ahead else torch.zeros_like(ahead)
    return torch.cat([zero[None], torch.arange(1, count, device=device).unflatten(0, (-1, n))])


def latent_intrinsics(intrinsics: Tensor, config: ModelConfig) -> Tensor:
    _, sy, sx = config.stride
    scale = torch.ones_like(intrinsics[..., :1, :])  # a list would have to be sent to a GPU
    scale[..., 0::2].fill_(sx)
    scale[..., 1::2].fill_(sy)
    return intrinsics / scale


def _checked(poses: Tensor, intrinsics: Tensor, *, first: bool, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Both in float64, after a look at their shapes."""
    n, count = config.stride[0], poses.shape[1]
    if count < 1 or (count - first) % n:
        raise ValueError(
            f"{count} pixel frames: {'a clip' if first else 'a chunk'} has {'1 + ' if first else ''}{n}k"
        )
    if poses.shape[2:] != (4, 4) or intrinsics.shape != (*poses.shape[:2], 4):
        raise ValueError(
            f"poses {tuple(poses.shape)} and intrinsics {tuple(intrinsics.shape)}: [B, P, 4, 4] and [B, P, 4] belong together"
        )
    return poses.double(), intrinsics.double()
