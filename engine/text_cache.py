"""Encoded prompts on disk: loading an encoder of 5 or 24 GB takes a minute, reading its answer no time."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from platformdirs import user_cache_path

from engine.tensorfile import read_tensors, write_tensors
from engine.text import Embedding, Request

KIND = "encoded prompt"
FORMAT = "1"  # of names: another one forgets everything
LARGEST = 512 << 20  # bytes in the folder; a prompt takes 1.4 MB for stage 1 and 7.9 MB for the refiner


def cache_folder() -> Path:
    """Where this platform keeps what can be made again."""
    return user_cache_path("world-explorer", appauthor=False) / "text"


@dataclass(frozen=True)
class TextCache:
    """Holds up to `largest` bytes; what was not read for longest goes first. Safe to share between processes."""

    folder: Path
    largest: int = LARGEST

    def path(self, identity: str, request: Request) -> Path:
        said = json.dumps([FORMAT, identity, request.prompt, request.instruction])
        return self.folder / f"{hashlib.sha256(said.encode()).hexdigest()}.safetensors"

    def get(self, identity: str, request: Request) -> Embedding | None:
        """None for a text that is not here, or whose file is broken: that is removed."""
        path = self.path(identity, request)
        if not path.is_file():
            return None
        try:
            embedding = _read(path, self.largest)
            os.utime(path)
        except ValueError:
            path.unlink(missing_ok=True)
            return None
        except (
            OSError
        ):  # another process removed it, or the folder cannot be written: neither harms what was read
            pass
        return embedding

    def put(self, identity: str, request: Request, embedding: Embedding) -> str | None:
        """Returns why the file could not be written, None if it was."""
        path = self.path(identity, request)
        try:
            tensors = {"states": embedding.states, "mask": embedding.mask}
            write_tensors(path, tensors, kind=KIND, record=str(embedding.lost))
            self._shrink(keep=path)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def _shrink(self, *, keep: Path) -> None:
        files = []
        for path in self.folder.glob("*.safetensors"):
            try:
                files.append((path == keep, path.stat().st_mtime_ns, path.stat().st_size, path))
            except FileNotFoundError:
                continue
        total = sum(size for _, _, size, _ in files)
        for kept, _, size, path in sorted(files):
            if total <= self.largest or kept:
                break
            path.unlink(missing_ok=True)
            total -= size


def _read(path: Path, largest: int) -> Embedding:
    if path.stat().st_size > largest:
        raise ValueError(f"{path} is too large for an encoded prompt")
    tensors, lost = read_tensors(path, kind=KIND)
    if tensors.keys() != {"states", "mask"}:
        raise ValueError(f"{path} does not hold states and their mask")
    states, mask = tensors["states"], tensors["mask"]
    good = states.ndim == 3 and states.is_floating_point() and mask.dtype == torch.bool
    if not good or mask.shape != states.shape[:2] or not bool(states.isfinite().all()):
        raise ValueError(f"{path} does not hold states and their mask")
    return Embedding(states=states, mask=mask, lost=int(lost))
