"""Where a video was filmed from, judged by its pictures and their depth alone.

Corners of a keyframe, lifted to 3-D by its depth, are followed from frame to frame (Lucas-Kanade on pyramids, checked
backwards), and every few frames the camera is solved from where they are seen (PnP with RANSAC, refined on inliers).
When too few are left the last solved frame becomes the keyframe. Rotations do not need the depth to be right, only
its order; translations follow its scale, which the comparison of paths takes out once per flight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]

EVERY = 4  # frames between solved poses, as in SANA-WM-Bench
CORNERS: dict[str, Any] = dict(maxCorners=400, qualityLevel=0.001, minDistance=4, blockSize=5)
FLOW: dict[str, Any] = dict(
    winSize=(11, 11), maxLevel=3, criteria=(3, 30, 0.003)
)  # 30 rounds, or 0.003 pixels
BACKWARDS = 0.5  # pixels by which a corner followed there and back may miss
OFF = 1.0  # pixels: reprojection error of an inlier
LEFT = 0.7  # share of a keyframe's corners below which the next keyframe begins
LEAST = 24  # corners from which a pose is solved
EDGE = 0.3  # share by which inverse depths of one surface differ between neighbours at most
FAREST = 2000.0  # metres: where the sky is put


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """What was found of one video."""

    poses: Array  # [n, 4, 4] camera to world, of frames 0, 4, 8, …; the first is the identity
    solved: float  # share of them that the pictures decided; in the others the camera is taken to stand


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
    poses, solved = [np.eye(4)], 0
    for i in range(1, len(greys)):
        _follow(key, greys[i - 1], greys[i])
        if i % EVERY:
            continue
        relative = _solve(key, K, guess=np.linalg.inv(poses[-1]) @ key.pose)
        solved += relative is not None
        poses.append(poses[-1] if relative is None else key.pose @ np.linalg.inv(relative))
        if relative is None or len(key.seen) < max(LEAST * 2, LEFT * key.begun):
            key = _keyframe(greys[i], inverse_depth[i // EVERY], K, poses[-1])
    return Track(poses=np.stack(poses), solved=solved / max(1, len(poses) - 1))


def _keyframe(grey: Picture, inverse_depth: NDArray[np.floating], K: Array, pose: Array) -> _Keyframe:
    found = cv2.goodFeaturesToTrack(grey, **CORNERS)
    seen = np.zeros((0, 1, 2), np.float32) if found is None else np.asarray(found, np.float32)
    x, y = seen[:, 0].T
    depth = 1 / np.maximum(_sampled(inverse_depth.astype(np.float64), x, y), 1 / FAREST)
    rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones(len(x))], axis=1)
    return _Keyframe(pose=pose, points=rays * depth[:, None], seen=seen, begun=len(seen))


def _sampled(inverse_depth: Array, x: Array, y: Array) -> Array:
    """Inverse depth between four pixels where they belong to one surface, else that of the nearest."""
    height, width = inverse_depth.shape
    left = np.clip(np.floor(x).astype(int), 0, width - 2)
    top = np.clip(np.floor(y).astype(int), 0, height - 2)
    four = np.stack([inverse_depth[top + j, left + i] for j in (0, 1) for i in (0, 1)])
    a, b = x - left, y - top
    mean = (four * np.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b])).sum(axis=0)
    one = four.max(axis=0) - four.min(axis=0) <= EDGE * four.max(axis=0)
    nearest = inverse_depth[
        np.clip(y.round().astype(int), 0, height - 1), np.clip(x.round().astype(int), 0, width - 1)
    ]
    return np.where(one, mean, nearest)


def _follow(key: _Keyframe, before: Picture, now: Picture) -> None:
    """Move the corners on by one frame; those that are lost go."""
    if not len(key.seen):
        return
    empty: Any = None
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, now, key.seen, empty, **FLOW)
    back, again, _ = cv2.calcOpticalFlowPyrLK(now, before, there, empty, **FLOW)
    height, width = now.shape
    x, y = there[:, 0].T
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    missed = np.linalg.norm(back - key.seen, axis=2)[:, 0]
    key.seen = np.asarray(there, np.float32)
    key.keep((found[:, 0] == 1) & (again[:, 0] == 1) & (missed < BACKWARDS) & inside)


def _solve(key: _Keyframe, K: Array, *, guess: Array) -> Array | None:
    """The motion [4, 4] that takes points from the keyframe's axes to the camera's; None if the pictures do not say."""
    if len(key.seen) < LEAST:
        return None
    pixels, lens = key.seen.astype(np.float64), np.zeros(4)
    turn: Any = cv2.Rodrigues(guess[:3, :3])[0]
    shift: Any = guess[:3, 3:].copy()
    ok, turn, shift, inliers = cv2.solvePnPRansac(
        key.points, pixels, K, lens, turn, shift, useExtrinsicGuess=True, iterationsCount=200, reprojectionError=OFF
    )  # fmt: skip
    if not ok or inliers is None or len(inliers) < LEAST:
        return None
    chosen = inliers[:, 0]
    turn, shift = cv2.solvePnPRefineLM(key.points[chosen], pixels[chosen], K, lens, turn, shift)
    which = np.zeros(len(key.seen), np.bool_)
    which[chosen] = True
    key.keep(which)
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = cv2.Rodrigues(turn)[0], shift[:, 0]
    return out
