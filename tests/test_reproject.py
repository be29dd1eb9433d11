"""Frames drawn from another pose: against OpenCV's homography in fp64, and against worlds rendered from that pose."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import cv2
import moderngl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.camera import Intrinsics, Pose
from engine.frame import Frame
from engine.worlds.renderer import Renderer, Worlds
from explorer.fineness import PATIENCE, WAYS, Fineness
from explorer.pilot import angles, oriented
from explorer.redraw import Redraw
from explorer.reproject import (
    FREE_TURN,
    MOST_MOVE,
    MOST_TURN,
    View,
    leashed,
    reach_of,
    shown_lens,
    transfer,
    travel,
)

SIZE = (256, 160)
LENS = Intrinsics.from_fov(1.2, width=SIZE[0], height=SIZE[1])
angle, metre = st.floats(-0.5, 0.5), st.floats(-5, 5)
poses = st.builds(
    lambda yaw, pitch, roll, x, y, z: Pose(oriented(yaw, pitch, roll), np.array([x, y, z])),
    angle, angle, angle, metre, metre, metre,
)  # fmt: skip


def pattern() -> NDArray[np.uint8]:
    """Smooth colours: what is compared is where they are, not how they are interpolated."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    waves = (np.sin(x / 9 + 2), np.cos(y / 7), np.sin((x + y) / 11))
    return np.stack([127.5 + 110 * wave for wave in waves], axis=-1).round().astype(np.uint8)


def frame(
    pixels: NDArray[np.uint8], depth: NDArray[np.float16] | None = None, *, pose: Pose, index: int = 1
) -> Frame:
    return Frame(pixels=pixels, pose=pose, intrinsics=LENS, index=index, world="a", inverse_depth=depth)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return -10 * math.log10(max(float(np.mean((a.astype(float) - b) ** 2)), 1e-9) / 255**2)


@given(poses, poses, st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(0.01, 2))
def test_a_point_goes_where_the_cameras_see_it(a: Pose, b: Pose, u: float, v: float, q: float) -> None:
    view = View(pose=b, lens=shown_lens(LENS))
    T, s = transfer(a, LENS, view)
    x, y = u * SIZE[0], v * SIZE[1]
    ray = np.array([(x - view.lens.cx) / view.lens.fx, (y - view.lens.cy) / view.lens.fy, 1.0])
    seen = a.R.T @ (b.t + b.R @ ray / q - a.t)
    p = T @ (u, v, 1.0) + s * q
    np.testing.assert_allclose(p[2], seen[2] * q, atol=1e-9)
    if seen[2] > 0.05:
        where = LENS.fx * seen[0] / seen[2] + LENS.cx, LENS.fy * seen[1] / seen[2] + LENS.cy
        np.testing.assert_allclose(p[:2] / p[2] * SIZE, where, rtol=1e-6, atol=1e-4)


@given(poses, poses, st.floats(0.5, 50))
def test_the_leash_is_exact_near_the_anchor_and_never_longer_than_said(
    pose: Pose, anchor: Pose, reach: float
) -> None:
    got = leashed(pose, anchor, reach=reach)
    lead = np.subtract(angles(got), angles(anchor))
    asked = np.subtract(angles(pose), angles(anchor))
    assert np.linalg.norm(lead) <= MOST_TURN + 1e-9
    assert np.linalg.norm(got.t - anchor.t) <= MOST_MOVE * reach + 1e-9
    if np.linalg.norm(asked) <= FREE_TURN:
        np.testing.assert_allclose(lead, asked, atol=1e-9)
    assert np.dot(lead, asked) >= 0


def test_the_leash_crosses_south_on_the_short_side() -> None:
    a, b = Pose(oriented(math.pi - 0.02, 0, 0)), Pose(oriented(-math.pi + 0.02, 0, 0))
    np.testing.assert_allclose(leashed(b, a, reach=None).R, b.R, atol=1e-9)


def test_without_depth_a_view_only_turns() -> None:
    ahead = Pose(t=np.array([0.0, 0.0, 3.0]))
    assert not leashed(ahead, Pose(), reach=None).t.any()
    assert reach_of(frame(pattern(), pose=Pose())) is None


def test_travel_is_the_furthest_point() -> None:
    view = View(pose=Pose(t=np.array([0.1, 0.0, 0.0])), lens=LENS)
    T, s = transfer(Pose(), LENS, view)
    assert travel(T, s, nearest=0.5, size=SIZE) == pytest.approx(LENS.fx * 0.1 * 0.5)


def test_drawing_grows_coarser_where_it_is_slow_and_finer_where_it_is_not() -> None:
    slow = Fineness(budget=0.01, way=0)
    for _ in range(10 * PATIENCE):
        slow.drew(0.1)
    assert slow.way == len(WAYS) - 1
    fast = Fineness(budget=0.01, way=2)
    for _ in range(10 * PATIENCE):
        fast.drew(0.001)
    assert fast.way == 0


@pytest.fixture(scope="module")
def gl() -> Iterator[moderngl.Context]:
    try:
        context = moderngl.create_context(standalone=True, backend="egl")
    except Exception as error:  # noqa: BLE001 -- moderngl raises the plain class
        pytest.skip(f"no OpenGL to draw in a window with: {error}")
    yield context
    context.release()


def drawn(gl: moderngl.Context, frames: list[Frame], view: View, fade: float = 1.0) -> NDArray[np.uint8]:
    redraw = Redraw(gl)
    for each in frames:
        redraw.add(each)
    texture = gl.texture(SIZE, 4)
    target = gl.framebuffer([texture])
    redraw.draw(target, view, fade=fade)
    out = np.frombuffer(target.read(components=3), np.uint8).reshape(SIZE[1], SIZE[0], 3).copy()
    redraw.clear()
    target.release()
    texture.release()
    return out


@pytest.mark.window
@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (0.08, -0.03, 0.02), (-0.3, 0.2, -0.3)])
def test_turning_is_a_homography(gl: moderngl.Context, turn: tuple[float, float, float]) -> None:
    view = View(pose=Pose(oriented(*turn)), lens=shown_lens(LENS))
    to_pixels = np.diag([*SIZE, 1.0])
    T = to_pixels @ transfer(Pose(), LENS, view)[0] @ np.linalg.inv(to_pixels)
    centre = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])  # OpenCV counts from pixel centres
    H = centre @ T @ np.linalg.inv(centre)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    wanted = cv2.warpPerspective(pattern().astype(np.float64), H, SIZE, flags=flags)
    inside = cv2.warpPerspective(np.ones(SIZE[::-1]), H, SIZE, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    inside = cv2.erode(inside, np.ones((33, 33))) > 0  # without the soft edge
    got = drawn(gl, [frame(pattern(), pose=Pose())], view)
    assert inside.mean() > 0.2
    # OpenCV's cubic is another one, and its coordinates are in 1/32 pixel; slopes here reach 12 levels a pixel
    assert np.abs(got[inside] - wanted[inside]).mean() < 0.5


@pytest.mark.window
def test_past_the_edge_nothing_is_smeared_and_an_older_frame_is_asked(gl: moderngl.Context) -> None:
    red, blue = (np.full((*SIZE[::-1], 3), c, np.uint8) for c in ((200, 0, 0), (0, 0, 200)))
    away = Pose(oriented(0.6, 0, 0))
    frames = [frame(blue, pose=away, index=1), frame(red, pose=Pose(), index=2)]
    picture = drawn(gl, frames, View(pose=Pose(oriented(0.3, 0, 0)), lens=shown_lens(LENS)))
    assert (picture[80, 20] == (200, 0, 0)).all()
    assert (picture[80, 250] == (0, 0, 200)).all()
    steps = np.abs(np.diff(picture[80].astype(int), axis=0)).max()
    assert steps < 60  # a soft edge


@pytest.mark.window
def test_a_newer_frame_fades_in(gl: moderngl.Context) -> None:
    red, blue = (np.full((*SIZE[::-1], 3), c, np.uint8) for c in ((200, 0, 0), (0, 0, 200)))
    frames = [frame(red, pose=Pose(), index=1), frame(blue, pose=Pose(), index=2)]
    view = View(pose=Pose(), lens=shown_lens(LENS))
    assert [tuple(drawn(gl, frames, view, fade)[80, 128]) for fade in (0.0, 0.5, 1.0)] == [
        (200, 0, 0),
        (100, 0, 100),
        (0, 0, 200),
    ]


@pytest.fixture(scope="module")
def worlds() -> tuple[Renderer, Worlds]:
    renderer = Renderer("cpu")
    return renderer, renderer.build([3, 17, 40, 77])


def render(
    worlds: tuple[Renderer, Worlds], i: int, view: View
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    renderer, baked = worlds
    rgb, depth = renderer.render(
        baked,
        index=torch.tensor([i]),
        poses=torch.from_numpy(view.pose.matrix).float()[None],
        intrinsics=torch.from_numpy(view.lens.row).float()[None],
        width=SIZE[0],
        height=SIZE[1],
    )
    return rgb[0].numpy(), depth[0].numpy()


@pytest.mark.window
@pytest.mark.parametrize("i", range(4))
def test_a_moved_view_is_what_a_camera_there_sees(
    gl: moderngl.Context, worlds: tuple[Renderer, Worlds], i: int
) -> None:
    renderer, baked = worlds
    start = renderer.fly(baked, index=torch.tensor([i]), seeds=[i + 1], frames=1)[0]
    pose = Pose.from_matrix(start[0, 0].numpy())
    pixels, depth = render(worlds, i, View(pose=pose, lens=LENS))
    # half a second late at 2 m/s while turning slowly
    there = replace(
        pose, q=(oriented(0.05, 0, 0) * pose.q).normalised, t=pose.t + pose.R @ np.array([0.3, 0.0, 0.9])
    )
    view = View(pose=there, lens=shown_lens(LENS))
    true, _ = render(worlds, i, view)
    raw, _ = render(worlds, i, View(pose=pose, lens=view.lens))
    turned = psnr(drawn(gl, [frame(pixels, pose=pose)], view), true)
    moved = psnr(drawn(gl, [frame(pixels, depth, pose=pose)], view), true)
    assert moved > psnr(raw, true) + 8
    assert moved > turned + 3


@pytest.mark.window
def test_what_the_newest_frame_cannot_see_the_one_before_fills(
    gl: moderngl.Context, worlds: tuple[Renderer, Worlds]
) -> None:
    renderer, baked = worlds
    start = renderer.fly(baked, index=torch.tensor([1]), seeds=[2], frames=1)[0]
    pose = Pose.from_matrix(start[0, 0].numpy())
    beside = replace(pose, t=pose.t + pose.R @ np.array([1.0, 0.0, 0.0]))
    newest, before = (
        frame(*render(worlds, 1, View(pose=p, lens=LENS)), pose=p, index=index)
        for p, index in ((pose, 2), (beside, 1))
    )
    view = View(pose=replace(pose, t=pose.t + pose.R @ np.array([0.5, 0.0, 0.0])), lens=shown_lens(LENS))
    true, _ = render(worlds, 1, view)
    assert psnr(drawn(gl, [before, newest], view), true) > psnr(drawn(gl, [newest], view), true)
