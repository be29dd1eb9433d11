"""Whether numbers are finite: asked where they are made, answered where somebody must know. Between, a GPU goes on."""

from __future__ import annotations

import time

import torch
from torch import Tensor


class NotFinite(FloatingPointError):
    """A chunk came out with infinities or NaNs. The state it was made from is as good as before: try again from it."""


class Finite:
    """An answer that is on its way to the host."""

    def __init__(self, flag: Tensor, *, otherwise: str) -> None:
        """flag: [] bool, whether all is finite.  otherwise: what is said if not."""
        self._flag, self._otherwise = flag, otherwise
        self._arrived: torch.cuda.Event | None = None
        self._known = time.perf_counter()  # a CPU has the answer already
        if flag.is_cuda:
            self._flag = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(flag, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def require(self) -> float:
        """Wait for the answer. Returns the time it was there, on the clock `time.perf_counter`. Raises NotFinite."""
        if self._arrived is not None:
            self._arrived.synchronize()
            self._arrived, self._known = None, time.perf_counter()
        if not bool(self._flag):
            raise NotFinite(self._otherwise)
        return self._known
