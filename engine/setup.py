"""How a sana-wm is to be run: which weights, which prompt, what of it fits the GPU. Imports no torch: windows read it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.config import SANA_WM, ModelConfig
from engine.ltx2 import LTX2_REFINER, LTX2_VAE, RefinerConfig, VaeConfig

GB = 10**9
Refining = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The three models of a sana-wm and the pictures they make. Defaults are the streaming release."""

    world: ModelConfig = SANA_WM
    vae: VaeConfig = LTX2_VAE
    refiner: RefinerConfig = LTX2_REFINER
    width: int = 1280
    height: int = 704

    @property
    def grid(self) -> tuple[int, int]:
        """Latent rows and columns."""
        _, y, x = self.vae.stride
        return self.height // y, self.width // x


@dataclass(frozen=True, kw_only=True)
class Tier:
    """What stays on a GPU of some size, and what visits it from host memory for the length of one pass."""

    gigabytes: int  # GPU memory, in 10^9 bytes, that this is made for
    refiner: bool  # whether the second stage fits in any way
    refiner_blocks: int  # of its 48 blocks, so many stay; the others visit
    refiner_window: int  # latent frames that a refined block sees besides itself; the release: 11
    encoder_stays: bool  # the encoder of the autoencoder is needed once per flight
    decode_together: int  # latent frames decoded at once; fewer need less memory
    refiner_hold: bool = False  # `RefinerConfig.hold`

    @property
    def refines_live(self) -> bool:
        """Whether the refiner can keep up with a flight: its weights must not travel."""
        return self.refiner and self.refiner_blocks >= LTX2_REFINER.depth


TIERS = (
    Tier(
        gigabytes=80,
        refiner=True,
        refiner_blocks=48,
        refiner_window=11,
        encoder_stays=True,
        decode_together=3,
        refiner_hold=True,
    ),
    Tier(
        gigabytes=48,
        refiner=True,
        refiner_blocks=48,
        refiner_window=5,
        encoder_stays=False,
        decode_together=1,
    ),
    Tier(
        gigabytes=32,
        refiner=True,
        refiner_blocks=20,
        refiner_window=5,
        encoder_stays=False,
        decode_together=1,
    ),
    Tier(
        gigabytes=24, refiner=True, refiner_blocks=4, refiner_window=5, encoder_stays=False, decode_together=1
    ),
    Tier(
        gigabytes=16,
        refiner=False,
        refiner_blocks=0,
        refiner_window=2,
        encoder_stays=False,
        decode_together=1,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes that a tier takes on the GPU, part by part."""

    weights: int
    state: int  # all that survives a chunk
    work: int  # what one pass needs on top, at its worst

    @property
    def total(self) -> int:
        return self.weights + self.state + self.work


# Parameters of the released models, counted on empty modules; two bytes each in bf16.
WORLD, VAE_ENCODER, VAE_DECODER, REFINER, REFINER_BLOCK = 2.66e9, 0.694e9, 0.528e9, 13.04e9, 0.269e9
FRAME = 880  # tokens per latent frame at 704×1280


def needs(tier: Tier, *, refiner: bool) -> Needs:
    """What the full-size release takes in this tier, from its shapes.

    State: 0.44 GB of recurrent memories, 0.55 GB of keys, 0.6 GB of decoder tails. Refined frames are remembered as
    keys and values of 48 layers of 4096 channels. Work is the decoder's widest level while the history before and
    after the chunk are both there, or the refiner with the keys that its passes hold.
    """
    frame = FRAME * 4096 * 2 * 2 * 48  # bytes of one latent frame in the refiner's memory
    weights = 2 * (WORLD + VAE_DECODER + (VAE_ENCODER if tier.encoder_stays else 0))
    state, work = 1.6 * GB, (2.0 + 1.5 * tier.decode_together) * GB
    if refiner:
        travelling = REFINER_BLOCK * (48 - tier.refiner_blocks)
        weights += 2 * (REFINER - travelling)
        state += tier.refiner_window * frame + 0.81 * GB  # the text, too, is kept as keys and values
        history = (tier.refiner_window - LTX2_REFINER.sink) * frame
        held = (tier.refiner_window + LTX2_REFINER.block) * frame if tier.refiner_hold else history
        work = max(work + history, held + 2.0 * GB)
    return Needs(weights=int(weights), state=int(state), work=int(work))


def tier_for(memory: int) -> Tier | None:
    """The largest tier that a GPU of so many bytes carries; None below the smallest."""
    return next((tier for tier in TIERS if memory >= tier.gigabytes * GB), None)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Choices that only sana-wm has. A value that crosses into the engine process."""

    prompt: str = ""
    refiner: Refining = "auto"  # auto: while there is time for it
    random_weights: bool = False  # true size and cost, noise for pictures
    weights: Path | None = None  # a converted release; None: the models folder
    memory: int | None = None  # gigabytes of the tier; None: what the GPU has
    live: bool = True  # for a flight: nothing slower than real time is started by itself
    variant: str = "sana-wm-streaming"
    steps: int = 60  # of releases that are not distilled
    guidance: float = 5.0
    sizes: Sizes = field(default_factory=Sizes)  # of random weights; others say theirs

    def __post_init__(self) -> None:
        if self.refiner not in ("auto", "on", "off"):
            raise ValueError(f"--refiner {self.refiner} is unknown: use auto, on or off")
        if self.memory is not None and self.memory not in (known := [t.gigabytes for t in TIERS]):
            raise ValueError(f"--memory {self.memory} is no tier: use {', '.join(map(str, known))}")

    @property
    def tier(self) -> Tier | None:
        return next((t for t in TIERS if t.gigabytes == self.memory), None)


def models_folder() -> Path:
    """Where downloaded worlds live: WORLD_EXPLORER_MODELS if set, else the platform's data folder."""
    from platformdirs import user_data_path

    chosen = os.environ.get("WORLD_EXPLORER_MODELS")
    return Path(chosen) if chosen else user_data_path("world-explorer", appauthor=False) / "models"
