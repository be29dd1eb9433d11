"""What the memory adds to decoded frames: all of its detail where it is right, nothing where it is not."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.composite import (
    ABOVE,
    APART,
    BESIDE,
    BROAD,
    CLOSE,
    DOUBT,
    FAR,
    FRESH,
    JUMP,
    LARGE,
    NARROW,
    OLD,
    REDRAWN,
    TORN,
    WORN,
    composite,
    composite_bytes,
    to_bytes,
    whole,
)
from engine.config import MEMORY
from engine.metrics import psnr, sharpness
from engine.values import mapped
from engine.warp import Warped
from kernels.composite_frames import composite_frames
from kernels.program import INSTALLED, builds
from tests.flights import distance

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
B, V, Y, X = 2, 3, 80, 112  # no multiples of `BROAD`


def picture(seed: int = 0) -> Tensor:
    """[B, V, 3, Y, X] in [-1, 1] with detail of all sizes, exact in 8 bits."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        F.interpolate(torch.randn(B * V, 3, Y // n, X // n, generator=generator), (Y, X), mode="bilinear")
        for n in (2, 8, 32)
    ]
    levels = ((0.25 * torch.stack(parts).sum(0)).clamp(-1, 1) * 127.5 + 127.5).round()
    return (levels / 127.5 - 1).unflatten(0, (B, V))


def blurred(x: Tensor) -> Tensor:
    flat = F.pad(x.flatten(0, 1), (2, 2, 2, 2), mode="reflect")
    return F.avg_pool2d(flat, 5, 1).unflatten(0, (B, V))


def seen(rgb: Tensor, **other: Tensor) -> Warped:
    """A memory that knows every pixel of `rgb`, once redrawn and as large as it was."""
    all_of = {
        "rgb": ((rgb + 1) * 127.5).round().to(torch.uint8).movedim(2, -1),
        "mask": torch.ones(B, V, Y, X, dtype=torch.uint8),
        "magnification": torch.ones(B, V, Y, X),
        "generation": torch.ones(B, V, Y, X, dtype=torch.uint8),
        "inverse_depth": torch.full((B, V, Y, X), 0.5),
    }
    return Warped(**{**all_of, **other})


DEPTH = torch.full((B, V, Y, X), 0.25)


def test_detail_that_the_decoder_lost_comes_back() -> None:
    true = picture()
    soft = blurred(true)
    shown, depth = composite(soft, DEPTH, seen(true))
    lost = sharpness(soft).mean() / sharpness(true).mean()
    assert lost < 0.4
    assert sharpness(shown).mean() / sharpness(true).mean() > 0.95
    assert psnr(shown, true).mean() > psnr(soft, true).mean() + 12
    assert torch.equal(depth, torch.full_like(depth, 0.5))


@pytest.mark.parametrize(
    ("size", "age", "told", "sharp"),
    [(CLOSE[0], 1, 1.0, 0.9), (CLOSE[1], 1, 0.0, 0.6), (1.0, FRESH[1], 0.0, 0.75), (1.0, 2, 0.5, 0.9)],
)
def test_light_is_the_models_to_decide_but_for_what_was_seen_at_first_hand(
    size: float, age: float, told: float, sharp: float
) -> None:
    """sharp: less where the detail too is of what was stretched or redrawn."""
    true = picture().clamp(-0.9, 0.9)
    darker = blurred(true) - 0.05
    memory = seen(true, magnification=torch.full((B, V, Y, X), size))
    shown, _ = composite(
        darker, DEPTH, replace(memory, generation=torch.full_like(memory.generation, int(age)))
    )
    assert float((shown - darker).mean()) == pytest.approx(0.05 * told, abs=0.005)
    assert sharpness(shown).mean() / sharpness(true).mean() > sharp


def test_a_picture_that_agrees_stays_as_it_is() -> None:
    true = picture()
    shown, _ = composite(true, DEPTH, seen(true))
    assert torch.allclose(shown, true, atol=1e-6)


def nothing_known(x: Warped) -> Warped:
    return replace(x, mask=torch.zeros_like(x.mask))


def stretched(x: Warped) -> Warped:
    return replace(x, magnification=torch.full_like(x.magnification, LARGE[1]))


def worn(x: Warped) -> Warped:
    return replace(x, generation=torch.full_like(x.generation, int(WORN[1])))


def another_place(x: Warped) -> Warped:
    return replace(x, rgb=255 - x.rgb // 64)


@pytest.mark.parametrize("spoilt", [nothing_known, stretched, worn])
def test_what_cannot_be_trusted_changes_nothing(spoilt) -> None:  # type: ignore[no-untyped-def]
    soft = blurred(picture())
    shown, depth = composite(soft, DEPTH, spoilt(seen(picture())))
    assert torch.equal(shown, soft)
    assert torch.equal(depth, DEPTH) == (spoilt is nothing_known)


def test_another_place_is_not_drawn_over_what_the_model_found() -> None:
    soft = 0.02 * blurred(picture()) - 0.98
    other = another_place(seen(picture()))
    shown, _ = composite(soft, DEPTH, other)
    assert float((other.rgb.movedim(-1, 2) / 127.5 - 1 - soft).mean()) > 2 * DOUBT
    assert (shown - soft).abs().max() < 0.02


def test_only_what_is_known_changes_and_without_a_hard_border() -> None:
    true = picture()
    soft = blurred(true)
    mask = torch.zeros(B, V, Y, X, dtype=torch.uint8)
    mask[..., : X // 2] = 1
    shown, depth = composite(soft, DEPTH, seen(true, mask=mask))
    assert torch.equal(shown[..., X // 2 :], soft[..., X // 2 :])
    assert torch.equal(depth, torch.where(mask > 0, 0.5, 0.25))
    border = (shown - soft)[..., X // 2 - 1].abs().mean()
    within = (shown - soft)[..., : X // 2 - 2].abs().mean()
    assert border < 0.75 * within


@pytest.mark.parametrize(
    ("age", "told", "right"), [(1, 0.9, True), (2, 0.9, False), (2, 0.3, True), (6, 0.3, True)]
)
def test_what_was_redrawn_at_another_distance_is_a_rest_and_goes(age: int, told: float, right: bool) -> None:
    """The decoder says 4 m: a fresh memory of 1.1 m is believed, one that was redrawn is not, nor is its colour."""
    true = picture()
    soft = blurred(true)
    rest = torch.zeros(Y, X, dtype=torch.bool)
    rest[30:50, 40:60] = True
    memory = seen(
        true,
        generation=torch.full((B, V, Y, X), age, dtype=torch.uint8),
        inverse_depth=torch.where(rest, told, 0.25).expand(B, V, Y, X),
    )
    shown, depth = composite(soft, DEPTH, memory)
    assert torch.equal(depth, memory.inverse_depth if right else DEPTH)
    inside = (..., slice(31, 49), slice(41, 59))
    assert torch.equal(shown[inside], soft[inside]) == (not right)
    assert not torch.equal(shown[..., :28, :], soft[..., :28, :])


@pytest.mark.parametrize("depth", [0.0, 0.1])
def test_where_there_are_two_pictures_they_meet_softly(depth: float) -> None:
    """Two lights, the decoder's between them: a step of 0.2 in the memory, and no step in what is shown."""
    left = torch.arange(X) < X // 2 + 1
    light = torch.where(left, 0.1, -0.1).expand(B, V, 3, Y, X)
    memory = seen(light, inverse_depth=torch.full((B, V, Y, X), depth))
    older = replace(memory, generation=torch.where(left, 1, OLD).to(torch.uint8).expand(B, V, Y, X))

    def step(x: Warped) -> float:
        shown, _ = composite(torch.zeros_like(light), DEPTH, x)
        return float(shown.diff(dim=-1).abs().max())

    assert step(memory) > 0.15
    assert step(older) < 0.06


def test_two_pictures_that_agree_in_light_keep_their_detail() -> None:
    true = 0.2 * picture()
    soft = blurred(true)
    ages = torch.where((torch.arange(X) + 2) % 24 < 12, 1, OLD).to(torch.uint8).expand(B, V, Y, X)
    young, old, both = (
        composite(soft, DEPTH, seen(true, generation=x))[0]
        for x in (torch.ones_like(ages), torch.full_like(ages, OLD), ages)
    )
    assert sharpness(both).mean() > 0.9 * (sharpness(young).mean() + sharpness(old).mean()) / 2
    patches = torch.where(ages == 1, 0.15, -0.15)[:, :, None]  # a light of its own for each age
    lit = composite(soft, DEPTH, seen((true + patches).clamp(-1, 1), generation=ages))[0]
    assert (lit - soft).abs().mean() < 0.4 * 0.15


def test_flights_do_not_see_each_other() -> None:
    soft, true = blurred(picture()), seen(picture())
    together, _ = composite(soft, DEPTH, true)
    alone, _ = composite(soft[1:], DEPTH[1:], mapped(true, lambda x: x[1:]))
    assert torch.allclose(together[1:], alone, atol=1e-6)


# --- sums of sums, and the kernels ------------------------------------------------------------------------------------


def some(size: tuple[int, int], device: str = "cpu") -> tuple[Tensor, Tensor, Warped]:
    """Frames, depth and a memory with holes, of every magnification and generation, that agrees here and there."""
    generator = torch.Generator().manual_seed(size[0])

    def random(*shape: int) -> Tensor:
        return torch.rand(B, V, *shape, generator=generator)

    rgb = (random(3, *size) * 2.4 - 1.2).clamp(-1, 1)
    other = torch.where(
        random(1, 1, 1) < 0.7, rgb + 0.2 * random(3, 1, 1) + 0.1 * random(3, *size), random(3, *size)
    )
    memory = Warped(
        rgb=to_bytes(other.clamp(-1, 1)),
        mask=(random(*size) < 0.8).to(torch.uint8),
        magnification=random(*size) * 3.5,
        generation=(random(*size) * 8).to(torch.uint8),
        inverse_depth=random(*size) * (random(1, 1) < 0.7),
    )
    memory.mask[0, 0] = 0
    memory.magnification[0, 2] = 1.5  # one picture of one age
    memory.generation[0, 2] = 1
    return rgb.to(device), random(*size).to(device), mapped(memory, lambda x: x.to(device))


def directly(rgb: Tensor, depth: Tensor, memory: Warped) -> Tensor:
    """The first lines of the module in so many words, pixel by pixel."""
    known = memory.mask.double()[:, :, None]
    e = (memory.rgb.movedim(-1, 2).double() / 127.5 - 1 - rgb) * known

    def means(cell: int, e: Tensor = e) -> Tensor:
        cells = []
        for rows, counts in zip(e.split(cell, dim=-2), known.split(cell, dim=-2), strict=True):
            parts = zip(rows.split(cell, dim=-1), counts.split(cell, dim=-1), strict=True)
            cells.append(torch.stack([a.sum((-1, -2)) / k.sum((-1, -2)).clamp_min(1) for a, k in parts], -1))
        return torch.stack(cells, dim=-2)

    def everywhere(x: Tensor) -> Tensor:
        flat = F.interpolate(x.flatten(0, 1), e.shape[-2:], mode="bilinear", align_corners=False)
        return flat.unflatten(0, (B, V))

    def falling(x: Tensor, ends: tuple[float, float]) -> Tensor:
        return ((ends[1] - x.double()) / (ends[1] - ends[0])).clamp(0, 1)[:, :, None]

    size, age = memory.magnification, memory.generation
    trust = falling(size, LARGE), falling(age, WORN)
    off = means(NARROW).abs().mean(2, keepdim=True)
    rows, columns = off.shape[-2:]
    at = NARROW * torch.arange(rows)[:, None] // BROAD, NARROW * torch.arange(columns) // BROAD
    rough = (means(NARROW) - means(BROAD)[..., at[0], at[1]]).abs().mean(2, keepdim=True)
    border, seam = torch.zeros_like(off), torch.zeros_like(off)
    for b, v, y, x in product(range(off.shape[0]), range(off.shape[1]), range(rows), range(columns)):
        cell = (b, v, slice(NARROW * y, NARROW * (y + 1)), slice(NARROW * x, NARROW * (x + 1)))
        of = memory.mask[cell] > 0
        sky = of & (memory.inverse_depth[cell] <= MEMORY.sky)
        if of.any() and age[cell][of].max() > age[cell][of].min() and age[cell][of].max() >= OLD:
            r = BESIDE // 2
            border[b, v, 0, max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1] = 1
        sizes, ages = size[cell][sky], age[cell][sky]
        if len(sizes) and (sizes.max() - sizes.min() > JUMP or ages.max() > ages.min()):
            r = ABOVE // 2
            seam[b, v, 0, max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1] = 1
    seam = F.avg_pool2d(seam.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(seam)
    roughest = F.max_pool2d(rough.flatten(0, 1), ABOVE, 1, ABOVE // 2).view_as(seam)
    seam = seam * (1 - (-((roughest / TORN[1]) ** 2)).exp())
    agree = (-((off / DOUBT) ** 2) - border * (rough / TORN[0]) ** 2).exp() * (1 - seam)
    w = known * trust[0] * trust[1] * everywhere(agree)
    around = F.avg_pool2d(w.flatten(0, 1), 3, 1, 1, count_include_pad=False).unflatten(0, (B, V))
    told, found = memory.inverse_depth.double(), depth.double()
    rest = (told - found).abs() > APART * torch.maximum(told, found) + FAR
    rest &= (memory.mask > 0) & (memory.generation >= REDRAWN)
    rests = F.conv2d(rest.flatten(0, 1)[:, None].double(), torch.ones(1, 1, 3, 3).double(), padding=1)
    believed = (1 - rests / 3).clamp(0, 1).unflatten(0, (B, V))
    at_first_hand = means(BROAD, known * falling(size, CLOSE) * falling(age, FRESH))
    light = means(BROAD) * (1 - at_first_hand)
    return (rgb + torch.minimum(w, around) * believed * (e - everywhere(light))).clamp(-1, 1)


SIZES = [(160, 256), (80, 112), (33, 63), (7, 1), (1, 1)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sums_of_sums_are_means_of_cells(size: tuple[int, int]) -> None:
    rgb, depth, memory = some(size)
    exact = directly(rgb.double(), depth, memory)
    assert distance(composite(rgb.double(), depth, memory)[0], exact) < 1e-14
    assert distance(composite(rgb, depth, memory)[0], exact) < 1e-6


def first_view(memory: Warped) -> Warped:
    return mapped(memory, lambda x: x[:, :1])


def alike(rgb: Tensor, depth: Tensor, memory: Warped) -> None:
    """The kernels and their twin against fp64: as near, and hardly a byte apart."""
    fine, where = composite(rgb.double(), depth, memory)
    exact = ((fine + 1) * 127.5).movedim(2, -1)
    twin = to_bytes(composite(rgb, depth, memory)[0])
    given = dict(seen=memory.rgb, mask=memory.mask, seen_depth=memory.inverse_depth)
    given |= dict(magnification=memory.magnification, generation=memory.generation)
    numbers = dict(cells=(BROAD, NARROW), doubt=DOUBT, close=CLOSE, fresh=FRESH, large=LARGE, worn=WORN)
    numbers |= dict(apart=(APART, FAR), sky=MEMORY.sky, redrawn=REDRAWN, whole=whole)
    colors, found = composite_frames(rgb, depth, **given, **numbers)  # type: ignore[arg-type]
    assert (colors.shape, colors.dtype) == (twin.shape, twin.dtype)
    assert torch.equal(found, where)
    assert distance(colors, exact) <= 2 * distance(twin, exact)
    apart = (colors.int() - twin.int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 1e-3


@pytest.mark.skipif(not INSTALLED, reason="needs Triton (its interpreter where no GPU is)")
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16 if DEVICE == "cuda" else torch.float16], ids=str
)
@pytest.mark.parametrize("size", SIZES if DEVICE == "cuda" else SIZES[2:], ids=str)
def test_the_kernels_equal_their_twin(size: tuple[int, int], dtype: torch.dtype) -> None:
    rgb, depth, memory = some(size, DEVICE)
    alike(rgb[:, :1].to(dtype), depth[:, :1], first_view(memory))


@pytest.mark.skipif(not INSTALLED, reason="needs Triton (its interpreter where no GPU is)")
def test_the_kernels_take_frames_as_a_decoder_leaves_them() -> None:
    """A part of more channels, channels last; what agrees everywhere stays as it is."""
    rgb, depth, memory = some((33, 35), DEVICE)
    depth, memory = depth[:, :1], first_view(memory)
    wide = torch.cat([rgb, rgb[:, :, :2]], dim=2)[:, 0].contiguous(memory_format=torch.channels_last)
    rgb = wide[:, None, :3]
    assert not rgb.is_contiguous()
    alike(rgb, depth, memory)
    alike(rgb, depth, replace(memory, rgb=to_bytes(rgb), mask=torch.ones_like(memory.mask)))


@pytest.mark.gpu
def test_on_a_gpu_kernels_make_what_is_shown() -> None:
    if DEVICE == "cpu":
        pytest.skip("no GPU")
    rgb, depth, memory = some((160, 256), DEVICE)
    assert builds(rgb.device)
    for dtype in (torch.float32, torch.bfloat16):
        alike(rgb.to(dtype), depth, memory)
        with torch.no_grad():
            colors, found = composite_bytes(rgb.to(dtype), depth, memory)
        apart = (colors.int() - to_bytes(composite(rgb.to(dtype), depth, memory)[0]).int()).abs()
        assert apart.max() <= 1
        assert torch.equal(found, composite(rgb, depth, memory)[1])
