"""Rotary tables and ray coordinates: both forms of each, and what they must preserve."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.rope import Rotary, axis_pairs, rotary_tables, rotate, rotate_complex, rotate_real
from engine.ucpe import (
    fours_by_products,
    fours_by_sums,
    into_erase,
    into_memory,
    into_query,
    move_vectors,
    out_of_ray,
    ray_frames,
    whole_move,
)
from tests.flights import GRID, flight


def tables(frame: int = 0, head_dim: int = 112) -> tuple[Rotary, Rotary]:
    return rotary_tables(
        frame=frame, frames=3, grid=GRID, head_dim=head_dim, device=torch.device("cpu"), dtype=torch.float64
    )


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_pairs_of_the_released_head() -> None:
    assert axis_pairs(112) == (20, 18, 18)
    assert axis_pairs(56) == (10, 9, 9)


def test_both_rotations_are_one() -> None:
    table, _ = tables()
    assert table.turn is not None
    x = normal(2, 4, 3, 6, 112)
    for back in (False, True):
        real = rotate_real(x, table, back=back)
        fast = rotate_complex(x, table.turn.conj() if back else table.turn)
        assert torch.allclose(real, fast, rtol=0, atol=1e-14)
    assert torch.allclose(rotate(rotate(x, table), table, back=True), x)


def test_scores_depend_on_distance_only() -> None:
    q, k = normal(1, 1, 3, 6, 112), normal(2, 1, 3, 6, 112)[1:]
    scores = [(rotate(q, t) * rotate(k, t).roll(1, 2)).sum(-1) for t in (tables(0)[0], tables(50)[0])]
    assert torch.allclose(scores[0], scores[1])


def test_both_ways_to_multiply_by_fours_are_one() -> None:
    x, M = normal(2, 3, 2, 6, 16), normal(2, 1, 2, 6, 4, 4)
    assert torch.allclose(fours_by_products(x, M), fours_by_sums(x, M), rtol=0, atol=1e-14)
    strided = normal(2, 2, 6, 3, 32).permute(0, 3, 1, 2, 4)[..., :16]
    assert torch.allclose(fours_by_products(strided, M), fours_by_sums(strided, M), rtol=0, atol=1e-14)


def test_rays_hold_the_relative_pose() -> None:
    """A query read with its own key gives q·k, and a value comes back as it went in."""
    cond = flight(3)
    rays = ray_frames(P=cond.P, P_inv=cond.P_inv, reanchor=None, rotary=tables(head_dim=32)[1])
    q, k = normal(2, 2, 3, 6, 32), normal(2, 4, 3, 6, 32)[:, 2:]
    assert torch.allclose((into_query(q, rays) * into_memory(k, rays)).sum(-1), (q * k).sum(-1))
    assert torch.allclose(out_of_ray(into_memory(k, rays), rays), k, atol=1e-6)
    assert into_erase(k, rays) == (None, None)


def test_moves_inside_a_clip_come_down_to_one_anchor() -> None:
    """Frame by frame with the memory moved along, and all at once relative to the last anchor."""
    cond = flight(8)
    assert cond.reanchor is not None
    G = cond.reanchor
    table = rotary_tables(
        frame=0, frames=8, grid=GRID, head_dim=32, device=torch.device("cpu"), dtype=torch.float64
    )[1]
    rays = ray_frames(P=cond.P, P_inv=cond.P_inv, reanchor=G, rotary=table)
    k = normal(2, 2, 8, 6, 32)
    single = ray_frames(P=cond.P, P_inv=cond.P_inv, reanchor=None, rotary=table)
    moved = into_memory(k, single)[:, :, 2]
    for f in range(3, 8):
        moved = move_vectors(moved, G[:, f])
    assert torch.allclose(into_memory(k, rays)[:, :, 2], moved, atol=1e-5)
    _, own = into_erase(k, rays)
    assert own is not None
    assert torch.equal(own, into_memory(k, single))
    total = torch.eye(4, dtype=torch.float64)
    for f in range(8):
        total = G[:, f] @ total
    assert torch.allclose(whole_move(G), total)
