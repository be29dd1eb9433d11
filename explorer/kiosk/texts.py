"""What a station says, per language: TOML files in languages/, each line replaceable by the station file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from importlib.resources import files
from typing import Any

LANGUAGES = ("en", "de", "es", "fr", "ja", "zh")  # those that come with the program
SECONDS = "{seconds}"  # where the countdown's number goes
LONGEST = 200  # letters of one text


@dataclass(frozen=True, kw_only=True)
class Texts:
    """All that the screen says in one language."""

    code: str
    title: str
    subtitle: str
    start: str
    loading: str
    choose: str
    choose_hint: str
    choose_hint_pad: str
    help_title: str
    move: str
    rise: str
    look: str
    roll: str
    speed: str
    scenes: str
    again: str
    help: str
    language: str
    space: str
    mouse: str
    arrows: str
    wheel: str
    left_stick: str
    right_stick: str
    triggers: str
    shoulders: str
    pad_up_down: str
    hint: str
    hint_pad: str
    idle: str
    limit: str
    goodbye: str
    goodbye_hint: str
    trouble: str
    trouble_hint: str
    watch: str
    titles: Mapping[str, str] = field(default_factory=dict)  # of scenes, by name; others keep the gallery's

    def countdown(self, text: str, seconds: int) -> str:
        return text.replace(SECONDS, str(seconds))

    def all(self) -> str:
        """Every letter that may be drawn."""
        return " ".join([getattr(self, key) for key in KEYS] + list(self.titles.values()))


KEYS = tuple(f.name for f in fields(Texts) if f.name not in ("code", "titles"))


def load_texts(language: str, own: Any, *, where: str) -> Texts:
    """The texts that come with the program, each replaced where `own` has it. Raises ValueError naming `where`."""
    if not isinstance(own, dict):
        raise ValueError(f"{where} must be a section of its own")
    base = shipped(language) if language in LANGUAGES else {}
    own_titles = own.get("titles", {})
    if not isinstance(own_titles, dict):
        raise ValueError(f"{where} titles must be a section of its own, [texts.{language}.titles]")
    given, titles = {**base, **own}, {**base.get("titles", {}), **own_titles}
    given.pop("titles", None)
    for key, value in [*given.items(), *titles.items()]:
        _check(key, value, where=where)
    for key in given:
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            raise ValueError(
                f"{where} has no text '{key[:60]}'" + (f": did you mean {near[0]}?" if near else "")
            )
    missing = [key for key in KEYS if key not in given]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}: a language of your own needs every text")
    return Texts(code=language, titles=titles, **given)


def shipped(language: str) -> dict[str, Any]:
    """The texts that come with the program in one of LANGUAGES."""
    path = files("explorer") / "kiosk" / "languages" / f"{language}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _check(key: str, value: Any, *, where: str) -> None:
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST or not value.isprintable():
        raise ValueError(f"{where} {key[:60]} must be one line of 1 to {LONGEST} letters")
    if key in ("idle", "limit") and SECONDS not in value:
        raise ValueError(f"{where} {key} must say {SECONDS} where the number goes")
