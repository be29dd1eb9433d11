"""`explorer bench latency`: scripted hands in a real window, and how long each input took to reach the screen."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from explorer.outfile import require_folder, write_json

if TYPE_CHECKING:
    from explorer.session import Session

READY = 120.0  # seconds that a world may take until it is flown
LAST = 15.0  # seconds at most until the last press is generated
HELD, PAUSE = (0.15, 0.9), (0.2, 0.7)  # seconds that a key is down, and that nothing is
KEYS = ("w", "left", "right", "up", "down", "a", "d", "s")


@dataclass(frozen=True, kw_only=True)
class BenchLatency:
    """Fly a scripted flight in a real window and measure every input's way to the screen.

    Two figures: to the first refresh that is drawn from the new pose, and to the first generated frame that obeys it,
    the latter with its parts. Keys are posted into the window's own queue of events. Needs a display, a virtual one
    such as Xvfb, or none with SDL_VIDEODRIVER=offscreen in the environment: a GPU draws without one.
    """

    seconds: Annotated[float, arg(metavar="S")] = 30.0
    """length of the flight"""
    image: Annotated[str | None, arg(metavar="IMAGE", help_behavior_hint="")] = None
    """a picture to begin with; default: the first scene of the gallery"""
    model: Annotated[str, arg(metavar="NAME")] = "pocket"
    """the world model"""
    size: Annotated[str, arg(metavar="WxH")] = "1280x800"
    """WIDTHxHEIGHT of the window"""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """auto, cpu or cuda"""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """CPU threads of the model; default: what suits this machine"""
    out: Annotated[Path | None, arg(metavar="JSON", help_behavior_hint="")] = None
    """file to write the figures to as well"""

    def __post_init__(self) -> None:
        if not 2 <= self.seconds <= 3600:
            raise ValueError(f"--seconds {self.seconds:g} is out of range: use 2 to 3600")
        if self.out is not None:
            require_folder("--out", self.out)

    def run(self) -> int:
        """Fly and print. Raises ValueError for a user's mistake."""
        from explorer.fly import Fly, fly_in_a_window, parse_size

        fly = Fly(
            image=self.image, model=self.model, device=self.device, threads=self.threads, stats=self.out
        )
        report: dict[str, Any] = {}
        try:
            return fly_in_a_window(
                fly,
                parse_size(self.size),
                script=lambda session: scripted(session, self.seconds),
                report=report,
            )
        finally:  # Ctrl-C loses no figures
            if report:
                if self.out is not None:
                    write_json(self.out, report)
                _print(report)


@dataclass(frozen=True, slots=True)
class Press:
    """A key that goes down or up, so many seconds after the first."""

    at: float
    key: str
    down: bool


def script(seconds: float, *, seed: int = 0) -> list[Press]:
    """One key after the other, for times that no chunk can be in step with. Everything is released at the end."""
    draw, at = random.Random(seed), 0.0
    presses: list[Press] = []
    while True:
        key, held = draw.choice(KEYS), draw.uniform(*HELD)
        if at + held > seconds:
            return presses
        presses += [Press(at, key, True), Press(at + held, key, False)]
        at += held + draw.uniform(*PAUSE)


@contextmanager
def scripted(session: Session, seconds: float) -> Iterator[None]:
    """While inside, a thread presses keys as soon as the world is flown, and closes the window at the end."""
    ended = threading.Event()
    thread = threading.Thread(target=_press, args=(session, script(seconds), ended), name="script")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _press(session: Session, presses: list[Press], ended: threading.Event) -> None:
    from explorer.window import post_key, post_quit

    deadline = time.perf_counter() + READY
    while session.stats.first_frame_at is None and time.perf_counter() < deadline:
        if ended.wait(0.05):
            return
    begun = time.perf_counter()
    for press in presses:
        if ended.wait(max(begun + press.at - time.perf_counter(), 0.0)):
            return
        post_key(press.key, down=press.down, now=time.perf_counter())
    deadline = time.perf_counter() + LAST
    ended.wait(0.2)  # until the last press is known
    while session.stats.latency.unanswered and time.perf_counter() < deadline and not ended.wait(0.05):
        pass
    post_quit()


def _print(report: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("milliseconds", "median", "95 of 100", "inputs", title="From input to light")
    for name, figures in report["latency"].items():
        part = name not in ("input to reprojected", "input to generated")
        row = (f"{figures['p50_ms']:.1f}", f"{figures['p95_ms']:.1f}", str(figures["count"]))
        table.add_row(f"  {name}" if part else name, *row)
    console = Console(highlight=False)
    console.print(table)
    rest = {key: value for key, value in report.items() if key != "latency"}
    console.print(json.dumps(rest), soft_wrap=True)
