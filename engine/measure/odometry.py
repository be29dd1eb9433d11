"""Where a video was filmed from, judged by its pictures and their depth alone.

Corners of a keyframe, lifted to 3-D by its depth, are followed from frame to frame (Lucas-Kanade on pyramids, begun where
the turn so far would put them, checked backwards), and every few frames the camera is solved from where they are seen
(PnP with RANSAC, refined on inliers). When too few are left the last solved frame becomes the keyframe. Rotations do
not need the depth to be right, only its order; translations follow its scale, which the comparison of paths takes out
once per flight. Where nothing is near enough to tell of a translation, as in the sky, the turn alone is solved, from
directions (RANSAC over pairs of them, then Kabsch 1976), and the camera moves on as it did. Where pictures do not even
say that, the camera is lost until it recognises a place (`engine/measure/recognise.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.measure.perspective import nearest, points_at, rays, solve_pnp
from engine.measure.recognise import View, recognised

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]

EVERY = 4  # frames between solved poses, as in SANA-WM-Bench
CORNERS: dict[str, Any] = dict(maxCorners=400, qualityLevel=0.001, minDistance=4, blockSize=5)
FLOW: dict[str, Any] = dict(
    winSize=(11, 11), maxLevel=3, criteria=(3, 30, 0.003), flags=cv2.OPTFLOW_USE_INITIAL_FLOW
)  # 30 rounds, or 0.003 pixels
BACKWARDS = 0.5  # pixels by which a corner followed there and back may miss
OFF, TRIES = 1.0, 200  # pixels: reprojection error of an inlier; and samples drawn
LEFT = 0.7  # share of a keyframe's corners below which the next keyframe begins
LEAST = 24  # corners from which a pose is solved
PAIRS, TURN_OFF, TURN_LEAST = 200, 2.0, 12  # tries, pixels and corners of a turn alone
TURN_SHARE = 0.4  # of the corners that a turn alone must explain
TELLS, TELLING = 150.0, 12  # metres: corners nearer than that tell of a translation, and how many have to
EDGE = 0.3  # share by which inverse depths of one surface differ between neighbours at most
SWERVE, LEAP = 30.0, 12.0  # degrees and metres off going on as before, at most, in `EVERY` frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """What was found of one video."""

    poses: Array  # [n, 4, 4] camera to world, of frames 0, 4, 8, …; the first is the identity
    solved: float  # share of them that the pictures decided; in the others the camera goes on as before


@dataclass(slots=True)
class _Keyframe:
    """Corners being followed. points: [k, 3] metres, in the axes of the keyframe; seen: [k, 1, 2] pixels, now."""

    pose: Array
    points: Array
    seen: NDArray[np.float32]
    begun: int

    def keep(self, which: NDArray[np.bool_]) -> None:
        self.points, self.seen = self.points[which], self.seen[which]


def track(frames: Picture, inverse_depth: NDArray[np.floating], intrinsics: NDArray[np.floating]) -> Track:
    """frames: uint8 [P, Y, X, 3].  inverse_depth: [⌈P / 4⌉, Y, X] in 1/m, sky 0, of every fourth frame.

    intrinsics: fx, fy, cx, cy in pixels, of pixel centres at half-integers.
    """
    fx, fy, cx, cy = (float(v) for v in intrinsics)
    K = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])  # OpenCV counts from pixel centres
    greys = [np.asarray(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), np.uint8) for f in frames]
    key = _keyframe(greys[0], inverse_depth[0], K, np.eye(4))
    poses, step, solved = [np.eye(4)], np.eye(4), [True]
    views = [View(greys[0], inverse_depth[0], 0)]
    lost = 0  # the first pose that nothing ties to those before; 0: all are tied
    for i in range(1, len(greys)):
        _follow(key, greys[i - 1], greys[i], expected=_moved_by(key.seen, K, step[:3, :3]))
        if i % EVERY:
            continue
        at = i // EVERY
        guess = np.linalg.inv(poses[-1] @ step) @ key.pose
        relative = _solve(key, K, guess=guess)
        solved.append(relative is not None)
        poses.append(key.pose @ np.linalg.inv(guess if relative is None else relative))
        step = np.linalg.inv(poses[-2]) @ poses[-1]
        if relative is None:
            lost = lost or at
        place = recognised(views, greys[i], K) if lost else None
        if place is not None:
            view, relative = place
            _tie(poses, solved, poses[view] @ np.linalg.inv(relative), lost)
            solved[-1], lost, step = True, 0, np.eye(4)
        if place is not None or relative is None or len(key.seen) < max(LEAST * 2, LEFT * key.begun):
            key = _keyframe(greys[i], inverse_depth[at], K, poses[-1])
            if not lost:
                views.append(View(greys[i], inverse_depth[at], at))
    return Track(poses=np.stack(poses), solved=sum(solved[1:]) / max(1, len(poses) - 1))


def _tie(poses: list[Array], solved: list[bool], here: Array, lost: int) -> None:
    """Put the newest pose to `here`, with it what was followed since the pictures last did not decide, and the gap between."""
    first = len(poses) - 1
    while first > lost and solved[first]:
        first -= 1
    first = min(first + 1, len(poses) - 1)
    off = here @ np.linalg.inv(poses[-1])
    poses[first:] = [off @ pose for pose in poses[first:]]
    before, after = poses[lost - 1], poses[first]
    apart = np.linalg.inv(before) @ after
    turn = np.asarray(cv2.Rodrigues(apart[:3, :3])[0])
    for i in range(lost, first):
        share, between = (i - lost + 1) / (first - lost + 1), np.eye(4)
        between[:3, :3], between[:3, 3] = cv2.Rodrigues(share * turn)[0], share * apart[:3, 3]
        poses[i] = before @ between


def _moved_by(seen: NDArray[np.float32], K: Array, turn: Array) -> NDArray[np.float32]:
    """Where pixels [k, 1, 2] are a frame later if the camera goes on turning by `turn` [3, 3] in `EVERY` frames."""
    vector, _ = cv2.Rodrigues(turn)
    back, _ = cv2.Rodrigues(-np.asarray(vector) / EVERY)
    ahead = rays(seen[:, 0], K) @ np.asarray(back).T
    there = ahead[:, :2] / np.maximum(ahead[:, 2:], 1e-3) * (K[0, 0], K[1, 1]) + (K[0, 2], K[1, 2])
    out: NDArray[np.float32] = there[:, None].astype(np.float32)
    return out


def _keyframe(grey: Picture, inverse_depth: NDArray[np.floating], K: Array, pose: Array) -> _Keyframe:
    found = cv2.goodFeaturesToTrack(grey, **CORNERS)
    seen = np.zeros((0, 1, 2), np.float32) if found is None else np.asarray(found, np.float32)
    points = points_at(seen[:, 0], _sampled(inverse_depth.astype(np.float64), *seen[:, 0].T), K)
    return _Keyframe(pose=pose, points=points, seen=seen, begun=len(seen))


def _sampled(inverse_depth: Array, x: Array, y: Array) -> Array:
    """Inverse depth between four pixels where they belong to one surface, else that of the nearest."""
    height, width = inverse_depth.shape
    left = np.clip(np.floor(x).astype(int), 0, width - 2)
    top = np.clip(np.floor(y).astype(int), 0, height - 2)
    four = np.stack([inverse_depth[top + j, left + i] for j in (0, 1) for i in (0, 1)])
    a, b = x - left, y - top
    mean = (four * np.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b])).sum(axis=0)
    one = four.max(axis=0) - four.min(axis=0) <= EDGE * four.max(axis=0)
    return np.where(one, mean, nearest(inverse_depth, x, y))


def _follow(key: _Keyframe, before: Picture, now: Picture, *, expected: NDArray[np.float32]) -> None:
    """Move the corners on by one frame; those that are lost go. expected: about where they are then, [k, 1, 2]."""
    if not len(key.seen):
        return
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, now, key.seen, expected.copy(), **FLOW)
    back = np.asarray(there, np.float32) - (expected - key.seen)
    back, again, _ = cv2.calcOpticalFlowPyrLK(now, before, there, back, **FLOW)
    height, width = now.shape
    x, y = there[:, 0].T
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    missed = np.linalg.norm(back - key.seen, axis=2)[:, 0]
    key.seen = np.asarray(there, np.float32)
    key.keep((found[:, 0] == 1) & (again[:, 0] == 1) & (missed < BACKWARDS) & inside)


def _solve(key: _Keyframe, K: Array, *, guess: Array) -> Array | None:
    """The motion [4, 4] that takes points from the keyframe's axes to the camera's; None if the pictures do not say."""
    seen, points = key.seen, key.points
    for way in (_pose, _turn):
        found = way(key, K, guess=guess)
        if found is not None and _steady(found @ np.linalg.inv(guess)):
            return found
        key.seen, key.points = seen, points
    return None


def _steady(apart: Array) -> bool:
    """Whether a camera may have departed so far, [4, 4], from going on as before."""
    angle = np.linalg.norm(np.asarray(cv2.Rodrigues(apart[:3, :3])[0]))
    return bool(np.degrees(angle) < SWERVE and np.linalg.norm(apart[:3, 3]) < LEAP)


def _pose(key: _Keyframe, K: Array, *, guess: Array) -> Array | None:
    """All six degrees of freedom."""
    if len(key.seen) < LEAST or (key.points[:, 2] < TELLS).sum() < TELLING:
        return None
    pixels = key.seen[:, 0].astype(np.float64)
    solved = solve_pnp(key.points, pixels, K, off=OFF, tries=TRIES, least=LEAST, guess=guess)
    if solved is None:
        return None
    motion, inliers = solved
    which = np.zeros(len(key.seen), np.bool_)
    which[inliers] = True
    key.keep(which)
    return motion


def _turn(key: _Keyframe, K: Array, *, guess: Array) -> Array | None:
    """The turn alone; the camera is where the guess has it."""
    count = len(key.seen)
    if count < TURN_LEAST:
        return None
    at = key.points + guess[:3, :3].T @ guess[:3, 3]  # as seen from there, in the axes of the keyframe
    before, now = _unit(at), _unit(rays(key.seen[:, 0], K))
    pairs = np.random.default_rng(0).integers(count, size=(PAIRS, 2))
    turns = _triads(now[pairs]) @ _triads(before[pairs]).swapaxes(1, 2)
    off = TURN_OFF / K[0, 0]  # radians
    near = np.linalg.norm(np.einsum("pij,kj->pki", turns, before) - now, axis=-1) < off
    chosen = near[near.sum(axis=1).argmax()]
    for _ in range(3):
        if chosen.sum() < max(TURN_LEAST, TURN_SHARE * count):
            return None
        U, _, Vt = np.linalg.svd(now[chosen].T @ before[chosen])
        turn = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
        chosen = np.linalg.norm(before @ turn.T - now, axis=-1) < off
    key.keep(chosen)
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = turn, turn @ guess[:3, :3].T @ guess[:3, 3]
    return out


def _unit(x: Array) -> Array:
    out: Array = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return out


def _triads(pairs: Array) -> Array:
    """Right-handed axes [p, 3, 3] that pairs [p, 2, 3] of directions span, one per column."""
    a, b = pairs[:, 0], pairs[:, 1]
    c = _unit(np.cross(a, b))
    return np.stack([a, c, np.cross(a, c)], axis=-1)
