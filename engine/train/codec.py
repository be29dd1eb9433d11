"""Train the codec of `pocket`: reconstruction, then a short adversarial polish of the decoder, then int8 export.

    python -m engine.train.codec --minutes 4.5 --polish-minutes 1 --out runs/codec

`--init` trains a codec on whose latents a world is flown already: they are kept to where they are.
Under torchrun every process renders its own clips and gradients are averaged.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from engine.checkpoint import save_module
from engine.codec import Codec, Encoder, chunks_of, load_codec
from engine.config import POCKET_CODEC, CodecConfig
from engine.depth import UNKNOWN
from engine.train.adversary import Adversary
from engine.train.codec_report import codec_sheet, evaluate_codec, to_float
from engine.train.host import Host, host
from engine.train.loop import Loop, Plan, Stateful
from engine.train.losses import hinge_fool, hinge_judge, reconstruction_loss
from engine.train.optim import Ema, OptimConfig, Optimiser
from engine.train.pictures import bank, fly_over, held_out_photographs

NOISE = 0.15  # on raw latents while the encoder learns
POLISH_NOISE = 0.3  # upper end while the decoder is polished: it must bear a world model's errors
SHRINK = 5e-4  # weight of the mean square of raw latents
ADVERSARIAL = 0.03  # weight of the adversary, reached between these shares of the polish:
RAMP = (0.08, 0.16)
SLICE = 192  # clips rendered in one go: players are slow one by one, not together; 6 GB
BLIND, BLIND_START = (
    0.4,
    0.6,
)  # shares of clips told no depth at all; and up to here none of their first picture
RECONSTRUCT = OptimConfig(muon=0.02, adam=1e-3, momentum=0.9, warmup=0.02, decay=0.6)
ON = replace(RECONSTRUCT, muon=0.006, adam=3e-4, decay=0.8)  # from weights that are good already
POLISH = OptimConfig(adam=1.5e-4, betas=(0.5, 0.95), warmup=0.02, decay=0.3)
CRITIC = replace(POLISH, adam=3e-4)


@dataclass(frozen=True, kw_only=True)
class CodecTraining:
    """Train the codec on rendered flights. Ctrl-C saves; the same command continues."""

    out: Path = Path("runs/codec")
    """folder for state, metrics, sample sheets and, at the end, codec.safetensors and codec.json"""
    init: Path | None = None
    """codec to train on, whose latents keep their meaning; instead of random weights"""
    keep: float = 0.2
    """with `init`: weight of the mean square by which latents leave those of that codec, in standard deviations"""
    minutes: float = 4.5
    """wall clock of the reconstruction stage, compilation included"""
    polish_minutes: float = 1.0
    """wall clock of the adversarial polish of the decoder; 0: none"""
    steps: int | None = None
    """count steps of the reconstruction instead of minutes"""
    polish_steps: int | None = None
    """count steps of the polish instead of minutes"""
    clips: int = 1700
    """clips to render per process; 1700 of 145 frames take 50 GB of GPU memory"""
    clip_frames: int = 145
    """frames per rendered clip"""
    held_out: int = 12
    """clips to measure on, never trained on"""
    batch: int = 24
    """clips per step and process"""
    pictures: float = 0.125
    """share of a batch that flies over photographs and textures instead of worlds; their depth is unknown"""
    textures: int = 96
    """procedural textures drawn beside the photographs of the extra `train`"""
    chunks: int = 2
    """chunks cut from a clip per step, after its first frame"""
    seed: int = 0
    """of weights, clips and noise"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """where to train"""
    compile: bool = True
    """compile encoder, decoder and loss on a GPU"""
    warm_only: bool = False
    """fill the compiler's cache and leave: the command itself does so in a second process while worlds are rendered"""
    codec: CodecConfig = POCKET_CODEC
    """sizes of the codec"""

    def __post_init__(self) -> None:
        needed = 1 + self.codec.frames * self.chunks
        if self.clip_frames < needed:
            raise ValueError(
                f"clip_frames={self.clip_frames} is shorter than the {needed} frames of one example"
            )
        for name in ("clips", "held_out", "batch", "chunks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.pictures < 1:
            raise ValueError(f"pictures={self.pictures} is a share of the batch: 0 or more, below 1")
        if self.keep < 0:
            raise ValueError(f"keep={self.keep} is a weight: 0 or more")
        if not self.codec.sky:
            raise ValueError("codec.sky=False is the form of the first weights, which is no longer trained")

    @property
    def over_pictures(self) -> int:
        """Clips per batch that fly over pictures."""
        return min(round(self.batch * self.pictures), self.batch - 1)


Clips = Mapping[str, Tensor]  # frames uint8 [N, P, Y, X, 3], inverse_depth fp16 [N, P, Y, X] in 1/m


def cut(clips: Clips, *, batch: int, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random stretches of random clips: pictures fp32 [B, P, 3, Y, X] in [-1, 1], inverse depth fp32 [B, P, Y, X]."""
    count, length = clips["frames"].shape[:2]
    draw = partial(torch.randint, size=(batch, 1), generator=generator, device=generator.device)
    clip, first = draw(high=count), draw(high=length - frames + 1)
    time = first + torch.arange(frames, device=first.device)
    return to_float(clips["frames"][clip, time]), clips["inverse_depth"][clip, time].float()


def told(inverse_depth: Tensor, generator: torch.Generator) -> Tensor:
    """What the encoder learns of depth [B, P, Y, X]: nothing in some clips, all but the first picture in others, or all."""
    draw = torch.rand(len(inverse_depth), 1, 1, 1, generator=generator, device=inverse_depth.device)
    first = torch.arange(inverse_depth.shape[1], device=inverse_depth.device).view(-1, 1, 1) == 0
    return inverse_depth.masked_fill((draw < BLIND) | (first & (draw < BLIND_START)), UNKNOWN)


class Trainee:
    """The codec being trained with its compiled parts: compiled once, for the shapes of both stages."""

    def __init__(
        self, codec: Codec, options: CodecTraining, host: Host, pictures: Tensor | None = None
    ) -> None:
        self.codec, self.options, self.host = codec, options, host
        self.pictures = pictures  # uint8 [K, 3, Y', X'], larger than a frame
        shrink: Callable[[Any], Any] = (
            (lambda f: torch.compile(f, dynamic=False))
            if options.compile and host.device.type == "cuda"
            else (lambda f: f)
        )
        self.encoder, self.decoder, self.loss = map(
            shrink, (codec.encoder, codec.decoder, reconstruction_loss)
        )

    def half(self) -> torch.autocast:
        return torch.autocast(self.host.device.type, torch.bfloat16, enabled=self.host.device.type == "cuda")

    def batch(self, clips: Clips, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures [B, P, 3, Y, X] and inverse depth [B, P, Y, X] of worlds, and of flights over pictures behind them."""
        o, c = self.options, self.options.codec
        count = o.over_pictures if self.pictures is not None and len(self.pictures) else 0
        length = 1 + c.frames * o.chunks
        frames, depth = cut(clips, batch=o.batch - count, frames=length, generator=generator)
        if not count or self.pictures is None:
            return frames, depth
        flown = fly_over(
            self.pictures, count=count, frames=length, height=c.height, width=c.width, generator=generator
        )
        unknown = depth.new_full((count, *depth.shape[1:]), UNKNOWN)
        return torch.cat((frames, flown)), torch.cat((depth, unknown))

    def encode(self, frames: Tensor, inverse_depth: Tensor, *, by: Encoder | None = None) -> Tensor:
        """[B, 1 + 8n, 3, Y, X] and the depth told, [B, 1 + 8n, Y, X] → raw latents [B, 1 + n, C, h, w], the first static.

        by: another encoder than the one being trained.
        """
        n = self.options.codec.frames
        chunks, depth = chunks_of(frames, n), chunks_of(inverse_depth, n)
        with self.half():
            encode = self.encoder if by is None else by  # a compiled module has no truth of its own
            return encode(chunks.flatten(0, 1), depth.flatten(0, 1)).unflatten(0, chunks.shape[:2])

    def decode(self, raw: Tensor) -> Tensor:
        """Raw latents [B, 1 + n, C, h, w] → pictures, depth codes and sky logits [B, 8n, 5, Y, X]."""
        with self.half():
            out = self.decoder(raw[:, :-1].flatten(0, 1), raw[:, 1:].flatten(0, 1))
        return out.unflatten(0, (raw.shape[0], -1)).flatten(1, 2)

    def flop(self) -> float:
        """Floating-point operations of one training step over all processes: forward, and twice that backward."""
        o = self.options
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            meta = Codec(o.codec)
            picture = torch.zeros(1, o.codec.frames, 3, o.codec.height, o.codec.width)
            meta.encoder(picture, picture[:, :, 0])
            encode = counter.get_total_flops()
            meta.decoder(*[torch.zeros(1, o.codec.latent_channels, *o.codec.grid)] * 2)
            decode = counter.get_total_flops() - encode
        return 3.0 * self.host.world * o.batch * ((o.chunks + 1) * encode + o.chunks * decode)


def moved(before: Codec, raw: Tensor, old: Tensor) -> Tensor:
    """Mean square by which raw latents [..., C, h, w] differ from those of the codec before, in its standard deviations."""
    return ((raw.float() - old.float()) / before.std.view(-1, 1, 1)).square().mean()


def _gaussian(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _plan(trainee: Trainee, *, name: str, minutes: float, steps: int | None, flop: float = 0.0) -> Plan:
    o = trainee.options
    units = trainee.host.world * o.batch * (o.chunks + 1)
    return Plan(out=o.out, name=name, minutes=minutes, steps=steps, units=units, flop=flop)


def reconstruct(trainee: Trainee, clips: Clips, sheet: Callable[[Codec, str], None]) -> Codec:
    """Stage one: encoder and decoder together. Returns the averaged codec."""
    o, codec = trainee.options, trainee.codec
    ends = ("encoder.stem.weight", "encoder.head.weight", "decoder.head.weight")
    optimiser = Optimiser(codec, ON if o.init else RECONSTRUCT, adam=lambda name: name in ends)
    ema = Ema(codec, decay=0.998)
    before = copy.deepcopy(codec).requires_grad_(False) if o.init else None

    def step(i: int, fraction: float) -> Mapping[str, Tensor]:
        generator = trainee.host.generator(o.seed, i)
        frames, truth = trainee.batch(clips, generator)
        known = told(truth, generator)
        raw = trainee.encode(frames, known)
        out = trainee.decode(raw + NOISE * _gaussian(raw, generator))
        picture, depth, sky = trainee.loss(out, frames[:, 1:], truth[:, 1:])
        if before is None:
            latent = raw.float().square().mean()
            hold = SHRINK * latent
        else:
            latent = moved(before, raw, trainee.encode(frames, known, by=before.encoder))
            hold = o.keep * latent
        (picture + depth + sky + hold).backward()
        optimiser.step(fraction)
        ema.update(codec)
        return {"picture": picture, "depth": depth, "sky": sky, "latent": latent}

    plan = _plan(trainee, name="reconstruct", minutes=o.minutes, steps=o.steps, flop=trainee.flop())
    loop = Loop(plan, trainee.host, {"codec": codec, "ema": ema, "optimiser": optimiser})
    loop.run(step, sample=lambda: sheet(ema.module, f"reconstruct-{loop.step:06d}"))
    return ema.module


def normalise(trainee: Trainee, clips: Clips, *, batches: int = 32) -> None:
    """Set mean and std of raw latents, standing and moving, from random batches.

    Not under `no_grad`: the compiled encoder would be compiled a second time.
    """
    codec, count = trainee.codec, 0
    total, square = torch.zeros(2, len(codec.mean), dtype=torch.float64, device=codec.mean.device)
    for i in range(batches):
        generator = trainee.host.generator(trainee.options.seed + 1, i)
        frames, truth = trainee.batch(clips, generator)
        raw = trainee.encode(frames, told(truth, generator)).detach().double()
        total += raw.sum(dim=(0, 1, 3, 4))
        square += raw.square().sum(dim=(0, 1, 3, 4))
        count += raw[:, :, 0].numel()
    mean = total / count
    codec.mean.copy_(mean)
    codec.std.copy_((square / count - mean.square()).clamp_min(1e-8).sqrt())
    trainee.host.share_weights(codec)


def polish(trainee: Trainee, clips: Clips, sheet: Callable[[Codec, str], None]) -> Codec:
    """Stage two: the decoder alone, against an adversary, with noisier latents. Returns the averaged codec."""
    o, codec, device = trainee.options, trainee.codec, trainee.host.device
    adversary = Adversary().to(device)
    trainee.host.share_weights(adversary)
    optimiser = Optimiser(codec.decoder, POLISH, adam=lambda name: True)
    critic = Optimiser(adversary, CRITIC, adam=lambda name: True)
    ema = Ema(codec, decay=0.99)

    def judge(pictures: Tensor) -> Tensor:
        with trainee.half():
            return adversary(pictures.flatten(0, 1))

    def step(i: int, fraction: float) -> Mapping[str, Tensor]:
        generator = trainee.host.generator(o.seed + 2, i)
        frames, truth = trainee.batch(clips, generator)
        raw = trainee.encode(frames, told(truth, generator)).detach()
        level = POLISH_NOISE * torch.rand(o.batch, 1, 1, 1, 1, generator=generator, device=device)
        out = trainee.decode(raw + (level * _gaussian(raw, generator)).to(raw.dtype))
        fake, real = out[:, :, :3].float(), frames[:, 1:]

        for p in adversary.parameters():
            p.grad = None  # left by the decoder's step
        verdict = hinge_judge(judge(real), judge(fake.detach()))
        verdict.backward()
        critic.step(fraction)

        picture, depth, sky = trainee.loss(out, real, truth[:, 1:])
        fooled = hinge_fool(judge(fake))
        weight = ADVERSARIAL * min(1.0, max(0.0, (fraction - RAMP[0]) / (RAMP[1] - RAMP[0])))
        (picture + depth + sky + weight * fooled).backward()
        optimiser.step(fraction)
        ema.update(codec)
        return {"picture": picture, "depth": depth, "sky": sky, "critic": verdict, "fooled": fooled}

    plan = _plan(trainee, name="polish", minutes=o.polish_minutes, steps=o.polish_steps)
    parts: dict[str, Stateful] = {
        "codec": codec,
        "ema": ema,
        "adversary": adversary,
        "optimiser": optimiser,
        "critic": critic,
    }
    loop = Loop(plan, trainee.host, parts)
    loop.run(step, sample=lambda: sheet(ema.module, f"polish-{loop.step:06d}"))
    return ema.module


def train_codec(
    options: CodecTraining,
    *,
    clips: Clips | None = None,
    held_out: Clips | None = None,
    pictures: Tensor | None = None,
) -> dict[str, Any]:
    """Run both stages, export and measure. Clips and pictures are made unless given. Returns what codec.json says."""
    with host(options.device) as here:
        torch.manual_seed(options.seed)
        codec = Codec(options.codec).to(here.device)
        if options.init:
            codec.load_state_dict(stored_codec(options.init, options.codec).state_dict())
        here.share_weights(codec)
        if options.warm_only:
            warm(Trainee(codec, options, here))
            return {}
        if clips is None or held_out is None:
            with _warming(options, here):
                clips, held_out = _render(options, here)
        if pictures is None and options.over_pictures:
            pictures = bank(options.textures, generator=here.generator(options.seed + 3, 0))
        trainee, held = Trainee(codec, options, here, pictures), held_out
        photos = held_out_photographs(options.codec.height, options.codec.width).to(here.device)
        sheet = lambda c, name: codec_sheet(options.out / f"{name}.png", c, held, photographs=photos)

        report: dict[str, Any] = {}
        if options.init and here.leads:
            report["before"] = evaluate_codec(codec, held, photographs=photos)
        codec.load_state_dict(reconstruct(trainee, clips, sheet).state_dict())
        if not options.init:
            normalise(trainee, clips)
        if here.leads:
            report["reconstruction"] = evaluate_codec(codec, held, photographs=photos)
        if options.polish_minutes > 0 or options.polish_steps:
            codec.load_state_dict(polish(trainee, clips, sheet).state_dict())
        return _export(options, codec, held, photos, report) if here.leads else {}


def stored_codec(path: Path, config: CodecConfig) -> Codec:
    """The codec in a file. Raises ValueError where it is none, or of other sizes."""
    codec = load_codec(path)
    if codec.config != config:
        raise ValueError(f"{path} is a codec of other sizes ({codec.config}) than this run ({config})")
    return codec


def warm(trainee: Trainee) -> None:
    """One step of each stage's shapes on empty pictures, which leaves compiled code in the compiler's cache."""
    torch.backends.cudnn.benchmark = False  # nobody measures while a GPU is busy with something else
    o, device = trainee.options, trainee.host.device
    shape = (o.batch, 1 + o.codec.frames * o.chunks, o.codec.height, o.codec.width)
    truth = torch.zeros(shape, device=device)
    frames = torch.zeros(*shape[:2], 3, *shape[2:], device=device)
    generator = trainee.host.generator(o.seed, 0)
    raw = trainee.encode(frames, truth)
    for latents in (raw, raw.detach()):  # the decoder of the polish has no encoder to tell
        out = trainee.decode(latents + NOISE * _gaussian(raw, generator))
        picture, depth, sky = trainee.loss(out, frames[:, 1:], truth[:, 1:])
        (picture + depth + sky).backward()


@contextmanager
def _warming(options: CodecTraining, here: Host) -> Iterator[None]:
    """Compile in a second process while this one renders: the cache on disk is shared. Its failure costs only time."""
    usual = options.compile and options.codec == POCKET_CODEC
    if not (here.leads and usual and here.device.type == "cuda"):
        yield
        return
    command = [sys.executable, "-m", "engine.train.codec", "--warm-only", "--device", "cuda"]
    command += ["--batch", str(options.batch), "--chunks", str(options.chunks)]
    alone = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    child = subprocess.Popen(command, env=alone)
    try:
        yield
        child.wait(timeout=45)
    except subprocess.TimeoutExpired:
        pass
    finally:
        child.kill()
        child.wait()


def _export(
    options: CodecTraining, codec: Codec, held_out: Clips, photos: Tensor, report: dict[str, Any]
) -> dict[str, Any]:
    """Write codec.safetensors and codec.json; measured is what was written, after its int8 round trip."""
    path = options.out / "codec.safetensors"
    save_module(path, codec, kind="codec", config=asdict(options.codec))
    shipped = load_codec(path, device=codec.mean.device)
    codec_sheet(options.out / "codec.png", shipped, held_out, photographs=photos)
    report["shipped"] = evaluate_codec(shipped, held_out, photographs=photos)
    report |= {
        "bytes": path.stat().st_size,
        "held_out_clips": len(held_out["frames"]),
        "photographs": len(photos),
    }
    part = options.out / "codec.json.part"
    part.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(part, options.out / "codec.json")
    return report


def _render(options: CodecTraining, here: Host) -> tuple[Clips, Clips]:
    """This process's own training clips, and the held-out ones that all share, in the memory of its device."""
    from engine.train.data import HELD_OUT, clip, training_seeds
    from engine.worlds.renderer import Renderer

    renderer, size, frames = Renderer(here.device), options.codec, options.clip_frames

    def draw(seeds: Sequence[int]) -> Clips:
        shape = (len(seeds), frames, size.height, size.width)
        pictures = torch.empty(*shape, 3, dtype=torch.uint8, device=here.device)
        depth = torch.empty(shape, dtype=torch.float16, device=here.device)
        for i in range(0, len(seeds), SLICE):
            part = clip(renderer, seeds[i : i + SLICE], frames, width=size.width, height=size.height)
            pictures[i : i + SLICE], depth[i : i + SLICE] = part["frames"], part["inverse_depth"]
        return {"frames": pictures, "inverse_depth": depth}

    seeds = training_seeds(0, options.clips, rank=here.rank, ranks=here.world, run=options.seed)
    return draw(seeds), draw(HELD_OUT[: options.held_out])


def main() -> None:
    """The command line of this file."""
    import tyro

    try:
        train_codec(tyro.cli(CodecTraining))
    except ValueError as error:
        sys.exit(_refuse(error))


def _refuse(error: ValueError) -> int:
    sys.stderr.write(f"{error}\n")
    return 2


if __name__ == "__main__":
    main()
