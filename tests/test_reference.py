"""The program against the fixtures kept in tests/oracles: the same checks that `python -m tests.reference` runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.checks.check import Check, absolute, exact, relative
from tests.reference import SUITES, Suite, main, runnable, uncovered

ORACLES = Path(__file__).parent / "oracles"
ENDS = (".safetensors", "_weights.safetensors")


@pytest.mark.parametrize("suite", runnable(ORACLES), ids=lambda s: s.files[0].split(".")[0])
def test_agrees_with_the_oracles(suite: Suite) -> None:
    checks = list(suite.run(ORACLES))
    assert checks
    assert not [c for c in checks if not c.passed]


def test_the_oracles_are_here() -> None:
    here = {name for suite in runnable(ORACLES) for name in suite.files}
    elsewhere = {name for suite in SUITES for name in suite.files} - here
    too_large = {f"tiny_{part}{end}" for part in ("vae", "refiner") for end in (*ENDS, ".json")}
    assert elsewhere <= {"sana_wm_stage1_manifest.json"} | too_large


def test_oracles_are_small_and_all_of_them_are_read(oracles: Path) -> None:
    assert sum(p.stat().st_size for p in oracles.rglob("*") if p.is_file()) <= 5_000_000
    assert uncovered(oracles) == []


def test_a_miss_fails() -> None:
    one = torch.ones(3)
    assert relative("f", "q", one, one).passed
    assert not relative("f", "q", one * 1.001, one).passed
    assert not relative("f", "q", one[:2], one).passed
    assert not relative("f", "q", one * float("nan"), one).passed
    assert not absolute("f", "q", one + 1e-3, one).passed
    assert not exact("f", "q", False).passed
    assert not Check(file="f", quantity="q", error=float("nan"), tolerance=1.0).passed


def test_the_command_refuses_a_folder_without_fixtures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no fixture" in capsys.readouterr().out
    assert main([str(tmp_path / "missing")]) == 2


def test_the_command_names_what_it_does_not_cover(
    oracles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("actions.json", "actions.safetensors"):
        (tmp_path / name).write_bytes((oracles / name).read_bytes())
    (tmp_path / "tiny_new.safetensors").write_bytes(b"")
    assert main([str(tmp_path)]) == 0
    assert "tiny_new.safetensors" in capsys.readouterr().out


def test_the_command_exits_1_on_a_miss(oracles: Path, tmp_path: Path) -> None:
    text = (oracles / "actions.json").read_text()
    (tmp_path / "actions.json").write_text(text.replace('"w-3"', '"s-3"'))
    (tmp_path / "actions.safetensors").write_bytes((oracles / "actions.safetensors").read_bytes())
    assert main([str(tmp_path)]) == 1
