"""The memory in which chunks go from the engine process to the window."""

from __future__ import annotations

import math
import shutil
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLOTS = 2  # chunks: one being copied out, one being written


class Slots:
    """The shared memory as pictures and their inverse depth; spec has chunk_frames, height and width."""

    def __init__(self, memory: SharedMemory, spec: Any) -> None:
        self._memory = memory
        self._shape = (spec.chunk_frames, spec.height, spec.width)

    @staticmethod
    def size(spec: Any) -> int:
        """Bytes in all: per pixel three of colour and two of depth."""
        return SLOTS * spec.chunk_frames * spec.height * spec.width * 5

    def pixels(self, slot: int) -> NDArray[np.uint8]:
        """[chunk_frames, Y, X, 3] RGB."""
        offset = 5 * slot * math.prod(self._shape)
        return np.ndarray((*self._shape, 3), np.uint8, buffer=self._memory.buf, offset=offset)

    def depth(self, slot: int) -> NDArray[np.float16]:
        """[chunk_frames, Y, X] 1/m."""
        offset = (5 * slot + 3) * math.prod(self._shape)
        return np.ndarray(self._shape, np.float16, buffer=self._memory.buf, offset=offset)


def shared_memory(size: int) -> SharedMemory:
    """Memory that the window sees too. Raises ValueError where there is too little: writing to it would kill us."""
    place = Path("/dev/shm")
    if place.is_dir() and (free := shutil.disk_usage(place).free) < size:
        raise ValueError(
            f"frames need {size >> 20} MB of shared memory and {place} has {free >> 20} MB free: "
            "in a container, start it with --shm-size 1g"
        )
    return SharedMemory(create=True, size=size)
