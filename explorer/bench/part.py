"""The flags of `explorer bench PART`, and what each part runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Suppress, arg

from engine.config import FPS, WORLDS
from engine.setup import Refining, Setup, Sizes
from explorer.outfile import require_folder, write_json, write_text

if TYPE_CHECKING:
    from engine.bench.clock import Tick
    from engine.bench.report import Report
    from explorer.assets import Scene

PATH = "w-64,dw-32,w-48,d-24,w-64,aw-40,none-16"  # walks, turns and a rest, repeated
LENGTH = 288  # frames of it
optional = arg(metavar="N", help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Part:
    """What every part takes."""

    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """auto, cpu or cuda"""
    json: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """file to write every figure to as well"""
    compare: Annotated[str | None, arg(metavar="COMMIT", help_behavior_hint="")] = None
    """measure this commit of the checkout too, in turns, and print the ratios"""
    rounds: Annotated[int, arg(metavar="N")] = 3
    """turns of each with --compare"""

    name = ""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"--device {self.device} is unknown: use auto, cpu or cuda")
        if not 1 <= self.rounds <= 100:
            raise ValueError(f"--rounds {self.rounds} is out of range: use 1 to 100")
        if self.json is not None:
            require_folder("--json", self.json)

    def run(self) -> int:
        """Measure, print, write. Raises ValueError for a user's mistake."""
        if self.compare is not None:
            return self._against(self.compare)
        from explorer.bench.table import print_report

        with progress() as tick:
            report = self.measure(tick)
        print_report(report)
        self.write(report.record())
        self.finish(report)
        return 0

    def measure(self, tick: Tick) -> Report:
        raise NotImplementedError

    def finish(self, report: Report) -> None:
        """Whatever else a part makes of its report."""

    def flags(self) -> list[str]:
        """The command line that measures the same, but for where it is written and what it is compared with."""
        return ["--device", self.device]

    def write(self, record: object) -> None:
        if self.json is not None:
            write_json(self.json, record)

    def _against(self, commit: str) -> int:
        from explorer.bench.compare import alternate
        from explorer.bench.table import print_comparison

        with progress() as tick:
            comparison = alternate(self.name, self.flags(), commit=commit, rounds=self.rounds, tick=tick)
        print_comparison(comparison)
        self.write(comparison.record())
        return 0


@dataclass(frozen=True, kw_only=True)
class Sana(Part):
    """What the parts of sana-wm take."""

    chunks: Annotated[int, arg(metavar="N")] = 32
    """chunks of 24 frames to measure, after 8 that fill every window"""
    memory: Annotated[int | None, arg(metavar="GB", help_behavior_hint="")] = None
    """run as on a GPU of so many gigabytes: a tier that explorer doctor lists"""
    precision: Annotated[str, arg(metavar="bf16|fp8|nvfp4")] = "bf16"
    """of linear maps; WORLD/REFINER for two"""
    setup: Suppress[Setup] = field(default_factory=lambda: Setup(random_weights=True))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.chunks <= 100_000:
            raise ValueError(f"--chunks {self.chunks} is out of range: use 1 to 100000")
        _ = self.chosen  # raises for a tier or a precision that there is not

    @property
    def chosen(self) -> Setup:
        setup = replace(self.setup, precision=self.precision)
        return setup if self.memory is None else replace(setup, memory=self.memory)

    def flags(self) -> list[str]:
        tier = [] if self.memory is None else ["--memory", str(self.memory)]
        precision = [] if self.precision == "bf16" else ["--precision", self.precision]
        return [*super().flags(), "--chunks", str(self.chunks), *tier, *precision]


@dataclass(frozen=True, kw_only=True)
class Stage1(Sana):
    """Time stage 1 of sana-wm at its true size with random weights: four denoising passes and a clean one per chunk."""

    name = "stage1"

    def measure(self, tick: Tick) -> Report:
        from engine.bench.sana import stage1

        return stage1(self.chosen, device=self.device, chunks=self.chunks, tick=tick)


@dataclass(frozen=True, kw_only=True)
class Codec(Sana):
    """Time the causal decoder of sana-wm, to pictures in main memory."""

    name = "codec"

    def measure(self, tick: Tick) -> Report:
        from engine.bench.sana import codec

        return codec(self.chosen, device=self.device, chunks=self.chunks, tick=tick)


@dataclass(frozen=True, kw_only=True)
class Refiner(Sana):
    """Time the second stage of sana-wm: three denoising passes and a clean one per block."""

    name = "refiner"

    def measure(self, tick: Tick) -> Report:
        from engine.bench.sana import refiner

        return refiner(self.chosen, device=self.device, chunks=self.chunks, tick=tick)


@dataclass(frozen=True, kw_only=True)
class Flight:
    """What the parts take that fly."""

    minutes: Annotated[float | None, arg(metavar="M", help_behavior_hint="")] = None
    """fly on for so long, in time of flight"""
    plot: Annotated[Path | None, arg(metavar="FILE.svg", help_behavior_hint="")] = None
    """draw chunk time and memory over the flight"""

    def __post_init__(self) -> None:
        if self.minutes is not None and not 0.1 <= self.minutes <= 600:
            raise ValueError(f"--minutes {self.minutes:g} is out of range: use 0.1 to 600")
        if self.plot is not None:
            require_folder("--plot", self.plot)
            if self.plot.suffix != ".svg":
                raise ValueError(f"--plot {self.plot} is no picture that can be drawn: name it .svg")

    def chunks_of(self, frames: int) -> int | None:
        """Chunks of so many frames in the minutes asked for."""
        return None if self.minutes is None else max(1, round(60 * self.minutes * FPS / frames))

    def minute_flags(self) -> list[str]:
        return [] if self.minutes is None else ["--minutes", f"{self.minutes:g}"]

    def draw(self, report: Report) -> None:
        if self.plot is not None:
            from explorer.bench.plot import over_time

            write_text(self.plot, over_time(report.moments))


@dataclass(frozen=True, kw_only=True)
class Pipeline(Flight, Sana):
    """Time a flight of sana-wm from poses to frames: stage 1 and codec, and with the refiner where it fits."""

    refiner: Annotated[Refining, arg(metavar="HOW")] = "auto"
    """auto (where it fits), on or off"""

    name = "pipeline"

    def __post_init__(self) -> None:
        Flight.__post_init__(self)
        Sana.__post_init__(self)

    @property
    def chosen(self) -> Setup:
        chosen = super().chosen
        return chosen if self.refiner == "auto" else replace(chosen, refiner=self.refiner)

    def measure(self, tick: Tick) -> Report:
        from engine.bench.sana import pipeline

        chunks = self.chunks_of(WORLDS["sana-wm"].chunk_frames) or self.chunks
        return pipeline(self.chosen, device=self.device, chunks=chunks, tick=tick)

    def finish(self, report: Report) -> None:
        self.draw(report)

    def flags(self) -> list[str]:
        return [*super().flags(), *self.minute_flags(), "--refiner", self.refiner]


@dataclass(frozen=True, kw_only=True)
class Lowbit(Part):
    """Load and time both stages of sana-wm in bf16, fp8 and nvfp4, one after the other: memory, errors, milliseconds."""

    chunks: Annotated[int, arg(metavar="N")] = 6
    """chunks of 24 frames to measure, after 7 that fill every window"""
    sizes: Suppress[Sizes] = field(default_factory=Sizes)

    name = "lowbit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.chunks <= 100_000:
            raise ValueError(f"--chunks {self.chunks} is out of range: use 1 to 100000")

    def measure(self, tick: Tick) -> Report:
        from engine.bench.lowbit import lowbit
        from engine.opening import chosen_device

        where = chosen_device(self.device)
        return lowbit(self.sizes, where=where, chunks=self.chunks, tick=tick)

    def flags(self) -> list[str]:
        return [*super().flags(), "--chunks", str(self.chunks)]


@dataclass(frozen=True, kw_only=True)
class Kernels(Part):
    """Time every GPU kernel beside its plain form in torch, at the shapes that the models call it with."""

    count: Annotated[int, arg(metavar="N")] = 50
    """runs to measure"""

    name = "kernels"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.count <= 100_000:
            raise ValueError(f"--count {self.count} is out of range: use 1 to 100000")

    def measure(self, tick: Tick) -> Report:
        import torch

        from engine.bench.kernels import kernels

        if self.device not in ("auto", "cuda") or not torch.cuda.is_available():
            raise ValueError(
                "kernels run on an NVIDIA GPU, and torch finds none here or was told not to look"
            )
        return kernels(torch.device("cuda"), count=self.count, tick=tick)

    def flags(self) -> list[str]:
        return [*super().flags(), "--count", str(self.count)]


@dataclass(frozen=True, kw_only=True)
class Pocket(Flight, Part):
    """Time a flight of the built-in world without a window, on this CPU or GPU."""

    chunks: Annotated[int, arg(metavar="N")] = 104
    """chunks of 8 frames to measure, after 16 that warm up"""
    threads: Annotated[int | None, optional] = None
    """CPU threads of the model; default: what suits this machine"""
    scene: Annotated[str, arg(metavar="NAME")] = ""
    """of the gallery; default: its first"""

    name = "pocket"

    def __post_init__(self) -> None:
        Flight.__post_init__(self)
        Part.__post_init__(self)
        if not 1 <= self.chunks <= 100_000:
            raise ValueError(f"--chunks {self.chunks} is out of range: use 1 to 100000")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ValueError(f"--threads {self.threads} is out of range: use 1 to 1024")

    def measure(self, tick: Tick) -> Report:
        from engine.bench.pocket import WARM, pocket
        from engine.engine import Engine
        from explorer.assets import assets_folder
        from explorer.dialect import POCKET_MOTION
        from explorer.path import load_path

        scene = self._scene(assets_folder())
        begun = time.perf_counter()
        engine = Engine.load(
            "pocket",
            assets=assets_folder(),
            device=self.device,
            threads=self.threads,
            on_step=lambda what: tick(what, 0, 1),
        )
        loaded = time.perf_counter() - begun
        spec = engine.spec
        frames = spec.chunk_frames * (WARM + (self.chunks_of(spec.chunk_frames) or self.chunks))
        keys = ",".join([PATH] * (1 + frames // LENGTH))
        way = load_path(keys, motion=POCKET_MOTION).from_start(scene.pose)
        picture, lens = scene.picture(spec.width, spec.height)
        poses = [way.pose(i) for i in range(frames + 1)]
        depth = scene.depth(spec.width, spec.height)
        report = pocket(engine, picture, poses, lens=lens, words=scene.words, inverse_depth=depth, tick=tick)
        return replace(report, facts={"load_s": loaded, **report.facts})

    def _scene(self, assets: Path) -> Scene:
        from explorer.assets import load_gallery

        gallery = load_gallery(assets / "gallery")
        for scene in gallery if self.scene else gallery[:1]:
            if self.scene in ("", scene.name):
                return scene
        raise ValueError(
            f"--scene {self.scene} is not in the gallery: use {', '.join(s.name for s in gallery)}"
        )

    def finish(self, report: Report) -> None:
        self.draw(report)

    def flags(self) -> list[str]:
        threads = [] if self.threads is None else ["--threads", str(self.threads)]
        scene = ["--scene", self.scene] if self.scene else []
        return [*super().flags(), "--chunks", str(self.chunks), *self.minute_flags(), *threads, *scene]


PARTS: dict[str, type[Part]] = {
    kind.name: kind for kind in (Stage1, Codec, Refiner, Pipeline, Lowbit, Kernels, Pocket)
}


@contextmanager
def progress() -> Iterator[Tick]:
    """A bar on stderr that says what is being measured; a line for each thing where no terminal is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    silent = not console.is_terminal
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=silent) as bar:
        task, begun, before = bar.add_task("starting"), time.monotonic(), ""

        def tick(what: str, done: int, total: int, /) -> None:
            nonlocal before
            bar.update(task, description=what, completed=done, total=total)
            if silent and what != before:
                print(f"{time.monotonic() - begun:.0f} s: {what}", file=sys.stderr)  # noqa: T201
                before = what

        yield tick


def told(kinds: Mapping[str, type]) -> str:
    """All that can be measured, one a line."""
    lines = [f"  explorer bench {name:<10} {_first_line(kind)}" for name, kind in kinds.items()]
    return "\n".join(["Measure one of", *lines, "explorer bench PART --help says more."])


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").splitlines()[0]
