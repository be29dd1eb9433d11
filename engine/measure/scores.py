"""What is measured of flights, one record of plain numbers per flight, so that it can be kept and added up later."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from os import cpu_count
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.codec import Codec
from engine.evaluate import chunk_scores, commanded, movement, seen_first
from engine.measure.collapse import collapse
from engine.measure.film import Film, Shown
from engine.measure.frechet import moments
from engine.measure.odometry import EVERY, track
from engine.measure.paths import BACK, DWELL, Flight
from engine.measure.pose_error import pose_error
from engine.measure.visible import masked_psnr, visible
from engine.metrics import psnr, sharpness
from engine.train.codec_report import half, to_float
from engine.warp import warp
from engine.words import WORDS

CHUNKS = (1, 2, 4, 8, 12, 16, 20, 40, 80, 120)  # reported
SEEN = (8, 20)  # of them: in which the pixels of the first picture are measured alone
NEW_FROM, NEW_EVERY = 20, 2  # chunks whose new areas are compared with true ones
NEW_SHARE = 0.05  # a cell is new if at most this much of it was in the first picture
END = 32  # last frames of a flight, in which it is asked whether it collapsed
TURN_SLICE = 96  # frames between which movements are measured at a time

Record = dict[str, Any]


def records(
    flights: list[Flight],
    shown: Shown,
    made: Film,
    forgetful: Film | None,
    lifted: Film,
    *,
    codec: Codec,
    told: bool = True,
) -> list[Record]:
    """Everything of a batch.

    made: as flown.  forgetful: the same with memory off, None where there is none.  lifted: kept off what is generated.

    told: whether they were flown with the depth of their first pictures.
    """
    films = {"on": made} | ({"off": forgetful} if forgetful else {})
    out: list[Record] = [
        {
            "world": f.world,
            "split": f.split,
            "biome": WORDS[int(words[0])],
            "fps": made.fps,
            "chunks": {},
        }
        for f, words in zip(flights, shown.truth.words, strict=True)
    ]
    for chunk in CHUNKS:
        if 8 * chunk < made.frames.shape[1]:
            _spread(out, "chunks", chunk, _chunk(shown, made, codec, chunk, told=told))
    for name, flown in films.items():
        _spread(out, "revisit", name, {"psnr": revisit(flown.frames, [f.split for f in flights])})
    for name, found in _new_areas(shown, films, codec).items():
        for record, value in zip(out, found, strict=True):
            record.setdefault("new", {})[name] = value
    whole = {"made": made, "lifted": lifted}
    ends = {name: film.frames for name, film in whole.items()} | {"true": shown.truth.frames}
    turns = _turns(shown, whole)
    for i, (record, poses) in enumerate(zip(out, _poses(shown, whole), strict=True)):
        record["turn"] = {name: series[i].tolist() for name, series in turns.items()}
        record["pose"] = poses
        record["end"] = {name: collapse(to_float(video[i, -END::EVERY])) for name, video in ends.items()}
        record["end_sharpness"] = {
            name: float(sharpness(to_float(video[i, -8:])).mean()) for name, video in ends.items()
        }
        record["detour"] = float((lifted.poses[i] - made.poses[i])[:, :3, 3].norm(dim=-1).mean())
    return out


def _spread(out: list[Record], kind: str, name: object, values: dict[str, Tensor]) -> None:
    """Give every record its own of the batch's values [N]."""
    for i, record in enumerate(out):
        record.setdefault(kind, {})[str(name)] = {key: float(value[i]) for key, value in values.items()}


def _chunk(shown: Shown, made: Film, codec: Codec, chunk: int, *, told: bool) -> dict[str, Tensor]:
    """Scores of the eight frames that end at chunk / 2 seconds, each [N]."""
    truth, part = shown.truth, slice(8 * chunk - 7, 8 * chunk + 1)
    generated = to_float(made.frames[:, part])
    scores = chunk_scores(generated, codec, truth, chunk)
    if chunk not in SEEN:
        return scores
    mask = _mask(shown, part)
    first = truth.frames[:, 0], truth.poses[:, 0], truth.intrinsics[:, 0]
    seen = seen_first(codec, *first, inverse_depth=truth.known(told))
    drawn = warp(seen, truth.poses[:, part], truth.intrinsics[:, part]).rgb
    true = to_float(truth.frames[:, part])
    return scores | {
        "visible_share": mask.float().mean(dim=(1, 2, 3)),
        "visible_psnr": masked_psnr(generated, true, mask).nanmean(dim=1),
        "warp_only_visible_psnr": masked_psnr(to_float(drawn), true, mask).nanmean(dim=1),
    }


def _mask(shown: Shown, part: slice) -> Tensor:
    """Which pixels of these frames the first picture shows: [N, V, Y, X]."""
    truth = shown.truth
    return visible(
        shown.inverse_depth[:, part],
        truth.poses[:, part],
        truth.intrinsics[:, part],
        first_depth=shown.inverse_depth[:, 0],
        first_pose=truth.poses[:, 0],
        first_intrinsics=truth.intrinsics[:, 0],
    )


def revisit(frames: Tensor, splits: list[str]) -> Tensor:
    """PSNR [N] between what was seen at the start and what is seen there again after 20 s, over eight frames.

    frames: uint8 [N, P, Y, X, 3].  A simple flight comes back the way it went; a hard one rests at its first pose.
    """
    ahead = torch.arange(DWELL)
    before = {"simple": ahead, "hard": torch.zeros_like(ahead)}
    rows = [
        psnr(to_float(video[BACK - ahead]), to_float(video[before[s]])).mean()
        for video, s in zip(frames, splits, strict=True)
    ]
    return torch.stack(rows)


@torch.inference_mode()
def _new_areas(shown: Shown, films: dict[str, Film], codec: Codec) -> dict[str, list[Record]]:
    """Moments of the latents of cells that the first picture did not show, per flight: true, and of every film."""
    n, stride = codec.config.frames, codec.config.stride
    videos = {"true": shown.truth.frames} | {name: f.frames for name, f in films.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in videos}
    isnew: list[Tensor] = []
    for chunk in range(NEW_FROM + 1, (shown.truth.frames.shape[1] - 1) // n + 1, NEW_EVERY):
        part = slice(n * chunk - n + 1, n * chunk + 1)
        mask = _mask(shown, slice(n * chunk, n * chunk + 1)).float()
        isnew.append(F.avg_pool2d(mask, stride)[:, 0] <= NEW_SHARE)  # [N, h, w]
        for name, video in videos.items():
            with half(video.device):
                z = codec.encode(to_float(video[:, part]).to(codec.mean.dtype))
            found[name].append(z.float().movedim(1, -1))  # [N, h, w, C]
    new = torch.stack(isnew, dim=1)
    return {
        name: [moments(z[m]).record() for z, m in zip(torch.stack(zs, dim=1), new, strict=True)]
        for name, zs in found.items()
    }


def _turns(shown: Shown, films: dict[str, Film]) -> dict[str, Tensor]:
    """Sideways movement of the pictures and the one that the commanded yaw asks for, in pixels per two frames [N, P - 3]."""
    truth = shown.truth
    out = {name: _movement(f.frames) for name, f in films.items()} | {"true": _movement(truth.frames)}
    return out | {"command": commanded(truth, truth.poses.shape[1] - 1).cpu()}


def _movement(video: Tensor) -> Tensor:
    """Of frames 1 … of uint8 [N, P, Y, X, 3], a slice at a time."""
    stops = range(1, video.shape[1] - 2, TURN_SLICE)
    return torch.cat([movement(to_float(video[:, at : at + TURN_SLICE + 2])) for at in stops], dim=1).cpu()


def _poses(shown: Shown, films: dict[str, Film]) -> list[Record]:
    """Errors of the estimated paths: of the generated films, and of the true ones with true depth (the estimator's own)."""
    truth = shown.truth
    given = {name: (f.frames, f.inverse_depth, f.poses) for name, f in films.items()}
    given["estimator"] = truth.frames, shown.inverse_depth[:, ::EVERY], truth.poses

    def of(asked: tuple[int, str]) -> Record:
        i, name = asked
        video, depth, poses = given[name]
        flown = poses[i, ::EVERY].double().cpu().numpy()
        lens = truth.intrinsics[i, 0].cpu().numpy()
        found = track(video[i].cpu().numpy(), depth[i].float().cpu().numpy(), lens)
        return asdict(pose_error(found.poses, flown)) | {"solved": found.solved}

    every = [(i, name) for i in range(len(truth.poses)) for name in given]
    with ThreadPoolExecutor(cpu_count()) as pool, _one_thread_each():
        errors = dict(zip(every, pool.map(of, every), strict=True))
    return [{name: errors[i, name] for name in given} for i in range(len(truth.poses))]


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Where there is a thread for every film, OpenCV needs none of its own: they would only wait for each other."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
