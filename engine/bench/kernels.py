"""Each kernel against its plain form in torch, at the shapes that it is called with.

On a GPU both are replayed from CUDA graphs: what counts is what the GPU does. A new kernel gets a case in `CASES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.bench.ceilings import ceilings
from engine.bench.clock import Tick, timed, timed_on_gpu
from engine.bench.goals import comparable
from engine.bench.memory import begin_peak, peak, size
from engine.bench.report import Report, Row, Work
from engine.bench.work import flops
from engine.config import POCKET, POCKET_CODEC, SANA_WM
from engine.setup import Sizes
from kernels.gated_conv import gated_conv, gated_conv_plain
from kernels.gdn_chunk import gdn_chunk, suits
from kernels.gdn_scan import gdn_scan

Call = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of what kernels are given: clips or flights, latent frames, grid, heads and their width, channels."""

    clips: int
    frames: int
    grid: tuple[int, int]
    heads: int
    width: int

    @property
    def tokens(self) -> int:
        """Per frame."""
        return self.grid[0] * self.grid[1]

    @property
    def dim(self) -> int:
        return self.heads * self.width


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kernel."""

    name: str
    shape: Shape
    inputs: Callable[[Shape, torch.device, torch.dtype], dict[str, Any]]
    kernel: Call  # takes the inputs by name
    twin: Call
    backward: bool = False  # time the gradients of all floating inputs too


TRAINING = Shape(
    clips=64, frames=13, grid=POCKET_CODEC.grid, heads=POCKET.heads, width=POCKET.head_dim
)  # clips of a step of `explorer train world`
STREAM = Shape(
    clips=1, frames=SANA_WM.chunk, grid=Sizes().grid, heads=SANA_WM.heads, width=SANA_WM.head_dim
)  # a chunk of sana-wm


def scan_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Queries and keys as the model makes them: positive, small, views of [B, F, N, H, K]."""
    g = torch.Generator(device).manual_seed(0)
    order = (shape.clips, shape.frames, shape.tokens, shape.heads, shape.width)

    def heads() -> Tensor:
        return torch.randn(order, generator=g, device=device, dtype=dtype).permute(0, 3, 1, 2, 4)

    def rate(*size: int) -> Tensor:
        return torch.randn(size, generator=g, device=device).sigmoid()

    where = shape.clips, shape.heads
    return dict(
        q=heads().relu(),
        k=heads().relu() * (shape.width * shape.tokens) ** -0.5,
        v=heads(),
        beta=rate(*where, shape.frames, shape.tokens),
        decay=rate(*where, shape.frames),
        S=torch.randn(*where, shape.width, shape.width, generator=g, device=device),
    )


def conv_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Of the feed-forward part: twice three widths of channels, in and gate."""
    g = torch.Generator(device).manual_seed(0)
    wide = 6 * shape.dim
    size = (shape.clips * shape.frames, shape.tokens, wide)
    return dict(
        h=torch.randn(size, generator=g, device=device, dtype=dtype),
        weight=torch.randn(wide, 1, 3, 3, generator=g, device=device) / 3,
        bias=torch.zeros(wide, device=device),
    ) | {"grid": shape.grid}


def scan_twin(*, q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> tuple[Tensor, Tensor]:
    """`gdn_scan` as the model calls it: in fp32."""
    return gdn_scan(q=q.float(), k=k.float(), v=v.float(), **rest)


def conv_twin(*, h: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    return gated_conv_plain(h, weight=weight.to(h.dtype), bias=bias.to(h.dtype), grid=grid)


def main_branch(scan: Call) -> Call:
    """Numerator and denominator of a stream's chunk, as `engine.gdn.GDN.main` computes them."""

    def run(*, q: Tensor, k: Tensor, v: Tensor, S: Tensor, **gates: Tensor) -> Tensor:
        chunks = (q.shape[2],)
        num, _ = scan(q=q, k=k, v=v, S=S, chunks=chunks, **gates)
        ones = torch.ones_like(v[..., :1])
        den, _ = scan(q=q, k=k, v=ones, S=S[..., :1], chunks=chunks, **gates)
        return num / (den + 1e-8)

    return run


def stream_scan(*, q: Tensor, chunks: tuple[int, ...], **rest: Any) -> tuple[Tensor, Tensor]:
    """The scan that a stream uses here: the kernel where it takes this shape."""
    if suits(q, width=q.shape[-1], chunks=chunks):
        return gdn_chunk(q=q, **rest)
    return scan_twin(q=q, chunks=chunks, **rest)


CASES = (
    Case(name="gdn_chunk", shape=TRAINING, inputs=scan_inputs, kernel=gdn_chunk, twin=scan_twin),
    Case(
        name="gdn_chunk and gradients",
        shape=TRAINING,
        inputs=scan_inputs,
        kernel=gdn_chunk,
        twin=scan_twin,
        backward=True,
    ),
    Case(name="gated_conv", shape=TRAINING, inputs=conv_inputs, kernel=gated_conv, twin=conv_twin),
    Case(
        name="gated_conv and gradients",
        shape=TRAINING,
        inputs=conv_inputs,
        kernel=gated_conv,
        twin=conv_twin,
        backward=True,
    ),
    Case(
        name="GDN main branch",
        shape=STREAM,
        inputs=scan_inputs,
        kernel=main_branch(stream_scan),
        twin=main_branch(scan_twin),
    ),
)


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
