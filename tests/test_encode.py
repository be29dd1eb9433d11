"""Frame to JPEG: colours in the right order, sizes sensible, bad input named."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from explorer.encode import depth_bytes, jpeg


def scene(height: int = 160, width: int = 256) -> np.ndarray:
    """A smooth landscape: blue above, green below, a red disc."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([40 + 0 * x, 60 + 120 * y / height, 200 - 150 * y / height], axis=-1)
    rgb[np.hypot(x - width / 2, y - height / 2) < height / 5] = (220, 40, 30)
    return rgb.astype(np.uint8)


def decoded(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def test_the_picture_comes_back_with_its_colours() -> None:
    coded = jpeg(scene())
    assert coded.data.startswith(b"\xff\xd8")
    assert coded.seconds > 0
    assert psnr(decoded(coded.data), scene()) > psnr(decoded(coded.data)[..., ::-1], scene()) + 10


def test_quality_buys_fidelity_with_bytes() -> None:
    low, high = jpeg(scene(), quality=40), jpeg(scene(), quality=95, chroma="444")
    assert len(low.data) < len(high.data)
    assert psnr(decoded(low.data), scene()) < psnr(decoded(high.data), scene())


def test_odd_sizes_and_strided_input_are_taken() -> None:
    assert decoded(jpeg(scene(161, 255)[::2, ::-1]).data).shape == (81, 255, 3)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="JPEG takes uint8"):
        jpeg(pixels)


def test_quality_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="quality 0"):
        jpeg(scene(), quality=0)


def test_depth_survives_within_half_a_step() -> None:
    metres = np.geomspace(0.3, 390, 64 * 40).reshape(40, 64)
    depth = np.repeat(np.repeat(1 / metres, 4, axis=0), 4, axis=1).astype(np.float16)
    depth[:8] = 0
    code = np.frombuffer(depth_bytes(depth, (64, 40)), np.uint8).reshape(40, 64)
    assert (code[:2] == 0).all()
    back = np.exp((code[2:] - 1.0) / 254 * np.log(1600)) / 400
    # half a step of the code, and half a unit in the last place of a half-precision number
    assert np.abs(np.log(back * metres[2:])).max() <= np.log(1600) / 254 / 2 + 2**-11


def test_a_depth_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="100x100 does not split into 64x40"):
        depth_bytes(np.ones((100, 100), np.float16), (64, 40))
