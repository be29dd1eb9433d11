"""Camera conditioning: golden numbers, invariances, and streams equal to slices of clips."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.camera import Pose
from engine.conditioning import (
    Anchor,
    Conditioning,
    condition_chunk,
    condition_clip,
    from_rows,
    pose_tensor,
    prepare,
    rigid_inverse,
    upright,
)
from engine.config import POCKET, SANA_WM

SMALL, POCKET_GRID = (4, 6), (10, 16)


def rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Turn right by yaw, up by pitch, then roll: [..., 3, 3]."""
    o, i = torch.zeros_like(yaw), torch.ones_like(yaw)
    c, s = torch.cos, torch.sin
    Y = torch.stack([c(yaw), o, s(yaw), o, i, o, -s(yaw), o, c(yaw)], -1).unflatten(-1, (3, 3))
    X = torch.stack([i, o, o, o, c(pitch), -s(pitch), o, s(pitch), c(pitch)], -1).unflatten(-1, (3, 3))
    Z = torch.stack([c(roll), -s(roll), o, s(roll), c(roll), o, o, o, i], -1).unflatten(-1, (3, 3))
    return Y @ X @ Z


def rigid(
    yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0, t: tuple[float, float, float] = (0, 0, 0)
) -> Tensor:
    m = torch.eye(4, dtype=torch.float64)
    m[:3, :3] = rotation(*(torch.tensor(a, dtype=torch.float64) for a in (yaw, pitch, roll)))
    m[:3, 3] = torch.tensor(t, dtype=torch.float64)
    return m


def flight(frames: int, *, batch: int = 2, speed: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A wandering camera that moves on, [B, P, 4, 4] float64, and its pixel intrinsics."""
    g = torch.Generator().manual_seed(seed)
    angle = torch.randn(batch, frames, 3, generator=g, dtype=torch.float64).cumsum(1) * 0.05
    poses = torch.eye(4, dtype=torch.float64).repeat(batch, frames, 1, 1)
    poses[..., :3, :3] = rotation(*angle.unbind(-1))
    step = torch.randn(batch, frames, 3, generator=g, dtype=torch.float64) + torch.tensor([0.0, 0.0, 2.0])
    poses[..., :3, 3] = (step * speed).cumsum(1)
    intrinsics = torch.tensor([128.0, 130.0, 127.0, 81.0]).repeat(batch, frames, 1)
    return poses, intrinsics + torch.rand(intrinsics.shape, generator=g)


def stream(
    poses: Tensor, intrinsics: Tensor, anchor: Anchor | None = None, frame: int = 0
) -> list[Conditioning]:
    out, at = [], 0
    while at < poses.shape[1]:
        n = 1 if frame == 0 else 8
        cond, anchor = condition_chunk(
            anchor,
            poses[:, at : at + n],
            intrinsics[:, at : at + n],
            frame=frame,
            grid=POCKET_GRID,
            config=POCKET,
        )
        out.append(cond)
        at, frame = at + n, frame + 1
    return out


def golden() -> tuple[Tensor, Tensor]:
    """rows and Plücker map of the deterministic camera: Ry(0.01 f), translation (0.02 f, 0, 0.05 f)."""
    poses = torch.stack([rigid(yaw=0.01 * f, t=(0.02 * f, 0, 0.05 * f)) for f in range(49)])[None].float()
    intrinsics = torch.tensor([150.0, 150.0, 96.0, 64.0]).repeat(1, 49, 1)
    return prepare(poses, intrinsics, grid=SMALL, config=SANA_WM)


def test_golden_numbers() -> None:
    rows, plucker = golden()
    row = [
        0.996802,
        0,
        0.079915,
        0.16,
        0,
        1,
        0,
        0,
        -0.079915,
        0,
        0.996802,
        0.4,
        0,
        0,
        0,
        1,
        4.6875,
        4.6875,
        3,
        2,
    ]
    torch.testing.assert_close(rows[0, 1], torch.tensor(row), atol=1e-6, rtol=0)
    rays = [0.01, 0, 0.99995, 0, -0.019499, 0, 0.019999, 0, 0.9998, 0, -0.037992, 0]
    torch.testing.assert_close(plucker[0, :12, 1, 2, 3], torch.tensor(rays), atol=1e-6, rtol=0)
    P = from_rows(rows, plucker, grid=SMALL, config=SANA_WM).P.unflatten(2, SMALL)[0, 1, 2, 3]
    ray = [[0.996802, 0, -0.079915, -0.127522], [0, 1, 0, 0], [0.079915, 0, 0.996802, -0.411507]]
    torch.testing.assert_close(P[:3], torch.tensor(ray), atol=1e-6, rtol=0)


def test_inverse_and_axes() -> None:
    cond = condition_clip(*flight(17), grid=POCKET_GRID, config=POCKET)
    eye = torch.eye(4).expand_as(cond.P)
    torch.testing.assert_close(cond.P @ cond.P_inv, eye, atol=2e-6, rtol=0)
    assert cond.P.dtype == cond.plucker.dtype == torch.float32
    assert cond.plucker.shape == (2, 48, 3, 10, 16)


def test_rows_in_bfloat16_stay_near_and_come_back_in_fp32() -> None:
    rows, plucker = golden()
    exact = from_rows(rows, plucker, grid=SMALL, config=SANA_WM)
    rough = from_rows(rows, plucker, grid=SMALL, config=SANA_WM, dtype=torch.bfloat16)
    assert rough.P.dtype == torch.float32
    assert torch.equal(rough.P, rough.P.bfloat16().float())
    error = (rough.P - exact.P).norm() / exact.P.norm()
    assert 1e-4 < error < 2e-2  # what eight bits of mantissa cost, and no more


def test_a_ray_that_is_not_a_number_is_the_identity() -> None:
    rows, plucker = golden()
    rows[0, 1, 16] = float("nan")
    cond = from_rows(rows, plucker, grid=SMALL, config=SANA_WM)
    assert torch.equal(cond.P[0, 1], torch.eye(4).expand(24, 4, 4))
    assert torch.equal(cond.P_inv[0, 1], torch.eye(4).expand(24, 4, 4))
    assert cond.P.isfinite().all()


def test_rigid_motion_of_all_poses_changes_nothing_in_sana() -> None:
    poses, intrinsics = flight(25)
    a = condition_clip(poses, intrinsics, grid=SMALL, config=SANA_WM)
    b = condition_clip(rigid(1.0, 0.7, -0.4, (5, -3, 20)) @ poses, intrinsics, grid=SMALL, config=SANA_WM)
    torch.testing.assert_close(a.P, b.P, atol=2e-5, rtol=0)
    torch.testing.assert_close(a.plucker, b.plucker, atol=2e-5, rtol=0)
    assert a.reanchor is None


def test_yaw_and_translation_of_all_poses_change_nothing_in_pocket_but_pitch_does() -> None:
    poses, intrinsics = flight(41)
    a = condition_clip(poses, intrinsics, grid=POCKET_GRID, config=POCKET)
    b = condition_clip(rigid(yaw=2.0, t=(50, -30, 200)) @ poses, intrinsics, grid=POCKET_GRID, config=POCKET)
    for name in ("P", "P_inv", "plucker", "reanchor"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=2e-6, rtol=2e-6)
    c = condition_clip(rigid(pitch=0.3) @ poses, intrinsics, grid=POCKET_GRID, config=POCKET)
    assert (a.plucker - c.plucker).abs().amax() > 0.1
    assert (a.P - c.P).abs().amax() > 0.1


def test_the_anchor_is_level_and_starts_at_the_first_camera() -> None:
    m = rigid(0.8, 0.5, 0.2, (1, 2, 3))
    level = upright(m)
    torch.testing.assert_close(level[:3, 3], m[:3, 3])
    torch.testing.assert_close(level[:3, 1], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    assert torch.atan2(level[0, 2], level[2, 2]).item() == pytest.approx(0.8)
    assert Pose.from_matrix(m.numpy()).yaw == pytest.approx(0.8)
    assert upright(rigid(pitch=torch.pi / 2)).isfinite().all()  # straight up has no yaw


def test_reanchor_takes_old_coordinates_to_new_ones() -> None:
    """X_new = G X_old: the same camera seen from both anchors."""
    poses, intrinsics = flight(81, speed=1.0)
    cond = condition_clip(poses, intrinsics, grid=POCKET_GRID, config=POCKET)
    fixed = condition_clip(
        poses, intrinsics, grid=POCKET_GRID, config=POCKET, radius=torch.full((2,), float("inf"))
    )
    assert cond.reanchor is not None
    assert fixed.reanchor is not None
    eye = torch.eye(4)
    assert torch.equal(fixed.reanchor, eye.expand_as(fixed.reanchor))
    moved = (cond.reanchor != eye).flatten(2).any(-1)
    assert moved.any(1).all()
    assert not moved[:, 0].any()
    G = eye.expand(2, 4, 4)
    for f in range(11):
        G = cond.reanchor[:, f] @ G
        torch.testing.assert_close(cond.P[:, f] @ G[:, None], fixed.P[:, f], atol=1e-5, rtol=1e-5)


def test_each_clip_moves_its_anchor_at_its_own_radius() -> None:
    poses, intrinsics = flight(81, speed=0.5)
    poses = poses[:1].repeat(2, 1, 1, 1)
    cond = condition_clip(
        poses, intrinsics, grid=POCKET_GRID, config=POCKET, radius=torch.tensor([0.5, float("inf")])
    )
    assert cond.reanchor is not None
    moved = (cond.reanchor != torch.eye(4)).flatten(2).any(-1)
    assert moved[0, 1:].sum() >= 8
    assert not moved[1].any()


def test_the_anchor_moves_just_beyond_the_radius() -> None:
    poses = torch.eye(4, dtype=torch.float64).repeat(1, 25, 1, 1)
    poses[0, 1:, 2, 3] = 12.0  # metres: on the circle
    intrinsics = torch.tensor([128.0, 128.0, 128.0, 80.0]).repeat(1, 25, 1)
    on = condition_clip(poses, intrinsics, grid=POCKET_GRID, config=POCKET).reanchor
    assert on is not None
    assert torch.equal(on, torch.eye(4).expand_as(on))
    poses[0, 1:, 2, 3] = 12.001
    off = condition_clip(poses, intrinsics, grid=POCKET_GRID, config=POCKET).reanchor
    assert off is not None
    assert off[0, 2, 2, 3].item() == pytest.approx(-12.001 * POCKET.translation_scale)
    assert torch.equal(off[0, 1], torch.eye(4))


@pytest.mark.parametrize("start", [0.0, 10_000.0])
def test_a_stream_equals_the_clip(start: float) -> None:
    """Also 10 km from the origin, where float32 world coordinates would lose a millimetre."""
    poses, intrinsics = flight(121, speed=0.8)
    poses[..., :3, 3] += torch.tensor([start, -500.0, start])
    clip = condition_clip(poses, intrinsics, grid=POCKET_GRID, config=POCKET)
    for f, chunk in enumerate(stream(poses, intrinsics)):
        want = clip.part(f, f + 1)
        assert chunk.frame == want.frame == f
        for name in ("P", "P_inv", "plucker"):
            torch.testing.assert_close(getattr(chunk, name), getattr(want, name), atol=1e-6, rtol=1e-6)
        assert want.reanchor is not None
        G = torch.eye(4).expand(2, 1, 4, 4) if chunk.reanchor is None else chunk.reanchor
        torch.testing.assert_close(G, want.reanchor, atol=1e-6, rtol=1e-6)


def test_far_away_is_as_exact_as_at_home() -> None:
    poses, intrinsics = flight(81, speed=0.8)
    far = poses.clone()
    far[..., :3, 3] += torch.tensor([12_345.678, -321.0, 98_765.432])
    for a, b in zip(stream(poses, intrinsics), stream(far, intrinsics), strict=True):
        torch.testing.assert_close(a.P, b.P, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(a.plucker, b.plucker, atol=1e-6, rtol=1e-6)


def test_a_sana_stream_of_uneven_chunks_equals_the_clip() -> None:
    poses, intrinsics = flight(8 * 9 + 1)
    clip = condition_clip(poses, intrinsics, grid=SMALL, config=SANA_WM)
    anchor, at, frame = None, 0, 0
    for latents in (4, 3, 3):
        n = 8 * latents - (7 if frame == 0 else 0)
        part = slice(at, at + n)
        cond, anchor = condition_chunk(
            anchor, poses[:, part], intrinsics[:, part], frame=frame, grid=SMALL, config=SANA_WM
        )
        want = clip.part(frame, frame + latents)
        assert torch.equal(cond.P, want.P)
        assert torch.equal(cond.plucker, want.plucker)
        assert cond.reanchor is None
        at, frame = at + n, frame + latents


def test_latent_0_of_pocket_stands_still() -> None:
    """Eight copies of frame 0, moments about its own camera."""
    poses, intrinsics = flight(9)
    rays = (
        condition_clip(poses, intrinsics, grid=POCKET_GRID, config=POCKET)
        .plucker[:, :, 0]
        .unflatten(1, (8, 6))
    )
    assert torch.equal(rays, rays[:, :1].expand_as(rays))
    assert torch.equal(rays[:, :, 3:], torch.zeros_like(rays[:, :, 3:]))


def test_moments_of_pocket_are_about_the_last_camera_of_the_chunk_before() -> None:
    poses, intrinsics = flight(17)
    cond = condition_clip(poses, intrinsics, grid=POCKET_GRID, config=replace(POCKET, anchor_radius=1e9))
    anchor = rigid_inverse(upright(poses[:, 0]))
    arm = (anchor[:, :3, :3] @ (poses[:, 13] - poses[:, 8])[:, :3, 3:])[..., 0] * POCKET.moment_scale
    d, m = cond.plucker[:, 24:27, 2], cond.plucker[:, 27:30, 2]  # pixel frame 13 is the fifth of latent 2
    want = torch.linalg.cross(arm.float()[..., None, None].expand_as(d), d, dim=1)
    torch.testing.assert_close(m, want, atol=1e-6, rtol=1e-5)


def test_shapes_are_checked() -> None:
    poses, intrinsics = flight(17)
    with pytest.raises(ValueError, match="16 pixel frames"):
        condition_clip(poses[:, :16], intrinsics[:, :16], grid=POCKET_GRID, config=POCKET)
    with pytest.raises(ValueError, match="belong together"):
        condition_clip(poses, intrinsics[:, :9], grid=POCKET_GRID, config=POCKET)
    with pytest.raises(ValueError, match="anchor"):
        condition_chunk(None, poses[:, :8], intrinsics[:, :8], frame=1, grid=POCKET_GRID, config=POCKET)
    with pytest.raises(ValueError, match="20"):
        from_rows(torch.zeros(1, 5, 19), torch.zeros(1, 48, 5, 4, 6), grid=SMALL, config=SANA_WM)
    with pytest.raises(ValueError, match="Plücker"):
        from_rows(torch.zeros(1, 5, 20), torch.zeros(1, 48, 4, 4, 6), grid=SMALL, config=SANA_WM)


def test_poses_of_the_rim() -> None:
    assert torch.equal(pose_tensor([Pose(), Pose()]), torch.eye(4, dtype=torch.float64).expand(1, 2, 4, 4))


def test_a_training_may_round_products_but_not_poses() -> None:
    before = torch.get_float32_matmul_precision()
    exact = condition_clip(*flight(17), grid=POCKET_GRID, config=POCKET)
    try:
        torch.set_float32_matmul_precision("medium")
        cond = condition_clip(*flight(17), grid=POCKET_GRID, config=POCKET)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(cond.P, exact.P)
    assert torch.equal(cond.plucker, exact.plucker)
