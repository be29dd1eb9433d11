"""Words: a small fixed vocabulary, prompts in, ids out."""

from __future__ import annotations

import numpy as np
import pytest

from engine.config import POCKET
from engine.words import SLOTS, WORDS, parse, words_of
from engine.worlds.parameters import make_params


def told(ids: np.ndarray) -> list[str]:
    return [WORDS[i] for i in ids]


def test_the_vocabulary_fits_the_model() -> None:
    assert WORDS[0] == ""
    assert len(set(WORDS)) == len(WORDS) <= POCKET.words
    assert POCKET.caption_tokens == SLOTS


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("snowy pines at dusk", ["snow", "dusk", "", "pine"]),
        ("Misty forest, with houses and a lake at sunrise!", ["forest", "dawn", "mist", "house", "water"]),
        ("mushrooms at night", ["mushrooms", "night", "", "mushroom"]),
        ("crystals on a glacier", ["glacier", "", "", "crystal"]),
        ("islands", ["islands"]),
        ("lavender field at sunset", ["lavender", "sunset"]),
        ("autumn forest", ["autumn", "", "", "tree"]),
        ("snowy forest with pines", ["snow", "", "", "tree", "pine"]),
        ("forest", ["forest"]),
        ("", []),
    ],
)
def test_prompts(prompt: str, expected: list[str]) -> None:
    assert told(parse(prompt)) == expected + [""] * (SLOTS - len(expected))


def test_every_word_is_understood() -> None:
    for word in WORDS[1:]:
        assert word in told(parse(word)), word


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("purple dragon at dusk", "unknown words purple, dragon: known are biomes meadow"),
        ("dawn and dusk", "two time words, dawn and dusk"),
        ("forest in the desert on islands", "two biome words, desert and islands"),
        ("forest meadow", "two biome words, forest and meadow"),
        ("tree pine rock house gate arch", "6 things"),
    ],
)
def test_bad_prompts_say_so(prompt: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(prompt)


def test_worlds_name_themselves() -> None:
    params = make_params(1, biome="lavender", time="golden", weather="clear")
    words = told(words_of(params))
    assert words[:3] == ["lavender", "golden", "clear"]
    assert "cypress" in words
    assert all(len(words_of(make_params(seed))) == SLOTS for seed in range(50))
