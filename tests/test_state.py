"""The window, and the moving anchor: what was remembered reads the same from another anchor."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.conditioning import Conditioning, rigid_inverse
from engine.config import SANA_WM
from engine.state import BlockState, Keys, Memory, reanchor, with_room
from engine.window import attention_mask, chunk_lengths, visible_chunks
from tests.flights import SMALL, distance, flight, inputs, random_model, run


def test_the_window_keeps_a_sink_and_the_newest() -> None:
    assert [visible_chunks(c, SANA_WM) for c in range(5)] == [(), (0,), (0, 1), (0, 2), (0, 3)]
    free = replace(SANA_WM, sink=False)
    assert [visible_chunks(c, free) for c in range(5)] == [(), (0,), (0, 1), (1, 2), (2, 3)]
    assert visible_chunks(5, replace(SANA_WM, window=-1)) == (0, 1, 2, 3, 4)
    assert visible_chunks(5, replace(SANA_WM, window=0)) == ()


def test_the_first_chunk_takes_the_remainder() -> None:
    assert chunk_lengths(31, SANA_WM) == (4, *[3] * 9)
    assert chunk_lengths(9, SANA_WM) == (6, 3)
    assert chunk_lengths(3, SANA_WM) == (3,)
    assert chunk_lengths(3, SMALL) == (1, 1, 1)
    assert chunk_lengths(9, replace(SANA_WM, causal=False)) == (9,)


def test_the_mask_is_the_window() -> None:
    mask = attention_mask(index=2, cached=(4, 3), chunks=(3, 2), config=SANA_WM, device=torch.device("cpu"))
    assert mask is not None
    assert mask[0].tolist() == [True] * 10 + [False] * 2
    assert mask[3].tolist() == [True] * 4 + [False] * 3 + [True] * 5
    one = attention_mask(index=2, cached=(4, 3), chunks=(3,), config=SANA_WM, device=torch.device("cpu"))
    assert one is None


def test_the_stream_holds_no_more_than_its_window() -> None:
    model = random_model()
    with torch.no_grad():
        _, past = run(model, inputs(model, 7), (1,) * 7)
    keys = past[1].mixer
    assert isinstance(keys, Keys)
    assert keys.k.shape[2] == 3 * 6
    assert past[1].chunks == (1, 1, 1)
    assert past[1].index == 7


def motion(yaw: float, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
    G = torch.eye(4, dtype=torch.float64)
    G[0, 0] = G[2, 2] = math.cos(yaw)
    G[0, 2], G[2, 0] = math.sin(yaw), -math.sin(yaw)
    G[:3, 3] = torch.tensor(shift)
    return G.expand(2, 4, 4)


def seen_from(cond: Conditioning, G: Tensor) -> Conditioning:
    """The same cameras relative to another anchor."""
    G = G[:, None, None].to(cond.P)
    return replace(cond, P=cond.P @ rigid_inverse(G), P_inv=G @ cond.P_inv, reanchor=None)


def continued(
    past: tuple[BlockState, ...], dtype: torch.dtype, G: Tensor | None
) -> tuple[Tensor, tuple[BlockState, ...]]:
    """Three more frames after five, with the anchor moved by G before them."""
    model = random_model(dtype=dtype)
    given = inputs(random_model(), 8)
    cond = replace(given["cond"].part(5, 8), reanchor=None).to(dtype=dtype)
    if G is not None:
        past, cond = reanchor(past, G.to(dtype)), seen_from(cond, G)
    flow, past = model(
        given["x"][:, :, 5:8].to(dtype),
        timestep=given["timestep"][:, 5:8],
        text=given["text"].to(dtype),
        text_mask=None,
        cond=cond,
        past=past,
    )
    return flow, past


def history(dtype: torch.dtype) -> tuple[BlockState, ...]:
    model, given = random_model(dtype=dtype), inputs(random_model(), 8)
    given = {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in given.items()}
    given["cond"] = replace(given["cond"].part(0, 5), reanchor=None).to(dtype=dtype)
    given["x"], given["timestep"] = given["x"][:, :, :5], given["timestep"][:, :5]
    return model(**given)[1]


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_a_pure_turn_of_the_anchor_changes_nothing_ever(dtype: torch.dtype, bound: float) -> None:
    past = history(dtype)
    stay, held = continued(past, dtype, None)
    turned, moved = continued(past, dtype, motion(0.7))
    assert distance(turned, stay) < bound
    want = reanchor(held, motion(0.7).to(dtype))
    for a, b in zip(moved, want, strict=True):
        if isinstance(a.mixer, Memory) and isinstance(b.mixer, Memory):
            assert distance(a.mixer.cam_S, b.mixer.cam_S) < bound


@torch.no_grad()
def test_the_past_reads_the_same_after_any_move() -> None:
    """Straight through memory: q̃ᵀS̃ in new ray coordinates is qᵀS in the old ones."""
    past = history(torch.float32)
    G = motion(0.4, (0.5, -0.2, 1.1)).float()
    generator = torch.Generator().manual_seed(3)
    P = flight(8).P[:, 7:8, :2].float()  # two rays of a later frame
    for old, new in zip(past, reanchor(past, G), strict=True):
        q = torch.randn(2, 2, 2, 32, generator=generator)
        assert distance(read(new, q, P @ rigid_inverse(G)[:, None, None]), read(old, q, P)) < 1e-5


def read(block: BlockState, q: Tensor, P: Tensor) -> Tensor:
    """Read with queries [B, H, n, K] of rays P [B, 1, n, 4, 4]; outputs in ray coordinates."""
    q = fours(q, P.mT)
    if isinstance(block.mixer, Memory):
        return fours(q @ block.mixer.cam_S, P)
    scores = (q @ block.mixer.cam_k.mT).softmax(-1)
    return fours(scores @ block.mixer.cam_v, P)


def fours(x: Tensor, M: Tensor) -> Tensor:
    """M on every group of four of the first half, by einsum."""
    half = x.shape[-1] // 2
    first = torch.einsum("bxnij,bhngj->bhngi", M.to(x), x[..., :half].unflatten(-1, (-1, 4)))
    return torch.cat((first.flatten(-2), x[..., half:]), -1)


@torch.no_grad()
def test_later_writes_differ_after_a_shift() -> None:
    """Why training moves the anchor too: the delta rule measures keys, and a shift changes their length."""
    past = history(torch.float64)
    stay, _ = continued(past, torch.float64, None)
    shifted, _ = continued(past, torch.float64, motion(0.0, (1.0, 0.0, 2.0)))
    assert distance(shifted, stay) > 1e-4


def test_keys_with_room_are_those_joined_anew() -> None:
    """Filled pass after pass with other keys of a chunk; what they were made of stays as it was."""
    g = torch.Generator().manual_seed(0)

    def keys(tokens: int) -> Keys:
        return Keys(**{n: torch.randn(2, 3, tokens, 4, generator=g) for n in ("k", "v", "cam_k", "cam_v")})

    past, before = keys(5), None
    room = with_room(past, 2)
    for _ in range(2):
        new = keys(2)
        got = room.filled(new)
        for name in ("k", "v", "cam_k", "cam_v"):
            joined = torch.cat([getattr(x, name) for x in (past, new)], dim=2)
            assert torch.equal(getattr(got, name), joined)
        assert type(got) is Keys  # what is remembered has no room
        assert before is None or got.k.data_ptr() == before
        before = got.k.data_ptr()
