"""What kernels are measured with: shapes, inputs, plain form. A new kernel gets a case."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.bench.case import LEVEL, STREAM, TRAINING, VIEWS, Case, Shape
from engine.bench.cases_sana import SANA_CASES
from engine.composite import composite, composite_bytes, to_bytes
from engine.gdn import EPS
from engine.ltx2 import LTX2_VAE
from engine.rope import Rotary, rotary_tables, rotate_real
from engine.warp import Sources, Warped, warp
from kernels.conv_input import conv_input, conv_input_plain
from kernels.gated_conv import gated_conv, gated_conv_plain
from kernels.gated_conv_forward import gated_conv_forward
from kernels.gdn_chunk import gdn_chunk
from kernels.gdn_scan import gdn_scan
from kernels.gdn_stream import gdn_main, gdn_stream
from kernels.to_pixels import to_pixels, to_pixels_plain


def scan_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Queries and keys as the model makes them: positive, small, views of [B, F, N, H, K]."""
    g = torch.Generator(device).manual_seed(0)
    order = (shape.clips, shape.frames, shape.tokens, shape.heads, shape.width)

    def heads() -> Tensor:
        return torch.randn(order, generator=g, device=device, dtype=dtype).permute(0, 3, 1, 2, 4)

    def rate(*size: int) -> Tensor:
        return torch.randn(size, generator=g, device=device).sigmoid()

    where = shape.clips, shape.heads
    return dict(
        q=heads().relu(),
        k=heads().relu() * (shape.width * shape.tokens) ** -0.5,
        v=heads(),
        beta=rate(*where, shape.frames, shape.tokens),
        decay=rate(*where, shape.frames),
        S=torch.randn(*where, shape.width, shape.width, generator=g, device=device),
    )


def conv_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Of the feed-forward part: twice three widths of channels, in and gate."""
    g = torch.Generator(device).manual_seed(0)
    wide = 6 * shape.dim
    size = (shape.clips * shape.frames, shape.tokens, wide)
    return dict(
        h=torch.randn(size, generator=g, device=device, dtype=dtype),
        weight=torch.randn(wide, 1, 3, 3, generator=g, device=device) / 3,
        bias=torch.zeros(wide, device=device),
    ) | {"grid": shape.grid}


def scan_twin(*, q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> tuple[Tensor, Tensor]:
    """`gdn_scan` as the model calls it: in fp32."""
    return gdn_scan(q=q.float(), k=k.float(), v=v.float(), **rest)


def conv_twin(*, h: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    return gated_conv_plain(h, weight=weight.to(h.dtype), bias=bias.to(h.dtype), grid=grid)


def main_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Those of the scan, the angles of places, and the memory of the denominator."""
    given = scan_inputs(shape, device, dtype)
    rotary, _ = rotary_tables(
        frame=4,
        frames=shape.frames,
        grid=shape.grid,
        head_dim=shape.width,
        device=device,
        dtype=torch.float32,
    )
    return given | dict(cos=rotary.cos, sin=rotary.sin, z=given["S"][..., :1].abs(), eps=EPS)


def stream_twin(*, q: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
    """All frames in one chunk."""
    return scan_twin(q=q, chunks=(q.shape[2],), **given)


def main_twin(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    S: Tensor,
    z: Tensor,
    eps: float,
    **gates: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """What is read by place over how much is read in all."""
    turned = (rotate_real(x.float(), Rotary(cos, sin, None), back=False) for x in (q, k))
    num, S = stream_twin(**dict(zip("qk", turned, strict=True)), v=v, S=S, **gates)
    den, z = stream_twin(q=q, k=k, v=torch.ones_like(v[..., :1]), S=z, **gates)
    return num / (den + eps), S, z


def level_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Of the decoder between two convolutions."""
    g = torch.Generator(device).manual_seed(0)
    place = (*shape.grid, shape.dim)

    def values(*size: int) -> Tensor:
        return torch.randn(size, generator=g, device=device, dtype=dtype)

    clip = shape.clips, shape.frames, *place
    tail = values(shape.clips, 2, *place)
    return dict(y=values(*clip), bias=values(shape.dim), skip=values(*clip), tail=tail, keep=True)


def pixel_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Of the decoder after its last convolution."""
    g, channels = torch.Generator(device).manual_seed(0), 3 * LTX2_VAE.patch**2
    y = torch.rand(shape.clips, shape.frames, *shape.grid, channels, generator=g, device=device) * 2 - 1
    return dict(y=y.to(dtype), bias=torch.zeros(channels, device=device, dtype=dtype), patch=LTX2_VAE.patch)


def warp_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Three remembered pictures, and eight views of a camera that goes ahead and turns: what pocket recalls."""
    g = torch.Generator(device).manual_seed(0)
    B, S, Y, X = shape.clips, shape.frames, *shape.grid
    place = torch.linspace(0.0, 0.5, 8, device=device, dtype=torch.float64)
    poses = torch.eye(4, device=device, dtype=torch.float64).repeat(8, 1, 1)
    poses[:, 2, 3], poses[:, 0, 2], poses[:, 2, 0] = place, place / 8, -place / 8
    lens = torch.tensor([0.8 * X, 0.8 * X, X / 2, Y / 2], device=device, dtype=torch.float64)
    depth = 0.1 + 0.1 * torch.rand(B, S, Y // 8, X // 8, generator=g, device=device)
    sources = Sources(
        rgb=torch.randint(0, 256, (B, S, Y, X, 3), generator=g, device=device, dtype=torch.uint8),
        inverse_depth=depth.repeat_interleave(8, 2).repeat_interleave(8, 3).half(),
        generation=torch.zeros(B, S, Y, X, device=device, dtype=torch.uint8),
        poses=poses[:S].expand(B, S, 4, 4).contiguous(),
        intrinsics=lens.expand(B, S, 4).contiguous(),
        index=torch.arange(S, device=device).expand(B, S).contiguous(),
    )
    views = poses.expand(B, 8, 4, 4).contiguous(), lens.expand(B, 8, 4).contiguous()
    return dict(sources=sources, poses=views[0], intrinsics=views[1])


def warp_kernel(**given: Any) -> Warped:
    """Only here is Triton imported."""
    from engine.warp_gpu import warp as kernel

    return kernel(**given)


def frame_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Frames as a decoder leaves them, and what is remembered of them: about the same, with holes."""
    g = torch.Generator(device).manual_seed(0)
    views = shape.clips, 8, *shape.grid

    def share(*size: int) -> Tensor:
        return torch.rand(size, generator=g, device=device)

    decoded = (2 * share(*views[:2], 5, *shape.grid) - 1).to(dtype)[:, :, :3]
    near = decoded.float() + 0.1 * share(*views[:2], 3, *shape.grid)
    seen = Warped(
        rgb=to_bytes(near.clamp(-1, 1)),
        mask=(share(*views) < 0.8).to(torch.uint8),
        magnification=3.5 * share(*views),
        generation=(8 * share(*views)).to(torch.uint8),
        inverse_depth=share(*views),
    )
    return dict(rgb=decoded, inverse_depth=share(*views), seen=seen)


def composite_twin(**given: Any) -> tuple[Tensor, Tensor]:
    rgb, depth = composite(**given)
    return to_bytes(rgb), depth


CASES = (
    Case(name="gdn_chunk", shape=TRAINING, inputs=scan_inputs, kernel=gdn_chunk, twin=scan_twin),
    Case(
        name="gdn_chunk and gradients",
        shape=TRAINING,
        inputs=scan_inputs,
        kernel=gdn_chunk,
        twin=scan_twin,
        backward=True,
    ),
    Case(name="gated_conv", shape=TRAINING, inputs=conv_inputs, kernel=gated_conv, twin=conv_twin),
    Case(
        name="gated_conv and gradients",
        shape=TRAINING,
        inputs=conv_inputs,
        kernel=gated_conv,
        twin=conv_twin,
        backward=True,
    ),
    Case(
        name="gated_conv_forward", shape=STREAM, inputs=conv_inputs, kernel=gated_conv_forward, twin=conv_twin
    ),
    Case(name="GDN main branch", shape=STREAM, inputs=main_inputs, kernel=gdn_main, twin=main_twin),
    Case(name="gdn_stream", shape=STREAM, inputs=scan_inputs, kernel=gdn_stream, twin=stream_twin),
    Case(name="conv_input", shape=LEVEL, inputs=level_inputs, kernel=conv_input, twin=conv_input_plain),
    Case(name="to_pixels", shape=LEVEL, inputs=pixel_inputs, kernel=to_pixels, twin=to_pixels_plain),
    Case(name="warp", shape=VIEWS, inputs=warp_inputs, kernel=warp_kernel, twin=warp),
    Case(name="composite", shape=VIEWS, inputs=frame_inputs, kernel=composite_bytes, twin=composite_twin),
    *SANA_CASES,
)
