"""Flights to files: mp4 that survives a killed program, screenshots, contact sheets."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # [Y, X, 3] RGB

# Every fragment stands alone, so whatever reached the disk can be played; half a second is the most that is lost.
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
GOP = 8  # frames per fragment


def pictures_folder() -> Path:
    """Where recordings and screenshots go: ~/Pictures/world-explorer, or ./flights where there is no Pictures."""
    pictures = Path.home() / "Pictures"
    return pictures / "world-explorer" if pictures.is_dir() else Path.cwd() / "flights"


def stamped(folder: Path, suffix: str, *, but: Collection[Path] = ()) -> Path:
    """A new name in `folder` (made if missing) from the time of day, never one that exists, nor one of `but`.

    Raises ValueError when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder} ({error.strerror}): set another folder under [recording] in the settings"
        ) from None
    stem = time.strftime("world-%Y-%m-%d-%H%M%S")
    names = (folder / f"{stem}{f'-{n}' if n else ''}{suffix}" for n in range(1000))
    return next(path for path in names if path not in but and not path.exists())


def require_writable(path: Path, *, suffix: str) -> None:
    """Refuse a path that cannot become a file ending in `suffix`, before any work is done. Raises ValueError."""
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path} does not end in {suffix}: name the file something{suffix}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a {suffix} file inside it")
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror}): choose another place") from None
    if not existed:
        path.unlink()


class Recorder:
    """An mp4 being written. The file appears with the first frame, and is playable at any moment after that."""

    def __init__(self, path: Path, *, fps: float, size: tuple[int, int] | None = None) -> None:
        """size: (width, height) of the film; None: that of the first frame, made even."""
        self.path = path
        self.frames = 0
        self._fps = Fraction(fps).limit_denominator(1000)
        self._size = size
        self._file: Any = None

    def add(self, pixels: Picture) -> None:
        """Append one [Y, X, 3] frame."""
        import av

        if self._file is None:
            self._open(pixels.shape[1], pixels.shape[0])
        width, height = self._stream.width, self._stream.height
        if pixels.shape[:2] != (height, width):
            pixels = fitted(pixels, width, height)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts = self.frames
        self._file.mux(self._stream.encode(frame))
        self.frames += 1

    def _open(self, width: int, height: int) -> None:
        import av

        width, height = self._size or (width, height)
        self._file = av.open(str(self.path), "w", format="mp4", options=FRAGMENTED)
        self._stream = self._file.add_stream(
            "libx264", rate=self._fps, options={"crf": "16", "preset": "veryfast", "tune": "zerolatency"}
        )
        self._stream.width, self._stream.height = width - width % 2, height - height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.gop_size = GOP
        self._stream.thread_count = 1

    def close(self) -> None:
        """Finish the file. Without a frame there is none."""
        if self._file is not None:
            self._file.mux(self._stream.encode(None))
            self._file.close()
            self._file = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def decoded(film: Path) -> Iterator[Picture]:
    """The frames of a film, [Y, X, 3] RGB; one cut short ends at its last whole frame. Raises ValueError."""
    import av

    count = 0
    try:
        with av.open(str(film)) as file:
            for frame in file.decode(video=0):
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                count += 1
    except (av.error.FFmpegError, IndexError) as error:
        if not count:
            raise ValueError(f"{film} is no film that can be read ({error}): record it again") from None


def fitted(pixels: Picture, width: int, height: int) -> Picture:
    """[Y, X, 3] scaled to fit width × height, black beside it where the shapes differ."""
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    w, h = max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1)
    small = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    out[top : top + h, left : left + w] = small
    return out


def save_png(path: Path, pixels: Picture) -> None:
    """Write [Y, X, 3] RGB. Raises ValueError when the place cannot be written."""
    ok, data = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))
    assert ok
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror}): choose another place") from None


def pick_evenly(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices spread evenly over 0…count-1, first and last included."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(wanted, count))}) if count else []


def contact_sheet(
    pictures: Sequence[Picture] | Iterable[Picture], *, columns: int = 4, gap: int = 4
) -> Picture:
    """Pictures of one size in a grid, row by row, on near-black."""
    pictures = list(pictures)
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    height, width = pictures[0].shape[:2]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 16, np.uint8)
    for i, picture in enumerate(pictures):
        y, x = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = picture
    return sheet
