"""A flight without a window: the same engine inline, every frame into a film or a contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engine.camera import Pose
from engine.config import FPS
from engine.frame import Frame
from explorer.assets import Scene, assets_folder
from explorer.controls import Steering
from explorer.dialect import POCKET_MOTION, Motion
from explorer.export import require_empty
from explorer.flight import open_flight
from explorer.flightlog import Header
from explorer.host import finite_step
from explorer.path import load_path
from explorer.recorder import Picture, contact_sheet, pick_evenly, require_writable, save_png
from explorer.recording import Recording, Takes, disk_errors

if TYPE_CHECKING:
    from engine.opening import World
    from engine.state import StreamState
    from explorer.fly import Fly

SHEET = 16  # pictures on a contact sheet
DEFAULT_PATH = "w-160"  # ten seconds straight ahead


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be flown: checked before anything slow happens."""

    scene: Scene
    poses: tuple[Pose, ...]  # one per frame of the film; the first is the picture's
    off_ground: bool = False  # flown around what the world invents in their way; else as written

    @property
    def frames(self) -> int:
        return len(self.poses)

    def after(self, state: StreamState, first: int, count: int) -> list[Pose]:
        """Where to see the next `count` frames from, of which `first` is the first. The end of the path is rested at."""
        wanted = list(self.poses[first : first + count])
        wanted += wanted[-1:] * (count - len(wanted))
        if not self.off_ground or state.spatial is None:
            return wanted
        from engine.detour import detoured

        return detoured(state.spatial, self.poses[first - 1], wanted)


def plan(fly: Fly, assets: Path) -> Plan:
    """The scene and one pose per frame. A path shorter than the film rests at its end."""
    trajectory = load_path(fly.path or DEFAULT_PATH, motion=_motion(fly))
    scene = fly.scenes(assets)[0]
    placed = trajectory.from_start(scene.pose)
    count = fly.frames or len(placed)
    poses = tuple(placed.pose(min(i, len(placed) - 1)) for i in range(count))
    return Plan(scene=scene, poses=poses, off_ground=fly.keeps_off)


def _motion(fly: Fly) -> Motion:
    return replace(POCKET_MOTION, speed=fly.cruise)


def frames_of(engine: World, flight: Plan) -> Iterator[Frame]:
    """Every frame of the film in order, the first picture first."""
    spec = engine.spec
    frame, state = _begun(engine, flight.scene)
    yield frame
    for first in range(1, flight.frames, spec.chunk_frames):
        poses = flight.after(state, first, spec.chunk_frames)
        chunk, _ = finite_step(engine, state, poses, intrinsics=frame.intrinsics)
        state = chunk.state
        yield from chunk.frames


def _begun(engine: World, scene: Scene) -> tuple[Frame, StreamState]:
    """The frame that the film begins with, and the state after it: a first picture, or where a .world was saved."""
    if scene.past is not None:
        saved = open_flight(scene.past.path, engine, id=0, used=Steering())
        last = Frame(
            pixels=scene.rgb,
            pose=scene.pose,
            intrinsics=saved.intrinsics,
            index=saved.index - 1,
            world=engine.spec.name,
        )
        return last, saved.state
    chunk = engine.start(**scene.start(engine.spec.width, engine.spec.height))
    return chunk.frames[0], chunk.state


def fly_unattended(fly: Fly, *, size: tuple[int, int] | None) -> int:
    """Fly and write. Returns 0, or 130 after Ctrl-C, which leaves a playable film of what was flown until then."""
    if fly.out is not None:
        require_writable(fly.out, suffix=".mp4")
    if fly.contact_sheet is not None:
        require_writable(fly.contact_sheet, suffix=".png")
    assets = assets_folder()
    flight = plan(fly, assets)
    if fly.export is not None:
        require_empty(fly.export)
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    kept: list[Picture] = []  # of the contact sheet
    wanted = frozenset(pick_evenly(flight.frames, SHEET) if fly.contact_sheet is not None else ())
    recording = Recording(
        Takes(film=fly.out, size=size, export=fly.export, header=Header(fps=FPS, world=fly.model))
    )
    with progress_bar(console) as bar:
        task = bar.add_task("starting", total=flight.frames)
        interrupted = False
        try:
            engine = open_engine(fly, assets, lambda step: bar.update(task, description=step))
            bar.update(task, description="flying" if flight.scene.drawn else "drawing a first picture")
            for done, frame in enumerate(islice(frames_of(engine, flight), flight.frames), start=1):
                with disk_errors(recording):
                    recording.add(frame)
                if done - 1 in wanted:
                    kept.append(frame.pixels)
                bar.update(task, completed=done, description="flying")
        except KeyboardInterrupt:
            interrupted = True
        except BaseException:
            recording.abandon()
            raise
        bar.update(task, description="writing")
        with disk_errors(recording):
            exported = recording.close(_motion(fly))
    if fly.contact_sheet is not None and kept:
        save_png(fly.contact_sheet, contact_sheet(kept))
    _report(console, fly, recording.frames, interrupted=interrupted)
    if exported:
        console.print(exported)
    return 130 if interrupted else 0


def open_engine(fly: Fly, assets: Path, on_step: Callable[[str], None]) -> World:
    """The world that is asked for, inline; time does not matter to it."""
    from engine.opening import open_world

    return open_world(
        fly.model,
        assets=assets,
        device=fly.device,
        threads=fly.threads,
        setup=replace(fly.setup, live=False),
        on_step=on_step,
    )


def _report(console: Console, fly: Fly, done: int, *, interrupted: bool) -> None:
    if interrupted:
        console.print(
            f"stopped after {done} frames" + (f"; {fly.out} is playable" if fly.out and done else "")
        )
        return
    for path in (fly.out, fly.contact_sheet):
        if path is not None:
            console.print(f"{done} frames, {done / FPS:.1f} s: {path}")


def progress_bar(console: Console | None = None) -> Progress:
    """Frames done of all; on stderr where no console is given."""
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
    )
