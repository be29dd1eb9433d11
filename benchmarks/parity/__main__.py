"""`python -m benchmarks.parity [DIR]`: is bf16 by kernels within twice of plain torch's own error in bf16?

Both are measured against plain torch in fp32 on the same device, on the fixtures in DIR, whose values are compared too,
and on a GPU at the released sizes with random weights. Exits with 1 on any miss, with 2 on a mistake of the user.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.parity.fixtures import FIXTURES
from benchmarks.parity.form import FORMS, Row, rows
from benchmarks.parity.full import SIZED, Say, alone
from engine.setup import Sizes
from explorer.outfile import require_folder, write_json


def on_fixtures(folder: Path, device: torch.device, say: Say) -> list[Row]:
    out = []
    for fixture in FIXTURES:
        if missing := fixture.missing(folder):
            say(f"{fixture.name}: skipped, {folder} has no {', '.join(missing)}")
            continue
        say(f"{fixture.name}: fixtures")
        made = {}
        for form in FORMS:
            with form.paths():
                made[form] = fixture.run(folder, form, device)
        with torch.inference_mode():
            out += rows(f"tiny {fixture.name}", made)
    return out


def at_size(sizes: Sizes, device: torch.device, say: Say) -> list[Row]:
    out = []
    for name, make in SIZED:
        with alone(device):
            made = make(sizes, device, say)
            with torch.inference_mode():
                out += rows(f"full {name}", made)
            del made
    return out


def table(found: Sequence[Row], device: str) -> Table:
    out = Table(title=f"relative error, {device}", box=SIMPLE, padding=(0, 1, 0, 0))
    out.add_column("what", no_wrap=True)
    for name in ("fp32 vs fixture", "plain bf16", "kernels bf16", "ratio", "verdict"):
        out.add_column(name, min_width=7)
    for r in found:
        stored = "" if r.stored is None else f"{r.stored:.1e}"
        verdict = "[green]agrees[/]" if r.passed else "[bold red]TOO FAR[/]"
        out.add_row(r.what, stored, f"{r.plain:.1e}", f"{r.fast:.1e}", f"{r.ratio:.2f}", verdict)
    return out


def record(found: Sequence[Row], device: str, seconds: float) -> dict[str, Any]:
    """For JSON, which knows no infinity."""
    kept = [
        {
            "what": r.what,
            "fp32_vs_fixture": r.stored,
            "plain_bf16": r.plain,
            "kernels_bf16": r.fast,
            "ratio": r.ratio,
            "passed": r.passed,
        }
        for r in found
    ]
    told = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()} for r in kept
    ]
    return {"device": device, "torch": torch.__version__, "seconds": round(seconds, 1), "rows": told}


def chosen(name: str) -> torch.device:
    """Raises ValueError."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no NVIDIA GPU here: use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def measured(folder: Path, device: torch.device, say: Say) -> list[Row]:
    """Raises ValueError where there is nothing to measure."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: give the folder that holds the fixtures")
    found = on_fixtures(folder, device, say)
    if device.type == "cuda":
        found += at_size(Sizes(), device, say)
    if not found:
        raise ValueError(f"{folder} holds no fixture of the models: give the folder that does")
    return found


def main(argv: list[str] | None = None) -> int:
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.parity", description=(__doc__ or "").split(": ", 1)[1]
    )
    flags.add_argument("folder", type=Path, nargs="?", default=Path("tests/oracles"), help="of the fixtures")
    flags.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    flags.add_argument("--json", type=Path, help="file to write the table to")
    options = flags.parse_args(argv)
    console, begun = Console(highlight=False), time.perf_counter()

    def say(what: str) -> None:
        console.print(f"{time.perf_counter() - begun:6.1f} s  {what}", soft_wrap=True)

    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        if options.json is not None:
            require_folder("--json", options.json)
        device = chosen(options.device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        found = measured(options.folder, device, say)
        seconds = time.perf_counter() - begun
        if options.json is not None:
            write_json(options.json, record(found, name, seconds))
    except ValueError as error:
        console.print(str(error), soft_wrap=True)
        return 2
    except FloatingPointError as error:
        console.print(str(error), soft_wrap=True)
        return 1
    say("done")
    console.print(table(found, name))
    return 0 if all(r.passed for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
