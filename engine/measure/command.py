"""`explorer evaluate`: fly the fixed set, keep a record of every flight, and set the figures beside their goals."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from engine.codec import Codec, load_codec
from engine.engine import compute_dtype, load_world
from engine.evaluate import (
    CHUNKS,
    Say,
    measure_rollouts,
    psnr_curve,
    render_truth,
    rollout_sheet,
)
from engine.measure.evaluation import Evaluation
from engine.measure.film import Film, Shown, film, show
from engine.measure.paths import Flight, fingerprint, plan
from engine.measure.publish import published, weights_hash, write
from engine.measure.scores import Record, records
from engine.model import WorldModel
from engine.train.codec_report import to_float
from engine.train.data import HELD_OUT
from engine.train.sheet import save_sheet
from engine.worlds.renderer import Renderer

EDITION = 3  # of what is measured: records of another one are made anew
SECONDS = (0, 1, 2, 4, 10, 20, 30, 40, 50, 60)  # of the pictures on contact sheets
BATCH = {"cpu": 1, "cuda": 32}  # flights at a time
QUIET = 15.0  # seconds between lines where there is no terminal


def evaluate(options: Evaluation) -> dict[str, Any]:
    """Fly, measure, write. Returns what evaluation.json says. Raises ValueError for weights that cannot be read."""
    if options.assets is None:
        raise ValueError("no folder of weights to measure: give --assets assets/pocket")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch sees no CUDA GPU here: use --device cpu")
    cuda = options.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dtype = compute_dtype(device)
    model = load_world(options.assets / "world.safetensors", dtype=dtype, device=device)
    codec = load_codec(options.assets / "codec.safetensors", dtype=dtype, device=device)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {options.out} ({error.strerror}): choose another --out") from None
    work = _quick if options.quick else _full
    report = work(options, model, codec, device)
    Console(stderr=True, highlight=False).print(f"written to {options.out}")
    return report


def _quick(options: Evaluation, model: WorldModel, codec: Codec, device: torch.device) -> dict[str, Any]:
    write_line = Console(stderr=True, highlight=False).print
    flights, chunks = options.flights or 12, options.chunks or 20
    write_line(f"rendering {flights} true flights of {chunks / 2:g} s, then flying them on {device.type}")
    with _telling() as say:
        truth = render_truth(Renderer(device), count=flights, chunks=chunks, say=say)
        given = partial(measure_rollouts, model, codec, truth, seed=options.seed)
        report = given(say=lambda w: say(f"depth told: {w}"))
        alone = given(told=False, say=lambda w: say(f"picture alone: {w}"))
    report["picture_alone"] = {name: alone[name] for name in ("told", "chunks", "turn")}
    write(options.out / "evaluation.json", json.dumps(report, indent=1) + "\n")
    write(options.out / "curve.svg", psnr_curve(report))
    rollout_sheet(options.out / "flights.png", model, codec, truth.part(8, chunks), picks=CHUNKS)
    for heading, table in (("depth told", report), ("picture alone", alone)):
        write_line(heading)
        for chunk, row in table["chunks"].items():
            write_line(
                f"{chunk / 2:5.1f} s  {row['psnr']:.1f} dB  SSIM {row['ssim']:.3f}  "
                f"sharpness {row['sharpness']:.2f}"
            )
    return report


def _full(options: Evaluation, model: WorldModel, codec: Codec, device: torch.device) -> dict[str, Any]:
    with _telling() as say:
        flights = planned(options.worlds, say)
        measured(shared(flights, options.part), options, model, codec, device, say)
    assert options.assets is not None
    known = found(flights, options)
    if len(known) < len(flights):
        Console(stderr=True, highlight=False).print(
            f"{len(known)} of {len(flights)} flights are measured: the last part to end writes the report"
        )
        return {}
    return published(
        flights,
        known,
        out=options.out,
        assets=options.assets,
        seed=options.seed,
        told=options.told,
        levels=list(model.config.levels),
        device=device,
    )


def planned(worlds: int, say: Say) -> list[Flight]:
    """The flights of the first `worlds` of the fixed set."""
    renderer = Renderer("cpu")
    out: list[Flight] = []
    for i, world in enumerate(HELD_OUT[:worlds]):
        say(f"planning paths: world {i + 1} of {worlds}")
        out += plan(renderer, world)
    return out


def shared(flights: Sequence[Flight], part: tuple[int, int]) -> Sequence[Flight]:
    """The K-th of N parts, about equally long."""
    k, n = part
    return flights[(k - 1) * len(flights) // n : k * len(flights) // n]


def found(flights: Sequence[Flight], options: Evaluation) -> list[Record]:
    """The records on disk that are of these flights and weights."""
    keys, folder = _keys(flights, options), options.out / "flights"
    return [record for f in flights if (record := _kept(folder, f, keys[f.name])) is not None]


def _keys(flights: Sequence[Flight], options: Evaluation) -> dict[str, str]:
    """What the record of each flight depends on, by its name."""
    assert options.assets is not None
    weights = weights_hash(options.assets)
    return {f.name: _key(f, weights, options.seed, told=options.told) for f in flights}


def measured(
    flights: Sequence[Flight],
    options: Evaluation,
    model: WorldModel,
    codec: Codec,
    device: torch.device,
    say: Say,
) -> list[Record]:
    """The records of all flights: those on disk as they are, the others made and kept, a batch at a time."""
    keys = _keys(flights, options)
    folder = options.out / "flights"
    folder.mkdir(parents=True, exist_ok=True)
    todo = [f for f in flights if _kept(folder, f, keys[f.name]) is None]
    size = options.batch or BATCH[device.type]
    renderer, begun, done = Renderer(device), time.perf_counter(), len(flights) - len(todo)
    for at in range(0, len(todo), size):
        left = (time.perf_counter() - begun) * (len(todo) - at) / at / 60 if at else 0.0
        which = f"flight {done + at + 1} of {len(flights)}" + (f", about {left:.0f} min left" if at else "")
        batch = todo[at : at + size]
        _fly(batch, keys, folder, model, codec, renderer, options, partial(_prefixed, say, which))
    return found(flights, options)


def _prefixed(say: Say, prefix: str, words: str) -> None:
    say(f"{prefix}: {words}")


def _fly(
    flights: Sequence[Flight],
    keys: dict[str, str],
    folder: Path,
    model: WorldModel,
    codec: Codec,
    renderer: Renderer,
    options: Evaluation,
    say: Say,
) -> None:
    """Render, fly, measure one batch, and keep its records and strips."""
    size = dict(width=codec.config.width, height=codec.config.height)
    shown = show(renderer, flights, **size, say=lambda w: say(f"rendering, {w}"))
    flown = partial(film, model, codec, shown.truth, told=options.told, seed=options.seed)
    made = flown(say=lambda w: say(f"flying, {w}"))
    forgetful = None
    if model.config.memory_channels:
        forgetful = flown(memory=False, say=lambda w: say(f"flying without memory, {w}"))
    lifted = flown(lifted=True, say=lambda w: say(f"flying off the ground, {w}"))
    say("measuring")
    rows = records(list(flights), shown, made, forgetful, lifted, codec=codec, told=options.told)
    for i, (flight, record) in enumerate(zip(flights, rows, strict=True)):
        save_sheet(folder / f"{flight.name}.png", _strip(i, shown, made, lifted, forgetful))
        write(
            folder / f"{flight.name}.json",
            json.dumps({"key": keys[flight.name], "batch": len(flights), **record}),
        )


def _strip(i: int, shown: Shown, made: Film, lifted: Film, forgetful: Film | None) -> list[torch.Tensor]:
    """Truth, film, film kept off the ground, and film without memory of one flight."""
    picks = [16 * s for s in SECONDS if 16 * s < made.frames.shape[1]]
    videos = [shown.truth.frames, made.frames, lifted.frames, *([forgetful.frames] if forgetful else [])]
    return [to_float(video[i, picks]) for video in videos]


def _key(flight: Flight, weights: str, seed: int, *, told: bool) -> str:
    """What a record depends on: it is made anew when this changes."""
    depends = f"{EDITION} {fingerprint([flight])} {weights} {seed}{' told' if told else ''}"
    return hashlib.sha256(depends.encode()).hexdigest()[:16]


def _kept(folder: Path, flight: Flight, key: str) -> Record | None:
    """The record of a flight, if it is there, whole, and of this key."""
    try:
        record = json.loads((folder / f"{flight.name}.json").read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


@contextmanager
def _telling() -> Iterator[Say]:
    """One line that changes on a terminal; elsewhere a line now and then."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
        return
    last = [-math.inf]

    def say(words: str) -> None:
        if time.perf_counter() - last[0] >= QUIET:
            last[0] = time.perf_counter()
            console.print(words)

    yield say
