"""Whether numbers are finite: asked where they are made, answered where somebody must know. Between, a GPU goes on."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from engine.laps import Moment


class NotFinite(FloatingPointError):
    """A chunk came out with infinities or NaNs. The state it was made from is as good as before: try again from it."""


class Finite:
    """An answer that is on its way to the host."""

    def __init__(self, flag: Tensor, *, otherwise: str) -> None:
        """flag: [] bool, whether all is finite.  otherwise: what is said if not."""
        self._flag, self._otherwise = flag, otherwise
        self._known: Moment = time.perf_counter()  # a CPU has the answer already
        if flag.is_cuda:
            self._flag = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(flag, non_blocking=True)
            self._known = torch.cuda.Event(enable_timing=True)
            self._known.record()

    def require(self) -> Moment:
        """Wait for the answer. Returns when it was there. Raises NotFinite."""
        if isinstance(self._known, torch.cuda.Event):
            self._known.synchronize()
        if not bool(self._flag):
            raise NotFinite(self._otherwise)
        return self._known
