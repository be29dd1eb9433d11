"""A small window in a process of its own that plays what a render has made, over and over until more comes."""

from __future__ import annotations

import multiprocessing
import signal
import time
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np
import pygame
from numpy.typing import NDArray

from explorer.window import require_display

WIDTH = 960  # pixels of the window


class Preview:
    """Opens with the first frames. Closed by whoever looks at it, it stays closed; the render goes on."""

    def __init__(self) -> None:
        require_display()
        context = multiprocessing.get_context("spawn")
        theirs, self._pipe = context.Pipe(duplex=False)
        self._process = context.Process(target=_play, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def show(self, frames: NDArray[np.uint8], *, fps: float) -> None:
        """Play [P, Y, X, 3] from now on."""
        with suppress(OSError):  # somebody has closed it
            self._pipe.send((frames, fps))

    def close(self) -> None:
        self._pipe.close()
        self._process.join(2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _play(pipe: Connection) -> None:
    """The window, until it is closed or the render is over."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the render
    with suppress(EOFError, OSError):
        frames, fps = pipe.recv()
        height, width = frames.shape[1:3]
        scale = WIDTH / width if width > WIDTH else WIDTH // width
        pygame.display.init()
        screen = pygame.display.set_mode((round(width * scale), round(height * scale)))
        pygame.display.set_caption("World Explorer - rendering")
        while True:
            for frame in frames:
                if any(_closes(event) for event in pygame.event.get()):
                    return
                surface = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
                pygame.transform.smoothscale(surface, screen.get_size(), screen)
                pygame.display.flip()
                time.sleep(1 / fps)
            if pipe.poll():
                frames, fps = pipe.recv()


def _closes(event: pygame.event.Event) -> bool:
    return event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE)
