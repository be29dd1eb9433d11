"""Reports as tables for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from engine.bench.goals import GOALS
from engine.bench.report import Report, Row
from engine.config import FPS
from engine.setup import GB
from explorer.bench.compare import Comparison


def print_report(report: Report) -> None:
    """What was measured, beside its floor and, on the GPU that they are of, published figures and goals."""
    console = Console(highlight=False)
    console.print(_table(report))
    rates = report.ceilings
    console.print(
        f"ceilings of this run: {rates.flops / 1e12:.3g} TFLOP/s in one product, "
        f"{rates.bytes / GB:.4g} GB/s in one copy · peak memory {report.peak / GB:.2f} GB"
    )
    if report.stored:
        console.print(_memory(report))
    if report.facts:
        console.print(" · ".join(_fact(name, value) for name, value in report.facts.items()))


def _table(report: Report) -> Table:
    table = Table(
        title=f"{report.part}, {report.device}, torch {report.torch}, milliseconds", title_justify="left"
    )
    table.add_column("")
    columns = ["median", "p90", "floor", "of floor", "frames/s", "× real time"]
    columns += ["reference", "published", "goal"] if report.comparable else []
    for column in columns:
        table.add_column(column, justify="right")
    for row in report.rows:
        table.add_row(row.name, *_cells(row, report))
    return table


def _memory(report: Report) -> Table:
    table = Table(title="GB, and relative error of a pass", title_justify="left")
    table.add_column("")
    for column in ("weights", "peak while loading", "peak", "error"):
        table.add_column(column, justify="right")
    for s in report.stored:
        sizes = (f"{n / GB:.1f}" for n in (s.weights, s.loading, s.peak))
        table.add_row(s.name, *sizes, f"{s.error:.3f}" if s.error else "")
    return table


def _cells(row: Row, report: Report) -> list[str]:
    cells = [ms(row.median), ms(row.p90), "", "", "", ""]
    if row.work is not None:
        floor = report.ceilings.floor(row.work)
        cells[2:4] = [ms(floor), f"{floor / row.median:.1%}"]
    if row.frames:
        rate = row.frames / row.median
        cells[4:6] = [f"{rate:.1f}", f"{rate / FPS:.2f}"]
    if report.comparable:
        cells += _goal(row.name)
    return cells


def _goal(name: str) -> list[str]:
    """Reference, published and goal."""
    if name not in GOALS:
        return ["", "", ""]
    goal = GOALS[name]
    known = ["" if f is None else ms(f / 1e3) for f in (goal.reference, goal.published)]
    return [*known, f"≤ {ms(goal.goal / 1e3)}"]


def print_comparison(found: Comparison) -> None:
    """Medians of both over all turns, and how many times as fast this tree is."""
    table = Table(
        title=f"{found.part}, milliseconds, median of {found.rounds} turns each", title_justify="left"
    )
    for column in ("", "this tree", found.commit, "times as fast"):
        table.add_column(column, justify="left" if not column else "right")
    for name, ours, theirs in found.rows:
        times = ["" if seconds is None else ms(seconds) for seconds in (ours, theirs)]
        ratio = "" if ours is None or theirs is None else f"{theirs / ours:.3f}"
        table.add_row(name, *times, ratio)
    Console(highlight=False).print(table)


def ms(seconds: float) -> str:
    """Milliseconds with three digits at least."""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value >= 0.001 else f"{value:.1e}"


def _fact(name: str, value: object) -> str:
    words = name.replace("_", " ")
    match value:
        case bool():
            return words if value else f"NOT {words}"
        case float() if name.endswith("growth"):
            return f"{words} {value:+.2%}"
        case int() if name.endswith("_bytes"):
            return f"{words.removesuffix(' bytes')} {value / 1e6:.1f} MB"
        case float() if name.endswith("_s"):
            return f"{words.removesuffix(' s')} {value:.2f} s"
        case _:
            return f"{words} {value}"
