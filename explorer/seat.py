"""Who flies: one seat, a line of those who wait for it, and the rules of handing it over. Pure.

The first who asks gets the seat. Others wait in line. It passes to the first in line when its holder lets go, goes
away, or has been silent for `patience` seconds while somebody waits. Nothing else takes it from its holder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The seat and those who wait. Each method returns the line after one event; times are monotonic seconds."""

    patience: float = 30.0  # seconds of silence after which somebody who waits gets the seat
    pilot: int | None = None
    heard: float = 0.0  # when the pilot last did something
    waiting: tuple[int, ...] = ()

    def ask(self, client: int, *, now: float) -> Line:
        """`client` wants to fly: seated at once, or put in line."""
        if client == self.pilot:
            return replace(self, heard=now)
        waiting = self.waiting if client in self.waiting else (*self.waiting, client)
        return replace(self, waiting=waiting).pass_on(now=now)

    def leave(self, client: int, *, now: float) -> Line:
        """`client` no longer flies nor waits."""
        pilot = None if client == self.pilot else self.pilot
        waiting = tuple(c for c in self.waiting if c != client)
        return replace(self, pilot=pilot, waiting=waiting).pass_on(now=now)

    def hear(self, client: int, *, now: float) -> Line:
        """The pilot did something; what others do is no news."""
        return replace(self, heard=now) if client == self.pilot else self

    def pass_on(self, *, now: float) -> Line:
        """Give the seat to the first in line if it is free or its holder sleeps."""
        taken = self.pilot is not None and now - self.heard < self.patience
        if taken or not self.waiting:
            return self
        return replace(self, pilot=self.waiting[0], waiting=self.waiting[1:], heard=now)

    def place(self, client: int) -> int:
        """1 for the next in line; 0 for who does not wait."""
        return self.waiting.index(client) + 1 if client in self.waiting else 0
