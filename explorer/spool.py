"""Where the states of a flight lie: the newest in memory, older ones on disk, all outside the engine process.

A state of `pocket` has 13 MB (17 with spatial memory): `python -m benchmarks.kills` says how long it takes to keep one.
One of `sana-wm` has 1.6 GB, up to 10 with its refiner. So budgets differ by world, and half of what is free is never
touched; what exceeds the memory goes to disk, what exceeds both is thinned out, old moments first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from explorer.timeline import Timeline

T = TypeVar("T")
MEMORY, DISK = 512 << 20, 4 << 30  # bytes
LARGE = 16 * 10**9, 32 * 10**9  # the same for worlds of large states
ROOM = 256 << 20  # bytes that must be free where states lie in memory
SHARED = Path("/dev/shm")
PREFIX = "world-explorer-"


def budgets(model: str) -> tuple[int, int]:
    """Bytes in memory and on disk for the states of a world, unless the settings say otherwise."""
    return LARGE if model == "sana-wm" else (MEMORY, DISK)


@dataclass(slots=True)
class Entry:
    """One file."""

    path: Path
    size: int
    fast: bool  # lies in memory
    ours: bool = True  # False: somebody's own file, never touched


class Spool:
    """Owned by the main thread; files are moved, removed and saved by one thread of its own, in order."""

    def __init__(self, *, memory: int = MEMORY, disk: int = DISK) -> None:
        """memory, disk: bytes to use at most; less where less is free."""
        slow = Path(tempfile.gettempdir())
        fast = SHARED if SHARED.is_dir() and shutil.disk_usage(SHARED).free > ROOM else slow
        self.memory = min(memory, shutil.disk_usage(fast).free // 2) if fast != slow else 0
        self.disk = min(disk, shutil.disk_usage(slow).free // 2)
        for place in {fast, slow}:
            _remove_left_over(place)
        self._locks: list[IO[str]] = []
        self.folder = self._folder(fast)
        self._slow = self._folder(slow) if fast != slow else self.folder
        self._entries: dict[int, Entry] = {}
        self._held: frozenset[int] = frozenset()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")

    def _folder(self, place: Path) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        lock = (folder / "lock").open("w", encoding="utf-8")
        _try_lock(lock)
        self._locks.append(lock)
        return folder

    @property
    def places(self) -> tuple[Path, ...]:
        """Where the engine may write, the fastest first."""
        return tuple(dict.fromkeys((self.folder, self._slow)))

    @property
    def count(self) -> int:
        return len(self._entries)

    @property
    def in_memory(self) -> int:
        """Bytes."""
        return sum(e.size for e in self._entries.values() if e.fast and e.ours)

    @property
    def on_disk(self) -> int:
        """Bytes."""
        return sum(e.size for e in self._entries.values() if not e.fast and e.ours)

    def keep(self, id: int, path: Path, size: int) -> None:
        """The engine has written the state of this moment into one of `places`."""
        self._entries[id] = Entry(path, size, fast=path.parent != self._slow)

    def adopt(self, id: int, path: Path) -> None:
        """The state of this moment is in a file of somebody else."""
        self._entries[id] = Entry(path, 0, fast=False, ours=False)

    def hold(self, id: int) -> Path:
        """Where the state of a moment lies, and stays until another one is held. Raises KeyError."""
        with self._lock:
            self._held = frozenset({id})
            return self._entries[id].path

    def settle(self, timeline: Timeline) -> Timeline:
        """Move what exceeds the memory to disk; forget moments that exceed both. Returns the timeline without them."""
        while self.in_memory + self.on_disk > self.memory + self.disk:
            id = timeline.expendable(but=self._held)
            if id is None:
                break
            timeline = timeline.without(id)
            self._forget(id)
        for id in sorted(self._entries):
            if self.in_memory <= self.memory:
                break
            entry = self._entries[id]
            if entry.fast and entry.ours and id not in self._held and id != timeline.here:
                entry.fast = False
                self._thread.submit(self._move, id, entry)
        return timeline

    def discard(self, path: Path) -> None:
        """Remove a state that nobody will return to."""
        self._thread.submit(_unlink, path)

    def tidy(self) -> None:
        """Remove what an engine that is gone had not finished writing, or told nobody of."""
        kinds = ("*.part", "*.world")
        there = [path for place in self.places for kind in kinds for path in place.glob(kind)]
        self._thread.submit(self._sweep, there)  # after the moves that are under way

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._held = frozenset()
        for id in list(self._entries):
            self._forget(id)

    def later(self, work: Callable[[], T]) -> Future[T]:
        """Do something slow with these files after all that was asked for before."""
        return self._thread.submit(work)

    def close(self) -> None:
        """Wait for what is being done, drop what has not begun, leave nothing behind. Again: nothing."""
        self._thread.shutdown(cancel_futures=True)
        for lock in self._locks:
            lock.close()
        for folder in (self.folder, self._slow):
            shutil.rmtree(folder, ignore_errors=True)

    def entry(self, id: int) -> Entry:
        """The file of a moment, wherever it is moved to. Raises KeyError."""
        return self._entries[id]

    def _forget(self, id: int) -> None:
        entry = self._entries.pop(id)
        if entry.ours:
            self._thread.submit(lambda: _unlink(entry.path))

    def _sweep(self, paths: Sequence[Path]) -> None:
        """On the spool's own thread: remove those of which nothing is known."""
        known = {entry.path for entry in list(self._entries.values())}
        for path in paths:
            if path not in known:
                _unlink(path)

    def _move(self, id: int, entry: Entry) -> None:
        """On the spool's own thread. A full disk leaves the state where it is."""
        there = self._slow / entry.path.name
        try:
            shutil.copyfile(entry.path, there)
        except OSError:
            _unlink(there)
            entry.fast = True
            return
        with self._lock:
            if id in self._held:
                _unlink(there)
                entry.fast = True
                return
            before, entry.path = entry.path, there
            _unlink(before)


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _try_lock(file: IO[str]) -> bool:
    """Whether nobody else holds this file. Where locks do not exist: no."""
    if os.name != "posix":
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_left_over(place: Path) -> None:
    """Folders of programs that were killed: nobody holds their lock. A pipe of that name, where one would wait, is none."""
    for lock in (f / "lock" for f in place.glob(f"{PREFIX}*")):
        with suppress(OSError):
            if lock.is_file():
                _remove_unlocked(lock)


def _remove_unlocked(lock: Path) -> None:
    with lock.open(encoding="utf-8") as file:
        if _try_lock(file):
            shutil.rmtree(lock.parent, ignore_errors=True)
