"""An hour at the controls: does the window stay quick, and does memory stay flat?

    xvfb-run -a -s "-screen 0 1600x900x24" python -m benchmarks.soak --minutes 60 --out soak

Runs `explorer bench latency`, scripted hands in a real window, and looks at the resident memory of the window and of
the engine every ten seconds. Goals: both within 2 % of what they were once the pictures kept for rewinding have filled
their budget, which takes five minutes, and no refresh later than 250 ms. Should the window crash, output.txt says where.
"""

# ruff: noqa: T201 -- figures are what it is for

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import tyro

EVERY = 10.0  # seconds between two looks
SETTLED = 300.0  # seconds after which memory is to stay
SPAN = 120.0  # seconds that a median is of
GROWTH, STALL = 0.02, 250.0  # goals: share, and milliseconds between two refreshes


@dataclass(frozen=True, kw_only=True)
class Soak:
    """How long, and where to."""

    minutes: float = 60.0
    """of flight, 10 to 60"""
    out: Path = Path("soak")
    """folder for stats.json and memory.csv"""
    size: str = "1280x800"
    """of the window"""

    def __post_init__(self) -> None:
        if not 10 <= self.minutes <= 60:
            raise ValueError(f"--minutes {self.minutes:g} is out of range: use 10 to 60")


@dataclass(frozen=True, slots=True)
class Look:
    """Resident bytes, so many seconds after the start."""

    at: float
    window: int
    engine: int


def main(options: Soak) -> int:
    options.out.mkdir(parents=True, exist_ok=True)
    stats = options.out / "stats.json"
    command = [sys.executable, "-m", "explorer.app", "bench", "latency", "--size", options.size]
    command += ["--seconds", f"{60 * options.minutes:g}", "--out", str(stats)]
    with (options.out / "output.txt").open("w") as output:
        environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        looks = watch(process, options.out / "memory.csv")
    if process.returncode:
        print(f"the flight ended with {process.returncode}: see {options.out / 'output.txt'}")
        return 1
    return report(json.loads(stats.read_text()), looks)


def watch(process: subprocess.Popen[bytes], path: Path) -> list[Look]:
    """Look at memory until the process ends; every look is on disk at once."""
    begun, looks = time.monotonic(), list[Look]()
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("seconds", "window", "engine"))
        while process.poll() is None:
            time.sleep(EVERY)
            try:
                window = psutil.Process(process.pid)
                engine = max((child.memory_info().rss for child in window.children()), default=0)
                look = Look(time.monotonic() - begun, window.memory_info().rss, engine)
            except psutil.NoSuchProcess:
                continue
            looks.append(look)
            table.writerow((round(look.at, 1), look.window, look.engine))
            file.flush()
    return looks


def report(stats: dict, looks: list[Look]) -> int:
    """Print, and say by the exit status whether the goals are met."""
    looks = [x for x in looks if x.engine]
    early = [x for x in looks if SETTLED <= x.at < SETTLED + SPAN]
    late = [x for x in looks if looks[-1].at - SPAN <= x.at]
    good = True
    for name in ("window", "engine"):
        first, last = (median(getattr(x, name) for x in part) for part in (early, late))
        most = max(getattr(x, name) for x in looks if x.at >= SETTLED)
        good &= last <= first * (1 + GROWTH)
        print(
            f"{name}: {first / 2**20:.0f} MiB after five minutes, {last / 2**20:.0f} MiB at the end "
            f"({last / first - 1:+.1%}), at most {most / 2**20:.0f} MiB"
        )
    longest = stats["longest_refresh_ms"]
    good &= longest <= STALL
    print(
        f"{stats['window_fps']} refreshes/s, the longest after {longest} ms; "
        f"{stats['refresh_ms']}; goals {'met' if good else 'MISSED'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Soak, description=__doc__)))
