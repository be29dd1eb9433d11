"""`python -m benchmarks.parity` where no GPU is: every form runs, and a miss is told."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import kernels.program
from benchmarks.parity.__main__ import at_size, main
from benchmarks.parity.form import EXACT, FAST, PLAIN, Form, Part, Row, distance, rows
from tests.tiny_sana import SIZES

CPU = torch.device("cpu")


def test_fixtures_agree(oracles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "parity.json"
    assert main([str(oracles), "--device", "cpu", "--json", str(file)]) == 0
    assert "refiner: skipped" in capsys.readouterr().out
    found = json.loads(file.read_text())["rows"]
    assert {r["what"].split(":")[0] for r in found} >= {"tiny streaming", "tiny sampler", "tiny gdn scan"}
    assert all(r["ratio"] == 1 and 1e-4 < r["plain_bf16"] < 0.1 for r in found)


def test_true_size_code_at_tiny_size() -> None:
    said: list[str] = []
    found = at_size(SIZES, CPU, said.append)
    assert [r.what for r in found if not r.passed] == []
    assert all(0 < r.plain == r.fast < 0.2 for r in found)
    assert "stage 1: kernels in bf16" in said


@pytest.mark.parametrize(
    "flags", [["nowhere"], ["."], [".", "--json", "nowhere/a.json"], [".", "--device", "cuda"]], ids=str
)
def test_a_mistake_is_one_sentence(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(flags) == 2
    assert "skipped" not in capsys.readouterr().out.splitlines()[-1]


def test_what_is_too_far_fails() -> None:
    one = torch.ones(4)
    near, far, broken = one * 1.01, one * 1.03, one * math.nan

    def row(fast: torch.Tensor, stored: float | None = None) -> Row:
        made = {EXACT: [one], PLAIN: [near], FAST: [fast]}
        (found,) = rows("x", {form: {"y": Part(x, stored)} for form, x in made.items()})
        return found

    assert row(near, 1e-6).passed
    assert row(near).ratio == pytest.approx(1)
    assert not row(near, 1e-3).passed
    assert not row(far).passed
    assert not row(broken).passed
    assert distance([one, near], [one, one]) == pytest.approx(0.01 / math.sqrt(2), rel=1e-4)


@pytest.mark.parametrize("form", [EXACT, PLAIN, FAST], ids=str)
def test_a_form_says_which_path(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.program, "INSTALLED", True)
    layer = form.model(nn.BatchNorm1d(3), CPU)
    assert layer.weight.dtype == form.dtype
    assert layer.running_mean is not None
    assert layer.running_mean.dtype == torch.float32
    with form.paths():
        assert form.kernels == kernels.program.INSTALLED
        assert not torch.is_grad_enabled()
    assert kernels.program.INSTALLED
