"""sana-wm as an engine, at tiny size with random weights: its parts put together by hand are the oracle."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from engine import opening, sana, setup
from engine.camera import Intrinsics, Pose
from engine.conditioning import from_rows, pose_tensor, prepare
from engine.engine import Chunk
from engine.finite import NotFinite
from engine.generator import Generator
from engine.model import WorldModel
from engine.offload import Travellers
from engine.opening import open_sana
from engine.refiner import Refiner
from engine.refiner_model import RefinerModel
from engine.release import empty
from engine.sana import SanaEngine
from engine.setup import GB, TIERS, Setup, Sizes, needs
from engine.vae import Vae, to_uint8
from tests.test_whole import FAKE, NothingSent, without_numbers
from tests.tiny import hills
from tests.tiny_sana import SETUP, SIZES, exact_engine

LENS = Intrinsics.from_fov(1.2, width=96, height=64)
PICTURE = hills(0, 96, 64)
TURN = 0.004  # radians per frame


def path(chunk: int) -> list[Pose]:
    out = []
    for n in range(24 * chunk + 1, 24 * chunk + 25):
        m = np.eye(4)
        c, s = np.cos(TURN * n), np.sin(TURN * n)
        m[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
        m[:3, 3] = [0.01 * n, 0.0, 0.02 * n]
        out.append(Pose.from_matrix(m))
    return out


@pytest.fixture(scope="module")
def engine() -> SanaEngine:
    return open_sana(SETUP, device="cpu")


@pytest.fixture(scope="module")
def plain() -> SanaEngine:
    return open_sana(replace(SETUP, refiner="off"), device="cpu")


def begin(engine: SanaEngine, *, seed: int = 5) -> Chunk:
    return engine.start(PICTURE, pose=Pose(), intrinsics=LENS, seed=seed)


def fly(engine: SanaEngine, chunks: int) -> list[Chunk]:
    out = [begin(engine)]
    for k in range(chunks):
        out.append(engine.step(out[-1].state, path(k), intrinsics=LENS))
    return out


def pixels(*chunks: Chunk) -> np.ndarray:
    return np.stack([f.pixels for chunk in chunks for f in chunk.frames])


def tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple):
        return [t for v in value for t in tensors(v)]
    if is_dataclass(value):
        return [t for f in fields(value) for t in tensors(getattr(value, f.name))]
    return []


def test_frames_know_where_they_are_and_differ(engine: SanaEngine) -> None:
    flight = fly(engine, 3)
    frames = [f for chunk in flight for f in chunk.frames]
    assert [f.index for f in frames] == list(range(73))
    assert np.array_equal(frames[0].pixels, PICTURE)
    assert np.array_equal(frames[30].pose.t, path(1)[5].t)
    assert len({f.pixels.tobytes() for f in frames}) == 73
    assert {*flight[2].timing} == {"denoise", "refine", "decode"}
    assert all(t.isfinite().all() for t in tensors(flight[-1].state) if t.is_floating_point())


@torch.inference_mode()
def test_a_flight_is_its_stages_put_together() -> None:
    """Cameras laid out for the whole clip as the release does it, latents chunk by chunk, one decoding of all."""
    plain = exact_engine()
    flight = fly(plain, 3)
    poses = pose_tensor([Pose(), *path(0), *path(1), *path(2)])
    rows = torch.from_numpy(LENS.row).expand(1, poses.shape[1], 4)
    generator, grid = plain.generator, SIZES.grid
    conditions, plucker = prepare(poses, rows, grid=grid, config=SIZES.world)
    cond = from_rows(conditions, plucker, grid=grid, config=SIZES.world, dtype=generator.dtype)
    state = begin(plain).state
    still = state.latent
    latents, state = generator.start(
        still, text=plain.text.world, text_mask=plain.text.world_mask, cond=cond.part(0, 4), seed=5
    )
    clip = [latents]
    for a in (4, 7):
        latents, state = generator.step(state, cond=cond.part(a, a + 3))
        clip.append(latents)
    whole = to_uint8(plain.vae.decode_clip(torch.cat(clip, dim=2)))[0].numpy()
    ours, theirs = pixels(*flight[1:]).astype(int), whole[1:].astype(int)
    assert np.abs(ours - theirs).max() <= 1  # a fraction cut off on either side of a whole number


def test_latent_frames_may_be_decoded_one_by_one(engine: SanaEngine) -> None:
    slow = SanaEngine(
        engine.spec,
        model=engine.generator.model,
        vae=engine.vae,
        refiner=engine.refiner and engine.refiner.model,
        text=engine.text,
        decode_together=1,
    )
    assert np.abs(pixels(*fly(slow, 2)).astype(int) - pixels(*fly(engine, 2))).max() <= 1


def test_a_state_is_a_value_and_does_not_grow(engine: SanaEngine) -> None:
    flight = fly(engine, 6)
    again = engine.step(flight[2].state, path(2), intrinsics=LENS)
    assert np.array_equal(pixels(again), pixels(flight[3]))
    sizes = [sum(t.nbytes for t in tensors(chunk.state)) for chunk in flight]
    assert sizes[6] == sizes[5]  # the refiner's window of ten frames is full
    other = engine.step(begin(engine, seed=6).state, path(0), intrinsics=LENS)
    assert not np.array_equal(pixels(other), pixels(flight[1]))
    retried = engine.step(flight[2].state, path(2), intrinsics=LENS, attempt=1)
    assert not np.array_equal(pixels(retried), pixels(flight[3]))


def test_warming_up_goes_on_until_the_refiner_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six chunks, the last two behind a full window; no more than before where it is off, or nothing is captured."""
    engine = open_sana(SETUP, device="cpu")
    assert engine.refiner is not None
    assert engine._until_steady() == 2
    engine.refiner = Refiner(engine.refiner.model, fast=True)
    held, step = [], engine.refiner.step
    monkeypatch.setattr(engine.refiner, "step", lambda s, x: (held.append(s.held), step(s, x))[1])
    assert engine.pattern.refiner is not None
    assert held == [0, 3, 6, 9, 10, 10]
    engine.refining = False
    assert engine._until_steady() == 2


def captured() -> SanaEngine:
    """As on a GPU, as far as there is none."""
    engine = open_sana(SETUP, device="cpu")
    assert engine.refiner is not None
    engine.generator = Generator(engine.generator.model, fast=True)
    engine.refiner = Refiner(engine.refiner.model, fast=True)
    return engine


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"noise"}, r"chunk 6 is not finite: discard it and step again from its state"),
        ({"_noise"}, r"chunk 6 is not finite after refining: step again from its state"),
        ({"noise", "_noise"}, r"chunk 6 is not finite: discard"),
    ],
)
def test_what_is_not_finite_is_told_by_stage_and_leaves_the_state_as_good(
    broken: set[str], said: str, fast: bool, engine: SanaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    flown = captured() if fast else engine
    state = fly(flown, 6)[-1].state
    want = engine.step(state, path(6), intrinsics=LENS)
    with monkeypatch.context() as patched:
        for stage in (flown.generator, flown.refiner):
            for name in broken & set(dir(stage)):
                made = getattr(stage, name)
                patched.setattr(
                    stage, name, lambda *a, made=made, **given: torch.full_like(made(*a, **given), torch.nan)
                )
        with pytest.raises(NotFinite, match=said):
            flown.step(state, path(6), intrinsics=LENS)
    got = flown.step(state, path(6), intrinsics=LENS)
    assert np.array_equal(pixels(want), pixels(got))
    assert all(torch.equal(a, b) for a, b in zip(tensors(want.state), tensors(got.state), strict=True))


def test_all_stages_are_launched_before_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the camera to the pictures nothing is looked at or sent but noise, as far as it shows without a GPU."""
    flown = captured()
    assert flown.refiner is not None
    state = fly(flown, 6)[-1].state
    cond, anchor = flown.condition(state, pose_tensor(path(6)), LENS)
    for module in (flown.generator.model, flown.refiner.model, flown.vae):
        numbers = {k: FAKE.from_tensor(v) for k, v in module.state_dict().items()}
        module.load_state_dict(numbers, assign=True)
    for block in flown.refiner.model.blocks():
        block.attn1._joined = None  # views of true numbers
    flown.refiner = Refiner(flown.refiner.model, fast=True)
    state, cond, anchor = without_numbers((state, cond, anchor))
    decode, made = flown.pictures.decode, []
    monkeypatch.setattr(flown.pictures, "decode", lambda *given: made.append(decode(*given)) or made[-1])
    monkeypatch.setattr(flown, "condition", lambda *given: (cond, anchor))
    monkeypatch.setattr(sana, "pose_tensor", lambda poses: None)
    with FAKE, NothingSent(), pytest.raises(DataDependentOutputException):
        flown.step(state, path(6), intrinsics=LENS)
    ((pictures, _),) = made
    assert sum(len(pixels) for pixels, _ in pictures.parts) == 24


def test_the_refiner_goes_off_and_on_in_flight(engine: SanaEngine, plain: SanaEngine) -> None:
    off = replace(begin(engine).state, refining=False)
    first = engine.step(off, path(0), intrinsics=LENS)
    assert "refine" not in first.timing
    assert np.array_equal(pixels(first), pixels(fly(plain, 1)[1]))  # as if there were none
    on = engine.step(replace(first.state, refining=True), path(1), intrinsics=LENS)
    assert on.state.refiner is not None
    assert (on.state.refiner.frame, on.state.refiner.held) == (7, 3)
    without = engine.step(first.state, path(1), intrinsics=LENS)
    assert torch.equal(on.state.latent, without.state.latent)  # stage 1 never learns of it
    assert not np.array_equal(pixels(on), pixels(without))


def test_travelling_weights_change_nothing() -> None:
    home = open_sana(SETUP, device="cpu")
    away = open_sana(SETUP, device="cpu")
    assert away.refiner is not None
    parts: list[nn.Module] = [away.vae.encoder, *away.refiner.model.blocks()[1:]]
    travellers = Travellers(parts, device=torch.device("cpu"))
    assert travellers.bytes > sum(p.nbytes for m in parts for p in m.parameters()) // 2
    assert np.array_equal(pixels(*fly(home, 3)), pixels(*fly(away, 3)))


def test_what_does_not_fit_is_refused(plain: SanaEngine) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
            open_sana(Setup(random_weights=True))
    with pytest.raises(ValueError, match="16 GB"):
        open_sana(replace(SETUP, memory=16), device="cpu")
    with pytest.raises(ValueError, match="--memory 20"):
        replace(SETUP, memory=20)
    with pytest.raises(ValueError, match="poses for a chunk of 24"):
        plain.step(begin(plain).state, path(0)[:8], intrinsics=LENS)


def test_the_release_is_refused_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a byte of it is placed."""
    monkeypatch.setattr(opening, "free_memory", lambda where: 20 * GB)
    tier = next(t for t in TIERS if t.gigabytes == 80)
    with pytest.raises(
        ValueError, match=r"with its refiner needs 64\.1 GB .* 20\.0 GB are free.*--refiner off"
    ):
        opening.require_memory(Sizes(), tier, torch.device("cpu"), refiner=True)
    opening.require_memory(Sizes(), tier, torch.device("cpu"), refiner=False)


def test_a_card_that_is_partly_used_flies_without_capturing_blocks() -> None:
    """Refused only where the refiner does not fit at all."""
    tier = next(t for t in TIERS if t.gigabytes == 80)
    assert tier.refiner_steady
    assert setup.spared(tier, 70 * GB) == tier
    for free in (63 * GB, 20 * GB):
        less = setup.spared(tier, free)
        assert less == replace(tier, refiner_steady=False)
        assert needs(less, refiner=True).total < 56 * GB < needs(tier, refiner=True).total
    other = next(t for t in TIERS if t.gigabytes == 48)
    assert setup.spared(other, 0) == other


def test_what_is_free_decides_whether_blocks_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused by what it needs at least."""
    monkeypatch.setattr(opening, "free_memory", lambda where: 50 * GB)
    with pytest.raises(ValueError, match=r"needs 55\.6 GB .* 50\.0 GB are free"):
        open_sana(Setup(random_weights=True, refiner="on", memory=80), device="cpu")


def test_every_tier_holds_what_it_promises() -> None:
    """Constants against models counted on the meta device; every tier below the memory that it is named after."""
    world, vae = empty(lambda: WorldModel(Sizes().world)), empty(lambda: Vae(Sizes().vae))
    refiner = empty(lambda: RefinerModel(Sizes().refiner))

    def counted(module: nn.Module) -> float:
        return pytest.approx(sum(p.numel() for p in module.parameters()), rel=0.01)

    assert counted(world) == setup.WORLD
    assert counted(vae.encoder) == setup.VAE_ENCODER
    assert counted(vae.decoder) == setup.VAE_DECODER
    assert counted(refiner) == setup.REFINER
    assert counted(refiner.blocks()[0]) == setup.REFINER_BLOCK
    for tier in TIERS:
        assert needs(tier, refiner=tier.refiner).total < 0.95 * tier.gigabytes * GB
        assert setup.tier_for(tier.gigabytes * GB) == tier
    assert setup.tier_for(12 * GB) is None
