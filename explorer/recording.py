"""A recording: the film, the poses beside it, an export if wanted; and a thread that writes it beside the flight."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.frame import Frame
from explorer.dialect import Motion
from explorer.export import Export
from explorer.flightlog import FlightLog, Header, log_path
from explorer.recorder import Picture, Recorder, pictures_folder

WAITING = 4.0  # seconds of frames that may wait for a slow disk; further ones are dropped and counted
WAITING_BYTES = 256 * 2**20  # and no more than these
PATIENCE = 30.0  # seconds for the disk to take the rest when a recording ends


@dataclass(frozen=True, kw_only=True)
class Takes:
    """What a recording makes."""

    film: Path | None = None
    size: tuple[int, int] | None = None  # width, height of the film; None: the first frame's
    export: Path | None = None  # an empty folder
    header: Header


@dataclass(frozen=True, kw_only=True)
class Films:
    """Where recordings of a window go, and what they show."""

    folder: Path = field(default_factory=pictures_folder)
    hud: bool = False  # the window with its panels, not the world's clean frames
    export: Path | None = None  # each recording is exported too, into a folder of its own in here


class Recording:
    """Frames in, files out, all in step. OSError or ValueError when the disk does not take them."""

    def __init__(self, takes: Takes) -> None:
        """Nothing is written before the first frame."""
        self._takes = takes
        self.place = takes.film or takes.export or Path()
        self._log: FlightLog | None = None
        self._film = (
            Recorder(takes.film, fps=takes.header.fps, size=takes.size) if takes.film is not None else None
        )
        self._export: Export | None = None
        self.frames = 0

    def add(self, frame: Frame, shown: Picture | None = None) -> None:
        """Append a frame; `shown` is filmed in its place."""
        takes = self._takes
        if self._film is not None and takes.film is not None:
            self._film.add(frame.pixels if shown is None else shown)
            if self._log is None:
                self._log = FlightLog(log_path(takes.film), takes.header)
            self._log.add(frame)
        if takes.export is not None:
            if self._export is None:
                self._export = Export(takes.export, header=takes.header)
            self._export.add(frame)
        self.frames += 1

    def close(self, motion: Motion | None = None) -> str | None:
        """Finish all files. Returns what was exported; motion: of the keys that flew it, where keys may have."""
        if self._film is not None:
            self._film.close()
        if self._log is not None:
            self._log.close()
        return self._export.finish(motion) if self._export is not None else None

    def abandon(self) -> None:
        """Let go of files that the disk no longer takes: what reached it stays."""
        with contextlib.suppress(OSError, ValueError):
            if self._film is not None:
                self._film.close()
        for part in (self._log, self._export):
            with contextlib.suppress(OSError, ValueError):
                if part is not None:
                    part.abandon()


@contextlib.contextmanager
def disk_errors(recording: Recording) -> Iterator[None]:
    """What the disk refuses becomes one sentence with the way out: ValueError."""
    try:
        yield
    except OSError as error:
        recording.abandon()
        why = f"cannot write to {recording.place} ({error.strerror or error})"
        raise ValueError(
            f"the recording ended after {recording.frames} frames, {why}: free some space or choose another folder"
        ) from None


class BackgroundRecording:
    """A recording that never makes the flight wait: one thread owns the files, frames reach it through a queue."""

    def __init__(self, takes: Takes) -> None:
        self.problem: str | None = None  # set once, when the disk fails; the flight goes on
        self.dropped = 0
        self.told: list[str] = []
        self._takes = takes
        self._recording = Recording(takes)
        self.place = self._recording.place
        self._queue: queue.SimpleQueue[tuple[Frame, Picture | None] | None] = queue.SimpleQueue()
        self._most = max(round(WAITING * takes.header.fps), 1)
        self._thread = threading.Thread(target=self._write, name="recording", daemon=True)
        self._thread.start()

    @property
    def frames(self) -> int:
        """Written so far."""
        return self._recording.frames

    def add(self, frame: Frame, shown: Picture | None = None) -> None:
        """Queue a frame; one that finds the queue full is dropped."""
        size = frame.pixels.nbytes + (0 if shown is None else shown.nbytes)
        if self._queue.qsize() < min(self._most, WAITING_BYTES // size):
            self._queue.put((frame, shown))
        else:
            self.dropped += 1

    def stop(self) -> None:
        """No more frames; the files are finished in the background."""
        self._queue.put(None)

    @property
    def finished(self) -> bool:
        """Whether all files are whole, or given up."""
        return not self._thread.is_alive()

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.problem is None:
                self._add(*item)
        if self.problem is None:
            self._finish()

    def _add(self, frame: Frame, shown: Picture | None) -> None:
        try:
            with disk_errors(self._recording):
                self._recording.add(frame, shown)
        except ValueError as error:
            self.problem = str(error)
            self._recording.abandon()

    def _finish(self) -> None:
        film = self._takes.film
        try:
            with disk_errors(self._recording):
                exported = self._recording.close()
        except ValueError as error:
            self.problem = str(error)
            return
        if film is not None and self.frames:
            self.told.append(f"recorded {self.frames} frames: {film}")
        if exported:
            self.told.append(exported)

    def close(self) -> list[str]:
        """Stop and wait for the files. Returns what there is to say: what was written, or what went wrong."""
        self.stop()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            return [f"{self.place} is still being written: the disk is slow, the end may be missing"]
        lost = [f"{self.dropped} frames were dropped: the disk is slow"] if self.dropped else []
        return self.told + lost + ([self.problem] if self.problem else [])
