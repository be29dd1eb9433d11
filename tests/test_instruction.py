"""The instruction before prompts: read from the release, else from diffusers, whose copy must be the released one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from engine.instruction import SHA256, instruction


def test_diffusers_carries_that_of_the_release(tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed: pip install '.[sana]'")
    text = instruction()
    assert [len(line) for line in text.split("\n")] == [173, 154, 111, 56, 188, 227, 128, 13]
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256
    (tmp_path / "config.yaml").write_text("text_encoder: {text_encoder_name: gemma-2-2b-it}\n")
    assert instruction(tmp_path) == text
    assert instruction(tmp_path / "missing") == text


def test_a_release_says_its_own(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="pyyaml is not installed: pip install '.[sana]'")
    (tmp_path / "config.yaml").write_text("text_encoder:\n  chi_prompt:\n  - 'First.'\n  - 'User Prompt: '\n")
    assert instruction(tmp_path) == "First.\nUser Prompt: "
    (tmp_path / "config.yaml").write_text("text_encoder: {chi_prompt: []}")
    assert instruction(tmp_path) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text_encoder: {chi_prompt: 7}", "not a list of lines"),
        ("text_encoder: {chi_prompt: [7]}", "not a list of lines"),
        ("{", "cannot be read"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read"),
    ],
)
def test_a_config_that_is_broken_says_so(tmp_path: Path, text: str, said: str) -> None:
    pytest.importorskip("yaml", reason="pyyaml is not installed: pip install '.[sana]'")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        instruction(tmp_path)
