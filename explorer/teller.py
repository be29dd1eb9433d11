"""Another prompt on its way into the flight: read elsewhere, then told to the engine. Owned by the main thread."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from textwrap import shorten

from engine.setup import Setup
from explorer.messages import Told
from explorer.reading import Reading


class Teller:
    """One prompt at a time: a newer one replaces what is under way."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        """setup: of engines to come; its prompt is the newest that was read.  folder: for texts on their way."""
        self.setup = setup
        self.news = ""  # what became of it, for the pilot; whoever shows it empties it
        self._folder, self._count = folder, 0
        self._reading: Reading | None = None
        self._ready: tuple[str, Path] | None = None  # read, and not yet given to the engine
        self._given: tuple[str, Path] | None = None  # and not yet obeyed

    @property
    def step(self) -> str:
        """What is being done; empty: nothing."""
        if self._reading is not None:
            return self._reading.step
        return "from the next moment on" if self._ready or self._given else ""

    def ask(self, prompt: str, *, refiner: bool) -> None:
        """Begin to read a prompt. refiner: whether the second stage reads it too."""
        self.stop()
        self._count += 1
        path = self._folder / f"{self._count}.text"
        self._reading = Reading(replace(self.setup, prompt=prompt), path, refiner=refiner)

    def ready(self) -> tuple[str, Path] | None:
        """A prompt and where its text lies, once, as soon as it is read: for the engine."""
        if self._reading is not None and (done := self._reading.poll()) is not None:
            reading, self._reading = self._reading, None
            if done.why:
                self.news = f"The prompt stays as it was: {done.why}"
            else:
                self._ready = reading.prompt, reading.path
                self.setup = replace(self.setup, prompt=reading.prompt)
        ready, self._ready = self._ready, None
        if ready is not None:
            self._given = ready
        return ready

    def told(self, told: Told) -> None:
        """The engine has obeyed, or cannot."""
        if self._given is not None and self._given[0] == told.prompt:
            self._given[1].unlink(missing_ok=True)
            self._given = None
        said = shorten(f"Prompt: {told.prompt}", 200, placeholder=" …") if told.prompt else "No prompt"
        self.news = f"The prompt stays as it was: {told.why}" if told.why else said

    def again(self) -> None:
        """The engine is another one, and knows nothing of what the last one had not done yet."""
        self._ready, self._given = self._given or self._ready, None

    def stop(self) -> None:
        """Leave off. Again: nothing."""
        if self._reading is not None:
            self._reading.stop()
            self._reading = None
