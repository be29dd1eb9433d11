"""Releases that make whole clips, from a converted folder with its encoders to the film, at tiny size."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import fields, replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.camera import Pose
from engine.clips import SanaClips
from engine.convert import write_record
from engine.converted import read_parts
from engine.identity import weights_of
from engine.model import WorldModel
from engine.opening import open_sana
from engine.prompt import embedded, kept_text
from engine.random_weights import random_module
from engine.refiner_model import RefinerModel
from engine.release import RELEASES, Release
from engine.setup import Setup
from engine.vae import Vae
from explorer.app import main
from explorer.assets import photograph
from explorer.controls import Steering
from explorer.flight import Flight, save_flight
from explorer.fly import Fly
from explorer.job import Job
from explorer.pilot import PilotState
from explorer.reading import Reading
from explorer.timeline import pose_row
from explorer.unattended import frames_of, plan
from explorer.worldfile import write_world
from tests import encoders
from tests.tiny import hills, tiny_assets
from tests.tiny_sana import SIZES

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

WORLD = replace(SIZES.world, caption_dim=32, caption_tokens=12)
REFINER = replace(SIZES.refiner, caption_dim=32)


def converted(folder: Path, release: Release) -> None:
    """A release as `explorer download --refiner` leaves it."""
    causal = release.decoder_causal
    models = {
        "world": random_module(
            lambda: WorldModel(release.config), dtype=torch.bfloat16, device="cpu", seed=1
        ),
        "vae": random_module(
            lambda: Vae(replace(SIZES.vae, decoder_causal=causal)), dtype=torch.bfloat16, device="cpu", seed=2
        ),
        "refiner": random_module(lambda: RefinerModel(REFINER), dtype=torch.bfloat16, device="cpu", seed=3),
    }
    for name, model in models.items():
        (folder / name).mkdir(parents=True)
        save_file(model.state_dict(), folder / name / "model.safetensors")
    vae = dict(
        latent_channels=8,
        block_out_channels=SIZES.vae.encoder_widths,
        layers_per_block=SIZES.vae.encoder_layers,
        decoder_block_out_channels=SIZES.vae.decoder_widths[::-1],
        decoder_layers_per_block=SIZES.vae.decoder_layers[::-1],
    )
    refiner = dict(
        in_channels=8, num_attention_heads=2, attention_head_dim=20, num_layers=2, caption_channels=32
    )
    (folder / "vae" / "config.json").write_text(json.dumps(vae))
    (folder / "refiner" / "config.json").write_text(json.dumps(refiner))
    encoders.gemma2(folder / "text")
    encoders.gemma3(folder / "encoder")
    encoders.connectors(folder / "connectors")
    write_record(folder, "tiny", release, revision="0", licence="tiny")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, release in RELEASES.items():
        config = replace(
            WORLD, causal=release.config.causal, window=release.config.window, sink=release.config.sink
        )
        converted(root / name, replace(release, config=config, size=(SIZES.width, SIZES.height)))
    tiny_assets(root / "assets", scenes=1)
    return root


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORLD_EXPLORER_MODELS", str(models))
    monkeypatch.setenv("WORLD_EXPLORER_ASSETS", str(models / "assets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", hills(5, 400, 300))
    return tmp_path


def decoded(path: str) -> np.ndarray:
    with av.open(path) as film:
        return np.stack([f.to_ndarray(format="rgb24") for f in film.decode(video=0)])


def converted_copy(release: Path, folder: Path) -> Path:
    """The same with one number changed."""
    shutil.copytree(release, folder)
    file = folder / "world" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return folder


LINE = "render photo.png --path w-30 --steps 4 --device cpu --memory 80 --refiner on --threads 1"


def test_a_prompt_reaches_the_film(here: Path) -> None:
    """The streaming release with its encoders: the same words, the same film; other words, another one."""
    for name, prompt in (("a", "fog"), ("b", "fog"), ("c", "sun")):
        assert main([*LINE.split(), "--model", "sana-wm", "--prompt", prompt, "--out", f"{name}.mp4"]) == 0
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes() != Path("c.mp4").read_bytes()
    assert len(decoded("a.mp4")) == 31


def test_a_prompt_is_read_by_a_process_of_its_own(here: Path) -> None:
    """Both encoders are loaded there, once: what it read is kept on disk for every engine to come."""
    setup = Setup(prompt="sun", memory=80)
    reading, steps = Reading(setup, here / "1.text", refiner=True), set()
    deadline = time.perf_counter() + 60
    while (done := reading.poll()) is None:
        steps.add(reading.step)
        assert time.perf_counter() < deadline
        time.sleep(0.001)
    assert (done.why, "loading the text encoder" in steps) == ("", True)
    parts, said = read_parts(setup), []
    known = embedded(setup, sizes=parts.sizes, folder=parts.folder, refiner=True, on_step=said.append)
    assert not said
    text = kept_text(here / "1.text")
    for f in fields(text):
        assert torch.equal(getattr(text, f.name), getattr(known, f.name)), f.name
    fog = embedded(replace(setup, prompt="fog"), sizes=parts.sizes, folder=parts.folder, refiner=True)
    assert not torch.equal(text.world, fog.world)
    assert fog.refiner is not None
    assert text.refiner is not None
    assert not torch.equal(text.refiner, fog.refiner)


def test_flights_know_their_weights(here: Path, models: Path) -> None:
    names = [Setup(variant=name) for name in RELEASES] + [Setup(random_weights=True)]
    known = {weights_of("sana-wm", assets=here, setup=setup) for setup in names}
    # The variants here are drawn alike; random weights are none of them.
    assert len(known) == 2
    other = converted_copy(models / "sana-wm-streaming", here / "other")
    assert weights_of("sana-wm", assets=here, setup=Setup(weights=other)) not in known
    with pytest.raises(ValueError, match="explorer download sana-wm-streaming"):
        weights_of("sana-wm", assets=here, setup=Setup(weights=here / "none"))


def test_a_saved_flight_goes_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A converted release: what follows from the file is, bit for bit, what would have followed."""
    torch.set_num_threads(1)
    engine = open_sana(Setup(prompt="fog", memory=80, refiner="on"), device="cpu")
    scene = photograph(Path("photo.png"))
    picture, lens = scene.picture(SIZES.width, SIZES.height)
    chunk = engine.start(picture, pose=Pose(), intrinsics=lens)
    chunk = engine.step(chunk.state, [Pose()] * 24, intrinsics=lens)
    flight = Flight(
        id=1,
        intrinsics=lens,
        state=chunk.state,
        pilot=PilotState(Pose()),
        used=Steering(),
        index=25,
        prompt="fog",
    )
    save_flight(here / "state", flight, engine)
    shown = chunk.frames[-1].pixels
    way = np.tile(pose_row(Pose()), (25, 1))
    pictures = dict(picture=picture, shown=shown, trajectory=way, thumbnails=[])
    write_world(here / "my.world", here / "state", scene=scene, **pictures)

    fly = Fly(image="my.world", model="sana-wm", device="cpu", memory=80, refiner="on")
    opened = fly.scenes(here)[0]
    assert fly.going_on(opened).setup.prompt == "fog"
    ahead = plan(replace(fly, path="w-24", out=Path("a.mp4")), here)
    frames = list(frames_of(engine, ahead))
    rest = engine.step(chunk.state, ahead.poses[1:25], intrinsics=lens).frames
    assert np.array_equal(frames[0].pixels, shown)
    assert [f.index for f in frames] == list(range(24, 49))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(frames[1:], rest, strict=True))
    for flags, why in (
        ("", "--model sana-wm"),
        ("--model sana-wm --prompt x", "leave out --prompt"),
        ("--model sana-wm --random-weights", "other weights"),
    ):
        assert main(["fly", "my.world", "--out", "a.mp4", *flags.split()]) == 2
        assert why in capsys.readouterr().err


@pytest.mark.parametrize("model", ["sana-wm-bidirectional", "sana-wm-chunk-causal"])
def test_stopped_between_passes_and_gone_on(
    model: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*LINE.split(), "--model", model, "--prompt", "fog"]
    assert main([*line, "--out", "whole.mp4"]) == 0
    assert len(decoded("whole.mp4")) == 31
    held = Job.hold
    seen: list[int] = []

    def interrupted(job: Job, state: object) -> None:
        held(job, state)
        seen.append(1)
        if len(seen) in (2, 5):
            raise KeyboardInterrupt

    monkeypatch.setattr(Job, "hold", interrupted)
    for _ in range(2):
        assert main([*line, "--out", "cut.mp4"]) == 130
    assert main([*line, "--out", "cut.mp4"]) == 0
    capsys.readouterr()
    first = len(seen)
    assert Path("cut.mp4").read_bytes() == Path("whole.mp4").read_bytes()
    assert main([*line, "--guidance", "1", "--out", "plain.mp4"]) == 0
    assert len(seen) - first == first  # no pass was made twice
    assert Path("plain.mp4").read_bytes() != Path("whole.mp4").read_bytes()


def test_the_picture_must_fit() -> None:
    with pytest.raises(ValueError, match="a first picture of shape"):
        SanaClips.clip(_clips(), hills(0), [], None)  # type: ignore[arg-type]


def _clips() -> SanaClips:
    from engine.prompt import random_text

    vae = random_module(
        lambda: Vae(replace(SIZES.vae, decoder_causal=False)), dtype=torch.float32, device="cpu"
    )
    model = random_module(
        lambda: WorldModel(replace(SIZES.world, causal=False)), dtype=torch.float32, device="cpu"
    )
    return SanaClips((SIZES.width, SIZES.height), model=model, vae=vae, text=random_text(SIZES))
