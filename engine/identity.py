"""Which weights a world runs on, as one hash: flights go on with the same ones or not at all. Imports no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.container import weights_hash
from engine.fingerprint import fingerprint
from engine.setup import Setup, models_folder


def weights_of(world: str, *, assets: Path, setup: Setup) -> str:
    """Of pocket its two files; of sana-wm stage 1 and codec, for a release with its refiner is the same release.

    Raises ValueError where they are missing.
    """
    if world != "sana-wm":
        return weights_hash(assets / world)
    if setup.random_weights:
        return hashlib.sha256(repr(setup.sizes).encode()).hexdigest()
    folder = setup.weights or models_folder() / setup.variant
    if not folder.is_dir():
        raise ValueError(
            f"there are no weights of {setup.variant} in {folder}: run explorer download {setup.variant}"
        )
    parts = " ".join(fingerprint(folder / part) for part in ("world", "vae"))
    return hashlib.sha256(parts.encode()).hexdigest()
