"""When each frame of a chunk is shown: evenly, on a clock of its own. Pure; time comes in as an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from engine.camera import Pose
from engine.frame import Frame
from explorer.latency import Journey
from explorer.reproject import part_way

SLOWEST = 4.0  # a slow engine stretches the time between frames to at most this multiple; then it stalls


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame on its way to the screen."""

    frame: Frame
    due: float  # perf_counter seconds
    input: int  # id of the newest input that shaped it
    way: Journey | None = None  # how it came here; a first picture comes by none


class Pacer:
    """Chunks in, at each refresh the frame that is due. Chunks follow each other without a gap where they can."""

    def __init__(self, *, fps: float) -> None:
        self._period = 1.0 / fps
        self._step = 0.0  # smoothed seconds that a chunk takes to make
        self._queue: deque[Shown] = deque()
        self.end = 0.0  # when the last frame's time is over
        self.late = 0.0  # seconds that the newest chunk came too late
        self._held = False
        self.period = self._period  # seconds for which the newest chunk's frames are shown
        self.shown: Shown | None = None  # the newest that was due

    def add(
        self,
        frames: tuple[Frame, ...],
        *,
        input: int,
        seconds: float,
        now: float,
        way: Journey | None = None,
    ) -> float:
        """Queue a chunk that took `seconds` to make. Returns when the time of its last frame is over."""
        self._step = 0.7 * self._step + 0.3 * seconds if self._step else seconds
        self.period = period = min(max(self._period, self._step / len(frames)), SLOWEST * self._period)
        self.late = max(now - self.end, 0.0) if self.end else 0.0
        start = max(self.end, now)
        self._queue.extend(Shown(f, start + i * period, input, way) for i, f in enumerate(frames))
        self.end = start + len(frames) * period
        return self.end

    def due(self, now: float) -> list[Shown]:
        """Frames whose time has come since the last call, oldest first: the last one is to be shown."""
        out: list[Shown] = []
        if self._held:
            return out
        while self._queue and self._queue[0].due <= now:
            out.append(self._queue.popleft())
        self.shown = out[-1] if out else self.shown
        return out

    def between(self, now: float) -> Pose | None:
        """Where the generated camera is: between the frame shown and the next, as time is. None before the first."""
        if self.shown is None or self._held or not self._queue:
            return self.shown.frame.pose if self.shown else None
        here, there = self.shown, self._queue[0]
        share = min(max((now - here.due) / max(there.due - here.due, 1e-6), 0.0), 1.0)
        return part_way(here.frame.pose, there.frame.pose, share)

    def hold(self) -> None:
        """Show nothing further until `go`."""
        self._held = True

    def go(self, now: float) -> None:
        """Go on with the frame at which `hold` stopped."""
        if self._held and self._queue and (late := now - self._queue[0].due) > 0:
            self._queue = deque(replace(shown, due=shown.due + late) for shown in self._queue)
            self.end += late
        self._held = False

    @property
    def waiting(self) -> int:
        """Frames that are not shown yet."""
        return len(self._queue)

    def one(self) -> Shown | None:
        """The next frame, held or not; None where none waits."""
        if not self._queue:
            return None
        self.shown = self._queue.popleft()
        return self.shown

    def drop_after(self, index: int) -> None:
        """Forget waiting frames beyond this index: they will be made again."""
        self._queue = deque(shown for shown in self._queue if shown.frame.index <= index)

    def clear(self) -> None:
        """Forget what waits: another flight begins."""
        self._queue.clear()
        self.shown = None
        self.end = self.late = 0.0
