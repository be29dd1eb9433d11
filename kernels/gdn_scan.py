"""Frame-wise gated delta rule: all tokens of a frame are written into the memory S at once.

    A_t = Σ_n β_n k_n e_nᵀ          what the frame's keys overwrite (e = k unless the memory changes coordinates)
    S_t = g_t (I - A_t) S_{t-1} + Σ_n β_n k_n v_nᵀ      S_t as [K, V]
    R_t = the same from the end of the chunk backwards, without frame t itself
    o_t = qᵀ (S_t + R_t)            a frame sees the past, itself, and the rest of its chunk

Source: SANA-WM's GDN blocks; the delta rule is Yang et al. 2024, "Gated Delta Networks", arXiv 2412.06464. The
denominator of the main branch is the same scan with V = 1 and v = 1, the camera branch the same without one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gdn_scan(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor,
    S: Tensor,
    chunks: tuple[int, ...] | None = None,
    erase: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Read and update the memory with F frames of N tokens. Pure: S is read, the new memory is returned.

    q, k: [B, H, F, N, K].  v: [B, H, F, N, V].  beta: [B, H, F, N] write strength.  decay: [B, H, F] in (0, 1].
    S: [B, H, K, V].  All in fp32 (fp64 for an oracle); autocast does not reach in here.
    chunks: lengths that add up to F; inside each a frame also sees the later ones. None: each frame is alone.
    erase: [B, H, F, N, K], the second factor of A; k where it is None.
    Returns o [B, H, F, N, V], and S after the last frame (of the forward pass only).
    """
    B, H, F, _, K = q.shape
    with torch.autocast(q.device.type, enabled=False):
        write = (k * beta[..., None]).mT
        eye = torch.eye(K, dtype=q.dtype, device=q.device)
        L = eye - write @ (k if erase is None else erase)  # [B, H, F, K, K]
        U = write @ v  # [B, H, F, K, V]
        g = decay.flatten(0, 1)[..., None, None]
        # The decay stays out of L: its gradient would cancel over K×K, at twice the error.
        step = list(zip(*(x.unbind(1) for x in (L.flatten(0, 1), U.flatten(0, 1), g)), strict=True))
        seen, last = _forward(step, S.flatten(0, 1))
        if chunks is not None and max(chunks) > 1:
            seen = [s if r is None else s + r for s, r in zip(seen, _ahead(step, chunks), strict=True)]
        memory = torch.stack(seen, dim=1).unflatten(0, (B, H)) if F > 1 else seen[0].view(B, H, 1, K, -1)
        return q @ memory, last.unflatten(0, (B, H))


def _forward(step: list[tuple[Tensor, ...]], S: Tensor) -> tuple[list[Tensor], Tensor]:
    seen = []
    for L, U, g in step:
        S = torch.baddbmm(U, L, g * S)
        seen.append(S)
    return seen, S


def _ahead(step: list[tuple[Tensor, ...]], chunks: tuple[int, ...]) -> list[Tensor | None]:
    """What each frame sees of the later frames of its chunk; None for a chunk's last frame."""
    out: list[Tensor | None] = []
    for length in chunks:
        start = len(out)
        later: list[Tensor | None] = [None]
        for L, U, g in reversed(step[start + 1 : start + length]):
            R = later[-1]
            later.append(U if R is None else torch.baddbmm(U, L, g * R))
        out.extend(reversed(later))
    return out
