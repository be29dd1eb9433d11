"""A seed becomes a world's numbers: the same on every machine, from integer hashes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.worlds.biomes import BIOMES, SHAPES, TIMES, WEATHERS, Biome, Time, Weather

Array = NDArray[np.float64]
SEED_LIMIT = 1 << 24  # seeds must survive a float32


def _layout() -> tuple[dict[str, slice], int]:
    """Read names and sizes from params.h, the one list of them."""
    text = (Path(__file__).parent / "params.h").read_text()
    slices, start = {}, 0
    for name, count in re.findall(r"X\((\w+), (\d+)\)", text):
        slices[name] = slice(start, start + int(count))
        start += int(count)
    return slices, start


LAYOUT, PARAM_COUNT = _layout()


def get(params: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """params: [..., PARAM_COUNT]. The named floats, [..., count]."""
    return params[..., LAYOUT[name]]


class Dice:
    """SplitMix64 (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators"): integers only."""

    def __init__(self, seed: int) -> None:
        self._state = (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64

    def roll(self) -> float:
        """Uniform in [0, 1)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) % 2**64
        z = self._state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return ((z ^ (z >> 31)) >> 11) / 2**53

    def between(self, bounds: tuple[float, float]) -> float:
        return bounds[0] + (bounds[1] - bounds[0]) * self.roll()

    def near(self, spread: float) -> float:
        """About normal with this standard deviation: the sum of four uniforms."""
        return spread * math.sqrt(3.0) * (sum(self.roll() for _ in range(4)) - 2.0)

    def index(self, weights: Sequence[float]) -> int:
        pick = self.roll() * sum(weights)
        for i, weight in enumerate(weights):
            pick -= weight
            if pick < 0:
                return i
        return len(weights) - 1


def linear(colour: str) -> Array:
    """sRGB hex → linear RGB, with the plain power 2.2 that the renderer undoes."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)]) / 255.0
    return srgb**2.2


def _jitter(colour: str, dice: Dice, spread: float = 0.10) -> Array:
    """Vary a colour: brightness together, channels a little apart (log-normal)."""
    common = dice.near(spread * 0.7)
    return np.minimum(linear(colour) * np.exp([common + dice.near(spread * 0.6) for _ in range(3)]), 1.0)


def _mixed(a: Array, b: Array, share: float) -> Array:
    return a + (b - a) * share


def _land(biome: Biome, dice: Dice) -> Iterator[tuple[str, object]]:
    relief = dice.between(biome.relief)
    wet = dice.between(biome.water_share)
    yield "BASE_FREQ", biome.base[0] + int(dice.roll() * (biome.base[1] - biome.base[0] + 1))
    yield "RELIEF", relief
    yield "RIDGE", dice.between(biome.ridge)
    yield "GAIN", dice.between(biome.gain)
    yield "WARP", dice.between(biome.warp)
    yield "TERRACE", dice.between(biome.terrace)
    yield "FLATTEN", biome.flatten
    yield "DUNE", dice.between(biome.dune)
    yield "WATER", relief * wet if wet >= 0.2 else -1000.0
    for name in ("low", "mid", "high", "steep", "shore", "accent"):
        yield f"C_{name.upper()}", _jitter(getattr(biome, name), dice)
    yield "ACCENT", biome.flowers * dice.between((0.4, 1.0))
    yield "ROWS", biome.rows
    yield "PATH", biome.path
    yield "STREET", biome.street
    yield "TIER_LOW", relief * max(0.40 + dice.near(0.05), wet + 0.05 if wet >= 0.2 else 0.0)
    yield "TIER_HIGH", relief * (0.68 + dice.near(0.06))
    yield "STEEP", biome.steep_at
    yield "SNOW", dice.between(biome.snow)
    yield "C_WATER", _jitter(biome.water, dice)
    yield "C_SHALLOW", _jitter(biome.shallow, dice)
    yield "WATER_GLOW", float(biome.lava)


def _things(biome: Biome, dice: Dice) -> Iterator[tuple[str, object]]:
    yield "GRID", biome.grid[int(dice.roll() * len(biome.grid))]
    yield "DENSITY", dice.between(biome.density)
    yield "CLUSTER", biome.cluster
    kinds, shares, sizes = [0.0] * 5, [1.0] * 5, [1.0] * 5
    weights = [share * math.exp(dice.near(0.3)) for _, share, _ in biome.things]
    for i, (name, _, size) in enumerate(biome.things):
        kinds[i] = SHAPES.index(name)
        shares[i] = sum(weights[: i + 1]) / sum(weights)
        sizes[i] = size * math.exp(dice.near(0.12))
    yield "OBJECT", kinds
    yield "SHARE", shares
    yield "SIZE", sizes
    for name in ("leaf", "leaf2", "wood", "stone", "roof", "wall", "glow"):
        yield f"C_{name.upper()}", _jitter(getattr(biome, name), dice)


def _light(biome: Biome, time: Time, weather: Weather, dice: Dice) -> Iterator[tuple[str, object]]:
    up, heading = math.radians(dice.between(time.elevation)), 2.0 * math.pi * dice.roll()
    sky = {
        n: _jitter(getattr(time, n), dice, 0.06) for n in ("zenith", "horizon", "halo", "cloud", "cloud_dark")
    }
    sun, ambient = linear(time.sun) * time.sun_strength, linear(time.ambient) * time.ambient_strength
    if biome.tint is not None:
        tint = linear(biome.tint)
        for name, share in (("zenith", 0.22), ("horizon", 0.38), ("cloud", 0.2), ("cloud_dark", 0.2)):
            level = sky[name].mean() / tint.mean()
            sky[name] = _mixed(sky[name], tint * level, share)
    for name in sky if weather.grey else ():
        grey = np.full(3, sky[name].mean()) * np.array([0.96, 1.0, 1.05])
        sky[name] = _mixed(sky[name], grey, weather.grey)
    if weather.grey:
        sun = _mixed(sun, np.full(3, sun.mean()), weather.grey)
    yield "SUN", (math.cos(up) * math.sin(heading), math.sin(up), math.cos(up) * math.cos(heading))
    yield "C_SUN", sun * weather.sun
    yield "C_AMBIENT", ambient * weather.ambient
    for name, colour in sky.items():
        yield f"C_{name.upper()}", colour
    yield "CLOUD", dice.between(weather.cloud)
    yield "STARS", 0.0 if weather.name == "overcast" else time.stars
    yield "MOON", float(time.moon)
    size = 0.055 if time.moon else 0.035
    yield "DISC", 0.0 if weather.name == "overcast" else size * dice.between((0.8, 1.25))
    yield "GLOW", max(time.glow, biome.shine + 0.5 * time.glow if biome.shine else 0.0, 0.3 * weather.grey)


def _air(
    biome: Biome, weather: Weather, relief: float, water: float, dice: Dice
) -> Iterator[tuple[str, object]]:
    yield "FOG", 1.0 / dice.between(weather.fog)
    mist = dice.between(weather.mist)
    if weather.name != "mist" and dice.roll() < biome.mist:
        mist = dice.between((0.002, 0.009))
    yield "MIST", mist
    yield "MIST_TOP", max(water, 0.36 * relief) + dice.between((0.0, 2.0))
    yield "MIST_FALL", dice.between((2.0, 5.0))
    yield "C_FAR", _jitter(biome.far, dice)
    yield (
        "FAR_HEIGHT",
        (dice.between((0.7, 1.2)) * biome.far_height[0], dice.between((0.7, 1.2)) * biome.far_height[1]),
    )
    yield "FAR_SNOW", biome.far_snow


def make_params(
    seed: int, *, biome: str | None = None, time: str | None = None, weather: str | None = None
) -> NDArray[np.float32]:
    """The numbers of world `seed`, [PARAM_COUNT]; names choose instead of the dice.

    Raises ValueError for a seed outside 0 … 2²⁴-1 or an unknown name.
    """
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"world seed {seed} must lie in 0 … {SEED_LIMIT - 1}")
    dice = Dice(seed)
    rows = [
        _choose("biome", BIOMES, biome, dice),
        _choose("time", TIMES, time, dice),
        _choose("weather", WEATHERS, weather, dice),
    ]
    land, hour, air = BIOMES[rows[0]], TIMES[rows[1]], WEATHERS[rows[2]]
    values = dict(zip(("SEED", "BIOME", "TIME", "WEATHER"), map(float, (seed, *rows)), strict=True))
    params = np.zeros(PARAM_COUNT, np.float32)

    def put(items: Iterator[tuple[str, object]]) -> None:
        for name, value in items:
            params[LAYOUT[name]] = value  # type: ignore[call-overload]

    put(iter(values.items()))
    put(_land(land, dice))
    put(_things(land, dice))
    put(_light(land, hour, air, dice))
    put(_air(land, air, float(get(params, "RELIEF")[0]), float(get(params, "WATER")[0]), dice))
    return params


def _choose(kind: str, table: Sequence[Biome | Time | Weather], name: str | None, dice: Dice) -> int:
    drawn = dice.index([row.weight for row in table])
    if name is None:
        return drawn
    names = [row.name for row in table]
    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(names)}")
    return names.index(name)
