"""What happens when at a station: nobody there, a visitor flies or chooses, goodbye. Pure; time comes in as an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Phase = Literal["attract", "flying", "choosing", "goodbye"]
GOODBYE = 4.0  # seconds of thanks, in which input begins no new visit


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Seconds."""

    limit: float  # of a visit; 0: none
    idle: float  # without input
    countdown: float  # announced before either


@dataclass(frozen=True, slots=True)
class Countdown:
    """The end of a visit is near."""

    why: Literal["idle", "limit"]
    seconds: int  # left, rounded up


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Where a station is. Each method returns the visit after one event at `now` seconds."""

    phase: Phase = "attract"
    since: float = 0.0  # of the phase
    began: float = 0.0  # of the visit
    touched: float = 0.0  # the last input

    @property
    def present(self) -> bool:
        """Somebody is there."""
        return self.phase in ("flying", "choosing")

    def touch(self, now: float) -> Visit:
        """Any input: it begins a visit, or keeps it alive."""
        if self.phase == "attract":
            return Visit(phase="flying", since=now, began=now, touched=now)
        return replace(self, touched=now)

    def turn(self, phase: Literal["flying", "choosing"], now: float) -> Visit:
        """To the choice of scenes and back. Nothing happens while nobody is there."""
        return replace(self, phase=phase, since=now) if self.present else self

    def reset(self, now: float) -> Visit:
        """Back to the start at once."""
        return Visit(since=now)

    def left(self, now: float, rules: Rules) -> tuple[float, Literal["idle", "limit"]]:
        """Seconds until the visit ends, and why it then does."""
        idle = self.touched + rules.idle - now
        limit = self.began + rules.limit - now if rules.limit else math.inf
        return (idle, "idle") if idle < limit else (limit, "limit")

    def countdown(self, now: float, rules: Rules) -> Countdown | None:
        """What to announce."""
        seconds, why = self.left(now, rules)
        shown = min(rules.countdown, 0.8 * (rules.idle if why == "idle" else rules.limit))
        if not self.present or seconds > shown:
            return None
        return Countdown(why, max(math.ceil(seconds), 0))

    def tick(self, now: float, rules: Rules) -> Visit:
        """Time passes."""
        if self.phase == "goodbye":
            return self.reset(now) if now - self.since >= GOODBYE else self
        if not self.present or (ending := self.left(now, rules))[0] > 0:
            return self
        return Visit(phase="goodbye", since=now) if ending[1] == "limit" else self.reset(now)
