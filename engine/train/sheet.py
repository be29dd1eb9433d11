"""Contact sheets: rows of pictures in one PNG, to look at while a model trains."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import torch
from torch import Tensor

GAP = 4  # pixels between pictures


def tile(rows: Sequence[Tensor]) -> Tensor:
    """Rows of pictures [N, 3, Y, X] in [-1, 1], all of one picture size → uint8 [Y', X', 3]; short rows end in black."""
    if not rows or any(row.shape[1:] != rows[0].shape[1:] for row in rows):
        raise ValueError(f"a sheet needs rows of pictures of one size, not {[tuple(r.shape) for r in rows]}")
    _, _, y, x = rows[0].shape
    columns = max(len(row) for row in rows)
    sheet = torch.zeros(len(rows) * (y + GAP) - GAP, columns * (x + GAP) - GAP, 3, dtype=torch.uint8)
    for i, row in enumerate(rows):
        pixels = ((row.detach().float().clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8)
        for j, picture in enumerate(pixels):
            top, left = i * (y + GAP), j * (x + GAP)
            sheet[top : top + y, left : left + x] = picture.permute(1, 2, 0)
    return sheet


def save_sheet(path: Path, rows: Sequence[Tensor]) -> None:
    """Write `tile(rows)` as PNG, whole or not at all."""
    ok, png = cv2.imencode(".png", tile(rows).numpy()[..., ::-1])
    assert ok
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(png.tobytes())
    os.replace(part, path)


def grey(code: Tensor) -> Tensor:
    """A map in [0, 1], [..., Y, X], as grey pictures [..., 3, Y, X] in [-1, 1]."""
    return (code * 2 - 1).unsqueeze(-3).expand(*code.shape[:-2], 3, *code.shape[-2:])
