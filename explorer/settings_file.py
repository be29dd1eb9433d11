"""Where settings are kept, how they are written out, and `explorer settings`."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import platformdirs
from tyro.conf import FlagCreatePairsOff, arg

from explorer.bindings import Bound
from explorer.settings import MAX_TEXT, Settings, parse_settings

HEADER = """\
# Settings of World Explorer. Whatever is not written here has its default; `explorer settings` shows all.
# Keys have SDL's names: "w", "space", "left shift", "keypad 8", "f9". An action may have several, or none: [].
"""
SECTIONS = {
    "keys": "what each key does",
    "mouse": "looking around with the mouse",
    "gamepad": "sticks have a sign: +lefty is the left stick pulled back",
    "flight": "how a flight begins",
    "hud": "what lies over the picture",
    "recording": "films, pictures and saved flights",
    "timeline": "the moments that one can return to",
}


def settings_path() -> Path:
    """settings.toml in the platform's own folder for settings."""
    return Path(platformdirs.user_config_dir("world-explorer", appauthor=False)) / "settings.toml"


def load_settings(path: Path | None = None) -> Settings:
    """The pilot's settings, all defaults where there is no file. Raises ValueError naming file and line."""
    path = path or settings_path()
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_TEXT + 1)
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}): repair or remove it") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text: repair or remove it") from None
    return parse_settings(text, file=str(path))


def settings_text(settings: Settings) -> str:
    """The whole file, commented; parsing it gives these settings."""
    parts = [HEADER]
    for name, what in SECTIONS.items():
        value = getattr(settings, name)
        lines = _bound_lines(value) if name == "keys" else _lines(value)
        parts.append("\n".join([f"[{name}]  # {what}", *lines, ""]))
    return "\n".join(parts)


def _lines(section: Any) -> list[str]:
    lines = [
        f"{f.name} = {json.dumps(getattr(section, f.name), ensure_ascii=False)}  # {f.metadata['says']}{_allowed(f)}"
        for f in fields(section)
        if f.name != "bound"
    ]
    return lines + (_bound_lines(section.bound) if hasattr(section, "bound") else [])


def _allowed(spec: Any) -> str:
    if "range" not in spec.metadata:
        return ""
    low, high = spec.metadata["range"]
    return f" ({low:g} to {high:g})"


def _bound_lines(bound: Bound) -> list[str]:
    return [f"{action} = {json.dumps(list(inputs))}" for action, inputs in bound.items()]


@dataclass(frozen=True, kw_only=True)
class SettingsOptions:
    """Show the settings in force: keys, mouse, gamepad, flight, figures, recordings, timeline; and where their file is.

    Edit that file with any editor; mistakes are named by line when a flight begins, and by this command.
    """

    write: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """create the file, with everything in it, where there is none"""

    def run(self) -> str:
        """What to print. Raises ValueError where the file is wrong or cannot be made."""
        path = settings_path()
        text = settings_text(load_settings(path))
        if not self.write:
            return f"# {path}{'' if path.exists() else ' (not there yet: --write creates it)'}\n{text}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise ValueError(f"{path} is there already: edit it, or remove it first") from None
        except OSError as error:
            raise ValueError(f"cannot write {path} ({error.strerror}): check its folder") from None
        return f"settings written: {path}"
