"""What happened at a station: a log on disk that rotates, and its newest lines in memory for the operator."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

RECENT = 100  # lines for the operator's page


@dataclass(frozen=True, slots=True)
class Line:
    """One event."""

    time: float  # seconds since 1970
    words: str
    trouble: bool


class _File(RotatingFileHandler):
    """A log that cannot be written is no reason to stop, nor to print a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class Journal:
    """Safe from any thread."""

    def __init__(self, folder: Path, *, megabytes: float, files: int) -> None:
        """Raises ValueError for a folder that cannot be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handler = _File(
                folder / "station.log", maxBytes=int(megabytes * 1e6), backupCount=files, encoding="utf-8"
            )
        except OSError as error:
            raise ValueError(
                f"cannot write the log in {folder} ({error.strerror}): choose another with [log] folder"
            ) from None
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._log = logging.Logger("station", logging.INFO)  # of its own: no other station shares its handler
        self._log.addHandler(self._handler)
        self.recent: deque[Line] = deque(maxlen=RECENT)

    def note(self, words: str) -> None:
        self._write(words, logging.INFO)

    def trouble(self, words: str) -> None:
        self._write(words, logging.WARNING)

    def _write(self, words: str, level: int) -> None:
        """The page gets the last line of what may be a traceback, the log all of it."""
        self._log.log(level, "%s", words)
        last = (words.strip().splitlines() or [""])[-1]
        self.recent.append(Line(time.time(), last[:300], level > logging.INFO))

    def close(self) -> None:
        self._handler.close()
