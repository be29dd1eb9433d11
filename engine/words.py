"""The words of the built-in world: a fixed vocabulary, eight slots, and a reader of short prompts."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from engine.worlds.biomes import BIOMES, SHAPES, TIMES, WEATHERS
from engine.worlds.parameters import get

SLOTS = 8  # biome, time, weather, five things
THINGS = SLOTS - 3
_KINDS: dict[str, tuple[str, ...]] = {
    "biome": tuple(biome.name for biome in BIOMES),
    "time": tuple(time.name for time in TIMES),
    "weather": tuple(weather.name for weather in WEATHERS),
    "thing": (*SHAPES[1:], "water", "lava", "mountain", "flower"),
}
WORDS = ("", *(word for words in _KINDS.values() for word in words))  # row 0 says nothing
_ID = {word: row for row, word in enumerate(WORDS)}
_FILLERS = frozenset(
    re.findall(
        r"\w+",
        "a an and at by in of on the with over under near some many very world land scene place sky light",
    )
)
_SYNONYMS = {
    "grass": "meadow", "grassland": "meadow", "field": "meadow", "wood": "forest", "jungle": "forest", "snowy": "snow",
    "winter": "snow", "dune": "desert", "sand": "desert", "island": "islands", "beach": "islands", "tropical": "islands",
    "fall": "autumn", "swamp": "marsh", "moor": "highland", "heather": "highland", "volcanic": "volcano", "cherry": "blossom",
    "sakura": "blossom", "ruin": "ruins", "town": "village", "ice": "glacier", "icy": "glacier", "mesa": "canyon",
    "morning": "dawn", "sunrise": "dawn", "noon": "day", "daylight": "day", "midday": "day", "afternoon": "golden",
    "evening": "sunset", "twilight": "dusk", "midnight": "night", "sunny": "clear", "cloud": "cloudy", "grey": "overcast",
    "misty": "mist", "fog": "mist", "foggy": "mist", "hazy": "haze", "stone": "rock", "boulder": "rock", "pillar": "column",
    "cabin": "house", "gem": "crystal", "skyscraper": "tower", "cacti": "cactus", "torii": "gate", "lamp": "lantern",
    "shrub": "bush", "lake": "water", "sea": "water", "river": "water", "ocean": "water", "hill": "mountain",
    "mountainous": "mountain", "starry": "night", "star": "night", "moonlit": "night", "moon": "night",
}  # fmt: skip
_BOTH = {
    "crystal": "crystals",
    "mushroom": "mushrooms",
    "pine": "taiga",
}  # a thing that is a whole biome if none is named
_GENERAL = {
    "meadow": "",
    "forest": "tree",
}  # biomes that yield to any other, as in "snowy forest", and what stays of them


def words_of(params: NDArray[np.float32]) -> NDArray[np.int64]:
    """params: [PARAM_COUNT] of one world. Returns [8] rows of WORDS; 0 where there is nothing to say."""
    rows = [int(get(params, name)[0]) for name in ("BIOME", "TIME", "WEATHER")]
    ids = [_ID[table[row]] for table, row in zip(list(_KINDS.values())[:3], rows, strict=True)]
    things = [*_scenery(params), *_objects(params)][:THINGS]
    return np.array(ids + [_ID[thing] for thing in things] + [0] * (THINGS - len(things)), np.int64)


def _scenery(params: NDArray[np.float32]) -> list[str]:
    def number(name: str) -> float:
        return float(get(params, name)[-1])

    told = {
        ("lava" if number("WATER_GLOW") else "water"): number("WATER") > -100.0,
        "mountain": number("FAR_HEIGHT") > 0.14,
        "flower": number("ACCENT") > 0.3,
    }
    return [name for name, holds in told.items() if holds]


def _objects(params: NDArray[np.float32]) -> list[str]:
    """Commonest first."""
    shares = np.diff(get(params, "SHARE"), prepend=0.0)
    kinds = get(params, "OBJECT").astype(int)
    return [SHAPES[kinds[i]] for i in np.argsort(-shares, kind="stable") if kinds[i] and shares[i] > 0.04]


def parse(prompt: str) -> NDArray[np.int64]:
    """Read "snowy pines at dusk". Returns [8] rows of WORDS.

    Of two biomes a forest or field yields to the other. Raises ValueError for unknown words (naming them and what is
    known), two words of one kind, or too many things.
    """
    names = [_known(word) for word in re.findall(r"[a-z]+", prompt.lower()) if word not in _FILLERS]
    unknown = [word for name, word in names if name is None]
    if unknown:
        known = "; ".join(f"{kind}s {', '.join(words)}" for kind, words in _KINDS.items())
        raise ValueError(f"unknown word{'s' * (len(unknown) > 1)} {', '.join(unknown)}: known are {known}")
    told = [name for name, _ in names if name]
    biomes = {name for name in told if name in _KINDS["biome"]}
    if biomes - _GENERAL.keys():
        told = [_GENERAL.get(name, name) for name in told]
    slots = [
        _one(kind, [name for name in told if name in _KINDS[kind]]) for kind in ("biome", "time", "weather")
    ]
    things = list(dict.fromkeys(name for name in told if name in _KINDS["thing"]))
    if len(things) > THINGS:
        raise ValueError(f"{len(things)} things ({', '.join(things)}): name at most {THINGS}")
    if not slots[0]:
        slots[0] = next((_BOTH[thing] for thing in things if thing in _BOTH), "")
    said = [*slots, *things]
    return np.array([_ID[word] for word in said] + [0] * (SLOTS - len(said)), np.int64)


def _known(word: str) -> tuple[str | None, str]:
    """The vocabulary's name of a word as written, and the word. Things win over biomes of the same name."""
    for form in (word, word.removesuffix("s"), word.removesuffix("es")):
        form = _SYNONYMS.get(form, form)
        if form in _KINDS["thing"] or (form in _ID and form.removesuffix("s") not in _BOTH):
            return form, word
    return None, word


def _one(kind: str, names: list[str]) -> str:
    different = list(dict.fromkeys(names))
    if len(different) > 1:
        raise ValueError(f"two {kind} words, {different[0]} and {different[1]}: name one")
    return different[0] if different else ""
