"""The GPU kernels of one streamed chunk, interpreted where no GPU is, against their twin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.rope import Rotary, rotary_tables, rotate
from kernels.gdn_scan import gdn_scan
from kernels.gdn_stream import EXACT, gdn_main, gdn_stream, tokens
from tests.flights import CHUNKY, SMALL, distance, inputs, random_model, run

pytest.importorskip("triton", reason="needs Triton (its interpreter where no GPU is)")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# the interpreter truncates where it should round to bf16
DTYPES = [torch.float32, torch.bfloat16 if DEVICE == "cuda" else torch.float16]
SIZES = [(1, 5, 1, 1, 16), (2, 2, 3, 7, 24), (1, 1, 4, 33, 40), (1, 1, 2, 65, 112)]
EPS = 1e-8


def arguments(B: int, H: int, F: int, N: int, K: int, V: int) -> dict[str, Tensor]:
    """Random and in fp64; vectors are views of memory in another order, gates too."""
    g = torch.Generator().manual_seed(B * 1000 + F * 100 + N)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    qkv = normal(B, F, N, H, 2 * K + V).permute(0, 3, 1, 2, 4)
    q, k, v = qkv.split([K, K, V], dim=-1)
    return dict(
        q=q.relu(),
        k=k.relu() * (K * N) ** -0.5,
        v=v if V > 1 else torch.ones_like(v),
        beta=normal(B, F, N, H).permute(0, 3, 1, 2).sigmoid(),
        decay=normal(B, F, H).mT.sigmoid(),
        S=normal(B, H, K, V),
    )


def served(given: dict[str, Tensor], dtype: torch.dtype, *, wide: bool) -> dict[str, Tensor]:
    """As a model gives them: v in dtype, q and k too unless wide, all else in fp32."""
    kinds = {"v": dtype} if wide else dict.fromkeys("qkv", dtype)
    return {name: x.to(DEVICE, kinds.get(name, torch.float32)) for name, x in given.items()}


def rough(given: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """In fp32, with all that is known of each token rounded to dtype."""
    return {
        name: (x.to(dtype) if name in ("q", "k", "v", "beta") else x).float() for name, x in given.items()
    }


def compare(
    ours: tuple[Tensor, ...], plain: tuple[Tensor, ...], exact: tuple[Tensor, ...], dtype: torch.dtype
) -> None:
    """Outputs have dtype and memories fp32; neither is twice as wrong as the twin, or as a unit in fp32's last place."""
    assert [x.dtype for x in ours] == [dtype] + [torch.float32] * (len(ours) - 1)
    for got, twin, want in zip(ours, (plain[0].to(dtype), *plain[1:]), exact, strict=True):
        floor = torch.finfo(torch.float32).eps
        assert distance(got.cpu(), want) <= 2 * max(distance(twin, want), floor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "V"), [*zip(SIZES, (16, 20, 1, 112), strict=True), (SIZES[1], 1)], ids=str)
def test_kernel_equals_twin(size: tuple[int, ...], V: int, dtype: torch.dtype) -> None:
    given = arguments(*size, V)
    chunk = (size[2],)
    exact, plain = gdn_scan(**given, chunks=chunk), gdn_scan(**rough(given, dtype), chunks=chunk)
    compare(gdn_stream(**served(given, dtype, wide=True)), plain, exact, dtype)


def main_twin(x: dict[str, Tensor], table: Rotary) -> tuple[Tensor, ...]:
    """The main branch out of its parts."""
    x, z, chunk = dict(x), x["z"], (x["k"].shape[2],)
    del x["z"]
    num, S = gdn_scan(**{**x, "q": rotate(x["q"], table), "k": rotate(x["k"], table)}, chunks=chunk)
    den, z = gdn_scan(**{**x, "v": torch.ones_like(x["v"][..., :1]), "S": z}, chunks=chunk)
    return num / (den + EPS), S, z


def table(F: int, N: int, K: int, *, device: str = "cpu", dtype: torch.dtype) -> Rotary:
    """Of a chunk late enough that every angle counts."""
    grid = (N // 5, 5) if N % 5 == 0 else (1, N)
    return rotary_tables(
        frame=5, frames=F, grid=grid, head_dim=K, device=torch.device(device), dtype=dtype
    )[0]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "wide"), [(SIZES[0], True), *((s, False) for s in SIZES)], ids=str)
def test_main_branch_equals_its_parts(size: tuple[int, ...], wide: bool, dtype: torch.dtype) -> None:
    given = arguments(*size, size[4])
    given["z"] = given["S"][..., :1].square() + 1
    exact = main_twin(given, table(*size[2:], dtype=torch.float64))
    plain = main_twin(rough(given, dtype), table(*size[2:], dtype=torch.float32))
    turn = table(*size[2:], device=DEVICE, dtype=torch.float32)
    ours = gdn_main(**served(given, dtype, wide=wide), cos=turn.cos, sin=turn.sin, eps=EPS)
    compare(ours, plain, exact, dtype)


def test_parts_and_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """How the work is cut is a matter of speed; the same cut gives the same bits."""
    given = arguments(1, 2, 3, 70, 40, 40)
    given["z"] = given["S"][..., :1].square() + 1
    turn = table(3, 70, 40, device=DEVICE, dtype=torch.float32)
    x = dict(served(given, torch.float32, wide=True), cos=turn.cos, sin=turn.sin, eps=EPS)
    exact = main_twin(given, table(3, 70, 40, dtype=torch.float64))
    plain = main_twin(rough(given, torch.float32), table(3, 70, 40, dtype=torch.float32))
    cut = replace(EXACT, parts=3, block=16, columns=16, read_block=16)
    monkeypatch.setattr("kernels.gdn_stream.EXACT", cut)
    ours = gdn_main(**x)
    compare(ours, plain, exact, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(ours, gdn_main(**x), strict=True))


def test_the_operators_are_well_formed() -> None:
    """Schema and shapes without data agree, as compilers need."""
    x = {n: t.float().to(DEVICE) for n, t in arguments(1, 2, 2, 5, 16, 16).items()}
    rows = [tokens(x[n]) for n in "qkv"]
    rest = [x[n] for n in ("beta", "decay", "S")]
    turn, z = table(2, 5, 16, device=DEVICE, dtype=torch.float32), x["S"][..., :1].abs()
    kinds = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.explorer.gdn_stream.default, (*rows, *rest), test_utils=kinds)
    main = (*rows, turn.cos, turn.sin, *rest, z, EPS)
    torch.library.opcheck(torch.ops.explorer.gdn_main.default, main, test_utils=kinds)


def spoken(given: dict[str, Any], device: str, dtype: torch.dtype) -> dict[str, Any]:
    """A model's arguments elsewhere."""
    moved = {n: t.to(device=device, dtype=dtype) for n, t in given.items() if n != "text_mask"}
    return {**given, **moved}


@pytest.mark.parametrize(
    ("config", "lengths"), [(CHUNKY, (4, 3, 3)), (SMALL, (1, 1, 1))], ids=["three", "lone"]
)
def test_a_stream_equals_the_dense_form(
    monkeypatch: pytest.MonkeyPatch, config: ModelConfig, lengths: tuple[int, ...]
) -> None:
    """Chunk by chunk through the kernels: what fp64 makes of all chunks at once."""
    model = random_model(config)
    with torch.no_grad():
        given = inputs(model, sum(lengths))
        want, _ = run(model, given, lengths, dense=len(lengths))
        model.to(DEVICE, torch.float32)
        given = spoken(given, DEVICE, torch.float32)
        plain, _ = run(model, given, lengths)
        asked = []

        def always(x: Tensor, *, width: int, chunks: tuple[int, ...]) -> bool:
            asked.append(len(chunks))
            return len(chunks) == 1

        monkeypatch.setattr("engine.gdn.streams", always)
        got, _ = run(model, given, lengths)
    assert set(asked) == {1}
    assert distance(got.cpu(), want) <= 2 * max(distance(plain.cpu(), want), 1e-6)
