"""What each part of the world model is worth: the same short training with one thing changed at a time.

    python -m engine.train.ablate --codec runs/codec/codec.safetensors --minutes 3 --out runs/ablate

Runs under torchrun too. Every variant is a folder; one that is measured is not run again, one that was interrupted
continues. Ends with ablate.json, ablate.txt, ablate.svg (PSNR by seconds of flight) and growth.svg: memory of a flight
by its length for the model as it is and for one of softmax blocks alone.

Keys are scaled by the gain that their norm starts with: K is the width of a head, N the tokens of a frame.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from engine.config import POCKET_CODEC
from engine.evaluate import measure_return, measure_rollouts, psnr_plot
from engine.gdn import GDN
from engine.measure.film import film
from engine.measure.odometry import EVERY, track
from engine.measure.pose_error import PoseError, pose_error
from engine.model import WorldModel
from engine.train.growth import drawn
from engine.train.host import Host, host
from engine.train.world import Training, WorldTraining, learn_through

SHORT, LONG = 8, 20  # chunks at which results are told: 4 and 10 s


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One thing changed."""

    told: str
    short: str  # beside its line in the plot
    plucker: bool = True
    key_gain: str = "1/√(K·N)"
    memory: bool = True

    def change(self, model: WorldModel) -> WorldModel:
        """Make a new model one of this variant."""
        if not self.plucker:
            for block in model.blocks:  # begins at zero, and stays there
                block.get_submodule("plucker_proj").requires_grad_(False)
        tokens, width = math.prod(POCKET_CODEC.grid), model.config.head_dim
        gain = {"1/√(K·N)": 1.0, "1/√K": math.sqrt(tokens), "1": math.sqrt(tokens * width)}[self.key_gain]
        for module in model.modules():
            if isinstance(module, GDN):
                for norm in (module.k_norm, module.k_norm_cam):
                    norm.weight.data.mul_(gain)
        return model


VARIANTS = {
    "base": Variant(told="UCPE and Plücker rays, keys × 1/√(K·N), spatial memory", short="as it is"),
    "ucpe": Variant(told="UCPE only", short="UCPE only", plucker=False),
    "keys-by-width": Variant(told="keys × 1/√K", short="keys × 1/√K", key_gain="1/√K"),
    "keys-unscaled": Variant(told="keys unscaled", short="keys unscaled", key_gain="1"),
    "no-memory": Variant(told="no spatial memory", short="no memory", memory=False),
}


@dataclass(frozen=True, kw_only=True)
class Ablation(WorldTraining):
    """Train the world model anew for every variant, each with the same budget. Ctrl-C saves; the same command continues."""

    out: Path = Path("runs/ablate")
    """folder with one folder per variant"""
    minutes: float = 3.0
    """wall clock of each variant"""
    measure_chunks: int = 40
    """length of the measured flights, at least 20"""
    only: tuple[str, ...] = ()
    """names of variants to run; default: all"""
    growth_chunks: int = 120
    """length of the flights whose memory and time are compared; 0: leave out"""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.only if name not in VARIANTS]
        if unknown:
            raise ValueError(f"no variant is called {', '.join(unknown)}: choose from {', '.join(VARIANTS)}")
        if self.init is not None:
            raise ValueError(
                f"init={self.init}: variants begin from random weights, or one would inherit from another"
            )
        if self.measure_chunks < LONG:
            raise ValueError(f"measure_chunks={self.measure_chunks}: results are told at {LONG} chunks")


class Diverged(ArithmeticError):
    """A loss was not finite, in some process."""


class Ablated(Training):
    """A training of one variant."""

    def __init__(self, options: Ablation, here: Host, variant: Variant) -> None:
        self.variant = variant
        super().__init__(options, here)

    def built(self) -> WorldModel:
        return self.variant.change(super().built())

    def step(self, step: int, fraction: float) -> Mapping[str, Tensor]:
        losses = super().step(step, fraction)
        lost = [float(not bool(loss.isfinite())) for loss in losses.values()]
        if max(self.host.highest(lost)):  # all processes leave together
            raise Diverged(f"step {step}")
        return losses

    def result(self) -> dict[str, Any]:
        """Measured with the averaged weights."""
        model, truth = self.averaged(), self.truth
        assert truth is not None
        assert self.returning is not None
        report = measure_rollouts(model, self.codec, truth)
        made = film(model, self.codec, truth)
        errors = [
            pose_error(
                track(
                    made.frames[i].cpu().numpy(),
                    made.inverse_depth[i].float().cpu().numpy(),
                    truth.intrinsics[i, 0].cpu().numpy(),
                ).poses,
                truth.poses[i, ::EVERY].double().cpu().numpy(),
            )
            for i in range(len(truth.poses))
        ]
        return {
            "chunks": report["chunks"],
            "turn": report["turn"],
            "pose": _mean(errors),
            "returning": measure_return(model, self.codec, self.returning),
        }


def _mean(errors: list[PoseError]) -> dict[str, float]:
    rows = [asdict(e) for e in errors]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def ablate(options: Ablation) -> dict[str, Any]:
    """Run what is not done yet. Returns what ablate.json says. Raises ValueError for a codec that cannot be read."""
    with host(options.device) as here:
        for name in options.only or VARIANTS:
            if not _result(options.out / name).is_file():
                _run(name, options, here)
        if not here.leads:
            return {}
        grown = {}
        if options.growth_chunks:
            grown = drawn(options.out / "growth.svg", chunks=options.growth_chunks, device=here.device)
    known = {
        name: json.loads(_result(options.out / name).read_text())
        for name in VARIANTS
        if _result(options.out / name).is_file()
    }
    report = {"minutes": options.minutes, "steps": options.steps, "variants": known, "growth": grown}
    _write(options.out / "ablate.json", json.dumps(report, indent=1) + "\n")
    if plot := _plot(known):
        _write(options.out / "ablate.svg", plot)
    table = _table(known)
    Console(highlight=False).print(table)
    with (options.out / "ablate.txt").open("w") as file:
        Console(file=file, width=120).print(table)
    return report


def _run(name: str, options: Ablation, here: Host) -> None:
    """Train and measure one variant."""
    variant = VARIANTS[name]
    own = replace(options, out=options.out / name, memory=variant.memory)
    if here.leads:
        Console(stderr=True, highlight=False).print(f"{name}: {variant.told}")
    run = Ablated(own, here, variant)
    run.fill()
    result: dict[str, Any] = {"told": variant.told}
    try:
        learn_through(run)
        if here.leads:
            result |= run.result()
    except Diverged as error:
        result["diverged"] = str(error)
    if here.leads:
        own.out.mkdir(parents=True, exist_ok=True)
        _write(_result(own.out), json.dumps(result, indent=1) + "\n")


def _result(folder: Path) -> Path:
    return folder / "result.json"


def _table(known: Mapping[str, Mapping[str, Any]]) -> Table:
    """One line per variant."""
    table = Table(title="each trained anew, with the same budget", title_justify="left", box=SIMPLE)
    table.add_column("", min_width=12)
    heads = ("dB\n4 s", "dB\n10 s", "sharp\n4 s", "turn", "Rot\nErr °", "Trans\nErr m", "CamMC", "dB\nback")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for result in known.values():
        if "diverged" in result:
            table.add_row(f"{result['told']}: not finite at {result['diverged']}")
            continue
        chunks, pose, back = result["chunks"], result["pose"], result["returning"]
        short, long = chunks[str(SHORT)], chunks[str(LONG)]
        figures = [short["psnr"], long["psnr"], short["sharpness"], result["turn"]["correlation"]]
        figures += [pose["rotation"], pose["translation"], pose["matrix"]]
        figures.append(back.get("memory_on", back["memory_off"])["revisit_psnr"])
        table.add_row(result["told"], *(f"{x:.2f}" for x in figures))
    return table


def _plot(known: Mapping[str, Mapping[str, Any]]) -> str:
    """PSNR by seconds of flight for every variant that did not diverge; empty where none is left."""
    lines = {
        VARIANTS[name].short: [(int(chunk) / 2, row["psnr"]) for chunk, row in result["chunks"].items()]
        for name, result in known.items()
        if "chunks" in result
    }
    return psnr_plot(lines) if lines else ""


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def main() -> None:
    """The command line of this file."""
    import tyro

    ablate(tyro.cli(Ablation, description=__doc__))


if __name__ == "__main__":
    main()
