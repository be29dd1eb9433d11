"""Pictures that are no worlds of ours: photographs that Python packages ship, and textures, with a camera's motion.

The photographs are those inside scikit-image and scikit-learn (extra `train`); what is not installed is left out.
A flight over a picture is a homography per frame: pan, zoom, turn and tilt. Its depth is unknown.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HEIGHT, WIDTH = 512, 768  # of every picture in a bank
HELD_OUT_PHOTOS = ("chelsea", "china", "coffee")  # never trained on
FOLDERS = (("skimage", "data"), ("sklearn", "datasets/images"))
PHOTOS = (  # with the number of crops that show most of it
    *(("astronaut", 4), ("flower", 4), ("motorcycle_left", 4), ("rocket", 4), ("camera", 3), ("hubble_deep_field", 2)),
    *(("retina", 2), ("ihc", 2), ("grass", 2), ("gravel", 2), ("brick", 2), ("coins", 2), ("moon", 1), ("page", 1)),
    *(("text", 1), ("clock_motion", 1), ("cell", 1), ("chessboard_RGB", 1)),
)  # fmt: skip


def photographs() -> dict[str, Tensor]:
    """The installed photographs by name: RGB uint8 [3, Y, X] in their own sizes."""
    wanted = {name for name, _ in PHOTOS} | set(HELD_OUT_PHOTOS)
    found: dict[str, Tensor] = {}
    for package, below in FOLDERS:
        spec = find_spec(package)
        for place in spec.submodule_search_locations or () if spec else ():
            for path in sorted((Path(place) / below).glob("*.[jp][pn]g")):
                picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) if path.stem in wanted else None
                if picture is not None:
                    found[path.stem] = torch.from_numpy(picture).permute(2, 0, 1).contiguous()
    return found


def framed(picture: Tensor, *, height: int, width: int, left: float = 0.5) -> Tensor:
    """The largest window of that shape, `left` of the way across (or down), as uint8 [3, height, width]."""
    _, y, x = picture.shape
    tall, wide = min(y, x * height // width), min(x, y * width // height)
    top, start = int((y - tall) * left), int((x - wide) * left)
    window = picture[:, top : top + tall, start : start + wide].permute(1, 2, 0).numpy()
    kind = cv2.INTER_AREA if tall > height else cv2.INTER_CUBIC
    return torch.from_numpy(
        cv2.resize(np.ascontiguousarray(window), (width, height), interpolation=kind)
    ).permute(2, 0, 1)


def held_out_photographs(height: int, width: int) -> Tensor:
    """Photographs to measure on, uint8 [N, 3, height, width]; N is 0 where no package is installed."""
    found = photographs()
    pictures = [framed(found[n], height=height, width=width) for n in HELD_OUT_PHOTOS if n in found]
    return torch.stack(pictures) if pictures else torch.zeros(0, 3, height, width, dtype=torch.uint8)


def bank(textures: int, *, generator: torch.Generator) -> Tensor:
    """Photographs, then that many textures, uint8 [K, 3, 512, 768] on the generator's device."""
    found, device = photographs(), generator.device
    crops = [
        framed(found[name], height=HEIGHT, width=WIDTH, left=i / max(1, count - 1) if count > 1 else 0.5)
        for name, count in PHOTOS
        if name in found
        for i in range(count)
    ]
    drawn = [texture(i, generator=generator) for i in range(textures)]
    every = [*(crop.to(device) for crop in crops), *drawn]
    return torch.stack(every) if every else torch.zeros(0, 3, HEIGHT, WIDTH, dtype=torch.uint8, device=device)


def _noise(count: int, octaves: int, fall: float, generator: torch.Generator) -> Tensor:
    """Fractal noise of `count` planes, about normal: [count, 512, 768]."""
    total = torch.zeros(count, HEIGHT, WIDTH, device=generator.device)
    for o in range(octaves):
        size = (2 * 2**o + 1, 3 * 2**o + 1)
        grid = torch.randn(1, count, *size, generator=generator, device=generator.device)
        total += fall**o * F.interpolate(grid, (HEIGHT, WIDTH), mode="bicubic", align_corners=True)[0]
    return total / total.std(dim=(1, 2), keepdim=True)


def _writing(rows: int, generator: torch.Generator) -> Tensor:
    """Lines of made-up letters, 1 ink and 0 paper: [512, 768]."""
    device, columns = generator.device, rows * 2
    strokes = torch.rand(rows, columns, 7, 5, generator=generator, device=device) < 0.45
    words = torch.rand(rows, columns, 1, 1, generator=generator, device=device) < 0.82
    cell = F.pad((strokes & words).float(), (1, 1, 3, 3))  # [rows, columns, 13, 7]
    page = cell.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    return F.interpolate(page[None, None], (HEIGHT, WIDTH), mode="nearest")[0, 0]


def _pattern(kind: int, generator: torch.Generator) -> Tensor:
    """A share in [0, 1] of the first colour over the second, [512, 768]: see `texture`."""
    device = generator.device
    a, b, c = (float(v) for v in torch.rand(3, generator=generator, device=device))
    soft, fine = _noise(2, 7, 0.4 + 0.4 * a, generator)
    y, x = torch.meshgrid(
        torch.arange(HEIGHT, device=device), torch.arange(WIDTH, device=device), indexing="ij"
    )
    turn, period = math.pi * b, 8 * 2 ** (3 * c)
    u = (x * math.cos(turn) + y * math.sin(turn)) / period + 0.6 * a * soft
    v = (y * math.cos(turn) - x * math.sin(turn)) / period + 0.6 * a * fine
    if kind == 0:
        return soft.mul(0.4).add(0.5)
    if kind == 1:  # islands and cracks
        return torch.sigmoid(12 * (soft if a < 0.5 else soft.abs() - 0.4))
    if kind == 2:  # stripes
        return torch.sigmoid(8 * torch.sin(2 * math.pi * u))
    if kind == 3:  # tiles
        return torch.sigmoid(8 * torch.sin(math.pi * u) * torch.sin(math.pi * v))
    if kind == 4:  # dots
        return torch.sigmoid(14 * (0.3 - torch.hypot(u - u.round(), v - v.round())))
    return _writing(int(10 + 22 * c), generator)


def texture(index: int, *, generator: torch.Generator) -> Tensor:
    """Noise, islands, stripes, tiles, dots or writing, by turns, in two colours with grain: uint8 [3, 512, 768]."""
    share = _pattern(index % 6, generator).clamp(0, 1)
    light, dark = torch.rand(2, 3, 1, 1, generator=generator, device=generator.device)
    amount = 0.12 * torch.rand(3, 1, 1, generator=generator, device=generator.device)
    colour = dark + (light - dark) * share + amount * _noise(3, 8, 0.75, generator)
    return colour.clamp(0, 1).mul(255).to(torch.uint8)


def _maps(count: int, frames: int, generator: torch.Generator) -> Tensor:
    """A homography per frame, [count, frames, 3, 3], from the frame's [-1, 1] to centred pixels of the frame's scale.

    Pan, turn, zoom and tilt change evenly over the clip; one clip in three stands still.
    """
    device = generator.device

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, 1, generator=generator, device=device)

    time = torch.linspace(-0.5, 0.5, frames, device=device)
    moves = (torch.rand(count, 1, generator=generator, device=device) > 1 / 3).float()
    scale = frames / 17 * moves  # the speeds below are per 17 frames, about a second
    turn = 0.15 * normal() + 0.25 * normal() * scale * time
    zoom = torch.exp(0.25 * normal() * scale * time)
    tilt = (0.08 * normal(2) + 0.08 * normal(2) * scale[:, None] * time).unbind(1)
    pan = (0.6 * normal(2) * scale[:, None] * time).unbind(1)
    one, zero = torch.ones_like(turn), torch.zeros_like(turn)
    rows = (
        *(zoom * turn.cos(), -zoom * turn.sin(), pan[0]),
        *(zoom * turn.sin(), zoom * turn.cos(), pan[1]),
        *(tilt[0].clamp(-0.2, 0.2), tilt[1].clamp(-0.2, 0.2), one + zero),
    )
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def fly_over(
    pictures: Tensor, *, count: int, frames: int, height: int, width: int, generator: torch.Generator
) -> Tensor:
    """Clips of random pictures, fp32 [count, frames, 3, height, width] in [-1, 1].

    pictures: uint8 [K, 3, Y, X]. A pixel shows about one pixel of the picture, or two of them averaged.
    """
    device = generator.device
    which = torch.randint(len(pictures), (count,), generator=generator, device=device)
    chosen = pictures[which].float() / 127.5 - 1
    half = torch.rand(count, 1, 1, 1, generator=generator, device=device) < 0.6
    smooth = F.avg_pool2d(F.pad(chosen, (0, 1, 0, 1), mode="replicate"), 2, stride=1)
    chosen = torch.where(half, smooth, chosen)  # as wide as two pixels, so that every second may be taken
    step = torch.where(half, 2.0, 1.0).view(count, 1, 1)
    size = torch.tensor([width / pictures.shape[-1], height / pictures.shape[-2]], device=device)
    room = (1 - step * size).clamp_min(0)
    centre = room * (2 * torch.rand(count, 1, 2, generator=generator, device=device) - 1)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=device),
        torch.linspace(-1, 1, width, device=device),
        indexing="ij",
    )
    aspect = torch.tensor(
        [1.0, height / width], device=device
    )  # turns are turns only where both axes are alike
    rays = torch.stack((x * aspect[0], y * aspect[1], torch.ones_like(x)), dim=-1).flatten(0, 1)  # [Y·X, 3]
    seen = rays @ _maps(count, frames, generator).flatten(0, 1).mT
    seen = (seen[..., :2] / seen[..., 2:]) / aspect
    grid = seen.unflatten(0, (count, frames)) * (step * size)[:, None] + centre[:, None]
    grid = grid.unflatten(2, (height, width)).flatten(1, 2)  # all frames of a clip below each other
    clips = F.grid_sample(chosen, grid, padding_mode="reflection", align_corners=False)
    return _tinted(clips.unflatten(2, (frames, height)).transpose(1, 2), generator)


def _tinted(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Other light: brightness and contrast of each channel, the order of channels, mirrored left and right."""
    count, device = len(clips), generator.device
    order = torch.rand(count, 3, generator=generator, device=device).argsort(dim=1)
    keeps = torch.rand(count, 1, generator=generator, device=device) < 0.6
    order = torch.where(keeps, torch.arange(3, device=device), order)
    clips = clips.gather(2, order[:, None, :, None, None].expand(-1, clips.shape[1], -1, *clips.shape[3:]))
    gain = 1 + 0.2 * torch.randn(count, 1, 3, 1, 1, generator=generator, device=device)
    shift = 0.12 * torch.randn(count, 1, 3, 1, 1, generator=generator, device=device)
    mirrored = torch.rand(count, 1, 1, 1, 1, generator=generator, device=device) < 0.5
    return torch.where(mirrored, clips.flip(-1), clips).mul(gain).add(shift).clamp(-1, 1)
