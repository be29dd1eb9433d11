"""Where kernels can be built, and where their plain forms compute instead."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from engine.recall import draw_on
from engine.warp import warp
from kernels import program

GPU = torch.device("cuda")


def test_kernels_need_a_gpu_from_ampere_on_and_what_builds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed, major, wanted in ((True, 9, True), (True, 8, True), (True, 7, False), (False, 9, False)):
        monkeypatch.setattr(program, "INSTALLED", installed)
        monkeypatch.setattr(
            torch.cuda,
            "get_device_properties",
            lambda device, major=major: SimpleNamespace(major=major),
        )
        assert program.builds(GPU) == wanted
        assert (draw_on(GPU) is not warp) == wanted
        assert not program.builds(torch.device("cpu"))
        assert draw_on(torch.device("cpu")) is warp
