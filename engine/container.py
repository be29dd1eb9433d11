"""World files as arrays and a record: safetensors written whole, read with limits, checked by a hash. Knows no torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from engine.config import WORLDS

KIND = "flight"
FORMAT = "1"
LARGEST = 16 << 30  # bytes of a file: beyond it nothing is read; a sana-wm with its refiner has up to 10e9
MOST = 4096  # arrays in a file

Arrays = Mapping[str, NDArray[Any]]


def write(path: Path, arrays: Arrays, record: Mapping[str, Any]) -> int:
    """Write arrays and a record that survives JSON. Returns the bytes written.

    The file appears whole or not at all: it is written beside `path` and renamed. Raises OSError.
    """
    arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    text = json.dumps(dict(record))
    metadata = {"kind": KIND, "format": FORMAT, "record": text, "sha256": _digest(arrays, text)}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(arrays, part, metadata)
        size = part.stat().st_size
        os.replace(part, path)
    except SafetensorError as error:  # a full disk, above all
        raise OSError(str(error)) from error
    finally:
        part.unlink(missing_ok=True)
    return size


def read(path: Path, *, without: str | None = None) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """All arrays of a file, and its record. Raises ValueError: one sentence that says what is wrong.

    without: names that begin so are checked like the others, one by one, and not returned.
    """
    arrays: dict[str, NDArray[Any]] = {}
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise ValueError(f"{path} has {size} bytes: a flight has at most {LARGEST}")
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            _check_kind(path, metadata)
            names = list(file.keys())
            if len(names) > MOST:
                raise ValueError(f"{path} holds {len(names)} arrays: a flight has at most {MOST}")
            text = metadata.get("record", "")
            digest = hashlib.sha256(text.encode())
            for name in sorted(names):
                a = file.get_tensor(name)
                _add(digest, name, a)
                if without is None or not name.startswith(without):
                    arrays[name] = a
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a whole flight ({error}): save it again") from None
    if digest.hexdigest() != metadata.get("sha256"):
        raise ValueError(f"{path} is damaged: its contents do not match its sha256; save it again")
    return arrays, _record(path, text)


def weights_hash(folder: Path) -> str:
    """One hash for the weights of a world, from those that its files state. Raises ValueError."""
    h = hashlib.sha256()
    for path in (folder / "codec.safetensors", folder / "world.safetensors"):
        try:
            with safe_open(path, framework="np") as file:
                h.update((file.metadata() or {}).get("sha256", "").encode())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"no weights at {path} ({error})") from None
    return h.hexdigest()


def require_same_world(path: Path, record: Mapping[str, Any], *, world: str, weights: str) -> None:
    """Raises ValueError where a flight was made by another model, or by other weights of the same."""
    if record.get("world") != world:
        other = record.get("world")
        way = f"open it with --model {other}" if other in tuple(WORLDS) else "this program has no such world"
        raise ValueError(f"{path} was flown in {str(other)[:40]!r}, not in {world!r}: {way}")
    if record.get("weights") != weights:
        raise ValueError(
            f"{path} was flown with other weights of {world}: open it with the program version that saved it"
        )


def _check_kind(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("kind") != KIND:
        raise ValueError(f"{path} holds no flight saved by World Explorer")
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {metadata.get('format')!r}, this program reads {FORMAT!r}: use the version that saved it"
        )


def _digest(arrays: Arrays, text: str) -> str:
    """sha256 over the record, and over name, type, shape and bytes of every array in order of names."""
    h = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        _add(h, name, arrays[name])
    return h.hexdigest()


def _add(h: hashlib._Hash, name: str, a: NDArray[Any]) -> None:
    h.update(f"{name} {a.dtype.str} {a.shape}\n".encode())
    h.update(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data)


def _record(path: Path, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has a record that is not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} has a record that is not a JSON object")
    return record
