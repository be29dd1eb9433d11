"""FP8 and NVFP4 against their definitions: every code, every bound, products, kernels, and what is swapped where."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from engine import opening
from engine.joined import joined
from engine.lowbit import Fp4Linear, Fp8Linear, Rows
from engine.model import WorldModel
from engine.offload import Travellers
from engine.opening import open_sana, weight_bytes
from engine.quant import Part, lowered_maps, lowering, stored_bytes
from engine.random_weights import random_module
from engine.refiner_model import RefinerModel
from engine.release import Stored, empty, fill, opened
from engine.setup import (
    BF16,
    BYTES,
    FILL,
    GB,
    TIERS,
    WORLD_LINEARS,
    Format,
    Precision,
    Setup,
    Sizes,
    fitted,
    needs,
    parse_precision,
)
from kernels import fp4
from kernels import fp8_rows as fp8_rows_module
from kernels.fp4_linear import fp4_linear, fp4_linear_plain
from kernels.fp4_unpack import fp4_unpack
from kernels.fp8_rows import fp8_rows, fp8_rows_plain, fp8_rows_stacked
from tests.flights import distance
from tests.tiny_sana import SETUP, SIZES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
WIDE = replace(SIZES, refiner=replace(SIZES.refiner, heads=2, head_dim=24))  # all widths in sixteens


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def e4m3(code: int) -> float:
    """The number of a code by the specification: 1 sign bit, 4 of exponent with bias 7, 3 of mantissa."""
    sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    if code & 127 == 127:
        return math.nan
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def e2m1(code: int) -> float:
    """The same of 1 sign bit, 2 of exponent with bias 1, 1 of mantissa."""
    sign, exponent, mantissa = -1.0 if code & 8 else 1.0, code >> 1 & 3, code & 1
    return sign * (mantissa / 2 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1))


def test_every_e4m3_code_is_its_own_nearest_number() -> None:
    numbers = torch.tensor([e4m3(code) for code in range(256)])
    assert torch.equal(E4M3.float().nan_to_num(nan=1e9), numbers.nan_to_num(nan=1e9))
    finite = numbers[numbers.isfinite()]
    v, s = fp8_rows_plain(finite[None])  # 448 is among them: the scale is one
    assert s.item() == 1.0
    assert torch.equal(v[0].view(torch.uint8), E4M3[numbers.isfinite()].view(torch.uint8))


def test_every_e2m1_code_is_its_own_nearest_number() -> None:
    codes = torch.arange(16, dtype=torch.uint8)
    numbers = torch.tensor([e2m1(code) for code in range(16)])
    assert torch.equal(fp4.from_e2m1(codes), numbers)
    assert torch.equal(fp4.to_e2m1(numbers), codes)


def test_ties_between_e2m1_numbers_go_to_the_even_code() -> None:
    numbers = torch.tensor([e2m1(code) for code in range(8)])
    middle = (numbers[1:] + numbers[:-1]) / 2
    for sign, offset in ((1, 0), (-1, 8)):
        below, above = (
            fp4.to_e2m1(sign * middle.nextafter(torch.tensor(end))) for end in (-math.inf, math.inf)
        )
        assert below.tolist() == [offset + code for code in range(7)]
        assert above.tolist() == [offset + code + 1 for code in range(7)]
        assert fp4.to_e2m1(sign * middle).tolist() == [offset + code + code % 2 for code in range(7)]
        assert fp4.to_e2m1(torch.tensor([sign * 1e30])).item() == offset + 7


def test_two_numbers_share_a_byte_the_first_in_its_low_bits() -> None:
    assert fp4.pack(torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8)).tolist() == [[0x21, 0x0F]]
    every = torch.cartesian_prod(*2 * [torch.arange(16, dtype=torch.uint8)]).flatten()
    assert torch.equal(fp4.unpack(fp4.pack(every)), every)
    assert sorted(fp4.pack(every).tolist()) == list(range(256))


def test_nvfp4_numbers_come_back_as_they_were() -> None:
    """All codes under all scales that a block can have: a matrix made of the format is stored without loss."""
    scales = E4M3[:127].float()[1:]  # positive and finite
    blocks = scales[:, None] * torch.tensor([e2m1(code) for code in range(16)])
    again = fp4.quantise(blocks * 2.0**-5)
    assert again.whole.item() == 2.0**-5
    assert torch.equal(again.scale.float()[:, 0], scales)
    assert torch.equal(fp4.dequantise(again), blocks * 2.0**-5)


def test_rounding_stays_within_half_a_step() -> None:
    x = drawn(64, 256) * torch.logspace(-3, 3, 64, dtype=torch.float64)[:, None]
    v, s = fp8_rows_plain(x.float())
    whole = x.float().double() / s.double()
    step = torch.exp2(whole.abs().log2().floor() - 3).clamp_min(2.0**-9)
    slack = 2.0**-22 * whole.abs()  # the scaled number is itself rounded, in fp32
    assert bool(((v.double() - whole).abs() <= step / 2 + slack).all())
    w = fp4.quantise(x.float())
    stored = w.scale.double().repeat_interleave(fp4.BLOCK, dim=1)
    tiny = stored == 0  # a block far below the largest: not even the smallest scale holds it
    assert bool((x.abs()[tiny] <= 6 * 2.0**-10 * float(w.whole) * (1 + 1e-6)).all())
    number = torch.where(tiny, 0, x.float().double() / (stored * w.whole.double()))
    assert bool((number.abs() <= 6 * torch.where(stored < 2.0**-6, 1.5, 1 + 2.0**-4)).all())
    step = torch.where(number.abs() < 2, 0.5, torch.where(number.abs() < 4, 1.0, 2.0))
    beyond = (number.abs() - 6).clamp_min(0)  # a scale that was rounded down
    got = fp4.from_e2m1(fp4.unpack(w.packed)).double()
    assert bool(((got - number).abs() <= torch.maximum(step / 2, beyond) + 2.0**-20 * number.abs()).all())
    assert 0 < tiny.double().mean() < (stored < 2.0**-6).double().mean() < 0.5


def test_zeros_and_what_is_not_finite_survive() -> None:
    assert not Fp8Linear(torch.zeros(16, 16), None)(torch.zeros(1, 16)).any()
    assert not Fp4Linear(torch.zeros(16, 16), None, rotated=True)(torch.ones(1, 16)).any()
    for wrong in (math.nan, math.inf):
        w = drawn(16, 32)
        w[2, 3] = wrong
        assert bool(fp4.dequantise(fp4.quantise(w)).isnan().all())
    x = torch.ones(3, 16)
    x[0, 3], x[1, 5] = math.nan, math.inf
    assert Fp8Linear(torch.eye(16), None)(x).isfinite().all(dim=1).tolist() == [False, False, True]


@pytest.mark.parametrize(("M", "K"), [(1, 16), (7, 48), (63, 1008)])
def test_row_kernel_equals_twin_to_the_bit(M: int, K: int) -> None:
    x = (drawn(M, K) * 30).to(DEVICE, torch.float32)
    x[0, :8] = torch.tensor([0.0, -0.0, 2.0**-8, -(2.0**-9), 1.0625, -1.1875, 448.0, -448.0])
    (v, s), (want, scale) = fp8_rows(x), fp8_rows_plain(x)
    assert torch.equal(v.float(), want.float())
    assert torch.equal(s, scale)
    assert torch.equal(fp8_rows(x.T[:K].contiguous().T)[0].float(), want.float())  # another layout
    x[0, 0] = math.nan
    assert fp8_rows(x)[1].isfinite().all(dim=1).tolist() == [False, *[True] * (M - 1)]


@pytest.mark.parametrize("fits", [False, True])
def test_rows_of_matrices_one_below_the_other(fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8_rows_module, "suits", lambda x: fits)
    x = (drawn(7, 48) * 30).to(DEVICE, torch.float32)
    for parts in ((x,), (x[:5], x[5:]), (x[:5], x[5:].T.contiguous().T)):
        for got, want in zip(fp8_rows_stacked(parts), fp8_rows_plain(x), strict=True):
            assert torch.equal(got.float(), want.float())


@pytest.mark.parametrize(("M", "N", "K"), [(1, 16, 16), (7, 48, 80), (130, 144, 272)])
@pytest.mark.parametrize("biased", [False, True])
def test_fp4_kernel_equals_twin(M: int, N: int, K: int, biased: bool) -> None:
    w = fp4.Fp4(*(t.to(DEVICE) for t in fp4.quantise(drawn(N, K))))
    x, bias = drawn(M, K, seed=1).to(DEVICE), drawn(N, seed=2).to(DEVICE) if biased else None
    exact = fp4_linear_plain(x, w, bias)
    for dtype in (torch.float32, torch.bfloat16 if DEVICE == "cuda" else torch.float16):
        given = x.to(dtype), w, None if bias is None else bias.to(dtype)
        rounded = fp4_linear_plain(given[0].double(), w, None if bias is None else given[2].double())
        twin = distance(fp4_linear_plain(*given), rounded)
        assert distance(fp4_linear(*given), rounded) <= 2 * max(twin, torch.finfo(dtype).eps / 2), dtype
    assert exact.dtype == torch.float64


@pytest.mark.parametrize(("N", "K"), [(1, 16), (16, 80), (3, 2064)])
def test_unpacked_weights_are_exact(N: int, K: int) -> None:
    w = fp4.Fp4(*(t.to(DEVICE) for t in fp4.quantise(drawn(N, K) * 0.02)))
    exact = fp4.dequantise(w)
    assert torch.equal(exact.bfloat16().float(), exact)
    assert math.log2(w.whole.item()).is_integer()
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(fp4_unpack(w, dtype=dtype).float(), exact), dtype


def test_operators_are_well_formed() -> None:
    kinds = ("test_faketensor",)  # the schema test multiplies FP8 numbers, which torch cannot
    x, w = (
        drawn(3, 32).to(DEVICE, torch.float32),
        fp4.Fp4(*(t.to(DEVICE) for t in fp4.quantise(drawn(16, 32)))),
    )
    torch.library.opcheck(torch.ops.explorer.fp8_rows.default, (x,), test_utils=kinds)
    torch.library.opcheck(torch.ops.explorer.fp4_linear.default, (x, *w, None), test_utils=kinds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_fp8_linear_is_the_product_of_what_is_stored(dtype: torch.dtype, biased: bool) -> None:
    """Against fp64 on the rounded operands: nothing may be lost but in sums and in the result's own rounding."""
    w, bias = drawn(48, 80).to(DEVICE, dtype), drawn(48, seed=1).to(DEVICE, dtype) if biased else None
    x = drawn(5, 7, 80, seed=2).to(DEVICE, dtype)
    linear = Fp8Linear(w, bias)
    v, s = fp8_rows_plain(x.flatten(0, 1))
    want = (v.double() * s.double()) @ (linear.weight.double() * linear.scale.double()).mT
    want = (want if bias is None else want + bias.double()).view(5, 7, 48)
    y = linear(x)
    assert y.dtype == dtype
    assert distance(y, want) <= 4 * torch.finfo(dtype).eps
    assert (
        distance(want, nn.functional.linear(x.double(), w.double(), None if bias is None else bias.double()))
        < 2**-4
    )


def test_what_a_gpu_is_given_has_the_form_that_torch_asks_for() -> None:
    """Shapes, strides and dtypes of the product on FP8 units, checked by torch's own rules, which need no GPU."""
    with FakeTensorMode():
        w, bias = (torch.empty(s, device="cuda", dtype=torch.bfloat16) for s in ((48, 80), (48,)))
        y = Fp8Linear(w, bias)(torch.empty(5, 7, 80, device="cuda", dtype=torch.bfloat16))
        assert (y.shape, y.dtype, y.device.type) == ((5, 7, 48), torch.bfloat16, "cuda")
        v, s = (
            torch.empty(5, 7, n, device="cuda", dtype=t)
            for n, t in ((80, torch.float8_e4m3fn), (1, torch.float32))
        )
        whole = joined((Fp8Linear(w, bias), Fp8Linear(w, bias)))
        assert whole is not None
        y = whole(Rows(v, s, torch.bfloat16))
        assert (y.shape, y.dtype, y.device.type) == ((5, 7, 96), torch.bfloat16, "cuda")


@pytest.mark.parametrize("rotated", [False, True])
def test_low_bit_maps_compile_whole(rotated: bool) -> None:
    x = drawn(3, 80).to(DEVICE, torch.float32)
    for low in (Fp8Linear(drawn(48, 80), None), Fp4Linear(drawn(48, 80), drawn(48), rotated=rotated)):
        low = low.to(DEVICE)
        with torch.inference_mode():
            assert torch.equal(torch.compile(low, backend="aot_eager", fullgraph=True)(x), low(x))


@pytest.mark.parametrize("rotated", [False, True])
def test_fp4_linear_is_the_product_of_what_is_stored(rotated: bool) -> None:
    w, bias, x = drawn(48, 80), drawn(48, seed=1), drawn(5, 7, 80, seed=2)
    linear = Fp4Linear(w, bias, rotated=rotated).to(DEVICE)
    turn = fp4.rotation(dtype=torch.float64, device="cpu")
    given = fp4.rotate(x, turn) if rotated else x
    stored = fp4.dequantise(fp4.Fp4(linear.weight.cpu(), linear.scale.cpu(), linear.whole.cpu())).double()
    want = given @ stored.mT + bias.float().double()
    assert distance(linear(x.float().to(DEVICE)).cpu(), want) <= 8 * torch.finfo(torch.float32).eps
    assert distance(want, x @ w.mT + bias) < 2**-2


def test_the_rotation_keeps_products_and_spreads_outliers() -> None:
    turn = fp4.rotation(dtype=torch.float64, device="cpu")
    assert torch.equal(turn @ turn.mT, torch.eye(16, dtype=torch.float64))
    x = torch.zeros(1, 32, dtype=torch.float64)
    x[0, 3] = 4.0
    assert fp4.rotate(x, turn).abs().tolist() == [[1.0] * 16 + [0.0] * 16]


def test_what_is_swapped_in_the_release() -> None:
    """Stage 1: 20 blocks of 7 maps in self-attention, 3 in cross-attention, 2 in the feed-forward part. Refiner: 48 of 10."""
    world, refiner = empty(lambda: WorldModel(Sizes().world)), empty(lambda: RefinerModel(Sizes().refiner))
    low, second = set(lowered_maps(world, "world")), set(lowered_maps(refiner, "refiner"))
    assert (len(low), len(second)) == (20 * 12, 48 * 10)

    def kept(model: nn.Module, swapped: set[str]) -> list[str]:
        return [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in swapped]

    assert len(kept(world, low)) == 5 + 15 * 2 + 20 + 1
    gates = [
        f"blocks.{i}.attn.{gate}" for i in range(20) if i % 4 != 3 for gate in ("beta_proj", "gate_proj")
    ]
    assert set(kept(world, low)) == {
        *(
            "t_embedder.mlp.0",
            "t_embedder.mlp.2",
            "t_block.1",
            "y_embedder.y_proj.fc1",
            "y_embedder.y_proj.fc2",
        ),
        *gates,
        *(f"blocks.{i}.plucker_proj" for i in range(20)),
        "final_layer.linear",
    }
    assert kept(refiner, second) == [
        "proj_in",
        "caption_projection.linear_1",
        "caption_projection.linear_2",
        "time_embed.emb.timestep_embedder.linear_1",
        "time_embed.emb.timestep_embedder.linear_2",
        "time_embed.linear",
        "proj_out",
    ]
    convolutions = {n for n, m in world.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)}
    assert low & convolutions == {
        f"blocks.{i}.mlp.{c}.conv" for i in range(20) for c in ("inverted_conv", "point_conv")
    }
    assert (
        pytest.approx(sum(world.get_parameter(f"{n}.weight").numel() for n in low), rel=0.01) == WORLD_LINEARS
    )


def models(form: Format, part: Part) -> nn.Module:
    build = (lambda: WorldModel(WIDE.world)) if part == "world" else (lambda: RefinerModel(WIDE.refiner))
    said: list[str] = []
    model = random_module(
        build,
        dtype=torch.float32,
        device="cpu",
        ready=lambda m: lowering(m, part, form, on=torch.device("cpu"), say=said.append),
    )
    assert said[-1:] == ([] if form == "bf16" else [f"rounding to {form}: 100 %"])
    return model


@pytest.mark.parametrize("part", ["world", "refiner"])
def test_a_swapped_model_has_the_weights_of_the_plain_one(part: Part) -> None:
    """Rounded while loading, and otherwise untouched: the draws are the same, the sizes what setup promises."""
    plain = models("bf16", part)
    names = lowered_maps(plain, part)
    assert names
    for form, kind in (("fp8", Fp8Linear), ("nvfp4", Fp4Linear)):
        model = models(form, part)
        assert [n for n, m in model.named_modules() if isinstance(m, kind)] == names
        theirs = dict(plain.named_parameters())
        for name, p in model.named_parameters():
            owner, _, leaf = name.rpartition(".")
            if owner not in names or leaf == "bias":
                assert torch.equal(p, theirs[name])
        for name in names:
            like, low = plain.get_submodule(name), model.get_submodule(name)
            x = drawn(2, 48 if low.in_features == 48 else low.in_features).float()
            y = nn.functional.linear(x, like.weight.flatten(1), like.bias)
            assert distance(low(x), y) < (2**-4 if form == "fp8" else 2**-2)
        sizes = stored_bytes(plain, part, form, torch.float32)
        promised = sum(size for name, size in sizes.items() if name.removesuffix(".weight") in names)
        stored = [
            t.nbytes for n in names for leaf, t in model.get_submodule(n).named_parameters() if leaf != "bias"
        ]
        scales = 4 * sum(model.get_submodule(n).out_features for n in names)  # at true size a thousandth
        assert promised <= sum(stored) + len(names) * 4 <= promised + scales + 8 * len(names)


@pytest.mark.parametrize("form", ["fp8", "nvfp4"])
def test_files_are_rounded_map_by_map(form: Format, tmp_path: Path) -> None:
    """What comes from a file is what comes from the same weights in memory; none is there in full when the next is read."""
    plain, want = models("bf16", "refiner"), models(form, "refiner")
    save_file(plain.state_dict(), tmp_path / "model.safetensors")
    model = empty(lambda: RefinerModel(WIDE.refiner))
    maps = [weakref.ref(model.get_submodule(name)) for name in lowered_maps(model, "refiner")]

    def watched(stored: Stored) -> Stored:
        def read() -> Tensor:
            assert all(m is None or m.get_parameter("weight").is_meta for m in (r() for r in maps))
            return stored.read()

        return replace(stored, read=read)

    ready = lowering(model, "refiner", form, on=torch.device("cpu"), say=lambda text: None)
    with opened(tmp_path) as tensors:
        given = {name: watched(stored) for name, stored in tensors.items()}
        fill(model, given, source=tmp_path, dtype=torch.float32, device="cpu", ready=ready)
    theirs = dict(want.named_parameters())
    assert list(theirs) == [name for name, _ in model.named_parameters()]
    for name, p in model.named_parameters():
        assert p.dtype == theirs[name].dtype
        assert torch.equal(p.float(), theirs[name].float()), name


def test_a_flight_in_fewer_bits_is_near_the_same_flight() -> None:
    """From pictures to pictures, in every format; the error grows as bits are dropped."""
    from tests.test_sana import fly, pixels

    shown = {}
    for precision in ("bf16", "fp8", "nvfp4/fp8"):
        engine = open_sana(replace(SETUP, sizes=WIDE, precision=precision), device="cpu")
        shown[precision] = pixels(*fly(engine, 1)).astype(float)
    contrast = shown["bf16"].std()
    errors = [np.abs(shown[p] - shown["bf16"]).mean() / contrast for p in ("fp8", "nvfp4/fp8")]
    assert 0 < errors[0] < errors[1] < 0.25


def test_swapped_maps_travel_too() -> None:
    model = models("fp8", "refiner")
    assert isinstance(model, RefinerModel)
    maps = [m for m in model.blocks()[1].modules() if isinstance(m, Fp8Linear)]
    x = drawn(3, 48).float()
    before = [m(x) for m in maps if m.in_features == 48]
    travellers = Travellers(list(model.blocks()[1:]), device=torch.device("cpu"))
    assert travellers.bytes == sum(p.nbytes for m in maps for p in m.parameters())
    assert all(
        torch.equal(a, m(x)) for a, m in zip(before, (m for m in maps if m.in_features == 48), strict=True)
    )


@pytest.mark.parametrize("form", ["fp8", "nvfp4"])
def test_fewer_bits_let_more_of_the_refiner_stay(form: Format) -> None:
    precision = Precision(world=form, refiner=form)
    for tier in TIERS:
        assert fitted(tier, BF16) == tier
        more = fitted(tier, precision)
        assert more.refiner_blocks >= tier.refiner_blocks
        assert more.refiner_window >= min(tier.refiner_window, 4)
        need = needs(more, refiner=more.refiner, precision=precision)
        assert need.total <= FILL * tier.gigabytes * GB
        counted = weight_bytes(
            Sizes(),
            replace(more, encoder_stays=True),
            torch.device("meta"),
            refiner=more.refiner,
            precision=precision,
        )
        encoder = 0 if tier.encoder_stays else 2 * 0.694e9
        assert need.weights + encoder == pytest.approx(counted, rel=0.01)
    flying = [t.gigabytes for t in TIERS if fitted(t, precision).refines_live]
    assert flying == ([80, 48, 32] if form == "fp8" else [80, 48, 32, 24])


def test_precision_is_read_and_wrong_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_precision("fp8") == Precision(world="fp8", refiner="fp8")
    assert parse_precision("bf16/nvfp4") == Precision(refiner="nvfp4")
    for wrong in ("int8", "", "fp8/", "fp8/fp8/fp8", "FP8"):
        with pytest.raises(ValueError, match=f"--precision {wrong} is unknown: use bf16, fp8, nvfp4"):
            Setup(precision=wrong)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    gpu = torch.device("cuda")
    monkeypatch.setattr(opening, "INSTALLED", False)
    opening.require_formats(parse_precision("bf16"), gpu)
    opening.require_formats(parse_precision("nvfp4"), torch.device("cpu"))
    for text in ("fp8", "bf16/nvfp4"):
        with pytest.raises(ValueError, match="needs Triton and a C compiler"):
            opening.require_formats(parse_precision(text), gpu)
    monkeypatch.setattr(opening, "INSTALLED", True)
    with pytest.raises(
        ValueError, match=r"needs a GPU of compute capability 8\.9 .* A100 has 8\.0: use nvfp4"
    ):
        opening.require_formats(parse_precision("bf16/fp8"), gpu)
    opening.require_formats(parse_precision("nvfp4"), gpu)
    assert set(BYTES) == {"bf16", "fp8", "nvfp4"}
