"""A station's file and texts, its visits and its unattended flight: what is pure."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.camera import Pose
from engine.setup import Setup
from explorer.app import main
from explorer.controls import Hands
from explorer.kiosk import autopilot
from explorer.kiosk.chord import Chord, parse_chord
from explorer.kiosk.settings import LEAVE, Limits, Station, World, example, parse_station, read_station
from explorer.kiosk.texts import KEYS, LANGUAGES, shipped
from explorer.kiosk.visit import GOODBYE, Rules, Visit
from explorer.paint import Brush, missing_letters
from explorer.pilot import PilotState, angles, steered
from explorer.theme import ACCENT, ALERT, FAINT, GOOD, GROUND, INK, QUIET

ROOT = Path(__file__).parents[1]
MISTAKES = {
    "world = 3": "[world]",
    "[wrld]": "did you mean world",
    "[world]\nspeeed = 3.0": "did you mean speed",
    "[world]\nspeed = 300.0": "0.1 to 30",
    "[world]\nspeed = nan": "0.1 to 30",
    "[world]\nspeed = true": "number",
    "[world]\nthreads = 1.5": "whole number",
    '[world]\nmodel = "moon"': "pocket",
    "[world]\nmemory = 48": "--model sana-wm",
    '[world]\nmodel = "sana-wm"\nmemory = 20': "--memory 20",
    '[world]\nprompt = "a\\nb"': "one line",
    '[world]\nscenes = "meadow"': "list",
    '[world]\nscenes = ["a", "a"]': "once",
    '[world]\nscenes = ["../a"]': "scene names",
    "[visit]\nminutes = -1": "0 for no limit",
    "[screen]\nlanguages = []": "1 or more",
    '[screen]\nlanguages = ["xx"]': "[texts.xx]",
    '[screen]\nlanguages = ["xx"]\n[texts.xx]\ntitle = "a"': "lacks subtitle",
    '[texts.de]\ntitle = "a"': "'de'",
    '[texts.en]\ntitel = "a"': "did you mean title",
    '[texts.en]\ntitle = ""': "one line",
    '[texts.en]\ntitle = "a\\nb"': "one line",
    '[texts.en]\nidle = "soon"': "{seconds}",
    "[texts.en]\ntitles = 3": "titles",
    '[screen]\nleave = "q"': "at least two",
    '[screen]\nleave = "ctrl+shift+escape"': "F12",
    '[screen]\nfullscreen = "yes"': "true or false",
    "[watch]\nport = 70000": "65535",
    '[watch]\naddress = "javascript:alert(1)"': "http",
    '[operator]\ntoken = "short"': "16 to 128",
    '[operator]\nhost = "a b"': "127.0.0.1",
    '[operator]\nhost = "a..b"': "127.0.0.1",
    f'[watch]\nhost = "{"a" * 64}.b"': "127.0.0.1",
    '[world]\nmodel = "sana-wm"\nprecision = "fp3"': "use bf16, fp8, nvfp4",
    '[world]\nprecision = "fp8"': "for --model sana-wm",
    "[log]\nfiles = 0": "1 to 100",
    "[world": "no TOML",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_each_mistake_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(MISTAKES[text])) as told:
        parse_station(text, name="my.toml")
    assert str(told.value).startswith("my.toml")
    assert "\n" not in str(told.value)


def test_the_example_says_the_defaults_and_names_every_key() -> None:
    station = parse_station(example())
    assert dataclasses.replace(station, texts=()) == Station()
    table = tomllib.loads(example())
    for section in dataclasses.fields(Station):
        if section.name != "texts":
            assert set(table[section.name]) == {f.name for f in dataclasses.fields(section.default)}  # type: ignore[arg-type]


def test_the_world_is_set_up_as_its_section_says() -> None:
    text = '[world]\nmodel = "sana-wm"\nprecision = "bf16/fp8"\nmemory = 32\nprompt = "fog"\nrandom_weights = true'
    choice = parse_station(text).world.choice
    assert choice.model == "sana-wm"
    assert choice.setup == Setup(precision="bf16/fp8", memory=32, prompt="fog", random_weights=True)


def toml(value: Any) -> str:
    """A value as TOML writes it; JSON strings are TOML strings."""
    if value is None:
        return '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str | Path | Chord):
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


names = st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), unique=True, max_size=4).map(tuple)
stations = st.builds(
    Station,
    world=st.builds(
        World,
        threads=st.integers(0, 256),
        scenes=names,
        prompt=st.from_regex(r"[a-z ]{0,30}", fullmatch=True),
        speed=st.floats(0.1, 30.0),
        device=st.sampled_from(["auto", "cpu", "cuda"]),
    ),
    visit=st.builds(
        Limits, minutes=st.just(0.0) | st.floats(0.05, 240.0), idle_seconds=st.floats(1.0, 3600.0)
    ),
)


@given(stations)
def test_what_is_written_is_read(station: Station) -> None:
    lines = [f"[world]\n{_keys(station.world)}", f"[visit]\n{_keys(station.visit)}"]
    assert dataclasses.replace(parse_station("\n".join(lines)), texts=()) == station


def _keys(section: object) -> str:
    return "\n".join(f"{f.name} = {toml(getattr(section, f.name))}" for f in dataclasses.fields(section))  # type: ignore[arg-type]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
SECTIONS = [f.name for f in dataclasses.fields(Station)]
ALL_KEYS = sorted({k for s in tomllib.loads(example()).values() for k in s} | {"titles", "x"})


@given(st.sampled_from(SECTIONS), st.sampled_from(ALL_KEYS), values)
def test_any_value_is_taken_or_refused_in_one_sentence(section: str, key: str, value: Any) -> None:
    assume(value is not None)
    text = f"[{section}]\n{key} = {toml(value)}"
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assume(False)
    said = refusal_of(text)
    assert "\n" not in said
    assert len(said) < 500


@given(st.text(max_size=60))
def test_any_text_is_taken_or_refused(text: str) -> None:
    assert refusal_of(text)[:12] in ("", "station.toml")


def refusal_of(text: str) -> str:
    """The sentence with which a station file is refused, "" where it is taken. Anything but ValueError is a defect."""
    try:
        parse_station(text)
    except ValueError as error:
        return str(error)
    return ""


def test_pictures_are_found_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "station.toml"
    file.write_text('[world]\npictures = ["a.png", "/b/c.png"]')
    assert read_station(file).world.pictures == (tmp_path / "a.png", Path("/b/c.png"))


@pytest.mark.parametrize("text", ["ctrl+shift+q", "alt+super+f12", "ctrl+alt+shift+0"])
def test_a_chord_reads_as_it_is_written(text: str) -> None:
    assert str(parse_chord(text)) == text
    assert parse_chord(str(LEAVE)) == LEAVE


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_whole_and_has_its_letters(language: str) -> None:
    texts = shipped(language)
    titles = texts.pop("titles", {})
    assert set(texts) == set(KEYS)
    assert language == "en" or set(titles) == set(shipped("de")["titles"])
    words = " ".join([*texts.values(), *titles.values()])
    assert missing_letters(words, language=language) == ""


def test_a_letter_that_no_font_has_is_named() -> None:
    assert missing_letters("fly \U0001f426 é ก ก", language="en") == "\U0001f426ก"
    with pytest.raises(ValueError, match="font"):
        missing_letters("a", face=Path(__file__))


@pytest.mark.parametrize("language", ["en", "ja", "zh"])
def test_lines_fit_and_lose_no_letter(language: str) -> None:
    import pygame

    pygame.font.init()
    brush = Brush(800, language)
    sentence = shipped(language)["trouble_hint"]
    for width in (90, 200, 400):
        lines = brush.wrapped(sentence, width)
        assert "".join(lines).replace(" ", "") == sentence.replace(" ", "")
        assert all(brush.text(line).get_width() <= max(width, 130) for line in lines)
        assert all(line[0] not in "、。，" for line in lines)


def test_pages_wear_the_same_colours() -> None:
    words = {
        "ink": INK,
        "soft": QUIET,
        "faint": FAINT,
        "ground": GROUND,
        "accent": ACCENT,
        "good": GOOD,
        "bad": ALERT,
    }
    for page in ("viewer/viewer.css", "kiosk/page/operator.css"):
        css = (ROOT / "explorer" / page).read_text()
        for name, color in words.items():
            assert f"--{name}: #{bytes(color).hex()};" in css, (page, name)


# visits

RULES = Rules(limit=300.0, idle=45.0, countdown=10.0)
rules = st.builds(
    Rules,
    limit=st.just(0.0) | st.floats(3.0, 1000.0),
    idle=st.floats(1.0, 1000.0),
    countdown=st.floats(1.0, 60.0),
)
steps = st.lists(
    st.tuples(st.floats(0.01, 60.0), st.sampled_from(["wait", "touch", "choose", "fly"])), max_size=60
)


@given(rules, steps)
def test_visits_end_in_time_and_only_a_touch_begins_one(rules: Rules, steps: list[tuple[float, str]]) -> None:
    visit, now = Visit(), 0.0
    for wait, what in steps:
        now += wait
        before, visit = visit, visit.tick(now, rules)
        assert visit.phase in ("attract", "goodbye", before.phase)
        if visit.present:
            assert now - visit.touched < rules.idle
            assert not rules.limit or now - visit.began < rules.limit
            count = visit.countdown(now, rules)
            assert (count is not None) == (visit.left(now, rules)[0] <= count_from(visit, now, rules))
            assert count is None or 0 < count.seconds <= rules.countdown + 1
        else:
            assert visit.countdown(now, rules) is None
        if what == "touch":
            begins = visit.phase == "attract"
            visit = visit.touch(now)
            assert not begins or (visit.phase == "flying" and visit.began == now)
        elif what != "wait":
            present = visit.present
            visit = visit.turn("choosing" if what == "choose" else "flying", now)
            assert visit.present == present


def count_from(visit: Visit, now: float, rules: Rules) -> float:
    """Seconds before the end at which it is announced, from the rule as the documentation states it."""
    whole = rules.idle if visit.left(now, rules)[1] == "idle" else rules.limit
    return min(rules.countdown, 0.8 * whole)


def test_a_visit_from_touch_to_goodbye() -> None:
    visit = Visit().touch(100.0)
    assert visit.countdown(134.0, RULES) is None
    assert (count := visit.countdown(136.0, RULES)) is not None
    assert (count.why, count.seconds) == ("idle", 9)
    assert visit.tick(145.1, RULES).phase == "attract"
    for now in range(100, 400, 20):
        visit = visit.touch(float(now)).tick(float(now), RULES)
    assert visit.present
    assert (count := visit.countdown(399.5, RULES)) is not None
    assert (count.why, count.seconds) == ("limit", 1)
    thanks = visit.tick(400.0, RULES)
    assert thanks.phase == "goodbye"
    assert thanks.touch(401.0).phase == "goodbye"
    assert thanks.tick(400.0 + GOODBYE, RULES).phase == "attract"


def test_the_unattended_flight_goes_on_and_stays_level() -> None:
    hands, pilot = Hands(speed=4.0), PilotState(Pose())
    poses = []
    for i in range(240):
        hands = hands.pad(autopilot.sticks(i * 0.5), now=i * 0.5)
        for _ in range(8):
            pilot = steered(pilot, hands.steering, 1 / 16)
            poses.append(pilot.pose)
    turned = np.array([angles(pose) for pose in poses])
    assert np.abs(np.degrees(turned[:, 1])).max() < 30  # pitch
    assert np.abs(np.degrees(turned[:, 2])).max() < 10  # roll
    assert np.abs(np.degrees(turned[:, 0])).max() > 10  # it looks around
    gone = np.linalg.norm(np.diff([pose.t for pose in poses[:: len(poses) // 12]], axis=0), axis=1)
    assert gone.min() > 5  # metres in ten seconds
    assert np.abs([pose.t[1] for pose in poses]).max() < 40


# the command line


def test_a_mistake_in_a_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "station.toml"
    for text, said in (
        ("[visit]\nminutes = 999", "minutes cannot be 999"),
        ('[world]\nscenes = ["nowhere"]', "nowhere"),
        ('[world]\npictures = ["none.png"]', "none.png"),
        ('[texts.en]\ntitle = "ก"', "ก"),
        ('[texts.en.titles]\nmedow = "a"', "medow"),
    ):
        file.write_text(text)
        assert main(["kiosk", str(file), "--check"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert said in err
        assert err.count("\n") == 1
    assert main(["kiosk", str(tmp_path / "missing.toml")]) == 2
    assert "--example" in capsys.readouterr().err


def test_the_printed_example_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kiosk", "--example"]) == 0
    file = tmp_path / "station.toml"
    file.write_text(capsys.readouterr().out)
    assert main(["kiosk", str(file), "--check"]) == 0
    assert "21 scenes" in capsys.readouterr().out
