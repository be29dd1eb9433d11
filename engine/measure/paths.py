"""The fixed set of flights: through every held-out world a simple and a hard minute, the same on every machine.

    simple   20 s straight out and back the same way, then 40 s at ease
    hard     a loop of 20 s that ends where it began, then 40 s of quick turns, climbs and rolls

Both are back at their first pose after 20 s. All but the loop is flown by the worlds' own player, who passes through
neither ground nor things; the loop is tried at several sizes and heights until nothing is in its way. Paths are
planned on the CPU, so that a GPU flies the same ones. Players who stare at bare ground are passed over.
In the spirit of SANA-WM-Bench (smooth and hard paths of 961 frames at 16 per second).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from engine.evaluate import is_calm, there_and_back
from engine.worlds.renderer import Renderer, Worlds

SPLITS = ("simple", "hard")
FRAMES, BACK = 961, 320  # frames of a flight; the frame at which it is back where it began
DWELL = 8  # frames for which a loop rests at its end
PLAYERS = 48  # who try each world
FAR = 8.0  # metres that a way out should lead at least
BRISK = (1.0, 12.0)  # m/s, mean over a hard flight
RADII, LIFTS = (6.0, 4.0, 9.0, 2.5), (0.0, 2.0, 5.0, 10.0, 20.0, 40.0)  # metres, of loops
KEPT = (0.6, 0.45)  # metres that the player keeps from ground and from things
THUMBNAIL = (24, 15)  # columns and rows of a look at a view
BLANK, CLOSE = (
    0.03,
    2.5,
)  # least mean change of grey between neighbouring cells; metres within which half is too much


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """One path of the set."""

    world: int  # seed
    split: str
    poses: Tensor  # fp32 [961, 4, 4] camera-to-world, on the CPU
    intrinsics: Tensor  # fp32 [961, 4] pixels

    @property
    def name(self) -> str:
        return f"{self.world}-{self.split}"


def plan(renderer: Renderer, world: int) -> tuple[Flight, Flight]:
    """The simple and the hard flight through one world. renderer: on the CPU."""
    worlds = renderer.build([world])
    poses, intrinsics = renderer.fly(
        worlds,
        index=torch.zeros(PLAYERS, dtype=torch.int64),
        seeds=[world + 64 * i for i in range(PLAYERS)],
        frames=FRAMES - BACK,
    )
    blank = blankness(renderer, worlds, poses, intrinsics)
    easy, path = _simple(poses, blank)
    hard, loop = _hard(renderer, worlds, poses, blank)
    lens = intrinsics[:, :1].expand(-1, FRAMES, -1)
    return (
        Flight(world=world, split="simple", poses=path, intrinsics=lens[easy].clone()),
        Flight(
            world=world,
            split="hard",
            poses=torch.cat((loop, poses[hard, 1:])),
            intrinsics=lens[hard].clone(),
        ),
    )


def fingerprint(flights: Sequence[Flight]) -> str:
    """Which paths these are: a hash of all poses in thousandths of a metre, and of the lenses in those of a pixel."""
    hashed = hashlib.sha256()
    for flight in flights:
        hashed.update(flight.name.encode())
        for x in (flight.poses, flight.intrinsics):
            hashed.update((x.double() * 1000).round().to(torch.int64).numpy().tobytes())
    return hashed.hexdigest()[:16]


def blankness(renderer: Renderer, worlds: Worlds, poses: Tensor, intrinsics: Tensor) -> Tensor:
    """Share of the views of flights [N, P, 4, 4], one a second, in which there is little to see: [N]."""
    (X, Y), views = THUMBNAIL, poses[:, ::16]
    scale = torch.tensor([X, X, X, Y]) / intrinsics[0, 0, [2, 2, 2, 3]] / 2  # square pixels, centred
    rgb, inverse_depth = renderer.render(
        worlds,
        index=torch.zeros(views.shape[0] * views.shape[1], dtype=torch.int64),
        poses=views.flatten(0, 1),
        intrinsics=(intrinsics[:, ::16] * scale).flatten(0, 1),
        width=X,
        height=Y,
        samples=1,
    )
    grey = rgb.float().mean(dim=-1) / 255
    change = grey.diff(dim=1).abs().mean(dim=(1, 2)) + grey.diff(dim=2).abs().mean(dim=(1, 2))
    close = (inverse_depth > 1 / CLOSE).float().mean(dim=(1, 2))
    return ((change < BLANK) | (close > 0.5)).float().view(views.shape[:2]).mean(dim=1)


def _simple(poses: Tensor, blank: Tensor) -> tuple[int, Tensor]:
    """Of players' flights [N, 641, 4, 4] the calm one whose first ten seconds are straightest, and the path made of it."""
    out = poses[:, : BACK // 2 + 1]
    away = (out[:, -1, :3, 3] - out[:, 0, :3, 3]).norm(dim=-1)
    turned = _turning(out).sum(dim=1)
    fault = turned + 10 * (away < FAR) + 100 * blank + 100 * ~is_calm(poses)
    best = int(fault.argmin())
    return best, torch.cat((there_and_back(poses[best : best + 1, : BACK + 1])[0], poses[best, 1:]))


def _hard(renderer: Renderer, worlds: Worlds, poses: Tensor, blank: Tensor) -> tuple[int, Tensor]:
    """The liveliest player who begins where a loop is free, and that loop."""
    moved = poses[:, 1:, :3, 3] - poses[:, :-1, :3, 3]
    speed = 16 * moved.norm(dim=-1).mean(dim=1)
    lively = 16 * _turning(poses).mean(dim=1) + 0.1 * 16 * moved[..., 1].abs().mean(dim=1)
    lively -= 100 * ((speed < BRISK[0]) | (speed > BRISK[1])) + 100 * blank
    for player in lively.argsort(descending=True).tolist():
        for lift, radius, side in product(LIFTS, RADII, (1.0, -1.0)):
            path = loop(poses[player, 0], radius=radius, side=side, lift=lift)
            if is_free(renderer, worlds, path):
                return player, path
    raise RuntimeError("no loop is free anywhere in this world: give the loops more radii or lifts")


def _turning(poses: Tensor) -> Tensor:
    """Angle between neighbouring frames of [N, P, 4, 4], radians [N, P - 1]."""
    R = poses[..., :3, :3].double()
    trace = (R[:, 1:] * R[:, :-1]).sum(dim=(-2, -1))
    return ((trace - 1) / 2).clamp(-1, 1).acos()


def loop(start: Tensor, *, radius: float, side: float, lift: float) -> Tensor:
    """A horizontal circle through `start` [4, 4], flown in its direction and closed after 20 s: [321, 4, 4].

    radius, lift: metres; the far side is higher by `lift`.  side: 1 turns right, -1 left. Eased at both ends, and at
    rest for the last half second. The view turns with the way; pitch and roll stay.
    """
    u = torch.linspace(0, 1, BACK + 1 - DWELL, dtype=torch.float64)
    angle = torch.cat((2 * math.pi * u * u * (3 - 2 * u), torch.zeros(DWELL, dtype=torch.float64)))
    first = start.double()
    heading = math.atan2(float(first[0, 2]), float(first[2, 2]))
    forward = torch.tensor([math.sin(heading), 0.0, math.cos(heading)], dtype=torch.float64)
    right = torch.tensor([math.cos(heading), 0.0, -math.sin(heading)], dtype=torch.float64)
    c, s = angle.cos(), angle.sin()
    turn = torch.zeros(len(angle), 3, 3, dtype=torch.float64)
    turn[:, 0, 0], turn[:, 0, 2], turn[:, 1, 1] = c, side * s, 1.0
    turn[:, 2, 0], turn[:, 2, 2] = -side * s, c
    poses = first.repeat(len(angle), 1, 1)
    poses[:, :3, :3] = turn @ first[:3, :3]
    poses[:, :3, 3] += radius * ((1 - c)[:, None] * side * right + s[:, None] * forward)
    poses[:, 1, 3] -= lift * (1 - c) / 2  # down is positive
    return poses.float()


def is_free(renderer: Renderer, worlds: Worlds, path: Tensor) -> bool:
    """Whether a path [P, 4, 4] through the only world of `worlds` keeps the player's distances."""
    index = torch.zeros(len(path), dtype=torch.int64)
    gap = renderer.clearance(worlds, index=index, points=path[:, :3, 3])
    return bool((gap[:, 0] >= KEPT[0] - 1e-3).all() and (gap[:, 1] >= KEPT[1]).all())
