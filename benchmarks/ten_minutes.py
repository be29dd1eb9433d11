"""Ten minutes of flight that nobody steers, from ten scenes of the gallery, looked at every 30 seconds.

    python benchmarks/ten_minutes.py --out runs/ten-minutes

Writes one strip per scene, all of them as sheet.jpg, and flights.json with what collapsed when. A scene whose strip is
there is not flown again, so Ctrl-C loses the flights under way only. On two cores a flight takes about four minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from pyquaternion import Quaternion
from rich.console import Console

from engine.camera import Pose
from engine.codec import load_codec
from engine.depth import UNKNOWN
from engine.engine import compute_dtype, load_world
from engine.evaluate import fly
from engine.measure.collapse import collapse
from engine.train.codec_report import to_float
from engine.train.sheet import save_sheet
from explorer.assets import Scene, assets_folder, load_gallery
from explorer.dialect import POCKET_MOTION
from explorer.path import load_path

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
KEYS = (("w", 6), ("dw", 2), ("aw", 2), ("d", 1), ("a", 1), ("none", 0.5))  # and how often


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--out", type=Path, default=Path("runs/ten-minutes"))
    flags.add_argument(
        "--assets", type=Path, default=None, help="folder with both weights; default: the shipped ones"
    )
    flags.add_argument("--seconds", type=int, default=600, help="of flight")
    flags.add_argument("--scenes", type=int, default=len(SCENES), help="how many of the ten")
    flags.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    flags.add_argument(
        "--batch", type=int, default=None, help="flights at a time; default 1 on a CPU, all on a GPU"
    )
    options = flags.parse_args()
    if not (options.seconds >= 1 and 1 <= options.scenes <= len(SCENES) and (options.batch or 1) >= 1):
        flags.error(f"--seconds and --batch are at least 1, --scenes 1 … {len(SCENES)}")

    cuda = options.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    weights = options.assets or assets_folder() / "pocket"
    dtype = compute_dtype(device)
    model = load_world(weights / "world.safetensors", dtype=dtype, device=device)
    codec = load_codec(weights / "codec.safetensors", dtype=dtype, device=device)
    by_name = {s.name: s for s in load_gallery(assets_folder() / "gallery")}
    names = SCENES[: options.scenes]
    todo = [by_name[n] for n in names if not (options.out / f"{n}.json").is_file()]
    size = options.batch or (len(SCENES) if cuda else 1)
    for at in range(0, len(todo), size):
        flown(todo[at : at + size], options.seconds, options.out, model, codec, device)
    publish(options.out, names)


def path(scene: Scene, seconds: int) -> np.ndarray:
    """[1 + 16·seconds, 4, 4]: an idle hand on the keys, the same for a scene every time."""
    dice, held, left = random.Random(scene.name), [], 16 * seconds
    keys, weights = zip(*KEYS, strict=True)
    while left:
        frames = min(left, dice.randint(24, 96))
        held.append(f"{dice.choices(keys, weights)[0]}-{frames}")
        left -= frames
    flown = load_path(",".join(held), motion=POCKET_MOTION)
    heading = Quaternion(axis=[0.0, 1.0, 0.0], angle=scene.pose.yaw)
    level = Pose(heading, scene.pose.t).matrix  # a picture may look up or down: the way stays level
    return level @ flown.poses @ np.linalg.inv(level) @ scene.pose.matrix


def flown(scenes: Sequence[Scene], seconds: int, out: Path, model, codec, device: torch.device) -> None:
    """Fly some scenes together, and keep a strip and a record of each."""
    size = codec.config.width, codec.config.height
    first = [scene.picture(*size) for scene in scenes]
    pictures = torch.from_numpy(np.stack([pixels for pixels, _ in first])).to(device)
    poses = torch.from_numpy(np.stack([path(scene, seconds) for scene in scenes])).to(device)
    lenses = torch.from_numpy(np.stack([lens.row for _, lens in first])).to(device)
    depth = [scene.depth(*size) for scene in scenes]
    known = [np.full(size[::-1], UNKNOWN, np.float16) if d is None else d for d in depth]
    words = torch.zeros(len(scenes), 8, dtype=torch.int64, device=device)
    for i, scene in enumerate(scenes):
        words[i, : len(scene.words or ())] = torch.tensor(scene.words or (), device=device)
    chunks, say, begun = 2 * seconds, Console(highlight=False).print, time.perf_counter()
    strip = [to_float(pictures).cpu()]
    ends: list[list[str | None]] = [[] for _ in scenes]
    flying = fly(
        model,
        codec,
        pictures,
        poses=poses,
        intrinsics=lenses[:, None].expand(-1, poses.shape[1], -1),
        words=words,
        inverse_depth=torch.from_numpy(np.stack(known)).to(device),
    )
    for chunk, (rgb, _) in enumerate(flying, start=1):
        if chunk % (2 * EVERY) == 0 or chunk == chunks:
            strip.append(rgb[:, -1].cpu())
            for kept, video in zip(ends, rgb, strict=True):
                kept.append(collapse(video))
            rate = 8 * chunk / (time.perf_counter() - begun)
            say(
                f"{', '.join(s.name for s in scenes)}: {chunk / 2:.0f} of {seconds} s, {rate:.1f} frames/s each"
            )
    out.mkdir(parents=True, exist_ok=True)
    for i, scene in enumerate(scenes):
        save_sheet(out / f"{scene.name}.png", [torch.stack([picture[i] for picture in strip])])
        record = {"scene": scene.name, "seconds": seconds, "every": EVERY, "collapsed": ends[i]}
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
