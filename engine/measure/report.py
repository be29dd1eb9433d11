"""From records of flights to one report, and to a table that sets every figure beside its goal. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.evaluate import averaged, turning
from engine.measure.frechet import Moments, frechet, together
from engine.measure.paths import SPLITS
from engine.measure.scores import Record

NAN = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure on simple and hard flights, NaN where there is none, and the least (or most) that each should be."""

    label: str
    simple: float = NAN
    hard: float = NAN
    goal: tuple[float, float] = (NAN, NAN)
    at_least: bool = True
    digits: int = 2

    @property
    def holds(self) -> tuple[bool | None, bool | None]:
        """Whether each goal is reached; None where there is no goal. A figure that is missing reaches none."""
        pairs = zip((self.simple, self.hard), self.goal, strict=True)
        sign = 1 if self.at_least else -1
        return tuple(None if math.isnan(goal) else sign * value >= sign * goal for value, goal in pairs)  # type: ignore[return-value]


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Means over the flights of one split."""
    out: dict[str, Any] = {"flights": len(records), "chunks": _chunks(records)}
    series = {k: torch.tensor([r["turn"][k] for r in records]) for k in ("made", "lifted", "true", "command")}
    out["turn"] = turning([series["made"], series["true"]], series["command"])
    out["pose"] = {who: _poses([r["pose"][who] for r in records]) for who in ("made", "lifted", "estimator")}
    out["collapsed"] = _collapsed(records, "made")
    ends = {who: _mean([r["end_sharpness"][who] for r in records]) for who in ("lifted", "true")}
    out["lifted"] = {
        "turn": turning([series["lifted"], series["true"]], series["command"])["correlation"],
        "collapsed": _collapsed(records, "lifted"),
        "sharpness": ends["lifted"] / ends["true"],
        "detour": _mean([r["detour"] for r in records]),
    }
    for name in ("on", "off"):
        known = [r for r in records if name in r["revisit"]]
        out[f"revisit_psnr_memory_{name}"] = _mean([r["revisit"][name]["psnr"] for r in known])
        out[f"frechet_memory_{name}"] = frechet_by_biome(known, name)
    out["fps"] = float(torch.tensor([r["fps"] for r in records]).median())
    return out


def _collapsed(records: Sequence[Record], name: str) -> float:
    """Share of the flights that end in no picture where the true one does."""
    return _mean([float(bool(r["end"][name]) and not r["end"]["true"]) for r in records])


def _poses(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over flights, and the median of the rotation: in a picture without content the camera is lost altogether."""
    means = {name: _mean([row[name] for row in rows]) for name in rows[0]}
    return {**means, "rotation_median": statistics.median(row["rotation"] for row in rows)}


def _mean(values: Sequence[float]) -> float:
    """Of the numbers among the values; NaN if there is none."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else NAN


def _chunks(records: Sequence[Record]) -> dict[int, dict[str, float]]:
    out = {}
    for chunk in records[0]["chunks"]:
        rows = [r["chunks"][chunk] for r in records]
        scores = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
        seen = {name: _mean(scores.pop(name).tolist()) for name in list(scores) if "visible" in name}
        out[int(chunk)] = averaged(scores) | seen
    return out


def frechet_by_biome(records: Sequence[Record], name: str) -> float:
    """Distance of what a film shows in new areas from what is truly there, biome by biome; mean over flights."""
    total, flights = 0.0, 0
    for biome in sorted({r["biome"] for r in records}):
        of = [r["new"] for r in records if r["biome"] == biome and r["new"]["true"]["count"] > 1]
        if of:
            made, true = (together(Moments.read(new[key]) for new in of) for key in (name, "true"))
            total += len(of) * frechet(made, true)
            flights += len(of)
    return total / flights if flights else NAN


def rows(splits: dict[str, dict[str, Any]], *, megabytes: float, real_time: bool) -> list[Row]:
    """Every figure of the fixed set with its goal. real_time: speed was measured where the goal holds, on a CPU."""

    def row(label: str, of: Callable[[dict[str, Any]], float], **more: Any) -> Row:
        found = {name: of(splits[name]) if name in splits else NAN for name in SPLITS}
        return Row(label=label, simple=found["simple"], hard=found["hard"], **more)

    def at(seconds: float, key: str) -> Callable[[dict[str, Any]], float]:
        return lambda split: split["chunks"].get(int(2 * seconds), {}).get(key, NAN)

    def codec(key: str) -> Callable[[dict[str, Any]], float]:
        return lambda split: _mean([row[key] for row in split["chunks"].values()])

    def pose(key: str, who: str = "made") -> Callable[[dict[str, Any]], float]:
        return lambda split: split["pose"][who][key]

    def gain(split: dict[str, Any]) -> float:
        return split["revisit_psnr_memory_on"] - split["revisit_psnr_memory_off"]

    def half_of_off(split: dict[str, Any]) -> float:
        return split["frechet_memory_on"] / split["frechet_memory_off"]

    def both(value: float) -> tuple[float, float]:
        return value, value

    def lifted(key: str) -> Callable[[dict[str, Any]], float]:
        return lambda split: split["lifted"][key]

    less: dict[str, Any] = dict(at_least=False)
    return [
        row("codec, PSNR, dB", codec("codec_psnr"), goal=both(37.7), digits=1),
        row("codec, sharpness of the truth's", codec("codec_sharpness"), goal=both(0.85)),
        row("PSNR at 4 s, seen in the first picture, dB", at(4, "visible_psnr"), goal=both(28), digits=1),
        row("PSNR at 10 s, seen in the first picture, dB", at(10, "visible_psnr"), goal=both(25), digits=1),
        row("  that picture warped, no model, 4 s", at(4, "warp_only_visible_psnr"), digits=1),
        row("  the same, 10 s", at(10, "warp_only_visible_psnr"), digits=1),
        row("PSNR at 4 s, whole frame, dB", at(4, "psnr"), digits=1),
        row("PSNR at 10 s, whole frame, dB", at(10, "psnr"), digits=1),
        row("  first picture repeated, 10 s", at(10, "first_picture_psnr"), digits=1),
        row("Fréchet distance of new areas, 10–60 s", lambda s: s["frechet_memory_on"]),
        row("  over that with memory off", half_of_off, goal=both(0.5), **less),
        row("sharpness of the truth's at 4 s", at(4, "sharpness"), goal=both(0.6)),
        row("sharpness of the truth's at 10 s", at(10, "sharpness"), goal=both(0.5)),
        row("sharpness of the truth's at 60 s", at(60, "sharpness"), goal=both(0.5)),
        row("  the same, kept off the ground", lifted("sharpness"), goal=both(0.5)),
        row("collapsed at 60 s, %", lambda s: 100 * s["collapsed"], goal=both(5), digits=0, **less),
        row("  the same, kept off the ground", lambda s: 100 * s["lifted"]["collapsed"], goal=both(5), digits=0, **less),
        row("  mean way off the path for that, metres", lifted("detour"), digits=1),
        row("yaw correlation, 0–60 s", lambda s: s["turn"]["correlation"], goal=both(0.97), digits=3),
        row("  the same, kept off the ground", lifted("turn"), goal=both(0.97), digits=3),
        row("  of the true films", lambda s: s["turn"]["true_correlation"], digits=3),
        row("RotErr, degrees", pose("rotation"), goal=(2, 4), **less),
        row("  the same, kept off the ground", pose("rotation", "lifted"), goal=(2, 4), **less),
        row("  of half of the flights no more than", pose("rotation_median", "lifted")),
        row("  of the estimator on true films", pose("rotation", "estimator")),
        row("TransErr, metres", pose("translation")),
        row("  the same, kept off the ground", pose("translation", "lifted")),
        row("  of the estimator on true films", pose("translation", "estimator")),
        row("CamMC", pose("matrix")),
        row("  the same, kept off the ground", pose("matrix", "lifted")),
        row("  of the estimator on true films", pose("matrix", "estimator")),
        row("frames whose camera was found, %", lambda s: 100 * s["pose"]["made"]["solved"], digits=0),
        row("  the same, kept off the ground", lambda s: 100 * s["pose"]["lifted"]["solved"], digits=0),
        row("revisit PSNR, return / loop, dB", lambda s: s["revisit_psnr_memory_on"], goal=(26, 22), digits=1),
        row("  gain over memory off", gain, goal=both(4), digits=1),
        row("generated frames/s", lambda s: s["fps"], goal=both(16 if real_time else NAN), digits=1),
        Row(label="weights, codec and model, MB", simple=megabytes, goal=(40, NAN), digits=1, **less),
    ]  # fmt: skip
