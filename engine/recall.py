"""What the model is told of what was seen: chosen pictures, warped into the coming chunk and encoded by the codec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.codec import Codec
from engine.compiler import Form, as_it_is
from engine.config import MEMORY, CodecConfig, MemoryConfig, memory_channels
from engine.memory import SpatialMemory, choose
from engine.warp import Sources, Warped, warp
from kernels.program import builds

LOG_RANGE = 3.0  # log2 of magnification is kept within ±3
AGE_SCALE = 0.25  # per doubling of the generation

Draw = Callable[..., Warped]


def draw_on(device: torch.device, form: Form = as_it_is) -> Draw:
    """The warp for `device`: by kernels on a GPU where they can be built, else the one in torch. form: of the rest."""
    if not builds(device):
        return warp
    from engine.warp_gpu import warp as kernels

    return partial(kernels, form=form)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """One chunk's worth."""

    channels: Tensor  # fp32 [B, memory_channels, 1, h, w]
    warped: Warped


@torch.no_grad()
def recall(
    memory: SpatialMemory,
    poses: Tensor,
    intrinsics: Tensor,
    *,
    codec: Codec,
    draw: Draw = warp,
    keep: Tensor | None = None,
    half: bool = False,
    form: Form = as_it_is,
    config: MemoryConfig = MEMORY,
) -> Recalled:
    """What the memory shows of the 8 coming frames, poses [B, 8, 4, 4] and intrinsics [B, 8, 4].

    draw: one of the implementations of `engine.warp.warp`.  keep: [B, 1 + chosen] bool, sources to use.
    half: encode in bfloat16. Call this outside of autocast, which does not take the float64 of poses.
    form: of all but the warp's kernels.
    """
    sources = form(choose)(memory, poses, intrinsics, config=config)
    if keep is not None:
        sources = sources.only(keep)
    warped = draw(sources, poses, intrinsics, config=config)
    with torch.autocast(warped.rgb.device.type, torch.bfloat16, enabled=half):
        latent = form(encoded)(codec, warped.rgb)
    return Recalled(channels=form(describe)(latent, warped, stride=codec.config.stride), warped=warped)


def encoded(codec: Codec, rgb: Tensor) -> Tensor:
    """Frames of bytes [B, V, Y, X, 3] as their latent."""
    return codec.encode(rgb.movedim(-1, 2).to(codec.mean.dtype) / 127.5 - 1)


def describe(latent: Tensor, warped: Warped, *, stride: int) -> Tensor:
    """Channels: the latent of the warped frames, the known share of each cell by frame, log2 of the mean magnification
    and of the mean generation of what is known (0 where nothing is)."""
    known = warped.mask.float()
    share = _pooled(known, stride)  # [B, V, h, w]
    total = share.mean(dim=1, keepdim=True)

    def mean_log(x: Tensor) -> Tensor:
        mean = _pooled(x.float(), stride).mean(dim=1, keepdim=True) / total.clamp_min(1e-6)
        return torch.where(total > 0, mean.clamp_min(2**-LOG_RANGE).log2(), 0.0)

    size = mean_log(warped.magnification).clamp(max=LOG_RANGE)
    age = mean_log(warped.generation) * AGE_SCALE
    return torch.cat([latent.float(), share, size, age], dim=1)[:, :, None]


def _pooled(x: Tensor, side: int) -> Tensor:
    """Means of square cells, those of large ones from those of small ones: for these a GPU has enough threads."""
    while side % 4 == 0:
        x, side = F.avg_pool2d(x, 4), side // 4
    return F.avg_pool2d(x, side)


def known_share(channels: Tensor, codec: CodecConfig) -> Tensor:
    """How much of every cell the memory knows, from its channels: [B, memory_channels, F, h, w] → [B, F, h, w]."""
    return channels[:, codec.latent_channels : codec.latent_channels + codec.frames].mean(dim=1)


def first_source(
    picture: Tensor,
    still: Tensor,
    *,
    codec: Codec,
    pose: Tensor,
    intrinsics: Tensor,
    inverse_depth: Tensor | None = None,
) -> Sources:
    """A first picture with its depth where it is known, else with what the codec sees in it when it stands still.

    picture: uint8 [B, Y, X, 3].  still: its static latent [B, C, h, w].  pose: [B, 4, 4].  intrinsics: [B, 4].
    inverse_depth: [B, Y, X] in 1/m, sky 0, below 0 unknown; None: nobody knows it.
    """
    with torch.no_grad():
        depth = codec.decode(still, still, last=True)[1][:, 0]
    if inverse_depth is not None:
        depth = torch.where(inverse_depth >= 0, inverse_depth.to(depth.dtype), depth)
    blank = torch.zeros(depth.shape, dtype=torch.uint8, device=depth.device)
    return frame_source(
        picture, depth, blank, pose=pose, intrinsics=intrinsics, index=torch.zeros(len(picture))
    )


def frame_source(
    rgb: Tensor, inverse_depth: Tensor, generation: Tensor, *, pose: Tensor, intrinsics: Tensor, index: Tensor
) -> Sources:
    """One frame of each of B flights as sources [B, 1]. rgb: uint8 [B, Y, X, 3]; the others [B, ...]; index: [B]."""
    device = rgb.device
    return Sources(
        rgb=rgb[:, None].contiguous(),
        inverse_depth=inverse_depth[:, None].half().contiguous(),
        generation=generation[:, None].contiguous(),
        poses=pose[:, None].to(device, torch.float64),
        intrinsics=intrinsics[:, None].to(device, torch.float64),
        index=index[:, None].to(device, torch.int64),
    )


def checked(channels: int, codec: Codec) -> bool:
    """Whether a model with so many memory channels remembers. Raises ValueError if they are not of this codec."""
    want = memory_channels(codec.config)
    if channels not in (0, want):
        raise ValueError(
            f"a world model with {channels} memory channels does not go with this codec, which makes {want}: "
            "load weights that were trained together"
        )
    return channels > 0
