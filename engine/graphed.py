"""A function of tensors in one launch: captured as a CUDA graph for each set of shapes, replayed ever after.

A replay computes what the function computes, without its launches from Python: on small or many kernels they take
longer than the kernels. What the function is given is copied into the graph's own tensors, what it returns is copied
out, so values stay values.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from engine.values import put_together, take_apart

R = TypeVar("R")


class Graphed(Generic[R]):
    """Call it like the function. Arguments and results are nested tuples and dataclasses of tensors and plain values.

    The function must leave its arguments as they are, must not wait for the GPU, and may depend on plain values (they
    belong to what a graph is kept for) but not on the contents of tensors. Callers never edit a tensor that they have
    passed: one passed again is not copied again. Every set of shapes is captured when it first comes, which takes a while:
    what comes once is not for this.
    """

    def __init__(
        self, function: Callable[..., R], *, eager: Callable[..., R] | None = None, patient: bool = False
    ) -> None:
        """eager: computes the same, and is called instead where there is no GPU.

        patient: a set of shapes is computed as it is when it first comes, and captured when the next call brings it
        again; the graph of another one is given up for it. For what changes now and then, and takes much memory.
        """
        if patient and eager is not None:
            raise ValueError("a patient graph needs a first call of the very function that it captures")
        self.function, self.eager, self.patient = function, eager or function, patient
        self._graphs: dict[Hashable, _Graph] = {}
        self._latest: Hashable = None

    @property
    def captured(self) -> int:
        """How many sets of shapes are."""
        return len(self._graphs)

    def __call__(self, *args: Any) -> R:
        leaves: list[Tensor] = []
        key = take_apart(args, leaves)
        if not leaves or not leaves[0].is_cuda or torch.is_grad_enabled():
            return self.eager(*args)
        if key not in self._graphs:
            if self.patient and key != self._latest:
                self._latest = key
                return self.eager(*args)
            if self.patient:
                self._graphs.clear()
            self._graphs[key] = _Graph(self.function, key, leaves, warm=self.patient)
        self._latest = key
        result: R = self._graphs[key].replay(leaves)
        return result


class _Graph:
    """One capture."""

    def __init__(
        self, function: Callable[..., Any], key: Hashable, leaves: list[Tensor], *, warm: bool
    ) -> None:
        """warm: the function was called with such tensors before."""
        self._inputs = [torch.empty_like(x).copy_(x) for x in leaves]
        self._last: list[weakref.ref[Tensor] | None] = [None] * len(leaves)
        args = put_together(key, iter(self._inputs))
        if not warm:
            _warm_up(function, args)
        self._graph = torch.cuda.CUDAGraph()
        self._outputs: list[Tensor] = []
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = take_apart(function(*args), self._outputs)

    def replay(self, leaves: list[Tensor]) -> Any:
        news = [i for i, x in enumerate(leaves) if (r := self._last[i]) is None or r() is not x]
        if news:
            torch._foreach_copy_([self._inputs[i] for i in news], [leaves[i] for i in news])
        for i in news:
            self._last[i] = weakref.ref(leaves[i])
        self._graph.replay()
        copies = [torch.empty_like(x) for x in self._outputs]
        torch._foreach_copy_(copies, self._outputs)
        return put_together(self._result, iter(copies))


def _warm_up(function: Callable[..., Any], args: Any) -> None:
    """Compile, tune and allocate what a capture must not."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function(*args)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
