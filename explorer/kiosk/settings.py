"""What the owner of a station chooses: a TOML file into frozen values. Pure but for reading the file.

Every mistake is one ValueError that names the file, the section, the key, the value and what is allowed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from engine.config import WORLDS
from engine.setup import Refining
from explorer.choice import WorldChoice
from explorer.kiosk.chord import Chord
from explorer.kiosk.schema import ADDRESS, HOST, chord, names, number, path, paths, text, whole, yes
from explorer.kiosk.texts import LANGUAGES, Texts, load_texts

LARGEST = 1 << 20  # bytes of a station file
LEAVE = Chord(key="q", ctrl=True, shift=True)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class World:
    """What is flown through."""

    model: Annotated[str, text("|".join(map(re.escape, WORLDS)), " or ".join(WORLDS))] = "pocket"
    prompt: Annotated[str, text(r"[^\n]{0,2000}", "one line of at most 2000 characters")] = ""
    refiner: Annotated[Refining, text("auto|on|off", "auto, on or off")] = "auto"
    memory: Annotated[int, whole(0, 1000)] = 0  # gigabytes of the tier; 0: what the GPU has
    precision: Annotated[str, text(r"[a-z0-9]+(/[a-z0-9]+)?", "bf16, fp8 or nvfp4, or WORLD/REFINER")] = (
        "bf16"
    )
    weights: Annotated[Path | None, path] = None  # none: the models folder
    random_weights: Annotated[bool, yes] = False
    device: Annotated[str, text("auto|cpu|cuda", "auto, cpu or cuda")] = "auto"
    threads: Annotated[int, whole(0, 256)] = 0  # 0: what suits the machine
    pictures: Annotated[tuple[Path, ...], paths] = ()  # of the owner's, to fly into
    scenes: Annotated[
        tuple[str, ...], names(r"[\w-]{1,64}", "scene names")
    ] = ()  # no pictures either: the whole gallery
    speed: Annotated[float, number(0.1, 30.0, zero="the world's own")] = 0.0

    def __post_init__(self) -> None:
        self.choice  # noqa: B018 -- what goes together is checked when it is built

    @property
    def cruise(self) -> float:
        """Metres per second at the start of a visit."""
        return self.speed or self.choice.usual_speed

    @property
    def choice(self) -> WorldChoice:
        """The same as the flags of `explorer fly`. Raises ValueError for settings that do not go together."""
        return WorldChoice(
            model=self.model,
            prompt=self.prompt or None,
            device=self.device,
            threads=self.threads or None,
            refiner=self.refiner,
            memory=self.memory or None,
            precision=self.precision,
            weights=self.weights,
            random_weights=self.random_weights,
        )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long one visitor flies."""

    minutes: Annotated[float, number(0.05, 240.0, zero="no limit")] = 5.0
    idle_seconds: Annotated[float, number(1.0, 3600.0)] = 45.0  # without any input
    countdown_seconds: Annotated[float, number(1.0, 60.0)] = 10.0  # announced that long before either
    help_seconds: Annotated[float, number(0.5, 120.0, zero="no help")] = 10.0


@dataclass(frozen=True, kw_only=True)
class Attract:
    """The flight that nobody steers."""

    scene_seconds: Annotated[float, number(3.0, 3600.0)] = 40.0
    language_seconds: Annotated[float, number(1.0, 3600.0)] = 6.0


@dataclass(frozen=True, kw_only=True)
class Screen:
    """The window."""

    languages: Annotated[tuple[str, ...], names(r"[a-z]{2,3}(-[A-Za-z]{2,8})?", "languages", least=1)] = (
        "en",
    )
    fullscreen: Annotated[bool, yes] = True
    font: Annotated[Path | None, path] = None
    leave: Annotated[Chord, chord] = LEAVE


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Watching from phones."""

    enabled: Annotated[bool, yes] = False
    host: Annotated[str, HOST] = "0.0.0.0"
    port: Annotated[int, whole(0, 65535)] = 8765
    address: Annotated[str, ADDRESS] = ""
    max_viewers: Annotated[int, whole(1, 256)] = 16


@dataclass(frozen=True, kw_only=True)
class Operator:
    """The page for whoever looks after the station."""

    host: Annotated[str, HOST] = "127.0.0.1"
    port: Annotated[int, whole(0, 65535)] = 8766
    token: Annotated[str, text(r"|[A-Za-z0-9_-]{16,128}", "16 to 128 letters, digits, - or _")] = ""


@dataclass(frozen=True, kw_only=True)
class Log:
    """The log on disk."""

    folder: Annotated[Path | None, path] = None  # none: the state folder
    megabytes: Annotated[float, number(0.01, 1000.0)] = 2.0  # of one file
    files: Annotated[int, whole(1, 100)] = 5  # kept when full


@dataclass(frozen=True, kw_only=True)
class Station:
    """One station, checked."""

    world: World = World()
    visit: Limits = Limits()
    attract: Attract = Attract()
    screen: Screen = Screen()
    watch: Watch = Watch()
    operator: Operator = Operator()
    log: Log = Log()
    texts: tuple[Texts, ...] = ()  # in the order of screen.languages


SECTIONS: dict[str, type[Any]] = {
    "world": World,
    "visit": Limits,
    "attract": Attract,
    "screen": Screen,
    "watch": Watch,
    "operator": Operator,
    "log": Log,
}


def example() -> str:
    """A station file with every key at its default, explained."""
    return (files("explorer") / "kiosk" / "example.toml").read_text(encoding="utf-8")


def read_station(path: Path) -> Station:
    """The station that a file describes; pictures and weights are found from its folder."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} is larger than a station file can be ({LARGEST >> 20} MB)")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise ValueError(
            f"cannot read {path} ({error.strerror}): write one with explorer kiosk --example"
        ) from None
    station = parse_station(text, name=str(path))
    world = station.world
    pictures = tuple(path.parent / picture for picture in world.pictures)
    weights = world.weights and path.parent / world.weights
    return replace(station, world=replace(world, pictures=pictures, weights=weights))


def parse_station(text: str, *, name: str = "station.toml") -> Station:
    """The station that the text describes; `name` is what mistakes are blamed on."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is no TOML: {error}") from None
    _known(table, [*SECTIONS, "texts"], where=name)
    values = {
        key: _section(kind, table.get(key, {}), where=f"{name}: [{key}]") for key, kind in SECTIONS.items()
    }
    own = _table(table.get("texts", {}), where=f"{name}: [texts]")
    languages = values["screen"].languages
    _known(own, languages, where=f"{name}: [texts]")
    for language in languages:
        if language not in LANGUAGES and language not in own:
            raise ValueError(
                f"{name}: [screen] languages names '{language}', which has no texts: use {', '.join(LANGUAGES)}, "
                f"or write them all under [texts.{language}]"
            )
    texts = tuple(
        load_texts(language, own.get(language, {}), where=f"{name}: [texts.{language}]")
        for language in languages
    )
    return Station(**values, texts=texts)


def _table(value: Any, *, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a section of its own, not {_shown(value)}")
    return value


def _known(table: Mapping[str, Any], names: Any, *, where: str) -> None:
    for key in table:
        if key not in names:
            near = get_close_matches(key, names, n=1)
            raise ValueError(
                f"{where} has no '{_short(key)}': {f'did you mean {near[0]}?' if near else 'use ' + ', '.join(names)}"
            )


def _section(kind: type[T], value: Any, *, where: str) -> T:
    table = _table(value, where=where)
    checks = {key: hint.__metadata__[0] for key, hint in get_type_hints(kind, include_extras=True).items()}
    _known(table, list(checks), where=where)
    values = {}
    for key, given in table.items():
        try:
            values[key] = checks[key](given)
        except ValueError as error:
            raise ValueError(f"{where} {key} cannot be {_shown(given)}: {error}") from None
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _shown(value: Any) -> str:
    return _short(repr(value))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "…"
