"""Compile the world renderer at first use into the user's cache folder, and open it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SOURCES = Path(__file__).parent
P, I, L = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
SIGNATURES = {
    "world_bake": [P, P, P, P, L, P, I],
    "world_render": [P, P, P, P, P, P, P, P, P, L, I, I, I, P, I],
    "world_fly": [P, P, P, P, P, P, P, P, P, L, I, I, I, P, I],
    "world_gap": [P, P, P, P, P, P, P, L, P, I],
}


def library(device: torch.device) -> ctypes.CDLL:
    """The compiled renderer for `device`. Raises RuntimeError when there is no compiler or it fails."""
    steps = _cuda_steps(device) if device.type == "cuda" else _cpu_steps()
    path = _cache() / f"world-{_fingerprint(steps)}.so"
    if not path.exists():
        _compile(steps, path)
    lib = ctypes.CDLL(str(path))
    for name, arguments in SIGNATURES.items():
        getattr(lib, name).argtypes = arguments
        getattr(lib, name).restype = I
    lib.world_error.argtypes, lib.world_error.restype = [I], ctypes.c_char_p
    return lib


def _cuda_steps(device: torch.device) -> list[list[str]]:
    nvcc = _find(
        "nvcc", "the worlds need nvcc to run on a GPU: install the CUDA toolkit, or ask for device cpu"
    )
    major, minor = torch.cuda.get_device_capability(device)
    flags = [
        "-x",
        "cu",
        "-std=c++17",
        "-O3",
        f"-arch=sm_{major}{minor}",
        "--use_fast_math",
        "-shared",
        "-Xcompiler",
        "-fPIC",
    ]
    return [[nvcc, *flags, "{source}", "-o", "{out}"]]


def _cpu_steps() -> list[list[str]]:
    compiler = _find("g++", "the worlds need a C++ compiler: install g++ (Debian: apt install g++)")
    flags = ["-std=c++17", "-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC"]
    # Linked apart and without -ffast-math, which would switch off subnormal numbers for the whole process.
    link = [compiler, "-shared", "-fopenmp", "{out}.o", "-o", "{out}"]
    return [[compiler, *flags, "-c", "{source}", "-o", "{out}.o"], link]


def _find(name: str, way_out: str) -> str:
    path = os.environ.get("CXX") if name == "g++" else None
    found = shutil.which(path or name)
    if found is None and name == "nvcc":
        found = shutil.which("/usr/local/cuda/bin/nvcc")
    if found is None:
        raise ValueError(way_out)
    return found


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / (
        "Library/Caches" if sys.platform == "darwin" else ".cache"
    )
    folder = Path(root) / "world-explorer"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fingerprint(steps: list[list[str]]) -> str:
    """Of sources, command and compiler; -march=native also depends on the processor."""
    version = subprocess.run([steps[0][0], "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256(repr((steps, version, _processor())).encode())
    for path in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compile(steps: list[list[str]], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        out = str(Path(folder) / "world.so")
        for step in steps:
            command = [part.format(source=SOURCES / "world.cpp", out=out) for part in step]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"compiling the worlds failed: {' '.join(command)}\n{done.stderr[-3000:]}")
        os.replace(out, path)  # whole or not at all, also when two processes compile
