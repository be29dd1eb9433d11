"""A file that a command writes at its end: refused before anything slow happens, and told in one sentence."""

from __future__ import annotations

import json
from pathlib import Path


def require_folder(flag: str, path: Path) -> None:
    """Before anything slow happens. Raises ValueError where no file can be written there."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"{flag} {path} cannot be written: name a file in a folder that exists")


def write_text(path: Path, text: str) -> None:
    """Raises ValueError where it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror or error}): choose another place") from None


def write_json(path: Path, record: object) -> None:
    """Raises ValueError where it cannot be written."""
    write_text(path, json.dumps(record, indent=2) + "\n")
