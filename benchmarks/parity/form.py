"""The three ways in which everything is computed, and how far two results are apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import engine.refiner_model
import kernels.program
from engine.values import mapped

M = TypeVar("M", bound=nn.Module)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Form:
    """How a model is run."""

    dtype: torch.dtype
    kernels: bool

    def model(self, model: M, device: torch.device) -> M:
        """The model itself, its weights changed: as a release is placed, buffers stay in fp32."""
        for p in model.parameters():
            p.data = p.data.to(device, self.dtype).contiguous()
        for b in model.buffers():
            b.data = b.data.to(device)
        return model.eval().requires_grad_(False)

    def value(self, value: V) -> V:
        """A state of a model in bf16 for one in this form. Whatever such a model keeps in fp32 stays so."""
        return mapped(value, lambda x: x.to(self.dtype) if x.dtype == torch.bfloat16 else x)

    @contextmanager
    def paths(self) -> Iterator[None]:
        """Without gradients; by kernels where they can be built, or by plain torch everywhere."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if not self.kernels:
                stack.enter_context(patch.object(kernels.program, "INSTALLED", False))
                stack.enter_context(patch.object(engine.refiner_model, "gelu_of", plain_gelu))
            if self.dtype == torch.float32:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield


EXACT = Form(torch.float32, kernels=False)
PLAIN = Form(torch.bfloat16, kernels=False)
FAST = Form(torch.bfloat16, kernels=True)
FORMS = (EXACT, PLAIN, FAST)


def plain_gelu(linear: nn.Module, x: Tensor) -> Tensor:
    """`engine.refiner_model.gelu_of` in two steps."""
    return F.gelu(linear(x), approximate="tanh")


@dataclass(frozen=True, slots=True)
class Part:
    """A quantity: its tensors, and how far some of them are from what a fixture holds of them."""

    values: Sequence[Tensor]
    stored: float | None = None


Parts = dict[str, Part]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    what: str
    stored: float | None  # plain fp32 from the fixture
    plain: float  # plain bf16 from plain fp32
    fast: float  # the fast path from plain fp32

    LIMIT = 2.0
    STORED = 1e-4

    @property
    def ratio(self) -> float:
        """Where plain bf16 happens to be exact, a unit in fp32's last place stands for its error."""
        return self.fast / max(self.plain, torch.finfo(torch.float32).eps)

    @property
    def passed(self) -> bool:
        near = self.stored is None or self.stored <= self.STORED
        return near and math.isfinite(self.plain) and self.ratio <= self.LIMIT


def rows(what: str, made: Mapping[Form, Parts]) -> list[Row]:
    """One for each quantity."""
    return [
        Row(
            what=f"{what}: {name}",
            stored=exact.stored,
            plain=distance(made[PLAIN][name].values, exact.values),
            fast=distance(made[FAST][name].values, exact.values),
        )
        for name, exact in made[EXACT].items()
    ]


def distance(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """|got - want|₂ / |want|₂ of each tensor, all of them as a root mean square. Infinite where a number is not finite."""
    squares = []
    for g, w in zip(got, want, strict=True):
        if g.shape != w.shape or not (g.isfinite().all() and w.isfinite().all()):
            return math.inf
        size, off = w.double().norm().item(), (g.double() - w.double()).norm().item()
        squares.append((off / size if size else off) ** 2)
    return math.sqrt(sum(squares) / len(squares))
