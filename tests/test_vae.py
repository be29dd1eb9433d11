"""The LTX-2 autoencoder: any way to cut a stream gives the clip, states are values, sizes are checked."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ltx2 import LTX2_VAE, VaeConfig, vae_config
from engine.release import empty
from engine.vae import DecoderState, Vae, to_uint8
from tests.checks.ltx2 import SMALL_VAE, filled, normal
from tests.checks.vae import count

MODEL = filled(Vae(replace(SMALL_VAE, decoder_widths=(16, 8), decoder_layers=(1, 1, 1)))).double()
LATENTS = normal(1, 1, 8, 7, 2, 2).double()


@pytest.fixture(scope="module")
def vae() -> Vae:
    assert isinstance(MODEL, Vae)
    return MODEL.requires_grad_(False)


@settings(max_examples=12, deadline=None)
@given(cuts=st.sets(st.integers(1, 6)))
def test_a_stream_cut_anywhere_is_the_clip(cuts: set[int]) -> None:
    assert isinstance(MODEL, Vae)
    edges = [0, *sorted(cuts), 7]
    state, out = None, []
    with torch.no_grad():
        for a, b in pairwise(edges):
            frames, state = MODEL.decode(LATENTS[:, :, a:b], state)
            out.append(frames)
        torch.testing.assert_close(torch.cat(out, dim=2), MODEL.decode_clip(LATENTS), rtol=0, atol=1e-11)


def test_an_old_state_stays_valid(vae: Vae) -> None:
    _, state = vae.decode(LATENTS[:, :, :3])
    kept = [tail.clone() for tail in state.tails]
    once, _ = vae.decode(LATENTS[:, :, 3:5], state)
    vae.decode(LATENTS[:, :, 5:], state)
    again, _ = vae.decode(LATENTS[:, :, 3:5], state)
    assert torch.equal(once, again)
    assert all(torch.equal(a, b) for a, b in zip(kept, state.tails, strict=True))


def test_a_state_holds_two_frames_per_convolution_and_no_more_memory(vae: Vae) -> None:
    _, state = vae.decode(LATENTS)
    for tail in state.tails:
        assert tail.shape[2] == 2
        assert tail.untyped_storage().nbytes() == tail.nbytes


def test_the_past_reaches_and_the_future_does_not(vae: Vae) -> None:
    changed = LATENTS.clone()
    changed[:, :, 4] += 1
    a, b = vae.decode_clip(LATENTS), vae.decode_clip(changed)
    same = (a == b).flatten(3).all(-1).flatten(0, 1).all(0)
    assert same[: 1 + 4 * 4 - 4].all()  # two upsamplers: four pixel frames per latent
    assert not same[1 + 4 * 4 - 4 :].any()


def test_released_size_and_tails() -> None:
    """As derived from the shapes: 45 convolutions, 595 MB of tails in bf16 at 704x1280."""
    vae = empty(lambda: Vae(LTX2_VAE)).to(torch.bfloat16)
    assert count(vae.encoder) == 694_098_881
    assert count(vae.decoder) == 528_380_720
    assert vae.config.stride == (8, 32, 32)
    frames, state = vae.decode(torch.empty(1, 128, 1, 22, 40, device="meta"))
    assert frames.shape == (1, 3, 1, 704, 1280)
    assert len(state.tails) == 45
    assert sum(tail.nbytes for tail in state.tails) == pytest.approx(595e6, rel=0.01)
    frames, _ = vae.decode(torch.empty(1, 128, 3, 22, 40, device="meta"), state)
    assert frames.shape == (1, 3, 24, 704, 1280)
    latents = vae.encode(torch.empty(1, 3, 9, 704, 1280, device="meta"))
    assert latents.shape == (1, 128, 2, 22, 40)
    assert latents.dtype == torch.float32


def test_a_decoder_that_looks_ahead_does_not_stream() -> None:
    vae = empty(lambda: Vae(replace(SMALL_VAE, decoder_causal=False)))
    with pytest.raises(ValueError, match="looks ahead"):
        vae.decode(torch.empty(1, 8, 1, 2, 2, device="meta"))


@pytest.mark.parametrize(
    ("shape", "said"), [((1, 3, 8, 64, 64), "clip of 8 frames"), ((1, 3, 1, 64, 65), "65x64")]
)
def test_pictures_that_do_not_split_are_refused(vae: Vae, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vae.encode(torch.zeros(shape))


def test_normalising_is_undone(vae: Vae) -> None:
    torch.testing.assert_close(vae.unnormalise(vae.normalise(LATENTS)), LATENTS, rtol=1e-12, atol=1e-12)
    assert vae.normalise(LATENTS.bfloat16()).dtype == torch.float32


def test_pixels() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 0.9999, 1.0, 2.0]).view(1, 1, 1, 1, 6).expand(1, 3, 2, 4, 6)
    out = to_uint8(x)
    assert out.shape == (1, 2, 4, 6, 3)
    assert out[0, 1, 2, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"timestep_conditioning": True}, "timestep_conditioning=True: only False"),
        ({"decoder_inject_noise": [False, True]}, "decoder_inject_noise"),
        ({"patch_size": "4"}, "patch_size='4': not a positive whole number"),
        ({"latent_channels": True}, "latent_channels=True"),
        ({"block_out_channels": [8, "x"]}, "block_out_channels"),
        ({"downsample_type": ["spatial", "temporal", "temporal", "up"]}, "up"),
        ({"decoder_causal": 1}, "decoder_causal=1: neither true nor false"),
    ],
)
def test_a_config_we_cannot_run_is_refused(change: dict[str, object], said: str) -> None:
    assert vae_config({}) == LTX2_VAE
    assert isinstance(vae_config({}, decoder_causal=False), VaeConfig)
    with pytest.raises(ValueError, match=said):
        vae_config(change)


def test_states_are_plain_tensors(vae: Vae) -> None:
    _, state = vae.decode(LATENTS[:, :, :1])
    assert isinstance(state, DecoderState)
    assert all(type(tail) is torch.Tensor and not tail.requires_grad for tail in state.tails)


def test_the_streaming_decoder_compiles_as_one_graph(vae: Vae) -> None:
    """State in, state out: nothing is remembered in between that a compiled graph could lose."""
    _, state = vae.decode(LATENTS[:, :, :3])
    compiled = torch.compile(vae.decode, fullgraph=True, backend="eager")
    (a, after), (b, then) = (decode(LATENTS[:, :, 3:5], state) for decode in (compiled, vae.decode))
    assert torch.equal(a, b)
    assert all(torch.equal(x, y) for x, y in zip(after.tails, then.tails, strict=True))


def test_half_precision_streams_too() -> None:
    fine, coarse = (filled(Vae(SMALL_VAE)).requires_grad_(False) for _ in range(2))
    assert isinstance(fine, Vae)
    assert isinstance(coarse, Vae)
    coarse.decoder.bfloat16()
    latents = normal(1, 1, 8, 3, 2, 2)
    first, state = coarse.decode(latents[:, :, :1])
    rest, state = coarse.decode(latents[:, :, 1:], state)
    assert {tail.dtype for tail in state.tails} == {rest.dtype} == {torch.bfloat16}
    out, ref = torch.cat((first, rest), dim=2).float(), fine.decode_clip(latents)
    once = coarse.decode_clip(latents).float()
    assert (out - ref).norm() <= 1.1 * (once - ref).norm()  # cutting adds no error of its own
