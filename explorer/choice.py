"""Which world is dreamed, and how: the flags that every command shares. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

from engine.config import WORLDS
from engine.setup import Refining, Setup
from explorer.assets import Scene
from explorer.controls import SPEED_DEFAULT
from explorer.dialect import SANA_MOTION


@dataclass(frozen=True, kw_only=True)
class WorldChoice:
    """Checked when built: a mistake is a ValueError of one sentence."""

    model: Annotated[str, arg(metavar="NAME")] = "pocket"
    """the world model that dreams it: pocket or sana-wm"""
    prompt: Annotated[str | None, arg(metavar="WORDS", help_behavior_hint="")] = None
    """words for the world, such as "snowy pines at dusk"; sana-wm takes any text"""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """auto, cpu or cuda"""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """CPU threads of the model; default: what suits this machine"""
    refiner: Annotated[Refining, arg(metavar="auto|on|off")] = "auto"
    """sana-wm: sharpen what is generated; auto: while there is time for it"""
    memory: Annotated[int | None, arg(metavar="GB", help_behavior_hint="")] = None
    """sana-wm: use so much of the GPU (80, 48, 32, 24 or 16); default: what explorer doctor picks"""
    precision: Annotated[str, arg(metavar="bf16|fp8|nvfp4")] = "bf16"
    """sana-wm: store weights in fewer bits, which saves memory and costs sharpness; each stage by itself: bf16/fp8"""
    weights: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """sana-wm: a folder that explorer download made; default: the models folder"""
    random_weights: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """sana-wm: full size and true cost without a download; the pictures are noise"""

    def __post_init__(self) -> None:
        if self.model not in WORLDS:
            raise ValueError(f"there is no model '{self.model}': use {' or '.join(WORLDS)}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"--device {self.device} is unknown: use auto, cpu or cuda")
        if self.threads is not None and not 1 <= self.threads <= 256:
            raise ValueError(f"--threads {self.threads} is out of range: use 1 to 256")
        self.setup  # noqa: B018 -- its choices are checked when it is built
        if self.model != "sana-wm" and self.setup != Setup(prompt=self.prompt or ""):
            raise ValueError(
                "--refiner, --memory, --precision, --weights and --random-weights are for --model sana-wm, "
                f"not {self.model}"
            )

    @property
    def setup(self) -> Setup:
        return Setup(
            prompt=self.prompt or "",
            refiner=self.refiner,
            memory=self.memory,
            precision=self.precision,
            weights=self.weights,
            random_weights=self.random_weights,
        )

    @property
    def usual_speed(self) -> float:
        """Metres per second that this world was made for."""
        return SANA_MOTION.speed if self.model == "sana-wm" else SPEED_DEFAULT

    @property
    def words_alone(self) -> str | None:
        """The prompt, where a world can draw a first picture of it; None: none was given, or it cannot."""
        return self.prompt if self.model == "pocket" else None

    def worded(self, scene: Scene) -> Scene:
        """The scene under the words of the prompt, where there is one. Raises ValueError for unknown words.

        They are of pocket's vocabulary; sana-wm reads the prompt itself.
        """
        if self.prompt is None or self.model == "sana-wm":
            return scene
        from engine.words import parse

        return replace(scene, words=tuple(int(word) for word in parse(self.prompt)))
