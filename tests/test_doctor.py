"""What is said of machines large and small, and of this one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.setup import GB, TIERS
from explorer.app import main
from explorer.doctor import Machine, World, examine, verdicts
from tests.tiny import tiny_assets

LAPTOP = Machine(
    python="3.12",
    torch="2.13",
    system="Linux x86_64",
    cores=4,
    fast_bf16=True,
    memory=16 * GB,
    memory_free=8 * GB,
    gpu="",
    gpu_memory=0,
    gpu_free=0,
    gpu_capability=(0, 0),
    disk_free=100 * GB,
    display=True,
    packages=dict.fromkeys(("numba", "triton", "huggingface_hub", "transformers", "diffusers"), "1"),
    models="/models",
    worlds={"pocket": World(present=True), "sana-wm-streaming": World(present=True, refiner=True)},
)


def sana(machine: Machine) -> tuple[bool, str, str]:
    verdict = verdicts(machine)[1]
    return verdict.runs, verdict.why, verdict.todo


def card(gigabytes: float, name: str = "A card", capability: tuple[int, int] = (9, 0)) -> Machine:
    memory = int(gigabytes * GB)
    return replace(LAPTOP, gpu=name, gpu_memory=memory, gpu_free=memory, gpu_capability=capability)


def test_a_laptop_flies_pocket_only() -> None:
    assert verdicts(LAPTOP)[0].runs
    runs, why, _ = sana(LAPTOP)
    assert not runs
    assert "NVIDIA GPU" in why
    assert "has 12" in sana(card(12.2))[1]


@pytest.mark.parametrize("tier", TIERS, ids=lambda t: str(t.gigabytes))
def test_every_card_gets_its_tier_and_the_reason(tier: object) -> None:
    assert hasattr(tier, "gigabytes")
    runs, why, todo = sana(card(1.07 * tier.gigabytes))  # a card is sold in 2^30 bytes
    assert runs
    assert why.startswith(f"{tier.gigabytes} GB: ")
    assert todo == "explorer fly --model sana-wm"


def test_fewer_bits_are_advised_where_they_bring_the_refiner() -> None:
    """The format of least loss that this GPU can multiply, and what it brings."""
    assert "--precision" not in sana(card(85))[1]
    assert "--precision bf16/fp8 flies with the refiner and a window of" in sana(card(34))[1]
    assert "--precision bf16/nvfp4 flies with the refiner" in sana(card(34, capability=(8, 0)))[1]
    assert "nvfp4 flies with the refiner and a window of" in sana(card(25))[1]
    assert "renders with it" in sana(card(17))[1].split("--precision ")[1]


def test_what_is_missing_is_named_in_order() -> None:
    big = card(85)
    absent = replace(big, worlds={**big.worlds, "sana-wm-streaming": World(present=False)})
    assert sana(absent)[0] is False
    assert sana(absent)[2] == "explorer download sana-wm-streaming"
    plain = replace(big, worlds={**big.worlds, "sana-wm-streaming": World(present=True)})
    assert "--refiner" in sana(plain)[2]
    assert "pip install" in sana(replace(big, packages={**big.packages, "transformers": ""}))[2]
    runs, why, _ = sana(replace(big, gpu_free=10 * GB))
    assert not runs
    assert "10 GB are free" in why


def test_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_EXPLORER_ASSETS", str(tiny_assets(tmp_path / "assets", scenes=1)))
    monkeypatch.setenv("WORLD_EXPLORER_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("COLUMNS", "200")
    assert examine().worlds["pocket"].present
    assert main(["doctor", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["torch"] == torch.__version__
    assert record["memory"] > record["memory_free"] > 0
    assert [v["world"] for v in record["verdicts"]][:2] == ["pocket", "sana-wm-streaming"]
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "What it can run" in out
    assert "sana-wm-streaming" in out
    assert "Apache-2.0" in out
