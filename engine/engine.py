"""One world, loaded: pictures and poses in, frames and the state after them out. Knows no window, process or socket.

The same class runs inline (scripts, tests, unattended flights) and inside the engine process of the window.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.camera import Intrinsics, Pose
from engine.checkpoint import build_stored, load_module
from engine.codec import Codec, load_codec
from engine.compiler import release_compiler
from engine.conditioning import Anchor, condition_chunk, pose_tensor
from engine.config import WORLDS, ModelConfig, WorldSpec
from engine.container import weights_hash
from engine.dream import drawn
from engine.finite import NotFinite
from engine.frame import Frame
from engine.generator import Generator
from engine.laps import Laps
from engine.memory import begin
from engine.model import WorldModel
from engine.recall import Draw, checked, draw_on, first_source, recall
from engine.state import StreamState
from engine.whole import Asked, WholeChunk, remembered, shown

UNTIL_CAPTURED = 2  # chunks of a full window: one that is captured, one that shows it
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt, malloc.h
BLOCK, END = 32 << 20, 64 << 20  # bytes of a block (the most that mallopt takes) and of free heap that stay


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Frames that became visible together, and the state after them."""

    frames: tuple[Frame, ...]
    state: StreamState
    timing: dict[str, float]  # seconds by stage


_Made = tuple[
    NDArray[np.uint8], NDArray[np.float16], StreamState
]  # pixels, inverse depth, the state after them


class Engine:
    """Holds weights and nothing of any flight: `start` and `step` are functions of their arguments."""

    def __init__(self, spec: WorldSpec, *, model: WorldModel, codec: Codec, weights: str = "") -> None:
        """weights: a hash of the files that model and codec were read from."""
        self.spec = spec
        self.weights = weights
        self.generator = Generator(model)
        self.codec = codec
        self.device = codec.mean.device
        self.remembers = checked(model.config.memory_channels, codec)
        whole = self.generator.config.lone and self.device.type == "cuda"
        self.whole = WholeChunk(self.generator, codec) if whole else None
        self._native = _compiling() if self.remembers and self.device.type == "cpu" else None

    @staticmethod
    def load(
        name: str,
        *,
        assets: Path,
        device: str = "auto",
        threads: int | None = None,
        on_step: Callable[[str], None] = lambda step: None,
    ) -> Engine:
        """Read the weights of a world from `assets`/`name`. `on_step` hears what is being done.

        Raises ValueError for an unknown world, an unknown device, or weights that are missing or broken.
        """
        if name not in WORLDS:
            raise ValueError(f"unknown world {name!r}: choose from {', '.join(WORLDS)}")
        where = _device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        if where.type == "cpu":
            _keep_freed_memory()
        dtype = compute_dtype(where)
        on_step("loading the codec")
        codec = load_codec(assets / name / "codec.safetensors", dtype=dtype, device=where)
        on_step("loading the world model")
        model = load_world(assets / name / "world.safetensors", dtype=dtype, device=where)
        engine = Engine(WORLDS[name], model=model, codec=codec, weights=weights_hash(assets / name))
        on_step(
            "warming up" if engine.whole is None else "warming up (the first time on a GPU takes minutes)"
        )
        engine.warm_up()
        return engine

    def start(
        self,
        picture: NDArray[np.uint8] | None,
        *,
        pose: Pose,
        intrinsics: Intrinsics,
        words: Sequence[int] | None = None,
        seed: int = 0,
        inverse_depth: NDArray[np.float16] | None = None,
    ) -> Chunk:
        """Begin a flight: frame 0 is the picture itself.

        picture: [Y, X, 3] at the world's size, seen from `pose` through `intrinsics`.  words: ids, None: no words.
        Without a picture one is drawn from words and seed, with its depth, which takes about as long as six chunks.
        inverse_depth: [Y, X] of the picture in 1/m, sky 0, below 0 unknown. Without it the codec guesses from colours,
        whose scale nobody can see, and frame 0 has none.
        """
        begun = time.perf_counter()
        config, spec = self.generator.config, self.spec
        ids = self._word_ids(words)
        if picture is None:
            lens = _rows(intrinsics, 1)[0, 0]
            picture, inverse_depth = drawn(self.generator.model, self.codec, ids[0], lens=lens, seed=seed)
        if picture.shape != (spec.height, spec.width, 3) or picture.dtype != np.uint8:
            raise ValueError(
                f"a first picture of shape {picture.shape} and type {picture.dtype}: "
                f"{spec.name} takes ({spec.height}, {spec.width}, 3) uint8"
            )
        if inverse_depth is not None:
            _check_depth(inverse_depth, picture)
        cond, anchor = condition_chunk(
            None,
            pose_tensor([pose]),
            _rows(intrinsics, 1),
            frame=0,
            grid=self.codec.config.grid,
            config=config,
        )
        known = (
            None if inverse_depth is None else torch.from_numpy(inverse_depth[None].copy()).to(self.device)
        )
        with torch.inference_mode():
            still = self.codec.encode_picture(self._pixels(picture), None if known is None else known.float())
        _, state = self.generator.start(still, text=ids, cond=cond.to(self.device), seed=seed, anchor=anchor)
        if self.remembers:
            seen = torch.from_numpy(picture[None].copy()).to(self.device)
            first = first_source(
                seen,
                still,
                codec=self.codec,
                pose=pose_tensor([pose])[0],
                intrinsics=_rows(intrinsics, 1)[0],
                inverse_depth=known,
            )
            state = replace(state, spatial=begin(first))
        frame = Frame(
            pixels=picture,
            pose=pose,
            intrinsics=intrinsics,
            index=0,
            world=spec.name,
            inverse_depth=inverse_depth,
        )
        return Chunk(frames=(frame,), state=state, timing={"start": time.perf_counter() - begun})

    def step(
        self, state: StreamState, poses: Sequence[Pose], *, intrinsics: Intrinsics, attempt: int = 0
    ) -> Chunk:
        """Generate the next chunk as seen from `poses`, one per frame.

        Raises FloatingPointError if it is not finite: the state is as good as before, and another `attempt` draws
        other noise.
        """
        if len(poses) != self.spec.chunk_frames:
            raise ValueError(f"{len(poses)} poses for a chunk of {self.spec.chunk_frames} frames")
        if self.remembers and state.spatial is None:
            raise ValueError("a state without spatial memory for a world that has it: start the flight again")
        laps = Laps()
        asked, anchor = self._asked(state, poses, intrinsics, attempt)
        at_once = self.whole is not None and self.whole.fits(state)
        make = self._at_once if at_once else self._by_stages
        pixels, inverse_depth, after = make(state, asked, anchor, laps)
        first = self.next_frame(state)
        frames = tuple(
            Frame(
                pixels=pixels[i],
                pose=pose,
                intrinsics=intrinsics,
                index=first + i,
                world=self.spec.name,
                inverse_depth=inverse_depth[i],
            )
            for i, pose in enumerate(poses)
        )
        return Chunk(frames=frames, state=after, timing=laps.seconds)

    def _asked(
        self, state: StreamState, poses: Sequence[Pose], intrinsics: Intrinsics, attempt: int
    ) -> tuple[Asked, Anchor]:
        """The coming chunk in tensors on the device, and the anchor after it."""
        places, lenses = pose_tensor(poses), _rows(intrinsics, len(poses))
        grid, config = self.codec.config.grid, self.generator.config
        cond, anchor = condition_chunk(
            state.anchor, places, lenses, frame=state.frame, grid=grid, config=config
        )
        asked = Asked(
            noise=self.generator.noise(state, frames=config.chunk, attempt=attempt),
            cond=cond,
            at=torch.tensor(state.frame),
            poses=places,
            intrinsics=lenses,
            last=torch.tensor([self.next_frame(state) + len(poses) - 1]),
        )
        return asked.to(self.device), anchor

    def _at_once(self, state: StreamState, asked: Asked, anchor: Anchor, laps: Laps) -> _Made:
        """As one function of tensors, which a GPU replays."""
        assert self.whole is not None
        made = self.whole(state, asked)
        if not bool(made.finite):
            raise NotFinite(f"chunk {state.chunk} is not finite: discard it and step again from its state")
        laps.lap("denoise")
        pixels, inverse_depth = made.colors.cpu().numpy(), made.inverse_depth.cpu().numpy()
        after = replace(
            state,
            blocks=self.whole.after(state, made),
            frame=state.frame + 1,
            chunk=state.chunk + 1,
            latent=made.latents[:, :, -1],
            anchor=anchor,
            spatial=made.spatial,
        )
        laps.lap("decode")
        return pixels, inverse_depth, after

    def _by_stages(self, state: StreamState, asked: Asked, anchor: Anchor, laps: Laps) -> _Made:
        """One after the other, each timed: on a CPU, and until the window is full."""
        recalled = None
        if state.spatial is not None and self.remembers:
            views = asked.poses, asked.intrinsics
            recalled = recall(state.spatial, *views, codec=self.codec, draw=self._draw())
            laps.lap("memory")
        memory = None if recalled is None else recalled.channels
        with self._one_thread_less():
            latents, after = self.generator.step(
                state, cond=asked.cond, anchor=anchor, memory=memory, noise=asked.noise
            )
        laps.lap("denoise")
        with torch.inference_mode():
            colors, depth = shown(self.codec, state.latent, latents[:, :, -1], recalled)
            pixels, inverse_depth = colors.cpu().numpy(), depth[0].to("cpu", torch.float16).numpy()
        laps.lap("decode")
        if recalled is not None and after.spatial is not None:
            look = self.device.type == "cpu"
            spatial = remembered(after.spatial, colors, depth, recalled, asked, look=look)
            after = replace(after, spatial=spatial)
            laps.lap("memory")
        return pixels, inverse_depth, after

    def reworded(self, state: StreamState, words: Sequence[int] | None) -> StreamState:
        """The same place under other words, from the next chunk on."""
        with torch.inference_mode():
            return replace(state, text=self.generator.model.embed_text(self._word_ids(words)))

    def _word_ids(self, words: Sequence[int] | None) -> Tensor:
        """[1, L] int64, 0 where nothing is said. Raises ValueError for words that this world does not have."""
        config = self.generator.config
        told = tuple(words or ())
        if len(told) > config.caption_tokens or not all(0 <= word < config.words for word in told):
            raise ValueError(
                f"words {told}: {self.spec.name} takes {config.caption_tokens} below {config.words}"
            )
        ids = torch.zeros(1, config.caption_tokens, dtype=torch.int64)
        ids[0, : len(told)] = torch.tensor(told, dtype=torch.int64)
        return ids.to(self.device)

    @cached_property
    def pattern(self) -> StreamState:
        """A state of this engine: what any other one looks like, by which saved ones are judged."""
        spec = self.spec
        lens = Intrinsics.from_fov(1.2, width=spec.width, height=spec.height)
        grey = np.full((spec.height, spec.width, 3), 128, np.uint8)
        return self.start(grey, pose=Pose(), intrinsics=lens).state

    @contextmanager
    def _one_thread_less(self) -> Iterator[None]:
        """For passes on a CPU: they hardly gain by the last thread, and wait for it wherever something else runs there."""
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or threads == 1:
            yield
            return
        torch.set_num_threads(threads - 1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def _draw(self) -> Draw:
        """The native warp on a CPU as soon as it is compiled, else the one for the device."""
        if self._native is None or not self._native.is_set():
            return draw_on(self.device)
        from engine.warp_cpu import warp as native

        return native

    def warm_up(self) -> None:
        """Run chunks until real ones are as fast as they get: one, and on a GPU until one is captured."""
        lens = Intrinsics.from_fov(1.2, width=self.spec.width, height=self.spec.height)
        state = self.pattern
        for _ in range(1 if self.whole is None else self.generator.config.window + UNTIL_CAPTURED):
            state = self.step(state, [Pose()] * self.spec.chunk_frames, intrinsics=lens).state
        release_compiler()

    def next_frame(self, state: StreamState) -> int:
        """Index of the first pixel frame after `state`."""
        return 1 + (state.frame - 1) * self.codec.config.frames

    def _pixels(self, picture: NDArray[np.uint8]) -> Tensor:
        """[1, 3, Y, X] in [-1, 1]."""
        x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        return (x.to(self.device, torch.float32) / 127.5 - 1).to(self.codec.mean.dtype)


def load_world(path: Path, *, dtype: torch.dtype, device: torch.device) -> WorldModel:
    """A world model of the size that its file says, ready to run. Raises ValueError."""
    model = build_stored(path, WorldModel, ModelConfig, kind="world")
    load_module(path, model, kind="world", dtype=dtype, device=device)
    return model.eval().requires_grad_(False)


def _check_depth(inverse_depth: NDArray[np.float16], picture: NDArray[np.uint8]) -> None:
    if inverse_depth.shape != picture.shape[:2] or inverse_depth.dtype != np.float16:
        raise ValueError(
            f"a depth of shape {inverse_depth.shape} and type {inverse_depth.dtype}: "
            f"this picture takes {picture.shape[:2]} float16"
        )
    if not np.isfinite(inverse_depth).all():
        raise ValueError("inverse depth that is not finite: give 0 for the sky and -1 where nobody knows it")


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the machine multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def _keep_freed_memory() -> None:
    """Have glibc reuse large blocks: fetched anew from the system they cost a page fault for every 4 kB, a third of a decode."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, BLOCK)
            mallopt(M_TRIM_THRESHOLD, END)


def _compiling() -> threading.Event | None:
    """Set when the native warp can be used; None without numba, where torch draws in about five times the time."""
    if find_spec("numba") is None:
        return None
    done = threading.Event()

    def build() -> None:
        from engine.warp_cpu import compile_now

        compile_now()
        done.set()

    threading.Thread(target=build, name="compile the warp", daemon=True).start()
    return done


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"unknown device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device 'cuda' was asked for, but torch finds no NVIDIA GPU here: leave out --device"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _rows(intrinsics: Intrinsics, count: int) -> Tensor:
    """[1, count, 4] fx, fy, cx, cy."""
    return torch.from_numpy(intrinsics.row).expand(1, count, 4)
