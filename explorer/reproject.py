"""From where a generated frame is drawn again: the pilot's pose now, on a leash. Pure; `explorer/redraw.py` draws it.

    p = T (u, v, 1) + s q          T = Kₛ Rₛᵀ Rₜ Kₜ⁻¹,  s = Kₛ Rₛᵀ (cₜ - cₛ)
    (u', v') = (p₀, p₁) / p₂,  d = q / p₂

takes a point (u, v) of the view t, of inverse depth q there, to the frame s, where its inverse depth is d. Coordinates
are shares of width and height, so that they hold at any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from pyquaternion import Quaternion

from engine.camera import Array, Intrinsics, Pose
from engine.frame import Frame
from explorer.pilot import angles, oriented

SHOWN = 0.85  # share of a generated picture's width and height that is shown: the rest is there to turn into
FREE_TURN, MOST_TURN = (
    0.10,
    0.26,
)  # rad: a view leads what is generated freely up to this, and never further than that
FREE_MOVE, MOST_MOVE = 0.10, 0.30  # the same, as shares of the median distance of things
GLIDE = 20.0  # 1/s: rate at which the anchor of the leash follows the generated camera
SOFTEST = 4.0  # metres: that distance where a frame knows of nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A camera on the screen."""

    pose: Pose
    lens: Intrinsics  # of the picture shown

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for views that show the same."""
        return (self.pose.q.elements.tobytes(), self.pose.t.tobytes(), self.lens)


def shown_lens(lens: Intrinsics) -> Intrinsics:
    """The lens of the central part that is shown, in a picture of the same size."""
    w, h = lens.width, lens.height
    return replace(
        lens,
        fx=lens.fx / SHOWN,
        fy=lens.fy / SHOWN,
        cx=w / 2 + (lens.cx - w / 2) / SHOWN,
        cy=h / 2 + (lens.cy - h / 2) / SHOWN,
    )


def leashed(pose: Pose, anchor: Pose, *, reach: float | None) -> Pose:
    """`pose`, but no further from `anchor`, where the generated camera is, than its picture carries.

    Near the anchor nothing changes; beyond, the lead grows ever slower.  reach: median distance of things in metres;
    None: unknown, and the view only turns.
    """
    turn = np.subtract(angles(pose), angles(anchor))
    turn[0] = math.remainder(turn[0], math.tau)
    yaw, pitch, roll = np.add(
        angles(anchor), turn * _share(float(np.linalg.norm(turn)), FREE_TURN, MOST_TURN)
    )
    lead = pose.t - anchor.t
    if reach is None:
        lead = np.zeros(3)
    else:
        lead = lead * _share(float(np.linalg.norm(lead)), FREE_MOVE * reach, MOST_MOVE * reach)
    return Pose(oriented(yaw, pitch, roll), anchor.t + lead)


def _share(size: float, free: float, most: float) -> float:
    """What is left of a lead: all of it up to `free`, then less, smoothly, never reaching `most`."""
    if size <= free:
        return 1.0
    return (free + (most - free) * math.tanh((size - free) / (most - free))) / size


def part_way(a: Pose, b: Pose, share: float) -> Pose:
    """Between two poses: 0 is `a`, 1 is `b`."""
    return Pose(Quaternion.slerp(a.q, b.q, share), a.t + share * (b.t - a.t))


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where the generated camera is taken to be: it glides where a late chunk begins elsewhere than the last stopped."""

    pose: Pose
    at: float  # perf_counter seconds

    def towards(self, pose: Pose, now: float) -> Anchor:
        """One look later, when the generated camera is at `pose`."""
        share = -math.expm1(-GLIDE * max(now - self.at, 0.0))
        return Anchor(part_way(self.pose, pose, share), now)


def reach_of(frame: Frame) -> float | None:
    """Median distance of things in metres; None where the frame has no depth."""
    if frame.inverse_depth is None:
        return None
    things = frame.inverse_depth[::4, ::4].astype(np.float32)
    things = things[things > 0]
    return 1.0 / float(np.median(things)) if things.size else SOFTEST


def transfer(frame: Pose, lens: Intrinsics, view: View) -> tuple[Array, Array]:
    """T [3, 3] and s [3] of the module's first lines, float64."""
    K, L = _shares(lens), _shares(view.lens)
    back = frame.R.T
    return K @ back @ view.pose.R @ np.linalg.inv(L), K @ back @ (view.pose.t - frame.t)


def _shares(lens: Intrinsics) -> Array:
    """[3, 3] from rays to shares of the picture."""
    w, h = lens.width, lens.height
    return np.array([[lens.fx / w, 0, lens.cx / w], [0, lens.fy / h, lens.cy / h], [0, 0, 1.0]])


def travel(T: Array, s: Array, *, nearest: float, size: tuple[int, int]) -> float:
    """The furthest that translation moves a point of the frame, in its pixels. nearest: inverse depth, 1/m."""
    corners = np.array([(u, v, 1.0) for u in (0, 0.5, 1) for v in (0, 0.5, 1)]) @ T.T
    moved = corners + s * nearest
    ahead = (corners[:, 2] > 1e-3) & (moved[:, 2] > 1e-3)
    if not ahead.all():
        return math.inf
    way = moved[:, :2] / moved[:, 2:] - corners[:, :2] / corners[:, 2:]
    return float(np.abs(way * size).max())
