"""The program on the screen: a process of its own, from its first line to its last."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from explorer.assets import Scene, assets_folder, load_gallery, photograph
from explorer.kiosk.link import Close, Event, Left, Refused
from explorer.kiosk.settings import Station

SIZE = (1280, 800)  # of the window where it is not full screen
LARGEST = 1 << 20  # bytes of raw error output kept from one start to the next


def station_scenes(station: Station, assets: Path) -> tuple[Scene, ...]:
    """What the station offers, in its order. Raises ValueError for a broken picture and a name the gallery lacks."""
    gallery = {scene.name: scene for scene in load_gallery(assets / "gallery")}
    world = station.world
    for name in world.scenes:
        if name not in gallery:
            raise ValueError(
                f"[world] scenes names '{name}', which the gallery lacks: use {', '.join(gallery)}"
            )
    own = tuple(photograph(path) for path in world.pictures)
    chosen = own + tuple(gallery[name] for name in world.scenes or (() if own else gallery))
    scenes = tuple(world.choice.worded(scene) for scene in chosen)
    names = [scene.name for scene in scenes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two scenes are named '{min(twice)}': give the picture another file name")
    return scenes


def run(pipe: Connection, station: Station, errors: Path) -> None:
    """Show the station until told to end. Nothing is ever printed on a terminal: raw errors go to a file."""
    _redirect(errors)
    link = Link(pipe)
    try:
        _show(link, station)
        link.tell(Left())
    except ValueError as error:
        link.tell(Refused(" ".join(str(error).split())))
        sys.exit(2)
    except Exception:  # noqa: BLE001 -- whatever it was, it goes to the log and the supervisor starts anew
        link.tell(Event(traceback.format_exc(), trouble=True))
        sys.exit(1)
    finally:
        pipe.close()


def _show(link: Link, station: Station) -> None:
    from explorer.kiosk.show import Show
    from explorer.kiosk.window import StationWindow
    from explorer.session import Session

    assets = assets_folder()
    scenes = station_scenes(station, assets)
    world, screen, choice = station.world, station.screen, station.world.choice
    window = StationWindow(
        SIZE,
        title="World Explorer",
        speed=world.cruise,
        fullscreen=screen.fullscreen,
        leave=screen.leave,
    )
    try:
        session = Session(
            choice.model, assets=assets, device=choice.device, threads=choice.threads, setup=choice.setup
        )
        try:
            show = Show(window, session, scenes, station, tell=link.tell)
            try:
                show.run(link.commands)
            finally:
                show.close()
        finally:
            session.stop()
    finally:
        window.close()


class Link:
    """The program's end of the pipe. A thread reads, and ends the process when the supervisor is gone."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self.commands: deque[object] = deque(maxlen=64)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                message = self._pipe.recv()
            except (EOFError, OSError):
                message = None
            self.commands.append(message or Close())
            if message is None:
                time.sleep(5.0)  # for the engine and the window to be closed in order
                os._exit(0)

    def tell(self, message: object) -> None:
        with suppress(OSError):
            self._pipe.send(message)


def _redirect(errors: Path) -> None:
    """Standard output and error, those of the engine and of C libraries included, into a file."""
    keep = errors.exists() and errors.stat().st_size < LARGEST
    file = os.open(errors, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if keep else os.O_TRUNC), 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    faulthandler.enable()
