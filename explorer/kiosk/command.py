"""`explorer kiosk`: its flags, and the choice between printing, checking and running."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from explorer.assets import Scene, assets_folder
from explorer.kiosk.settings import Station, example, parse_station, read_station
from explorer.kiosk.texts import shipped
from explorer.state_folder import state_folder


@dataclass(frozen=True, kw_only=True)
class Kiosk:
    """A demo station: full screen, flies by itself until somebody comes, mends itself, for days.

    Try it with: explorer kiosk --example > station.toml, then explorer kiosk station.toml. Ctrl+Shift+Q closes it.
    """

    station: Annotated[Path | None, Positional, arg(metavar="[STATION.toml]", help_behavior_hint="")] = None
    """the station file; without it every setting has its default"""
    example: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """print a station file with every setting explained, and end"""
    check: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """say whether the station file is right, and end"""

    def run(self, say: Callable[[str], None]) -> int:
        """Returns the exit code; a mistake of the owner's raises ValueError."""
        if self.example:
            say(example().rstrip())
            return 0
        station = read_station(self.station) if self.station else parse_station("")
        scenes = check_station(station)
        if self.check:
            languages = ", ".join(station.screen.languages)
            say(
                f"{self.station or 'The default station'} is right: {len(scenes)} scenes, texts in {languages}."
            )
            return 0
        _supervise(station, scenes, say)
        return 0


def check_station(station: Station) -> tuple[Scene, ...]:
    """What only this machine can tell: scenes, letters, libraries. Returns the scenes. Raises ValueError."""
    from explorer.kiosk.program import station_scenes
    from explorer.kiosk.watch import require_segno
    from explorer.paint import missing_letters

    scenes = station_scenes(station, assets_folder())
    known = {scene.name for scene in scenes} | set(shipped("de")["titles"])
    for texts in station.texts:
        if strange := sorted(set(texts.titles) - known):
            raise ValueError(f"[texts.{texts.code}.titles] names '{strange[0]}', which is no scene")
        missing = missing_letters(texts.all(), language=texts.code, face=station.screen.font)
        if missing:
            raise ValueError(
                f"no letter for {missing[:20]} of the texts in '{texts.code}': name a font that has them with [screen] font"
            )
    if station.watch.enabled:
        require_segno()
    return scenes


def _supervise(station: Station, scenes: tuple[Scene, ...], say: Callable[[str], None]) -> None:
    from explorer.kiosk.journal import Journal
    from explorer.kiosk.operator import OperatorPage, kept_token
    from explorer.kiosk.supervisor import Supervisor
    from explorer.window import require_display

    require_display()
    folder = station.log.folder or state_folder()
    journal = Journal(folder, megabytes=station.log.megabytes, files=station.log.files)
    supervisor = Supervisor(station, journal, errors=folder / "station-errors.log", say=say)
    token = station.operator.token or kept_token(state_folder())
    page = OperatorPage(station.operator, supervisor, journal, scenes, token=token)
    page.start()
    try:
        say(f"Operator's page: {page.address}")
        say(f"Log: {folder / 'station.log'}. {station.screen.leave} closes the station.")
        journal.note("the station begins")
        supervisor.run()
        journal.note("the station ends")
    finally:
        page.stop()
        journal.close()
