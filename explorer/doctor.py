"""`explorer doctor`: what this machine is, what it can run, how fast, and why."""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from tyro.conf import FlagCreatePairsOff, arg

from engine.setup import (
    FP8_CAPABILITY,
    GB,
    TIERS,
    Tier,
    advised,
    fitted,
    models_folder,
    needs,
    parse_precision,
    spared,
    tier_for,
)
from explorer.assets import assets_folder

PACKAGES = {  # what each is for
    "numba": "pocket's spatial memory, five times as fast",
    "triton": "kernels on a GPU",
    "huggingface_hub": "explorer download",
    "transformers": "prompts for sana-wm",
    "diffusers": "prompts for sana-wm's refiner",
}
# Frames per second: pocket in BENCHMARKS.md; sana-wm as NVIDIA publishes it for an H100 in bf16 with the refiner, by
# the window of the refiner (docs of NVlabs/Sana, streaming release of 2026).
POCKET_SPEED = "22 to 28 frames/s on two shared cores of an AMD EPYC (Zen 5), 586 on an H100; 16 are needed"
SANA_SPEED = {11: "17 frames/s on an H100, its makers say", 5: "17 to 20 frames/s on an H100, its makers say"}
GPU_ONLY = "about as fast as the GPU is beside an H100; explorer bench pipeline measures it"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is. Bytes."""

    python: str
    torch: str
    system: str
    cores: int
    fast_bf16: bool  # the CPU multiplies it natively
    memory: int
    memory_free: int
    gpu: str  # name; empty: none
    gpu_memory: int
    gpu_free: int
    gpu_capability: tuple[int, int]
    disk_free: int  # where models are kept
    display: bool
    renderer: str = ""  # who draws a window; empty: none opens
    packages: dict[str, str]  # version by name; empty: absent
    models: str  # folder
    worlds: dict[str, World]


@dataclass(frozen=True, kw_only=True)
class World:
    """Weights on this disk."""

    present: bool
    refiner: bool = False
    size: int = 0
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a world runs here, and why."""

    world: str
    runs: bool
    why: str
    speed: str = ""
    todo: str = ""
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Say what this machine can run, how fast to expect it, and what is missing."""

    json: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """print it for programs"""

    def run(self) -> int:
        """Returns 0."""
        machine = examine()
        found = verdicts(machine)
        if self.json:
            tier = tier_for(machine.gpu_memory)
            record = {
                **asdict(machine),
                "tier": tier and asdict(tier),
                "verdicts": [asdict(v) for v in found],
            }
            print(json.dumps(record, indent=1))  # noqa: T201 -- this is what was asked for
            return 0
        console = Console(highlight=False)
        for table in (_machine(machine), _worlds(found), _tiers(machine)):
            console.print(table)
        return 0


def verdicts(m: Machine) -> tuple[Verdict, ...]:
    """What runs on a machine, pocket first. Pure."""
    pocket = Verdict(
        world="pocket",
        runs=m.worlds["pocket"].present,
        why="needs no GPU and 0.7 GB of memory"
        if m.worlds["pocket"].present
        else "its weights are not installed",
        speed=POCKET_SPEED,
        todo="explorer fly" if m.worlds["pocket"].present else "reinstall, or set WORLD_EXPLORER_ASSETS",
    )
    found = (pocket, *(_sana(m, name) for name in m.worlds if name != "pocket"))
    return tuple(replace(v, licence=m.worlds[v.world].licence) for v in found)


def _sana(m: Machine, name: str) -> Verdict:
    """A sana-wm: a GPU that is large enough, then weights, then what reads its prompts."""
    tier = tier_for(m.gpu_memory)
    if not m.gpu:
        return Verdict(world=name, runs=False, why="needs an NVIDIA GPU of 16 GB or more, and there is none")
    if tier is None:
        return Verdict(
            world=name, runs=False, why=f"needs 16 GB of GPU memory, and {m.gpu} has {m.gpu_memory / GB:.0f}"
        )
    live = name == "sana-wm-streaming"
    need = needs(spared(tier, m.gpu_free), refiner=tier.refines_live)
    why = f"{explained(tier)}; {need.total / GB:.0f} GB of {m.gpu_memory / GB:.0f} are used"
    if need.total > m.gpu_free:
        why += f", but only {m.gpu_free / GB:.0f} GB are free now"
    if advice := fewer_bits(tier, fp8=m.gpu_capability >= FP8_CAPABILITY):
        why += f"; {advice}"
    speed = (SANA_SPEED.get(tier.refiner_window, GPU_ONLY) if tier.refines_live else GPU_ONLY) if live else ""
    return Verdict(
        world=name,
        runs=m.worlds[name].present and need.total <= m.gpu_free,
        why=why,
        speed=speed or "rendered, not flown",
        todo=_missing(m, name),
    )


def _missing(m: Machine, name: str) -> str:
    """The next command."""
    world = m.worlds[name]
    if not world.present:
        return f"explorer download {name}"
    if not world.refiner:
        return f"explorer download {name} --refiner, for sharper pictures"
    if not m.packages["transformers"]:
        return 'pip install "world-explorer[sana]"'
    return (
        "explorer fly --model sana-wm" if name == "sana-wm-streaming" else f"explorer render --model {name}"
    )


def explained(tier: Tier) -> str:
    """A memory tier in words."""
    return f"{tier.gigabytes} GB: {_refining(tier)}"


def fewer_bits(tier: Tier, *, fp8: bool) -> str:
    """What a --precision would add to a tier, in words; empty: nothing."""
    precision = advised(tier, fp8=fp8)
    if precision is None:
        return ""
    more = fitted(tier, parse_precision(precision))
    need = needs(more, refiner=True, precision=parse_precision(precision))
    return f"--precision {precision} {_refining(more)}, in {need.total / GB:.0f} GB"


def _refining(tier: Tier) -> str:
    if not tier.refiner:
        return "flies without the refiner"
    if tier.refines_live:
        window = (
            "its whole window" if tier.refiner_window == 11 else f"a window of {tier.refiner_window} frames"
        )
        return f"flies with the refiner and {window}"
    return (
        "flies without the refiner, renders with it "
        f"({tier.refiner_blocks} of its 48 blocks stay on the GPU, the others travel)"
    )


def examine() -> Machine:
    """Look at this machine."""
    import torch

    from engine.opening import free_memory, total_memory
    from explorer.opengl import examined
    from explorer.window import has_display

    cpu = torch.device("cpu")
    gpu = torch.device("cuda") if torch.cuda.is_available() else None
    models = models_folder()
    place = next(p for p in (models, *models.absolute().parents) if p.exists())
    return Machine(
        python=platform.python_version(),
        torch=torch.__version__,
        system=f"{platform.system()} {platform.machine()}",
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        fast_bf16=torch.cpu._is_avx512_bf16_supported(),
        memory=total_memory(cpu),
        memory_free=free_memory(cpu),
        gpu=torch.cuda.get_device_name(gpu) if gpu else "",
        gpu_memory=total_memory(gpu) if gpu else 0,
        gpu_free=free_memory(gpu) if gpu else 0,
        gpu_capability=torch.cuda.get_device_capability(gpu) if gpu else (0, 0),
        disk_free=shutil.disk_usage(place).free,
        display=has_display(),
        renderer=examined() if has_display() else "",
        packages={name: _version(name) for name in PACKAGES},
        models=str(models),
        worlds=_found(models),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _found(models: Path) -> dict[str, World]:
    from engine.converted import RECORD
    from engine.release import RELEASES, read_json

    pocket = sorted((assets_folder() / "pocket").glob("*.safetensors"))
    worlds = {
        "pocket": World(
            present=len(pocket) == 2, size=sum(f.stat().st_size for f in pocket), licence="Apache-2.0"
        )
    }
    for name in RELEASES:
        folder = models / name
        record: dict[str, Any] = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
        worlds[name] = World(
            present=bool(record),
            refiner=(folder / "refiner" / "config.json").is_file(),
            size=sum(f.stat().st_size for f in folder.rglob("*.safetensors")) if record else 0,
            licence=str(record.get("licence", "")),
        )
    return worlds


def _machine(m: Machine) -> Table:
    table = Table(title="This machine", title_justify="left", show_header=False)
    gpu = f"{m.gpu}, {m.gpu_memory / GB:.0f} GB, {m.gpu_free / GB:.0f} free" if m.gpu else "none for torch"
    rows = {
        "System": f"{m.system}, Python {m.python}, torch {m.torch}",
        "CPU": f"{m.cores} cores" + (", bf16" if m.fast_bf16 else ", no native bf16: slower"),
        "Memory": f"{m.memory / GB:.0f} GB, {m.memory_free / GB:.0f} free",
        "GPU": gpu,
        "Display": _display(m),
        "Models": f"{m.models}, {m.disk_free / GB:.0f} GB free there",
    }
    for name, what in rows.items():
        table.add_row(name, what)
    for name, what in PACKAGES.items():
        table.add_row(name, m.packages[name] or f"not installed: {what}")
    return table


def _display(m: Machine) -> str:
    from explorer.opengl import is_cpu

    if not m.display:
        return "none: use explorer serve, or --out"
    if not m.renderer:
        return "yes, but no OpenGL 3.3 window opens: use explorer serve, or another graphics driver"
    return f"drawn by {m.renderer}" + (", on the CPU: 32 refreshes/s" if is_cpu(m.renderer) else "")


def _worlds(found: tuple[Verdict, ...]) -> Table:
    table = Table(title="What it can run", title_justify="left")
    for column in ("world", "here", "why", "speed", "licence", "next"):
        table.add_column(column)
    for v in found:
        table.add_row(v.world, "yes" if v.runs else "no", v.why, v.speed, v.licence or "-", v.todo)
    return table


def _tiers(m: Machine) -> Table:
    """All memory tiers, the chosen one marked."""
    chosen = tier_for(m.gpu_memory)
    table = Table(title="Memory tiers of sana-wm (estimated from shapes)", title_justify="left")
    fp8 = not m.gpu or m.gpu_capability >= FP8_CAPABILITY
    for column in ("", "tier", "flying", "rendering", "weights of fewer bits"):
        table.add_column(column)
    for tier in TIERS:
        flying, rendering = (needs(tier, refiner=r).total / GB for r in (tier.refines_live, tier.refiner))
        table.add_row(
            "→" if tier == chosen else "",
            explained(tier),
            f"{flying:.0f} GB",
            f"{rendering:.0f} GB",
            fewer_bits(tier, fp8=fp8),
        )
    return table
