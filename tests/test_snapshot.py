"""A saved state continues bit for bit, and anything else is refused in one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import container
from engine.camera import Intrinsics, Pose
from engine.codec import Codec
from engine.config import POCKET_CODEC, WORLDS, memory_channels
from engine.engine import Chunk, Engine
from engine.model import WorldModel
from engine.opening import open_sana
from engine.restore import restore
from engine.sampler import SamplerState
from engine.sana import SanaEngine
from engine.snapshot import flatten, rebuild
from engine.state import StreamState
from tests.tiny import CODEC, MODEL, hills
from tests.tiny_sana import SETUP

LENS = Intrinsics.from_fov(1.2, width=256, height=160)
CHUNKS = 10  # two more than the window holds


def build(*, remembers: bool, dtype: torch.dtype) -> Engine:
    torch.manual_seed(0)
    config = replace(MODEL, memory_channels=memory_channels(POCKET_CODEC) if remembers else 0)
    parts = [m.to(dtype).eval().requires_grad_(False) for m in (WorldModel(config), Codec(CODEC))]
    return Engine(WORLDS["pocket"], model=parts[0], codec=parts[1], weights="w")


def form(engine: Engine | SanaEngine) -> dict[str, Any]:
    """What saved states are judged by."""
    return dict(like=engine.pattern, config=engine.generator.config, device=engine.device)


@pytest.fixture(
    scope="module", params=[(False, torch.float32), (True, torch.bfloat16)], ids=["plain", "memory"]
)
def engine(request: pytest.FixtureRequest) -> Engine:
    return build(remembers=request.param[0], dtype=request.param[1])


def fly(engine: Engine, state: StreamState, first: int, count: int) -> Chunk:
    chunk = Chunk(frames=(), state=state, timing={})
    for n in range(first, first + count):
        poses = [Pose(t=np.array([0.02 * n, 0.0, 0.25 * (8 * n + i + 1)])) for i in range(8)]
        chunk = engine.step(chunk.state, poses, intrinsics=LENS)
    return chunk


@pytest.fixture(scope="module")
def flown(engine: Engine) -> StreamState:
    first = engine.start(hills(0), pose=Pose(), intrinsics=LENS, words=(3, 2), seed=7)
    return fly(engine, first.state, 0, CHUNKS).state


def test_what_is_read_back_continues_bit_for_bit(engine: Engine, flown: StreamState, tmp_path: Path) -> None:
    arrays, record = flatten(flown)
    container.write(tmp_path / "a.world", arrays, record)
    read = container.read(tmp_path / "a.world")
    back = restore(*read, **form(engine))
    again, numbers = flatten(back)
    assert numbers == record
    assert arrays.keys() == again.keys()
    assert all(a.dtype == again[n].dtype and np.array_equal(a, again[n]) for n, a in arrays.items())
    here, there = fly(engine, flown, CHUNKS, 2), fly(engine, back, CHUNKS, 2)
    for a, b in zip(here.frames, there.frames, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert a.inverse_depth is not None
        assert np.array_equal(a.inverse_depth, b.inverse_depth)
        assert a.index == b.index


@pytest.fixture(scope="module")
def sana() -> SanaEngine:
    return open_sana(SETUP, device="cpu")


def walk(engine: SanaEngine, chunks: int, *, refining: bool = True) -> Chunk:
    lens = Intrinsics.from_fov(1.2, width=engine.spec.width, height=engine.spec.height)
    picture = hills(0, engine.spec.width, engine.spec.height)
    chunk = engine.start(picture, pose=Pose(), intrinsics=lens, seed=2**62)
    for k in range(chunks):
        chunk = stride(engine, replace(chunk.state, refining=refining), k)
    return chunk


def stride(engine: SanaEngine, state: StreamState, k: int) -> Chunk:
    lens = Intrinsics.from_fov(1.2, width=engine.spec.width, height=engine.spec.height)
    poses = [Pose(t=np.array([0.0, 0.0, 0.05 * (24 * k + i)])) for i in range(24)]
    return engine.step(state, poses, intrinsics=lens)


@pytest.mark.parametrize(("chunks", "refining"), [(0, True), (1, True), (2, False), (4, True)])
def test_sana_continues_bit_for_bit(sana: SanaEngine, chunks: int, refining: bool, tmp_path: Path) -> None:
    """From its beginning, with windows half full and full, with the refiner on and off."""
    state = walk(sana, chunks, refining=refining).state
    arrays, record = flatten(state)
    container.write(tmp_path / "a.world", arrays, record)
    back = restore(*container.read(tmp_path / "a.world"), **form(sana))
    one, two = stride(sana, state, chunks), stride(sana, back, chunks)
    for a, b in zip(one.frames, two.frames, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert a.index == b.index
    assert torch.equal(one.state.latent, two.state.latent)


def test_a_sana_state_that_does_not_hold_together_is_refused(sana: SanaEngine) -> None:
    arrays, record = flatten(walk(sana, 2).state)
    restore(arrays, record, **form(sana))
    for name in [n for n in arrays if "refiner.history" in n or "decoder" in n or n.endswith(".S")]:
        with pytest.raises(ValueError, match="of the saved state"):
            restore({**arrays, name: arrays[name][:, :-1]}, record, **form(sana))
    for name in [n for n in arrays if "refiner.history" in n]:
        more = {**arrays, name.replace("history.0.0", "history.0.1"): arrays[name]}
        if len(more) > len(arrays):
            with pytest.raises(ValueError, match=r"of the saved state|has no"):
                restore(more, record, **form(sana))
    for name, value in (("held", 2), ("frame", 1), ("grid", [1, 2])):
        numbers = {**record["numbers"], f"state.refiner.{name}": value}
        with pytest.raises(ValueError, match=r"is no window|of the saved state"):
            restore(arrays, {**record, "numbers": numbers}, **form(sana))
    for part in ("state.refiner.", "state.decoder.", "state.blocks."):
        less = {n: a for n, a in arrays.items() if not n.startswith(part)}
        numbers = {n: v for n, v in record["numbers"].items() if not n.startswith(part)}
        with pytest.raises(ValueError, match="the saved state has no"):
            restore(less, {**record, "numbers": numbers}, **form(sana))
    here = form(sana)
    assert here["like"].refiner is not None
    here["like"] = replace(here["like"], refiner=replace(here["like"].refiner, history=()))
    with pytest.raises(ValueError, match=r"refiner\.history of the saved state has 2 parts, this world 0"):
        restore(arrays, record, **here)


def test_a_history_in_one_piece_is_read_as_a_long_block(sana: SanaEngine) -> None:
    """As files had it before states shared their blocks; what follows is the same."""
    state = walk(sana, 4).state
    arrays, record = flatten(state)
    assert state.refiner is not None
    parts = {n for n in arrays if n.startswith("state.refiner.history.")}
    old = {n: a for n, a in arrays.items() if n not in parts}
    for i, blocks in enumerate(state.refiner.history):
        assert len(blocks) > 1
        for side in "kv":
            pieces = [arrays[f"state.refiner.history.{i}.{b}.{side}"] for b in range(len(blocks))]
            old[f"state.refiner.history.{i}.{side}"] = np.concatenate(pieces, axis=1)
    bits = [n for n in record["bfloat16"] if n not in parts] + [n for n in old if n not in arrays]
    back = restore(old, {**record, "bfloat16": bits}, **form(sana))
    one, two = stride(sana, state, 4), stride(sana, back, 4)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one.frames, two.frames, strict=True))
    assert torch.equal(one.state.latent, two.state.latent)


def test_axes_keep_their_order_in_memory() -> None:
    """A kernel for one order may round otherwise than that for another."""
    x = torch.randn(2, 3, 4, 5, 6)
    for order in ((0, 1, 2, 3, 4), (0, 2, 3, 4, 1), (4, 2, 0, 1, 3)):
        clip = SamplerState(latents=x.permute(order), done=0)
        arrays, record = flatten(clip)
        back = rebuild(SamplerState, arrays, record).latents
        assert torch.equal(back, clip.latents)
        assert back.stride() == clip.latents.stride()
    for wrong in ([0, 1], [0, 1, 2, 3, 3], "01234", [[], 1, 2, 3, 4], ["0", 1, 2, 3, 4]):
        with pytest.raises(ValueError, match="no order of 5 axes"):
            rebuild(SamplerState, arrays, {**record, "orders": {"state.latents": wrong}})


def test_any_value_of_tensors_comes_back() -> None:
    clip = SamplerState(latents=torch.randn(2, 3).bfloat16(), done=7)
    back = rebuild(SamplerState, *flatten(clip))
    assert torch.equal(back.latents, clip.latents)
    assert back.done == 7
    with pytest.raises(ValueError, match="saved state"):
        rebuild(StreamState, *flatten(clip))
    with pytest.raises(TypeError, match="cannot be kept"):
        flatten(replace(clip, done=float("nan")))


def test_every_tensor_of_the_state_counts(engine: Engine, flown: StreamState) -> None:
    """One missing, misshapen, mistyped or non-finite array, each in turn, is refused by its name."""
    arrays, record = flatten(flown)
    for name, a in arrays.items():
        wrong = {"shape": a[..., :-1], "type": a.astype(np.uint16)}
        if a.dtype.kind == "f":
            wrong["number"] = np.full_like(a, np.inf)
        for bad in wrong.values():
            with pytest.raises(ValueError, match="of the saved state"):
                restore({**arrays, name: bad}, record, **form(engine))
        less = {n: x for n, x in arrays.items() if n != name}
        with pytest.raises(ValueError, match=name):
            restore(less, record, **form(engine))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state.chunk", 3),
        ("state.frame", -1),
        ("state.seed", 1 << 63),
        ("state.seed", True),
        ("state.blocks.0.index", "11"),
        ("state.blocks.1.chunks", [1] * 7),
        ("state.blocks.1.chunks", [2] * 8),
        ("state.blocks.0.chunks", [1]),
    ],
)
def test_numbers_that_do_not_belong_together_are_refused(
    engine: Engine, flown: StreamState, name: str, value: Any
) -> None:
    arrays, record = flatten(flown)
    numbers = {**record["numbers"], name: value}
    with pytest.raises(ValueError, match="saved state"):
        restore(arrays, {**record, "numbers": numbers}, **form(engine))


def test_a_stranger_in_the_file_is_refused(engine: Engine, flown: StreamState) -> None:
    arrays, record = flatten(flown)
    with pytest.raises(ValueError, match="does not have"):
        restore({**arrays, "state.x": np.zeros(1)}, record, **form(engine))
    with pytest.raises(ValueError, match="no list of numbers"):
        restore(arrays, {}, **form(engine))


def test_other_words_are_those_of_a_flight_begun_with_them(engine: Engine, flown: StreamState) -> None:
    begun = engine.start(hills(0), pose=Pose(), intrinsics=LENS, words=(5, 9, 12)).state
    other = engine.reworded(flown, (5, 9, 12))
    assert torch.equal(other.text, begun.text)
    assert not torch.equal(other.text, flown.text)
    assert other == replace(flown, text=other.text)
    with pytest.raises(ValueError, match="words"):
        engine.reworded(flown, (64,))


def test_a_file_is_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.world"
    arrays = {"a": np.arange(5000.0), "b": np.zeros((2, 0, 3), np.uint8)}
    size = container.write(path, arrays, {"world": "pocket", "weights": "w"})
    data = path.read_bytes()
    assert size == len(data)
    assert [p.name for p in tmp_path.iterdir()] == ["a.world"]
    read, record = container.read(path)
    assert all(np.array_equal(arrays[n], read[n]) for n in arrays)
    container.require_same_world(path, record, world="pocket", weights="w")
    for wrong in ({"world": "sana-wm", "weights": "w"}, {"world": "pocket", "weights": "v"}):
        with pytest.raises(ValueError, match="open it with"):
            container.require_same_world(path, record, **wrong)
    for strange in ("\x1b[2J", ["pocket"], None):
        with pytest.raises(ValueError, match="no such world") as refused:
            container.require_same_world(
                path, {"world": strange, "weights": "w"}, world="pocket", weights="w"
            )
        assert str(refused.value).isprintable()
    for damage in (data[:-8], data[:20], b"", b"x" * 64, data[:-1] + bytes([data[-1] ^ 1])):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="again"):
            container.read(path)
    path.write_bytes(data.replace(b'pocket\\"', b'packet\\"'))
    with pytest.raises(ValueError, match="damaged"):
        container.read(path)
    with pytest.raises(ValueError, match="there is no file"):
        container.read(tmp_path / "b.world")
    with pytest.raises(ValueError, match="not a whole flight"):
        container.read(tmp_path)


def test_weights_and_later_formats_are_told_apart(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    for metadata, why in (
        ({"kind": "world"}, "no flight"),
        ({"kind": "flight", "format": "2"}, "format '2'"),
    ):
        save_file({"a": np.zeros(1)}, tmp_path / "a.world", metadata)
        with pytest.raises(ValueError, match=why):
            container.read(tmp_path / "a.world")
