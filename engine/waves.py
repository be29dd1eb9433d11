"""Attention of many queries to many keys in whole waves of tiles.

A GPU computes it in tiles of 128 queries of a head, one at a time on each multiprocessor, so that time goes in steps:
2,640 queries of 32 heads are 672 tiles, five waves on 132 multiprocessors and a sixth for the last twelve. The queries
of that wave are set apart. Their keys are cut in as many parts as keep the multiprocessors busy, attended to at once
like so many clips, and the parts are put together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.merge_parts import merge_parts
from kernels.program import builds

TILE = 128  # queries of cuDNN's attention on Hopper
PART = 1024  # keys, at least
# What a cut costs, in keys of a wave, which takes 15 ns for each on an H100: launches, and a copy of what all queries see
LAUNCHES, COPIED = 2048, 1 / 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The first `queries` see all keys at once, the others in so many parts."""

    queries: int
    parts: int


def cut(queries: int, keys: int, *, heads: int, processors: int) -> Cut | None:
    """Where a last wave is worth being set apart; None: nowhere."""
    tiles = -(-queries // TILE)  # of each head
    whole = (tiles * heads - 1) // processors  # waves before the last
    kept = whole * processors // heads  # tiles of each head in them
    parts = min(processors // ((tiles - kept) * heads), keys // PART)
    if kept == 0 or parts < 2 or keys - keys // parts < LAUNCHES + COPIED * queries * heads:
        return None
    return Cut(queries=kept * TILE, parts=parts)


def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, apart: bool = True) -> Tensor:
    """What queries see. q: [B, T, H, K].  k, v: [B, S, H, K].  Returns [B, T, H, K].

    mask: broadcasts to [B, H, T, S]; bool, True: is seen.  apart: whether a last wave may be set apart.
    """
    parts = attended(q, k, v, mask=mask, apart=apart)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def attended(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, apart: bool = True
) -> tuple[Tensor, ...]:
    """The same as it is computed: of all queries, or of the first and the others, which are not put together yet."""
    found = cut_of(q, k) if apart and mask is None else None
    return (at_once(q, k, v, mask=mask),) if found is None else divided(q, k, v, found)


def cut_of(q: Tensor, k: Tensor) -> Cut | None:
    """For one clip in 16 bits on a Hopper GPU, where cuDNN attends. Its sums have no gradients."""
    fits = q.shape[0] == 1 and q.dtype in (torch.bfloat16, torch.float16) and not torch.is_grad_enabled()
    if not (fits and builds(q.device) and torch.backends.cuda.cudnn_sdp_enabled()):
        return None
    gpu = torch.cuda.get_device_properties(q.device)
    _, T, H, _ = q.shape
    return cut(T, k.shape[1], heads=H, processors=gpu.multi_processor_count) if gpu.major == 9 else None


def at_once(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """`attention` without cuts: twin of what follows."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def divided(q: Tensor, k: Tensor, v: Tensor, at: Cut) -> tuple[Tensor, Tensor]:
    """`at_once` for one clip: the first queries and the others."""
    first, others = q.tensor_split((at.queries,), dim=1)
    return at_once(first, k, v), in_parts(others, k, v, parts=at.parts)


def in_parts(q: Tensor, k: Tensor, v: Tensor, *, parts: int) -> Tensor:
    """`at_once` for one clip, few queries and many keys: parts of one length, and what keys are left over."""
    length = k.shape[1] // parts
    even = parts * length
    views = (x[0, :even].unflatten(0, (parts, length)) for x in (k, v))
    o, lse = summed(q.repeat(parts, 1, 1, 1), *views)
    if even < k.shape[1]:  # fewer than there are parts
        more, more_lse = summed_plain(q, k[:, even:], v[:, even:])
        o, lse = torch.cat((o, more)), torch.cat((lse, more_lse))
    return merge_parts(o, lse)[None]


def summed(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """What queries see, and the natural logarithms [B, H, T] of their sums of exp(scores)."""
    if not q.is_cuda or q.dtype not in (torch.bfloat16, torch.float16):
        return summed_plain(q, k, v)
    B, T, H, _ = q.shape
    sees = torch.ops.aten._scaled_dot_product_cudnn_attention
    o, lse, *_ = sees(*(x.transpose(1, 2) for x in (q, k, v)), None, True)
    return o.transpose(1, 2), lse.reshape(B, H, T)


def summed_plain(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The same by products, in fp32 at least."""
    precise = torch.promote_types(q.dtype, torch.float32)
    a, b, c = (x.transpose(1, 2).to(precise) for x in (q, k, v))
    scores = a @ b.mT * q.shape[-1] ** -0.5  # [B, H, T, S]
    o = scores.softmax(-1) @ c
    return o.transpose(1, 2).to(q.dtype), scores.logsumexp(-1)
