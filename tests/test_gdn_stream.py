"""The GPU kernels of one streamed chunk, interpreted where no GPU is, against their twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.rope import Rotary, rotary_tables, rotate
from kernels.gdn_scan import gdn_scan
from kernels.gdn_stream import gdn_main, gdn_stream
from tests.flights import distance

pytest.importorskip("triton", reason="needs Triton (its interpreter where no GPU is)")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# the interpreter truncates where it should round to bf16
DTYPES = [torch.float32, torch.bfloat16 if DEVICE == "cuda" else torch.float16]
SIZES = [(1, 5, 1, 1, 16), (2, 2, 3, 7, 24), (1, 2, 4, 33, 16), (1, 3, 3, 70, 40), (2, 1, 2, 65, 112)]
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
@pytest.mark.parametrize("V", [None, 1, 20])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernel_equals_twin(size: tuple[int, ...], V: int | None, dtype: torch.dtype) -> None:
    given = arguments(*size, size[4] if V is None else V)
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
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_main_branch_equals_its_parts(size: tuple[int, ...], wide: bool, dtype: torch.dtype) -> None:
    given = arguments(*size, size[4])
    given["z"] = given["S"][..., :1].square() + 1
    exact = main_twin(given, table(*size[2:], dtype=torch.float64))
    plain = main_twin(rough(given, dtype), table(*size[2:], dtype=torch.float32))
    turn = table(*size[2:], device=DEVICE, dtype=torch.float32)
    ours = gdn_main(**served(given, dtype, wide=wide), cos=turn.cos, sin=turn.sin, eps=EPS)
    compare(ours, plain, exact, dtype)
