"""What `explorer evaluate` leaves: evaluation.json, the table, two curves and the contact sheets."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from engine.curve import curve
from engine.evaluate import psnr_curve
from engine.measure.paths import SPLITS, Flight, fingerprint
from engine.measure.report import Row, rows, summary
from engine.measure.scores import Record

SHEET_FLIGHTS = 8


def weights_hash(folder: Path) -> str:
    """SHA-256 of codec and world, in this order."""
    hashed = hashlib.sha256()
    for name in ("codec", "world"):
        hashed.update((folder / f"{name}.safetensors").read_bytes())
    return hashed.hexdigest()


def published(
    flights: Sequence[Flight],
    known: Sequence[Record],
    *,
    out: Path,
    assets: Path,
    seed: int,
    told: bool,
    levels: list[float],
    device: torch.device,
) -> dict[str, Any]:
    """Write report, table, curves and sheets, and show the table. Returns the report."""
    splits = {split: summary([r for r in known if r["split"] == split]) for split in SPLITS}
    size = sum((assets / f"{n}.safetensors").stat().st_size for n in ("codec", "world")) / 1e6
    lines = rows(splits, megabytes=size, real_time=device.type == "cpu")
    report = {
        "worlds": len({f.world for f in flights}),
        "paths": fingerprint(flights),
        "weights": weights_hash(assets),
        "seed": seed,
        "told": told,
        "levels": levels,
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "batch": sorted({r["batch"] for r in known}),
        "flights": len(known),
        "chunks": splits["simple"]["chunks"],
        "turn": splits["simple"]["turn"],
        "splits": splits,
        "table": [{**asdict(row), "label": row.label.strip(), "holds": row.holds} for row in lines],
    }
    write(out / "evaluation.json", json.dumps(_plain(report), indent=1, allow_nan=False) + "\n")
    write(out / "curve.svg", psnr_curve(report))
    write(out / "sharpness.svg", _sharpness_curve(report))
    for split in SPLITS:
        names = [f"{r['world']}-{r['split']}.png" for r in known if r["split"] == split][:SHEET_FLIGHTS]
        strips = [s for name in names if (s := cv2.imread(str(out / "flights" / name))) is not None]
        if strips:
            cv2.imwrite(str(out / f"{split}.png"), np.concatenate(strips))
    table = _drawn(lines, report)
    Console(highlight=False).print(table)
    with (out / "table.txt").open("w") as file:
        Console(file=file, width=100).print(table)
    return report


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _drawn(lines: Sequence[Row], report: dict[str, Any]) -> Table:
    """The table for the terminal: every figure beside its goal."""
    first = "depth of the first picture told" if report["told"] else "from the picture alone"
    title = f"{report['worlds']} × simple and hard, {first}, paths {report['paths']}, weights {report['weights'][:12]}"
    batch = ", ".join(map(str, report["batch"]))
    where = f"{report['device']}, {report['threads']} threads, {batch} flights at a time"
    table = Table(title=title, caption=where, title_justify="left", caption_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("simple", "hard", "goal"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in lines:
        values = [_figure(v, row, ok) for v, ok in zip((row.simple, row.hard), row.holds, strict=True)]
        table.add_row(row.label, *values, _goal(row))
    return table


def _figure(value: float, row: Row, holds: bool | None) -> str:
    if math.isnan(value):
        return "–"
    mark = "" if holds is None else " ✓" if holds else " ✗"
    return f"{value:.{row.digits}f}{mark or '  '}"


def _goal(row: Row) -> str:
    known = list(dict.fromkeys(f"{g:g}" for g in row.goal if not math.isnan(g)))
    return f"{'≥' if row.at_least else '≤'} {' / '.join(known)}" if known else ""


def _sharpness_curve(report: dict[str, Any]) -> str:
    lines = {
        name: [(chunk / 2, row["sharpness"]) for chunk, row in report["splits"][name]["chunks"].items()]
        for name in SPLITS
    }
    lines["codec alone"] = [(chunk / 2, row["codec_sharpness"]) for chunk, row in report["chunks"].items()]
    end = max(report["chunks"]) / 2
    top = max(1.0, math.ceil(5 * max(v for line in lines.values() for _, v in line)) / 5)
    axes = dict(x="seconds of flight", y="sharpness", x_range=(0, end), y_range=(0, top), y_step=0.2)
    return curve(lines, **axes, x_step=10 if end > 20 else 2)  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    """As strict JSON has it: no NaN."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
