"""First pictures from words alone: repeatable, through the lens, of what the words say; in a film, a window's session, a browser."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine import dream
from engine.camera import Intrinsics, Pose
from engine.conditioning import condition_clip
from engine.config import WORLDS
from engine.dream import LEVELS, TRIES
from engine.engine import Engine
from engine.generator import Generator
from engine.words import parse
from explorer.app import main
from explorer.assets import assets_folder, imagined
from explorer.controls import Steering
from explorer.fly import Fly
from explorer.serve import ServeOptions, _scenes
from explorer.session import Session
from tests.tiny import tiny_assets
from tests.waiting import run

SPEC = WORLDS["pocket"]
LENS = Intrinsics.from_fov(1.2, width=SPEC.width, height=SPEC.height)


@pytest.fixture(scope="module")
def shipped() -> Engine:
    return Engine.load("pocket", assets=assets_folder(), device="cpu")


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assets(tmp_path_factory.mktemp("world") / "assets", scenes=2)


def begun(engine: Engine, prompt: str, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Picture and inverse depth."""
    words = [int(word) for word in parse(prompt)]
    frame = engine.start(None, pose=Pose(), intrinsics=LENS, words=words, seed=seed).frames[0]
    assert frame.inverse_depth is not None
    return frame.pixels, frame.inverse_depth


def test_the_picture_is_what_the_words_say(shipped: Engine) -> None:
    """Ground of snow is blue, of a desert red and of a meadow green; night is dark; what is far up is sky."""
    named = ["snow at noon", "desert at noon", "meadow at noon", "meadow at night"]
    pictures = {prompt: begun(shipped, prompt) for prompt in named}
    ground = {prompt: rgb[-40:].mean(axis=(0, 1)) for prompt, (rgb, _) in pictures.items()}
    assert ground["snow at noon"].argmax() == 2
    assert ground["desert at noon"].argmax() == 0
    assert ground["meadow at noon"].argmax() == 1
    assert ground["meadow at night"].mean() < 0.75 * ground["meadow at noon"].mean()
    for prompt, (_, depth) in pictures.items():
        assert (depth[:20] < 0.02).mean() > 0.5, prompt
        assert 0.05 < np.median(depth[-8:]) < 2.0, prompt  # to the ground: half a metre to 20


def test_it_is_decided_by_seed_and_words_and_flown_into_as_any_picture(shipped: Engine) -> None:
    first, depth = begun(shipped, "snowy pines at dusk", seed=3)
    assert np.array_equal(first, begun(shipped, "snowy pines at dusk", seed=3)[0])
    assert not np.array_equal(first, begun(shipped, "snowy pines at dusk", seed=4)[0])
    assert not np.array_equal(first, begun(shipped, "snowy pines at night", seed=3)[0])
    words = [int(word) for word in parse("snowy pines at dusk")]
    ahead = [Pose(t=np.array([0.0, 0.0, 0.1 * i])) for i in range(1, 9)]
    given = dict(pose=Pose(), intrinsics=LENS, words=words, seed=3)
    alone = shipped.start(None, **given)
    told = shipped.start(first, inverse_depth=depth, **given)
    a, b = (shipped.step(x.state, ahead, intrinsics=LENS).frames[-1].pixels for x in (alone, told))
    assert np.array_equal(a, b)


def test_of_a_few_the_freest_view_is_taken(shipped: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = 15.0  # metres, within which forests differ
    monkeypatch.setattr(dream, "CROWD", crowd)
    codec, model = shipped.codec, shipped.generator.model
    lens = torch.from_numpy(LENS.row).expand(TRIES, 1, 4)
    poses = torch.eye(4, dtype=torch.float64).expand(TRIES, 1, 4, 4)
    cond = condition_clip(poses, lens, grid=codec.config.grid, config=model.config)
    noise = torch.randn(
        TRIES, model.config.latent_channels, 1, *codec.config.grid, generator=torch.Generator().manual_seed(5)
    )
    words = torch.from_numpy(parse("forest")).expand(TRIES, -1)
    with torch.inference_mode():
        latents = Generator(model, levels=LEVELS).first(noise, text=words, cond=cond)[:, :, 0]
        _, depth = codec.decode(latents.to(codec.mean.dtype), latents.to(codec.mean.dtype))
    near = (depth[:, -1, :80] > 1 / crowd).float().mean(dim=(1, 2)).numpy()
    taken = (begun(shipped, "forest", seed=5)[1][:80] > 1 / crowd).mean()
    assert taken == pytest.approx(near.min(), abs=1e-3)
    assert near.max() > near.min() + 0.05


def test_a_session_flies_where_words_lead(session: Session) -> None:
    scene = imagined("a snowy forest", fov=90.0, seed=2)
    assert scene.title == "A snowy forest"
    assert not scene.drawn
    session.begin(scene)
    shown = run(session, Steering(), lambda shown: len(shown) > 8, limit=60.0)
    assert session.scene is not None
    assert session.scene.drawn
    frame = shown[0].frame
    assert np.array_equal(session.scene.rgb, frame.pixels)
    assert session.scene.inverse_depth is not None
    assert np.array_equal(session.scene.inverse_depth, frame.inverse_depth)
    assert frame.intrinsics.fx == pytest.approx(SPEC.width / 2)  # 90 degrees
    assert frame.pixels.std() > 0
    session.begin(session.scene)  # again, without drawing
    again = partial(run, session, Steering(), limit=60.0)(lambda shown: bool(shown))
    assert np.array_equal(again[0].frame.pixels, frame.pixels)


def test_what_a_command_begins_with(assets: Path) -> None:
    (scene,) = Fly(prompt="lavender field", seed=7).scenes(assets)
    assert (scene.name, scene.seed, scene.drawn) == ("lavender-field", 7, False)
    assert len(Fly().scenes(assets)) == 2
    assert all(s.drawn for s in Fly(prompt="a harbour in fog", model="sana-wm").scenes(assets))
    served = _scenes(ServeOptions(prompt="lavender field"), assets)
    assert [s.drawn for s in served] == [False, True, True]
    assert served[1].words == (0,) * 8  # the gallery keeps its own
    named = _scenes(ServeOptions(prompt="lavender field", scene="scene-1"), assets)
    assert [s.drawn for s in named] == [True, True]
    assert named[0].words == scene.words


def test_a_film_of_words(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_EXPLORER_ASSETS", str(assets))
    sheet = tmp_path / "sheet.png"
    assert (
        main(["fly", "--prompt", "snow", "--path", "w-16", "--device", "cpu", "--contact-sheet", str(sheet)])
        == 0
    )
    assert cv2.imread(str(sheet)) is not None
    assert main(["fly", "--prompt", "purple snow", "--path", "w-16", "--contact-sheet", str(sheet)]) == 2
