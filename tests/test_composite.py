"""What the memory adds to decoded frames: all of its detail where it is right, nothing where it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.composite import LARGE, WORN, composite
from engine.metrics import psnr, sharpness
from engine.warp import Warped

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


def test_light_is_the_models_to_decide() -> None:
    true = picture()
    darker = (blurred(true) - 0.05).clamp(-1, 1)
    shown, _ = composite(darker, DEPTH, seen(true))
    assert abs(float((shown - darker).mean())) < 0.005
    assert sharpness(shown).mean() / sharpness(true).mean() > 0.9


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
    return replace(x, rgb=255 - x.rgb // 4)


@pytest.mark.parametrize("spoilt", [nothing_known, stretched, worn])
def test_what_cannot_be_trusted_changes_nothing(spoilt) -> None:  # type: ignore[no-untyped-def]
    soft = blurred(picture())
    shown, depth = composite(soft, DEPTH, spoilt(seen(picture())))
    assert torch.equal(shown, soft)
    assert torch.equal(depth, DEPTH) == (spoilt is nothing_known)


def test_another_place_is_not_drawn_over_what_the_model_found() -> None:
    soft = blurred(picture()) - 0.5
    shown, _ = composite(soft.clamp(-1, 1), DEPTH, another_place(seen(picture())))
    assert (shown - soft.clamp(-1, 1)).abs().max() < 0.02


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


def test_flights_do_not_see_each_other() -> None:
    soft, true = blurred(picture()), seen(picture())
    together, _ = composite(soft, DEPTH, true)
    one = Warped(**{name: getattr(true, name)[1:] for name in Warped.__slots__})
    alone, _ = composite(soft[1:], DEPTH[1:], one)
    assert torch.allclose(together[1:], alone, atol=1e-6)
