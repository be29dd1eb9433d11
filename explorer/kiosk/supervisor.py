"""Keeps a station alive: starts the program, listens to it, starts it again when it dies or falls silent."""

from __future__ import annotations

import multiprocessing
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from explorer.kiosk.journal import Journal
from explorer.kiosk.link import Close, Event, Fly, Left, Refused, Report, Reset
from explorer.kiosk.program import run
from explorer.kiosk.settings import Station
from explorer.worker import no_interrupt

PATIENCE = 15.0  # seconds without a word from the program, after its first
START = 90.0  # seconds until its first
PAUSES = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before the next start; the last for all later ones
HEALTHY = 120.0  # seconds after which a program counts as well
FAREWELL = 6.0  # seconds for it to end by itself


class Restart:
    """A command of the operator's that is for the supervisor itself: the program ends and begins again."""


Command = Fly | Reset | Restart


class Supervisor:
    """Owned by the main thread; `ask` may be called from any."""

    def __init__(
        self, station: Station, journal: Journal, *, errors: Path, say: Callable[[str], None]
    ) -> None:
        """errors: the file for the program's raw output. say: prints a line for whoever started it."""
        self._station, self._journal, self._errors, self._say = station, journal, errors, say
        self._asked: queue.Queue[Command] = queue.Queue(maxsize=16)
        self.report: Report | None = None  # the newest
        self.restarts = 0
        self.started = time.time()

    def ask(self, command: Command) -> bool:
        """Pass a command on; False where too many wait."""
        try:
            self._asked.put_nowait(command)
        except queue.Full:
            return False
        return True

    def run(self) -> None:
        """Until the operator's keys are pressed. Raises ValueError for what keeps the program from ever starting."""
        failures, well = 0, False
        while True:
            begun = time.monotonic()
            end = Life(self, begun).live()
            if end is None:
                return
            well = well or self.report is not None
            if isinstance(end, Refused) and not well:
                raise ValueError(end.why)
            self.report = None
            if isinstance(end, Restart):
                failures = 0
                continue
            self.restarts += 1
            failures = 1 if time.monotonic() - begun > HEALTHY else failures + 1
            pause = PAUSES[min(failures, len(PAUSES)) - 1]
            self._journal.trouble(f"the program ended ({_why(end)}); it begins again in {pause:g} s")
            time.sleep(pause)

    def take(self, message: object) -> None:
        """One message of the program's."""
        match message:
            case Report():
                if self.report is None:
                    self._say("The station is running.")
                self.report = message
            case Event(words=words, trouble=True):
                self._journal.trouble(words)
                self._say(words.strip().splitlines()[-1])
            case Event(words=words):
                self._journal.note(words)

    def start(self) -> tuple[multiprocessing.process.BaseProcess, Connection]:
        """A new program."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=run, args=(theirs, self._station, self._errors), name="station")
        with no_interrupt():
            process.start()
        theirs.close()
        return process, ours

    def next_command(self) -> Command | None:
        try:
            return self._asked.get_nowait()
        except queue.Empty:
            return None


class Life:
    """One program, from its start to its end."""

    def __init__(self, supervisor: Supervisor, now: float) -> None:
        self._owner = supervisor
        self._process, self._pipe = supervisor.start()
        self._heard, self._patience = now, START

    def live(self) -> object:
        """Until it ends. Returns why: None when the operator left, else a message, or a sentence."""
        try:
            while True:
                if (end := self._once()) is not _ALIVE:
                    return end
        finally:
            self._end()

    def _once(self) -> object:
        command = self._owner.next_command()
        if isinstance(command, Restart):
            return command
        if command is not None:
            with suppress(OSError):
                self._pipe.send(command)
        try:
            if self._pipe.poll(0.1):
                return self._hear(self._pipe.recv())
        except (EOFError, OSError):
            self._process.join(2.0)
            return f"exit code {self._process.exitcode}"
        silent = time.monotonic() - self._heard > self._patience
        return f"silent for {self._patience:g} s" if silent else _ALIVE

    def _hear(self, message: object) -> object:
        self._heard = time.monotonic()
        if isinstance(message, Report):
            self._patience = PATIENCE
        if isinstance(message, Left):
            return None
        if isinstance(message, Refused):
            return message
        self._owner.take(message)
        return _ALIVE

    def _end(self) -> None:
        with suppress(OSError):
            self._pipe.send(Close())
        self._process.join(FAREWELL)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


_ALIVE = object()


def _why(end: object) -> str:
    return end.why if isinstance(end, Refused) else str(end)
