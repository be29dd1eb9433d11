"""Released weights of SANA-WM: where its parts lie, and strict loading of every container they come in.

Tensors go one by one from the mapped file to their place in the model, in the dtype they are wanted in: there is
never a second copy of the weights in memory. Nothing is unpickled but plain tensors.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from engine.config import SANA_WM, ModelConfig
from engine.ltx2 import refiner_config, vae_config
from engine.model import WorldModel
from engine.native import native_state_dict
from engine.place import Ready, place
from engine.refiner_model import RefinerModel, is_unread
from engine.vae import Vae

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Release:
    """A repository of the Hugging Face hub, and where its parts lie in it."""

    repository: str
    config: ModelConfig
    world: str
    vae: str | None = None
    refiner: str | None = None
    connectors: str | None = None  # between the refiner's text encoder and the refiner
    encoder: str | None = None  # the refiner's text encoder
    decoder_causal: bool = False  # whether its autoencoder streams; config files do not always say
    size: tuple[int, int] = (1280, 704)  # of its pictures: width, height


RELEASES = {
    "sana-wm-streaming": Release(
        repository="Efficient-Large-Model/SANA-WM_streaming",
        config=SANA_WM,
        world="sana_dit/model.pt",
        vae="ltx2_causal_vae",
        refiner="refiner_diffusers/transformer",
        connectors="refiner_diffusers/connectors",
        encoder="gemma3_12b",
        decoder_causal=True,
    ),
    "sana-wm-bidirectional": Release(
        repository="Efficient-Large-Model/SANA-WM_bidirectional",
        config=replace(SANA_WM, causal=False),
        world="dit/sana_wm_1600m_720p.safetensors",
        vae="vae",
        refiner="refiner/transformer",
        connectors="refiner/connectors",
        encoder="refiner/text_encoder",
    ),
    "sana-wm-chunk-causal": Release(
        repository="Efficient-Large-Model/SANA-WM_chunk_causal",
        config=replace(SANA_WM, window=-1),
        world="dit/sana_wm_chunk_causal_1600m_720p.safetensors",
    ),
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file that has not been read yet."""

    shape: tuple[int, ...]
    floating: bool
    read: Callable[[], Tensor]


@contextmanager
def opened(path: Path) -> Iterator[dict[str, Stored]]:
    """The tensors of a file, or of the only weights in a folder, in shards or not. ValueError where there are none."""
    with ExitStack() as stack:
        tensors: dict[str, Stored] = {}
        for file in weight_files(path):
            more = _pickled(file) if file.suffix in (".pt", ".pth") else _safe(file, stack)
            if twice := sorted(tensors.keys() & more.keys()):
                raise ValueError(f"{file} holds tensors that another shard holds too: {', '.join(twice)}")
            tensors |= more
        yield tensors


def weight_files(path: Path) -> list[Path]:
    """A weight file itself; or in a folder the shards that its index lists, else the only weight file in it."""
    if path.is_file():
        if path.suffix not in (".safetensors", ".pt", ".pth"):
            raise ValueError(f"{path} is no weight file: give one that ends in .safetensors or .pt")
        return [path]
    if not path.is_dir():
        raise ValueError(f"no weights at {path}")
    indices = sorted(path.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        return _shards(indices[0])
    for pattern in ("*.safetensors", "*.pt", "*.pth"):
        files = sorted(path.glob(pattern))
        if len(files) == 1 and not indices:
            return files
        if files or indices:
            break
    found = ", ".join(p.name for p in sorted(path.iterdir())[:8]) or "nothing"
    raise ValueError(f"{path} must hold one weight file, or shards with one index; it holds {found}")


def _shards(index: Path) -> list[Path]:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(v, str) for v in where.values()) or not where:
        raise ValueError(f"{index} does not say in which shard each tensor is")
    names = sorted(set(where.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} points to {name!r}, which is no shard beside it")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise ValueError(f"{index.parent} lacks {', '.join(missing)}: fetch the release again")
    return [index.parent / name for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that is not trusted. ValueError."""
    try:
        if path.stat().st_size > 64 << 20:
            raise ValueError(f"{path} is too large for what it should hold")
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"no {path.name} in {path.parent} ({error.strerror}): fetch the release again"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): fetch the release again") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not a JSON object")
    return record


def _safe(path: Path, stack: ExitStack) -> dict[str, Stored]:
    try:
        file = stack.enter_context(safe_open(path, framework="pt"))
        out = {}
        for name in file.keys():  # noqa: SIM118 -- not a dict
            part = file.get_slice(name)
            floating = part.get_dtype() in ("F64", "F32", "F16", "BF16")
            out[name] = Stored(tuple(part.get_shape()), floating, partial(file.get_tensor, name))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): fetch it again") from error
    return out


def _pickled(path: Path) -> dict[str, Stored]:
    """A training container: the weights are under `generator`, or `state_dict`, or at the top."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a whole file of plain tensors ({reason}): fetch it again") from error
    for key in ("generator", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise ValueError(
            f"{path} does not hold named tensors, neither at its top nor under generator or state_dict"
        )
    return {
        str(name): Stored(tuple(t.shape), t.is_floating_point(), partial(_itself, t))
        for name, t in content.items()
    }


def _itself(t: Tensor) -> Tensor:
    return t


def load_world(
    path: Path,
    *,
    config: ModelConfig = SANA_WM,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> WorldModel:
    """Stage 1 from any of its releases: native or diffusers names, flat, sharded or in a training container. ValueError."""
    model = empty(lambda: WorldModel(config))
    with opened(path) as tensors:
        fill(model, native_state_dict(tensors, config), source=path, dtype=dtype, device=device)
    return model


def load_vae(
    folder: Path,
    *,
    decoder_causal: bool | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> Vae:
    """The autoencoder in a folder with its `config.json`. Its statistics of latents stay in fp32. ValueError."""
    config = vae_config(read_json(folder / "config.json"), decoder_causal=decoder_causal)
    model = empty(lambda: Vae(config))
    with opened(folder) as tensors:
        fill(model, tensors, source=folder, dtype=dtype, device=device)
    return model


def load_refiner(
    folder: Path, *, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu"
) -> RefinerModel:
    """The refiner in a folder with its `config.json`; what is for sound is never read. ValueError."""
    config = refiner_config(read_json(folder / "config.json"))
    model = empty(lambda: RefinerModel(config))
    with opened(folder) as tensors:
        wanted = {name: t for name, t in tensors.items() if not is_unread(name)}
        fill(model, wanted, source=folder, dtype=dtype, device=device)
    return model


def empty(build: Callable[[], M]) -> M:
    """A model without memory for its weights."""
    with torch.device("meta"):
        return build().eval().requires_grad_(False)


def fill(
    model: nn.Module,
    tensors: Mapping[str, Stored],
    *,
    source: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    ready: Ready | None = None,
) -> None:
    """Put every tensor in its place, weights in `dtype`, buffers in fp32.

    ready: as in `engine.place.place`.

    Raises one ValueError that names every missing, unknown and wrong tensor, before anything is read.
    """
    ours = model.state_dict()
    if problems := mismatches(ours, tensors):
        raise ValueError(f"{source} does not fit this model: {'; '.join(problems)}")

    def read(name: str, like: Tensor) -> Tensor:
        plain = dtype if isinstance(like, nn.Parameter) else torch.float32
        return tensors[name].read().to(device=device, dtype=plain)

    place(model, read, ready=ready)


def mismatches(ours: Mapping[str, Tensor], tensors: Mapping[str, Stored]) -> list[str]:
    """What is missing, unknown or wrong, by name; empty where all fits."""
    wrong = [
        f"{name} is {_shape(tensors[name].shape)}, not {_shape(tuple(like.shape))}"
        for name, like in ours.items()
        if name in tensors and tensors[name].shape != tuple(like.shape)
    ]
    wrong += [
        f"{name} does not hold real numbers"
        for name in ours
        if name in tensors and not tensors[name].floating
    ]
    found = (
        ("missing", sorted(ours.keys() - tensors.keys())),
        ("unknown", sorted(tensors.keys() - ours.keys())),
        ("wrong", wrong),
    )
    return [f"{what}: {', '.join(names)}" for what, names in found if names]


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"
