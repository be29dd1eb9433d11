"""Sessions driven until something has happened."""

from __future__ import annotations

import time
from collections.abc import Callable

from explorer.controls import Steering
from explorer.pacer import Shown
from explorer.session import Session


def run(
    session: Session, steering: Steering, until: Callable[[list[Shown]], object], *, limit: float
) -> list[Shown]:
    """Tick until `until` holds of the frames shown so far, which are returned; fails after `limit` seconds."""
    shown: list[Shown] = []
    deadline = time.perf_counter() + limit
    while not until(shown):
        assert session.stage != "failed", session.note
        assert time.perf_counter() < deadline, f"{session.stage}: {session.note}, {len(shown)} frames"
        shown += session.tick(steering, now=time.perf_counter())
        time.sleep(0.005)
    return shown
