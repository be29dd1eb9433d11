"""The engine's health, seen from the screen: when it is down, how often it was, and when to start another one."""

from __future__ import annotations

from collections.abc import Callable

from explorer.kiosk.link import Event
from explorer.session import Session

TROUBLE, WELL = ("failed", "recovering"), ("flying", "resting")  # stages of a session
RETRY = (
    0.0,
    1.0,
    2.0,
    4.0,
    8.0,
)  # seconds before a failed engine is started again; the last for all later ones
HEALTHY = 60.0  # seconds of flight after which failures are forgotten


class Health:
    """Looked at once per refresh. A station never gives up: the pauses grow, that is all."""

    def __init__(self, session: Session, *, tell: Callable[[Event], None]) -> None:
        self._session, self._tell = session, tell
        self.down = False  # from the engine's failure until it flies again
        self.troubles = 0  # how often it was down
        self._failures = 0  # of late
        self._retry_at: float | None = None

    def tick(self, *, seen: float, now: float) -> bool:
        """seen: when the flight's first frame came, or 0. Returns whether a new engine has been started just now."""
        self._notice(self._session.stage)
        if self._session.stage == "failed":
            return self._mend(now)
        if seen and now - seen > HEALTHY:
            self._failures = 0
        return False

    def _notice(self, stage: str) -> None:
        if stage in TROUBLE and not self.down:
            self.down = True
            self.troubles += 1
            self._tell(Event(f"the engine failed: {self._session.note}", trouble=True))
        elif stage in WELL and self.down:
            self.down = False
            self._tell(Event("the engine flies again"))

    def _mend(self, now: float) -> bool:
        if self._retry_at is None:
            self._retry_at = now + RETRY[min(self._failures, len(RETRY) - 1)]
            self._failures += 1
        if now < self._retry_at:
            return False
        self._retry_at = None
        self._session.restart()
        return True
