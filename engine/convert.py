"""A release as it is published into the form that is flown: our names, bf16, shards of at most 2 GB, strictly checked.

Tensors go one shard at a time from the mapped source to the disk, so that memory never holds more than a shard.
Shards that are already whole are not written again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.config import as_record
from engine.converted import FORMAT, RECORD
from engine.ltx2 import refiner_config, vae_config
from engine.model import WorldModel
from engine.native import native_state_dict
from engine.refiner_model import RefinerModel, is_unread
from engine.release import RELEASES, Release, Stored, empty, mismatches, opened, read_json
from engine.vae import Vae

SHARD = 2 * 10**9  # bytes
TEXT_REPOSITORY = "Efficient-Large-Model/gemma-2-2b-it"  # reads prompts for stage 1
COPIED = (".json", ".safetensors", ".model", ".txt", ".jinja")  # of encoders, which others load
OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the things that a release consists of."""

    name: str  # its folder after conversion
    repository: str
    path: str  # in the repository: a file or a folder; empty: all of it

    def under(self, root: Path) -> Path:
        return root / self.path


def parts_of(release: Release, *, refiner: bool) -> tuple[Part, ...]:
    """What must be fetched. A release without an autoencoder shares that of the bidirectional one."""
    vae = release if release.vae else RELEASES["sana-wm-bidirectional"]
    assert vae.vae is not None
    parts = [
        Part(name="world", repository=release.repository, path=release.world),
        Part(name="vae", repository=vae.repository, path=vae.vae),
        Part(name="text", repository=TEXT_REPOSITORY, path=""),
    ]
    if refiner:
        second = release if release.refiner else vae
        for name in ("refiner", "connectors", "encoder"):
            path = getattr(second, name)
            parts.append(Part(name=name, repository=second.repository, path=path))
    return tuple(parts)


def convert_part(
    part: Part, source: Path, out: Path, *, release: Release, on_bytes: OnBytes = lambda n: None
) -> None:
    """Convert one part that lies at `source` into `out`/`part.name`. on_bytes: hears what was written.

    Raises one ValueError that names every missing, unknown and wrong tensor, before anything is written.
    """
    folder = out / part.name
    if part.name == "world":
        with opened(source) as tensors:
            named = native_state_dict(tensors, release.config)
            model: nn.Module = empty(lambda: WorldModel(release.config))
            write_shards(folder, named, like=model, source=source, on_bytes=on_bytes)
    elif part.name in ("vae", "refiner"):
        record = read_json(source / "config.json")
        with opened(source) as tensors:
            if part.name == "vae":
                config = vae_config(record, decoder_causal=release.decoder_causal)
                model = empty(lambda: Vae(config))
            else:
                second = refiner_config(record)
                model = empty(lambda: RefinerModel(second))
                tensors = {name: t for name, t in tensors.items() if not is_unread(name)}
            write_shards(folder, tensors, like=model, source=source, on_bytes=on_bytes)
        _copy(source / "config.json", folder / "config.json")
    else:
        copy_encoder(source, folder, on_bytes=on_bytes)


def write_record(out: Path, name: str, release: Release, *, revision: str, licence: str) -> None:
    """Say that the conversion is whole."""
    record = {
        "format": FORMAT,
        "name": name,
        "repository": release.repository,
        "revision": revision,
        "licence": licence,
        "size": list(release.size),
        "decoder_causal": release.decoder_causal,
        "config": as_record(release.config),
    }
    _text(out / RECORD, json.dumps(record, indent=1))


def write_shards(
    folder: Path,
    tensors: Mapping[str, Stored],
    *,
    like: nn.Module,
    source: Path,
    limit: int = SHARD,
    on_bytes: OnBytes = lambda n: None,
) -> None:
    """Tensors of `like`, weights in bf16 and buffers in fp32, and at last the index that makes them a whole."""
    ours = like.state_dict()
    if problems := mismatches(ours, tensors):
        raise ValueError(f"{source} does not fit this model: {'; '.join(problems)}")
    buffers = {name for name, _ in like.named_buffers()}
    kinds = {name: torch.float32 if name in buffers else torch.bfloat16 for name in ours}
    groups = _groups({name: t.numel() * kinds[name].itemsize for name, t in ours.items()}, limit)
    folder.mkdir(parents=True, exist_ok=True)
    where: dict[str, str] = {}
    for i, names in enumerate(groups, start=1):
        file = folder / f"model-{i:05d}-of-{len(groups):05d}.safetensors"
        if not _is_whole(file, {name: ours[name] for name in names}):
            _write_shard(file, {name: _read(name, tensors[name], kinds[name], source) for name in names})
        on_bytes(file.stat().st_size)
        where |= dict.fromkeys(names, file.name)
    _text(
        folder / "model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": where}, indent=1)
    )


def _groups(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in order, cut where a shard would pass `limit` bytes."""
    groups: list[list[str]] = [[]]
    room = limit
    for name in sorted(sizes):
        if sizes[name] > room and groups[-1]:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= sizes[name]
    return groups


def _read(name: str, stored: Stored, dtype: torch.dtype, source: Path) -> Tensor:
    t = stored.read().to(dtype).contiguous()
    if not bool(t.isfinite().all()):
        raise ValueError(f"{name} in {source} holds numbers that are not finite: fetch it again")
    return t


def _is_whole(file: Path, ours: Mapping[str, Tensor]) -> bool:
    """Whether a shard of an earlier try holds these tensors."""
    if not file.is_file():
        return False
    try:
        with safe_open(file, framework="pt") as opened_file:
            return {n: tuple(opened_file.get_slice(n).get_shape()) for n in opened_file.keys()} == {  # noqa: SIM118
                n: tuple(t.shape) for n, t in ours.items()
            }
    except (SafetensorError, OSError):
        return False


def _write_shard(file: Path, tensors: dict[str, Tensor]) -> None:
    part = file.with_name(file.name + ".part")
    try:
        save_file(tensors, part, {"format": "pt"})
        os.replace(part, file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot write {file} ({error}): make room there") from error
    finally:
        part.unlink(missing_ok=True)


def copy_encoder(source: Path, folder: Path, *, on_bytes: OnBytes = lambda n: None) -> None:
    """Files of a text encoder as they are; linked where the disk allows it. Nothing that is unpickled is taken."""
    files = [f for f in sorted(source.rglob("*")) if f.is_file() and f.suffix in COPIED]
    files = [f for f in files if not any(p.startswith(".") for p in f.relative_to(source).parts)]
    if not any(f.suffix == ".safetensors" for f in files):
        raise ValueError(f"{source} holds no weights in safetensors: fetch it again")
    for file in files:
        target = folder / file.relative_to(source)
        _copy(file, target)
        on_bytes(target.stat().st_size)


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.stat().st_size == file.stat().st_size:
        return
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.link(file.resolve(), part)
    except OSError:
        shutil.copyfile(file, part)
    os.replace(part, target)


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
