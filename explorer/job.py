"""A render that survives being stopped: a folder beside the film with finished parts and the newest state.

job.json            what is rendered, as one hash: a job is only ever continued by the same request
part-00012.mp4      the frames of one chunk, closed: parts put one after the other are the film
state.safetensors   what the next chunk is made from, and which one that is
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from engine import container
from explorer.recorder import Picture, Recorder
from explorer.splice import joined

V = TypeVar("V")
FORMAT = 2
MOST_PARTS = 1_000_000
SAVE_EVERY = 30.0  # seconds of work that a killed render may lose; Ctrl-C loses none
SHARE = 10.0  # but saving a large state takes no more than one second in so many


def fingerprint(request: Mapping[str, Any]) -> str:
    """sha256 of all that decides what a render looks like: plain values and bytes."""
    h = hashlib.sha256()
    for name in sorted(request):
        value = request[name]
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        h.update(f"{name} {len(data)}\n".encode())
        h.update(data)
    return h.hexdigest()


class Job:
    """The folder of one render. A part is encoded by a thread of its own while the next one is made."""

    def __init__(self, out: Path, *, request: str) -> None:
        """Open the job of the film `out`; its folder appears with the first part. ValueError for that of another request."""
        self.out, self.folder = out, out.with_name(out.name + ".job")
        self.state, self._request = self.folder / "state.safetensors", self.folder / "job.json"
        self._record = {"format": FORMAT, "request": request}
        try:
            there = self._request.exists()
            found = json.loads(self._request.read_text(encoding="utf-8")) if there else self._record
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"cannot use the job folder {self.folder} ({error}): remove it") from error
        if found != self._record:
            raise ValueError(
                f"{self.folder} belongs to another render, or was made with other weights: "
                "remove it, or name another --out"
            )
        self._pending: tuple[int, Any] | None = None  # counts once the part under way is written
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="film")
        self._part: Future[None] | None = None  # under way
        self._saved_at, self._cost = time.monotonic(), 0.0

    def part(self, index: int) -> Path:
        return self.folder / f"part-{index:05d}.mp4"

    def resume(self, kind: type[V], *, device: Any = "cpu") -> tuple[int, V] | None:
        """How many parts are done, and the state after them; None for a fresh job."""
        from engine.snapshot import rebuild

        if not self.state.exists():
            return None
        try:
            arrays, record = container.read(self.state)
            done, state = record.get("done"), record.get("state")
            if type(done) is not int or not isinstance(state, dict):
                raise ValueError("it does not say how much is done")
            if not 0 <= done <= MOST_PARTS or not all(self.part(i).exists() for i in range(done)):
                return None
            return done, rebuild(kind, arrays, state, device=device)
        except ValueError as error:
            raise ValueError(f"{self.state} is damaged ({error}): remove {self.folder}") from error

    def keep(self, index: int, pictures: Sequence[Picture], state: Any, *, fps: float) -> None:
        """Part `index` is made, and `state` comes after it. Returns while it is written, as soon as the one before is.

        Nobody changes the pictures from here on. Raises ValueError where that one could not be written.
        """
        self._written()
        self._save_if_due()
        # the part first: whatever interrupts this, a state never counts without the part before it
        self._part = self._encoder.submit(self._film, index, pictures, fps)
        self._pending = index + 1, state

    def _written(self) -> None:
        """Wait for the part under way. Without it the state after it is worth nothing: the saved one is older, and whole."""
        if self._part is None:
            return
        error = self._part.exception()
        if error is not None:
            self._pending = None
        self._part = None
        if isinstance(error, OSError):
            raise ValueError(
                f"cannot write into {self.folder} ({error.strerror}): make room there"
            ) from error
        if error is not None:
            raise error

    def _film(self, index: int, pictures: Sequence[Picture], fps: float) -> None:
        self._appear()
        part = self.folder / "part.tmp.mp4"
        with Recorder(part, fps=fps) as film:
            for picture in pictures:
                film.add(picture)
        os.replace(part, self.part(index))

    def _appear(self) -> None:
        """Its request is written first: whatever else lies in the folder belongs to it."""
        if not self._request.exists():
            self.folder.mkdir(exist_ok=True)
            _write(self._request, json.dumps(self._record))

    def hold(self, state: Any) -> None:
        """`state` is newer than what was kept, and no part is done."""
        self._written()
        self._pending = 0, state
        with _told(self.folder):
            self._appear()
        self._save_if_due()

    def _save_if_due(self) -> None:
        if time.monotonic() - self._saved_at > max(SAVE_EVERY, SHARE * self._cost):
            self.save()

    def save(self) -> None:
        """Write the newest state, and before it the part that it comes after, if they are not yet written."""
        from engine.snapshot import flatten

        self._written()
        if self._pending is None:
            return
        (done, state), begun = self._pending, time.monotonic()
        with _told(self.state):
            arrays, numbers = flatten(state)
            container.write(self.state, arrays, {"done": done, "state": numbers})
        self._pending = None
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - begun

    def finish(self, parts: int) -> None:
        """Put the film together and remove the folder."""
        self._written()
        with _told(self.out):
            joined(self.out, [self.part(i) for i in range(parts)])
        self._pending = None
        shutil.rmtree(self.folder)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What the disk refuses becomes one sentence: ValueError."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror or error}): make room there") from error


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
