"""Each kernel against its plain form in torch, at the shapes that it is called with.

On a GPU both are replayed from CUDA graphs: what counts is what the GPU does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from engine.bench.case import Call, Case
from engine.bench.cases import CASES
from engine.bench.ceilings import ceilings
from engine.bench.clock import Tick, timed, timed_on_gpu
from engine.bench.goals import comparable
from engine.bench.memory import begin_peak, peak, size
from engine.bench.report import Report, Row, Work
from engine.bench.work import flops


def kernels(device: torch.device, *, count: int, tick: Tick, cases: tuple[Case, ...] = CASES) -> Report:
    """Time every kernel and its twin. On a CPU kernels run in Triton's interpreter, for tests only."""
    begin_peak(device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32  # the interpreter truncates to bf16
    rows = [row for case in cases for row in _rows(case, device, dtype, count, tick)]
    worst = peak(device)
    return Report(
        part="kernels",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        torch=torch.__version__,
        ceilings=ceilings(device),
        rows=tuple(rows),
        peak=worst,
        comparable=comparable(true_size=cases == CASES, device=device.type),
    )


def _rows(case: Case, device: torch.device, dtype: torch.dtype, count: int, tick: Tick) -> list[Row]:
    """Of the kernel, and below it of the twin."""
    inputs = case.inputs(case.shape, device, dtype)
    rows = []
    for name, form in ((case.name, case.kernel), ("  in plain torch", case.twin)):
        call = _with_gradients(form, inputs) if case.backward else _alone(form, inputs)
        what = f"{case.name}{', plain' if form is case.twin else ''}"
        if device.type == "cuda":
            times = timed_on_gpu(call, count=count, what=what, tick=tick)
        else:
            times = timed(lambda _: call(), device=device, warm=1, count=count, what=what, tick=tick)  # noqa: B023
        rows.append((name, times))
    work = _work(case, inputs)
    return [Row(name=name, seconds=times, work=work) for name, times in rows]


def _alone(form: Call, inputs: dict[str, Any]) -> Callable[[], Any]:
    def call() -> Any:
        with torch.no_grad():
            return form(**inputs)

    return call


def _with_gradients(form: Call, inputs: dict[str, Any]) -> Callable[[], Any]:
    """The call, and the gradients of everything that it takes."""
    leaves = {name: x.detach().requires_grad_() if isinstance(x, Tensor) else x for name, x in inputs.items()}
    wanted = [x for x in leaves.values() if isinstance(x, Tensor)]

    def call() -> tuple[Tensor, ...]:
        out = form(**leaves)
        out = out if isinstance(out, tuple) else (out,)
        return torch.autograd.grad(out, wanted, out)

    return call


def _work(case: Case, inputs: dict[str, Any]) -> Work:
    """Products of the plain form, twice as many again for gradients; everything given and returned moved once."""
    results: list[Any] = []
    count = flops(lambda: results.append(case.twin(**inputs)))
    moved = size(tuple(inputs.values()), tuple(results))
    scale = 3 if case.backward else 1
    return Work(flops=scale * count, bytes=scale * moved)
