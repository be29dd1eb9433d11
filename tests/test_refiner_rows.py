"""The refiner in FP8: norms and GELU that write rows, one product for queries, keys and values, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from engine.joined import joined
from engine.lowbit import Fp4Linear, Fp8Linear, Rows
from engine.ltx2 import LTX2_REFINER
from engine.quant import lowering
from engine.random_weights import random_module
from engine.refiner import Refiner
from engine.refiner_model import RefinerModel
from engine.setup import Format, Sizes
from engine.values import tensors
from kernels.gelu_rows import gelu_rows_plain, gelu_rows_triton
from kernels.norm_modulate import norm_modulate_plain
from kernels.norm_rows import norm_rows_plain, norm_rows_triton
from tests.checks.ltx2 import SMALL_REFINER, normal
from tests.flights import distance

pytest.importorskip("triton", reason="needs Triton (its interpreter where no GPU is)")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHIPPED = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter truncates to bfloat16
EPS = 1e-6
WIDE = replace(SMALL_REFINER, heads=2, head_dim=24)  # all widths in sixteens
Kernel = Callable[..., tuple[Tensor, ...]]


def number(v: Tensor, s: Tensor) -> Tensor:
    return v.double() * s.double()


@pytest.mark.parametrize("dtype", [torch.float32, SHIPPED], ids=str)
@pytest.mark.parametrize("given", ["", "y", "y gate", "scale shift", "y gate scale shift", "y scale shift"])
@pytest.mark.parametrize("size", [(1, 1, 2), (2, 7, 63), (1, 3, 130)], ids=str)
def test_norm_rows_equals_its_twin(size: tuple[int, int, int], given: str, dtype: torch.dtype) -> None:
    B, T, D = size
    g = torch.Generator().manual_seed(T)
    x = 3 * torch.randn(size, generator=g, dtype=torch.float64)
    shapes = dict(y=size, gate=(B, 1, D), scale=(B, 1, D), shift=(B, 1, D))
    rest = {name: torch.randn(shapes[name], generator=g, dtype=torch.float64) for name in given.split()}
    x, rest = x.to(DEVICE, dtype), {name: t.to(DEVICE, dtype) for name, t in rest.items()}
    exact = norm_modulate_plain(x.double(), eps=EPS, **{name: t.double() for name, t in rest.items()})
    (total, v, s), (want, *twin) = (f(x, eps=EPS, **rest) for f in (norm_rows_triton, norm_rows_plain))
    assert (total.dtype, v.shape, s.shape) == (dtype, size, (B, T, 1))
    floor = torch.finfo(dtype).eps
    assert distance(total, exact[0]) <= 2 * max(distance(want, exact[0]), floor)
    assert distance(number(v, s), exact[1]) <= 2 * distance(number(*twin), exact[1])
    assert distance(s, exact[1].abs().amax(-1, keepdim=True) / 448) <= 4 * floor


@pytest.mark.parametrize("dtype", [torch.float32, SHIPPED], ids=str)
@pytest.mark.parametrize("size", [(1, 16), (2, 7, 63), (3, 1040)], ids=str)
def test_gelu_rows_equals_its_twin(size: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (4 * normal(1, *size)).to(DEVICE, dtype)
    exact = nn.functional.gelu(x.double(), approximate="tanh")
    (v, s), twin = gelu_rows_triton(x), gelu_rows_plain(x)
    assert (v.shape, s.shape) == (size, (*size[:-1], 1))
    assert distance(number(v, s), exact) <= 2 * distance(number(*twin), exact)
    assert distance(s, exact.abs().amax(-1, keepdim=True) / 448) <= 4 * torch.finfo(dtype).eps


def test_far_and_not_finite_numbers() -> None:
    """Large ones are themselves, their negatives nothing; a row with a NaN is one."""
    x = torch.tensor([[1e4, -1e4, 0.0, 1.0], [0.0, float("nan"), 0.0, 1.0], [0.0] * 4], device=DEVICE)
    v, s = gelu_rows_triton(x)
    assert number(v, s)[0, :3].tolist() == pytest.approx([1e4, 0.0, 0.0])
    assert number(v, s).isnan().any(dim=1).tolist() == [False, True, False]
    assert not v[2].float().any()
    _, v, s = norm_rows_triton(x[None], eps=EPS)
    assert number(v, s)[0].isnan().any(dim=1).tolist() == [False, True, False]


def small(form: Format, device: str = "cpu") -> RefinerModel:
    return random_module(
        lambda: RefinerModel(WIDE),
        dtype=torch.float32,
        device=device,
        ready=lambda m: lowering(m, "refiner", form, on=torch.device(device), say=lambda text: None),
    )


def flown(model: RefinerModel) -> list[Tensor]:
    """Two blocks and what is remembered of them, for two clips."""
    r, device = Refiner(model), model.proj_in.weight.device
    latents, words = normal(1, 2, 8, 7, 1, 2).to(device), normal(2, 2, 7, 12).to(device)
    state, out = r.start(latents[:, :, :1], prompt=r.prompt(words)), []
    for part in latents[:, :, 1:].split(3, dim=2):
        refined, state = r.step(state, part)
        out.append(refined)
    return [*out, *tensors(state.history)]


def test_the_refiner_in_rows_is_as_near_to_itself_in_plain_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the kernels no further from the refiner without FP8 than through their twins."""
    monkeypatch.setattr("kernels.program.suits", lambda x: False)
    exact, twin = flown(small("bf16", DEVICE)), flown(small("fp8", DEVICE))
    monkeypatch.setattr("kernels.program.suits", lambda x: True)
    ours = flown(small("fp8", DEVICE))
    for got, plain, want in zip(ours, twin, exact, strict=True):
        assert 0 < distance(got, want) <= 1.2 * distance(plain, want)
        assert distance(got, plain) <= distance(plain, want)


def test_rows_are_what_the_maps_would_make_themselves() -> None:
    """On a CPU tokens in FP8, made once for three maps, change not a bit."""
    model, seen = small("fp8"), []
    for name, module in model.named_modules():
        if isinstance(module, Fp8Linear):
            module.register_forward_pre_hook(lambda _m, given, name=name: seen.append((name, type(given[0]))))
    flown(model)
    in_rows = {name.split(".", 2)[2] for name, kind in seen if kind is Rows}
    own = {f"attn1.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")}
    assert in_rows == {*own, "attn2.to_q", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"}
    x = normal(1, 2, 5, 48)
    norm = norm_modulate_plain(x, eps=EPS)[1]
    _, v, s = norm_rows_plain(x, eps=EPS)
    linear = model.blocks()[0].attn1.to_q
    assert torch.equal(linear(Rows(v, s, x.dtype)), linear(norm))


@pytest.mark.parametrize("form", ["bf16", "fp8", "nvfp4"])
def test_maps_that_join_compute_the_same(form: Format) -> None:
    model = small(form, DEVICE)
    apart, bytes_before = flown(model), {name: p.nbytes for name, p in model.named_parameters()}
    model.join()
    for got, want in zip(flown(model), apart, strict=True):
        assert (
            distance(got, want) < 1e-2 if form == "fp8" else 1e-5
        )  # sums in another order round another way
    assert {name: p.nbytes for name, p in model.named_parameters()} == bytes_before
    maps = [model.blocks()[0].attn1.get_submodule(name) for name in ("to_q", "to_k", "to_v")]
    kinds = {"bf16": nn.Linear, "fp8": Fp8Linear, "nvfp4": Fp4Linear}
    assert all(type(m) is kinds[form] for m in maps)
    stores = {m.weight.untyped_storage().data_ptr() for m in maps}
    assert len(stores) == (3 if form == "nvfp4" else 1)


def test_maps_of_several_kinds_stay_apart() -> None:
    assert joined((nn.Linear(16, 16), Fp8Linear(torch.eye(16), None), nn.Linear(16, 16))) is None
    whole = joined((nn.Linear(3, 2, bias=False), nn.Linear(3, 4, bias=False)))
    assert whole is not None
    assert (whole.bias, whole.weight.shape) == (None, (6, 3))


@pytest.mark.gpu
def test_rows_on_fp8_units() -> None:
    """In bfloat16 at a width as released: as near to plain products as maps that make their rows themselves."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no GPU that multiplies FP8")
    w = [normal(i, 256, 256) / 16 for i in range(3)]
    x = normal(4, 1, 130, 256).cuda().bfloat16()
    maps = [Fp8Linear(m.cuda().bfloat16(), torch.ones(256).cuda().bfloat16()) for m in w]
    with torch.inference_mode():
        _, v, s = norm_rows_triton(x, eps=EPS)
        n = norm_modulate_plain(x, eps=EPS)[1]
        exact = [norm_modulate_plain(x.double(), eps=EPS)[1] @ m.cuda().double().mT + 1 for m in w]
        alone = [m(n) for m in maps]
        whole = joined(maps)
        assert whole is not None
        together = whole(Rows(v, s, x.dtype)).chunk(3, dim=-1)
        for a, b, want in zip(alone, together, exact, strict=True):
            assert b.dtype == torch.bfloat16
            assert distance(b, want) <= 1.2 * distance(a, want)


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["bf16", "fp8"])
def test_at_the_released_width_a_captured_block_is_the_same(form: Format) -> None:
    """To the bit: queries, some of them set apart, keys and what is remembered, over a window that fills and goes round."""
    if not torch.cuda.is_available() or (form == "fp8" and torch.cuda.get_device_capability() < (8, 9)):
        pytest.skip(f"no GPU for {form}")
    gpu, grid = torch.device("cuda"), Sizes().grid
    model = random_module(
        lambda: RefinerModel(replace(LTX2_REFINER, depth=2)),
        dtype=torch.bfloat16,
        device=gpu,
        ready=lambda m: lowering(m, "refiner", form, on=gpu, say=lambda text: None),
    )
    model.join()
    latents, words = normal(1, 1, 128, 4, *grid).to(gpu), normal(2, 1, 64, 3840).to(gpu)
    runs = []
    for fast in (True, False):
        r = Refiner(model, fast=fast)
        state, out = r.start(latents[:, :, :1], prompt=r.prompt(words)), []
        for _ in range(9):
            refined, state = r.step(state, latents[:, :, 1:])
            out.append(refined.cpu())
        assert r.steady is None or r.steady.ready
        runs.append([*out, *(x.cpu() for x in tensors(state.history))])
    assert all(bool(x.isfinite().all()) for x in runs[0])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
