"""The codec: shapes, the streaming property, the depth code."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.checkpoint import save_module
from engine.codec import Codec, load_codec
from engine.config import POCKET_CODEC, CodecConfig
from engine.depth import (
    FARTHEST,
    KNEE,
    NEAREST,
    SKY_CODE,
    UNKNOWN,
    depth_code,
    depth_decode,
    depth_planes,
    joint_decode,
)

TINY = CodecConfig(
    width=48,
    height=32,
    latent_channels=4,
    encoder_widths=(8, 8, 16),
    decoder_widths=(16, 16, 8, 8),
    sky=True,
)


def _codec(seed: int = 0) -> Codec:
    """A tiny codec in which every branch is alive: zero-initialised convolutions get random weights."""
    torch.manual_seed(seed)
    codec = Codec(TINY).eval()
    for p in codec.parameters():
        torch.nn.init.normal_(p, std=0.1) if p.ndim > 1 else None
    codec.mean.normal_()
    codec.std.uniform_(0.5, 2)
    return codec


def _clip(frames: int, height: int = 32, width: int = 48) -> Tensor:
    return torch.rand(2, frames, 3, height, width) * 2 - 1


@pytest.mark.parametrize(("height", "width"), [(32, 48), (16, 80)])
@torch.inference_mode()
def test_shapes_and_ranges_at_two_sizes(height: int, width: int) -> None:
    codec = _codec()
    latent = codec.encode(_clip(8, height, width))
    assert latent.shape == (2, 4, height // 16, width // 16)
    rgb, inverse_depth = codec.decode(codec.encode_picture(_clip(1, height, width)[:, 0]), latent)
    assert rgb.shape == (2, 8, 3, height, width)
    assert inverse_depth.shape == (2, 8, height, width)
    assert rgb.abs().max() <= 1
    assert inverse_depth.min() >= 0
    assert inverse_depth.max() <= 1 / NEAREST * (1 + 1e-6)


@torch.inference_mode()
def test_streaming_equals_the_whole_clip() -> None:
    codec = _codec()
    clip = _clip(1 + 8 * 3)
    latents = codec.encode_clip(clip)
    rgb, inverse_depth = codec.decode_clip(latents)
    previous = codec.encode_picture(clip[:, 0])
    for i in range(3):
        latent = codec.encode(clip[:, 1 + 8 * i : 9 + 8 * i])
        torch.testing.assert_close(latent, latents[:, i + 1], atol=1e-6, rtol=1e-6)
        frames, depth = codec.decode(previous, latent)
        torch.testing.assert_close(frames, rgb[:, 8 * i : 8 * i + 8], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(depth, inverse_depth[:, 8 * i : 8 * i + 8], atol=1e-6, rtol=1e-5)
        alone, near = codec.decode(previous, latent, last=True)
        torch.testing.assert_close(alone, frames[:, -1:], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(near, depth[:, -1:], atol=1e-6, rtol=1e-5)
        previous = latent


@torch.inference_mode()
def test_a_picture_is_a_chunk_that_stands_still() -> None:
    codec, picture = _codec(), _clip(1)[:, 0]
    still = torch.stack([picture] * 8, dim=1)
    assert torch.equal(codec.encode_picture(picture), codec.encode(still))


@torch.inference_mode()
def test_normalisation_is_affine_per_channel() -> None:
    codec, clip = _codec(), _clip(8)
    raw = codec.encoder(clip, torch.full((2, 8, 32, 48), UNKNOWN))
    expected = (raw - codec.mean[:, None, None]) / codec.std[:, None, None]
    torch.testing.assert_close(codec.encode(clip), expected)


@torch.inference_mode()
def test_bfloat16_stays_close_and_keeps_its_type() -> None:
    codec, clip = _codec(), _clip(9)
    exact, _ = codec.decode_clip(codec.encode_clip(clip))
    rough, depth = codec.bfloat16().decode_clip(codec.encode_clip(clip.bfloat16()))
    assert rough.dtype == torch.bfloat16
    assert depth.dtype == torch.float32
    # 30 layers of rounding to 8 bits, each half a unit in the last place, add up like a random walk
    assert (rough - exact).norm() / exact.norm() < math.sqrt(30) * 2**-8


def test_depth_code_closed_form() -> None:
    metres = torch.tensor([0.25, 1.0, 10.0, 50.0, 400.0], dtype=torch.float64)
    code = depth_code(1 / metres)
    expected = torch.tensor(
        [math.log(400 / m) / math.log(1600) for m in metres.tolist()], dtype=torch.float64
    )
    torch.testing.assert_close(code, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(depth_decode(code, -torch.ones(5)), 1 / metres, atol=1e-12, rtol=1e-12)


def test_depth_code_at_its_ends() -> None:
    assert depth_code(torch.tensor([0.0, UNKNOWN, 1e-5])).eq(0).all()
    assert depth_code(torch.tensor([100.0])).item() == 1
    assert depth_decode(torch.tensor([0.5, 1.0]), torch.tensor([0.1, 9.0])).eq(0).all()
    ends = depth_decode(torch.tensor([-0.3, 1.7]), torch.tensor([-0.1, -9.0]))
    torch.testing.assert_close(ends, torch.tensor([1 / FARTHEST, 1 / NEAREST]))


def test_the_joint_code_of_the_first_weights() -> None:
    metres = torch.tensor([0.25, 1.0, 10.0, 400.0], dtype=torch.float64)
    code = torch.log(1 + KNEE / metres) / math.log(1 + KNEE / NEAREST)
    torch.testing.assert_close(joint_decode(code), 1 / metres, atol=1e-12, rtol=1e-12)
    assert joint_decode(torch.tensor([0.0, SKY_CODE * 0.99, -0.3])).eq(0).all()


@torch.inference_mode()
def test_the_first_weights_have_no_sky_of_their_own() -> None:
    codec, clip = Codec(replace(TINY, sky=False)).eval(), _clip(8)
    latent = codec.encode(clip)
    assert torch.equal(codec.encode(clip, torch.ones(2, 8, 32, 48)), latent)
    rgb, inverse_depth = codec.decode(latent, latent)
    assert rgb.shape == (2, 8, 3, 32, 48)
    assert inverse_depth.shape == (2, 8, 32, 48)


def test_the_encoder_is_told_things_sky_and_what_nobody_knows() -> None:
    planes = depth_planes(torch.tensor([[[0.1, 0.0, UNKNOWN]]]))
    assert planes.shape == (1, 2, 1, 3)
    assert planes[0, 1, 0].tolist() == [1, -1, 0]
    stretched = 4 * math.log(400 * 0.1) / math.log(1600) - 2
    assert planes[0, 0, 0].tolist() == pytest.approx([stretched, 0, 0])


@torch.inference_mode()
def test_depth_told_reaches_the_latent_and_silence_is_unknown() -> None:
    codec, clip = _codec(), _clip(17)
    depth = torch.rand(2, 17, 32, 48)
    silent = codec.encode_clip(clip)
    assert torch.equal(codec.encode_clip(clip, torch.full_like(depth, UNKNOWN)), silent)
    heard = codec.encode_clip(clip, depth)
    assert not torch.equal(heard, silent)
    torch.testing.assert_close(
        codec.encode_picture(clip[:, 0], depth[:, 0]), heard[:, 0], atol=1e-6, rtol=1e-6
    )


def test_wrong_sizes_are_named() -> None:
    codec = _codec()
    with pytest.raises(ValueError, match="50x32"):
        codec.encode(torch.zeros(1, 8, 3, 32, 50))
    with pytest.raises(ValueError, match="7 frames"):
        codec.encode(torch.zeros(1, 7, 3, 32, 48))
    with pytest.raises(ValueError, match="16 frames"):
        codec.encode_clip(torch.zeros(1, 16, 3, 32, 48))


def test_pocket_codec_keeps_its_budget() -> None:
    with torch.device("meta"):
        codec = Codec(POCKET_CODEC)
    assert sum(p.numel() for p in codec.encoder.parameters()) <= 5_000_000
    assert sum(p.numel() for p in codec.decoder.parameters()) <= 9_000_000


def test_a_codec_file_that_cannot_be_built_says_so(tmp_path: Path) -> None:
    path = tmp_path / "codec.safetensors"
    for config in ({"bogus": 1}, {"width": 50}, {"encoder_widths": [1, "x", 2]}, {"stride": 0}):
        save_module(path, _codec(), kind="codec", config=config)
        with pytest.raises(ValueError, match="cannot build") as caught:
            load_codec(path)
        assert "\n" not in str(caught.value)


@torch.inference_mode()
def test_a_loaded_codec_decodes_as_saved(tmp_path: Path) -> None:
    path, codec = tmp_path / "codec.safetensors", _codec()
    save_module(path, codec, kind="codec", config=asdict(TINY), quantise=False)
    loaded = load_codec(path)
    assert loaded.config == TINY
    clip = _clip(9)
    for a, b in zip(
        codec.decode_clip(codec.encode_clip(clip)), loaded.decode_clip(loaded.encode_clip(clip)), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
