"""Prompts for the refiner: against diffusers' pipeline, and where the words, the registers and the layers go."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.release import empty
from engine.text import Request
from engine.text_ltx2 import Gemma3, connector_config
from tests import encoders

pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[sana]'")
pytest.importorskip("diffusers", reason="diffusers is not installed: pip install '.[sana]'")

TOKENS = 24  # three times the registers


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    there = tmp_path_factory.mktemp("refiner")
    return encoders.gemma3(there / "text_encoder"), encoders.connectors(there / "connectors")


def encoder(folders: tuple[Path, Path], dtype: torch.dtype = torch.float32) -> Gemma3:
    return Gemma3(folder=folders[0], connectors=folders[1], tokens=TOKENS, dtype=dtype)


def theirs(
    folders: tuple[Path, Path], prompt: str, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """The released order: encoder as a whole, then the connectors, both through diffusers' refiner pipeline."""
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from diffusers.pipelines.sana_wm.refiner import SanaWMLTX2Refiner
    from transformers import AutoTokenizer, Gemma3ForConditionalGeneration

    pipeline = SanaWMLTX2Refiner(
        transformer=None,
        connectors=LTX2TextConnectors.from_pretrained(folders[1], torch_dtype=dtype),
        tokenizer=AutoTokenizer.from_pretrained(folders[0]),
        text_encoder=Gemma3ForConditionalGeneration.from_pretrained(folders[0], dtype=dtype),
        scheduler=None,
        vae=None,
        text_max_sequence_length=TOKENS,
    )
    with torch.no_grad():
        return pipeline._encode_prompt(prompt, device=torch.device("cpu"), dtype=dtype)


@pytest.mark.parametrize("prompt", ["", "  a hill ", "a hill by the sea, at dawn, in the mist"])
def test_diffusers_encodes_the_same(folders: tuple[Path, Path], prompt: str) -> None:
    states, mask = theirs(folders, prompt)
    with encoder(folders).opened() as encode:
        got = encode(Request(prompt))
    assert got.states.shape == (1, TOKENS, 32)
    assert torch.equal(got.mask, mask.bool())
    assert got.lost == max(1 + len(prompt.strip()) - TOKENS, 0)
    torch.testing.assert_close(got.states, states, rtol=1e-4, atol=1e-5)


def test_registers_stand_where_padding_was(folders: tuple[Path, Path]) -> None:
    with encoders.offline(), encoder(folders).opened() as encode:
        got, same, other = (encode(Request(p)) for p in ("a hill", " a hill\n", "a hall"))
    assert got.mask.all()
    assert torch.equal(got.states, same.states)
    assert not torch.allclose(got.states, other.states)


def test_both_layouts_of_rotary_angles_load(folders: tuple[Path, Path], tmp_path: Path) -> None:
    both = [encoders.connectors(tmp_path / rope, rope=rope) for rope in ("split", "interleaved")]
    out = []
    for each in both:
        want, _ = theirs((folders[0], each), "a hill")
        with encoder((folders[0], each)).opened() as encode:
            out.append(encode(Request("a hill")).states)
        torch.testing.assert_close(out[-1], want, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(*out, rtol=1e-3)


def test_in_bfloat16_it_runs_as_released(folders: tuple[Path, Path]) -> None:
    """No further from fp32 than twice what diffusers is in the same dtype."""
    want, _ = theirs(folders, "a hill")
    rounded, _ = theirs(folders, "a hill", torch.bfloat16)
    with encoder(folders, torch.bfloat16).opened() as encode:
        got = encode(Request("a hill")).states
    assert got.dtype == torch.bfloat16
    assert (got - want).norm() <= 2 * (rounded - want).norm()


def test_the_tower_that_sees_goes_at_once_and_the_rest_at_the_end(folders: tuple[Path, Path]) -> None:
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from transformers import Gemma3ForConditionalGeneration, Gemma3TextModel, SiglipVisionModel

    kinds = (Gemma3ForConditionalGeneration, SiglipVisionModel, Gemma3TextModel, LTX2TextConnectors)

    def alive() -> list[bool]:
        gc.collect()
        found = {type(x) for x in gc.get_objects()}
        return [kind in found for kind in kinds]

    with encoder(folders).opened() as encode:
        encode(Request("a"))
        assert alive() == [False, False, True, True]
    assert alive() == [False] * 4


def test_what_is_for_sound_is_not_needed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    silent = encoders.connectors(tmp_path)
    file = next(silent.glob("*.safetensors"))
    save_file({n: t for n, t in load_file(file).items() if not n.startswith("audio_")}, file)
    want, _ = theirs(folders, "a hill")
    with encoder((folders[0], silent)).opened() as encode:
        torch.testing.assert_close(encode(Request("a hill")).states, want, rtol=1e-4, atol=1e-5)
    save_file({n: t for n, t in load_file(file).items() if "norm_q" not in n}, file)
    with pytest.raises(ValueError, match=r"missing: .*norm_q"), encoder((folders[0], silent)).opened():
        pass


def test_a_tokenizer_beside_the_encoder_is_found(folders: tuple[Path, Path], tmp_path: Path) -> None:
    moved = encoders.gemma3(tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    for path in moved.glob("tokenizer*"):
        path.rename(tmp_path / "tokenizer" / path.name)
    with encoder((moved, folders[1])).opened() as encode, encoder(folders).opened() as same:
        assert torch.equal(encode(Request("a hill")).states, same(Request("a hill")).states)


def test_identity_follows_the_connectors(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = encoders.connectors(tmp_path, rope="interleaved")
    assert encoder((folders[0], other)).identity() != encoder(folders).identity()
    with pytest.raises(ValueError, match="missing cannot be read"):
        encoder((folders[0], tmp_path / "missing")).identity()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"per_modality_projections": True}, "only the connectors of LTX-2.0"),
        ({"caption_channels": "many"}, "caption_channels='many': not a positive whole number"),
        ({"video_connector_num_layers": 10**9}, "video_connector_num_layers=1000000000"),
        ({"rope_type": "spiral"}, "rope_type='spiral'"),
        ({"rope_theta": -1}, "rope_theta=-1"),
        ({"rope_double_precision": 1}, "rope_double_precision=1"),
    ],
)
def test_a_config_we_cannot_run_is_refused(
    folders: tuple[Path, Path], change: dict[str, object], said: str
) -> None:
    record = json.loads((folders[1] / "config.json").read_text())
    with pytest.raises(ValueError, match=said):
        connector_config(record | change)


def test_released_size() -> None:
    """Of the released 1.43 billion parameters, those of the audio half have no place here."""
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

    ours = empty(lambda: LTX2TextConnectors(**connector_config({}))).state_dict()
    theirs = empty(LTX2TextConnectors).state_dict()
    assert sum(t.numel() for t in theirs.values()) == pytest.approx(1.43e9, rel=0.01)
    assert {n: t.shape for n, t in theirs.items() if not n.startswith("audio_")} == {
        n: t.shape for n, t in ours.items()
    }


def test_an_instruction_is_refused(folders: tuple[Path, Path]) -> None:
    with encoder(folders).opened() as encode, pytest.raises(ValueError, match="the prompt alone"):
        encode(Request("a hill", "improve:"))
