"""The measurements of the fixed set, each against something that is known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from engine.measure.collapse import DARK, FLAT, NOISY, SMOOTH, collapse, signs
from engine.measure.frechet import Moments, frechet, moments, together
from engine.measure.odometry import EVERY, track
from engine.measure.paths import (
    BACK,
    DWELL,
    FRAMES,
    blankness,
    fingerprint,
    is_free,
    loop,
    plan,
)
from engine.measure.pose_error import pose_error
from engine.measure.visible import masked_psnr, visible
from engine.metrics import psnr
from engine.train.codec_report import to_float
from engine.train.data import HELD_OUT
from engine.worlds.renderer import Renderer

LENS = torch.tensor([50.0, 50.0, 32.0, 20.0])


def turned(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """[4, 4] camera to world at the origin; radians."""
    (cy, sy), (cp, sp), (cr, sr) = ((math.cos(a), math.sin(a)) for a in (yaw, pitch, roll))
    out = np.eye(4)
    out[:3, :3] = (
        np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        @ np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    )
    return out


def curve_of(frames: int) -> np.ndarray:
    """A path that turns about all axes and moves on: [frames, 4, 4]."""
    out = []
    for i in range(frames):
        pose = turned(0.05 * i, 0.1 * math.sin(0.3 * i), 0.02 * i)
        pose[:3, 3] = (math.sin(0.1 * i), 0.02 * i, 0.15 * i)
        out.append(pose)
    return np.stack(out)


# --- camera paths ------------------------------------------------------------------------------------------------


def test_a_path_seen_in_other_axes_and_units_has_no_error() -> None:
    true = curve_of(40)
    seen = turned(1.0, -0.4, 0.3) @ true
    seen[:, :3, 3] = 2.5 * seen[:, :3, 3] + np.array([3.0, -1.0, 7.0])
    error = pose_error(seen, true)
    assert error.rotation == pytest.approx(0, abs=1e-5)
    assert error.translation == pytest.approx(0, abs=1e-9)
    assert error.matrix == pytest.approx(0, abs=1e-9)


def test_a_known_wobble_is_measured() -> None:
    true = curve_of(400)
    wobble = math.radians(3)
    seen = np.stack([pose @ turned(wobble * (-1) ** i) for i, pose in enumerate(true)])
    # both are taken relative to their first pose, which wobbled too; the alignment takes out the mean of 0° and -6°
    assert pose_error(seen, true).rotation == pytest.approx(3.0, rel=0.02)
    still = np.repeat(np.eye(4)[None], 400, axis=0)
    moving = still.copy()
    moving[:, 0, 3] = np.arange(400) / 400
    error = pose_error(still, moving)  # a camera that stands: its distance from the mean of the path
    assert error.translation == pytest.approx(0.25, rel=0.01)
    assert error.matrix == pytest.approx(0.25, rel=0.01)
    with pytest.raises(ValueError, match="shapes"):
        pose_error(still, moving[:-1])


def wall(poses: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures [P, 120, 160, 3] and inverse depth of a textured plane at z = 8 m, drawn by intersecting rays with it."""
    import cv2

    texture = np.random.default_rng(seed).integers(0, 255, (96, 96)).astype(np.uint8)
    texture = cv2.GaussianBlur(cv2.resize(texture, (1536, 1536), interpolation=cv2.INTER_CUBIC), (0, 0), 5)
    f, (Y, X) = 130.0, (120, 160)
    y, x = np.mgrid[:Y, :X] + 0.5
    rays = np.stack([(x - X / 2) / f, (y - Y / 2) / f, np.ones_like(x)], axis=-1)
    frames, depths = [], []
    for pose in poses:
        d = rays @ pose[:3, :3].T
        t = (8.0 - pose[2, 3]) / d[..., 2]
        where = pose[:3, 3] + t[..., None] * d
        u, v = ((where[..., i] * 40 + 768).astype(np.float32) for i in (0, 1))
        grey = cv2.remap(texture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        frames.append(np.repeat(grey[..., None], 3, axis=2))
        depths.append(1 / t)
    return np.stack(frames), np.stack(depths), np.array([f, f, X / 2, Y / 2])


def test_the_camera_is_found_from_pictures_and_depth() -> None:
    poses = curve_of(65)
    poses[:, :3, :3] = np.stack([turned(0.2 * math.sin(0.1 * i), 0.05, 0.01 * i)[:3, :3] for i in range(65)])
    poses[:, :3, 3] *= 0.3
    frames, depth, lens = wall(poses)
    found = track(frames, depth[::EVERY], lens)
    error = pose_error(found.poses, poses[::EVERY])
    assert found.solved == 1.0
    assert error.rotation < math.degrees(1 / 130)  # one pixel
    assert error.translation < 8 / 130  # one pixel on the wall
    halved = pose_error(track(frames, depth[::EVERY] * 2, lens).poses, poses[::EVERY])
    assert halved.translation < 8 / 130  # the scale of the depth does not matter
    other = poses.copy()
    other[:, :3, :3] = np.stack([turned(-0.2 * math.sin(0.1 * i))[:3, :3] for i in range(65)])
    assert pose_error(found.poses, other[::EVERY]).rotation > 5


def test_a_sky_tells_of_turns_and_of_nothing_else() -> None:
    """A camera that drifts and turns fast before something endlessly far: all of its turn is found."""
    poses = np.repeat(np.eye(4)[None], 49, axis=0)
    for i in range(49):
        poses[i, :3, :3] = turned(0.3 * math.sin(0.12 * i), 0.1 * math.sin(0.2 * i), 0.0)[:3, :3]
    frames, _, lens = wall(poses)
    found = track(frames, np.zeros((13, *frames.shape[1:3])), lens)
    assert found.solved == 1.0
    poses[:, :3, 3] = 0
    assert pose_error(found.poses, poses[::EVERY]).rotation < math.degrees(0.5 / 130)
    assert np.abs(found.poses[:, :3, 3]).max() < 1e-6


def test_a_camera_that_is_lost_for_a_moment_goes_on() -> None:
    """Half a second of fog in a steady turn."""
    poses = np.repeat(np.eye(4)[None], 49, axis=0)
    for i in range(49):
        poses[i, :3, :3] = turned(0.012 * i, 0.0, 0.0)[:3, :3]
    frames, depth, lens = wall(poses)
    frames[24:32] = 128
    found = track(frames, depth[::EVERY], lens)
    assert 0.7 < found.solved < 1.0
    assert pose_error(found.poses, poses[::EVERY]).rotation < math.degrees(2 / 130)


def test_a_camera_that_turned_away_in_the_fog_recognises_the_place() -> None:
    """It turns by 17° where nothing is seen, and on from there: what came after is put right, and the gap between."""
    poses = np.repeat(np.eye(4)[None], 81, axis=0)
    for i in range(81):
        poses[i, :3, :3] = turned(0.3 * min(max(i - 24, 0) / 12, 1), 0.05 * math.sin(0.1 * i), 0.0)[:3, :3]
    frames, depth, lens = wall(poses)
    frames[25:36] = 128
    found = track(frames, depth[::EVERY], lens)
    assert found.solved == pytest.approx(1 - 2 / 20)
    error = pose_error(found.poses, poses[::EVERY])
    assert error.rotation < math.degrees(2 / 130)
    elsewhere = wall(poses, seed=1)[0]
    frames[36:] = elsewhere[36:]  # the fog lifts over another place, which nobody has seen
    astray = pose_error(track(frames, depth[::EVERY], lens).poses, poses[::EVERY])
    assert astray.rotation > 5


def test_where_pictures_say_nothing_the_camera_is_taken_to_stand() -> None:
    found = track(np.full((9, 40, 64, 3), 90, np.uint8), np.full((3, 40, 64), 0.1), LENS.numpy())
    assert found.solved == 0.0
    assert np.array_equal(found.poses, np.repeat(np.eye(4)[None], 3, axis=0))


# --- pixels --------------------------------------------------------------------------------------------------------


def test_visibility_of_a_wall_with_a_post_before_it() -> None:
    """Camera steps 1 m to the right before a wall at 10 m: columns move by 5 pixels, those hidden by a post at 5 m by 10."""
    first, now = torch.full((1, 40, 64), 0.1), torch.full((1, 1, 40, 64), 0.1)
    first[:, :, 30:34] = 0.2
    now[..., 20:24] = 0.2
    poses = torch.eye(4).repeat(1, 1, 1, 1)
    poses[..., 0, 3] = 1.0
    seen = visible(
        now,
        poses,
        LENS.expand(1, 1, 4),
        first_depth=first,
        first_pose=torch.eye(4)[None],
        first_intrinsics=LENS[None],
    )[0, 0]
    expected = torch.ones(64, dtype=torch.bool)
    expected[59:] = False  # was right of the picture
    expected[26:28] = False  # was behind the middle of the post; its 3×3 borders count as seen
    sure = torch.ones(64, dtype=torch.bool)
    sure[[24, 25, 28, 29]] = False
    assert torch.equal(seen[:, sure], expected[sure].expand(40, -1))


def test_the_sky_is_seen_again_after_a_turn_and_nothing_behind_the_camera() -> None:
    sky = torch.zeros(1, 1, 40, 64)
    poses = torch.from_numpy(np.stack([turned(0.2), turned(math.pi)])).float()[None]
    seen = visible(
        sky.expand(1, 2, 40, 64),
        poses,
        LENS.expand(1, 2, 4),
        first_depth=sky[:, 0],
        first_pose=torch.eye(4)[None],
        first_intrinsics=LENS[None],
    )
    assert 0.7 < seen[0, 0].float().mean() < 0.9
    assert not seen[0, 1].any()


def test_masked_psnr_is_psnr_of_what_is_left() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 8, 12, generator=g) * 2 - 1 for _ in range(2))
    mask = torch.zeros(2, 8, 12, dtype=torch.bool)
    mask[0, :, 4:] = True
    got = masked_psnr(a, b, mask)
    assert got[0].item() == pytest.approx(psnr(a[0, :, :, 4:], b[0, :, :, 4:]).item(), abs=1e-4)
    assert got[1].isnan()


@pytest.mark.parametrize(
    ("kind", "frames"),
    [
        ("black", torch.full((4, 3, 32, 48), -0.99)),
        ("flat", torch.full((4, 3, 32, 48), 0.3) + 0.08 * torch.linspace(0, 1, 48)),
        ("blurred", torch.linspace(-0.5, 0.5, 48).expand(4, 3, 32, 48)),
        ("noise", torch.randn(4, 3, 32, 48, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)),
    ],
)
def test_what_is_no_picture(kind: str, frames: torch.Tensor) -> None:
    assert collapse(frames) == kind


def test_pictures_are_pictures() -> None:
    from explorer.assets import assets_folder, load_gallery

    scenes = load_gallery(assets_folder() / "gallery")
    pictures = to_float(torch.from_numpy(np.stack([scene.rgb for scene in scenes])))
    for picture in pictures:
        assert collapse(picture[None]) is None
    brightness, contrast, rough = signs(pictures)
    assert brightness.min() > 2 * DARK
    assert contrast.min() > 2 * FLAT
    assert rough.min() > 2 * SMOOTH
    assert rough.max() < NOISY / 1.25


# --- features ------------------------------------------------------------------------------------------------------


def gaussian(mean: torch.Tensor, covariance: torch.Tensor, count: int = 10) -> Moments:
    return Moments(count=count, total=mean * count, products=(covariance + torch.outer(mean, mean)) * count)


def test_frechet_distance_of_known_gaussians() -> None:
    g = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(5, 5, generator=g, dtype=torch.float64))[0]
    s1, s2 = (torch.rand(5, generator=g, dtype=torch.float64) + 0.1 for _ in range(2))
    m1, m2 = (torch.randn(5, generator=g, dtype=torch.float64) for _ in range(2))
    a, b = (gaussian(m, axes @ torch.diag(s * s) @ axes.T) for m, s in ((m1, s1), (m2, s2)))
    want = float((m1 - m2).square().sum() + (s1 - s2).square().sum())  # axes in common: spreads subtract
    assert frechet(a, b) == pytest.approx(want, rel=1e-9)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)


def test_moments_add_up_and_survive_json() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    whole = moments(x)
    parts = together([Moments.read(moments(x[:20]).record()), moments(x[20:])])
    assert torch.allclose(parts.covariance, whole.covariance, atol=1e-12)
    assert torch.allclose(whole.covariance, torch.cov(x.double().T, correction=0), atol=1e-9)
    assert torch.allclose(parts.mean, x.double().mean(dim=0))
    with pytest.raises(ValueError, match="no samples"):
        together([])


# --- paths ---------------------------------------------------------------------------------------------------------


def test_a_loop_closes_and_looks_where_it_goes() -> None:
    start = torch.from_numpy(turned(0.7, -0.1, 0.05)).float()
    start[:3, 3] = torch.tensor([10.0, -3.0, 5.0])
    for side in (1.0, -1.0):
        path = loop(start, radius=6.0, side=side, lift=2.0)
        assert path.shape == (BACK + 1, 4, 4)
        assert torch.allclose(path[0], start, atol=1e-5)
        assert torch.equal(path[-DWELL:], path[-1:].expand(DWELL, -1, -1))
        assert torch.allclose(path[-1], start, atol=1e-4)
        middle = (path[:, [0, 2], 3] - path[0, [0, 2], 3]).norm(dim=1).max()
        assert middle.item() == pytest.approx(12.0, rel=1e-3)  # a circle's diameter
        assert (path[0, 1, 3] - path[:, 1, 3]).max().item() == pytest.approx(2.0, rel=1e-3)
        step = path[1:-DWELL, :3, 3] - path[: -DWELL - 1, :3, 3]
        ahead = path[: -DWELL - 1, :3, 2]
        flat = [torch.nn.functional.normalize(v[20:-20, [0, 2]], dim=1) for v in (step, ahead)]
        assert (flat[0] * flat[1]).sum(dim=1).min() > 0.99


def test_paths_are_free_return_and_are_the_same_again() -> None:
    renderer = Renderer("cpu")
    world = HELD_OUT[0]
    simple, hard = plan(renderer, world)
    worlds = renderer.build([world])
    for flight in (simple, hard):
        assert flight.poses.shape == (FRAMES, 4, 4)
        assert is_free(renderer, worlds, flight.poses)
        assert torch.allclose(flight.poses[BACK], flight.poses[0], atol=1e-4)
        R = flight.poses[:, :3, :3].double()
        assert torch.allclose(R @ R.mT, torch.eye(3, dtype=torch.float64).expand_as(R), atol=1e-5)
        step = (flight.poses[1:, :3, 3] - flight.poses[:-1, :3, 3]).norm(dim=1)
        assert step.max() < 2.0  # no jumps: 30 m/s at most
        assert blankness(renderer, worlds, flight.poses[None], flight.intrinsics[None]).item() < 0.05
    assert torch.equal(simple.poses[BACK - 5], simple.poses[5])
    assert (simple.poses[BACK // 2, :3, 3] - simple.poses[0, :3, 3]).norm() > 8
    again = plan(renderer, world)
    assert fingerprint([simple, hard]) == fingerprint(again)
    assert fingerprint([simple]) != fingerprint([hard])
