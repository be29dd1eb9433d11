"""Another prompt for a running flight: read by a process of its own, while the flight goes on.

Text encoders have 5 GB (stage 1) and 24 GB (refiner). In the engine's process they would take the GPU's memory from the
flight, and loading one changes torch's defaults for every thread. This process works in main memory, at low priority,
and is gone with its encoders when it has answered, when the pilot thinks better of it, or when the window is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from engine.setup import Setup
from explorer.worker import no_interrupt

NICE = 10


@dataclass(frozen=True, slots=True)
class Step:
    """What is being done."""

    words: str


@dataclass(frozen=True, slots=True)
class Done:
    """The text lies in the file, or why not."""

    why: str = ""


class Reading:
    """One prompt on its way."""

    def __init__(self, setup: Setup, path: Path, *, refiner: bool) -> None:
        """setup: says the prompt and whose encoders.  path: of the file to come.  refiner: whether it reads too."""
        self.prompt, self.path = setup.prompt, path
        self.step = "starting the text encoder"
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=read, args=(theirs, setup, path, refiner), daemon=True)
        with no_interrupt():
            self._process.start()
        theirs.close()

    def poll(self) -> Done | None:
        """What came of it; None while it is under way, when `step` says how far it is."""
        try:
            while self._pipe.poll():
                match self._pipe.recv():
                    case Step(words=words):
                        self.step = words
                    case Done() as done:
                        self.stop()
                        return done
        except (EOFError, OSError):
            self.stop()
            return Done("the text encoder ended unexpectedly: there may be too little main memory for it")
        return None

    def stop(self) -> None:
        """End the process. Again: nothing."""
        if not self._pipe.closed:
            self._process.kill()
            self._process.join()
            self._pipe.close()


def read(pipe: Connection, setup: Setup, path: Path, refiner: bool) -> None:
    """The process from its first line to its last."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(NICE)
    try:
        pipe.send(Step("starting torch"))
        from engine.prompt import keep_text, read_text

        text = read_text(setup, refiner=refiner, on_step=lambda step: pipe.send(Step(step)))
        keep_text(path, text)
        pipe.send(Done())
    except (ValueError, RuntimeError, MemoryError, OSError, ImportError) as error:
        pipe.send(Done(" ".join(str(error).split()) or type(error).__name__))


def _end_with_parent() -> None:
    """A window that was killed asked for nothing: an encoder would take its memory for minutes more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)
