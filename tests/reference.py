"""`python -m tests.reference DIR`: compare the program with every fixture file it knows in DIR.

Prints file, quantity, error, tolerance and verdict, names the files it does not cover, and exits with 1 on any
miss (2 when DIR holds nothing it knows).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tests.checks.camera import actions, camera, dialects
from tests.checks.check import Check
from tests.checks.ltx2 import FILE as LTX2
from tests.checks.ltx2 import ltx2
from tests.checks.model import bidirectional, facts, listed, manifest, sampler, streaming
from tests.checks.refiner import refiner
from tests.checks.scan import scan
from tests.checks.vae import vae


@dataclass(frozen=True, slots=True)
class Suite:
    """Some files, all needed, and the comparisons they allow."""

    files: tuple[str, ...]
    run: Callable[[Path], Iterator[Check]]


SUITES = (
    Suite(("camera.safetensors", "camera.json"), camera),
    Suite(("actions.safetensors", "actions.json"), actions),
    Suite(("dialects.safetensors", "dialects.json"), dialects),
    Suite(("gdn_scan.safetensors", "gdn_scan.json"), scan),
    Suite(("tiny_stage1_streaming.safetensors", "tiny_stage1_weights.safetensors"), streaming),
    Suite(("tiny_stage1_sampler.safetensors", "tiny_stage1_weights.safetensors"), sampler),
    Suite(("tiny_stage1_bidirectional.safetensors", "tiny_stage1_weights.safetensors"), bidirectional),
    Suite(("tiny_stage1.json", "tiny_stage1_weights.safetensors"), facts),
    Suite(("tiny_vae.safetensors", "tiny_vae.json", "tiny_vae_weights.safetensors"), vae),
    Suite(("tiny_refiner.safetensors", "tiny_refiner.json", "tiny_refiner_weights.safetensors"), refiner),
    Suite((LTX2,), ltx2),
    Suite(("stage1_native_manifest.json",), manifest),
    Suite(("sana_wm_stage1_manifest.json",), listed),
)


def uncovered(folder: Path) -> list[str]:
    """Fixture files in `folder` that no suite which can run there reads."""
    known = {name for suite in runnable(folder) for name in suite.files}
    return sorted(
        p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".json") and p.name not in known
    )


def runnable(folder: Path) -> list[Suite]:
    return [s for s in SUITES if all((folder / name).is_file() for name in s.files)]


def table(checks: list[Check]) -> Table:
    out = Table("file", "quantity", "error", "tolerance", "verdict")
    for c in checks:
        verdict = "[green]agrees[/]" if c.passed else "[bold red]DIFFERS[/]"
        out.add_row(c.file, c.quantity, f"{c.error:.1e}", f"{c.tolerance:.0e}", verdict)
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.reference", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("folder", type=Path, help="folder of fixtures, such as tests/oracles")
    folder: Path = parser.parse_args(argv).folder
    console = Console(highlight=False)
    if not folder.is_dir():
        console.print(f"there is no folder {folder}: give the folder that holds the fixtures")
        return 2
    suites = runnable(folder)
    if not suites:
        console.print(
            f"{folder} holds no fixture this program knows: give the folder that holds the fixtures"
        )
        return 2
    torch.set_num_threads(1)
    checks = [check for suite in suites for check in suite.run(folder)]
    console.print(table(checks))
    if missing := uncovered(folder):
        console.print(f"not covered yet: {', '.join(missing)}")
    missed = [c for c in checks if not c.passed]
    worst = max(c.error / c.tolerance for c in checks if c.tolerance)
    console.print(
        f"{len(checks) - len(missed)} of {len(checks)} agree, the worst uses {worst:.0%} of its tolerance"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
