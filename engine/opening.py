"""Any world, by its name: weights found, checked against the memory of this machine, placed, warmed up."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from engine.camera import Intrinsics, Pose
from engine.clips import SanaClips
from engine.config import WorldSpec
from engine.converted import Parts, read_parts
from engine.engine import Chunk, Engine, compute_dtype
from engine.generator import Generator
from engine.identity import weights_of
from engine.model import WorldModel
from engine.offload import Travellers
from engine.place import Ready
from engine.prompt import Text, embedded
from engine.quant import Part, lowering, stored_bytes
from engine.random_weights import random_module
from engine.refiner_model import RefinerModel
from engine.release import empty
from engine.sampling import Sampling
from engine.sana import SanaEngine, sana_spec
from engine.setup import (
    BF16,
    FP8_CAPABILITY,
    GB,
    Precision,
    Setup,
    Sizes,
    Tier,
    fitted,
    needs,
    spared,
    tier_for,
)
from engine.state import StreamState
from engine.vae import Vae
from kernels.program import INSTALLED

OnStep = Callable[[str], None]


class World(Protocol):
    """What flies: `Engine` of pocket and `SanaEngine`."""

    spec: WorldSpec
    device: torch.device
    generator: Generator
    weights: str  # a hash: other weights would not know a state of these

    @property
    def pattern(self) -> StreamState: ...

    def next_frame(self, state: StreamState) -> int: ...

    def start(
        self,
        picture: NDArray[np.uint8] | None,
        *,
        pose: Pose,
        intrinsics: Intrinsics,
        words: Sequence[int] | None = None,
        seed: int = 0,
        inverse_depth: NDArray[np.float16] | None = None,
    ) -> Chunk: ...

    def step(
        self, state: StreamState, poses: Sequence[Pose], *, intrinsics: Intrinsics, attempt: int = 0
    ) -> Chunk: ...


def open_world(
    name: str,
    *,
    assets: Path,
    device: str = "auto",
    threads: int | None = None,
    setup: Setup | None = None,
    on_step: OnStep = lambda step: None,
) -> World:
    """Load the world `name` and warm it up. setup: what only sana-wm asks; None: its defaults.

    Raises ValueError for what is unknown, missing, broken, or too large for this machine.
    """
    if name != "sana-wm":
        return Engine.load(name, assets=assets, device=device, threads=threads, on_step=on_step)
    if threads is not None:
        torch.set_num_threads(threads)
    engine = open_sana(setup or Setup(), device=device, on_step=on_step)
    on_step("warming up")
    engine.warm_up()
    return engine


def open_sana(setup: Setup, *, device: str = "auto", on_step: OnStep = lambda step: None) -> SanaEngine:
    """sana-wm from a converted release, or of random weights, placed as its memory tier says."""
    p = _placed(setup, device, on_step)
    return SanaEngine(
        sana_spec(width=p.sizes.width, height=p.sizes.height, chunk_frames=8 * p.sizes.world.chunk),
        model=p.world,
        vae=p.vae,
        refiner=p.refiner,
        text=p.text,
        decode_together=p.tier.decode_together,
        steady=p.tier.refiner_steady,
        weights=weights_of("sana-wm", assets=Path(), setup=setup),
    )


def open_clips(setup: Setup, *, device: str = "auto", on_step: OnStep = lambda step: None) -> SanaClips:
    """A release that makes whole clips, bidirectional or chunk-causal. Raises ValueError like `open_sana`."""
    p = _placed(setup, device, on_step)
    sampling = Sampling(steps=setup.steps, guidance=setup.guidance)
    size = (p.sizes.width, p.sizes.height)
    return SanaClips(size, model=p.world, vae=p.vae, refiner=p.refiner, text=p.text, sampling=sampling)


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """All models of a sana-wm where they will run, and the prompt."""

    sizes: Sizes
    tier: Tier
    text: Text
    world: WorldModel
    vae: Vae
    refiner: RefinerModel | None


def _placed(setup: Setup, device: str, on_step: OnStep) -> _Placed:
    parts = None if setup.random_weights else read_parts(setup)
    sizes = setup.sizes if parts is None else parts.sizes
    where = chosen_device(device)
    tier = _tier(setup, where)
    refiner = _wants_refiner(setup, tier, parts)
    if refiner:
        second = replace(sizes.refiner, window=tier.refiner_window, hold=tier.refiner_hold)
        sizes = replace(sizes, refiner=second)
    require_formats(setup.formats, where)
    if sizes.world == Sizes().world:
        tier = spared(tier, free_memory(where), precision=setup.formats)
    require_memory(sizes, tier, where, refiner=refiner, precision=setup.formats)
    on_step("reading the prompt")
    folder = None if parts is None else parts.folder
    text = embedded(setup, sizes=sizes, folder=folder, refiner=refiner, device=where, on_step=on_step)
    load = _Loader(sizes, parts, where, compute_dtype(where), setup.formats, on_step)
    world, vae = load.world(), load.vae()
    loaded = load.refiner(tier) if refiner else None
    if not tier.encoder_stays:
        Travellers([vae.encoder], device=where)
    return _Placed(sizes=sizes, tier=tier, text=text, world=world, vae=vae, refiner=loaded)


class _Loader:
    """The three models, from files or drawn at random, each in the place where it will run."""

    def __init__(
        self,
        sizes: Sizes,
        parts: Parts | None,
        where: torch.device,
        dtype: torch.dtype,
        formats: Precision,
        on_step: OnStep,
    ) -> None:
        self.sizes, self.parts, self.formats, self.on_step = sizes, parts, formats, on_step
        self.where, self.dtype = where, dtype

    def world(self) -> WorldModel:
        self.on_step("loading the world model")
        dtype, ready = self.dtype, self._lowering("world")
        if self.parts is not None:
            return self.parts.world(dtype=dtype, device=self.where, ready=ready)
        return random_module(
            lambda: WorldModel(self.sizes.world), dtype=dtype, device=self.where, ready=ready, seed=1
        )

    def vae(self) -> Vae:
        self.on_step("loading the codec")
        if self.parts is not None:
            return self.parts.vae(dtype=self.dtype, device=self.where)
        return random_module(lambda: Vae(self.sizes.vae), dtype=self.dtype, device=self.where, seed=2)

    def refiner(self, tier: Tier) -> RefinerModel:
        """Through host memory only where some of its blocks will stay there."""
        self.on_step("loading the refiner")
        stays = tier.refiner_blocks >= self.sizes.refiner.depth
        first = self.where if stays else torch.device("cpu")
        config, dtype, ready = self.sizes.refiner, self.dtype, self._lowering("refiner")
        if self.parts is not None:
            model = self.parts.refiner(config, dtype=dtype, device=first, ready=ready)
        else:
            model = random_module(
                lambda: RefinerModel(config), dtype=dtype, device=first, ready=ready, seed=3
            )
        if not stays:
            blocks: list[nn.Module] = list(model.blocks())
            Travellers(blocks[tier.refiner_blocks :], device=self.where)
            _place_rest(model, blocks[tier.refiner_blocks :], self.where)
        else:
            model.join()
        return model

    def _lowering(self, part: Part) -> Callable[[nn.Module], Ready]:
        form = self.formats.world if part == "world" else self.formats.refiner
        return partial(lowering, part=part, form=form, on=self.where, say=self.on_step)


def _place_rest(model: nn.Module, travelling: Sequence[nn.Module], where: torch.device) -> None:
    """Everything but the travelling blocks to the device."""
    skip = {id(p) for block in travelling for p in block.parameters()}
    for p in model.parameters():
        if id(p) not in skip:
            p.data = p.data.to(where)


def chosen_device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}: choose auto, cpu or cuda")
    if torch.cuda.is_available() and name != "cpu":
        return torch.device("cuda")
    if name == "cpu":
        return torch.device("cpu")
    raise ValueError(
        "sana-wm needs an NVIDIA GPU, and torch finds none here: fly pocket, "
        "or wait minutes for every chunk with --device cpu"
    )


def _tier(setup: Setup, where: torch.device) -> Tier:
    """The one asked for, else what the device carries."""
    memory = total_memory(where)
    tier = setup.tier or tier_for(memory)
    if tier is None:
        raise ValueError(
            f"sana-wm needs 16 GB of memory at least, and this machine has {memory / GB:.0f} GB: fly pocket"
        )
    return fitted(tier, setup.formats)


def _wants_refiner(setup: Setup, tier: Tier, parts: Parts | None) -> bool:
    """On: it must be possible. Auto: where it is there, fits, and (for a flight) its weights need not travel."""
    there = parts is None or parts.has_refiner
    if setup.refiner == "on":
        if not tier.refiner:
            raise ValueError(
                f"the refiner does not fit into {tier.gigabytes} GB: leave out --refiner on, or use a larger GPU"
            )
        if not there:
            raise ValueError(
                f"{setup.variant} was downloaded without its refiner: "
                f"run explorer download {setup.variant} --refiner"
            )
        return True
    return setup.refiner == "auto" and there and (tier.refines_live if setup.live else tier.refiner)


def require_formats(precision: Precision, where: torch.device) -> None:
    """Refuse what the GPU cannot multiply, or has no kernels for."""
    if where.type == "cuda" and precision != BF16 and not INSTALLED:
        raise ValueError(
            "--precision other than bf16 needs Triton and a C compiler, which are not both here: "
            "pip install triton and install gcc, or leave out --precision"
        )
    if where.type != "cuda" or "fp8" not in (precision.world, precision.refiner):
        return
    if (found := torch.cuda.get_device_capability(where)) < FP8_CAPABILITY:
        raise ValueError(
            f"--precision fp8 needs a GPU of compute capability 8.9 or more (RTX 40, L40, H100), and "
            f"{torch.cuda.get_device_name(where)} has {found[0]}.{found[1]}: use nvfp4 in its place, or bf16"
        )


def require_memory(
    sizes: Sizes, tier: Tier, where: torch.device, *, refiner: bool, precision: Precision = BF16
) -> None:
    """Refuse before anything is placed. Small models are counted, the release also by its working memory."""
    free = free_memory(where)
    need = weight_bytes(sizes, tier, where, refiner=refiner, precision=precision)
    if sizes.world == Sizes().world:
        need = max(need, needs(tier, refiner=refiner, precision=precision).total)
    if need > free:
        kind = "GPU" if where.type == "cuda" else "main"
        raise ValueError(
            f"sana-wm{' with its refiner' if refiner else ''} needs {need / GB:.1f} GB of {kind} memory "
            f"and {free / GB:.1f} GB are free: close other programs"
            + (", or use --refiner off" if refiner else ", or fly pocket")
        )
    if refiner and where.type == "cuda" and tier.refiner_blocks < sizes.refiner.depth:
        second = empty(lambda: RefinerModel(sizes.refiner))
        travel = sum(stored_bytes(second, "refiner", precision.refiner, compute_dtype(where)).values())
        if travel > (host := free_memory(torch.device("cpu"))):
            raise ValueError(
                f"the refiner would wait in main memory, which has {host / GB:.0f} GB free of the "
                f"{travel / GB:.0f} GB that it needs: use --refiner off"
            )


def weight_bytes(
    sizes: Sizes, tier: Tier, where: torch.device, *, refiner: bool, precision: Precision = BF16
) -> int:
    """Of all models that stay on the device, in the formats they run in."""
    dtype = compute_dtype(where)
    world = empty(lambda: WorldModel(sizes.world))
    total = sum(stored_bytes(world, "world", precision.world, dtype).values())
    total += sum(p.numel() for p in empty(lambda: Vae(sizes.vae)).parameters()) * dtype.itemsize
    if refiner:
        stored = stored_bytes(empty(lambda: RefinerModel(sizes.refiner)), "refiner", precision.refiner, dtype)
        away = tuple(f"transformer_blocks.{i}." for i in range(tier.refiner_blocks, sizes.refiner.depth))
        total += sum(size for name, size in stored.items() if not name.startswith(away))
    return total


def total_memory(where: torch.device) -> int:
    """Bytes of the GPU, or of the machine."""
    if where.type == "cuda":
        return int(torch.cuda.get_device_properties(where).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory(where: torch.device) -> int:
    """Bytes that nobody uses now, on the GPU or in the machine (and in its container)."""
    if where.type == "cuda":
        return int(torch.cuda.mem_get_info(where)[0])
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return available
    found = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return available if found is None else found * 1024
