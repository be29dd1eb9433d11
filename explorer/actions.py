"""Poses back to action strings: which keys, held how long, make exactly this path. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, product

import numpy as np

from engine.camera import Array
from explorer.dialect import MAX_TEXT, Dialect, Held, Motion, Rolling, advance, named
from explorer.trajectory import Trajectory

TOLERANCE = 1e-6  # of a pose, and per metre from its start: what float32 files keep

_CHOICES: tuple[Held, ...] = tuple(
    sorted(
        (
            frozenset((axis, float(sign)) for axis, sign in enumerate(signs) if sign)
            for signs in product((0, 1, -1), repeat=4)
        ),
        key=len,
    )
)


def as_actions(trajectory: Trajectory, *, dialect: str = "sana", motion: Motion | None = None) -> str:
    """The action string whose roll-out, begun at the first pose, is this path.

    Raises ValueError, naming the frame, for a path that no keys of the dialect make.
    """
    rule = named(dialect)
    poses = np.linalg.inv(trajectory.poses[0]) @ trajectory.poses
    if len(poses) < 2:
        raise ValueError("a path of one pose is no action string: give at least two poses")
    text = ",".join(
        f"{keys}-{len(list(group))}"
        for keys, group in groupby(
            _letters(held, rule) for held in _decipher(poses, rule, motion or rule.motion, dialect)
        )
    )
    if len(text) > MAX_TEXT:
        raise ValueError(f"the action string would have {len(text)} characters: split the path")
    return text


def _decipher(poses: Array, rule: Dialect, motion: Motion, dialect: str) -> Iterator[Held]:
    """The controls held in each frame; where several explain a frame, those held before, else the fewest."""
    state = Rolling()
    for i, pose in enumerate(poses[1:], start=1):
        limit = TOLERANCE * max(1.0, float(np.abs(pose[:3, 3]).max()))
        tries = (advance(state, held, rule, motion) for held in (state.held, *_CHOICES))
        found = next((new for new in tries if np.abs(new.pose - pose).max() < limit), None)
        if found is None:
            raise ValueError(
                f"the path is no action string of '{dialect}' ({motion.speed:g} per second, "
                f"{motion.turn:g}°/s): no keys lead to frame {i}; write poses instead, such as opencv"
            )
        yield found.held
        state = found


def _letters(held: Held, rule: Dialect) -> str:
    """In the order in which the dialect lists its keys, one key per control."""
    names = {control: key for key, control in reversed(list(rule.keys.items()))}
    return "".join(sorted((names[c] for c in held), key=list(rule.keys).index)) or "none"
