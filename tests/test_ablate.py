"""Ablations: what a variant changes and what it leaves, what flights cost by length, and runs that diverge."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from engine.conditioning import condition_clip
from engine.gdn import GDN
from engine.model import WorldModel
from engine.train.ablate import VARIANTS, Ablated, Ablation, Diverged, _plot, _table
from engine.train.growth import growth, state_bytes
from engine.train.host import Host
from engine.train.world import learn_through
from tests.tiny import MODEL, tiny_assets

CPU = Host(device=torch.device("cpu"))
TINY = replace(MODEL, dim=40, depth=2)


class Tiny(Ablated):
    """A variant of a small model on random latents."""

    def built(self) -> WorldModel:
        return self.variant.change(WorldModel(TINY))

    def fill(self) -> None:
        self.make_up()
        for x in (self.pool.moving, self.pool.still):
            x.copy_(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assets(tmp_path_factory.mktemp("assets"), scenes=1) / "pocket" / "codec.safetensors"


def options(codec: Path, out: Path, **more: object) -> Ablation:
    given = dict(
        out=out,
        codec=codec,
        memory=False,
        steps=2,
        batch=2,
        pool=2,
        chunks=2,
        frames=3,
        long_frames=3,
        fresh_every=0,
        device="cpu",
    )
    return Ablation(**{**given, **more})  # type: ignore[arg-type]


def flow(model: WorldModel, plucker: float) -> Tensor:
    """Of one fixed input; plucker: how strong the Plücker rays are."""
    poses = torch.eye(4).repeat(1, 17, 1, 1)
    poses[:, :, 2, 3] = 0.1 * torch.arange(17)
    lens = torch.tensor([200.0, 200.0, 128.0, 80.0]).expand(1, 17, 4)
    cond = condition_clip(poses, lens, grid=(10, 16), config=TINY)
    x = torch.randn(1, 32, 3, 10, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        text = model.embed_text(torch.zeros(1, 8, dtype=torch.int64))
        cond = replace(cond, plucker=plucker * cond.plucker)
        return model(x, timestep=torch.full((1, 3), 500.0), text=text, text_mask=None, cond=cond)[0]


@pytest.mark.parametrize("name", ["base", "ucpe"])
def test_without_plucker_rays_training_never_hears_of_them(name: str, codec: Path, tmp_path: Path) -> None:
    run = Tiny(options(codec, tmp_path, steps=6), CPU, VARIANTS[name])
    run.fill()
    before = {n: p.clone() for n, p in run.model.state_dict().items()}
    learn_through(run)
    moved = {n for n, p in run.model.state_dict().items() if not torch.equal(p, before[n])}
    assert any("out_proj_cam" in n for n in moved), moved
    with torch.no_grad():  # two steps move little: as if training went on
        for p in run.model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    same = torch.equal(flow(run.model, 0.0), flow(run.model, 1.0))
    assert same == (name == "ucpe")
    assert any("plucker_proj" in n for n in moved) == (name == "base")


@pytest.mark.parametrize(("name", "scale"), [("keys-by-width", 1 / 24**0.5), ("keys-unscaled", 1.0)])
def test_keys_are_scaled_as_the_variant_says(name: str, scale: float) -> None:
    config = replace(MODEL, dim=48, heads=2, cross_heads=2, depth=2)
    model = VARIANTS[name].change(WorldModel(config))
    x = torch.randn(1, 7, 48, generator=torch.Generator().manual_seed(0))
    plain = x / (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    found = 0
    for module in model.modules():
        if isinstance(module, GDN):
            found += 1
            for norm in (module.k_norm, module.k_norm_cam):
                scaled = norm(x) * (config.head_dim * 160) ** -0.5  # what `GDN.positive` multiplies by
                assert torch.allclose(scaled, plain * scale, rtol=1e-5)
            assert torch.allclose(module.q_norm(x), plain, rtol=1e-5)
    assert found == 1


def test_a_loss_that_is_not_finite_ends_the_variant(codec: Path, tmp_path: Path) -> None:
    class Broken(Tiny):
        def step(self, step: int, fraction: float) -> Mapping[str, Tensor]:
            if step == 1:
                with torch.no_grad():
                    next(self.model.parameters()).fill_(float("nan"))
            return super().step(step, fraction)

    run = Broken(options(codec, tmp_path, steps=5), CPU, VARIANTS["base"])
    run.fill()
    with pytest.raises(Diverged, match="step 1"):
        learn_through(run)


def test_state_of_delta_blocks_is_constant_and_that_of_softmax_grows_by_every_chunk() -> None:
    config = replace(MODEL, dim=40, heads=1, cross_heads=1, depth=2)
    given = dict(chunks=12, every=3, device=torch.device("cpu"), dtype=torch.float32)
    mixed = [row["megabytes"] for row in growth(replace(config, softmax_blocks=()), **given)]  # type: ignore[arg-type]
    assert len(set(mixed)) == 1
    alone = replace(config, softmax_blocks=(0, 1), window=13)
    grown = [row["megabytes"] for row in growth(alone, **given)]  # type: ignore[arg-type]
    per_chunk = 2 * 4 * 160 * 40 * 4 / 1e6  # blocks; keys, values and the camera's; tokens, width, bytes
    steps = [(b - a) / 3 for a, b in itertools.pairwise(grown)]
    assert steps == pytest.approx([per_chunk] * 3, rel=1e-6)


def test_bytes_count_a_storage_once() -> None:
    x = torch.zeros(10)
    assert state_bytes((x, x[:5], (torch.zeros(2, dtype=torch.float64), None))) == 40 + 16


def test_the_table_has_figures_or_the_step_of_divergence() -> None:
    row = {"psnr": 22.0, "sharpness": 0.4}
    whole = {
        "told": "fine",
        "chunks": {"8": row, "20": row},
        "turn": {"correlation": 0.95},
        "pose": {"rotation": 1.5, "translation": 0.25, "matrix": 0.375},
        "returning": {"memory_off": {"revisit_psnr": 17.0}, "memory_on": {"revisit_psnr": 27.0}},
    }
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(_table({"a": whole, "b": {"told": "lost", "diverged": "step 16"}}))
    text = console.export_text()
    for told in ("fine", "22.00", "0.95", "1.50", "27.00", "lost", "not finite at step 16"):
        assert told in text


def test_the_plot_has_a_line_for_every_variant_that_did_not_diverge() -> None:
    row = {"psnr": 30.0}
    known = {"base": {"chunks": {"1": row, "20": row}}, "keys-unscaled": {"diverged": "step 0"}}
    plot = _plot(known)
    assert plot.count("stroke-width") == 1
    assert "as it is" in plot
    assert "keys unscaled" not in plot
    assert _plot({"keys-unscaled": known["keys-unscaled"]}) == ""


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (dict(only=("nothing",)), "keys-by-width"),
        (dict(init=Path("a.safetensors")), "begin from random"),
        (dict(measure_chunks=4), "measure_chunks=4"),
    ],
)
def test_impossible_options_are_named(more: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        options(tmp_path, tmp_path, **more)
