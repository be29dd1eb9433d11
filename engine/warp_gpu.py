"""`engine.warp.warp` by the programs of `kernels/warp_draw.py`: same definition, a fraction of the memory traffic."""

from __future__ import annotations

from torch import Tensor

from engine.compiler import Form, as_it_is
from engine.config import MEMORY, MemoryConfig
from engine.warp import EDGE, KEEP, NEAR, SPREAD, STRICT, Sources, Warped, between, fill
from kernels.warp_draw import warp_draw


def warp(
    sources: Sources,
    poses: Tensor,
    intrinsics: Tensor,
    *,
    config: MemoryConfig = MEMORY,
    form: Form = as_it_is,
) -> Warped:
    """As `engine.warp.warp`, for tensors on a GPU. Waits for nothing, so that a CUDA graph can hold it.

    form: of what is around the kernels.
    """
    there, back, lens = form(projections)(sources.poses, sources.intrinsics, poses, intrinsics)
    color, mask, magnification, generation, inverse_depth = warp_draw(
        sources.rgb,
        sources.inverse_depth,
        sources.generation,
        sources.index,
        there=there,
        back=back,
        lens=lens,
        tolerance=config.tolerance,
        sky=config.sky,
        near=NEAR,
        edge=EDGE,
        spread=SPREAD,
        strict=STRICT,
        keep=KEEP,
    )
    rgb = form(fill)(color.flatten(0, 1), mask.flatten(0, 1)).view_as(color)
    return Warped(
        rgb=rgb, mask=mask, magnification=magnification, generation=generation, inverse_depth=inverse_depth
    )


def projections(
    poses: Tensor, intrinsics: Tensor, view_poses: Tensor, view_intrinsics: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """From sources [B, S, 4, 4] to views [B, V, 4, 4] and back, fp32 [B, S, V, 3, 4], and focal lengths of view over source."""
    camera, view = (
        (poses[:, :, None], intrinsics[:, :, None]),
        (view_poses[:, None], view_intrinsics[:, None]),
    )
    lens = camera[1][..., 0] / view[1][..., 0].double()
    return between(*camera, *view), between(*view, *camera), 1 / lens.float()
