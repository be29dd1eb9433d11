"""Rendering with the releases that make a whole clip at once: every pass may be the last before a Ctrl-C."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import Progress, TaskID

from engine.config import FPS
from engine.setup import Setup, Sizes, models_folder
from explorer.job import Job
from explorer.render import carried_out, listed, request

if TYPE_CHECKING:
    from explorer.fly import Fly
    from explorer.preview import Preview
    from explorer.render import Render
    from explorer.unattended import Plan


def render_clip(options: Render, fly: Fly, flight: Plan) -> int:
    """Sample, refine, decode, put the film together. Returns the exit code."""
    setup = replace(
        fly.setup, variant=options.model, steps=options.steps, guidance=options.guidance, live=False
    )
    if setup.random_weights:
        setup = replace(setup, sizes=_released(setup))
    weights = [] if setup.random_weights else listed(setup.weights or models_folder() / setup.variant)
    more = dict(variant=options.model, steps=options.steps, guidance=options.guidance)
    job = Job(options.out, request=request(fly, flight, weights=weights, **more))

    def make(bar: Progress, task: TaskID, preview: Preview | None) -> int:
        return _make(setup, fly, flight, job, bar, task, preview)

    return carried_out(options, flight, job, make)


def _released(setup: Setup) -> Sizes:
    from engine.release import RELEASES

    release = RELEASES[setup.variant]
    vae = replace(setup.sizes.vae, decoder_causal=release.decoder_causal)
    return replace(setup.sizes, world=release.config, vae=vae)


def _make(
    setup: Setup, fly: Fly, flight: Plan, job: Job, bar: Progress, task: TaskID, preview: Preview | None
) -> int:
    """Everything that the job does not have yet. Returns the number of parts."""
    from engine.clips import ClipState
    from engine.opening import open_clips

    clips = open_clips(setup, device=fly.device, on_step=lambda step: bar.update(task, description=step))
    scene = flight.scene
    picture, intrinsics = scene.picture(*clips.size)
    poses = list(flight.poses)
    poses += poses[-1:] * (-(len(poses) - 1) % clips.vae.config.stride[0])
    clip = clips.clip(picture, poses, intrinsics)
    found = job.resume(ClipState, device=clips.device)
    state = found[1] if found else clips.start(clip, seed=scene.seed)
    total = clips.steps(clip)
    bar.update(task, total=total, completed=state.sampled.done, description="denoising", unit="passes")
    for step in clips.run(clip, state, seed=scene.seed):
        state = step
        job.hold(state)
        bar.update(task, completed=total if state.refined is not None else state.sampled.done)
    bar.update(task, total=flight.frames, completed=0, description="decoding", unit="frames")
    done = parts = 0
    for piece in clips.frames(state):
        pictures = list(piece[: flight.frames - done])
        if done == 0:
            pictures[0] = picture
        job.keep(parts, pictures, state, fps=FPS)
        if preview is not None:
            preview.show(np.stack(pictures), fps=FPS)
        done, parts = done + len(pictures), parts + 1
        bar.update(task, completed=done)
    return parts
