"""Released containers at tiny size with true names, each through the loader; the manifest of true size on the meta device."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.config import SANA_WM
from engine.model import WorldModel
from engine.native import RENAMED, native_state_dict
from engine.refiner_model import RefinerModel
from engine.release import (
    RELEASES,
    Stored,
    empty,
    fill,
    load_refiner,
    load_vae,
    load_world,
    mismatches,
    opened,
)
from engine.vae import Vae
from tests.checks.ltx2 import SMALL_REFINER, SMALL_VAE, filled
from tests.checks.model import TINY, WEIGHTS

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def native(oracles: Path) -> Weights:
    """Stage 1 at tiny size under its native names, with what the release never reads."""
    return load_file(oracles / WEIGHTS)


def sharded(folder: Path, weights: Weights, *, shards: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    where, stem = {}, "diffusion_pytorch_model"
    for i in range(shards):
        file = f"{stem}-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in sorted(weights)[i::shards]}
        save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def container(kind: str, native: Weights, folder: Path) -> Path:
    if kind == "flat":
        save_file(native, folder / "sana_wm_1600m_720p.safetensors")
        return folder / "sana_wm_1600m_720p.safetensors"
    if kind == "diffusers":
        renamed = {}
        for name, t in native.items():
            for theirs, ours in RENAMED.items():
                name = name.replace(ours, theirs)
            if name not in ("pos_embed", "y_embedder.y_embedding"):
                renamed[name] = t
        return sharded(folder / "transformer", renamed)
    named = {f"model.{name}": t for name, t in native.items()}
    inner = {"state_dict": named} if kind == "nested" else named
    torch.save({"generator": inner, "critic": {"w": torch.ones(2)}, "step": 3}, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize("kind", ["flat", "diffusers", "training", "nested"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_container_of_stage_1(kind: str, dtype: torch.dtype, native: Weights, tmp_path: Path) -> None:
    model = load_world(container(kind, native, tmp_path), config=TINY, dtype=dtype)
    wanted = native_state_dict(native, TINY)
    state = model.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], t.to(dtype)) for name, t in wanted.items())
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


def manifest(oracles: Path) -> dict[str, Stored]:
    facts = json.loads((oracles / "stage1_native_manifest.json").read_text())
    return {
        name: Stored(tuple(shape), True, partial(torch.empty, shape, device="meta"))
        for name, shape in (facts["parameters"] | facts["buffers"]).items()
    }


def test_all_872_tensors_of_the_release_are_accounted_for(oracles: Path) -> None:
    stored = manifest(oracles)
    assert len(stored) == 872
    model = empty(lambda: WorldModel(SANA_WM))
    for prefix in ("", "model."):
        named = {prefix + name: t for name, t in stored.items()}
        fill(
            model,
            native_state_dict(named, SANA_WM),
            source=Path("x"),
            dtype=torch.bfloat16,
            device="meta",
        )
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())


def test_every_tensor_that_does_not_fit_is_named(oracles: Path) -> None:
    ours = empty(lambda: WorldModel(SANA_WM)).state_dict()
    whole = native_state_dict(manifest(oracles), SANA_WM)
    assert mismatches(ours, whole) == []
    for name, t in whole.items():
        missing = {n: s for n, s in whole.items() if n != name}
        assert mismatches(ours, missing) == [f"missing: {name}"]
        wrong = whole | {name: Stored((*t.shape, 2), True, t.read)}
        assert f"wrong: {name} is" in mismatches(ours, wrong)[0]
    assert mismatches(ours, whole | {"extra.weight": t}) == ["unknown: extra.weight"]
    assert "does not hold real" in mismatches(ours, whole | {name: Stored(t.shape, False, t.read)})[0]


def test_all_faults_come_in_one_sentence_before_anything_is_read(native: Weights) -> None:
    def never() -> Tensor:
        raise AssertionError("read")

    stored = {n: Stored(tuple(t.shape), True, never) for n, t in native_state_dict(native, TINY).items()}
    del stored["x_embedder.proj.weight"], stored["final_layer.linear.bias"]
    stored["blocks.0.nonsense"] = Stored((1,), True, never)
    stored["t_block.1.bias"] = Stored((3,), True, never)
    with pytest.raises(ValueError, match="does not fit") as fault:
        fill(empty(lambda: WorldModel(TINY)), stored, source=Path("w"), dtype=torch.float32, device="cpu")
    for name in (
        "x_embedder.proj.weight",
        "final_layer.linear.bias",
        "blocks.0.nonsense",
        "t_block.1.bias is 3",
    ):
        assert name in str(fault.value)


def test_a_tensor_under_two_names_is_refused(native: Weights) -> None:
    with pytest.raises(ValueError, match=r"x_embedder\.proj\.weight twice"):
        native_state_dict(native | {"model.x_embedder.proj.weight": native["x_embedder.proj.weight"]}, TINY)


def vae_folder(folder: Path) -> tuple[Path, Weights]:
    weights = {n: t.contiguous() for n, t in filled(Vae(SMALL_VAE)).state_dict().items()}
    c = SMALL_VAE
    record = {
        "_class_name": "AutoencoderKLCausalLTX2Video",
        "latent_channels": c.latent_channels,
        "block_out_channels": c.encoder_widths,
        "layers_per_block": c.encoder_layers,
        "decoder_block_out_channels": c.decoder_widths[::-1],
        "decoder_layers_per_block": c.decoder_layers[::-1],
        "decoder_upsample_type": None,
        "decoder_causal": True,
    }
    sharded(folder, weights, shards=2)
    (folder / "config.json").write_text(json.dumps(record))
    return folder, weights


def test_the_autoencoder_keeps_its_statistics_in_fp32(tmp_path: Path) -> None:
    folder, weights = vae_folder(tmp_path / "vae")
    vae = load_vae(folder)
    assert vae.config == SMALL_VAE
    for name, t in vae.state_dict().items():
        dtype = torch.float32 if name.startswith("latents_") else torch.bfloat16
        assert torch.equal(t, weights[name].to(dtype))
        assert t.dtype == dtype
    assert not load_vae(folder, decoder_causal=False).config.decoder_causal


def test_the_refiner_leaves_sound_where_it_is(tmp_path: Path) -> None:
    c, folder = SMALL_REFINER, tmp_path / "refiner"
    weights = dict(filled(RefinerModel(c)).state_dict())
    sound = (
        "audio_proj_in.weight",
        "audio_scale_shift_table",
        "av_cross_attn_video_a2v_gate.linear.weight",
        "transformer_blocks.0.audio_to_video_attn.to_q.weight",
        "transformer_blocks.1.video_a2v_cross_attn_scale_shift_table",
    )
    sharded(folder, weights | {name: torch.ones(3) for name in sound})
    record = {
        "in_channels": c.latent_channels,
        "out_channels": c.latent_channels,
        "num_attention_heads": c.heads,
        "attention_head_dim": c.head_dim,
        "cross_attention_dim": c.dim,
        "num_layers": c.depth,
        "caption_channels": c.caption_dim,
        "rope_type": "split",
    }
    (folder / "config.json").write_text(json.dumps(record))
    model = load_refiner(folder, dtype=torch.float32)
    assert model.config.rope == "split"
    assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no weights at"):
        load_world(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="it holds nothing"):
        load_world(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_world(tmp_path)
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="not a whole file of plain tensors"):
        load_world(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_vae(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="no weight file"):
        load_world(tmp_path / "a.txt")


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("harm",)


def test_nothing_is_unpickled_but_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"generator": {"w": Harmful()}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="not a whole file of plain tensors"):
        load_world(tmp_path / "model.pt")
    assert capsys.readouterr().out == ""
    torch.save({"generator": 3}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="does not hold named tensors"):
        load_world(tmp_path / "model.pt")


def test_an_index_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    index = tmp_path / "m.safetensors.index.json"
    for name, said in (("../x.safetensors", "no shard beside it"), ("x.safetensors", "lacks x.safetensors")):
        index.write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(ValueError, match=said), opened(tmp_path):
            pass
    for text, said in (("{", "not JSON"), ("[]", "not a JSON object"), ("{}", "does not say")):
        index.write_text(text)
        with pytest.raises(ValueError, match=said), opened(tmp_path):
            pass


def test_the_releases_differ_in_how_they_run_and_not_in_shape() -> None:
    shapes = []
    for release in RELEASES.values():
        state = empty(lambda config=release.config: WorldModel(config)).state_dict()
        shapes.append({name: t.shape for name, t in state.items()})
    assert shapes[0] == shapes[1] == shapes[2]
