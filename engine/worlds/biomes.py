"""Tables of the procedural worlds: what grows where, and how the light falls at which hour and weather."""

from __future__ import annotations

from dataclasses import dataclass

SHAPES = (  # order of enum Shape in shapes.h; the words by which they are known
    *("nothing", "tree", "pine", "rock", "column", "house", "crystal", "tower", "wall", "spire", "mushroom"),
    *("cactus", "gate", "palm", "cypress", "lantern", "arch", "acacia", "bush"),
)


@dataclass(frozen=True, kw_only=True)
class Biome:
    """A kind of land. Colours are sRGB hex; pairs are ranges a world draws from."""

    name: str
    low: str
    mid: str
    high: str
    steep: str
    shore: str = "d8c795"
    accent: str = "ffffff"
    leaf: str = "4f8a3c"
    leaf2: str = "7aa843"
    wood: str = "6b4a35"
    stone: str = "8d8a86"
    roof: str = "b0523c"
    wall: str = "efe3cc"
    glow: str = "ffc56b"
    water: str = "1f5f86"
    shallow: str = "58b0b0"
    far: str = "6d7f97"
    tint: str | None = None  # pulls the sky towards this colour
    things: tuple[tuple[str, float, float], ...]  # shape, share, height in metres; at most five
    relief: tuple[float, float] = (20.0, 36.0)
    base: tuple[int, int] = (3, 5)
    ridge: tuple[float, float] = (0.0, 0.2)
    gain: tuple[float, float] = (0.36, 0.44)
    warp: tuple[float, float] = (0.0, 0.6)
    terrace: tuple[float, float] = (0.0, 0.0)
    flatten: float = 0.4
    dune: tuple[float, float] = (0.0, 0.0)
    water_share: tuple[float, float] = (0.0, 0.34)  # of the relief; below 0.2 the land is dry
    flowers: float = 0.0
    rows: float = 0.0
    path: float = 0.0  # how worn the trodden paths are
    street: int = 0  # every so many cells of the grid a street, which divides it; 0: none
    steep_at: float = 0.72
    snow: tuple[float, float] = (0.0, 0.0)
    grid: tuple[int, ...] = (48,)
    density: tuple[float, float] = (0.2, 0.5)
    cluster: float = 0.8
    far_height: tuple[float, float] = (0.08, 0.16)
    far_snow: float = 0.5
    mist: float = 0.3  # chance of a ground layer in clear weather
    shine: float = 0.0  # lamps and crystals shine this much even by day
    lava: bool = False
    weight: float = 1.0


BIOMES = (
    Biome(
        name="meadow", path=0.8, low="6fae4a", mid="86bd52", high="a3c963", steep="9a8f7a", accent="fff3b0", flowers=0.35,
        leaf="3f8f45", leaf2="78b04a", things=(("tree", 0.6, 7.0), ("bush", 0.2, 1.4), ("rock", 0.14, 1.6), ("house", 0.06, 5.0)),
        density=(0.25, 0.5), relief=(22, 38),
    ),
    Biome(
        name="forest", path=0.7, low="4f8f45", mid="5f9c48", high="7fae58", steep="84806f", leaf="2f7440", leaf2="6ba33f",
        things=(("tree", 0.7, 8.5), ("pine", 0.18, 9.5), ("bush", 0.07, 1.6), ("rock", 0.05, 2.0)),
        density=(0.55, 0.85), cluster=0.6, relief=(22, 42), mist=0.5,
    ),
    Biome(
        name="taiga", path=0.5, low="5d8a55", mid="6d9459", high="8f9d78", steep="7d7f84", leaf="1f5a48", leaf2="3d7a55",
        things=(("pine", 0.86, 10.5), ("rock", 0.14, 2.2)), density=(0.4, 0.8), cluster=0.85, ridge=(0.3, 0.7),
        relief=(36, 62), far_height=(0.14, 0.26), far_snow=0.9, snow=(0.0, 0.25),
    ),
    Biome(
        name="snow", low="dfe7f2", mid="e8eef6", high="f3f6fb", steep="7f8796", shore="b9c9da", leaf="2a5a52", leaf2="3f6f5e",
        water="3a6f95", shallow="8fc0d3", far="7d90b0", things=(("pine", 0.84, 9.5), ("rock", 0.10, 2.0), ("house", 0.06, 5.0)),
        density=(0.2, 0.6), snow=(0.8, 1.0), ridge=(0.2, 0.7), relief=(28, 56), far_height=(0.14, 0.28), far_snow=1.0, roof="7a4a48",
    ),
    Biome(
        name="desert", low="e6bf7f", mid="eccb8d", high="f3d9a4", steep="d9a866", shore="d9b77c", leaf="4f8a52", leaf2="6f9a58",
        stone="b98a62", far="b98f78", far_snow=0.0, far_height=(0.05, 0.10), dune=(0.75, 1.0), flatten=0.0, base=(3, 4),
        things=(("cactus", 0.62, 3.8), ("rock", 0.3, 2.0), ("bush", 0.08, 1.0)), density=(0.05, 0.16), relief=(14, 28),
        water_share=(0.0, 0.0), mist=0.1, steep_at=0.55,
    ),
    Biome(
        name="canyon", low="d99a62", mid="c97f4f", high="dba271", steep="b4583a", shore="d9a877", leaf="7d8a4a", leaf2="97994f",
        stone="c0694a", far="b37a6a", far_snow=0.0, terrace=(7.0, 13.0), relief=(48, 73), flatten=0.3, water_share=(0.0, 0.26),
        water="2f7f86", shallow="6fb7a5", things=(("spire", 0.3, 9.0), ("arch", 0.2, 7.5), ("rock", 0.3, 2.4), ("bush", 0.2, 1.2)),
        density=(0.12, 0.28), grid=(32, 40), far_height=(0.08, 0.15), steep_at=0.82, mist=0.15,
    ),
    Biome(
        name="savanna", path=0.5, low="d3b659", mid="dcc06a", high="c9a85a", steep="a88a62", leaf="6f8a3a", leaf2="97a045", wood="5f4a3c",
        far="8f8fa0", far_snow=0.0, things=(("acacia", 0.66, 7.0), ("bush", 0.18, 1.2), ("rock", 0.16, 2.2)),
        density=(0.08, 0.22), relief=(11, 22), flatten=0.5, grid=(32, 40), far_height=(0.06, 0.12),
    ),
    Biome(
        name="islands", low="e9d8a6", mid="7fbf5f", high="5fa552", steep="9c8f80", shore="f2e3b4", leaf="3f9a4f", leaf2="6fb84f",
        wood="8a6a4a", water="0f6fa8", shallow="4fd0c8", far="7fa0b8", far_snow=0.0, far_height=(0.04, 0.10), relief=(28, 48),
        water_share=(0.44, 0.5), flatten=0.52, things=(("palm", 0.72, 6.5), ("rock", 0.18, 2.4), ("bush", 0.1, 1.2)),
        density=(0.3, 0.6), mist=0.1,
    ),
    Biome(
        name="autumn", path=0.75, low="b9a04a", mid="c4924a", high="a8854f", steep="857a70", accent="d9532a", flowers=0.4, leaf="d8662b",
        leaf2="efb43c", far="8a8098", things=(("tree", 0.78, 8.0), ("bush", 0.1, 1.4), ("rock", 0.06, 2.0), ("house", 0.06, 5.0)),
        density=(0.35, 0.7), relief=(20, 39), mist=0.5,
    ),
    Biome(
        name="lavender", path=0.8, low="8fae5f", mid="9ab565", high="b0bf78", steep="a89a88", accent="8f6fd0", rows=0.92, leaf="3d6b45",
        leaf2="5f8a4c", roof="c0653f", far="8f8fb5", far_snow=0.1,
        things=(("cypress", 0.6, 8.5), ("tree", 0.2, 6.0), ("house", 0.2, 5.5)), density=(0.08, 0.2), relief=(14, 28), water_share=(0, 0),
    ),
    Biome(
        name="marsh", low="6f8a55", mid="7d9758", high="90a565", steep="77705f", shore="7a7a52", leaf="4a7a50", leaf2="86964a",
        water="2f5a5a", shallow="5f8a72", far="7a9090", far_snow=0.0, relief=(9, 14), base=(5, 8), flatten=0.0, gain=(0.28, 0.34), water_share=(0.40, 0.48),
        things=(("tree", 0.5, 6.5), ("bush", 0.4, 1.3), ("rock", 0.1, 1.2)), density=(0.25, 0.5), mist=0.9, far_height=(0.03, 0.08),
    ),
    Biome(
        name="highland", path=0.5, low="6f9a58", mid="8aa060", high="b0a58a", steep="7a808c", accent="b56aa5", flowers=0.8, leaf="54724a",
        leaf2="7d8a50", stone="8a8f96", far="748aa5", things=(("rock", 0.55, 2.4), ("bush", 0.25, 1.1), ("column", 0.2, 4.0)),
        density=(0.12, 0.3), ridge=(0.3, 0.8), relief=(32, 54), water_share=(0.32, 0.44), far_height=(0.1, 0.2),
    ),
    Biome(
        name="volcano", low="3f3840", mid="54464c", high="7d5a52", steep="2f2a33", shore="70443a", stone="4f464c", leaf="5f6a48",
        leaf2="77704a", water="ff5a1f", shallow="ffb347", far="5f4a58", far_snow=0.0, far_height=(0.16, 0.24), lava=True, tint="d88a6a",
        things=(("rock", 0.6, 2.6), ("spire", 0.4, 7.0)), density=(0.12, 0.28), ridge=(0.3, 0.8), relief=(28, 46),
        water_share=(0.40, 0.48), mist=0.3, weight=0.7,
    ),
    Biome(
        name="crystals", low="5f5a9a", mid="7468b0", high="9a86c8", steep="463f78", shore="8a8fd0", accent="7fe8ff", flowers=0.5,
        leaf="ff7fd8", leaf2="8f7fff", stone="5a5088", glow="7fe0ff", water="2a3f9a", shallow="6fa0ff", far="6a5fa8", far_snow=0.3,
        tint="b58fe0", things=(("crystal", 0.75, 5.5), ("spire", 0.15, 8.0), ("rock", 0.1, 2.0)), density=(0.15, 0.4), shine=0.5,
        ridge=(0.2, 0.6), relief=(25, 48), mist=0.6, weight=0.8,
    ),
    Biome(
        name="mushrooms", path=0.6, low="3f8a7a", mid="4f9a80", high="76b08a", steep="5f5a78", shore="8fc0a0", accent="ffd0f0", flowers=0.6,
        leaf="3a9a8a", leaf2="e0703f", roof="d8403f", wall="fff0dc", glow="8fffd8", water="1f6f7a", shallow="5fd0b8", far="5f8a98",
        far_snow=0.1, tint="8fd0c8", things=(("mushroom", 0.8, 5.5), ("bush", 0.12, 1.2), ("rock", 0.08, 1.6)), density=(0.2, 0.45),
        relief=(14, 31), mist=0.7, shine=0.2, weight=0.8,
    ),
    Biome(
        name="blossom", path=0.9, low="7fb365", mid="92bd6c", high="abc97d", steep="8f8a84", accent="ffc8dc", flowers=0.7, leaf="f590b8",
        leaf2="ffc4d8", wood="5a4038", roof="c83c32", wall="f2e8dc", far="8a94b0", far_snow=0.7,
        things=(("tree", 0.72, 7.0), ("gate", 0.1, 5.0), ("lantern", 0.1, 2.6), ("rock", 0.08, 1.6)), density=(0.25, 0.5),
        relief=(17, 34), water_share=(0.1, 0.42), mist=0.4,
    ),
    Biome(
        name="ruins", path=0.8, low="8aa05a", mid="9cab63", high="b3b878", steep="9a8f78", stone="d5c8ae", leaf="4f7a45", leaf2="82984a",
        things=(("column", 0.5, 5.5), ("wall", 0.18, 3.6), ("cypress", 0.2, 8.0), ("arch", 0.06, 6.5), ("bush", 0.06, 1.2)),
        density=(0.2, 0.4), relief=(14, 31), cluster=0.9, water_share=(0.0, 0.42),
    ),
    Biome(
        name="village", path=0.95, low="7aa84f", mid="8cb557", high="a5c069", steep="94897a", roof="bf5638", wall="f2e6cf", leaf="3f8542",
        leaf2="76a648", things=(("house", 0.46, 5.5), ("tree", 0.34, 7.0), ("lantern", 0.14, 3.0), ("bush", 0.06, 1.2)), density=(0.3, 0.5),
        relief=(11, 25), cluster=0.85, grid=(40, 48), water_share=(0.0, 0.4), weight=0.8,
    ),
    Biome(
        name="city", street=4, shore="b7b4ac", low="7f8a8f", mid="8a9498", high="98a0a3", steep="6f7478", leaf="4a8048", leaf2="6f9a50", wall="c9cfd6", stone="8b97a8",
        roof="7a8088", far="8090a5", far_snow=0.0, things=(("tower", 0.74, 24.0), ("tree", 0.18, 6.0), ("lantern", 0.08, 4.0)),
        density=(0.45, 0.6), cluster=0.3, relief=(3, 6), base=(3, 4), grid=(32,), water_share=(0.0, 0.3), far_height=(0.05, 0.1), weight=0.5,
    ),
    Biome(
        name="glacier", low="b8dcea", mid="d3e9f2", high="f0f7fb", steep="7fb5d3", shore="a8d0e0", stone="9fc8dc", leaf="7fc0d8",
        leaf2="a8d8e8", glow="a8f0ff", water="1f6a92", shallow="6fd0dc", far="88a8c8", far_snow=1.0, far_height=(0.14, 0.28),
        terrace=(5.0, 9.0), things=(("spire", 0.5, 6.5), ("rock", 0.4, 2.6), ("crystal", 0.1, 3.5)), density=(0.08, 0.22), snow=(0.5, 0.75),
        relief=(28, 50), water_share=(0.3, 0.42), grid=(40,), weight=0.7,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Time:
    """Light at an hour. Elevation of sun or moon in degrees; strengths multiply linear colours."""

    name: str
    zenith: str
    horizon: str
    halo: str
    sun: str
    sun_strength: float
    ambient: str
    ambient_strength: float
    cloud: str
    cloud_dark: str
    elevation: tuple[float, float]
    stars: float = 0.0
    moon: bool = False
    glow: float = 0.0
    weight: float = 1.0


TIMES = (
    Time(
        name="dawn", zenith="6c93c9", horizon="f9d3bd", halo="ffdcae", sun="ffc896", sun_strength=1.05, ambient="a9b6dd",
        ambient_strength=0.62, cloud="ffe0d0", cloud_dark="b3a9c8", elevation=(8, 16), glow=0.25,
    ),
    Time(
        name="day", zenith="2f7dd6", horizon="c4e6f6", halo="fff6dc", sun="fff1d4", sun_strength=1.15, ambient="a5cbf0",
        ambient_strength=0.52, cloud="ffffff", cloud_dark="bccbde", elevation=(32, 62), weight=2.2,
    ),
    Time(
        name="golden", zenith="4f93d6", horizon="fbe2bf", halo="ffd27a", sun="ffcb80", sun_strength=1.3, ambient="a9bfe6",
        ambient_strength=0.52, cloud="fff2d4", cloud_dark="cfae98", elevation=(13, 24), weight=1.4,
    ),
    Time(
        name="sunset", zenith="44559f", horizon="ffa062", halo="ffc85a", sun="ff9a58", sun_strength=1.15, ambient="9c8fc8",
        ambient_strength=0.58, cloud="ffad85", cloud_dark="7c6698", elevation=(5, 10), glow=0.45,
    ),
    Time(
        name="dusk", zenith="2b3674", horizon="d79ab8", halo="ffae8c", sun="e6a8c0", sun_strength=0.62, ambient="9298d2",
        ambient_strength=0.78, cloud="e0a0bc", cloud_dark="4f5090", elevation=(5, 12), stars=0.45, glow=0.9, weight=0.9,
    ),
    Time(
        name="night", zenith="0b1538", horizon="33509a", halo="a9c4ff", sun="b9cdfa", sun_strength=0.72, ambient="5a74b8",
        ambient_strength=0.68, cloud="4a629c", cloud_dark="1a2650", elevation=(22, 42), stars=1.0, moon=True, glow=1.2, weight=0.8,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What hangs in the air. `grey` pulls sky and light to grey; ranges are drawn per world."""

    name: str
    cloud: tuple[float, float]
    fog: tuple[float, float]  # metres at which distance has faded by 1 - 1/e
    sun: float = 1.0
    ambient: float = 1.0
    grey: float = 0.0
    mist: tuple[float, float] = (0.0, 0.0)  # density of the ground layer, 1/m
    weight: float = 1.0


WEATHERS = (
    Weather(name="clear", cloud=(0.15, 0.42), fog=(210, 330), weight=2.0),
    Weather(name="cloudy", cloud=(0.5, 0.78), fog=(190, 290), sun=0.95, weight=1.6),
    Weather(name="overcast", cloud=(0.9, 1.1), fog=(120, 190), sun=0.35, ambient=1.45, grey=0.6, weight=0.7),
    Weather(
        name="mist", cloud=(0.1, 0.5), fog=(90, 150), sun=0.85, ambient=1.1, mist=(0.008, 0.022), weight=0.8
    ),
    Weather(name="haze", cloud=(0.0, 0.3), fog=(95, 150), sun=0.95, ambient=1.1, grey=0.1, weight=0.5),
)
