"""Sizes of the two LTX-2 parts of SANA-WM, the video autoencoder and the refiner, and how their config files are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.config import FPS

Stride = tuple[int, int, int]  # over (frame, row, column)
DOWN: dict[str, Stride] = {"spatial": (1, 2, 2), "temporal": (2, 1, 1), "spatiotemporal": (2, 2, 2)}


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """The LTX-2 video autoencoder. Defaults are that of the streaming release."""

    latent_channels: int = 128
    patch: int = 4  # pixels that space-to-channel folds before the first convolution
    encoder_widths: tuple[int, ...] = (256, 512, 1024, 2048)  # after each downsampler
    encoder_layers: tuple[int, ...] = (
        4,
        6,
        6,
        2,
        2,
    )  # residual blocks before each downsampler, then in the middle
    downsample: tuple[str, ...] = ("spatial", "temporal", "spatiotemporal", "spatiotemporal")
    decoder_widths: tuple[int, ...] = (1024, 512, 256)  # before each upsampler, which halves them
    decoder_layers: tuple[int, ...] = (5, 5, 5, 5)  # residual blocks in the middle, then after each upsampler
    decoder_causal: bool = True  # False: the bidirectional release, no streaming
    scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        if not len(self.encoder_widths) == len(self.downsample) == len(self.encoder_layers) - 1:
            raise ValueError(
                f"{len(self.encoder_widths)} encoder widths need as many downsamplers and one more entry of layers"
            )
        if len(self.decoder_widths) != len(self.decoder_layers) - 1:
            raise ValueError(f"{len(self.decoder_widths)} decoder widths need one more entry of layers")
        if unknown := set(self.downsample) - set(DOWN):
            raise ValueError(f"downsample has {sorted(unknown)}: known are {', '.join(DOWN)}")
        if any(w != 2 * v for w, v in zip(self.decoder_widths, self.decoder_widths[1:], strict=False)):
            raise ValueError(f"decoder_widths={self.decoder_widths} must halve from each to the next")

    @property
    def stride(self) -> Stride:
        """Pixels per latent."""
        t, y, x = 1, self.patch, self.patch
        for kind in self.downsample:
            a, b, c = DOWN[kind]
            t, y, x = t * a, y * b, x * c
        return t, y, x


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """The LTX-2 transformer, its video part only, and how SANA-WM runs it as second stage."""

    latent_channels: int = 128
    heads: int = 32
    head_dim: int = 128
    depth: int = 48
    caption_dim: int = 3840
    rope: Literal["interleaved", "split"] = "interleaved"  # the checkpoint's config decides
    exact_angles: bool = (
        False  # rotary angles in fp64 throughout; the release rounds positions and products to fp32
    )
    theta: float = 10000.0
    extent: tuple[float, float, float] = (20.0, 2048.0, 2048.0)  # seconds, pixel rows, pixel columns
    stride: Stride = (8, 32, 32)  # pixels per latent
    causal_offset: int = 1  # latent frame 0 stands for this many pixel frames
    fps: float = float(FPS)

    sink: int = 1  # latent frames that stay as stage 1 made them, and are always seen
    block: int = 3  # latent frames refined together
    window: int = 11  # latent frames seen besides those being refined: sink and history
    hold: bool = True  # keys that a block sees stay joined from pass to pass, in all layers: memory for time
    sigmas: tuple[float, ...] = field(
        default=(0.909375, 0.725, 0.421875)
    )  # noise levels visited; 0.0 is implied

    def __post_init__(self) -> None:
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: the rotary embedding turns pairs")
        if self.dim < 6:
            raise ValueError(f"width {self.dim} has no room for rotary angles over three axes")
        if self.sink < 1 or self.block < 1 or self.window < self.sink:
            raise ValueError(
                f"sink={self.sink} and block={self.block} must be at least 1 and window={self.window} hold the sink"
            )
        if not all(1 >= a > b > 0 for a, b in zip(self.sigmas, (*self.sigmas[1:], 1e-6), strict=True)):
            raise ValueError(f"sigmas={self.sigmas} must fall from at most 1 towards 0, which is implied")

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def history(self) -> int:
        """Refined latent frames remembered."""
        return self.window - self.sink


LTX2_VAE = VaeConfig()
LTX2_REFINER = RefinerConfig()


class _Record:
    """A config file that is not trusted: each field is read with a type, and what we cannot run is refused."""

    def __init__(self, record: Mapping[str, Any], *, what: str) -> None:
        self.record, self.what = record, what

    def refuse(self, name: str, why: str) -> ValueError:
        return ValueError(f"the config of the {self.what} has {name}={self.record.get(name)!r}: {why}")

    def whole(self, name: str, default: int) -> int:
        value = self.record.get(name, default)
        if type(value) is not int or not 0 < value < 1 << 20:
            raise self.refuse(name, "not a positive whole number")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.record.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
            raise self.refuse(name, "not a positive number")
        return float(value)

    def many(self, name: str, default: tuple[Any, ...]) -> tuple[Any, ...]:
        value = self.record.get(name, default)
        if not isinstance(value, list | tuple) or not all(type(v) is type(default[0]) for v in value):
            raise self.refuse(name, f"not a list of {type(default[0]).__name__}")
        return tuple(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.record.get(name, default)
        if not isinstance(value, bool):
            raise self.refuse(name, "neither true nor false")
        return value

    def only(self, name: str, *allowed: object) -> None:
        """A setting that we implement in one way; absent and null mean that way."""
        value = self.record.get(name)
        values = value if isinstance(value, list | tuple) else [value]
        if value is not None and not all(v in allowed and type(v) in map(type, allowed) for v in values):
            raise self.refuse(name, f"only {' or '.join(map(repr, allowed))} is supported")


def vae_config(record: Mapping[str, Any], *, decoder_causal: bool | None = None) -> VaeConfig:
    """The `config.json` beside the autoencoder's weights. ValueError where it asks for what we cannot run.

    decoder_causal: overrides the file's. A streaming release that does not say is causal.
    """
    r = _Record(record, what="autoencoder")
    for name, value in _VAE_FIXED.items():
        r.only(name, value)
    d = LTX2_VAE
    return VaeConfig(
        latent_channels=r.whole("latent_channels", d.latent_channels),
        patch=r.whole("patch_size", d.patch),
        encoder_widths=r.many("block_out_channels", d.encoder_widths),
        encoder_layers=r.many("layers_per_block", d.encoder_layers),
        downsample=r.many("downsample_type", d.downsample),
        decoder_widths=r.many("decoder_block_out_channels", d.decoder_widths[::-1])[::-1],
        decoder_layers=r.many("decoder_layers_per_block", d.decoder_layers)[::-1],
        decoder_causal=r.flag("decoder_causal", True) if decoder_causal is None else decoder_causal,
        scaling_factor=r.number("scaling_factor", d.scaling_factor),
    )


_VAE_FIXED: dict[str, object] = {
    "in_channels": 3,
    "out_channels": 3,
    "patch_size_t": 1,
    "spatio_temporal_scaling": True,
    "decoder_spatio_temporal_scaling": True,
    "decoder_inject_noise": False,
    "timestep_conditioning": False,
    "upsample_residual": True,
    "upsample_factor": 2,
    "upsample_type": "spatiotemporal",
    "decoder_upsample_type": "spatiotemporal",
    "encoder_causal": True,
    "encoder_spatial_padding_mode": "zeros",
    "decoder_spatial_padding_mode": "reflect",
}


def refiner_config(record: Mapping[str, Any]) -> RefinerConfig:
    """The `config.json` beside the refiner's weights. ValueError where it asks for what we cannot run."""
    r = _Record(record, what="refiner")
    for name, value in _REFINER_FIXED.items():
        r.only(name, value)
    d = LTX2_REFINER
    rope = record.get("rope_type", d.rope)
    if rope not in ("interleaved", "split"):
        raise r.refuse("rope_type", "neither 'interleaved' nor 'split'")
    seconds = r.whole("pos_embed_max_pos", int(d.extent[0]))
    rows, columns = r.whole("base_height", int(d.extent[1])), r.whole("base_width", int(d.extent[2]))
    stride = r.many("vae_scale_factors", d.stride)
    if len(stride) != 3:
        raise r.refuse("vae_scale_factors", "not three numbers")
    config = RefinerConfig(
        latent_channels=r.whole("in_channels", d.latent_channels),
        heads=r.whole("num_attention_heads", d.heads),
        head_dim=r.whole("attention_head_dim", d.head_dim),
        depth=r.whole("num_layers", d.depth),
        caption_dim=r.whole("caption_channels", d.caption_dim),
        rope=rope,
        theta=r.number("rope_theta", d.theta),
        extent=(float(seconds), float(rows), float(columns)),
        stride=stride,
        causal_offset=r.whole("causal_offset", d.causal_offset),
    )
    r.only("out_channels", config.latent_channels)
    r.only("cross_attention_dim", config.dim)
    return config


_REFINER_FIXED: dict[str, object] = {
    "patch_size": 1,
    "patch_size_t": 1,
    "gated_attn": False,
    "cross_attn_mod": False,
    "audio_cross_attn_mod": False,
    "activation_fn": "gelu-approximate",
    "qk_norm": "rms_norm_across_heads",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "attention_bias": True,
    "attention_out_bias": True,
    "rope_double_precision": True,
    "timestep_scale_multiplier": 1000,
    "use_prompt_embeddings": True,
    "perturbed_attn": False,
    "ff_bias": True,
    "use_keyframes_abs_pos_embedding": False,
}
