"""Paths flown as a pilot flies them who keeps off the ground: over what has been invented in their way, and back to them.

Paths of the fixed set are free in the true world. What a model invents beyond its first picture stands elsewhere, and
behind the surface of an invented hill there is nothing to be seen.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from engine.camera import Intrinsics, Pose
from engine.clearance import Surroundings, surfaces
from engine.detour import detours


class Lifted:
    """N flights under way. `poses` are those that are flown: so far, and of the coming chunk."""

    def __init__(self, poses: Tensor, intrinsics: Tensor) -> None:
        """poses: [N, P, 4, 4], what is wanted.  intrinsics: [N, P, 4] pixels, of centred lenses."""
        self.wanted = [[Pose.from_matrix(m) for m in path] for path in poses.double().cpu().numpy()]
        self.poses = poses.clone()
        self._lenses = intrinsics[:, 0].double().cpu().numpy()
        self._at = [path[0] for path in self.wanted]
        self._around = [Surroundings()] * len(self.wanted)

    def see(self, frame: int, inverse_depth: Tensor, *, chunk: int) -> None:
        """From what frame `frame` of all flights shows, [N, Y, X] in 1/m, decide on the poses of the next `chunk` frames."""
        stop = min(frame + 1 + chunk, self.poses.shape[1])
        for i, seen in enumerate(inverse_depth.float().cpu().numpy()):
            fx, fy, cx, cy = self._lenses[i]
            lens = Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy, width=seen.shape[1], height=seen.shape[0])
            around = self._around[i].seeing(surfaces(seen, self._at[i], lens))
            before, *wanted = self.wanted[i][frame:stop]
            flown = detours(self._at[i], before, wanted, around.points)
            self._around[i] = around
            if flown:
                self._at[i] = flown[-1]
                self.poses[i, frame + 1 : stop] = self.poses.new_tensor(np.stack([p.matrix for p in flown]))
