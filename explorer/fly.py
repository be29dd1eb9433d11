"""`explorer fly`: its flags, checked, and the choice between a window and an unattended flight."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from engine.container import require_same_world
from engine.identity import weights_of
from engine.setup import GB
from explorer.assets import Scene, assets_folder, imagined, load_gallery, photograph
from explorer.choice import WorldChoice
from explorer.controls import SPEED_MAX, SPEED_MIN
from explorer.flight import read_prompt
from explorer.outfile import require_folder, write_json
from explorer.path import names_file
from explorer.worldfile import SUFFIX, open_world

if TYPE_CHECKING:
    from explorer.recording import Films
    from explorer.session import Session
    from explorer.settings import Settings

SIZE = (1280, 800)  # of the window

OffGround = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class Fly(WorldChoice):
    """Fly through a generated world: from a picture of yours, from one of the gallery, or from words alone.

    With --path and --out (or --contact-sheet, or --export) nobody needs to watch: no window is opened.
    """

    image: Annotated[str | None, Positional, arg(metavar="[IMAGE]", help_behavior_hint="")] = None
    """a photograph or painting to begin with (PNG, JPEG, WebP), or a saved .world; without it: the gallery, or in
    pocket, where there is a --prompt, a place that the world draws from its words"""
    fov: Annotated[float | None, arg(metavar="DEGREES", help_behavior_hint="")] = None
    """horizontal field of view of the picture in degrees; default: from its EXIF data, else 64"""
    seed: Annotated[int, arg(metavar="N")] = 0
    """another number, another dream"""
    speed: Annotated[float | None, arg(metavar="M/S", help_behavior_hint="")] = None
    """metres per second; default: 4 in pocket (in the window what the settings say), 0.4 in sana-wm"""
    path: Annotated[str | None, arg(metavar="KEYS|FILE", help_behavior_hint="")] = None
    """what to fly: w-48,dw-32 (keys and frames) or a .npy, transforms.json or COLMAP images.txt file"""
    off_ground: Annotated[OffGround, arg(metavar="auto|on|off")] = "auto"
    """pocket: fly around what the world invents in the path's way; auto: keys are flown so, path files as written"""
    out: Annotated[Path | None, arg(metavar="MP4", help_behavior_hint="")] = None
    """film to write (mp4)"""
    frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """length of the film, 16 are a second; default: the whole path"""
    contact_sheet: Annotated[Path | None, arg(metavar="PNG", help_behavior_hint="")] = None
    """picture to write (png): frames of the flight side by side"""
    export: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """folder for frames, depth, camera path and point cloud; in the window: one folder in it per recording"""
    hud: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """recordings show the window with its panels, not the world's clean frames"""
    size: Annotated[str | None, arg(metavar="WxH", help_behavior_hint="")] = None
    """WIDTHxHEIGHT of the window (default 1280x800) or of the film (default: the world's own)"""
    stats: Annotated[Path | None, arg(metavar="JSON", help_behavior_hint="")] = None
    """file to write at the end: latencies with their parts, and rates"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not SPEED_MIN <= self.cruise <= SPEED_MAX:
            raise ValueError(
                f"--speed {self.cruise:g} m/s is out of range: use {SPEED_MIN:g} to {SPEED_MAX:g}"
            )
        if self.frames is not None and not 1 <= self.frames <= 100_000:
            raise ValueError(f"--frames {self.frames} is out of range: use 1 to 100000")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed {self.seed} is out of range: use 0 to 2^63 - 1")
        if self.fov is not None and not (math.isfinite(self.fov) and 10 <= self.fov <= 150):
            raise ValueError(f"--fov {self.fov:g}° is out of range: use 10 to 150")
        if self.hud and self.unattended:
            raise ValueError("--hud films the window and this flight has none: leave it out")
        if self.path is not None and not self.unattended:
            raise ValueError("--path flies without a window: say where the film goes, with --out flight.mp4")
        if self.frames is not None and not self.unattended:
            raise ValueError(
                "--frames is the length of a film: say where the film goes, with --out flight.mp4"
            )
        if self.off_ground != "auto" and not self.unattended:
            raise ValueError(
                "--off-ground is for a --path: in a window the camera keeps off the ground in any case"
            )
        if self.off_ground == "on" and self.model != "pocket":
            raise ValueError(
                "--off-ground on needs a world that knows depth: leave it out, or use --model pocket"
            )
        if self.stats is not None and self.unattended:
            raise ValueError("--stats measures a flight in a window: leave out --out and --contact-sheet")
        if self.stats is not None:
            require_folder("--stats", self.stats)

    @property
    def cruise(self) -> float:
        """Metres per second of keys, until the wheel turns."""
        return self.usual_speed if self.speed is None else self.speed

    @property
    def unattended(self) -> bool:
        exported = self.export is not None and self.path is not None
        return self.out is not None or self.contact_sheet is not None or exported

    @property
    def keeps_off(self) -> bool:
        """Whether a path is flown off the ground; else as it is written."""
        if self.off_ground != "auto":
            return self.off_ground == "on"
        return self.model == "pocket" and not (self.path and names_file(self.path))

    def run(self) -> int:
        """Fly. Returns the exit code; a user's mistake raises ValueError."""
        size = None if self.size is None else parse_size(self.size)
        if self.unattended:
            from explorer.unattended import fly_unattended

            return fly_unattended(self, size=size)
        report: dict[str, object] = {}
        try:
            return fly_in_a_window(self, size or SIZE, report=report)
        finally:  # Ctrl-C loses no figures
            if self.stats is not None and report:
                write_json(self.stats, report)

    def scenes(self, assets: Path) -> tuple[Scene, ...]:
        """The picture asked for, else what the words say, else the gallery."""
        if self.image is None and self.words_alone is not None:
            return (imagined(self.words_alone, fov=self.fov, seed=self.seed),)
        if self.image is None:
            scenes = load_gallery(assets / "gallery")
        elif Path(self.image).suffix.lower() == SUFFIX:
            return (self._saved(Path(self.image), assets),)
        else:
            scenes = (photograph(Path(self.image), fov=self.fov),)
        return tuple(self.worded(replace(scene, seed=self.seed or scene.seed)) for scene in scenes)

    def _saved(self, path: Path, assets: Path) -> Scene:
        """A flight that was saved goes on with its own words and seed."""
        for flag, value in (("--prompt", self.prompt), ("--fov", self.fov), ("--seed", self.seed or None)):
            if value is not None:
                raise ValueError(f"{path} goes on as it was saved: leave out {flag}")
        scene = open_world(path)
        assert scene.past is not None
        weights = weights_of(self.model, assets=assets, setup=self.setup)
        require_same_world(path, scene.past.record, world=self.model, weights=weights)
        return scene

    def going_on(self, scene: Scene) -> Fly:
        """The same flags with the prompt of a saved flight, so that what is begun after it is dreamed under it too."""
        if scene.past is None or self.model != "sana-wm":
            return self
        return replace(self, prompt=read_prompt(scene.past.record))


def parse_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT in pixels. Raises ValueError."""
    match = re.fullmatch(r"(\d{2,5})[xX×](\d{2,5})", text)
    if match is None or not all(64 <= int(n) <= 8192 for n in match.groups()):
        raise ValueError(
            f"--size {text} is no size: write WIDTHxHEIGHT with 64 to 8192 pixels, such as 1280x800"
        )
    return int(match[1]), int(match[2])


def fly_in_a_window(
    fly: Fly,
    size: tuple[int, int],
    *,
    script: Callable[[Session], AbstractContextManager[None]] | None = None,
    report: dict[str, object],
) -> int:
    """The engine process is started first: it loads while the window opens and the pilot chooses.

    script: hands that fly by themselves, from the first scene on.  report: filled with figures at the end.
    """
    from explorer.session import Session
    from explorer.settings_file import load_settings

    assets = assets_folder()
    settings = load_settings()
    speed = fly.cruise if fly.speed is not None or fly.model != "pocket" else settings.flight.speed
    fly = replace(fly, fov=fly.fov or settings.flight.fov or None, speed=speed)
    scenes = fly.scenes(assets) if script is None else fly.scenes(assets)[:1]
    fly = fly.going_on(scenes[0])
    _require_display()
    session = Session(
        fly.model,
        assets=assets,
        device=fly.device,
        threads=fly.threads,
        setup=fly.setup,
        memory=int(settings.timeline.memory * GB),
        disk=int(settings.timeline.disk * GB),
    )
    try:
        with nullcontext() if script is None else script(session):
            return _cockpit(fly, session, scenes, size, settings, report)
    finally:
        session.stop()


def _require_display() -> None:
    """Before an engine is started for nothing."""
    from explorer.window import require_display

    require_display()


def _films(fly: Fly, settings: Settings) -> Films:
    from explorer.recorder import pictures_folder
    from explorer.recording import Films

    told = settings.recording
    folder = Path(told.folder).expanduser() if told.folder else pictures_folder()
    return Films(folder=folder, hud=fly.hud or told.hud, export=fly.export)


def _cockpit(
    fly: Fly,
    session: Session,
    scenes: tuple[Scene, ...],
    size: tuple[int, int],
    settings: Settings,
    report: dict[str, object],
) -> int:
    from rich.console import Console

    from explorer.cockpit import Cockpit
    from explorer.window import Window

    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    window = Window(size, title="World Explorer", speed=fly.cruise, settings=settings)
    try:
        cockpit = Cockpit(window, session, scenes, say=console.print, films=_films(fly, settings))
        try:
            return cockpit.run()
        finally:
            cockpit.close()
            report.update(cockpit.report())
    finally:
        window.close()
