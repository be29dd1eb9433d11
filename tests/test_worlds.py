"""Worlds: same seed same world, pictures that agree with depth and pose, players that stay in free space."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from engine.train.data import HELD_OUT, TRAINING_SEEDS, clip, training_seeds
from engine.worlds.parameters import LAYOUT, PARAM_COUNT, make_params
from engine.worlds.renderer import PERIOD, Renderer, Worlds

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the worlds with")
SEEDS = (3, 11)
W, H = 64, 40


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer("cpu")


@pytest.fixture(scope="module")
def worlds(renderer: Renderer) -> Worlds:
    return renderer.build(SEEDS)


@pytest.fixture(scope="module")
def flights(renderer: Renderer, worlds: Worlds) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    index = torch.arange(len(SEEDS)).repeat_interleave(24)
    poses, intrinsics = renderer.fly(worlds, index=index, seeds=range(48), frames=160)
    return index, poses, intrinsics


def flat_params() -> np.ndarray:
    """A bare plain at height 0 with nothing on it."""
    params = make_params(5, biome="meadow", time="day", weather="clear")
    for name in ("RELIEF", "DENSITY", "TERRACE", "DUNE", "MIST"):
        params[LAYOUT[name]] = 0.0
    params[LAYOUT["WATER"]] = -1000.0
    return params


def camera_rays(intrinsics: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """[Y, X, 3] fp64 directions with z = 1 through pixel centres."""
    fx, fy, cx, cy = intrinsics.double()
    y, x = torch.meshgrid(
        torch.arange(height).double() + 0.5, torch.arange(width).double() + 0.5, indexing="ij"
    )
    return torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)], -1)


def test_a_seed_is_a_world(renderer: Renderer, worlds: Worlds) -> None:
    again = renderer.build(SEEDS[:1])
    for a, b in zip(worlds.tensors, again.tensors, strict=True):
        assert torch.equal(a[:1], b)
    assert not torch.equal(worlds.height[0], worlds.height[1])


def test_parameters_are_known_by_name_and_finite() -> None:
    assert sum(s.stop - s.start for s in LAYOUT.values()) == PARAM_COUNT
    many = np.stack([make_params(seed) for seed in range(200)])
    assert np.isfinite(many).all()
    assert len(set(many[:, LAYOUT["BIOME"]].ravel())) >= 14
    with pytest.raises(ValueError, match="seed -1"):
        make_params(-1)
    with pytest.raises(ValueError, match="unknown biome 'moon'"):
        make_params(1, biome="moon")


@pytest.mark.parametrize("samples", [1, 4])
def test_inverse_depth_of_a_plain_is_the_closed_form(renderer: Renderer, samples: int) -> None:
    plain = renderer.bake(flat_params()[None])
    pose = torch.eye(4)
    angle = torch.tensor(0.35, dtype=torch.float64)  # looking down
    pose[1:3, 1:3] = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]]).float()
    pose[:3, 3] = torch.tensor([37.0, -3.0, 51.0])
    intrinsics = torch.tensor([60.0, 55.0, 30.0, 22.0])  # off centre, not square
    zero = torch.zeros(1, dtype=torch.int64)
    _, inverse = renderer.render(
        plain,
        index=zero,
        poses=pose[None],
        intrinsics=intrinsics[None],
        width=W,
        height=H,
        samples=samples,
    )
    down = (camera_rays(intrinsics, W, H) @ pose[:3, :3].double().T)[..., 1]  # world y of a ray of depth 1
    true = down / 3.0
    near = true > (1 / 40 if samples == 1 else 1 / 12)  # farther, one pixel spans more than 10 % of depth
    assert near.float().mean() > 0.4
    torch.testing.assert_close(inverse[0].double()[near], true[near], rtol=2**-10, atol=0.0)


def test_depth_carries_points_into_another_view(renderer: Renderer, worlds: Worlds) -> None:
    """Points of view a, seen from view b, are where b's own depth says, unless something stands before them."""
    index, players = torch.arange(2), [5, 9]
    poses, intrinsics = renderer.fly(worlds, index=index, seeds=players, frames=20, width=W, height=H)
    moved = poses.clone()
    moved[:, :, :3, 3] += poses[:, :, :3, 0] * 0.4 + poses[:, :, :3, 2] * 0.2  # right and ahead
    pair = torch.stack([poses[:, 0], moved[:, 0]], 1).flatten(0, 1)
    rgb, inverse = renderer.render(
        worlds,
        index=index.repeat_interleave(2),
        poses=pair,
        intrinsics=intrinsics[:, :2].flatten(0, 1),
        width=W,
        height=H,
        samples=1,
    )
    for i in range(2):
        a, b = inverse[2 * i].double(), inverse[2 * i + 1].double()
        k, to_b = (
            intrinsics[i, 0],
            torch.linalg.inv(pair[2 * i + 1].double()) @ pair[2 * i].double(),
        )
        seen = (a > 1 / 60) & (a < 1 / 2)
        points = camera_rays(k, W, H)[seen] / a[seen][:, None] @ to_b[:3, :3].T + to_b[:3, 3]
        u = points[:, 0] / points[:, 2] * k[0].double() + k[2].double() - 0.5
        v = points[:, 1] / points[:, 2] * k[1].double() + k[3].double() - 0.5
        inside = (u > 1) & (u < W - 2) & (v > 1) & (v < H - 2) & (points[:, 2] > 0.5)
        x, y = u[inside].round().long(), v[inside].round().long()
        expected = 1 / points[inside, 2]
        ratio = b[y, x] / expected
        # neighbours of the pixel it falls on: a half-pixel slip on slanted ground is no error
        around = torch.stack([b[y + j, x + i_] / expected for j in (-1, 0, 1) for i_ in (-1, 0, 1)])
        covered = (around.min(0).values < 1.02) & (around.max(0).values > 0.98) | (ratio > 1.02)
        assert covered.double().mean() > 0.99
        assert ((ratio - 1).abs() < 0.06).double().mean() > 0.85
        first, second = rgb[2 * i].double()[seen][inside] / 255, rgb[2 * i + 1][y, x].double() / 255
        agree = (ratio - 1).abs() < 0.02
        assert (first - second)[agree].abs().mean() < 0.04


def test_a_world_repeats_after_its_period(renderer: Renderer, worlds: Worlds) -> None:
    zero = torch.zeros(2, dtype=torch.int64)
    poses, intrinsics = renderer.fly(worlds, index=zero[:1], seeds=[4], frames=1)
    here, there = poses[0, 0], poses[0, 0].clone()
    there[:3, 3] += torch.tensor([PERIOD, 0.0, -2 * PERIOD])
    rgb, inverse = renderer.render(
        worlds,
        index=zero,
        poses=torch.stack([here, there]),
        intrinsics=intrinsics[0].expand(2, 4),
        width=W,
        height=H,
        samples=1,
    )
    same = (rgb[0].int() - rgb[1].int()).abs().amax(-1) <= 3
    assert same.float().mean() > 0.97
    assert ((inverse[0] - inverse[1]).abs() <= 0.01 * inverse[0] + 1e-4).float().mean() > 0.97


def test_players_never_leave_free_space(renderer: Renderer, worlds: Worlds, flights: tuple) -> None:
    index, poses, _ = flights
    gap = renderer.clearance(
        worlds, index=index.repeat_interleave(poses.shape[1]), points=poses[..., :3, 3].flatten(0, 1)
    )
    assert gap[:, 0].min() > 0.55  # metres over ground and water
    assert gap[:, 1].min() > 0.40  # metres to a tree or a wall


def test_flights_keep_their_promises(flights: tuple) -> None:
    _, poses, intrinsics = flights
    R, t = poses[..., :3, :3].double(), poses[..., :3, 3].double()
    eye = torch.eye(3, dtype=torch.float64)
    assert (R.transpose(-1, -2) @ R - eye).abs().max() < 1e-5
    assert (torch.linalg.det(R) > 0.999).all()
    speed = (t[:, 1:] - t[:, :-1]).norm(dim=-1) * 16
    assert speed.max() <= 30.01
    assert ((speed == 0).float().mean(-1) > 0.02).any()  # rests, fully still
    moving = speed[speed > 0]
    assert ((moving > 1) & (moving < 12)).float().mean() > 0.4
    pitch = torch.rad2deg(torch.asin((-R[..., 1, 2]).clamp(-1, 1)))
    assert pitch.abs().max() <= 60.01
    roll = torch.rad2deg(torch.atan2(R[..., 1, 0], R[..., 1, 1]))
    assert roll.abs().max() <= 30.01
    assert roll.abs().max() > 5
    step = R[:, :-1].transpose(-1, -2) @ R[:, 1:]
    turn = torch.acos(((step.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1)) * 16
    assert turn.max() < 2.0  # rad/s, all axes together
    fov = torch.rad2deg(2 * torch.atan(128 / intrinsics[..., 0]))
    assert fov.min() >= 49.9
    assert fov.max() <= 95.1
    assert fov[:, 0].std() > 5


def test_some_clips_come_back(flights: tuple) -> None:
    _, poses, _ = flights
    t = poses[..., :3, 3]
    away = (t - t[:, :1]).norm(dim=-1)
    assert ((away[:, -1] < 0.05) & (away.max(-1).values > 2.0)).any()


def test_players_look_far_up_and_down_but_mostly_ahead(flights: tuple) -> None:
    pitch = torch.asin(-flights[1][:, :, 1, 2].clamp(-1, 1)).rad2deg().abs()
    assert pitch.max() > 25
    assert (pitch > 40).float().mean() < 0.05
    assert pitch.mean() < 12


def test_nothing_stands_in_a_street_and_it_is_paved(renderer: Renderer) -> None:
    params = make_params(5, biome="city", time="day", weather="clear")
    every, grid = (int(params[LAYOUT[name]][0]) for name in ("STREET", "GRID"))
    assert grid % every == 0
    city = renderer.bake(params[None])
    kinds = city.cells.view(64, 64, 12)[:grid, :grid, 0]
    assert kinds[::every].eq(0).all()
    assert kinds[:, ::every].eq(0).all()
    assert kinds.gt(0).float().mean() > 0.15
    side, one = PERIOD / grid, torch.zeros(1, dtype=torch.int64)
    x, z = 0.5 * side + 2.0, 1.5 * side  # in a lane of a street along z
    gap = renderer.clearance(city, index=one, points=torch.tensor([[x, -50.0, z]]))
    pose = torch.eye(4)[None]
    pose[0, :3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # looks straight down
    pose[0, :3, 3] = torch.tensor([x, float(gap[0, 0]) - 50.0 - 1.0, z])
    k = torch.tensor([[32.0, 32.0, 8.0, 8.0]])
    rgb, _ = renderer.render(city, index=one, poses=pose, intrinsics=k, width=16, height=16, samples=1)
    assert rgb.float().mean() < 120  # asphalt, not earth
    assert rgb.float().std(dim=(0, 1, 2)).max() < 12


def test_clips_for_training(renderer: Renderer) -> None:
    batch = clip(renderer, HELD_OUT[:1], 2, per_world=2, width=W, height=H, samples=1)
    assert batch["frames"].shape == (2, 2, H, W, 3)
    assert batch["frames"].dtype == torch.uint8
    assert batch["inverse_depth"].dtype == torch.float16
    assert batch["words"].shape == (2, 8)
    assert not torch.equal(batch["poses"][0], batch["poses"][1])
    first = batch["frames"][:, 0].float() / 255
    change = (first[:, 1:] - first[:, :-1]).abs().mean((1, 2, 3)) + (
        first[:, :, 1:] - first[:, :, :-1]
    ).abs().mean((1, 2, 3))
    assert (change > 0.02).all()  # no blank starts
    a, b = training_seeds(7, 5, rank=0, ranks=2), training_seeds(7, 5, rank=1, ranks=2)
    assert not set(a) & set(b) | set(a) & set(training_seeds(8, 5, rank=0, ranks=2))
    assert max(training_seeds(10**9, 50)) < TRAINING_SEEDS <= min(HELD_OUT)


def test_bad_requests_say_so(renderer: Renderer, worlds: Worlds) -> None:
    zero, pose, k = torch.zeros(1, dtype=torch.int64), torch.eye(4)[None], torch.ones(1, 4)
    with pytest.raises(ValueError, match="samples=3"):
        renderer.render(worlds, index=zero, poses=pose, intrinsics=k, samples=3)
    with pytest.raises(ValueError, match="0 … 1"):
        renderer.render(worlds, index=zero + 2, poses=pose, intrinsics=k)
    with pytest.raises(ValueError, match="0 frames"):
        renderer.fly(worlds, index=zero, seeds=[1], frames=0)


@pytest.mark.gpu
def test_gpu_and_cpu_draw_the_same(renderer: Renderer, worlds: Worlds) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    gpu = Renderer("cuda")
    other = gpu.build(SEEDS)
    assert (other.height.cpu() - worlds.height).abs().max() < 0.01
    index = torch.arange(2)
    poses, k = renderer.fly(worlds, index=index, seeds=[1, 2], frames=1)
    a, _ = renderer.render(worlds, index=index, poses=poses[:, 0], intrinsics=k[:, 0])
    b, _ = gpu.render(other, index=index, poses=poses[:, 0], intrinsics=k[:, 0])
    assert (a.float() - b.cpu().float()).abs().mean() < 2.0
