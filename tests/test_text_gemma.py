"""Prompts for stage 1: the positions kept and the mask in closed form, states against diffusers, loading and freeing."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch

from engine.text import Request
from engine.text_gemma import Gemma2, local_folder
from tests import encoders

pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[sana]'")

TOKENS = 12
CHI = "improve - user:\nuser: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.gemma2(tmp_path_factory.mktemp("gemma2"))


def encoder(folder: Path, **change: object) -> Gemma2:
    return Gemma2(folder=folder, tokens=TOKENS, dtype=torch.float32, **change)


@torch.no_grad()
def states_of(folder: Path, text: str) -> torch.Tensor:
    """Of the text alone, without padding: what causal attention makes of each place."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    return model(ids, output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize("prompt", ["", "a hill", "a hill by the sea, at dawn"])
def test_the_first_token_and_the_last_are_kept(folder: Path, prompt: str) -> None:
    """Padded to the instruction's tokens and ten more; of those, places 0 and the last eleven."""
    with encoder(folder).opened() as encode:
        got = encode(Request(prompt, CHI))
    whole = states_of(folder, CHI + prompt)
    length = 1 + len(CHI) + TOKENS - 2
    keep = [0, *range(length - TOKENS + 1, length)]
    words = min(1 + len(CHI + prompt), length)
    assert got.mask.tolist() == [[place < words for place in keep]]
    assert got.lost == 1 + len(CHI + prompt) - words
    places = [place for place in keep if place < words]
    torch.testing.assert_close(got.states[got.mask], whole[0, places], rtol=1e-4, atol=1e-5)


def test_a_negative_prompt_stands_alone(folder: Path) -> None:
    with encoder(folder).opened() as encode:
        empty, some = encode(Request("")), encode(Request("no fog"))
    assert empty.mask.tolist() == [[True] + [False] * 11]
    assert some.mask.sum() == 7
    torch.testing.assert_close(some.states[:, :7], states_of(folder, "no fog"), rtol=1e-4, atol=1e-5)


def test_diffusers_encodes_the_same(folder: Path) -> None:
    pipelines = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install '.[oracle]'")
    from transformers import AutoTokenizer, Gemma2ForCausalLM

    their = pipelines.SanaWMPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder),
        text_encoder=Gemma2ForCausalLM.from_pretrained(folder),
        vae=None,
        transformer=None,
        scheduler=None,
    )
    lines = CHI.split("\n")
    with torch.no_grad():
        states, mask, negative, negative_mask = their.encode_prompt(
            "a hill", "fog", device=torch.device("cpu"), max_sequence_length=TOKENS, chi_prompt=lines
        )
    with encoder(folder).opened() as encode:
        got, other = encode(Request("a hill", CHI)), encode(Request("fog"))
    assert torch.equal(got.mask, mask.bool())
    assert torch.equal(other.mask, negative_mask.bool())
    torch.testing.assert_close(got.states, states[:, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(other.states, negative[:, 0], rtol=1e-5, atol=1e-6)


def test_scores_are_capped(folder: Path, tmp_path: Path) -> None:
    """An attention that leaves the cap out would say something else."""
    other = encoders.gemma2(tmp_path)
    encoders.change(other / "config.json", attn_logit_softcapping=1e6)
    both = []
    for each in (folder, other):
        with encoder(each).opened() as encode:
            both.append(encode(Request("a hill")).states)
    assert not torch.allclose(*both, rtol=1e-3)


def test_the_encoder_is_freed(folder: Path) -> None:
    from transformers import Gemma2Model

    gc.collect()
    with encoder(folder).opened() as encode:
        alive = [weakref.ref(m) for m in gc.get_objects() if type(m) is Gemma2Model]
        assert alive
        encode(Request("a"))
    assert not [r for r in alive if r() is not None]


def test_identity_follows_what_matters(folder: Path, tmp_path: Path) -> None:
    same, other = encoders.gemma2(tmp_path / "same"), encoders.gemma2(tmp_path / "other", seed=1)
    here = encoder(folder).identity()
    assert encoder(same).identity() == here
    assert encoder(other).identity() != here
    assert Gemma2(folder=folder, tokens=13, dtype=torch.float32).identity() != here
    assert Gemma2(folder=folder, tokens=TOKENS).identity() != here
    encoders.change(same / "tokenizer_config.json", padding_side="right")
    assert encoder(same).identity() != here


def test_what_cannot_be_loaded_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config.json in .*missing"):
        encoder(tmp_path / "missing").identity()
    other = encoders.gemma2(tmp_path / "a")
    encoders.change(other / "config.json", model_type="llama")
    with pytest.raises(ValueError, match="holds a model of type 'llama'"), encoder(other).opened():
        pass
    torn = encoders.gemma2(tmp_path / "b")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:900])
    with pytest.raises(ValueError, match="holds no whole Gemma2Model"), encoder(torn).opened():
        pass
    (torn / "model.safetensors").unlink()
    (torn / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="holds no whole Gemma2Model"), encoder(torn).opened():
        pass


def test_missing_weights_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = encoders.gemma2(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with (
        pytest.raises(ValueError, match=r"lacks weights of Gemma2Model: .*up_proj"),
        encoder(folder).opened(),
    ):
        pass


def test_nothing_is_fetched_and_no_code_of_the_folder_is_run(tmp_path: Path) -> None:
    folder, trace = encoders.gemma2(tmp_path / "gemma2"), tmp_path / "ran"
    with encoder(folder).opened() as encode:
        want = encode(Request("a hill")).states
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\n")
    names = {
        "AutoModel": "evil.Model",
        "AutoConfig": "evil.Config",
        "AutoTokenizer": ["evil.Slow", "evil.Fast"],
    }
    encoders.change(folder / "config.json", auto_map=names)
    encoders.change(folder / "tokenizer_config.json", auto_map=names)
    with encoders.offline(), encoder(folder).opened() as encode:
        assert torch.equal(encode(Request("a hill")).states, want)
    assert not trace.exists()


def test_encoders_come_from_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_folder(str(tmp_path)) == tmp_path
    with pytest.raises(ValueError, match="is not the name of a repository"):
        local_folder(str(tmp_path / "missing"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="someone/else is not on this machine"):
        local_folder("someone/else")
