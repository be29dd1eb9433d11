"""How tests run: deterministic, one thread, uninitialised memory is NaN, Triton interpreted where no GPU is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from explorer.session import Session

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS warns in deterministic mode
torch.set_num_threads(1)
torch.backends.cudnn.allow_tf32 = False  # single precision is meant
# Makes torch.empty return NaN. Operations without a deterministic form warn, which filterwarnings would turn
# into errors: they are told apart by their text and let through in pytest_configure.
torch.use_deterministic_algorithms(True, warn_only=True)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "filterwarnings", "ignore:.*does not have a deterministic implementation:UserWarning"
    )


@pytest.fixture(scope="module")
def session(assets: Path) -> Iterator[Session]:
    """pocket in an engine process, with the weights that the module's own `assets` are."""
    session = Session("pocket", assets=assets, device="cpu", threads=1)
    yield session
    session.stop()


@pytest.fixture(scope="session")
def oracles() -> Path:
    """Small outputs saved from elsewhere."""
    return Path(__file__).parent / "oracles"
