"""Pixels, points and motions of a pinhole camera, for those who look for where one was."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FAREST = 2000.0  # metres: where the sky is put


def rays(pixels: NDArray[np.floating], K: Array) -> Array:
    """Directions [k, 3] of pixels [k, 2], in the axes of the camera, of length 1 along z."""
    x, y = pixels.astype(np.float64).T
    return np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones(len(x))], axis=1)


def points_at(pixels: NDArray[np.floating], inverse_depth: Array, K: Array) -> Array:
    """Points [k, 3] in metres, in the axes of the camera, that pixels [k, 2] of inverse depth [k] in 1/m show."""
    depth = 1 / np.maximum(inverse_depth, 1 / FAREST)
    return rays(pixels, K) * depth[:, None]


def nearest(picture: NDArray[np.floating], x: NDArray[np.floating], y: NDArray[np.floating]) -> Array:
    """picture [Y, X] at the pixels nearest to x, y [k]."""
    height, width = picture.shape
    row, column = np.clip(y.round().astype(int), 0, height - 1), np.clip(x.round().astype(int), 0, width - 1)
    return picture[row, column].astype(np.float64)


def solve_pnp(
    points: Array,
    pixels: Array,
    K: Array,
    *,
    off: float,
    tries: int,
    least: float,
    guess: Array | None = None,
) -> tuple[Array, NDArray[np.intp]] | None:
    """The motion [4, 4] that takes points [k, 3] to where pixels [k, 2] show them, by RANSAC and refined, and its inliers.

    off: reprojection error of an inlier in pixels.  guess: to begin with.  None where fewer than `least` are inliers.
    """
    lens, begin = np.zeros(4), dict[str, Any]()
    turn: Any
    shift: Any
    if guess is not None:
        turn, shift = cv2.Rodrigues(guess[:3, :3])[0], guess[:3, 3:].copy()
        begin = dict(rvec=turn, tvec=shift, useExtrinsicGuess=True)
    ok, turn, shift, inliers = cv2.solvePnPRansac(
        points, pixels, K, lens, iterationsCount=tries, reprojectionError=off, **begin
    )
    if not ok or inliers is None or len(inliers) < least:
        return None
    chosen = np.asarray(inliers, np.intp)[:, 0]
    turn, shift = cv2.solvePnPRefineLM(points[chosen], pixels[chosen], K, lens, turn, shift)
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = cv2.Rodrigues(turn)[0], np.asarray(shift)[:, 0]
    return out, chosen
