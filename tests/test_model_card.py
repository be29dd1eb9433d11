"""The model card says what is true of the weights that ship."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from explorer.assets import assets_folder

CARD = (Path(__file__).parents[1] / "docs" / "model-card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["codec", "world"])
def test_hashes_are_those_of_the_files(name: str) -> None:
    found = hashlib.sha256((assets_folder() / "pocket" / f"{name}.safetensors").read_bytes()).hexdigest()
    assert f"| SHA-256 of the {name} | `{found}` |" in CARD, f"docs/model-card.md: {name} is {found}"
