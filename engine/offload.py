"""Weights that live in host memory and visit the GPU for one pass: for models larger than the card.

The unit is a single linear map or convolution. While one computes, the next is already on its way over a stream of
its own. Results do not change by a bit: the same numbers are multiplied, only later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.lowbit import LowBitLinear

HEAVY = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, LowBitLinear)


class Travellers:
    """The visiting weights of some modules, in the order in which passes call them."""

    def __init__(self, modules: Sequence[nn.Module], *, device: torch.device) -> None:
        """Move the heavy weights of `modules` to host memory; the rest goes to `device` and stays there."""
        self.device = device
        self.parts = [p for m in modules for p in m.modules() if isinstance(p, HEAVY)]
        self._homes = [{name: self._home(t) for name, t in p.named_parameters()} for p in self.parts]
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead: tuple[int, dict[str, Tensor]] | None = None
        for i, part in enumerate(self.parts):
            self._send_home(i)
            part.register_forward_pre_hook(self._arrive(i))
            part.register_forward_hook(self._leave(i))
        for module in modules:
            _settle(module, device)

    @property
    def bytes(self) -> int:
        """In host memory."""
        return sum(t.nbytes for home in self._homes for t in home.values())

    def _home(self, t: Tensor) -> Tensor:
        host = t.detach().to("cpu")
        return host.pin_memory() if self.device.type == "cuda" else host

    def _arrive(self, i: int) -> Any:
        def hook(part: nn.Module, args: Any) -> None:
            there = self._ahead[1] if self._ahead is not None and self._ahead[0] == i else self._fetch(i)
            if self._stream is not None:
                now = torch.cuda.current_stream(self.device)
                now.wait_stream(self._stream)
                for t in there.values():
                    t.record_stream(now)
            for name, t in there.items():
                part.get_parameter(name).data = t
            following = (i + 1) % len(self.parts)
            self._ahead = following, self._fetch(following)  # one guess at most: a wrong one is dropped here

        return hook

    def _leave(self, i: int) -> Any:
        def hook(part: nn.Module, args: Any, out: Any) -> None:
            self._send_home(i)

        return hook

    def _fetch(self, i: int) -> dict[str, Tensor]:
        with torch.cuda.stream(self._stream):
            return {
                name: t.to(self.device, non_blocking=True, copy=True) for name, t in self._homes[i].items()
            }

    def _send_home(self, i: int) -> None:
        for name, t in self._homes[i].items():
            self.parts[i].get_parameter(name).data = t


def _settle(module: nn.Module, device: torch.device) -> None:
    """What is no heavy weight goes to the device: norms, tables, buffers."""
    for part in module.modules():
        if isinstance(part, HEAVY):
            continue
        for t in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            t.data = t.data.to(device)
