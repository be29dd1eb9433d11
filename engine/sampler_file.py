"""A clip half done, on disk: an interrupted render goes on where it stopped, if it is still the same render."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.checkpoint import digest
from engine.sampler import Clip, SamplerState
from engine.sampling import Sampling
from engine.tensorfile import read_tensors, write_tensors

KIND = "clip half done"


def clip_key(clip: Clip, start: SamplerState, *, sampling: Sampling, weights: str) -> str:
    """Differs where any pass would differ: picture, camera, texts, noise, settings, model. `weights` names the model."""
    texts = {"prompt": clip.prompt} | ({} if clip.negative is None else {"negative": clip.negative})
    tensors = {"first": clip.first, "P": clip.cond.P, "plucker": clip.cond.plucker, "start": start.latents}
    for name, text in texts.items():
        tensors |= {f"{name}.states": text.states, f"{name}.mask": text.mask}
    said = f"{weights} {sampling} {digest({name: t.cpu() for name, t in tensors.items()})}"
    return hashlib.sha256(said.encode()).hexdigest()


def save_progress(path: Path, state: SamplerState, *, key: str) -> None:
    """The file appears whole or not at all. Raises OSError."""
    write_tensors(path, {"latents": state.latents}, kind=KIND, record=f"{key} {state.done}")


def load_progress(path: Path, start: SamplerState, *, key: str) -> SamplerState | None:
    """Where the render of this key stopped, on the device of `start`; None for no file, or one of another render.

    Raises ValueError for a file that is broken or something else.
    """
    if not path.exists():
        return None
    tensors, record = read_tensors(path, kind=KIND)
    found, _, done = record.partition(" ")
    if found != key:
        return None
    latents = tensors.get("latents")
    if latents is None or latents.shape != start.latents.shape or not done.isdecimal():
        raise ValueError(f"{path} does not hold the clip it names: delete it to render from the start")
    return SamplerState(latents=latents.to(start.latents), done=int(done))
