"""`explorer render`: a picture, a prompt and a path become a film. Stopped and started again, it goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from tyro.conf import FlagCreatePairsOff, Positional, arg

from engine.config import FPS, WORLDS
from explorer.assets import assets_folder
from explorer.choice import WorldChoice
from explorer.fly import Fly, OffGround
from explorer.host import finite_step
from explorer.job import Job, fingerprint
from explorer.recorder import require_writable
from explorer.unattended import Plan, plan
from explorer.worldfile import SUFFIX

if TYPE_CHECKING:
    from engine.engine import Chunk
    from engine.opening import World
    from explorer.preview import Preview


CLIPS = ("sana-wm-bidirectional", "sana-wm-chunk-causal")  # made whole, from first to last frame at once


@dataclass(frozen=True, kw_only=True)
class Render(WorldChoice):
    """Render a flight to a film, as large and as slowly as it takes.

    Ctrl-C keeps all that was made, in a folder beside the film: the same command goes on from there.
    """

    image: Annotated[str, Positional, arg(metavar="IMAGE")]
    """a photograph or painting to begin with (PNG, JPEG, WebP)"""
    path: Annotated[str, arg(metavar="KEYS|FILE")]
    """what to fly: w-48,dw-32 (keys and frames) or a .npy, transforms.json or COLMAP images.txt file"""
    off_ground: Annotated[OffGround, arg(metavar="auto|on|off")] = "auto"
    """pocket: fly around what the world invents in the path's way; auto: keys are flown so, path files as written"""
    out: Annotated[Path, arg(metavar="MP4")]
    """film to write (mp4)"""
    model: Annotated[str, arg(metavar="NAME")] = "pocket"
    """pocket, sana-wm, sana-wm-bidirectional or sana-wm-chunk-causal"""
    fov: Annotated[float | None, arg(metavar="DEGREES", help_behavior_hint="")] = None
    """horizontal field of view of the picture in degrees; default: from its EXIF data, else 64"""
    seed: Annotated[int, arg(metavar="N")] = 0
    """another number, another dream"""
    speed: Annotated[float | None, arg(metavar="M/S", help_behavior_hint="")] = None
    """of keys, metres per second; default: 4 in pocket, 0.4 in sana-wm"""
    frames: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """length of the film, 16 are a second; default: the whole path"""
    steps: Annotated[int, arg(metavar="N")] = 60
    """of sana-wm-bidirectional and -chunk-causal"""
    guidance: Annotated[float, arg(metavar="N")] = 5.0
    """of the same: how far past the empty prompt towards yours"""
    preview: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """show frames in a window as they are made; closing it does not stop the render"""

    def __post_init__(self) -> None:
        if self.model not in (*WORLDS, *CLIPS):
            raise ValueError(f"there is no model '{self.model}': use {', '.join((*WORLDS, *CLIPS))}")
        if Path(self.image).suffix.lower() == SUFFIX:
            raise ValueError(f"a render begins with a picture: {self.image} goes on with explorer fly --out")
        self.fly  # noqa: B018 -- its choices are checked when it is built

    @property
    def fly(self) -> Fly:
        """The same flight as `explorer fly` would make it."""
        shared = {f.name for f in fields(Fly)} & {f.name for f in fields(self)} - {"model"}
        model = "sana-wm" if self.model in CLIPS else self.model
        return Fly(model=model, **{name: getattr(self, name) for name in shared})

    def run(self) -> int:
        """Render. Returns 0, or 130 after Ctrl-C."""
        flight = self.fly
        require_writable(self.out, suffix=".mp4")
        assets = assets_folder()
        if self.model in CLIPS:
            from explorer.render_clip import render_clip

            return render_clip(self, flight, plan(flight, assets))
        return render(self, flight, plan(flight, assets), assets)


def render(options: Render, fly: Fly, flight: Plan, assets: Path) -> int:
    """Open the job, make what is missing of it, put the film together."""
    job = Job(options.out, request=request(fly, flight, weights=_weights(fly, assets)))

    def make(bar: Progress, task: TaskID, preview: Preview | None) -> int:
        return _make(_engine(fly, assets, bar, task), flight, job, bar, task, preview)

    return carried_out(options, flight, job, make)


Make = Callable[[Progress, TaskID, "Preview | None"], int]


def carried_out(options: Render, flight: Plan, job: Job, make: Make) -> int:
    """Make all parts and the film; whatever happens, the newest state is kept. Returns the exit code."""
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    with ExitStack() as stack:
        bar = stack.enter_context(_bar(console))
        task = bar.add_task("starting", total=flight.frames, unit="frames")
        preview = stack.enter_context(_preview()) if options.preview else None
        try:
            parts = make(bar, task, preview)
            bar.update(task, description="writing the film")
            job.finish(parts)
        except KeyboardInterrupt:
            bar.update(task, description="keeping the state")
            job.save()
            bar.stop()
            console.print(f"stopped; the same command goes on from {job.folder}")
            return 130
        except FloatingPointError as error:
            raise ValueError(f"{error}, but that failed too: use another --seed") from error
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            raise ValueError("the GPU ran out of memory: use a smaller --memory, or --refiner off") from error
        finally:
            job.save()
    console.print(f"{flight.frames} frames, {flight.frames / FPS:.1f} s: {options.out}")
    return 0


def _make(engine: World, flight: Plan, job: Job, bar: Progress, task: TaskID, preview: Preview | None) -> int:
    """Every part that the job does not have yet. Returns how many there are."""
    from engine.state import StreamState

    spec, scene = engine.spec, flight.scene
    start = scene.start(spec.width, spec.height)
    parts = 1 + -(-(flight.frames - 1) // spec.chunk_frames)
    found = job.resume(StreamState, device=engine.device)
    if found is None:
        chunk = engine.start(**start)
        job.keep(0, [chunk.frames[0].pixels], chunk.state, fps=spec.fps)
        found = 1, chunk.state
    done, state = found
    for index in range(done, parts):
        first = 1 + (index - 1) * spec.chunk_frames
        bar.update(task, completed=first)
        poses = flight.after(state, first, spec.chunk_frames)
        wanted = min(spec.chunk_frames, flight.frames - first)
        chunk, _ = finite_step(engine, state, poses, intrinsics=start["intrinsics"])
        state = chunk.state
        pictures = [frame.pixels for frame in chunk.frames[:wanted]]
        job.keep(index, pictures, state, fps=spec.fps)
        if preview is not None:
            preview.show(np.stack(pictures), fps=spec.fps)
        bar.update(task, completed=first + wanted, description=_stages(chunk))
    return parts


def _stages(chunk: Chunk) -> str:
    """Where the time of a chunk goes."""
    return "  ".join(f"{stage} {seconds:.2f} s" for stage, seconds in chunk.timing.items())


def _engine(fly: Fly, assets: Path, bar: Progress, task: TaskID) -> World:
    from explorer.unattended import open_engine

    return open_engine(fly, assets, lambda step: bar.update(task, description=step))


def request(fly: Fly, flight: Plan, *, weights: list[list[Any]], **more: Any) -> str:
    """All that decides the film. Weights count by name, size and time of their files: hashing 40 GB would take minutes."""
    scene = flight.scene
    depth = b"" if scene.inverse_depth is None else scene.inverse_depth.tobytes()
    deciding: dict[str, Any] = dict(
        model=fly.model,
        prompt=fly.prompt or "",
        words=list(scene.words or ()),
        seed=scene.seed,
        refiner=fly.refiner,
        memory=fly.memory,
        precision=fly.precision,
        random=fly.random_weights,
        device=fly.device,
        weights=weights,
        picture=hashlib.sha256(scene.rgb.tobytes() + depth).hexdigest(),
        shape=list(scene.rgb.shape),
        lens=[float(x) for x in scene.intrinsics.row],
        poses=np.stack([pose.matrix for pose in flight.poses]).tobytes(),
        off_ground=flight.off_ground,
        **more,
    )
    return fingerprint(deciding)


def _weights(fly: Fly, assets: Path) -> list[list[Any]]:
    from engine.setup import models_folder

    if fly.random_weights:
        return []
    pocket = fly.model == "pocket"
    return listed(assets / "pocket" if pocket else fly.weights or models_folder() / fly.setup.variant)


def listed(folder: Path) -> list[list[Any]]:
    files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    return [[str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns] for f in files]


@contextmanager
def _preview() -> Iterator[Preview]:
    from explorer.preview import Preview

    preview = Preview()
    try:
        yield preview
    finally:
        preview.close()


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeRemainingColumn(),
        console=console,
    )
