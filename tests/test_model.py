"""Properties of the world model: one forward for streams, training clips and whole clips; what may look at what."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.config import POCKET, RELEASE_2026, SGLANG, ModelConfig
from engine.model import WorldModel
from engine.native import load_native
from engine.state import Keys
from engine.window import chunk_lengths
from tests.flights import CHUNKY, SMALL, distance, flight, inputs, random_model, run

CONFIGS = {
    "pocket": SMALL,
    "unlimited": replace(CHUNKY, window=-1),
    "window and sink": CHUNKY,
    "window": replace(CHUNKY, window=1, sink=False),
    "release": replace(CHUNKY, semantics=RELEASE_2026),
    "sglang": replace(CHUNKY, semantics=SGLANG),
}


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_chunked_equals_dense(name: str) -> None:
    config = CONFIGS[name]
    model = random_model(config)
    frames = 13
    given = inputs(model, frames)
    lengths = chunk_lengths(frames, config)
    dense, after = model(**given, chunks=lengths)
    chunked, past = run(model, given, lengths)
    exact = 1e-13
    assert distance(chunked, dense) < exact
    for a, b in zip(after, past, strict=True):
        assert (a.index, a.chunks) == (b.index, b.chunks)
        assert distance(a.ffn, b.ffn) < exact
        for field in (
            ("k", "v", "cam_k", "cam_v") if isinstance(a.mixer, Keys) else ("S", "z", "cam_S", "conv")
        ):
            assert distance(getattr(a.mixer, field), getattr(b.mixer, field)) < exact


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_a_dense_part_can_be_continued(name: str) -> None:
    """Several chunks in a call with a past: what self-rollout training does."""
    model = random_model(CONFIGS[name])
    given = inputs(model, 13)
    lengths = chunk_lengths(13, model.config)
    assert distance(run(model, given, lengths, dense=3)[0], run(model, given, lengths)[0]) < 1e-13


@torch.no_grad()
def test_one_chunk_of_a_stream_equals_bidirectional() -> None:
    causal, whole = random_model(CHUNKY), random_model(replace(CHUNKY, causal=False))
    given = inputs(causal, 4)
    assert distance(causal(**given)[0], whole(**given)[0]) < 1e-14


@torch.no_grad()
@pytest.mark.parametrize("config", [SMALL, CHUNKY], ids=["pocket", "chunks"])
def test_nothing_looks_into_later_chunks(config: ModelConfig) -> None:
    model = random_model(config)
    given = inputs(model, 10)
    lengths = chunk_lengths(10, config)
    start = sum(lengths[:-1])
    before, _ = model(**given, chunks=lengths)
    given["x"] = given["x"].clone()
    given["x"][:, :, start:] += 1
    after, _ = model(**given, chunks=lengths)
    assert torch.equal(before[:, :, :start], after[:, :, :start])
    assert distance(after[:, :, start:], before[:, :, start:]) > 1e-3


@torch.no_grad()
def test_reading_leaves_the_state_alone() -> None:
    model = random_model(CHUNKY)
    given = inputs(model, 7)
    _, past = run(model, given, (4, 3))
    copies = [tensors(block) for block in past]
    saved = [[t.clone() for t in block] for block in copies]
    cond = flight(10, CHUNKY).part(7, 10)
    model(
        **{**given, "x": given["x"][:, :, 4:], "timestep": given["timestep"][:, 4:], "cond": cond}, past=past
    )
    assert all(
        torch.equal(a, b) for x, y in zip(copies, saved, strict=True) for a, b in zip(x, y, strict=True)
    )


def tensors(block: object) -> list[Tensor]:
    """All tensors of a state, by field."""
    if isinstance(block, Tensor):
        return [block]
    names = getattr(block, "__slots__", ())
    return [t for name in names for t in tensors(getattr(block, name))]


@torch.no_grad()
def test_the_timestep_is_truncated() -> None:
    model = random_model()
    given = inputs(model, 2)
    out = [model(**{**given, "timestep": torch.full((2, 2), t)})[0] for t in (727.0, 727.9, 728.0)]
    assert torch.equal(out[0], out[1])
    assert not torch.equal(out[0], out[2])


@torch.no_grad()
def test_memory_channels_say_nothing_at_first() -> None:
    torch.manual_seed(0)
    config = replace(SMALL, memory_channels=5)
    model = WorldModel(config).double()
    torch.nn.init.normal_(model.final_layer.linear.weight)
    given = inputs(model, 2)
    silent, _ = model(**given)
    given["x"][:, SMALL.latent_channels :] += 1
    assert torch.equal(model(**given)[0], silent)


def test_training_can_begin() -> None:
    """After two steps of descent every parameter has had a gradient: no two zeros in a row anywhere."""
    torch.manual_seed(0)
    config = replace(SMALL, memory_channels=2)
    model = WorldModel(config).double()
    words = torch.tensor([[1, 2, 0], [3, 4, 1]])
    given = inputs(model, 4)
    target = torch.randn_like(given["x"][:, : SMALL.latent_channels])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(3):
        given["text"] = model.embed_text(words)
        optimizer.zero_grad()
        (model(**given)[0] - target).square().mean().backward()
        optimizer.step()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_dead_parts_are_not_built() -> None:
    with torch.device("meta"):
        model = WorldModel(POCKET)
    assert model.blocks[0].mlp.t_conv.weight.shape == (320, 320, 2, 1)
    assert 23e6 < sum(p.numel() for p in model.parameters()) < 26e6


def test_chunks_must_fit() -> None:
    model = random_model()
    given = inputs(model, 3)
    with pytest.raises(ValueError, match="do not add up to the 3"):
        model(**given, chunks=(1, 1))
    with pytest.raises(ValueError, match="chunks of one latent frame"):
        model(**given, chunks=(1, 2))
    with pytest.raises(ValueError, match="bidirectional"):
        random_model(replace(CHUNKY, causal=False)).given(**arguments(given), chunks=(1, 2))


def arguments(given: dict[str, object]) -> dict[str, object]:
    return {
        "text": given["text"],
        "text_mask": None,
        "cond": given["cond"],
        "past": None,
        "dtype": torch.float64,
    }


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the tracer's own
def test_blocks_compile_without_a_break() -> None:
    """Tracing only: the graph is run by PyTorch itself. One trace serves dense training, gradients included."""
    model = random_model()
    given = inputs(model, 3)
    want, _ = model(**given)
    for block in model.blocks[:2]:
        block.compile(backend="eager", fullgraph=True)
    got, _ = model(**given)
    assert distance(got, want) < 1e-12
    got.sum().backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the tracer's own
def test_blocks_of_a_kind_share_one_compilation() -> None:
    """Four blocks, two graphs; a second clip adds none."""
    model = random_model()
    given = inputs(model, 2)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for block in model.blocks:
        block.compile(backend="eager", fullgraph=True, dynamic=False)
    for _ in range(2):
        model(**given)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_foreign_weights_are_named() -> None:
    model = random_model(CHUNKY)
    weights = {f"model.{k}": v for k, v in model.state_dict().items()}
    weights |= {"model.pos_embed": torch.zeros(1), "model.blocks.1.attn.A_log": torch.zeros(2)}
    load_native(random_model(CHUNKY, seed=1), weights)
    bias = weights.pop("model.final_layer.linear.bias")
    weights["model.final_layer.bias"] = bias
    weights["model.t_block.1.bias"] = bias
    with pytest.raises(
        ValueError, match=r"missing: final_layer.linear.bias; .*t_block.1.bias \(6,\) instead of"
    ) as e:
        load_native(model, weights)
    assert "unknown: final_layer.bias" in str(e.value)
