"""Settings: what is written is what is read, and every mistake is one sentence with its line."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer.app import main
from explorer.bindings import AXES, KEY_NAMES, KEYS, PAD, PAD_NAMES, Bound, commands, key_axes, labels
from explorer.controls import Hands
from explorer.settings import Flight, Gamepad, Hud, Mouse, Recordings, Settings, Timeline, parse_settings
from explorer.settings_file import settings_path, settings_text


def bindings(defaults: Bound, names: frozenset[str]) -> st.SearchStrategy[Bound]:
    """Every action with up to two inputs of its own, while there are any left."""

    def dealt(inputs: list[str], counts: list[int]) -> Bound:
        left = iter(inputs)
        return {action: tuple(islice(left, n)) for action, n in zip(defaults, counts, strict=True)}

    counts = st.lists(st.integers(0, 2), min_size=len(defaults), max_size=len(defaults))
    return st.builds(dealt, st.permutations(sorted(names)), counts)


FOLDERS = st.text(st.characters(blacklist_categories=("C", "Z")), max_size=20).map(
    lambda s: f"/{s}" if s else ""
)
ANY = st.builds(
    Settings,
    keys=bindings(KEYS, KEY_NAMES),
    mouse=st.builds(Mouse, sensitivity=st.floats(0.01, 2), invert_x=st.booleans(), invert_y=st.booleans()),
    gamepad=st.builds(
        Gamepad,
        dead_zone=st.floats(0, 0.9),
        invert_x=st.booleans(),
        invert_y=st.booleans(),
        bound=bindings(PAD, PAD_NAMES),
    ),
    flight=st.builds(Flight, speed=st.floats(0.1, 30), fov=st.just(0.0) | st.floats(10, 150)),
    hud=st.builds(Hud, figures=st.booleans(), hints=st.booleans()),
    recording=st.builds(Recordings, folder=FOLDERS, hud=st.booleans()),
    timeline=st.builds(Timeline, memory=st.just(0.0) | st.floats(0.1, 1000.0), disk=st.floats(0.1, 1000.0)),
)


@settings(max_examples=60, deadline=None)
@given(ANY)
def test_written_settings_read_back_the_same(some: Settings) -> None:
    assert parse_settings(settings_text(some)) == some


def test_an_empty_file_means_the_defaults() -> None:
    assert parse_settings("") == Settings()
    assert parse_settings(settings_text(Settings())) == Settings()


def test_a_key_taken_for_one_action_leaves_its_default() -> None:
    keys = parse_settings('[keys]\nforward = ["UP", "keypad 8"]\nhelp = []').keys
    assert keys["forward"] == ("up", "keypad 8")
    assert keys["look_up"] == ()
    assert keys["help"] == ()
    assert keys["back"] == ("s",)
    assert labels(keys)["forward"] == "Up"
    assert labels(keys)["look_up"] == "-"


MISTAKES = {
    "[keys]\nforwrad = 'w'": "line 2: keys.forwrad is unknown: did you mean 'forward'?",
    "[mouse]\n\nsensitivty = 1": "line 3: mouse.sensitivty is unknown: did you mean 'sensitivity'?",
    "[muose]": "line 1: [muose] is unknown: did you mean 'mouse'?",
    "mouse = 3": "[mouse] is a section",
    "[mouse]\nsensitivity = 3": "line 2: mouse.sensitivity = 3 is out of range: use 0.01 to 2",
    "[mouse]\nsensitivity = nan": "out of range",
    "hud.figures = true\nmouse.sensitivity = 3": "line 2: mouse.sensitivity = 3",
    "mouse = {invert_y = 3}": "line 1: mouse.invert_y = 3",
    "[mouse]\nsensitivity = true": "True is out of range",
    "[flight]\nfov = 5": "5 is out of range: use 10 to 150, or 0",
    "[hud]\n# x\nfigures = 'yes'": "line 3: hud.figures = 'yes': use true or false",
    "[keys]\nup = 'spce'": "= 'spce' is no name: did you mean 'space'?",
    "[keys]\nup = 3": "= 3 is no key",
    "[keys]\nup = 'escape'": "'escape' is the way out",
    "[keys]\nup = 'x'\ndown = ['y', 'x']": "line 3: keys.down = 'x' is bound to up already",
    "[gamepad]\nup = 'leftx'": "= 'leftx' is no name: did you mean '",
    "[gamepad]\ndead = 0.1": "gamepad.dead is unknown: did you mean 'dead_zone'?",
    "[recording]\nfolder = 'films'": "= 'films' is relative",
    "[recording]\nfolder = 3": "write a folder in quotes",
    "[timeline]\ndisk = 0.01": "use 0.1 to 1000, or 0",
    "[keys\n": "is not TOML",
    "a = " + "[" * 5000: "TOML|nested",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_every_mistake_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^my\.toml") as error:
        parse_settings(text, file="my.toml")
    said = str(error.value)
    assert any(part in said for part in MISTAKES[text].split("|"))
    assert "\n" not in said
    assert len(said) < 900


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=60) | st.text("[]keys.= '\"\n_mouse0", max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        known = parse_settings(text)
    except ValueError as error:
        said = str(error)
    else:
        said = ""
        assert parse_settings(settings_text(known)) == known
    assert said.startswith("settings" if said else "")


def test_the_command_writes_and_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["settings"]) == 0
    assert parse_settings(capsys.readouterr().out) == Settings()
    assert not settings_path().exists()
    assert main(["settings", "--write"]) == 0
    assert str(settings_path()) in capsys.readouterr().out
    assert main(["settings", "--write"]) == 2
    assert "is there already" in capsys.readouterr().err
    settings_path().write_text("[flight]\nspeed = 2\n")
    assert main(["settings"]) == 0
    assert "speed = 2.0" in capsys.readouterr().out
    settings_path().write_text("[flight]\nspeed = 99\n")
    monkeypatch.setenv("DISPLAY", ":no")
    for command in (["settings"], ["fly"]):
        assert main(command) == 2
        err = capsys.readouterr().err
        assert f"{settings_path()}, line 2: flight.speed = 99 is out of range: use 0.1 to 30" in err


def test_bound_keys_mouse_and_dead_zone_steer() -> None:
    from explorer.window import grip

    some = parse_settings(
        "[keys]\nforward='i'\n[mouse]\nsensitivity=0.5\ninvert_y=true\n[gamepad]\ndead_zone=0.5"
    )
    hands = Hands(grip=grip(some))
    assert hands.press("w", now=0.0) is hands
    assert hands.press("i", now=0.0).controls.move == (0.0, 0.0, 1.0)
    yaw, pitch = hands.mouse(10, 10, now=0.0).look
    assert (yaw, pitch) == pytest.approx((math.radians(5), math.radians(5)))
    assert hands.pad((0.0, 0.0, 0.45, 0.0, 0.0, 0.0), now=0.0).controls.idle


@dataclass
class Pad:
    """What SDL reports of a pad."""

    axes: dict[int, int] = field(default_factory=dict)
    buttons: set[int] = field(default_factory=set)

    def get_axis(self, axis: int) -> int:
        return self.axes.get(axis, 0)

    def get_button(self, button: int) -> bool:
        return button in self.buttons


@pytest.mark.parametrize(
    ("text", "axes", "buttons", "six"),
    [
        ("", {0: 32767, 1: -32768}, set(), (1, 0, 1, 0, 0, 0)),  # left stick: right and away
        ("", {2: -32768, 3: 16383}, set(), (0, 0, 0, -1, -0.5, 0)),  # right stick: left and back
        ("", {4: 32767}, set(), (0, 1, 0, 0, 0, 0)),  # left trigger sinks
        ("", {4: 32767, 5: 32767}, set(), (0, 0, 0, 0, 0, 0)),
        ("", {}, {10}, (0, 0, 0, 0, 0, 1)),  # right shoulder
        ("invert_x = true\ninvert_y = true", {2: 32767, 3: 32767}, set(), (0, 0, 0, -1, 1, 0)),
        ("forward = ['a', 'righttrigger']", {1: -32768}, {0}, (0, 0, 1, 0, 0, 0)),
        ("forward = []", {1: -32768}, set(), (0, 0, 0, 0, 0, 0)),
    ],
)
def test_a_pad_flies_as_it_is_bound(
    text: str, axes: dict[int, int], buttons: set[int], six: tuple[float, ...]
) -> None:
    from explorer.gamepad import PadHands

    hands = PadHands(parse_settings(f"[gamepad]\n{text}").gamepad)
    assert hands.sticks(Pad(axes, buttons)) == pytest.approx(six, abs=1e-4)  # type: ignore[arg-type]


def test_pad_buttons_do_what_they_are_bound_to() -> None:
    from explorer.gamepad import BUTTONS, PadHands

    hands = PadHands(parse_settings("[gamepad]\nrecord = 'x'\nrestart = []").gamepad)
    assert hands.command(BUTTONS["x"]) == "record"
    assert hands.command(BUTTONS["y"]) is None
    assert hands.command(BUTTONS["start"]) == "help"


@pytest.mark.parametrize("bound", [KEYS, PAD])
def test_defaults_give_each_key_one_action(bound: Bound) -> None:
    inputs = [name for names in bound.values() for name in names]
    assert len(inputs) == len(set(inputs))
    assert set(inputs) <= KEY_NAMES | PAD_NAMES


def test_every_action_is_held_or_done() -> None:
    assert set(key_axes(KEYS)) | set(commands(KEYS)) == {key for keys in KEYS.values() for key in keys}
    assert set(KEYS) == set(PAD)
    assert set(AXES) < set(KEYS)


def test_key_names_are_those_of_sdl() -> None:
    code = """
import pygame
from explorer.bindings import KEY_NAMES
from explorer.window import key_name
pygame.display.init()
known = {key_name(getattr(pygame, name)) for name in dir(pygame) if name.startswith("K_")}
print(sorted(KEY_NAMES - known))
"""
    env = {**os.environ, "SDL_VIDEODRIVER": "dummy", "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
