"""Muon for matrices, AdamW for the rest, a schedule over the share of the budget spent, averaged weights.

Muon: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

# a, b, c of x ← a x + b (x xᵀ) x + c (x xᵀ)² x: five steps take singular values in [0.01, 1] into NS_RANGE (Jordan et al.)
NS = (3.4445, -4.7750, 2.0315)
NS_STEPS = 5
NS_RANGE = (0.65, 1.25)
THIN = 16  # a matrix with a side below this has no directions worth equalising: AdamW


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Learning rates at their plateau, and how they rise and fall over the run."""

    muon: float = 0.02  # learning rate of matrices
    adam: float = 1e-3  # learning rate of everything else
    momentum: float = 0.95  # of Muon
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    warmup: float = 0.02  # share of the run in which rates rise from 0
    decay: float = 0.6  # share of the run, at its end, in which rates fall to 0

    def __post_init__(self) -> None:
        if min(self.warmup, self.decay) < 0 or self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup={self.warmup} and decay={self.decay} must share a run: at most 1 together"
            )


def schedule(fraction: float, *, warmup: float, decay: float) -> float:
    """Share of the plateau rate after `fraction` of the run: linear up, constant, linear to zero."""
    rise = fraction / warmup if warmup else 1.0
    fall = (1 - fraction) / decay if decay else 1.0
    return max(0.0, min(1.0, rise, fall))


def orthogonalise(g: Tensor, *, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Newton-Schulz towards the polar factor of each [..., R, C] matrix. Singular values end in NS_RANGE, not at 1."""
    a, b, c = NS
    x = g.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NS_STEPS):
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.mT if tall else x


def matrices(t: Tensor) -> list[Tensor]:
    """Views of a weight as matrices: kernels flattened, and a fused projection cut into square pieces.

    [R, C] with R a multiple of C is R/C pieces [C, C]. Channels-last kernels flatten in their own order (Muon does
    not mind the order of columns).
    """
    if t.ndim > 2:
        t = t.flatten(1) if t.is_contiguous() else t.permute(0, *range(2, t.ndim), 1).flatten(1)
    rows, columns = t.shape
    return list(t.split(columns)) if rows % columns == 0 else [t]


class Muon:
    """Momentum, then orthogonal updates, batched over matrices of one shape. No synchronisation with the device."""

    def __init__(self, weights: Sequence[Tensor], *, momentum: float) -> None:
        self.momentum = momentum
        self.weights = list(weights)
        groups: dict[torch.Size, list[tuple[int, int]]] = {}  # shape → (weight, piece)
        for i, w in enumerate(self.weights):
            for j, piece in enumerate(matrices(w.detach())):
                groups.setdefault(piece.shape, []).append((i, j))
        self.groups = list(groups.items())
        self.state = [
            torch.zeros(len(m), *shape, device=self.weights[m[0][0]].device) for shape, m in self.groups
        ]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        pieces = [matrices(w.detach()) for w in self.weights]
        grads = [_like(w) if w.grad is None else matrices(_laid_out_as(w.grad, w)) for w in self.weights]
        for (shape, members), momentum in zip(self.groups, self.state, strict=True):
            g = torch.stack([grads[i][j] for i, j in members]).float()
            momentum.lerp_(g, 1 - self.momentum)
            update = orthogonalise(g.lerp(momentum, self.momentum)).float()  # Nesterov
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            torch._foreach_add_([pieces[i][j] for i, j in members], update.unbind(0), alpha=-lr * scale)


def _like(w: Tensor) -> list[Tensor]:
    return matrices(torch.zeros_like(w))


def _laid_out_as(g: Tensor, w: Tensor) -> Tensor:
    """The gradient in the weight's memory order, so that both flatten alike; no copy where it is so already."""
    return g if g.stride() == w.stride() else torch.empty_like(w).copy_(g)


class Optimiser:
    """Muon on matrices, AdamW on vectors, thin matrices and whatever `adam` (given a parameter's name) claims.

    Claim embeddings, first and last layers. `step(fraction)` takes the share of the run that is spent.
    """

    def __init__(
        self, module: nn.Module, config: OptimConfig, *, adam: Callable[[str], bool] = lambda name: False
    ) -> None:
        self.config = config
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        matrix = {n for n, p in named if p.ndim > 1 and min(p.shape[0], p[0].numel()) >= THIN and not adam(n)}
        self.parameters: list[nn.Parameter] = [p for _, p in named]
        self.muon = Muon([p for n, p in named if n in matrix], momentum=config.momentum)
        rest = [p for n, p in named if n not in matrix]
        on_gpu = bool(rest) and rest[0].is_cuda
        self.adam = torch.optim.AdamW(
            rest or [torch.zeros(1)], lr=config.adam, betas=config.betas, weight_decay=0.0, fused=on_gpu
        )

    def step(self, fraction: float) -> None:
        """Average gradients over all processes, update, and forget the gradients."""
        average_gradients(self.parameters)
        share = schedule(fraction, warmup=self.config.warmup, decay=self.config.decay)
        for group in self.adam.param_groups:
            group["lr"] = self.config.adam * share
        self.adam.step()
        self.muon.step(self.config.muon * share)
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"muon": list(self.muon.state), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        for mine, saved in zip(self.muon.state, state["muon"], strict=True):
            mine.copy_(saved)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """The mean of every gradient over all processes, in one message. Nothing to do in a single process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    parameters = list(parameters)
    for p in parameters:
        if p.grad is None:  # every process sends the same list
            p.grad = torch.zeros_like(p)
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = [
        part.view(g.shape) for part, g in zip(flat.split([g.numel() for g in grads]), grads, strict=True)
    ]
    torch._foreach_copy_(grads, parts)


class Ema(Generic[M]):
    """An exponential average of a module's weights, in `module`, ready to evaluate or export.

    The decay starts low, min(decay, (1 + t) / (10 + t)), so that the random start is forgotten quickly.
    """

    def __init__(self, module: M, *, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module: M = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: M) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)
        for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
            mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
        self.module.load_state_dict(state["module"])
