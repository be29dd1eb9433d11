"""Where a camera that was lost is again: a picture compared with those of places that it has been to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.measure.perspective import nearest, points_at, solve_pnp

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]
Features = tuple[Array, NDArray[np.float32]]  # pixels [k, 2] and descriptors [k, 128]

SIFT: dict[str, Any] = dict(nfeatures=400, contrastThreshold=0.01)
RATIO = 0.75  # a match is believed that is so much closer than the next best. Source: Lowe 2004, §7.1
OFF, TRIES = 1.5, 300  # pixels: reprojection error of an inlier; and samples drawn
LEAST, SHARE = 16, 0.6  # inliers, and of all matches, from which on a place is the same
SPREAD = 12.0  # pixels: their standard deviation across or down at least, for no single thing tells a place


@dataclass(slots=True)
class View:
    """A picture of a place. Its features are found when they are first asked for."""

    grey: Picture
    inverse_depth: NDArray[np.floating]
    pose: int  # which of the poses it was taken from
    features: Features | None = field(default=None)


def recognised(views: Sequence[View], grey: Picture, K: Array) -> tuple[int, Array] | None:
    """The pose of a view that shows the place in `grey`, and the motion [4, 4] that takes points from its axes to the camera's.

    The newest of the views that do; None where none does.
    """
    now = _features(grey)
    for view in reversed(views):
        view.features = view.features or _features(view.grey)
        found = _motion(view, view.features, now, K)
        if found is not None:
            return view.pose, found
    return None


def _features(grey: Picture) -> Features:
    found, what = cv2.SIFT_create(**SIFT).detectAndCompute(grey, None)  # type: ignore[attr-defined]
    if what is None:
        return np.zeros((0, 2)), np.zeros((0, 128), np.float32)
    return np.array([p.pt for p in found], np.float64), np.asarray(what, np.float32)


def _motion(view: View, then: Features, now: Features, K: Array) -> Array | None:
    if min(len(then[0]), len(now[0])) < LEAST:
        return None
    pairs = cv2.BFMatcher().knnMatch(then[1], now[1], k=2)
    good = [(a.queryIdx, a.trainIdx) for a, b in pairs if a.distance < RATIO * b.distance]
    if len(good) < LEAST:
        return None
    there, here = (np.array(side) for side in zip(*good, strict=True))
    pixels, seen = then[0][there], now[0][here]
    points = points_at(pixels, nearest(view.inverse_depth, *pixels.T), K)
    solved = solve_pnp(points, seen, K, off=OFF, tries=TRIES, least=max(LEAST, SHARE * len(good)))
    if solved is None:
        return None
    motion, inliers = solved
    return motion if seen[inliers].std(axis=0).max() >= SPREAD else None
