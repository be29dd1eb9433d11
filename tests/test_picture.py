"""First pictures: good ones become the right size, bad ones get one sentence."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from engine.camera import Intrinsics
from engine.imagefile import describe
from engine.picture import Picture, fit, fit_intrinsics, load_picture, prepare_depth, prepare_picture


def photo(width: int = 320, height: int = 200) -> NDArray[np.uint8]:
    """Smooth colours, red grows to the right, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=-1).round().astype(np.uint8)


def encoded(extension: str, rgb: NDArray[np.uint8] | None = None) -> bytes:
    good, data = cv2.imencode(extension, (photo() if rgb is None else rgb)[..., ::-1])
    assert good
    return data.tobytes()


def exif(orientation: int, focal: int, *, order: str = "<") -> bytes:
    """An APP1 segment with an orientation and a 35 mm focal length."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    ifd = struct.pack(order + "HHHIHHHHII", 2, 0x112, 3, 1, orientation, 0, 0x8769, 4, 1, 38) + bytes(4)
    sub = struct.pack(order + "HHHIHH", 1, 0xA405, 3, 1, focal, 0) + bytes(4)
    content = b"Exif\0\0" + head + ifd + sub
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def with_exif(segment: bytes) -> bytes:
    jpeg = encoded(".jpg")
    return jpeg[:2] + segment + jpeg[2:]


def test_intrinsics_follow_the_crop_of_the_reference(oracles: Path) -> None:
    t = load_file(oracles / "camera.safetensors")
    fx, fy, cx, cy = (float(v) for v in t["full.intrinsics_source"][0])
    k = fit_intrinsics(Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, width=1691, height=930), width=1280, height=704)
    np.testing.assert_allclose(k.row, t["full.intrinsics_cropped"][0], rtol=2e-7)


@pytest.mark.parametrize("size", [(1691, 930), (1672, 941), (64, 64), (65, 640), (300, 301), (256, 160)])
@pytest.mark.parametrize("to", [(256, 160), (1280, 704)])
def test_any_size_is_covered_and_rays_stay(size: tuple[int, int], to: tuple[int, int]) -> None:
    out, k = prepare_picture(photo(*size), width=to[0], height=to[1])
    assert out.shape == (to[1], to[0], 3)
    rw, rh, left, top = fit(*size, to=to)
    assert rw - left >= to[0] > 0 <= left
    assert rh - top >= to[1] > 0 <= top
    f = 0.8 * max(size)
    for u, v in ((0, 0), (size[0], size[1] / 2)):  # a ray before and after
        before = (u - size[0] / 2) / f, (v - size[1] / 2) / f
        after = (u * rw / size[0] - left - k.cx) / k.fx, (v * rh / size[1] - top - k.cy) / k.fy
        assert after == pytest.approx(before, abs=1e-9)


def test_pixels_land_where_the_intrinsics_say() -> None:
    """Red grows linearly with the column: the picture itself tells where each output pixel came from."""
    width, height = 640, 300
    out, k = prepare_picture(photo(width, height), width=256, height=160)
    u = (np.arange(256) + 0.5 - k.cx) / k.fx * (0.8 * width) + width / 2
    # Half a level from rounding the picture, half from rounding the result.
    np.testing.assert_allclose(out[80, 4:-4, 0], (255 * (u - 0.5) / width)[4:-4], atol=1.0)


@pytest.mark.parametrize("size", [(640, 300), (256, 160), (257, 161), (100, 64), (300, 640)])
@pytest.mark.parametrize("to", [(256, 160), (640, 352)])
def test_depth_is_cropped_as_its_picture(size: tuple[int, int], to: tuple[int, int]) -> None:
    """Each pixel of a depth that holds its own column, or row, says where it was taken from."""
    y, x = np.mgrid[: size[1], : size[0]]
    _, k = prepare_picture(photo(*size), width=to[0], height=to[1])
    f = 0.8 * max(size)
    for source, count, side, (focal, centre) in (
        (x, to[0], size[0], (k.fx, k.cx)),
        (y, to[1], size[1], (k.fy, k.cy)),
    ):
        taken = prepare_depth(source.astype(np.float16), width=to[0], height=to[1])
        assert taken.shape == (to[1], to[0])
        assert taken.dtype == np.float16
        line = taken[0] if source is x else taken[:, 0]
        assert (taken == (line if source is x else line[:, None])).all()
        u = (np.arange(count) + 0.5 - centre) / focal * f + side / 2
        assert np.abs(line + 0.5 - u).max() <= 0.5 + 1e-6


def test_depth_of_the_right_size_stays_as_it_is() -> None:
    depth = np.random.default_rng(0).random((160, 256)).astype(np.float16)
    assert np.array_equal(prepare_depth(depth, width=256, height=160), depth)


def test_downsampling_does_not_alias() -> None:
    """One-pixel stripes become grey, not stripes."""
    stripes = np.zeros((1600, 2560, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    out, _ = prepare_picture(stripes, width=256, height=160)
    assert np.ptp(out.astype(int)) <= 2


def test_the_focal_length_comes_from_fov_then_exif_then_a_guess() -> None:
    picture = Picture(rgb=photo(360, 240), focal_35mm=36.0)
    assert picture.intrinsics(90.0).fx == pytest.approx(180.0)
    assert picture.intrinsics().fx == pytest.approx(360.0)  # a 3:2 picture is 36 mm wide
    assert Picture(rgb=photo(360, 240)).intrinsics().fx == pytest.approx(288.0)
    for fov in (0.0, 200.0, math.nan):
        with pytest.raises(ValueError, match="field of view"):
            picture.intrinsics(fov)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".bmp"])
def test_formats(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo{extension}"
    path.write_bytes(encoded(extension))
    info = describe(path.read_bytes())
    assert info is not None
    assert (info.width, info.height, info.complete) == (320, 200, True)
    rgb = load_picture(path).rgb
    assert np.abs(rgb.astype(int) - photo()).mean() < 4


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_turns_the_picture_and_gives_its_lens(order: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(with_exif(exif(6, 28, order=order)))
    picture = load_picture(path)
    assert picture.rgb.shape == (320, 200, 3)
    assert picture.focal_35mm == 28.0
    assert int(picture.rgb[0, 100, 0]) < int(picture.rgb[-1, 100, 0])  # red now grows downwards


def test_grey_deep_and_transparent_pictures(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), photo()[..., 0])
    cv2.imwrite(str(tmp_path / "deep.png"), photo().astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "clear.png"), np.dstack([photo(), photo()[..., :1]]))
    for name in ("grey", "deep", "clear"):
        rgb = load_picture(tmp_path / f"{name}.png").rgb
        assert rgb.shape == (200, 320, 3)
        assert rgb.dtype == np.uint8


def header_says(data: bytes, width: int, height: int) -> bytes:
    """A PNG that claims another size."""
    return data[:16] + struct.pack(">II", width, height) + data[24:]


BAD = {
    "missing.png": (None, "there is no picture"),
    "empty.png": (b"", "is not a picture"),
    "text.jpg": (b"just words", "is not a picture"),
    "gif.png": (b"GIF89a" + bytes(100), "is not a picture"),
    "wave.webp": (b"RIFF" + struct.pack("<I", 100) + b"WAVE" + bytes(100), "is not a picture"),
    "short.png": (encoded(".png")[:20], "header stops early"),
    "cut.png": (encoded(".png")[:-600], "broken or truncated png"),
    "cut.jpg": (encoded(".jpg")[:-60], "broken or truncated jpeg"),
    "header.jpg": (encoded(".jpg")[:8], "broken picture"),
    "segments.jpg": (b"\xff\xd8\xff" + bytes(500), "broken picture"),
    "cut.webp": (encoded(".webp")[:-60], "broken or truncated webp"),
    "cut.bmp": (encoded(".bmp")[:-600], "broken or truncated bmp"),
    "tiny.png": (encoded(".png", photo(63, 200)), "is tiny, 63x200"),
    "strip.png": (encoded(".png", photo(2000, 64)), "is a strip"),
    "huge.png": (header_says(encoded(".png"), 60_000, 60_000), "is huge"),
    "bomb.png": (header_says(encoded(".png"), 2**31 - 1, 2**31 - 1), "is huge"),
    "lie.png": (header_says(encoded(".png"), 640, 400), "broken or truncated png"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_get_one_sentence(name: str, tmp_path: Path) -> None:
    content, says = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says) as e:
        load_picture(tmp_path / name)
    assert "\n" not in str(e.value)
    assert name in str(e.value)


def test_broken_exif_is_as_good_as_none() -> None:
    good = exif(6, 28)
    for cut in range(12, len(good), 3):
        segment = b"\xff\xe1" + struct.pack(">H", cut - 2) + good[4:cut]
        info = describe(with_exif(segment))
        assert info is not None
        assert info.width == 320
    looped = bytearray(good)
    looped[10 + 8 + 2 + 12 + 8 : 10 + 8 + 2 + 12 + 12] = struct.pack(
        "<I", 8
    )  # the EXIF directory is IFD0 itself
    assert describe(with_exif(bytes(looped))) is not None


def test_intrinsics_of_another_size_are_refused() -> None:
    k = Intrinsics(fx=1, fy=1, cx=0, cy=0, width=10, height=10)
    with pytest.raises(ValueError, match="10x10"):
        prepare_picture(photo(), k, width=256, height=160)
