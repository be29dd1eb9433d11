"""Ten minutes of flight from ten scenes of the gallery, an idle hand on the keys, looked at every 30 seconds.

    python benchmarks/ten_minutes.py --out runs/ten-minutes

Keys go to the pilot of the window, who keeps off the ground and walks: flown, a first view that looks up a little leads
up and up, to where there is haze. Writes one strip per scene, all of them as sheet.jpg, and
flights.json with what collapsed when. A scene whose strip is there is not flown again, so Ctrl-C loses the flight under
way only. On two cores a flight takes about ten minutes, on an H200 twenty seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console

from engine.clearance import Surroundings
from engine.engine import Engine
from engine.measure.collapse import collapse
from engine.train.codec_report import to_float
from engine.train.sheet import save_sheet
from explorer.assets import Scene, assets_folder, load_gallery
from explorer.clearance import guided
from explorer.controls import Controls, Steering
from explorer.pilot import PilotState

SCENES = (
    "meadow",
    "forest",
    "taiga",
    "snow_sunset",
    "desert",
    "lagoon",
    "autumn",
    "highland",
    "crystals",
    "village",
)
EVERY = 30  # seconds between pictures
FORWARD, TURN = (0.0, 0.0, 1.0), 0.2  # of what hands can do; metres per second are the usual ones
KEYS = {  # move, yaw, and how often
    "w": (FORWARD, 0.0, 6.0),
    "dw": (FORWARD, TURN, 2.0),
    "aw": (FORWARD, -TURN, 2.0),
    "d": ((0.0, 0.0, 0.0), TURN, 1.0),
    "a": ((0.0, 0.0, 0.0), -TURN, 1.0),
    "none": ((0.0, 0.0, 0.0), 0.0, 0.5),
}


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--out", type=Path, default=Path("runs/ten-minutes"))
    flags.add_argument(
        "--assets", type=Path, default=None, help="folder with pocket/; default: what is shipped"
    )
    flags.add_argument("--seconds", type=int, default=600, help="of flight")
    flags.add_argument(
        "--scenes", nargs="+", default=list(SCENES), choices=SCENES, metavar="NAME", help="which of the ten"
    )
    flags.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    flags.add_argument("--threads", type=int, default=None)
    options = flags.parse_args()
    if options.seconds < 1:
        flags.error(f"--seconds {options.seconds}: at least 1")

    engine = Engine.load(
        "pocket", assets=options.assets or assets_folder(), device=options.device, threads=options.threads
    )
    by_name = {s.name: s for s in load_gallery(assets_folder() / "gallery")}
    for name in options.scenes:
        if not (options.out / f"{name}.json").is_file():
            flown(by_name[name], options.seconds, options.out, engine)
    publish(options.out, [n for n in SCENES if (options.out / f"{n}.json").is_file()])


def hands(scene: Scene, *, fps: int) -> Iterator[Steering]:
    """An idle hand on the keys, frame by frame, the same for a scene every time."""
    dice, names = random.Random(scene.name), list(KEYS)
    while True:
        frames = dice.randint(24, 96) * fps // 16
        move, yaw, _ = KEYS[dice.choices(names, [often for *_, often in KEYS.values()])[0]]
        yield from [
            Steering(controls=Controls(move=move, turn=(yaw, 0.0, 0.0)), level=True, walk=True)
        ] * frames


def flown(scene: Scene, seconds: int, out: Path, engine: Engine) -> None:
    """Fly a scene, and keep a strip and a record of it."""
    spec, say, begun = engine.spec, Console(highlight=False).print, time.perf_counter()
    start = scene.start(spec.width, spec.height)
    made = engine.start(**start)
    held, pilot, around = hands(scene, fps=spec.fps), PilotState(start["pose"]), Surroundings()
    strip, ends = [to_float(torch.from_numpy(made.frames[0].pixels[None]))], list[str | None]()
    chunks = seconds * spec.fps // spec.chunk_frames
    every = EVERY * spec.fps // spec.chunk_frames
    for chunk in range(1, chunks + 1):
        around, poses = around.after(made.frames[-1]), []
        for _ in range(spec.chunk_frames):
            pilot = guided(pilot, next(held), 1 / spec.fps, around.points)
            poses.append(pilot.pose)
        made = engine.step(made.state, poses, intrinsics=start["intrinsics"])
        if chunk % every == 0 or chunk == chunks:
            video = to_float(torch.from_numpy(np.stack([frame.pixels for frame in made.frames])))
            strip.append(video[-1:])
            ends.append(collapse(video))
            rate = spec.chunk_frames * chunk / (time.perf_counter() - begun)
            say(
                f"{scene.name}: {chunk * spec.chunk_frames / spec.fps:.0f} of {seconds} s, {rate:.1f} frames/s"
            )
    out.mkdir(parents=True, exist_ok=True)
    save_sheet(out / f"{scene.name}.png", [torch.cat(strip)])
    record = {"scene": scene.name, "seconds": seconds, "every": EVERY, "collapsed": ends}
    (out / f"{scene.name}.json").write_text(json.dumps(record) + "\n")


def publish(out: Path, names: Sequence[str]) -> None:
    """All strips below each other, and what collapsed when."""
    strips = [s for n in names if (s := cv2.imread(str(out / f"{n}.png"))) is not None]
    width = max(s.shape[1] for s in strips)
    rows = [np.pad(s, ((0, 4), (0, width - s.shape[1]), (0, 0))) for s in strips]
    cv2.imwrite(str(out / "sheet.jpg"), np.concatenate(rows), [cv2.IMWRITE_JPEG_QUALITY, 88])
    records = [json.loads((out / f"{n}.json").read_text()) for n in names]
    (out / "flights.json").write_text(json.dumps(records, indent=1) + "\n")
    for record in records:
        fallen = [(i + 1) * EVERY for i, kind in enumerate(record["collapsed"]) if kind]
        told = f"no picture at {', '.join(map(str, fallen))} s" if fallen else "a picture to the end"
        Console(highlight=False).print(f"{record['scene']}: {told}")


if __name__ == "__main__":
    main()
