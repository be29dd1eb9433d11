"""The process that reads a prompt goes with the window, however that ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

CODE = """
import sys, time
from pathlib import Path
from engine.setup import Setup
from explorer.reading import Reading
if __name__ == "__main__":
    reading = Reading(Setup(random_weights=True, prompt="fog"), Path(sys.argv[1]), refiner=True)
    while reading.step != "starting torch":
        assert reading.poll() is None
        time.sleep(0.01)
    print(reading._process.pid, flush=True)
    time.sleep(60)
"""


def test_it_dies_with_its_parent_and_says_nothing(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CODE, str(tmp_path / "1.text")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    reading = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    _, said = parent.communicate(timeout=20)  # both have let go of it
    assert said == ""
    reading.wait(timeout=10)  # raises where it lives on
    assert not list(tmp_path.iterdir())
