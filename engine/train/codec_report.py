"""How good a codec is on clips it has never seen, in numbers and as a sheet of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from engine.codec import SKY_CODE, Codec, depth_code
from engine.metrics import psnr, sharpness, ssim
from engine.train.sheet import grey, save_sheet


def to_float(frames: Tensor) -> Tensor:
    """uint8 [..., Y, X, 3] → fp32 [..., 3, Y, X] in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1


def _half(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _decoded(codec: Codec, clips: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Per clip: truth and reconstruction [P, 3, Y, X], true and decoded inverse depth [P, Y, X], without frame 0."""
    n = codec.config.frames
    for frames, depth in zip(clips["frames"], clips["inverse_depth"], strict=True):
        whole = 1 + (len(frames) - 1) // n * n
        truth = to_float(frames[:whole])
        with _half(truth.device):
            rgb, decoded = codec.decode_clip(codec.encode_clip(truth[None]))
        yield truth[1:], rgb[0].float(), depth[1:whole].float(), decoded[0]


@torch.no_grad()
def evaluate_codec(codec: Codec, clips: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over clips. clips: frames uint8 [N, P, Y, X, 3] and inverse_depth [N, P, Y, X] in 1/m.

    psnr in dB; ssim; sharpness as a share of the truth's; depth_error: median of |d/d_true - 1| where there is no
    sky; sky_as_thing and thing_as_sky: share of pixels of either kind mistaken for the other.
    """
    rows = [_measure(*clip) for clip in _decoded(codec, clips)]
    values = torch.stack([torch.stack(list(row.values())) for row in rows]).nanmean(dim=0)
    return dict(zip(rows[0], values.tolist(), strict=True))


def _measure(truth: Tensor, rgb: Tensor, depth: Tensor, decoded: Tensor) -> dict[str, Tensor]:
    sky = depth_code(depth) < SKY_CODE
    error = (decoded / depth.clamp_min(1e-6) - 1).abs()
    return {
        "psnr": psnr(rgb, truth).mean(),
        "ssim": ssim(rgb, truth).mean(),
        "sharpness": sharpness(rgb).mean() / sharpness(truth).mean().clamp_min(1e-6),
        "depth_error": error[~sky].nanmedian(),
        "sky_as_thing": (decoded[sky] > 0).float().mean(),
        "thing_as_sky": (decoded[~sky] == 0).float().mean(),
    }


@torch.no_grad()
def codec_sheet(path: Path, codec: Codec, clips: Mapping[str, Tensor], *, columns: int = 8) -> None:
    """One frame of each of the first clips: truth, reconstruction, true depth, decoded depth."""
    n = codec.config.frames
    frames = to_float(clips["frames"][:columns, : 1 + n])
    with _half(frames.device):
        rgb, decoded = codec.decode_clip(codec.encode_clip(frames))
    truth_depth = depth_code(clips["inverse_depth"][:columns, n].float())
    rows = [frames[:, n], rgb[:, -1], grey(truth_depth), grey(depth_code(decoded[:, -1]))]
    save_sheet(path, [row.float() for row in rows])
