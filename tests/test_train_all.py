"""The whole training as a plan: every stage starts from what the one before leaves, and its flags are real."""

from __future__ import annotations

import importlib
import typing
from pathlib import Path

import pytest
import tyro

from engine.train.all import AllTraining, stages


def test_every_stage_starts_from_the_one_before(tmp_path: Path) -> None:
    plan = stages(AllTraining(out=tmp_path, long_minutes=6))
    assert [stage.name for stage in plan] == ["codec", "world", "long", "distill"]
    parsed = {}
    for stage in plan:
        train = getattr(importlib.import_module(f"engine.train.{stage.name}"), f"train_{stage.name}")
        kind = typing.get_type_hints(train)["options"]
        options = parsed[stage.name] = tyro.cli(kind, args=stage.flags)
        assert options.out == stage.weights.parent
    assert parsed["codec"].polish_minutes == 1.0
    assert parsed["world"].init is None
    assert parsed["long"].init == plan[1].weights
    assert parsed["distill"].init == plan[2].weights
    assert {parsed[name].codec for name in ("world", "long", "distill")} == {plan[0].weights}


def test_stages_can_be_left_out(tmp_path: Path) -> None:
    plan = stages(AllTraining(out=tmp_path, long_minutes=0, memory=False))
    assert [stage.name for stage in plan] == ["codec", "world", "distill"]
    assert str(plan[1].weights) in plan[2].flags
    assert "--no-memory" in plan[1].flags
    with pytest.raises(ValueError, match="nothing to start from"):
        stages(AllTraining(world_minutes=0))
