"""A few tensors in one safetensors file: written whole or not at all, checked by a hash when read. Never pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from engine.checkpoint import digest


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, kind: str, record: str = "") -> None:
    """kind: what the file is.  record: text that comes back with it. Raises OSError."""
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    data = serialise(plain, {"kind": kind, "record": record, "sha256": digest(plain)})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], str]:
    """The tensors and the record. Raises ValueError for a file that is missing, broken, or something else."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != kind:
                raise ValueError(f"{path} holds {metadata.get('kind', 'tensors')!r}, not {kind!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as {kind} ({error})") from error
    if digest(tensors) != metadata.get("sha256"):
        raise ValueError(f"{path} is damaged: its tensors do not match its sha256")
    return tensors, metadata.get("record", "")
