"""Camera encoding of the camera branch: the first half of a head lives in ray coordinates, the second is rotary.

Queries are multiplied by Pᵀ, keys and values by P⁻¹ and outputs by P, four channels at a time, so that a score
holds the relative pose of two rays and a value arrives in the coordinates of the ray that asked for it.
Source: SANA-WM's "UCPE single path".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.rope import Rotary, rotate


@dataclass(frozen=True, slots=True, kw_only=True)
class RayFrames:
    """The ray coordinates of a call's tokens, relative to ONE anchor: the one in force at the call's last frame.

    Where the anchor moves inside the call (training clips), `own_inv` and `erase` keep what depends on the anchor
    in force at a token's frame: the delta rule is not invariant under translation, attention is.
    """

    P: Tensor  # [B, 1, F, N, 4, 4] anchor -> ray
    P_inv: Tensor  # [B, 1, F, N, 4, 4]
    own_inv: Tensor | None  # [B, 1, F, N, 4, 4] P⁻¹ relative to the anchor at the token's frame
    erase: Tensor | None  # [B, 1, F, N, 4, 4] Dᵀ·own_inv, where D takes last-anchor to own-anchor coordinates
    rotary: Rotary


def ray_frames(*, P: Tensor, P_inv: Tensor, reanchor: Tensor | None, rotary: Rotary) -> RayFrames:
    """P, P_inv: [B, F, N, 4, 4], each relative to the anchor at its frame.  reanchor: [B, F, 4, 4] or None.

    A move before frame 0 concerns only the memory from before the call: see `whole_move`.
    """
    P, P_inv = P.unsqueeze(1), P_inv.unsqueeze(1)
    if reanchor is None or reanchor.shape[1] == 1:
        return RayFrames(P=P, P_inv=P_inv, own_inv=None, erase=None, rotary=rotary)
    ahead = _moves_ahead(reanchor)[:, 1:].to(P)  # [B, F, 4, 4]: own anchor -> last anchor
    ahead, back = ahead[:, None, :, None], _rigid_inverse(ahead)[:, None, :, None]
    return RayFrames(
        P=_times(P, back),
        P_inv=_times(ahead, P_inv),
        own_inv=P_inv,
        erase=_times(back.mT, P_inv),
        rotary=rotary,
    )


def whole_move(reanchor: Tensor) -> Tensor:
    """All moves [B, F, 4, 4] of a call in one: takes coordinates from before the call to the last anchor."""
    return _moves_ahead(reanchor)[:, 0]


def into_query(x: Tensor, rays: RayFrames) -> Tensor:
    """x: [B, H, F, N, K]."""
    return _halves(x, rays.P.mT, rays.rotary)


def into_memory(x: Tensor, rays: RayFrames) -> Tensor:
    """Keys and values, [B, H, F, N, K]."""
    return _halves(x, rays.P_inv, rays.rotary)


def into_erase(x: Tensor, rays: RayFrames) -> tuple[Tensor | None, Tensor | None]:
    """The factor that erases, and the key relative to its own anchor; None where both equal `into_memory(x)`."""
    if rays.erase is None or rays.own_inv is None:
        return None, None
    return _halves(x, rays.erase, rays.rotary), _halves(x, rays.own_inv, rays.rotary)


def out_of_ray(x: Tensor, rays: RayFrames) -> Tensor:
    """What a query has read, back in its own channels."""
    return _halves(x, rays.P, rays.rotary, back=True)


def cap_rms(after: Tensor, before: Tensor) -> Tensor:
    """Scale `after` down where the transform has raised its RMS (what diffusers and sglang add)."""
    rms = [(x.square().mean(-1, keepdim=True) + 1e-6).sqrt() for x in (before, after)]
    return after * (rms[0] / rms[1]).clamp_max(1.0)


def move_vectors(x: Tensor, G: Tensor) -> Tensor:
    """Ĝx for x [B, H, N, K] in the memory: G [B, 4, 4] on every group of four of the first half, identity on the rest."""
    half = x.shape[-1] // 2
    moved = fours_by_sums(x[..., :half], G.to(x)[:, None, None])
    return torch.cat((moved, x[..., half:]), dim=-1)


def _halves(x: Tensor, M: Tensor, rotary: Rotary, *, back: bool = False) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((_by_fours(x[..., :half], M), rotate(x[..., half:], rotary, back=back)), dim=-1)


def _by_fours(x: Tensor, M: Tensor) -> Tensor:
    """M [B, 1, F, N, 4, 4] on every group of four channels of x [B, H, F, N, 4n]."""
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return fours_by_products(x, M)
    return fours_by_sums(x, M)


def fours_by_products(x: Tensor, M: Tensor) -> Tensor:
    """One small matrix product per token: fastest on a CPU (2.5 times the sums)."""
    x = x.permute(0, 2, 3, 1, 4).unflatten(-1, (-1, 4))  # [B, F, N, H, n, 4]
    y = x.flatten(3, 4) @ M.squeeze(1).mT
    return y.unflatten(3, x.shape[3:5]).flatten(-2).permute(0, 3, 1, 2, 4)


def fours_by_sums(x: Tensor, M: Tensor) -> Tensor:
    """The same as products and sums of whole tensors, which a compiler fuses with what stands around them."""
    x0, x1, x2, x3 = x.unflatten(-1, (-1, 4)).split(1, dim=-1)
    m0, m1, m2, m3 = M.unsqueeze(-3).unbind(-1)
    return (x0 * m0 + x1 * m1 + x2 * m2 + x3 * m3).flatten(-2)


def _moves_ahead(reanchor: Tensor) -> Tensor:
    """[B, F+1, 4, 4]: entry f is the product of the moves before frames f … F-1, the last entry the identity."""
    G = torch.eye(4, dtype=reanchor.dtype, device=reanchor.device).expand_as(reanchor[:, 0])
    out = [G]
    for move in reversed(reanchor.unbind(1)):
        G = _times(G, move)
        out.append(G)
    return torch.stack(out[::-1], dim=1)


def _rigid_inverse(m: Tensor) -> Tensor:
    """[..., 4, 4] rigid: rotation transposed, translation -Rᵀt."""
    Rt = m[..., :3, :3].mT
    top = torch.cat((Rt, -_times(Rt, m[..., :3, 3:])), dim=-1)
    return torch.cat((top, m[..., 3:, :]), dim=-2)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in full precision, whatever autocast or TF32 do to matrix products: poses need their digits."""
    return (a.unsqueeze(-1) * b.unsqueeze(-3)).sum(-2)
