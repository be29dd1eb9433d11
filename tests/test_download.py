"""A synthetic release of true names at tiny size: converted from a folder and from a hub on this machine, then flown."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.camera import Intrinsics, Pose
from engine.convert import parts_of, write_shards
from engine.converted import read_parts
from engine.model import WorldModel
from engine.prompt import random_text
from engine.random_weights import random_module
from engine.refiner_model import RefinerModel
from engine.release import RELEASES, Release, Stored
from engine.sana import SanaEngine, sana_spec
from engine.setup import Setup
from engine.vae import Vae
from explorer.app import main
from explorer.hub import Hub
from tests.tiny import hills, tiny_assets
from tests.tiny_sana import SIZES

NAME = "sana-wm-streaming"


def tiny_release() -> Release:
    return dataclasses.replace(RELEASES[NAME], config=SIZES.world, size=(SIZES.width, SIZES.height))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the repositories as they are published, each under its name."""
    root = tmp_path_factory.mktemp("published")
    release = tiny_release()
    home = root / "SANA-WM_streaming"
    exact = dict(dtype=torch.float32, device="cpu")
    world = random_module(lambda: WorldModel(SIZES.world), **exact, seed=1).state_dict()
    unread = {"pos_embed": torch.zeros(1, 4, 48), "blocks.0.attn.recall_gate": torch.zeros(1)}
    named = {f"model.{name}": t for name, t in {**world, **unread}.items()}
    (home / "sana_dit").mkdir(parents=True)
    torch.save({"generator": named, "critic": {"w": torch.ones(2)}}, home / release.world)
    vae = random_module(lambda: Vae(SIZES.vae), **exact, seed=2)
    folder(home / str(release.vae), vae, VAE)
    refiner = random_module(lambda: RefinerModel(SIZES.refiner), **exact, seed=3)
    folder(home / str(release.refiner), refiner, REFINER, {"audio_proj_in.weight": torch.ones(3, 3)})
    for name in ("refiner_diffusers/connectors", "gemma3_12b", "../gemma-2-2b-it"):
        (home / name).mkdir(parents=True)
        save_file({"w": torch.ones(4)}, home / name / "model.safetensors")
        (home / name / "config.json").write_text("{}")
        (home / name / "pytorch_model.bin").write_bytes(b"never read")
    return root


VAE = {
    "latent_channels": SIZES.vae.latent_channels,
    "block_out_channels": SIZES.vae.encoder_widths,
    "layers_per_block": SIZES.vae.encoder_layers,
    "decoder_block_out_channels": SIZES.vae.decoder_widths[::-1],
    "decoder_layers_per_block": SIZES.vae.decoder_layers[::-1],
}
REFINER = {
    "in_channels": 8,
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "num_layers": 2,
    "caption_channels": 12,
}


def folder(
    path: Path, model: nn.Module, config: dict[str, object], more: dict[str, torch.Tensor] | None = None
) -> None:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file({**model.state_dict(), **(more or {})}, path / "diffusion_pytorch_model.safetensors")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(RELEASES, NAME, tiny_release())
    monkeypatch.setenv("WORLD_EXPLORER_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_folder_to_a_film(
    here: Path, published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every tensor arrives in bf16 under our name; what is converted flies through `explorer render`'s own loader."""
    assert main(["download", "sana-wm", "--refiner", "--from", str(published)]) == 0
    folder = here / "models" / NAME
    parts = read_parts(Setup())
    assert dataclasses.replace(parts.sizes, refiner=SIZES.refiner) == SIZES
    given = torch.load(published / "SANA-WM_streaming" / "sana_dit" / "model.pt", weights_only=True)
    world = parts.world(dtype=torch.bfloat16, device="cpu").state_dict()
    for name, t in world.items():
        assert torch.equal(t, given["generator"][f"model.{name}"].bfloat16()), name
    assert not list(folder.rglob("*.bin"))
    assert (folder / "encoder" / "model.safetensors").is_file()
    exact = dict(dtype=torch.bfloat16, device="cpu")
    vae, refiner = parts.vae(**exact), parts.refiner(parts.sizes.refiner, **exact)
    for ours, name in ((vae, "ltx2_causal_vae"), (refiner, "refiner_diffusers/transformer")):
        theirs = load_file(published / "SANA-WM_streaming" / name / "diffusion_pytorch_model.safetensors")
        buffers = {n for n, _ in ours.named_buffers()}
        for n, t in ours.state_dict().items():
            assert torch.equal(t, theirs[n] if n in buffers else theirs[n].bfloat16()), n
    spec = sana_spec(width=SIZES.width, height=SIZES.height, chunk_frames=24)
    text = random_text(parts.sizes)
    engine = SanaEngine(spec, model=parts.world(**exact), vae=vae, refiner=refiner, text=text)
    lens = Intrinsics.from_fov(1.2, width=spec.width, height=spec.height)
    chunk = engine.start(hills(0, spec.width, spec.height), pose=Pose(), intrinsics=lens)
    assert len(engine.step(chunk.state, [Pose()] * 24, intrinsics=lens).frames) == 24
    monkeypatch.setenv("WORLD_EXPLORER_ASSETS", str(tiny_assets(here / "assets", scenes=1)))
    line = "fly --model sana-wm --device cpu --memory 80 --path w-24 --out a.mp4 --prompt fog"
    assert main(line.split()) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "text encoder of type 'gemma2' is needed" in said or "pip install 'world-explorer[sana]'" in said


def test_what_is_wrong_is_named_and_nothing_is_left(
    here: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = here / "copy"
    shutil.copytree(published / "SANA-WM_streaming", copy)
    file = copy / "ltx2_causal_vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_in.conv.weight"] = torch.ones(2, 2)
    del weights["latents_mean"]
    save_file(weights, file)
    assert main(["download", "sana-wm", "--from", str(copy)]) == 2
    err = capsys.readouterr().err
    assert "missing: latents_mean" in err
    assert "decoder.conv_in.conv.weight is 2x2" in err
    assert not (here / "models" / NAME / "release.json").exists()
    (copy / "sana_dit" / "model.pt").unlink()
    assert main(["download", "sana-wm", "--from", str(copy)]) == 2
    assert "lacks sana_dit/model.pt" in capsys.readouterr().err
    for line in ("download moon", "download sana-wm --from nowhere"):
        assert main(line.split()) == 2
        assert line.split()[-1] in capsys.readouterr().err


def test_shards_hold_every_tensor_once_and_are_not_written_twice(tmp_path: Path) -> None:
    model = random_module(lambda: Vae(SIZES.vae), dtype=torch.float32, device="cpu")
    weights = model.state_dict()
    stored = {n: Stored(tuple(t.shape), True, lambda t=t: t) for n, t in weights.items()}
    write_shards(tmp_path, stored, like=model, source=tmp_path, limit=20_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 5
    found: dict[str, torch.Tensor] = {}
    for file in files:
        tensors = load_file(file)
        assert sum(t.nbytes for t in tensors.values()) <= 20_000 or len(tensors) == 1
        assert not found.keys() & tensors.keys()
        found |= tensors
    buffers = {n for n, _ in model.named_buffers()}
    for name, t in weights.items():
        assert torch.equal(found[name], t if name in buffers else t.bfloat16())
    files[0].write_bytes(b"cut off")
    before = {f: f.stat().st_ino for f in files[1:]}
    write_shards(tmp_path, stored, like=model, source=tmp_path, limit=20_000)
    assert {f: f.stat().st_ino for f in files[1:]} == before
    assert load_file(files[0]).keys() == found.keys() - {n for f in files[1:] for n in load_file(f)}
    bad = {**stored, "latents_std": Stored((8,), True, lambda: torch.full((8,), torch.nan))}
    with pytest.raises(ValueError, match=r"latents_std .* not finite"):
        write_shards(tmp_path / "bad", bad, like=model, source=tmp_path)


def test_every_release_has_all_its_parts() -> None:
    for name, release in RELEASES.items():
        small = [p.name for p in parts_of(release, refiner=False)]
        assert small == ["world", "vae", "text"], name
        assert [p.name for p in parts_of(release, refiner=True)][3:] == ["refiner", "connectors", "encoder"]


@pytest.fixture
def hub(published: Path) -> Iterator[tuple[str, list[str]]]:
    """The part of the hub's protocol that a download uses, on 127.0.0.1; and the files that were asked for."""
    asked: list[str] = []
    commit = "0123456789abcdef0123456789abcdef01234567"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0].strip("/")
            if path.startswith("api/models/"):
                repository = "/".join(path.split("/")[2:4])
                root = published / repository.split("/")[1]
                if not root.is_dir():
                    return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                names = sorted(f for f in root.rglob("*") if f.is_file())
                tree = [{"rfilename": str(f.relative_to(root)), "size": f.stat().st_size} for f in names]
                entries = [
                    {"type": "file", "path": e["rfilename"], "size": e["size"], "oid": "0" * 40} for e in tree
                ]
                info = {
                    "id": repository,
                    "sha": commit,
                    "siblings": tree,
                    "cardData": {"license": "tiny-1.0"},
                }
                return self.answer(200, json.dumps(entries if "/tree/" in path else info).encode(), {})
            _, name, _, _, *rest = path.split("/")
            data = (published / name / "/".join(rest)).read_bytes()
            if self.command == "GET":
                asked.append("/".join(rest))
            etag = hashlib.sha256(data).hexdigest()
            return self.answer(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

        def answer(self, code: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_from_the_hub(
    here: Path,
    published: Path,
    hub: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("huggingface_hub")
    endpoint, asked = hub
    monkeypatch.setattr("explorer.hub.Hub.__init__.__defaults__", (endpoint,))
    assert main(["download", "sana-wm"]) == 2  # nobody to ask
    err = capsys.readouterr().err
    assert "--yes" in err
    assert "tiny-1.0" in err
    assert not asked
    assert main(["download", "sana-wm", "--yes", "--keep"]) == 0
    assert "sana_dit/model.pt" in asked
    assert not any("refiner" in name or name.endswith(".bin") for name in asked)
    record = json.loads((here / "models" / NAME / "release.json").read_text())
    assert (record["licence"], record["revision"][:4]) == ("tiny-1.0", "0123")
    asked.clear()
    assert main(["download", "sana-wm", "--yes"]) == 0
    assert not asked  # what is there is not fetched again
    assert not (here / "models" / ".fetched").exists()


def test_a_hub_that_is_not_there_is_one_sentence(here: Path) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ValueError, match=r"cannot fetch some/thing .* run the same command again"):
        Hub("http://127.0.0.1:9").listing("some/thing")
    assert not (here / "models").exists()
