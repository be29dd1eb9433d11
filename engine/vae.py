"""The LTX-2 video autoencoder: frames ↔ normalised latents, whole clips or a stream of latent frames.

The first latent frame of a clip stands for one pixel frame, every later one for eight. The causal decoder looks
only back, so a stream decoded in chunks of any size equals the clip decoded at once: the state holds the last two
input frames of each convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.ltx2 import DOWN, VaeConfig
from engine.vae_layers import Conv, DownBlock, Reach, Trunk, UpBlock, channel_norm, fold, unfold


@dataclass(frozen=True, slots=True)
class DecoderState:
    """What the decoder remembers of the frames so far: of each convolution, in order, its last inputs [B, C, 2, Y, X].

    That there is a state says that each upsampler has dropped its leading frame: no flags are needed.
    """

    tails: tuple[Tensor, ...]


class Encoder(nn.Module):
    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.patch = config.patch
        width = config.latent_channels
        self.conv_in = Conv(3 * config.patch**2, width, pad="zeros")
        self.down_blocks = nn.ModuleList()
        for out, layers, kind in zip(
            config.encoder_widths, config.encoder_layers[:-1], config.downsample, strict=True
        ):
            self.down_blocks.append(DownBlock(width, out, layers, stride=DOWN[kind], pad="zeros"))
            width = out
        self.mid_block = Trunk(width, config.encoder_layers[-1], pad="zeros")
        self.conv_out = Conv(width, config.latent_channels + 1, pad="zeros")

    def forward(self, frames: Tensor) -> Tensor:
        """frames: [B, 3, 1 + 8n, Y, X] -> [B, C + 1, 1 + n, h, w]: means, and a log-variance that they share."""
        reach = Reach()
        x = self.conv_in(swapped(fold(frames, (1, self.patch, self.patch)), self.patch), reach)
        for block in (*self.down_blocks, self.mid_block):
            x = block(x, reach)
        return self.conv_out(F.silu(channel_norm(x)), reach)


class Decoder(nn.Module):
    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.patch = config.patch
        width = config.decoder_widths[0]
        self.conv_in = Conv(config.latent_channels, width, pad="reflect")
        self.mid_block = Trunk(width, config.decoder_layers[0], pad="reflect")
        self.up_blocks = nn.ModuleList(
            UpBlock(width, layers, pad="reflect")
            for width, layers in zip(config.decoder_widths, config.decoder_layers[1:], strict=True)
        )
        self.conv_out = Conv(config.decoder_widths[-1] // 2, 3 * config.patch**2, pad="reflect")

    def forward(self, latents: Tensor, reach: Reach) -> Tensor:
        """latents: [B, C, F, h, w], not normalised -> [B, 3, P, Y, X]; P = 1 + 8(F - 1) at the start, else 8F."""
        x = self.conv_in(latents, reach)
        for block in (self.mid_block, *self.up_blocks):
            x = block(x, reach)
        x = self.conv_out(F.silu(channel_norm(x)), reach)
        return unfold(swapped(x, self.patch), (1, self.patch, self.patch))


def swapped(x: Tensor, patch: int) -> Tensor:
    """Channels ordered (colour, row, column) <-> (colour, column, row): the release folds columns first."""
    return x.unflatten(1, (-1, patch, patch)).transpose(2, 3).flatten(1, 3)


class Vae(nn.Module):
    """Frames ↔ latents, as the world model and the refiner know them: normalised, fp32."""

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.register_buffer("latents_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latents_std", torch.ones(config.latent_channels))

    def normalise(self, latents: Tensor) -> Tensor:
        """[B, C, F, h, w] as the encoder gives them -> as the models take them, fp32 (fp64 stays)."""
        x, mean, std = self._statistics(latents)
        return (x - mean) * (self.config.scaling_factor / std)

    def unnormalise(self, latents: Tensor) -> Tensor:
        """The inverse of `normalise`, fp32 (fp64 stays)."""
        x, mean, std = self._statistics(latents)
        return x * (std / self.config.scaling_factor) + mean

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = latents.to(torch.promote_types(latents.dtype, torch.float32))
        mean, std = (v.to(x.dtype).view(-1, 1, 1, 1) for v in (self.latents_mean, self.latents_std))
        return x, mean, std

    def encode(self, frames: Tensor) -> Tensor:
        """The most likely latents of frames [B, 3, 1 + 8n, Y, X] in [-1, 1]: [B, C, 1 + n, h, w] normalised, fp32.

        Raises ValueError where the size does not split into cells.
        """
        t, y, x = self.config.stride
        if frames.shape[2] % t != 1 % t:
            raise ValueError(f"a clip of {frames.shape[2]} frames is not 1 + {t}·n frames long")
        if frames.shape[3] % y or frames.shape[4] % x:
            raise ValueError(
                f"frames of {frames.shape[4]}x{frames.shape[3]} do not split into cells of {x}x{y} pixels"
            )
        return self.normalise(self.mode(frames))

    def mode(self, frames: Tensor) -> Tensor:
        """As `encode`, but not normalised, and unchecked."""
        return self.encoder(frames.to(self.encoder.conv_in.conv.weight.dtype))[
            :, : self.config.latent_channels
        ]

    def encode_picture(self, picture: Tensor) -> Tensor:
        """[B, 3, Y, X] in [-1, 1] -> [B, C, h, w] normalised, fp32."""
        return self.encode(picture.unsqueeze(2)).squeeze(2)

    def decode(self, latents: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        """Decode the next latent frames of a stream: one, a chunk, or all of it.

        latents: [B, C, F, h, w] normalised.  state: of the frames before; None at the start of the clip.
        Returns frames [B, 3, P, Y, X] about in [-1, 1], P = 1 + 8(F - 1) at the start and 8F later, and the new state.
        Raises ValueError for a decoder that looks ahead: `decode_clip` takes whole clips.
        """
        if not self.config.decoder_causal:
            raise ValueError("this autoencoder looks ahead and cannot stream: decode the whole clip")
        reach = Reach(tails=None if state is None else state.tails, keep=True)
        frames = self.decoder(self.raw(latents), reach)
        return frames, DecoderState(tuple(reach.kept))

    def decode_clip(self, latents: Tensor) -> Tensor:
        """A whole clip at once, by a causal decoder or one that looks ahead: [B, C, 1 + n, h, w] -> [B, 3, 1 + 8n, Y, X]."""
        return self.decoder(self.raw(latents), Reach(both=not self.config.decoder_causal))

    def raw(self, latents: Tensor) -> Tensor:
        """Not normalised, in the dtype of the decoder: what its first convolution takes."""
        return self.unnormalise(latents).to(self.decoder.conv_in.conv.weight.dtype)


def to_uint8(frames: Tensor) -> Tensor:
    """[B, 3, P, Y, X] in [-1, 1] -> uint8 [B, P, Y, X, 3]; fractions are dropped, as the release does."""
    return (frames.float() * 127.5 + 127.5).clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()
