"""Every size and switch of the world model and its codec, as frozen dataclasses with named presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar

NEAREST, FARTHEST = 0.25, 400.0  # metres: codes 1 and 0 of depth, see engine/depth.py


@dataclass(frozen=True, kw_only=True)
class Semantics:
    """The numerics in which public sources of SANA-WM disagree. The weights load under each of them."""

    cap_camera_rms: bool = False  # scale UCPE-transformed q, k, v down to their RMS before the transform
    padded_scale_camera: bool = False  # camera softmax divides by sqrt of the padded head width, always
    padded_scale_stream: bool = False  # both softmax branches do so in a stream
    carry_camera_conv: bool = True  # the camera key conv sees the previous chunk


HEAD = Semantics()
RELEASE_2026 = Semantics(padded_scale_camera=True, padded_scale_stream=True, carry_camera_conv=False)
DIFFUSERS = Semantics(cap_camera_rms=True, padded_scale_camera=True)
SGLANG = Semantics(cap_camera_rms=True, padded_scale_stream=True, carry_camera_conv=False)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The stage-1 transformer. Defaults are the released SANA-WM streaming model."""

    dim: int = 2240
    heads: int = 20  # of self-attention, main and camera branch
    cross_heads: int = 20
    depth: int = 20
    softmax_blocks: tuple[int, ...] = (3, 7, 11, 15, 19)
    ffn_ratio: float = 3.0
    conv_taps: int = 4  # of the short convolution on keys
    ffn_taps: int = 3  # of the temporal convolution in the FFN

    latent_channels: int = 128
    memory_channels: int = 0  # extra input channels: warped spatial memory
    stride: tuple[int, int, int] = (8, 32, 32)  # pixels per latent over (frame, row, column)

    caption_dim: int = 2304
    caption_tokens: int = 300
    words: int = 0  # rows of the learned word table; 0: text comes from an encoder

    causal: bool = True  # False: the bidirectional release, the whole clip is one chunk
    chunk: int = 3  # latent frames generated together
    first_chunk: int = 4  # the same for chunk 0
    window: int = 2  # cached chunks that softmax blocks see; -1: all
    sink: bool = True  # chunk 0 stays in the window
    levels: tuple[float, ...] = (1.0, 0.96, 0.889, 0.727)  # noise levels visited; 0.0 is implied

    translation_scale: float = 1.0  # model units per metre
    anchor: Literal["first", "upright"] = "first"  # poses relative to: frame 0 | a moving, level anchor
    anchor_radius: float = float("inf")  # metres from the anchor at which it moves
    plucker_origin: Literal["anchor", "previous"] = (
        "anchor"  # moments about: anchor | last camera of the chunk before
    )
    moment_scale: float = 1.0  # model units per metre in the Plücker moments
    first_looks_ahead: bool = True  # Plücker rays of latent 0: pixel frames 0…7, else eight copies of frame 0

    semantics: Semantics = HEAD

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} does not split into heads={self.heads}")
        if self.head_dim % 8:
            raise ValueError(
                f"head width {self.head_dim} (dim {self.dim} / heads {self.heads}) must be a multiple of 8"
            )
        if self.dim % self.cross_heads:
            raise ValueError(f"dim={self.dim} does not split into cross_heads={self.cross_heads}")
        if any(not 0 <= i < self.depth for i in self.softmax_blocks):
            raise ValueError(f"softmax_blocks={self.softmax_blocks} must lie in 0…{self.depth - 1}")
        if self.chunk < 1 or self.first_chunk < 1:
            raise ValueError(f"chunk={self.chunk} and first_chunk={self.first_chunk} must be at least 1")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def lone(self) -> bool:
        """One latent frame per chunk: everything that looks ahead inside a chunk is dead, and not built."""
        return self.causal and self.chunk == 1 and self.first_chunk == 1


SANA_WM = ModelConfig()
POCKET = ModelConfig(
    dim=320,
    heads=5,
    cross_heads=5,
    depth=9,
    softmax_blocks=(3, 7),
    latent_channels=32,
    stride=(8, 16, 16),
    caption_dim=64,
    caption_tokens=8,
    words=64,
    chunk=1,
    first_chunk=1,
    window=8,
    sink=False,  # an endless flight leaves its first picture behind: relative poses stay in the trained range
    levels=(1.0, 0.6),
    translation_scale=0.1,
    anchor="upright",
    anchor_radius=12.0,
    plucker_origin="previous",
    moment_scale=0.3,
    first_looks_ahead=False,
)


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """The small causal streaming codec of `pocket`: one latent frame stands for 8 pixel frames."""

    width: int = 256
    height: int = 160
    frames: int = 8  # pixel frames per latent frame
    stride: int = 16  # pixels per latent cell
    latent_channels: int = 32
    encoder_widths: tuple[int, int, int] = (64, 128, 256)  # at 1/4, 1/8, 1/16 of the size
    decoder_widths: tuple[int, int, int, int] = (304, 192, 64, 48)  # at 1/16, 1/8, 1/4, 1/2 of the size
    sky: bool = (
        False  # depth in and out with a sky of its own; False: out only, in one joint code (first weights)
    )

    def __post_init__(self) -> None:
        if self.width % self.stride or self.height % self.stride:
            raise ValueError(f"{self.width}x{self.height} is not a multiple of stride {self.stride}")

    @property
    def grid(self) -> tuple[int, int]:
        """Latent rows and columns."""
        return self.height // self.stride, self.width // self.stride


POCKET_CODEC = CodecConfig(sky=True)


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Spatial memory: what is kept of what was seen, and how it is drawn again. Measured in small worlds with true depth."""

    keyframes: int = 16  # kept; 8 lose 8 points of coverage in 20 s, 32 gain none
    chosen: int = 2  # of them drawn into a chunk, besides the latest frame
    covered: float = 0.85  # a frame of which the keyframes show less than this becomes one
    every: int = 32  # frames after which it does anyway, if the camera has moved
    moved: tuple[float, float] = (0.25, 0.09)  # metres, radians: what counts as moved
    tolerance: float = 0.12  # of depth between two views of one surface; exact depth would allow 0.07
    sky: float = 0.002  # 1/m: differences below this are none
    clear: float = 200.0  # metres within which haze hides nothing

    def __post_init__(self) -> None:
        if self.keyframes < 2 or self.chosen < 0:
            raise ValueError(f"keyframes={self.keyframes} and chosen={self.chosen}: at least 2 and 0")


MEMORY = MemoryConfig()


def memory_channels(codec: CodecConfig) -> int:
    """Input channels of a remembered chunk: its latent, the mask of every frame, magnification, generation."""
    return codec.latent_channels + codec.frames + 2


POCKET_MEMORY = replace(POCKET, memory_channels=memory_channels(POCKET_CODEC))  # 42
FPS = 16  # of both worlds


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSpec:
    """What the outside must know of a world: the pictures it takes and gives."""

    name: str
    width: int
    height: int
    fps: int
    chunk_frames: int  # pixel frames per chunk after the first
    static: bool = (
        True  # nothing moves by itself (water and clouds stand still): a camera at rest needs no frames
    )


WORLDS = {
    "pocket": WorldSpec(
        name="pocket",
        width=POCKET_CODEC.width,
        height=POCKET_CODEC.height,
        fps=FPS,
        chunk_frames=POCKET_CODEC.frames * POCKET.chunk,
    ),
    "sana-wm": WorldSpec(
        name="sana-wm", width=1280, height=704, fps=FPS, chunk_frames=SANA_WM.stride[0] * SANA_WM.chunk
    ),
}


Config = ModelConfig | CodecConfig


def as_record(config: Config) -> dict[str, Any]:
    """What is saved with weights: plain values under the names of the fields."""
    return asdict(config)


C = TypeVar("C", ModelConfig, CodecConfig)


def from_record(kind: type[C], record: Mapping[str, Any]) -> C:
    """A config read from a file, which is not trusted: unknown fields and wrong types raise ValueError."""
    known = {f.name: f for f in fields(kind)}
    default = kind()
    values: dict[str, Any] = {}
    for name, value in record.items():
        if name not in known:
            raise ValueError(
                f"the config in the weights has a field {name!r} that this version does not know"
            )
        values[name] = _plain(name, value, like=getattr(default, name))
    return kind(**values)


def _plain(name: str, value: Any, *, like: Any) -> Any:
    """`value` in the type of `like`: JSON has lists for tuples, and maps for nested configs."""
    if isinstance(like, Semantics) and isinstance(value, Mapping):
        if set(value) <= {f.name for f in fields(Semantics)} and all(
            isinstance(v, bool) for v in value.values()
        ):
            return Semantics(**value)
    elif isinstance(like, tuple) and isinstance(value, list):
        return tuple(_plain(name, v, like=like[0]) for v in value)
    elif isinstance(like, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) is type(like):
        return value
    raise ValueError(f"the config in the weights has {name}={value!r}: not a {type(like).__name__}")
