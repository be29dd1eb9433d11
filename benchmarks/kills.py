"""Kill the engine again and again in one flight, and say what that cost.

    python -m benchmarks.kills [--kills 10] [--assets DIR]

Prints for every kill the seconds until the next generated frame, the chunks lost and the longest stall of the loop that
stands for the window; exits with 1 when a kill loses more than one chunk.
"""

# ruff: noqa: T201 -- a table is what it is for
from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from explorer.assets import assets_folder, load_gallery
from explorer.controls import Hands
from explorer.session import Session

REFRESH = 1 / 60  # seconds
STEERING = Hands().press("w", now=0.0).steering


@dataclass
class Watch:
    """The loop of a window without a window."""

    session: Session
    stall: float = 0.0  # longest time between two refreshes since the last look, seconds
    newest: int = -1  # index of the frame shown last
    again: int = 0  # frames shown twice since the last look

    def until(self, index: int) -> None:
        """Fly until this frame is shown."""
        last = time.perf_counter()
        while self.newest < index:
            if self.session.stage == "failed":
                raise SystemExit(f"the flight ended: {self.session.note}")
            for shown in self.session.tick(STEERING, now=time.perf_counter()):
                self.again += max(self.newest - shown.frame.index + 1, 0)
                self.newest = shown.frame.index
            now = time.perf_counter()
            self.stall, last = max(self.stall, now - last), now
            time.sleep(REFRESH)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--assets", type=Path, default=None)
    options = parser.parse_args()
    assets = options.assets or assets_folder()
    session = Session("pocket", assets=assets, device="auto")
    try:
        return kill(session, assets, options.kills)
    finally:
        session.stop()


def kill(session: Session, assets: Path, kills: int) -> int:
    session.begin(load_gallery(assets / "gallery")[0])
    watch = Watch(session)
    watch.until(32)
    worst, times = 0, []
    print("kill  seconds  frames again  stall ms")
    for n in range(1, kills + 1):
        watch.again, watch.stall = 0, 0.0
        before, started = watch.newest, time.perf_counter()
        assert session.engine.pid is not None
        os.kill(session.engine.pid, signal.SIGKILL)
        watch.until(before + 1 + 8)
        times.append(time.perf_counter() - started)
        worst = max(worst, watch.again)
        print(f"{n:4d}  {times[-1]:7.2f}  {watch.again:12d}  {watch.stall * 1e3:8.0f}", flush=True)
        watch.until(watch.newest + 24)
    rows = session.history.trajectory()
    steps = np.linalg.norm(np.diff(rows[:, :3], axis=0), axis=1)
    print(
        f"{session.recoveries} recoveries, {len(rows)} frames in one line, longest step {steps.max():.2f} m; "
        f"seconds to a new frame: median {np.median(times):.2f}, worst {max(times):.2f}; "
        f"a state has {session.history.spool.in_memory / session.history.spool.count / 1e6:.1f} MB and is kept in "
        f"{np.median(session.stats.keeping) * 1e3:.0f} ms"
    )
    return 1 if worst > 8 else 0


if __name__ == "__main__":
    sys.exit(main())
