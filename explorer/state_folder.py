"""Where the program remembers small things between runs."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def state_folder() -> Path:
    """The platform's folder for a program's state, such as ~/.local/state/world-explorer; it may not exist yet."""
    return Path(platformdirs.user_state_dir("world-explorer", appauthor=False))


def first_time(what: str) -> bool:
    """Whether `what` happens for the first time on this account; from now on it has happened.

    Where nothing can be written it is never the first time: a hint that comes on every start would be worse than none.
    """
    mark = state_folder() / f"seen-{what}"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch(exist_ok=False)
    except OSError:
        return False
    return True
