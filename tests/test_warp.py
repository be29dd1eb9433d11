"""The warp against closed forms, its implementations against each other, and real worlds with true depth."""

from __future__ import annotations

import math
import shutil
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from engine.metrics import psnr
from engine.warp import GREY, Sources, Warped, between, fill, warp
from engine.worlds.renderer import Renderer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Y, X = 40, 64
LENS = torch.tensor([60.0, 55.0, 30.0, 22.0]).double()  # off centre, not square


def pose(*, yaw: float = 0.0, at: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
    T = torch.eye(4, dtype=torch.float64)
    T[0, 0] = T[2, 2] = math.cos(yaw)
    T[0, 2], T[2, 0] = math.sin(yaw), -math.sin(yaw)
    T[:3, 3] = torch.tensor(at)
    return T


def sources(rgb: Tensor, inverse_depth: Tensor, poses: Tensor, *, age: int = 0) -> Sources:
    """One flight's pictures [S, Y, X, 3] and depths [S, Y, X]."""
    return Sources(
        rgb=rgb[None],
        inverse_depth=inverse_depth[None].half(),
        generation=torch.full((1, *inverse_depth.shape), age, dtype=torch.uint8),
        poses=poses[None],
        intrinsics=LENS.expand(1, len(rgb), 4),
        index=torch.arange(len(rgb))[None],
    )


def smooth(count: int, seed: int = 0) -> Tensor:
    """Pictures [count, Y, X, 3] without detail finer than a few pixels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 255 * torch.rand(count, 3, Y // 8, X // 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(Y, X), mode="bicubic")
    return fine.clamp(0, 255).round().to(torch.uint8).movedim(1, -1)


def hilly(count: int, seed: int = 0) -> Tensor:
    """Inverse depths [count, Y, X]: sky over ground, and a box before both."""
    row = torch.arange(Y)[:, None].expand(Y, X)
    d = ((row - 12) / 200).clamp_min(0).repeat(count, 1, 1)
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        a, b = torch.randint(5, 20, (2,), generator=generator).tolist()
        d[i, a : a + 15, b : b + 20] = 0.6
    return d


def views(*poses_: Tensor) -> tuple[Tensor, Tensor]:
    return torch.stack(poses_)[None], LENS.expand(1, len(poses_), 4)


def test_a_picture_seen_again_is_itself() -> None:
    rgb, d = smooth(1), hilly(1)
    out = warp(sources(rgb, d, pose()[None]), *views(pose()))
    assert out.mask.all()
    assert torch.equal(out.rgb[0, 0], rgb[0])
    assert torch.allclose(out.magnification, torch.ones(()), atol=1e-5)
    assert (out.generation == 1).all()
    off = (out.inverse_depth[0, 0] - d[0].half()).abs()
    # only along the box, where closing may take what is two rows below
    assert (off > 1e-6).float().mean() < 0.02
    assert off.max() < 0.011


def test_a_plane_lands_where_geometry_says() -> None:
    """Colours encode pixel positions on a slanted plane: n·p = 4, which gives inverse depth n·ray / 4."""
    y, x = torch.meshgrid(torch.arange(Y) + 0.5, torch.arange(X) + 0.5, indexing="ij")
    normal = torch.tensor([0.2, 0.1, 1.0]).double()
    rays = torch.stack([(x - LENS[2]) / LENS[0], (y - LENS[3]) / LENS[1], torch.ones_like(x)], -1).double()
    rgb = torch.stack([x * 3, y * 5, torch.zeros_like(x)], -1).to(torch.uint8)
    other = pose(yaw=0.06, at=(0.15, -0.05, 0.4))
    out = warp(sources(rgb[None], (rays @ normal / 4)[None], pose()[None]), *views(other))
    world = rays @ other[:3, :3].T  # of depth 1 in the other camera
    depth = (4 - other[:3, 3] @ normal) / (world @ normal)
    point = world * depth[..., None] + other[:3, 3]
    u = point[..., 0] / point[..., 2] * LENS[0] + LENS[2]
    v = point[..., 1] / point[..., 2] * LENS[1] + LENS[3]
    inside = (u > 2) & (u < X - 2) & (v > 2) & (v < Y - 2)
    assert inside.double().mean() > 0.5
    assert out.mask[0, 0][inside].all()
    got = out.rgb[0, 0].double()
    # half precision depth and whole colour steps (the picture truncates them)
    assert ((got[..., 0] + 0.5) / 3 - u)[inside].abs().max() < 0.5
    assert ((got[..., 1] + 0.5) / 5 - v)[inside].abs().max() < 0.5
    size = point[..., 2] / depth  # both focal lengths are the same
    assert (out.magnification[0, 0] - size)[inside].abs().max() < 0.01
    # half precision rounds to 2⁻¹¹; the nearest of 2×2 pixels would be off by 7e-3
    assert (out.inverse_depth[0, 0] * depth - 1)[inside].abs().max() < 6e-4


def test_what_is_near_hides_what_is_far() -> None:
    d = torch.full((1, Y, X), 0.05)
    d[0, 10:30, 20:40] = 0.5
    rgb = torch.zeros(1, Y, X, 3, dtype=torch.uint8)
    rgb[0, 10:30, 20:40] = 200
    out = warp(sources(rgb, d, pose()[None]), *views(pose(at=(0.3, 0.0, 0.0))))
    shift = round(60 * 0.3 * 0.5)  # pixels to the left
    assert (out.rgb[0, 0, 12:28, 22 - shift : 38 - shift] == 200).all()
    assert out.mask[0, 0, 12:28, 42 - shift : 38].float().mean() < 0.2  # what the box had hidden


def test_a_box_leaves_no_outline_on_the_wall_behind_it() -> None:
    """Around the box is a pixel of the wall that has half of its colour, as antialiasing leaves it."""
    wall, rim, box = 40, 120, 200
    d = torch.full((1, Y, X), 0.05)
    d[0, 10:30, 20:40] = 0.5
    rgb = torch.full((1, Y, X, 3), wall, dtype=torch.uint8)
    rgb[0, 9:31, 19:41] = rim
    rgb[0, 10:30, 20:40] = box
    some = sources(rgb, d, pose()[None])
    still = warp(some, *views(pose()))
    assert still.mask.all()
    assert torch.equal(still.rgb[0, 0], rgb[0])
    for way in (0.37, 0.4, 0.43):  # the box moves to the left by about 12 pixels, the wall by one
        out = warp(some, *views(pose(at=(way, 0.0, 0.0))))
        assert (out.rgb[0, 0, 12:28, 10:26] == box).all()
        known, uncovered = out.mask[0, 0, :, 31:].bool(), out.rgb[0, 0, :, 31:]
        assert (uncovered[known] < (wall + rim) / 2).all()
        assert not known[12:28, :6].any()
        assert known[:, 11:-2].all()
        assert known[:8, :-2].all()
        assert (out.inverse_depth[out.mask == 0] == 0).all()


def test_first_hand_is_preferred_and_sky_has_no_parallax() -> None:
    rgb = torch.stack([torch.full((Y, X, 3), c, dtype=torch.uint8) for c in (50, 90)])
    both = sources(rgb, torch.zeros(2, Y, X), torch.stack([pose(), pose(at=(3.0, 0.0, 5.0))]))
    both.generation[0, 0] = 7
    out = warp(both, *views(pose(at=(1.0, 0.0, 1.0))))
    assert (out.rgb == 90).all()
    assert out.mask.all()
    assert (out.inverse_depth == 0).all()
    assert (out.generation == 1).all()
    assert (warp(both.only(torch.tensor([[True, False]])), *views(pose())).generation == 8).all()


def test_nothing_known_is_grey_and_holes_take_their_surroundings() -> None:
    nothing = sources(smooth(1), hilly(1), pose()[None]).only(torch.zeros(1, 1, dtype=torch.bool))
    out = warp(nothing, *views(pose()))
    assert not out.mask.any()
    assert (out.rgb == GREY).all()
    assert (out.inverse_depth == 0).all()
    picture = torch.full((1, Y, X, 3), 80.0)
    known = torch.ones(1, Y, X, dtype=torch.bool)
    known[0, 5:20, 5:30] = False
    assert (fill(picture, known) == 80).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_native_loop_draws_the_same(seed: int) -> None:
    pytest.importorskip("numba")
    from engine.warp_cpu import warp as native

    some, to = flight(seed)
    assert_drawn_alike(warp(some, *to), native(some, *to))


@pytest.mark.parametrize("size", [(24, 40), (15, 22)], ids=str)
def test_the_gpu_kernels_draw_the_same(size: tuple[int, int]) -> None:
    pytest.importorskip("triton", reason="needs Triton (its interpreter where no GPU is)")
    from engine.warp_gpu import warp as kernels

    given = [flight(seed) for seed in (1, 2)]
    some = Sources(
        **{f.name: torch.cat([getattr(s, f.name) for s, _ in given]).to(DEVICE) for f in fields(Sources)}
    )
    cut = {n: getattr(some, n)[:, :, : size[0], : size[1]] for n in ("rgb", "inverse_depth", "generation")}
    some = replace(some, **{name: x.contiguous() for name, x in cut.items()})
    to = [torch.cat(x).to(DEVICE) for x in zip(*(v for _, v in given), strict=True)]
    assert_drawn_alike(warp(some, *to), kernels(some, *to))


def flight(seed: int) -> tuple[Sources, tuple[Tensor, Tensor]]:
    """Three sources, of which one may be missing and one was redrawn, and three views that they show in part."""
    poses = torch.stack([pose(), pose(yaw=0.2, at=(1.0, 0.1, 0.5)), pose(yaw=-0.3, at=(0, 0, -1.0))])
    some = sources(smooth(3, seed), hilly(3, seed), poses)
    some.generation[0, 1] = 5
    some.inverse_depth[0, 0, 4:9, 6:15] = -1  # carved
    some = some.only(torch.tensor([[True, True, seed != 2]]))
    return some, views(pose(yaw=0.05, at=(0.2, 0, 0.3)), pose(yaw=1.2), pose(yaw=3.0, at=(0, 0, 4.0)))


def assert_drawn_alike(a: Warped, b: Warped) -> None:
    """The same but for pixels whose position rounds to the other side."""
    for f in fields(Warped):
        x, y = getattr(a, f.name), getattr(b, f.name)
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
    for w in (a, b):
        assert (w.inverse_depth[w.mask == 0] == 0).all()
    assert 0.02 < a.mask.float().mean() < 0.95
    same = (a.mask == b.mask) & (a.generation == b.generation)
    assert same.float().mean() > 0.999
    assert ((a.rgb.int() - b.rgb.int()).abs().amax(-1) <= 1)[same].float().mean() > 0.999
    assert ((a.magnification - b.magnification).abs() < 1e-4)[same].float().mean() > 0.999
    assert ((a.inverse_depth - b.inverse_depth).abs() < 1e-5)[same].float().mean() > 0.999


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the worlds with")
def test_a_real_world_with_true_depth() -> None:
    """At the level of the design's measurement: covered pixels of the last frame of chunk 1, median of worlds ≥ 33 dB."""
    renderer, found = Renderer("cpu"), []
    for seed, player in ((3, 5), (7, 9), (21, 12)):
        worlds, zero = renderer.build([seed]), torch.zeros(1, dtype=torch.int64)
        poses, lens = renderer.fly(worlds, index=zero, seeds=[player], frames=9)
        ends = [0, 8]
        rgb, d = renderer.render(worlds, index=zero.expand(2), poses=poses[0, ends], intrinsics=lens[0, ends])
        seen = Sources(
            rgb=rgb[None, :1],
            inverse_depth=d[None, :1],
            generation=torch.zeros(1, 1, 160, 256, dtype=torch.uint8),
            poses=poses[:, :1].double(),
            intrinsics=lens[:, :1].double(),
            index=torch.zeros(1, 1, dtype=torch.int64),
        )
        out = warp(seen, poses[:, 8:], lens[:, 8:])
        covered = out.mask[0, 0].bool()
        assert covered.float().mean() > 0.6
        made, true = (p[covered].float().T[..., None] / 127.5 - 1 for p in (out.rgb[0, 0], rgb[1]))
        found.append(float(psnr(made, true)))
    assert sorted(found)[1] >= 33


def test_projections_are_inverse() -> None:
    a, b = pose(yaw=0.3, at=(1.0, 2.0, 3.0)), pose(yaw=-0.4, at=(0.5, 2.0, 3.5))
    there, back = between(a, LENS, b, LENS).double(), between(b, LENS, a, LENS).double()
    p = torch.tensor([20.5, 11.5, 1.0, 0.25]).double()
    q = there @ p
    q = torch.cat([q / q[2], (p[3] / q[2])[None]])
    r = back @ q
    assert torch.allclose(torch.cat([r / r[2], (q[3] / r[2])[None]]), p, atol=1e-4)
