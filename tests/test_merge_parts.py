"""Attention in whole waves: where it is cut, its parts against fp64, and the kernel that puts them together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from engine import waves
from engine.bench.case import REFINED
from engine.ltx2 import LTX2_REFINER
from engine.refiner import Refiner
from engine.refiner_model import RefinerModel
from engine.values import tensors
from engine.waves import Cut, at_once, attention, cut, cut_of, divided, in_parts, summed, summed_plain
from kernels import program
from kernels.merge_parts import merge_parts, merge_parts_plain, merge_parts_triton
from tests.checks.ltx2 import SMALL_REFINER, filled, normal
from tests.flights import distance

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GPU = torch.device("cuda")
HOPPER = SimpleNamespace(major=9, multi_processor_count=132)
EPS = torch.finfo(torch.float32).eps

needs_triton = pytest.mark.skipif(
    not program.INSTALLED, reason="needs Triton (its interpreter where no GPU is)"
)


def given(T: int, S: int, H: int, K: int, *, sharp: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of one clip in fp64; keys and values are the end of a longer memory. sharp: factor of scores."""
    q, k, v = (normal(i, 1, n, H, K).double() for i, n in enumerate((T, S + 3, S + 3)))
    return sharp * q, k[:, 3:], v[:, 3:]


def moved(x: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    return [t.to(DEVICE, dtype) for t in x]


def whole(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """In so many words: the oracle."""
    scores = torch.einsum("bthk,bshk->bhts", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhts,bshk->bthk", scores.softmax(-1), v)


def lowest(x: tuple[Tensor, Tensor, Tensor]) -> float:
    """Of errors in fp32: a unit in the last place of a part's logarithm, which its weight is made of."""
    return EPS * max(1.0, float(summed_plain(*x)[1].abs().max()))


# --- where it is cut ------------------------------------------------------------------------------------------------


def test_a_block_of_the_refiner_is_cut_before_its_sixth_wave() -> None:
    """672 tiles on 132 multiprocessors: 20 of 21 tiles of every head are kept, the 32 others cut in four."""
    queries, cells, heads = REFINED.frames * REFINED.tokens, REFINED.tokens, REFINED.heads
    seen = (LTX2_REFINER.window + LTX2_REFINER.block) * cells
    assert (queries, seen, heads) == (2640, 12320, 32)
    assert cut(queries, seen, heads=heads, processors=132) == Cut(queries=2560, parts=4)
    filling = [cut(queries, n * cells, heads=heads, processors=132) for n in (1, 4, 7, 10, 13)]
    assert [found and found.parts for found in filling] == [None, None, 4, 4, 4]


@pytest.mark.parametrize(
    ("queries", "keys", "heads", "processors"),
    [
        (2640, 1024, 32, 132),  # words: too few keys
        (2560, 12320, 32, 132),  # 4.85 waves: the fifth is nearly full
        (2640, 12320, 32, 114),  # the last of 5.9 is
        (2640, 12320, 32, 672),  # one wave
        (128, 12320, 32, 132),
        (1, 1, 1, 132),
        (17600, 18480, 32, 132),  # a whole clip: half a wave is not worth the copy
    ],
)
def test_what_is_not_cut(queries: int, keys: int, heads: int, processors: int) -> None:
    assert cut(queries, keys, heads=heads, processors=processors) is None


def test_a_cut_saves_a_wave() -> None:
    """Of sizes at random: what is kept fills fewer waves, and the parts of the others one."""
    g = torch.Generator().manual_seed(0)
    found = 0
    for _ in range(2000):
        queries, keys, heads, processors = (
            int(torch.randint(low, high, (), generator=g))
            for low, high in ((1, 6000), (1, 40000), (1, 64), (16, 200))
        )
        at = cut(queries, keys, heads=heads, processors=processors)
        if at is None:
            continue
        found += 1
        tiles, kept = -(-queries // waves.TILE), at.queries // waves.TILE
        assert 0 < at.queries < queries
        assert -(-kept * heads // processors) < -(-tiles * heads // processors)
        assert (tiles - kept) * heads * at.parts <= processors
        assert keys // at.parts >= waves.PART
    assert found > 100


@pytest.mark.parametrize("change", ["", "mask", "apart", "fp32", "clips", "gradients", "Ampere", "no cuDNN"])
def test_only_on_hopper_and_without_a_mask(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """With queries that say they are on a GPU; what computes is replaced by its name."""
    monkeypatch.setattr(program, "INSTALLED", True)
    gpu = SimpleNamespace(**{**vars(HOPPER), "major": 8 if change == "Ampere" else 9})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.backends.cuda, "cudnn_sdp_enabled", lambda: change != "no cuDNN")
    monkeypatch.setattr(waves, "at_once", lambda *x, mask: "at once")
    monkeypatch.setattr(waves, "divided", lambda q, k, v, at: (at,))
    clips, dtype = 1 + (change == "clips"), torch.float32 if change == "fp32" else torch.bfloat16
    q = SimpleNamespace(shape=(clips, 2640, 32, 128), dtype=dtype, device=GPU)
    k = SimpleNamespace(shape=(clips, 12320, 32, 128), dtype=dtype, device=GPU)
    mask = torch.ones(1, 1, 1, 12320, dtype=torch.bool) if change == "mask" else None
    with torch.set_grad_enabled(change == "gradients"):
        got = attention(q, k, k, mask=mask, apart=change != "apart")  # type: ignore[arg-type]
    assert got == ("at once" if change else Cut(queries=2560, parts=4))


def test_never_on_a_cpu() -> None:
    q, k = torch.empty(1, 2640, 32, 128, device="meta"), torch.empty(1, 12320, 32, 128, device="meta")
    with torch.no_grad():
        assert cut_of(q.bfloat16(), k.bfloat16()) is None
        assert cut_of(torch.empty(1, 2640, 1, 8), torch.empty(1, 12320, 1, 8)) is None


# --- what it computes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharp", [1.0, 20.0])
@pytest.mark.parametrize(("S", "parts"), [(64, 4), (63, 4), (7, 7), (130, 3), (5, 2), (1, 1)])
@pytest.mark.parametrize("T", [1, 7, 63])
def test_keys_in_parts_are_all_the_keys(T: int, S: int, parts: int, sharp: float) -> None:
    x = given(T, S, 3, 24, sharp=sharp)
    exact = whole(*x)
    assert distance(in_parts(*x, parts=parts), exact) < 1e-14
    with torch.no_grad():
        twin, ours = at_once(*moved(x, torch.float32)), in_parts(*moved(x, torch.float32), parts=parts)
    assert ours.shape == twin.shape
    assert distance(ours.cpu(), exact) <= 2 * max(distance(twin.cpu(), exact), lowest(x))


@pytest.mark.parametrize(
    "at", [Cut(queries=1, parts=2), Cut(queries=40, parts=5), Cut(queries=62, parts=3)], ids=str
)
def test_divided_queries_see_the_same(at: Cut) -> None:
    x = given(63, 100, 2, 16)
    exact = whole(*x)
    assert distance(torch.cat(divided(*x, at), dim=1), exact) < 1e-14
    assert distance(attention(*x), exact) < 1e-14
    with torch.no_grad():
        twin = at_once(*moved(x, torch.float32))
        ours = torch.cat(divided(*moved(x, torch.float32), at), dim=1)
    assert ours.shape == twin.shape
    assert distance(ours.cpu(), exact) <= 2 * max(distance(twin.cpu(), exact), lowest(x))


def test_a_refiner_through_cuts_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks and what is remembered of them, every attention cut, also those to words."""

    def flown(dtype: torch.dtype) -> list[Tensor]:
        model = filled(RefinerModel(SMALL_REFINER))
        assert isinstance(model, RefinerModel)
        refiner, latents = Refiner(model.to(DEVICE, dtype)), normal(1, 1, 8, 7, 1, 2).to(DEVICE)
        state = refiner.start(latents[:, :, :1], prompt=refiner.prompt(normal(2, 1, 7, 12).to(DEVICE)))
        out = []
        for part in latents[:, :, 1:].split(3, dim=2):
            refined, state = refiner.step(state, part)
            out.append(refined)
        return [*out, *tensors(state.history)]

    exact, twin = flown(torch.float64), flown(torch.float32)
    asked = []

    def always(q: Tensor, k: Tensor) -> Cut:
        asked.append(k.shape[1])
        return Cut(queries=1, parts=3)

    monkeypatch.setattr(waves, "cut_of", always)
    for got, plain, want in zip(flown(torch.float32), twin, exact, strict=True):
        assert distance(got, want) <= 2 * max(distance(plain, want), EPS)
    assert {7, 8, 14} <= set(asked)  # words; sink and block; sink, block and block


@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("sharp", [1.0, 8.0])
@pytest.mark.parametrize(("S", "parts"), [(2048, 4), (2050, 4), (1936, 2), (3080, 7), (2053, 6)])
def test_cudnn_in_parts(S: int, parts: int, sharp: float) -> None:
    """In bf16: outputs and the logarithms of sums."""
    x = given(80, S, 4, 128, sharp=sharp)
    q, k, v = moved(x, torch.bfloat16)
    exact = whole(q.double(), k.double(), v.double())
    _, sums = summed_plain(q.double(), k.double(), v.double())
    with torch.no_grad():
        twin, ours = at_once(q, k, v), in_parts(q, k, v, parts=parts)
        _, lse = summed(q, k, v)
    assert lse.dtype == torch.float32
    assert distance(lse, sums) < 1e-5
    assert distance(ours, exact) <= 2 * distance(twin, exact)
    with torch.no_grad():
        ours = torch.cat(divided(q, k, v, Cut(queries=16, parts=parts)), dim=1)
        assert distance(ours, exact) <= 2 * distance(twin, exact)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")
def test_a_cut_at_full_size() -> None:
    x = [
        t.to(DEVICE, torch.bfloat16) for t in (normal(1, 1, 2640, 32, 128), *normal(2, 2, 1, 12320, 32, 128))
    ]
    with torch.no_grad():
        found, ours, twin = cut_of(x[0], x[1]), attention(*x), attention(*x, apart=False)
    assert (found is None) == (torch.cuda.get_device_properties(0).major != 9)
    q, k, v = (t[:, :, ::8].double() for t in x)
    exact = torch.cat([whole(a, k, v) for a in q.split(330, dim=1)], dim=1)
    for part in (slice(None), slice(2560, None)):
        wanted = exact[:, part]
        assert distance(ours[:, part, ::8], wanted) <= 2 * distance(twin[:, part, ::8], wanted)


# --- the kernel -----------------------------------------------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16 if DEVICE == "cuda" else torch.float16], ids=str
)
@pytest.mark.parametrize("size", [(1, 1, 1, 2), (2, 7, 3, 63), (4, 63, 2, 16), (7, 5, 1, 130)], ids=str)
def test_the_kernel_equals_its_twin(size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    P, T, H, _ = size
    o, lse = normal(1, *size).to(DEVICE, dtype), 30 * normal(2, P, H, T).to(DEVICE)
    exact, plain = merge_parts_plain(o.double(), lse.double()), merge_parts_plain(o, lse)
    ours = merge_parts_triton(o, lse)
    assert (ours.shape, ours.dtype) == (exact.shape, dtype)
    assert distance(ours, exact) <= 2 * max(distance(plain, exact), EPS)
    with torch.no_grad():
        assert distance(merge_parts(o, lse), exact) <= 2 * max(distance(plain, exact), EPS)


@needs_triton
def test_the_kernel_reads_parts_of_any_stride() -> None:
    o, lse = (
        normal(1, 5, 4, 6, 2, 24).to(DEVICE)[1, :3, ::2, :, 3:15],
        normal(2, 6, 4, 3).to(DEVICE).permute(2, 1, 0),
    )
    o = o.transpose(1, 2)
    assert o.shape == (3, 2, 3, 12)
    torch.testing.assert_close(merge_parts_triton(o, lse[:, :3, 1:3]), merge_parts_plain(o, lse[:, :3, 1:3]))
