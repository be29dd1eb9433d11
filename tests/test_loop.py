"""The training loop: resumed equals uninterrupted, Ctrl-C saves, several processes agree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor, nn

from engine.train.host import Host, host
from engine.train.loop import Loop, Plan
from engine.train.optim import Ema, Muon, OptimConfig, Optimiser
from engine.train.sheet import GAP, grey, save_sheet, tile

CPU = Host(device=torch.device("cpu"))


@dataclass
class Bench:
    """A small real training: a linear map learns a fixed one."""

    loop: Loop
    net: nn.Linear
    step: Callable[[int, float], Mapping[str, Tensor]]


def _bench(out: Path, *, interrupt_at: int = -1, steps: int = 8, host: Host = CPU) -> Bench:
    torch.manual_seed(0)
    net = nn.Linear(16, 16)
    optimiser, ema = Optimiser(net, OptimConfig()), Ema(net, decay=0.9)

    def step(i: int, fraction: float) -> Mapping[str, Tensor]:
        x = torch.randn(8, 16, generator=host.generator(7, i))
        loss = (net(x) - x.flip(1)).square().mean()
        loss.backward()
        optimiser.step(fraction)
        ema.update(net)
        if i == interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return {"loss": loss}

    plan = Plan(out=out, name="bench", minutes=1, steps=steps)
    return Bench(Loop(plan, host, {"model": net, "ema": ema, "optimiser": optimiser}), net, step)


def test_interrupted_and_resumed_equals_uninterrupted_bitwise(tmp_path: Path) -> None:
    straight = _bench(tmp_path / "a")
    straight.loop.run(straight.step)
    broken = _bench(tmp_path / "b", interrupt_at=3)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as left:
        broken.loop.run(broken.step)
    assert left.value.code == 130
    assert broken.loop.step == 4
    assert signal.getsignal(signal.SIGINT) is before
    resumed = _bench(tmp_path / "b")
    resumed.loop.run(resumed.step)
    assert resumed.loop.step == 8
    a, b = (torch.load(tmp_path / d / "bench.pt", weights_only=True)["parts"] for d in "ab")
    assert torch.equal(a["model"]["weight"], b["model"]["weight"])
    assert torch.equal(a["ema"]["module"]["weight"], b["ema"]["module"]["weight"])
    assert torch.equal(a["optimiser"]["muon"][0], b["optimiser"]["muon"][0])


def test_metrics_and_sheets_are_written(tmp_path: Path) -> None:
    bench, drawn = _bench(tmp_path), []
    bench.loop.run(bench.step, sample=lambda: drawn.append(bench.loop.step))
    lines = [json.loads(line) for line in (tmp_path / "bench.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 8
    assert lines[-1]["loss"] > 0
    assert drawn == [8]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bench.jsonl", "bench.pt"]


def test_a_finished_run_does_not_run_again(tmp_path: Path) -> None:
    first = _bench(tmp_path)
    first.loop.run(first.step)
    again = _bench(tmp_path)
    again.loop.run(again.step)
    assert again.loop.step == 8
    assert torch.equal(first.net.weight, again.net.weight)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state(tmp_path: Path) -> None:
    bench = _bench(tmp_path)
    with pytest.raises(RuntimeError, match="loss is not finite at step 8"):
        bench.loop.run(lambda i, f: {"loss": torch.tensor(float("nan"))})
    assert not (tmp_path / "bench.pt").exists()


def test_a_foreign_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bench.pt").write_bytes(b"not a state")
    bench = _bench(tmp_path)
    with pytest.raises(ValueError, match=r"cannot resume from .*bench\.pt") as caught:
        bench.loop.run(bench.step)
    assert "\n" not in str(caught.value)


def test_fraction_of_the_budget() -> None:
    plan = Plan(out=Path(), name="x", minutes=2)
    assert [plan.fraction(0, s) for s in (0, 30, 120, 500)] == [0, 0.25, 1, 1]
    assert Plan(out=Path(), name="x", minutes=0).fraction(0, 0) == 1
    assert Plan(out=Path(), name="x", minutes=2, steps=4).fraction(1, 119) == 0.25
    with pytest.raises(ValueError, match="-1 minutes"):
        Plan(out=Path(), name="x", minutes=-1)


def test_randomness_is_a_function_of_seed_rank_and_step() -> None:
    draw = lambda rank, seed, step: float(
        torch.rand(1, generator=Host(device=torch.device("cpu"), rank=rank, world=2).generator(seed, step))
    )
    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({draw(r, s, i) for r in range(3) for s in range(3) for i in range(3)}) == 27


def test_unknown_device_is_named() -> None:
    with pytest.raises(ValueError, match="'tpu'"), host("tpu"):
        pass


TWO = """
import sys, torch
from pathlib import Path
from torch import nn
from engine.train.host import host
from engine.train.optim import OptimConfig, Optimiser
with host("cpu") as h:
    net = nn.Conv2d(16, 16, 3).to(memory_format=torch.channels_last)
    h.share_weights(net)
    start = net.weight.detach().clone()
    net(torch.randn(4, 16, 4, 4, generator=h.generator(0, 0))).square().mean().backward()
    mine = net.weight.grad.clone()
    optimiser = Optimiser(net, OptimConfig(decay=0.5))
    optimiser.step(0.5)
    torch.save({"start": start, "grad": mine, "weight": net.weight.detach(), "highest": h.highest([float(h.rank)])}, Path(sys.argv[1]) / f"{h.rank}.pt")
"""


def test_two_processes_hold_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    ran = subprocess.run(
        [*command, str(tmp_path / "two.py"), str(tmp_path)],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    a, b = (torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2))
    assert torch.equal(a["start"], b["start"])
    assert torch.equal(a["weight"], b["weight"])
    alone = nn.Parameter(a["start"].clone())
    alone.grad = (a["grad"] + b["grad"]) / 2
    Muon([alone], momentum=OptimConfig().momentum).step(OptimConfig().muon)
    torch.testing.assert_close(a["weight"], alone.detach())
    assert a["highest"] == b["highest"] == [1.0]


def test_sheet_places_every_picture(tmp_path: Path) -> None:
    rows = [torch.rand(3, 3, 8, 10) * 2 - 1, torch.rand(2, 3, 8, 10) * 2 - 1]
    sheet = tile(rows)
    assert sheet.shape == (2 * 8 + GAP, 3 * 10 + 2 * GAP, 3)
    expected = ((rows[1][1] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    assert torch.equal(sheet[8 + GAP :, 10 + GAP : 20 + GAP], expected)
    assert sheet[8 + GAP :, 20 + 2 * GAP :].eq(0).all()
    save_sheet(tmp_path / "s.png", rows)
    assert (cv2.imread(str(tmp_path / "s.png"))[..., ::-1] == sheet.numpy()).all()
    assert [p.name for p in tmp_path.iterdir()] == ["s.png"]
    with pytest.raises(ValueError, match="one size"):
        tile([torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5)])


def test_grey() -> None:
    g = grey(torch.tensor([[[0.0, 1.0]]]))
    assert torch.equal(g, torch.tensor([-1.0, 1.0]).expand(1, 3, 1, 2))
