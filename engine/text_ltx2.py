"""Prompts for the refiner: all hidden states of Gemma 3, then the text connectors of LTX-2, their video half.

The connectors normalise each layer over the words of the prompt, project all layers together, move the words to the
front and put learned registers where padding was. So every position counts afterwards, and the mask is all True.
diffusers' own pipeline normalises twice, which changes nothing but roundings. Here it is done once; what the release does is inferred, not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.fingerprint import fingerprint
from engine.release import empty, fill, opened, read_json
from engine.text import Embedding, Request
from engine.text_gemma import INSTALL, checked, free_memory, load_model, load_tokenizer, tokens_of


@dataclass(frozen=True, kw_only=True)
class Gemma3:
    """The encoder of the refiner. The prompt is stripped; padding stands on the left; longer ones are cut at the end."""

    folder: Path
    connectors: Path
    tokens: int = 1024
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16

    def identity(self) -> str:
        folders = checked(self.folder, "gemma3"), self.connectors, self._tokenizer()
        return f"gemma3 {' '.join(map(fingerprint, folders))} {self.tokens} {self.dtype}"

    @contextmanager
    def opened(self) -> Iterator[Callable[[Request], Embedding]]:
        checked(self.folder, "gemma3")
        connectors = load_connectors(self.connectors, device=self.device, dtype=self.dtype)
        tokenizer = load_tokenizer(self._tokenizer())
        whole = load_model(
            "Gemma3ForConditionalGeneration",
            self.folder,
            device=self.device,
            dtype=self.dtype,
            attention="sdpa",
        )
        held = [whole.model.language_model, connectors]
        del whole, connectors  # the tower that sees pictures goes at once
        free_memory()
        try:
            yield lambda request: self._encode(request, tokenizer, *held)
        finally:
            held.clear()
            free_memory()

    def _tokenizer(self) -> Path:
        """In the encoder's folder, or in one called `tokenizer` beside it."""
        here = any((self.folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
        beside = self.folder.parent / "tokenizer"
        return self.folder if here or not beside.is_dir() else beside

    @torch.inference_mode()
    def _encode(self, request: Request, tokenizer: Any, model: Any, connectors: Any) -> Embedding:
        if request.instruction:
            raise ValueError("the refiner reads the prompt alone: leave out the instruction")
        read, lost = tokens_of(tokenizer, request.prompt.strip(), self.tokens, padding="left")
        read = read.to(self.device)
        mask = read.attention_mask
        out = model(input_ids=read.input_ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        layers = torch.stack(
            [h.to(self.device) for h in out.hidden_states], dim=-1
        )  # [1, L, hidden, layers + 1]
        states, _, seen = connectors(layers, mask)
        return Embedding(states=states.cpu(), mask=seen.bool().cpu(), lost=lost)


def load_connectors(folder: Path, *, device: str, dtype: torch.dtype) -> nn.Module:
    """The text connectors in a folder with its `config.json`; their audio half is never read. ValueError."""
    try:
        from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    except ImportError as error:
        raise ValueError(f"the refiner's text connectors need diffusers: {INSTALL}") from error
    config = connector_config(read_json(folder / "config.json"))
    model: nn.Module = empty(lambda: LTX2TextConnectors(**config))
    with opened(folder) as tensors:
        video = {name: t for name, t in tensors.items() if not name.startswith("audio_")}
        fill(model, video, source=folder, dtype=dtype, device=device)
    return model.eval()


SIZES = {
    "caption_channels": 3840,
    "text_proj_in_factor": 49,
    "video_connector_num_attention_heads": 30,
    "video_connector_attention_head_dim": 128,
    "video_connector_num_layers": 2,
    "video_connector_num_learnable_registers": 128,
    "connector_rope_base_seq_len": 4096,
}  # and what they are where the config does not say


def connector_config(record: dict[str, Any]) -> dict[str, Any]:
    """Arguments of diffusers' class from a config that is not trusted, without its audio half. ValueError."""

    def refuse(name: str, why: str) -> ValueError:
        return ValueError(f"the config of the text connectors has {name}={record[name]!r}: {why}")

    out: dict[str, Any] = {"audio_connector_num_layers": 0, "audio_connector_num_learnable_registers": None}
    for name, default in SIZES.items():
        value = out[name] = record.get(name, default)
        if type(value) is not int or not 0 < value < 1 << 16:
            raise refuse(name, "not a positive whole number")
    out["audio_connector_num_attention_heads"] = out["video_connector_num_attention_heads"]
    out["audio_connector_attention_head_dim"] = out["video_connector_attention_head_dim"]
    for name in ("per_modality_projections", "video_gated_attn", "proj_bias"):
        if record.get(name):
            raise refuse(name, "only the connectors of LTX-2.0 are supported")
    out["rope_type"] = record.get("rope_type", "interleaved")
    if out["rope_type"] not in ("interleaved", "split"):
        raise refuse("rope_type", "neither interleaved nor split")
    out["rope_double_precision"] = record.get("rope_double_precision", True)
    if not isinstance(out["rope_double_precision"], bool):
        raise refuse("rope_double_precision", "neither true nor false")
    theta = out["rope_theta"] = record.get("rope_theta", 10000.0)
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 0 < theta < 1e9:
        raise refuse("rope_theta", "not a positive number")
    return out
