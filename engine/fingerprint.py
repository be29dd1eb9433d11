"""Tell two models on disk apart without reading all of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

WEIGHTS = ".safetensors"
READ = (WEIGHTS, ".json", ".model", ".txt", ".jinja")  # what a model can be made of; a README is not
SLICES, SLICE = 64, 1 << 16  # pieces read of a weight file, bytes of each


def fingerprint(folder: Path) -> str:
    """sha256 over what a folder of safetensors says and over samples of its weights.

    Small files count wholly; of a weight file its size, its beginning (where safetensors names every tensor) and
    pieces spread evenly over the rest, 4 MB in all. Training, merging or quantising moves weights everywhere, so a
    model that differs has another fingerprint. Copying it or touching its dates changes nothing. Raises ValueError.
    """
    h = hashlib.sha256()
    try:
        for path in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in READ):
            h.update(f"{path.name} {path.stat().st_size}\n".encode())
            if path.suffix == WEIGHTS:
                _sample(path, h)
            else:
                with path.open("rb") as file:
                    h.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror}): fetch the release again") from error
    return h.hexdigest()


def _sample(path: Path, h: hashlib._Hash) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        for i in range(SLICES):
            file.seek(i * max(size - SLICE, 0) // (SLICES - 1))
            h.update(file.read(SLICE))
