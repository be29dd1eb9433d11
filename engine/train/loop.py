"""The loop all training commands share: budget, resume, Ctrl-C, progress, metrics, sample sheets.

What happened is a function of (seed, rank, step): a resumed run repeats an uninterrupted one where the budget counts
steps. The state on disk is read with `weights_only`, written beside the old one and renamed.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from engine.train.host import Host

TOGETHER = 8  # steps between agreements of several processes on the time


class Stateful(Protocol):
    """Whatever can be saved and resumed: modules, optimisers, averages."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long a loop runs and what it writes where."""

    out: Path  # folder of state, metrics and sheets
    name: str  # of this loop: <name>.pt, <name>.jsonl
    minutes: float  # wall clock, compilation included
    steps: int | None = None  # count steps instead of minutes
    report_seconds: float = 5.0
    sample_seconds: float = 60.0
    save_seconds: float = 120.0
    unit: str = "chunks"  # what a step processes
    units: float = 1.0  # units per step, over all processes
    flop: float = 0.0  # floating-point operations per step, over all processes; 0: not reported
    peak: float = 0.0  # floating-point operations per second of all devices together; 0: unknown

    def __post_init__(self) -> None:
        if self.minutes < 0 or (self.steps is not None and self.steps < 0):
            raise ValueError(
                f"a budget of {self.minutes} minutes and {self.steps} steps: neither may be negative"
            )

    def fraction(self, step: int, elapsed: float) -> float:
        """Share of the budget spent, 0 … 1."""
        spent, budget = (step, self.steps) if self.steps is not None else (elapsed, self.minutes * 60)
        return min(1.0, spent / budget) if budget > 0 else 1.0


Step = Callable[[int, float], Mapping[str, Tensor]]  # (step, fraction) → losses, left on the device


@dataclass
class Loop:
    """Runs steps until the budget is spent. `parts` is everything that must survive an interruption."""

    plan: Plan
    host: Host
    parts: Mapping[str, Stateful]
    step: int = 0
    elapsed: float = 0.0  # seconds, of all runs
    _losses: dict[str, list[Tensor]] = field(default_factory=dict)  # since the last report

    @property
    def path(self) -> Path:
        return self.plan.out / f"{self.plan.name}.pt"

    def save(self) -> None:
        """Write the state, from rank 0."""
        if not self.host.leads:
            return
        self.plan.out.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        part = self.path.with_suffix(".part")
        torch.save({"step": self.step, "elapsed": self.elapsed, "parts": state}, part)
        os.replace(part, self.path)

    def resume(self) -> bool:
        """Continue from the state on disk, if there is one."""
        if not self.path.is_file():
            return False
        try:
            saved = torch.load(self.path, map_location=self.host.device, weights_only=True)
            for name, part in self.parts.items():
                part.load_state_dict(saved["parts"][name])
            self.step, self.elapsed = int(saved["step"]), float(saved["elapsed"])
        except Exception as error:  # a foreign file can fail in any way
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"cannot resume from {self.path} ({reason}): remove it or choose another --out"
            ) from error
        return True

    def run(self, step: Step, *, sample: Callable[[], None] | None = None) -> None:
        """Resume, then call `step` until the budget is spent; `sample` draws sheets now and then, and at the end.

        Ctrl-C (or SIGTERM) finishes the step, saves and leaves with exit status 130.
        """
        self.resume()
        with _interrupts() as stop, self._progress() as report:
            clock = _Clock(self.step, self.elapsed)
            fraction, stopping = self._agree(stop)
            while fraction < 1 and not stopping:
                self._collect(step(self.step, fraction))
                self.step += 1
                self._now_and_then(clock, fraction, report, sample)
                self.elapsed = clock()
                if self.host.world == 1 or self.step % TOGETHER == 0:
                    fraction, stopping = self._agree(stop)
            self._report(report, clock, fraction)
        self.save()
        if stopping:
            raise SystemExit(130)
        if sample and self.host.leads:
            sample()

    def _agree(self, stop: threading.Event) -> tuple[float, bool]:
        """Share of the budget spent by rank 0's clock, and whether anybody was asked to stop."""
        mine = self.plan.fraction(self.step, self.elapsed) if self.host.leads else 0.0
        fraction, stopping = self.host.highest((mine, float(stop.is_set())))
        return fraction, bool(stopping)

    def _collect(self, losses: Mapping[str, Tensor]) -> None:
        """Keep losses on the device: nobody waits for a number before it is reported."""
        for name, value in losses.items():
            self._losses.setdefault(name, []).append(value.detach())

    def _now_and_then(
        self,
        clock: _Clock,
        fraction: float,
        report: Callable[[str, float], None],
        sample: Callable[[], None] | None,
    ) -> None:
        if clock.due("report", self.plan.report_seconds):
            self._report(report, clock, fraction)
        if sample and self.host.leads and clock.due("sample", self.plan.sample_seconds):
            sample()
        if clock.due("save", self.plan.save_seconds):
            self.elapsed = clock()
            self.save()

    def _report(self, report: Callable[[str, float], None], clock: _Clock, fraction: float) -> None:
        """Mean losses, of the steps that had them, and speed since the last report, as a line and in metrics."""
        count, seconds = clock.since_report(self.step)
        if not count:
            return
        losses = {name: float(torch.stack(values).mean()) for name, values in self._losses.items()}
        self._losses = {}
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise RuntimeError(f"{', '.join(bad)} is not finite at step {self.step}: lower the learning rate")
        if not self.host.leads:
            return
        rate = count / seconds
        line = {"step": self.step, "elapsed": round(clock(), 2), "fraction": round(fraction, 4), **losses}
        line |= {"steps_per_s": rate, f"{self.plan.unit}_per_s": rate * self.plan.units}
        words = [f"step {self.step}", *(f"{n} {v:.4f}" for n, v in losses.items())]
        words += [f"{rate * self.plan.units:.0f} {self.plan.unit}/s", f"{rate:.2f} steps/s"]
        if self.plan.flop:
            line["tflop_per_s"] = rate * self.plan.flop / 1e12
            words.append(f"{line['tflop_per_s']:.0f} TFLOP/s")
        if self.plan.flop and self.plan.peak:
            line["mfu"] = rate * self.plan.flop / self.plan.peak
            words.append(f"{line['mfu']:.0%} of peak")
        self.plan.out.mkdir(parents=True, exist_ok=True)
        with (self.plan.out / f"{self.plan.name}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        report(" · ".join(words), fraction)

    @contextmanager
    def _progress(self) -> Iterator[Callable[[str, float], None]]:
        """A bar on a terminal, plain lines elsewhere, silence on ranks above 0."""
        if not self.host.leads:
            yield lambda words, fraction: None
        elif not sys.stdout.isatty():
            console = Console(width=200, highlight=False)
            yield lambda words, fraction: console.print(f"{self.plan.name} {fraction:4.0%} {words}")
        else:
            columns = (
                TextColumn(self.plan.name),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
            )
            with Progress(*columns) as bar:
                task = bar.add_task("compiling", total=1.0)
                yield lambda words, fraction: bar.update(task, description=words, completed=fraction)


class _Clock:
    """Seconds of this and earlier runs, and what is due."""

    def __init__(self, step: int, before: float) -> None:
        now = time.perf_counter()
        self.start = now - before
        self.reported = step, now
        self.last = {"report": now, "sample": now, "save": now}

    def __call__(self) -> float:
        return time.perf_counter() - self.start

    def due(self, what: str, seconds: float) -> bool:
        """Whether `seconds` have passed since this was due last."""
        now = time.perf_counter()
        if now - self.last[what] < seconds:
            return False
        self.last[what] = now
        return True

    def since_report(self, step: int) -> tuple[int, float]:
        """Steps and seconds since the last call."""
        (before, then), self.reported = self.reported, (step, time.perf_counter())
        return step - before, self.reported[1] - then


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set. A second signal interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may catch signals
        return
    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, old[signal.Signals(number)])

    for s in old:
        signal.signal(s, ask)
    try:
        yield stop
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)
