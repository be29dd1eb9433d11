"""The critic of the distillation: a copy of the world model that says, cell by cell, how true a latent frame looks.

It sees single frames. Shown the frames before as well, it would judge those: self-made context differs from true
context, whatever the student adds to it, and true frames do not continue what a flight has invented. What fits the
context is left to the regression.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.conditioning import Conditioning
from engine.embed import FinalLayer, modulate
from engine.model import WorldModel, beside

KNEE = 0.3  # deviation of a cell, in standard deviations, from which on regression pulls no harder
BANDS = 5  # of rows: the sky is not to look like the ground


class Verdict(FinalLayer):
    """One number per token in place of its flow."""

    def __init__(self, final: FinalLayer) -> None:
        width = final.scale_shift_table.shape[1]
        super().__init__(width, 1)
        self.hidden = nn.Linear(width, width)
        with torch.no_grad():
            self.scale_shift_table.copy_(final.scale_shift_table)
            nn.init.normal_(self.linear.weight, std=0.02)
            nn.init.zeros_(self.linear.bias)
        self.to(final.linear.weight.device)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table + e.unsqueeze(2)).to(x.dtype).unsqueeze(3).unbind(2)
        return self.linear(F.silu(self.hidden(modulate(x, shift, scale))))


class Judge(nn.Module):
    """Starts from the features of a trained world model, which know what latents look like at every noise level."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(model).requires_grad_(True)
        self.trunk.final_layer = Verdict(self.trunk.final_layer)

    def forward(self, x: Tensor, *, levels: Tensor, words: Tensor, cond: Conditioning) -> Tensor:
        """x: [N, C, 1, h, w] noised to levels [N].  words: [N, 8].  Returns scores [N, h, w]."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            text = self.trunk.embed_text(words)
            dtype = torch.bfloat16 if x.is_cuda else x.dtype
            score, _ = self.trunk(
                beside(x.to(dtype), None, self.trunk.config),
                timestep=1000 * levels[:, None],
                text=text,
                text_mask=None,
                cond=cond,
            )
        return score[:, 0, 0].float()


def single(x: Tensor, frames: Sequence[int]) -> Tensor:
    """Some frames of clips [B, C, F, h, w] as clips of one frame each, [B·n, C, 1, h, w]."""
    return x[:, :, list(frames)].transpose(1, 2).flatten(0, 1).unsqueeze(2)


def single_cameras(cond: Conditioning, frames: Sequence[int]) -> Conditioning:
    """The cameras of these frames, in the order of `single`."""
    at = list(frames)
    return Conditioning(
        P=cond.P[:, at].flatten(0, 1)[:, None],
        P_inv=cond.P_inv[:, at].flatten(0, 1)[:, None],
        plucker=single(cond.plucker, at),
        frame=0,
        reanchor=None,
    )


def distance(made: Tensor, true: Tensor, weights: Tensor) -> Tensor:
    """Mean distance of cells, beyond `KNEE` linear: where the truth cannot be known its pull stays bounded.

    made, true: [N, C, ...].  weights: [N, ...].
    """
    off = (made - true).square().mean(dim=1)
    return (weights * ((off + KNEE**2).sqrt() - KNEE)).mean()


def style(x: Tensor, *, frames: int) -> Tensor:
    """What stretches look like, whatever is where: mean and standard deviation of every channel, by bands of rows.

    x: [N·frames, C, 1, h, w], the frames of one stretch after each other; h in `BANDS`.  Returns [N, 2C, BANDS].
    Source: the style loss of Huang and Belongie 2017, arXiv 1703.06868, eq. 13, here of latents.
    """
    _, channels, _, height, width = x.shape
    rows = x.view(-1, frames, channels, BANDS, height // BANDS, width).movedim(1, 4).flatten(3)
    return torch.cat((rows.mean(dim=3), rows.var(dim=3, correction=0).add(1e-4).sqrt()), dim=1)


def blended(pull: Tensor, push: Tensor, share: float | Tensor) -> Tensor:
    """One gradient of two: `push` in the direction of the judge, `share` times as long as the `pull` to the truth.

    Neither the sharpness of the judge nor the number of cells matters then. Source: the adaptive weight of Esser et al.
    2021, arXiv 2012.09841, eq. 7, taken at the output.
    """
    return pull + push * (share * pull.norm() / push.norm().clamp_min(1e-12))


def roughness(x: Tensor) -> Tensor:
    """Mean absolute Laplacian of [..., h, w]: what blur takes away first."""
    inner = x[..., 1:-1, 1:-1]
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return (4 * inner - around).abs().mean()
