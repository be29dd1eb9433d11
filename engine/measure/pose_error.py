"""How far an estimated camera path lies from the true one: RotErr, TransErr, CamMC as SANA-WM-Bench defines them. Pure.

Both paths are taken relative to their first pose; the estimate is aligned by one rotation, scale and shift, fitted on
extrinsics [R | t] (world to camera):

    M = mean(R_trueᵀ R_est) = U S Vᵀ,  A = V Uᵀ
    a = R_estᵀ t_est,  b = R_estᵀ t_true,  s = cov(a, b) / var(a),  T = mean b - s mean a
    R' = R_est A,  t' = R_est T + s t_est
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseError:
    """Means over the frames of one flight."""

    rotation: float  # degrees
    translation: float  # metres between camera centres, after alignment
    matrix: float  # Frobenius norm of the difference of [R | t], camera to world


def pose_error(estimated: Array, true: Array) -> PoseError:
    """Paths [P, 4, 4], camera to world, of the same frames."""
    if estimated.shape != true.shape or estimated.shape[1:] != (4, 4):
        raise ValueError(f"paths of shapes {estimated.shape} and {true.shape}: both must be [P, 4, 4]")
    E, G = _from_first(estimated), _from_first(true)
    world_to_camera = _aligned(np.linalg.inv(E).astype(np.float64), np.linalg.inv(G).astype(np.float64))
    found = np.linalg.inv(world_to_camera)
    trace = np.einsum("pij,pij->p", G[:, :3, :3], found[:, :3, :3])
    apart = found[:, :3] - G[:, :3]
    return PoseError(
        rotation=float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))).mean()),
        translation=float(np.linalg.norm(apart[:, :, 3], axis=1).mean()),
        matrix=float(np.linalg.norm(apart, axis=(1, 2)).mean()),
    )


def _from_first(path: Array) -> Array:
    out: Array = np.linalg.inv(path[0]) @ path
    return out


def _aligned(estimated: Array, true: Array) -> Array:
    """Extrinsics `estimated` after the similarity that brings them closest to `true`."""
    R, t = estimated[:, :3, :3], estimated[:, :3, 3]
    U, _, Vt = np.linalg.svd(np.einsum("pji,pjk->ik", true[:, :3, :3], R) / len(R))
    A = Vt.T @ U.T
    a, b = np.einsum("pji,pj->pi", R, t), np.einsum("pji,pj->pi", R, true[:, :3, 3])
    da, db = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = (da * db).mean() / max((da * da).mean(), 1e-12)
    shift = b.mean(axis=0) - scale * a.mean(axis=0)
    out = estimated.copy()
    out[:, :3, :3] = R @ A
    out[:, :3, 3] = R @ shift + scale * t
    return out
