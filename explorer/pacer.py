"""When each frame of a chunk is shown: evenly, on a clock of its own. Pure; time comes in as an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from engine.frame import Frame

SLOWEST = 4.0  # a slow engine stretches the time between frames to at most this multiple; then it stalls


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame on its way to the screen."""

    frame: Frame
    due: float  # perf_counter seconds
    input: int  # id of the newest input that shaped it


class Pacer:
    """Chunks in, at each refresh the frame that is due. Chunks follow each other without a gap where they can."""

    def __init__(self, *, fps: float) -> None:
        self._period = 1.0 / fps
        self._step = 0.0  # smoothed seconds that a chunk takes to make
        self._queue: deque[Shown] = deque()
        self.end = 0.0  # when the last frame's time is over
        self.late = 0.0  # seconds that the newest chunk came too late
        self._held = False

    def add(self, frames: tuple[Frame, ...], *, input: int, seconds: float, now: float) -> float:
        """Queue a chunk that took `seconds` to make. Returns when the time of its last frame is over."""
        self._step = 0.7 * self._step + 0.3 * seconds if self._step else seconds
        period = min(max(self._period, self._step / len(frames)), SLOWEST * self._period)
        self.late = max(now - self.end, 0.0) if self.end else 0.0
        start = max(self.end, now)
        self._queue.extend(Shown(f, start + i * period, input) for i, f in enumerate(frames))
        self.end = start + len(frames) * period
        return self.end

    def due(self, now: float) -> list[Shown]:
        """Frames whose time has come since the last call, oldest first: the last one is to be shown."""
        out: list[Shown] = []
        if self._held:
            return out
        while self._queue and self._queue[0].due <= now:
            out.append(self._queue.popleft())
        return out

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
        return self._queue.popleft() if self._queue else None

    def drop_after(self, index: int) -> None:
        """Forget waiting frames beyond this index: they will be made again."""
        self._queue = deque(shown for shown in self._queue if shown.frame.index <= index)

    def clear(self) -> None:
        """Forget what waits: another flight begins."""
        self._queue.clear()
        self.end = self.late = 0.0
