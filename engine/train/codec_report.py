"""How good a codec is on clips it has never seen, in numbers and as a sheet of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine.codec import Codec
from engine.depth import depth_code
from engine.metrics import psnr, sharpness, ssim
from engine.train.sheet import grey, save_sheet

TRIPS = 10  # to latents and back: five seconds of a memory that nothing corrects


def to_float(frames: Tensor) -> Tensor:
    """uint8 [..., Y, X, 3] → fp32 [..., 3, Y, X] in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1


def half(device: torch.device) -> torch.autocast:
    """bfloat16 products on a GPU, plain arithmetic elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _decoded(
    codec: Codec, clips: Mapping[str, Tensor], *, told: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Per clip: truth and reconstruction [P, 3, Y, X], true and decoded inverse depth [P, Y, X], without frame 0."""
    n = codec.config.frames
    for frames, depth in zip(clips["frames"], clips["inverse_depth"], strict=True):
        whole = 1 + (len(frames) - 1) // n * n
        truth, true_depth = to_float(frames[:whole]), depth[:whole].float()
        with half(truth.device):
            rgb, decoded = codec.decode_clip(
                codec.encode_clip(truth[None], true_depth[None] if told else None)
            )
        yield truth[1:], rgb[0].float(), true_depth[1:], decoded[0]


@torch.no_grad()
def evaluate_codec(
    codec: Codec, clips: Mapping[str, Tensor], *, photographs: Tensor | None = None
) -> dict[str, float]:
    """Means over clips. clips: frames uint8 [N, P, Y, X, 3] and inverse_depth [N, P, Y, X] in 1/m.

    psnr in dB; ssim; sharpness as a share of the truth's; depth_error: median of |d/d_true - 1| where there is no
    sky, and depth_shape the same after the best scale per clip; sky_as_thing and thing_as_sky: share of pixels of
    either kind mistaken for the other. blind_…: the same where the encoder was shown pictures only.
    trips_psnr, trips_sharpness: of first pictures that were encoded, standing still, and decoded ten times over.
    photographs: uint8 [N, 3, Y, X], standing still; photo_psnr, photo_ssim and photo_sharpness are theirs.
    """
    report = _means([_measure(*clip) for clip in _decoded(codec, clips, told=True)])
    blind = _means([_measure(*clip) for clip in _decoded(codec, clips, told=False)])
    report |= {f"blind_{name}": value for name, value in blind.items()}
    first = to_float(clips["frames"][:, 0])
    drawn = first
    for _ in range(TRIPS):
        drawn = standing(codec, drawn)
    report["trips_psnr"] = float(psnr(drawn, first).mean())
    report["trips_sharpness"] = float(sharpness(drawn).mean() / sharpness(first).mean().clamp_min(1e-6))
    if photographs is not None and len(photographs):
        truth = to_float(photographs.movedim(1, -1))
        drawn = standing(codec, truth)
        seen = {
            "photo_psnr": psnr(drawn, truth).mean(),
            "photo_ssim": ssim(drawn, truth).mean(),
            "photo_sharpness": sharpness(drawn).mean() / sharpness(truth).mean().clamp_min(1e-6),
        }
        report |= {name: float(value) for name, value in seen.items()}
    return report


def standing(codec: Codec, pictures: Tensor) -> Tensor:
    """Pictures [N, 3, Y, X] in [-1, 1], encoded standing still and decoded: the last of the eight frames."""
    with half(pictures.device):
        latent = codec.encode_picture(pictures)
        return codec.decode(latent, latent, last=True)[0][:, 0].float()


def _means(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    values = torch.stack([torch.stack(list(row.values())) for row in rows]).nanmean(dim=0)
    return dict(zip(rows[0], values.tolist(), strict=True))


def _measure(truth: Tensor, rgb: Tensor, depth: Tensor, decoded: Tensor) -> dict[str, Tensor]:
    thing, drawn = depth > 0, decoded > 0
    ratio = (decoded / depth.clamp_min(1e-6))[thing & drawn]
    error = (decoded / depth.clamp_min(1e-6) - 1).abs()[thing]
    return {
        "psnr": psnr(rgb, truth).mean(),
        "ssim": ssim(rgb, truth).mean(),
        "sharpness": sharpness(rgb).mean() / sharpness(truth).mean().clamp_min(1e-6),
        "depth_error": error.nanmedian(),
        "depth_shape": (ratio / ratio.nanmedian() - 1).abs().nanmedian(),
        "sky_as_thing": drawn[~thing].float().mean(),
        "thing_as_sky": (~drawn)[thing].float().mean(),
    }


@torch.no_grad()
def codec_sheet(
    path: Path,
    codec: Codec,
    clips: Mapping[str, Tensor],
    *,
    photographs: Tensor | None = None,
    columns: int = 8,
) -> None:
    """One frame of each of the first clips: truth, reconstruction, true depth, decoded depth, and that of a blind encoder.

    Below them photographs, uint8 [N, 3, Y, X], and their reconstructions.
    """
    n = codec.config.frames
    frames = to_float(clips["frames"][:columns, : 1 + n])
    depth = clips["inverse_depth"][:columns, : 1 + n].float()
    with half(frames.device):
        rgb, decoded = codec.decode_clip(codec.encode_clip(frames, depth))
        blind = codec.decode_clip(codec.encode_clip(frames))[1]
    maps = [grey(depth_code(d)) for d in (depth[:, n], decoded[:, -1], blind[:, -1])]
    rows = [frames[:, n], rgb[:, -1], *maps]
    if photographs is not None and len(photographs):
        truth = to_float(photographs[:columns].movedim(1, -1))
        rows += [truth, standing(codec, truth)]
    save_sheet(path, [row.float() for row in rows])
