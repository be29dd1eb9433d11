"""How long a state of sana-wm takes to leave the GPU, to be written and to be opened again, at full size.

python -m benchmarks.keep_sana                # random weights on a GPU; with the refiner where it fits
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from engine.camera import Intrinsics, Pose
from engine.opening import open_sana
from engine.setup import Refining, Setup
from engine.values import size
from explorer.controls import Steering
from explorer.flight import Flight, open_flight
from explorer.keeper import Keeper
from explorer.messages import Kept
from explorer.pilot import PilotState

CHUNKS = 6  # until the windows are full


def run(
    setup: Setup, *, device: str, chunks: int = CHUNKS, say: Callable[[str], None] = print
) -> dict[str, float]:
    """Returns seconds by what was done, and bytes of the state."""
    engine = open_sana(setup, device=device, on_step=say)
    spec = engine.spec
    lens = Intrinsics.from_fov(1.2, width=spec.width, height=spec.height)
    chunk = engine.start(np.full((spec.height, spec.width, 3), 90, np.uint8), pose=Pose(), intrinsics=lens)
    poses = [Pose()] * spec.chunk_frames
    alone: list[float] = []
    for _ in range(chunks):
        started = time.perf_counter()
        chunk = engine.step(chunk.state, poses, intrinsics=lens)
        alone.append(time.perf_counter() - started)
    result: dict[str, float] = {"bytes": size(chunk.state), "chunk": min(alone)}
    place = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    told: list[Kept] = []
    try:
        keeper = Keeper((place,), engine, tell=told.append, each=0)
        for name in ("first", "later"):  # the first also takes pinned memory from the system
            flight = Flight(
                id=1,
                intrinsics=lens,
                state=chunk.state,
                pilot=PilotState(Pose()),
                used=Steering(),
                index=engine.next_frame(chunk.state),
            )
            started = time.perf_counter()
            keeper.keep(flight)
            result[f"flight held up, {name}"] = time.perf_counter() - started
            started = time.perf_counter()
            chunk = engine.step(chunk.state, poses, intrinsics=lens)
            result[f"chunk beside it, {name}"] = time.perf_counter() - started
            keeper.finish()
            result[f"write, {name}"] = told[-1].seconds
        if not told[-1].size:
            raise ValueError(f"{place} has too little room for a state of {result['bytes'] / 1e9:.1f} GB")
        started = time.perf_counter()
        opened = open_flight(told[-1].path, engine, id=2, used=Steering())
        result["open"] = time.perf_counter() - started
        kept, again = (engine.step(s, poses, intrinsics=lens) for s in (flight.state, opened.state))
        result["same"] = float(torch.equal(kept.state.latent, again.state.latent))
    finally:
        shutil.rmtree(place)
    return result


def main() -> None:
    modes: tuple[Refining, ...] = ("off", "auto")
    for refiner in modes:
        setup = Setup(random_weights=True, refiner=refiner)
        for name, value in run(setup, device="cuda", say=lambda step: None).items():
            print(f"refiner {refiner:5} {name:28} {value:12.3f}")  # noqa: T201 -- a table for people


if __name__ == "__main__":
    main()
