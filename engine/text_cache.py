"""Encoded prompts on disk: loading an encoder of 5 or 24 GB takes a minute, reading its answer no time."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise

from engine.checkpoint import digest
from engine.text import Embedding, Request

FORMAT = "1"  # in every name: another one forgets everything
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
            _write(path, embedding)
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


def _write(path: Path, embedding: Embedding) -> None:
    """The file appears whole or not at all. Raises OSError."""
    tensors = {"states": embedding.states.contiguous(), "mask": embedding.mask.contiguous()}
    data = serialise(tensors, {"lost": str(embedding.lost), "sha256": digest(tensors)})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path, largest: int) -> Embedding:
    """Raises ValueError for a file that is broken or holds something else."""
    try:
        if path.stat().st_size > largest:
            raise ValueError(f"{path} is too large")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if tensors.keys() != {"states", "mask"} or digest(tensors) != metadata.get("sha256"):
        raise ValueError(f"{path} is damaged")
    states, mask, lost = tensors["states"], tensors["mask"], metadata.get("lost", "")
    good = states.ndim == 3 and states.is_floating_point() and mask.dtype == torch.bool and lost.isdecimal()
    if not good or mask.shape != states.shape[:2] or not bool(states.isfinite().all()):
        raise ValueError(f"{path} does not hold states and their mask")
    return Embedding(states=states, mask=mask, lost=int(lost))
