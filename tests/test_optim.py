"""The optimisers against closed forms and a singular value decomposition in fp64."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from engine.train.optim import (
    NS,
    NS_RANGE,
    NS_STEPS,
    Ema,
    Muon,
    OptimConfig,
    Optimiser,
    matrices,
    orthogonalise,
    schedule,
)


def _svd_newton_schulz(g: Tensor) -> Tensor:
    """The oracle: the same polynomial, applied to singular values instead of matrices."""
    u, s, vh = torch.linalg.svd(g.double(), full_matrices=False)
    s = s / g.double().norm(dim=(-2, -1), keepdim=True).squeeze(-1)
    for _ in range(NS_STEPS):
        s = NS[0] * s + NS[1] * s**3 + NS[2] * s**5
    return u * s[..., None, :] @ vh


@pytest.mark.parametrize("shape", [(16, 16), (3, 24, 70), (3, 70, 24), (2, 1, 7)])
def test_orthogonalise_is_the_polynomial_of_the_singular_values(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    g = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(
        orthogonalise(g, dtype=torch.float64), _svd_newton_schulz(g), atol=1e-6, rtol=1e-5
    )


def test_orthogonalise_comes_near_the_polar_factor() -> None:
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(24, 40, dtype=torch.float64), full_matrices=False)
    # singular values whose share of the Frobenius norm stays above the 0.01 that five steps can lift
    g = u * torch.logspace(-1.5, 0, 24, dtype=torch.float64) @ vh
    for dtype in (torch.float64, torch.bfloat16):
        values = torch.linalg.svdvals(orthogonalise(g, dtype=dtype).double())
        slack = 0 if dtype == torch.float64 else 0.05  # bf16 keeps 8 bits, through 15 products
        assert values.min() > NS_RANGE[0] - slack
        assert values.max() < NS_RANGE[1] + slack


def test_range_of_the_polynomial() -> None:
    s = torch.linspace(0.01, 1, 100_001, dtype=torch.float64)
    for _ in range(NS_STEPS):
        s = NS[0] * s + NS[1] * s**3 + NS[2] * s**5
    assert s.min() >= NS_RANGE[0]
    assert s.max() <= NS_RANGE[1]


def test_matrices_are_views_in_any_memory_order() -> None:
    fused = torch.zeros(12, 4)
    assert [m.shape for m in matrices(fused)] == [(4, 4)] * 3
    assert [m.shape for m in matrices(torch.zeros(5, 4))] == [(5, 4)]
    for kernel in (torch.zeros(8, 3, 3, 3), torch.zeros(8, 3, 3, 3).to(memory_format=torch.channels_last)):
        for m in matrices(kernel):
            m += 1
        assert kernel.eq(1).all()
    for m in matrices(fused):
        m += 1
    assert fused.eq(1).all()


def test_muon_step_closed_form() -> None:
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(24, 16, 3, 3).to(memory_format=torch.channels_last))
    fused = nn.Parameter(torch.randn(64, 32))
    before, before_fused = w.detach().clone(), fused.detach().clone()
    muon = Muon([w, fused], momentum=0.9)
    grads = []
    for _ in range(2):
        w.grad, fused.grad = torch.randn(24, 16, 3, 3), torch.randn(64, 32)
        grads.append((w.grad, fused.grad))
        muon.step(0.1)
    expected, expected_fused = before.flatten(1), before_fused
    m, mf = torch.zeros(24, 144), torch.zeros(64, 32)
    for g, gf in grads:
        g = g.flatten(1)
        m, mf = 0.9 * m + 0.1 * g, 0.9 * mf + 0.1 * gf
        expected = expected - 0.1 * _svd_newton_schulz(0.1 * g + 0.9 * m)
        u = (0.1 * gf + 0.9 * mf).view(2, 32, 32)
        expected_fused = expected_fused - 0.1 * _svd_newton_schulz(u).view(64, 32)
    # updates have singular values near 1 and are computed in bf16: 15 products of relative error 2⁻⁸
    for got, want, start in (
        (w.flatten(1), expected, before.flatten(1)),
        (fused, expected_fused, before_fused),
    ):
        assert (got - want).norm() / (want - start).norm() < 15 * 2**-8


def test_every_parameter_moves_by_its_own_rule() -> None:
    net = nn.Sequential(nn.Embedding(32, 16), nn.Linear(16, 32), nn.Linear(32, 3))
    optimiser = Optimiser(net, OptimConfig(warmup=0, decay=0), adam=lambda name: name.startswith("0."))
    assert [w.shape for w in optimiser.muon.weights] == [(32, 16)]
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.arange(8)).square().sum().backward()
    optimiser.step(0.0)
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(p.grad is None for p in net.parameters())


def test_a_weight_without_gradient_stays_finite() -> None:
    net = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])
    optimiser = Optimiser(net, OptimConfig(warmup=0))
    net[0](torch.ones(1, 16)).sum().backward()
    optimiser.step(0.1)
    assert all(p.isfinite().all() for p in net.parameters())


def test_schedule_closed_form() -> None:
    share = [schedule(f, warmup=0.1, decay=0.5) for f in (0, 0.05, 0.1, 0.3, 0.5, 0.75, 1.0, 1.2)]
    assert share == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0, 0])
    falling = [schedule(i / 100, warmup=0, decay=1) for i in range(101)]
    assert all(a > b for a, b in pairwise(falling))
    with pytest.raises(ValueError, match=r"warmup=0\.7"):
        OptimConfig(warmup=0.7, decay=0.6)


def test_ema_closed_form() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    ema, expected = Ema(net, decay=0.5), 2.0
    for t in range(40):
        nn.init.constant_(net.weight, float(t))
        ema.update(net)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * t
    assert ema.module.weight.item() == pytest.approx(expected, rel=1e-6)
    assert not ema.module.weight.requires_grad


def test_state_round_trip_continues_bitwise() -> None:
    def run(optimiser: Optimiser, net: nn.Module, steps: range) -> None:
        for i in steps:
            net(torch.randn(4, 16, generator=torch.Generator().manual_seed(i))).square().sum().backward()
            optimiser.step(i / 10)

    torch.manual_seed(0)
    straight, config = nn.Linear(16, 16), OptimConfig()
    first = Optimiser(straight, config)
    run(first, straight, range(3))
    resumed = nn.Linear(16, 16)
    resumed.load_state_dict(straight.state_dict())
    second = Optimiser(resumed, config)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # a file would part them too
    run(first, straight, range(3, 6))
    run(second, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
