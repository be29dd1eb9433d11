"""The same measurement of two commits in turns, each in a process of its own, so that a warming machine favours neither."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.bench.clock import Tick

HERE = Path(__file__).resolve().parents[2]
Turn = dict[str, float]  # seconds by row


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Medians over all turns, in seconds."""

    part: str
    commit: str
    rounds: int
    rows: tuple[
        tuple[str, float | None, float | None], ...
    ]  # name, this tree, the commit; None: has no such row

    def record(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


def alternate(
    part: str, flags: Sequence[str], *, commit: str, rounds: int, tick: Tick, root: Path = HERE
) -> Comparison:
    """Measure a part in the tree `root` and in another commit of it, `rounds` times each, in turns.

    Raises ValueError where the tree is no checkout, has no such commit, or one of the two cannot measure the part.
    """
    turns: tuple[list[Turn], list[Turn]] = ([], [])
    with checked_out(commit, root) as (other, short):
        trees = ((root, "this tree"), (other, f"commit {short}"))
        for i in range(2 * rounds):
            tree, name = trees[i % 2]
            tick(f"{part}, {name}", i, 2 * rounds)
            turns[i % 2].append(_turn(tree, name, part, flags))
        tick(part, 2 * rounds, 2 * rounds)
    ours, theirs = ({name: statistics.median(t[name] for t in side) for name in side[0]} for side in turns)
    names = [*ours, *(name for name in theirs if name not in ours)]
    rows = tuple((name, ours.get(name), theirs.get(name)) for name in names)
    return Comparison(part=part, commit=short, rounds=rounds, rows=rows)


@contextmanager
def checked_out(commit: str, root: Path) -> Iterator[tuple[Path, str]]:
    """A folder with another commit of the checkout `root`, and the commit's short name; gone afterwards."""
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
    except (OSError, subprocess.CalledProcessError):
        top = ""
    if not top or Path(top).resolve() != root.resolve():
        raise ValueError(
            f"--compare needs a git checkout, and {root} is none: clone the repository and run it there"
        )
    try:
        full = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    except subprocess.CalledProcessError:
        raise ValueError(f"--compare {commit}: this checkout has no such commit") from None
    with tempfile.TemporaryDirectory(prefix="explorer-bench-") as folder:
        tree = Path(folder) / "tree"
        _git(root, "worktree", "add", "--detach", "--quiet", str(tree), full)
        try:
            yield tree, full[:9]
        finally:
            _git(root, "worktree", "remove", "--force", str(tree))


def _turn(tree: Path, name: str, part: str, flags: Sequence[str]) -> Turn:
    """One run of `explorer bench` of the code in a folder: the median of every row."""
    with tempfile.TemporaryDirectory(prefix="explorer-bench-") as folder:
        out = Path(folder) / "turn.json"
        others = [
            p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and Path(p).resolve() != HERE
        ]
        ended = subprocess.run(
            [sys.executable, "-m", "explorer.app", "bench", part, *flags, "--json", str(out)],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), *others])},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode == 130:
            raise KeyboardInterrupt
        try:
            rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
            return {row["name"]: row["median_ms"] / 1e3 for row in rows}
        except (OSError, ValueError, KeyError, TypeError):
            last = (ended.stderr.strip().splitlines() or [f"it ended with code {ended.returncode}"])[-1]
            raise ValueError(f"{name} cannot measure {part}: {last.removeprefix('explorer: ')}") from None


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()
