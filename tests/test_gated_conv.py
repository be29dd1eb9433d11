"""The feed-forward part's GPU kernels, interpreted where no GPU is, against their twin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kernels.gated_conv import gated_conv, gated_conv_plain
from kernels.gated_conv_forward import gated_conv_forward
from tests.flights import distance

pytest.importorskip("triton", reason="needs Triton (its interpreter where no GPU is)")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def results(
    form: Callable[..., Tensor], given: dict[str, Tensor], grid: tuple[int, int], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Output and gradients under weights of the output that differ from place to place."""
    x = {name: t.to(DEVICE, dtype).detach().requires_grad_() for name, t in given.items()}
    y = form(x["h"], weight=x["weight"], bias=x["bias"], grid=grid)
    weigh = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
    (y * weigh.to(y)).sum().backward()
    return {"y": y.detach(), **{f"d{name}": t.grad for name, t in x.items()}}


@pytest.mark.parametrize(("R", "grid", "M"), [(3, (1, 1), 9), (2, (3, 5), 7), (2, (10, 16), 65)], ids=str)
def test_kernel_equals_twin(R: int, grid: tuple[int, int], M: int) -> None:
    g = torch.Generator().manual_seed(R)
    shapes = dict(h=(R, grid[0] * grid[1], 2 * M), weight=(2 * M, 1, 3, 3), bias=(2 * M,))
    given = {name: torch.randn(s, generator=g, dtype=torch.float64) for name, s in shapes.items()}
    exact = results(gated_conv_plain, given, grid, torch.float64)
    twin = results(gated_conv_plain, given, grid, torch.float32)
    ours = results(gated_conv, given, grid, torch.float32)
    for name, want in exact.items():
        floor = torch.finfo(torch.float32).eps  # a unit in the last place: a GPU's exp is off by up to two
        assert distance(ours[name], want) <= 2 * max(distance(twin[name], want), floor), name


@pytest.mark.parametrize(
    ("R", "grid", "M"), [(3, (1, 1), 9), (2, (3, 5), 7), (1, (6, 17), 65), (1, (1, 8), 64)], ids=str
)
@pytest.mark.parametrize("fill", [1, 1024])  # programs: one walks down all rows, or only two
def test_the_form_without_gradients(
    monkeypatch: pytest.MonkeyPatch, R: int, grid: tuple[int, int], M: int, fill: int
) -> None:
    monkeypatch.setattr("kernels.gated_conv_forward.FILL", fill)
    g = torch.Generator().manual_seed(R)
    shapes = dict(h=(R, grid[0] * grid[1], 2 * M), weight=(2 * M, 1, 3, 3), bias=(2 * M,))
    given = {name: torch.randn(s, generator=g, dtype=torch.float64) for name, s in shapes.items()}
    exact = gated_conv_plain(**given, grid=grid)
    single = {name: t.to(DEVICE, torch.float32) for name, t in given.items()}
    error = distance(gated_conv_plain(**single, grid=grid).cpu(), exact)
    ours = gated_conv_forward(**single, grid=grid).cpu()
    assert distance(ours, exact) <= 2 * max(error, torch.finfo(torch.float32).eps)


def test_the_operator_is_well_formed() -> None:
    h, taps, bias = (torch.randn(s, device=DEVICE) for s in ((2, 6, 4), (9, 4), (4,)))
    op = torch.ops.explorer.gated_conv.default
    kinds = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(op, (h, taps, bias, 2, 3), test_utils=kinds)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # of an interpreted exponential
def test_the_form_without_gradients_in_16_bits() -> None:
    """Weights of both dtypes, numbers so large that their exponentials are not finite; fp16 is what an interpreter rounds."""
    g = torch.Generator().manual_seed(7)
    h, weight, bias = (torch.randn(s, generator=g) for s in ((2, 12, 26), (26, 1, 3, 3), (26,)))
    h[0, 3, ::5], h[1, 0, 1::3] = -300.0, 200.0
    given = dict(h=h.half(), weight=weight.half(), bias=bias.half())
    exact = gated_conv_plain(**{n: t.double() for n, t in given.items()}, grid=(3, 4))
    error = distance(gated_conv_plain(**given, grid=(3, 4)), exact)
    moved = {n: t.to(DEVICE) for n, t in given.items()}
    for weights in (moved, {n: t if n == "h" else t.float() for n, t in moved.items()}):
        ours = gated_conv_forward(**weights, grid=(3, 4))
        assert ours.dtype == torch.float16
        assert distance(ours.cpu(), exact) <= 2 * error


def test_the_operator_without_gradients_is_well_formed() -> None:
    given = [torch.randn(s, device=DEVICE) for s in ((2, 6, 4), (4, 1, 3, 3), (4,))]
    op = torch.ops.explorer.gated_conv_forward.default
    torch.library.opcheck(op, (*given, 2, 3), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("form", [gated_conv, gated_conv_forward])
def test_the_grid_must_fit(form: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="6 tokens are no grid of 2x2"):
        form(
            torch.zeros(1, 6, 4, device=DEVICE),
            weight=torch.zeros(4, 1, 3, 3, device=DEVICE),
            bias=torch.zeros(4, device=DEVICE),
            grid=(2, 2),
        )
