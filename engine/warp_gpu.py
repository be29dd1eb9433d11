"""`engine.warp.warp` by the programs of `kernels/warp_draw.py`: same definition, a fraction of the memory traffic."""

from __future__ import annotations

from torch import Tensor

from engine.config import MEMORY, MemoryConfig
from engine.warp import EDGE, KEEP, NEAR, SPREAD, STRICT, Sources, Warped, between, fill
from kernels.warp_draw import warp_draw


def warp(sources: Sources, poses: Tensor, intrinsics: Tensor, *, config: MemoryConfig = MEMORY) -> Warped:
    """As `engine.warp.warp`, for tensors on a GPU. Waits for nothing, so that a CUDA graph can hold it."""
    camera = (sources.poses[:, :, None], sources.intrinsics[:, :, None])
    view = (poses[:, None], intrinsics[:, None])
    lens = camera[1][..., 0] / view[1][..., 0].double()  # fx of source over view
    color, mask, magnification, generation, inverse_depth = warp_draw(
        sources.rgb,
        sources.inverse_depth,
        sources.generation,
        sources.index,
        there=between(*camera, *view),
        back=between(*view, *camera),
        lens=1 / lens.float(),
        tolerance=config.tolerance,
        sky=config.sky,
        near=NEAR,
        edge=EDGE,
        spread=SPREAD,
        strict=STRICT,
        keep=KEEP,
    )
    rgb = fill(color.flatten(0, 1), mask.flatten(0, 1)).view_as(color)
    return Warped(
        rgb=rgb, mask=mask, magnification=magnification, generation=generation, inverse_depth=inverse_depth
    )
