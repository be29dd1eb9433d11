"""The refiner's GPU kernels, interpreted where no GPU is, against their twins, and the whole refiner through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from engine.refiner import Refiner
from engine.refiner_model import RefinerModel, gelu_of
from engine.values import tensors
from kernels.norm_modulate import norm_modulate, norm_modulate_plain, norm_modulate_triton
from kernels.norm_turn import norm_turn, norm_turn_plain, norm_turn_triton
from kernels.turn_into import turn_into_plain, turn_into_triton
from tests.checks.ltx2 import LAYOUTS, SMALL_REFINER, filled, normal
from tests.flights import distance

pytest.importorskip("triton", reason="needs Triton (its interpreter where no GPU is)")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-6
Results = dict[str, Tensor]
Size = tuple[int, tuple[int, int], int, int]  # clips, rows and columns, heads and their width
SIZES: tuple[Size, ...] = ((1, (1, 1), 1, 2), (2, (1, 3), 2, 20), (2, (5, 3), 3, 14), (1, (7, 1), 3, 6))


def agree(ours: Results, twin: Results, exact: Results) -> None:
    """No further from fp64 than twice the twin, or a unit in the last place where the twin happens to be exact."""
    for name, want in exact.items():
        floor = torch.finfo(torch.float32).eps
        assert distance(ours[name], want) <= 2 * max(distance(twin[name], want), floor), name


@pytest.mark.parametrize("given", ["", "y", "y gate", "scale shift", "y gate scale shift", "y scale shift"])
@pytest.mark.parametrize("size", [(1, 1, 2), (2, 7, 63), (1, 3, 130)], ids=str)
def test_norm_modulate_equals_its_twin(size: tuple[int, int, int], given: str) -> None:
    B, T, D = size
    g = torch.Generator().manual_seed(T)
    x = 3 * torch.randn(size, generator=g, dtype=torch.float64)
    shapes = dict(y=size, gate=(B, 1, D), scale=(B, 1, D), shift=(B, 1, D))
    rest = {name: torch.randn(shapes[name], generator=g, dtype=torch.float64) for name in given.split()}

    def results(form: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype) -> Results:
        moved = {name: t.to(DEVICE, dtype) for name, t in rest.items()}
        total, n = form(x.to(DEVICE, dtype), eps=EPS, **moved)
        return dict(total=total, n=n)

    exact, twin = (results(norm_modulate_plain, t) for t in (torch.float64, torch.float32))
    agree(results(norm_modulate_triton, torch.float32), twin, exact)


def test_norm_modulate_reads_rows_of_any_stride() -> None:
    """Six modulation rows side by side, of two clips, and tokens that are a view."""
    x, rows = normal(1, 2, 5, 12).to(DEVICE)[:, 1:4], normal(2, 2, 6, 12).to(DEVICE)
    gate, scale, shift = rows.unsqueeze(2).unbind(1)[1:4]
    wanted = norm_modulate_plain(x, eps=EPS, y=2 * x, gate=gate, scale=scale, shift=shift)
    got = norm_modulate_triton(x, eps=EPS, y=2 * x, gate=gate, scale=scale, shift=shift)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_norm_turn_equals_its_twin(size: Size, split: bool, raw: bool) -> None:
    """Into the end of a longer memory, whose beginning stays as it was."""
    B, (rows, columns), H, K = size
    T = rows * columns
    g = torch.Generator().manual_seed(T)
    x = {n: torch.randn(B, T, H * K, generator=g, dtype=torch.float64) for n in ("q", "k", "v")}
    w = {n: torch.randn(H * K, generator=g, dtype=torch.float64) for n in ("q_weight", "k_weight")}
    angle = torch.randn(rows + columns, H, K // 2, generator=g, dtype=torch.float64)

    def results(form: Callable[..., Tensor], dtype: torch.dtype) -> Results:
        places = {n: torch.zeros(B, T + 2, H, K, device=DEVICE, dtype=dtype) for n in ("k", "v", "raw")}
        own: dict[str, Any] = {n: t[:, 2:] for n, t in places.items()}
        q = form(
            *(t.to(DEVICE, dtype) for t in x.values()),
            **{n: t.to(DEVICE, dtype) for n, t in w.items()},
            cos=angle.cos().to(DEVICE, dtype),
            sin=angle.sin().to(DEVICE, dtype),
            columns=columns,
            split=split,
            eps=EPS,
            k_out=own["k"],
            v_out=own["v"],
            raw=own["raw"] if raw else None,
        )
        assert not any(t[:, :2].any() for t in places.values())
        return dict(q=q, **{n: t.clone() for n, t in own.items() if raw or n != "raw"})

    exact, twin = (results(norm_turn_plain, t) for t in (torch.float64, torch.float32))
    agree(results(norm_turn_triton, torch.float32), twin, exact)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_turn_into_equals_its_twin(size: Size, split: bool) -> None:
    """Into the beginning of a longer memory, whose end stays as it was; values to the bit."""
    B, (rows, columns), H, K = size
    T = rows * columns
    g = torch.Generator().manual_seed(T)
    k, v = (torch.randn(B, T, H, K, generator=g, dtype=torch.float64).transpose(0, 1) for _ in range(2))
    k, v = (x.contiguous().transpose(0, 1) for x in (k, v))  # clips within tokens
    angle = torch.randn(rows + columns, H, K // 2, generator=g, dtype=torch.float64)

    def results(form: Callable[..., None], dtype: torch.dtype) -> Results:
        places = [torch.zeros(B, T + 2, H, K, device=DEVICE, dtype=dtype) for _ in range(2)]
        turns = {n: t.to(DEVICE, dtype) for n, t in (("cos", angle.cos()), ("sin", angle.sin()))}
        own = [p[:, :T] for p in places]
        form(
            *(x.to(DEVICE, dtype) for x in (k, v)),
            **turns,
            columns=columns,
            split=split,
            k_out=own[0],
            v_out=own[1],
        )
        assert not any(p[:, T:].any() for p in places)
        assert torch.equal(own[1], v.to(DEVICE, dtype))
        return dict(k=own[0])

    exact, twin = (results(turn_into_plain, t) for t in (torch.float64, torch.float32))
    agree(results(turn_into_triton, torch.float32), twin, exact)


def test_parts_of_one_product_are_read_as_they_lie() -> None:
    """Queries, keys and values side by side, as one linear map would make them."""
    q, k, v = normal(1, 2, 5, 3 * 12).to(DEVICE).chunk(3, dim=-1)
    w, columns, angle = normal(2, 2, 12).to(DEVICE), 1, normal(3, 6, 2, 3).to(DEVICE)
    found = []
    for form in (norm_turn_plain, norm_turn_triton):
        places = [torch.zeros(2, 5, 2, 6, device=DEVICE) for _ in range(2)]
        out = form(
            q, k, v, q_weight=w[0], k_weight=w[1], cos=angle.cos(), sin=angle.sin(), columns=columns,
            split=False, eps=EPS, k_out=places[0], v_out=places[1],
        )  # fmt: skip
        found.append([out, *places])
    torch.testing.assert_close(*found)


def test_a_place_with_gaps_between_heads_is_refused() -> None:
    x, angle = torch.zeros(1, 1, 4, device=DEVICE), torch.zeros(2, 2, 1, device=DEVICE)
    gaps = torch.zeros(1, 1, 2, 4, device=DEVICE)[..., :2]
    with pytest.raises(ValueError, match="heads must be adjacent"):
        norm_turn_triton(
            x, x, x, q_weight=x[0, 0], k_weight=x[0, 0], cos=angle, sin=angle, columns=1, split=True,
            eps=EPS, k_out=gaps, v_out=gaps,
        )  # fmt: skip


@pytest.mark.parametrize(("rope", "hold"), [(LAYOUTS[0], True), (LAYOUTS[1], False)])
def test_the_refiner_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, rope: Literal["interleaved", "split"], hold: bool
) -> None:
    """Two blocks and what is remembered of them, for two clips of one text with padding."""

    def flown(dtype: torch.dtype) -> Results:
        config = replace(SMALL_REFINER, rope=rope, hold=hold, sigmas=(0.9, 0.4))
        model = filled(RefinerModel(config))
        assert isinstance(model, RefinerModel)
        refiner = Refiner(model.to(DEVICE, dtype))
        latents, words = normal(1, 2, 8, 6, 1, 2).to(DEVICE), normal(2, 2, 7, 12).to(DEVICE)
        mask = torch.tensor([[0, 0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1, 0]], device=DEVICE)
        state = refiner.start(latents[:, :, :1], prompt=refiner.prompt(words, mask))
        out = {}
        for i, part in enumerate(latents[:, :, 1:].split(3, dim=2)):
            out[f"block {i}"], state = refiner.step(state, part)
        out |= {f"history {i}": x for i, x in enumerate(tensors(state.history))}
        return out

    monkeypatch.setattr("kernels.program.suits", lambda x: False)
    exact, twin = flown(torch.float64), flown(torch.float32)
    monkeypatch.setattr("kernels.program.suits", lambda x: True)
    agree(flown(torch.float32), twin, exact)


@pytest.mark.parametrize("kind", ["plain", "hooked", "with gradients"])
def test_a_linear_map_and_its_gelu(kind: str) -> None:
    """One product on a GPU, unless the map's own call does more than multiply."""
    linear, called = torch.nn.Linear(24, 40).to(DEVICE, torch.bfloat16), []
    linear.weight.data.copy_(normal(1, 40, 24))
    linear.bias.data.copy_(normal(2, 40))
    x = normal(3, 2, 5, 24).to(DEVICE, torch.bfloat16)
    twin = torch.nn.functional.gelu(linear(x), approximate="tanh")
    wide = torch.nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double())
    exact = torch.nn.functional.gelu(wide, approximate="tanh")
    if kind == "hooked":
        linear.register_forward_pre_hook(lambda _module, _args: called.append(True))
    with torch.set_grad_enabled(kind == "with gradients"):
        got = gelu_of(linear, x)
    assert got.requires_grad == (kind == "with gradients")
    assert bool(called) == (kind == "hooked")
    assert distance(got, exact) <= 2 * distance(twin, exact)


def test_gradients_keep_to_the_plain_form() -> None:
    """The kernels have none: whoever trains must not meet them, wherever the tensors are."""
    x = normal(1, 1, 3, 8).to(DEVICE).requires_grad_()
    norm_modulate(x, eps=EPS)[1].sum().backward()
    assert x.grad is not None
    places = [torch.zeros(1, 3, 2, 4, device=DEVICE) for _ in range(2)]
    w, angle = normal(2, 2, 8).to(DEVICE), normal(3, 4, 2, 2).to(DEVICE)
    q = norm_turn(
        x, x, x, q_weight=w[0], k_weight=w[1], cos=angle.cos(), sin=angle.sin(), columns=3,
        split=True, eps=EPS, k_out=places[0], v_out=places[1],
    )  # fmt: skip
    assert q.requires_grad
