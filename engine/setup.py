"""How a sana-wm is to be run: which weights, which prompt, what of it fits the GPU. Imports no torch: windows read it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from engine.config import SANA_WM, ModelConfig
from engine.ltx2 import LTX2_REFINER, LTX2_VAE, RefinerConfig, VaeConfig

GB = 10**9
Refining = Literal["auto", "on", "off"]
Format = Literal["bf16", "fp8", "nvfp4"]

# Of one weight: FP8 has a scale in fp32 per output; NVFP4 half a byte and a scale byte for every sixteen.
BYTES: dict[Format, float] = {"bf16": 2.0, "fp8": 1.002, "nvfp4": 0.5625}


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """What the linear maps of both models are stored in."""

    world: Format = "bf16"
    refiner: Format = "bf16"


BF16 = Precision()
FP8_CAPABILITY = (8, 9)  # of the first GPUs that multiply FP8: Ada; Hopper is (9, 0)
ADVISED = ("bf16/fp8", "fp8", "bf16/nvfp4", "fp8/nvfp4", "nvfp4")  # from little loss to much


def parse_precision(text: str) -> Precision:
    """One format for both models, or WORLD/REFINER. Raises ValueError."""
    forms = [form for part in text.split("/") for form in BYTES if form == part]
    if len(forms) != text.count("/") + 1 or len(forms) > 2:
        raise ValueError(
            f"--precision {text} is unknown: use {', '.join(BYTES)}, or one for each stage, such as bf16/fp8"
        )
    return Precision(world=forms[0], refiner=forms[-1])


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
    refiner_steady: bool = False  # whether what it holds keeps its memory, so that blocks can be captured

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
        refiner_steady=True,
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
WORLD_LINEARS, BLOCK_LINEARS = 2.208e9, 0.2684e9  # of these, in maps that may lose bits
FRAME = 880  # tokens per latent frame at 704×1280
FILL = 0.95  # of a tier's memory, at most; the rest is for what else lives on a card


def needs(tier: Tier, *, refiner: bool, precision: Precision = BF16) -> Needs:
    """What the full-size release takes in this tier, from its shapes.

    State: 0.44 GB of recurrent memories, 0.55 GB of keys, 0.6 GB of decoder tails. Refined frames are remembered as
    keys and values of 48 layers of 4096 channels. Where blocks are captured, the keys that their passes hold have memory
    of their own, and the passes a copy of the text and half a gigabyte. Work is the decoder's widest level while what the
    chunk adds to the history is there beside what it will make forgotten, or the refiner with the keys that its passes hold.
    """
    frame = FRAME * 4096 * 2 * 2 * 48  # bytes of one latent frame in the refiner's memory
    weights = 2 * (WORLD + VAE_DECODER + (VAE_ENCODER if tier.encoder_stays else 0))
    weights -= (2 - BYTES[precision.world]) * WORLD_LINEARS
    state, work = 1.6 * GB, (2.0 + 1.5 * tier.decode_together) * GB
    if refiner:
        travelling = REFINER_BLOCK * (48 - tier.refiner_blocks)
        weights += 2 * (REFINER - travelling)
        weights -= (2 - BYTES[precision.refiner]) * BLOCK_LINEARS * tier.refiner_blocks
        state += tier.refiner_window * frame + 0.81 * GB  # the text, too, is kept as keys and values
        held = (tier.refiner_window + LTX2_REFINER.block) * frame if tier.refiner_hold else 0
        history = tier.refiner_window - LTX2_REFINER.sink
        work += min(history, LTX2_REFINER.block + history % LTX2_REFINER.block) * frame
        if tier.refiner_steady:
            state += held + 1.31 * GB
        else:
            work = max(work, held + 2.0 * GB)
    return Needs(weights=int(weights), state=int(state), work=int(work))


def tier_for(memory: int) -> Tier | None:
    """The largest tier that a GPU of so many bytes carries; None below the smallest."""
    return next((tier for tier in TIERS if memory >= tier.gigabytes * GB), None)


def spared(tier: Tier, free: int, *, precision: Precision = BF16) -> Tier:
    """Without the memory of captured blocks where it is not free: the same pictures, and a block is 5 % slower."""
    whole = needs(tier, refiner=tier.refiner, precision=precision).total <= free
    return tier if whole else replace(tier, refiner_steady=False)


def fitted(tier: Tier, precision: Precision) -> Tier:
    """A tier with more of the refiner on the GPU, where weights of fewer bits leave room.

    First of all its blocks, with the window as released, or that of the tier, or the shortest that does not flicker.
    """
    if precision == BF16:
        return tier
    depth, own, least = LTX2_REFINER.depth, tier.refiner_window, LTX2_REFINER.sink + LTX2_REFINER.block
    wishes = [(depth, LTX2_REFINER.window), (depth, own), (depth, min(own, least))]
    wishes += [(blocks, own) for blocks in range(depth - 1, tier.refiner_blocks, -1)]
    for blocks, window in wishes:
        more = replace(tier, refiner=True, refiner_blocks=blocks, refiner_window=window)
        if needs(more, refiner=True, precision=precision).total <= FILL * tier.gigabytes * GB:
            return more
    return tier


def advised(tier: Tier, *, fp8: bool) -> str | None:
    """The --precision of least loss with which a tier flies with the refiner, or at least renders with it.

    None: it does so in bf16, or in no way.  fp8: whether the GPU multiplies FP8.
    """
    choices = [text for text in ADVISED if fp8 or "fp8" not in text]
    more = {text: fitted(tier, parse_precision(text)) for text in choices}
    if tier.refines_live:
        return None
    live = next((text for text in choices if more[text].refines_live), None)
    return live or next((text for text in choices if more[text].refiner and not tier.refiner), None)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Choices that only sana-wm has. A value that crosses into the engine process."""

    prompt: str = ""
    refiner: Refining = "auto"  # auto: while there is time for it
    precision: str = "bf16"  # of linear maps: bf16, fp8 or nvfp4, or WORLD/REFINER
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
        self.formats  # noqa: B018 -- checked when it is built
        if self.memory is not None and self.memory not in (known := [t.gigabytes for t in TIERS]):
            raise ValueError(f"--memory {self.memory} is no tier: use {', '.join(map(str, known))}")

    @property
    def formats(self) -> Precision:
        return parse_precision(self.precision)

    @property
    def tier(self) -> Tier | None:
        return next((t for t in TIERS if t.gigabytes == self.memory), None)


def models_folder() -> Path:
    """Where downloaded worlds live: WORLD_EXPLORER_MODELS if set, else the platform's data folder."""
    from platformdirs import user_data_path

    chosen = os.environ.get("WORLD_EXPLORER_MODELS")
    return Path(chosen) if chosen else user_data_path("world-explorer", appauthor=False) / "models"
