"""The first pictures of the gallery: chosen places, drawn with care. Run as `python -m engine.worlds.gallery OUTDIR`."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from pyquaternion import Quaternion

from engine.camera import Intrinsics, Pose
from engine.depthfile import write_depth
from engine.words import words_of
from engine.worlds.parameters import make_params
from engine.worlds.renderer import Renderer

WIDTH, HEIGHT, SAMPLES = 256, 160, 9


@dataclass(frozen=True, slots=True)
class Scene:
    """A place and a view. Position x, height, z in metres; angles in degrees: yaw right, pitch up."""

    name: str
    title: str
    seed: int
    world: tuple[str, str, str]  # biome, time, weather
    position: tuple[float, float, float]
    yaw: float
    pitch: float
    fov: float  # horizontal

    @property
    def pose(self) -> Pose:
        """Where the picture is taken, camera-to-world."""
        x, up, z = self.position
        turn = Quaternion(axis=[0.0, 1.0, 0.0], degrees=self.yaw)
        return Pose(turn * self.upright.q, np.array([x, -up, z]))

    @property
    def upright(self) -> Pose:
        """The same view with position and heading taken out: what a flight starts from."""
        return Pose(Quaternion(axis=[1.0, 0.0, 0.0], degrees=self.pitch))

    @property
    def intrinsics(self) -> Intrinsics:
        return Intrinsics.from_fov(math.radians(self.fov), width=WIDTH, height=HEIGHT)


SCENES = (
    Scene(
        "meadow",
        "Meadow, low sun",
        101,
        ("meadow", "golden", "clear"),
        (342.48, 19.23, 249.34),
        119.0,
        2.7,
        82,
    ),
    Scene(
        "forest",
        "Through the forest",
        111,
        ("forest", "day", "cloudy"),
        (49.79, 29.02, 243.11),
        -23.8,
        -8.2,
        77,
    ),
    Scene(
        "taiga",
        "Ridge of pines at dawn",
        121,
        ("taiga", "dawn", "mist"),
        (270.53, 39.11, 11.99),
        27.2,
        -1.0,
        57,
    ),
    Scene(
        "snow_sunset",
        "Snow at sunset",
        131,
        ("snow", "sunset", "clear"),
        (12.68, 27.73, 338.21),
        117.1,
        1.6,
        60,
    ),
    Scene(
        "winter_night",
        "Winter night",
        141,
        ("snow", "night", "clear"),
        (161.33, 25.20, 252.08),
        100.8,
        -1.0,
        82,
    ),
    Scene("desert", "Dunes", 151, ("desert", "golden", "clear"), (376.12, 21.54, 192.10), -75.9, -7.6, 72),
    Scene("canyon", "Red canyon", 161, ("canyon", "day", "cloudy"), (313.55, 26.15, 63.30), -119.8, 2.0, 56),
    Scene(
        "savanna", "Lone acacia", 170, ("savanna", "sunset", "cloudy"), (63.98, 10.44, 110.58), 50.6, 0.3, 67
    ),
    Scene("lagoon", "Lagoon", 180, ("islands", "day", "cloudy"), (266.06, 18.37, 285.22), -28.1, -12.7, 66),
    Scene(
        "palms",
        "Palms at sunset",
        191,
        ("islands", "sunset", "clear"),
        (156.79, 23.84, 309.58),
        -173.4,
        2.2,
        79,
    ),
    Scene(
        "autumn", "Autumn light", 101, ("autumn", "golden", "clear"), (342.48, 19.11, 249.34), 119.0, 2.7, 82
    ),
    Scene(
        "lavender",
        "Lavender fields",
        110,
        ("lavender", "day", "cloudy"),
        (290.19, 10.03, 108.59),
        11.1,
        -2.3,
        82,
    ),
    Scene(
        "highland",
        "Highland lake",
        131,
        ("highland", "day", "cloudy"),
        (279.23, 26.70, 200.94),
        -110.7,
        3.6,
        79,
    ),
    Scene(
        "volcano", "Lake of fire", 140, ("volcano", "dusk", "cloudy"), (335.87, 25.80, 35.51), 3.8, 1.8, 82
    ),
    Scene(
        "crystals",
        "Crystal valley",
        151,
        ("crystals", "dusk", "clear"),
        (208.62, 31.08, 295.17),
        -109.5,
        -0.1,
        81,
    ),
    Scene(
        "mushrooms",
        "Mushroom night",
        161,
        ("mushrooms", "night", "clear"),
        (350.47, 8.39, 377.45),
        136.1,
        -0.1,
        77,
    ),
    Scene("blossom", "Blossom path", 170, ("blossom", "day", "clear"), (63.98, 13.86, 110.58), 50.6, 0.3, 67),
    Scene(
        "village",
        "Village at dusk",
        190,
        ("village", "dusk", "clear"),
        (38.59, 22.86, 317.67),
        150.5,
        -8.2,
        82,
    ),
    Scene(
        "city",
        "City in the evening sun",
        200,
        ("city", "sunset", "clear"),
        (150.0, 4.27, 246.0),
        100.0,
        -2.5,
        62,
    ),
    Scene("glacier", "Glacier", 210, ("glacier", "day", "clear"), (2.87, 41.54, 5.98), -39.5, -7.3, 82),
    Scene(
        "ruins",
        "Ruins by the water",
        180,
        ("ruins", "golden", "clear"),
        (266.06, 9.89, 285.22),
        -28.1,
        -12.7,
        66,
    ),
)


def make_gallery(folder: Path, *, device: str = "cpu") -> None:
    """Write NAME.png and NAME.depth.png for every scene, and gallery.json that describes them."""
    folder.mkdir(parents=True, exist_ok=True)
    renderer = Renderer(device)
    entries = []
    for scene in SCENES:
        biome, time, weather = scene.world
        params = make_params(scene.seed, biome=biome, time=time, weather=weather)
        rgb, inverse_depth = renderer.render(
            renderer.bake(params[None]),
            index=torch.zeros(1, dtype=torch.int64),
            poses=torch.from_numpy(scene.pose.matrix)[None],
            intrinsics=torch.from_numpy(scene.intrinsics.row)[None],
            width=WIDTH,
            height=HEIGHT,
            samples=SAMPLES,
        )
        cv2.imwrite(str(folder / f"{scene.name}.png"), rgb[0].cpu().numpy()[..., ::-1])
        write_depth(folder / f"{scene.name}.depth.png", inverse_depth[0].cpu().numpy())
        entries.append(
            {
                "name": scene.name,
                "title": scene.title,
                "picture": f"{scene.name}.png",
                "depth": f"{scene.name}.depth.png",
                "seed": scene.seed,
                "words": words_of(params).tolist(),
                "pose": scene.upright.matrix.round(9).tolist(),
                "intrinsics": scene.intrinsics.row.round(6).tolist(),
            }
        )
    (folder / "gallery.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    make_gallery(arguments.folder, device=arguments.device)
