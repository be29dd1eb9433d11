"""Films of a flight in a window: begun and ended by a key, finished beside the flight. Owned by the main thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.frame import Frame
from explorer.flightlog import Header
from explorer.messages import Ready
from explorer.recorder import Picture, stamped
from explorer.recording import BackgroundRecording, Films, Takes


class Filming:
    """One film at a time; those before may still be on their way to the disk."""

    def __init__(
        self, films: Films, *, say: Callable[[str], None], done: Callable[[str, bool], None]
    ) -> None:
        """say: prints a line.  done: hears in a sentence what became of a film, and whether it is whole."""
        self.films, self._say, self._done = films, say, done
        self._recording: BackgroundRecording | None = None
        self._saving: list[BackgroundRecording] = []  # stopped, and not yet wholly on the disk

    @property
    def frames(self) -> int | None:
        """Of the film so far; None: nothing is filmed."""
        return None if self._recording is None else self._recording.frames

    def begin(self, spec: Ready) -> None:
        """Raises ValueError where no film can be written."""
        coming = [recording.place for recording in self._saving]  # whose files may not be there yet
        film = stamped(self.films.folder, ".mp4", but=coming)
        export = stamped(self.films.export, "") if self.films.export is not None else None
        header = Header(fps=spec.fps, world=spec.name, clean=not self.films.hud)
        self._recording = BackgroundRecording(Takes(film=film, export=export, header=header))

    def add(self, frames: Sequence[Frame], window: Picture | None) -> None:
        """Every frame that came due, or the window in its place."""
        if self._recording is None:
            return
        for frame in frames:
            self._recording.add(frame, window)
        if self._recording.problem is not None:
            self.stop()

    def stop(self) -> None:
        """End the film, if there is one."""
        if self._recording is not None:
            self._recording.stop()
            self._saving.append(self._recording)
            self._recording = None

    def saved(self) -> None:
        """Tell of films whose files are whole."""
        for recording in [r for r in self._saving if r.finished]:
            self._saving.remove(recording)
            self._tell_of(recording)

    def close(self) -> None:
        """Finish all, and say how it went."""
        self.stop()
        if any(not recording.finished for recording in self._saving):
            self._say("finishing the recording")
        for recording in self._saving:
            self._tell_of(recording)
        self._saving = []

    def _tell_of(self, recording: BackgroundRecording) -> None:
        for line in recording.close():
            self._say(line)
        if recording.problem is not None:
            self._done(recording.problem, False)
        elif recording.frames:
            self._done(f"Saved {recording.place.name}", True)
