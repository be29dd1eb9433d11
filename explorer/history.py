"""What a flight remembers of itself: its timeline, the states to return to, the pictures to look back at.

Owned by the main thread, in the process of the window: none of it is lost when the engine dies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.frame import Frame
from explorer.assets import Scene
from explorer.messages import Kept
from explorer.recorder import pick_evenly
from explorer.reel import Pixels, Reel, Shot, develop, taken, thumbnail
from explorer.spool import DISK, MEMORY, Spool
from explorer.timeline import Rows, Timeline, pose_row
from explorer.worldfile import THUMBNAILS, Past, write_world

Row = tuple[float, ...]  # a pose, as `pose_row` makes it


class History:
    """Fed with chunks and what was kept of them; asked where a moment lies."""

    def __init__(self, *, memory: int = MEMORY, disk: int = DISK) -> None:
        """memory, disk: bytes for states; beyond both, old moments are thinned out."""
        self.spool = Spool(memory=memory, disk=disk)
        self.timeline = Timeline()
        self.reel = Reel()
        self._since: list[tuple[int, Row, Future[Shot]]] = []  # frames after the newest moment
        self._camera = ThreadPoolExecutor(1, "reel")  # compresses: 24 large frames take a while
        self._rows: list[Row] = []  # poses whose state found no room
        self._past: Past | None = None

    def begin(self, scene: Scene) -> None:
        """Another flight: nothing of the one before is left."""
        self.spool.clear()
        self.timeline, self.reel = Timeline(), Reel()
        self._past = scene.past
        self.lose()
        if (past := scene.past) is not None:
            self.timeline = self.timeline.grow(index=past.index, poses=past.trajectory)
            self.spool.adopt(0, past.path)
            shown = Frame(
                pixels=scene.rgb,
                pose=scene.pose,
                intrinsics=scene.intrinsics,
                index=past.index,
                world=str(past.record.get("world")),
            )
            self.reel.add(0, [shown])

    def lose(self) -> None:
        """Frames after the newest moment will not be part of the flight."""
        self._since, self._rows = [], []

    def flown(self, frames: Iterable[Frame]) -> None:
        """A chunk has arrived."""
        self._since += [
            (frame.index, pose_row(frame.pose), self._camera.submit(taken, frame)) for frame in frames
        ]

    def kept(self, kept: Kept) -> None:
        """Its state has: a moment to return to."""
        flown = [item for item in self._since if item[0] <= kept.index]
        self._since = self._since[len(flown) :]
        self._rows += [row for _, row, _ in flown]
        if not kept.size or not flown:
            return
        rows, self._rows = np.array(self._rows), []
        grown = self.timeline.grow(index=kept.index, poses=rows)
        assert grown.here is not None
        self.spool.keep(grown.here, kept.path, kept.size)
        shots = [shot.result() for _, _, shot in flown]
        self.reel.put(grown.here, shots, thumbnail(develop(shots[-1])))
        self.timeline = self.spool.settle(grown)
        for id in grown.moments.keys() - self.timeline.moments.keys():
            self.reel.forget(id)

    def go(self, id: int) -> Path:
        """Return to a moment: where its state lies, until the next call. Raises KeyError."""
        self.timeline = self.timeline.at(id)
        self.lose()
        return self.spool.hold(id)

    def mark(self, id: int) -> None:
        """Put a bookmark there, or take it away."""
        self.timeline = self.timeline.marked(id)

    def trajectory(self) -> Rows:
        """[n, 7] poses of all frames up to here, those of an opened file included."""
        return self.timeline.trajectory()

    def save(self, path: Path, scene: Scene) -> Future[int]:
        """Write the moment that is here as a .world file, on the spool's thread. The future raises ValueError.

        Raises ValueError at once where there is nothing to save yet.
        """
        here = self.timeline.here
        if here is None:
            raise ValueError("there is nothing to save yet: fly a moment first")
        line = self.timeline.line()
        small = [self.reel.thumbnail(line[i]) for i in pick_evenly(len(line), THUMBNAILS)]
        ours = [t for t in small if t is not None]
        shots = self.reel.shots(here), self.reel.shots(line[0])
        known: Mapping[str, Pixels] = {}
        if self._past is not None:
            known = {"picture": self._past.picture}
            ours = _evenly([*self._past.thumbnails, *ours])
        elif shots[1]:
            known = {"picture": develop(shots[1][0])}
        shown = develop(shots[0][-1])
        trajectory = self.trajectory()
        told = replace(scene, past=None)
        lies = self.spool.entry(
            here
        )  # which may be forgotten before its turn comes, and is removed after that only
        return self.spool.later(
            lambda: write_world(
                path,
                lies.path,
                scene=told,
                picture=known.get("picture", shown),
                shown=shown,
                trajectory=trajectory,
                thumbnails=ours,
            )
        )

    def close(self) -> None:
        self._camera.shutdown()
        self.spool.close()


def _evenly(pictures: list[Pixels]) -> list[Pixels]:
    return [pictures[i] for i in pick_evenly(len(pictures), THUMBNAILS)]
