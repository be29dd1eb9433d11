"""`explorer bench lowbit` at tiny size: every format of both stages, and that errors grow as bits are dropped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.setup import BYTES
from explorer.bench.part import Lowbit
from tests.test_lowbit import WIDE


def test_every_format_of_both_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "lowbit.json"
    assert Lowbit(sizes=WIDE, device="cpu", chunks=2, json=out).run() == 0
    found, names = json.loads(out.read_text()), [f"{s}, {f}" for s in ("stage 1", "refiner") for f in BYTES]
    assert [row["name"] for row in found["rows"]] == [s["name"] for s in found["stored"]] == names
    assert all(len(row["seconds"]) == 2 for row in found["rows"])
    for stage in (found["stored"][:3], found["stored"][3:]):
        weights, errors = ([s[what] for s in stage] for what in ("weights", "error"))
        assert weights == sorted(weights, reverse=True)
        assert 0 == errors[0] < errors[1] < errors[2] < 1
    assert not found["comparable"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


def test_its_flags() -> None:
    assert Lowbit().flags() == ["--device", "auto", "--chunks", "6"]
    with pytest.raises(ValueError, match="--chunks 0"):
        Lowbit(chunks=0)
