"""Where states of a flight go after its chunks: into files outside the engine process. Part of that process.

A small state (pocket: 17 MB) is written before the next chunk is begun, so every chunk is a moment to return to. A large
one (sana-wm: 1.6 GB, up to 10 with its refiner) would hold the flight up for seconds. It leaves the GPU on a stream of
its own into pinned memory, and a thread writes it; chunks that end meanwhile are no moments. So one state at most is on
its way, the GPU holds none but the newest, and moments lie as close as this machine can write them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.flight import Flight, save_flight
from explorer.messages import Kept
from explorer.spool import ROOM

if TYPE_CHECKING:
    from torch import Tensor

    from engine.opening import World
    from engine.state import StreamState

EACH = 256 << 20  # bytes: states up to here are written at once


class Keeper:
    """Owned by the thread that flies."""

    def __init__(
        self, places: Sequence[Path], engine: World, *, tell: Callable[[Kept], None], each: int = EACH
    ) -> None:
        """places: folders, the fastest first: a state goes where there is room.  tell: from any thread."""
        self._places, self._engine, self._tell, self._each = places, engine, tell, each
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keeper")
        self._under_way: list[Future[None]] = []
        self._stream: Any = None

    def keep(self, flight: Flight) -> None:
        """The state after a chunk. The first of a flight is always kept: one returns to it."""
        from engine.values import size

        if not self._places:
            return
        count = size(flight.state)
        if count <= self._each:
            self._write(flight, count)
            return
        self._under_way = [future for future in self._under_way if not future.done()]
        if len(self._under_way) > (1 if flight.state.chunk == 0 else 0):
            return
        if not self._has_memory(count):
            self._tell(nothing(flight))
            return
        state, landed = self._leaving(flight.state)
        leaving = replace(flight, state=state)

        def write() -> None:  # holds nothing on the GPU, however long the disk takes
            try:
                landed()
                self._write(leaving, count)
            except RuntimeError:  # of the GPU, which the next chunk meets too and tells of
                self._tell(nothing(leaving))

        self._under_way.append(self._thread.submit(write))

    def finish(self) -> None:
        """Wait for what is under way."""
        for future in self._under_way:
            future.result()

    def _write(self, flight: Flight, count: int) -> None:
        """A full disk does not end the flight."""
        started = time.perf_counter()
        path, size = Path(), 0
        for place in self._places:
            path = place / f"{flight.id}-{flight.index:09d}.world"
            try:
                if shutil.disk_usage(place).free > count + ROOM:
                    size = save_flight(path, flight, self._engine)
                    break
            except OSError:
                continue
        seconds = time.perf_counter() - started
        self._tell(Kept(flight=flight.id, index=flight.index - 1, path=path, size=size, seconds=seconds))

    def _has_memory(self, count: int) -> bool:
        """Whether the machine can pin that much once more; after the first time it has it."""
        import torch

        from engine.opening import free_memory

        on_gpu = self._engine.device.type == "cuda"
        return not on_gpu or self._stream is not None or free_memory(torch.device("cpu")) > 3 * count

    def _leaving(self, state: StreamState) -> tuple[StreamState, Callable[[], None]]:
        """The state in main memory once the function returns. What is on the CPU is a value and stays where it is."""
        import torch

        from engine.values import mapped

        if self._engine.device.type != "cuda":
            return state, lambda: None
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())

        def copied(x: Tensor) -> Tensor:
            if not x.is_cuda:
                return x
            x.record_stream(self._stream)  # its memory is not given away before it has left
            there = torch.empty_like(x, device="cpu", pin_memory=True)
            return there.copy_(x, non_blocking=True)

        with torch.cuda.stream(self._stream):
            host = mapped(state, copied)
            event = self._stream.record_event()
        return host, event.synchronize


def nothing(flight: Flight) -> Kept:
    """Word that this chunk is no moment to return to."""
    return Kept(flight=flight.id, index=flight.index - 1, path=Path(), size=0, seconds=0.0)
