"""Encoders of random weights on disk, small enough for tests: tokenizer, Gemma 2, Gemma 3 and text connectors."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

VOCABULARY = ["<pad>", "<eos>", "<bos>", "<unk>", *"abcdefghijklmnopqrstuvwxyz .:-\n,"]
TEXT = dict(
    vocab_size=len(VOCABULARY),
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=256,
    sliding_window=8,
    query_pre_attn_scalar=16,
    pad_token_id=0,
    eos_token_id=1,
    bos_token_id=2,
)


def tokenizer(folder: Path) -> Any:
    """One token per letter, and <bos> in front, as Gemma's has it."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = Tokenizer(models.WordLevel({c: i for i, c in enumerate(VOCABULARY)}, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    letters.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    made = PreTrainedTokenizerFast(tokenizer_object=letters, padding_side="left", **names)
    made.save_pretrained(folder)
    return made


def gemma2(folder: Path, *, seed: int = 0) -> Path:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(seed)
    config = Gemma2Config(**TEXT, attn_logit_softcapping=0.5, attn_implementation="eager")
    stirred(Gemma2ForCausalLM(config)).save_pretrained(folder)
    tokenizer(folder)
    return folder


def gemma3(folder: Path, *, seed: int = 0) -> Path:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(seed)
    picture = dict(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=8,
        patch_size=4,
    )
    config = Gemma3Config(text_config=TEXT, vision_config=picture, mm_tokens_per_image=1, image_token_index=3)
    stirred(Gemma3ForConditionalGeneration(config)).save_pretrained(folder)
    tokenizer(folder)
    return folder


def connectors(folder: Path, *, rope: str = "split") -> Path:
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

    torch.manual_seed(1)
    heads = {
        f"{which}_connector_{name}": n
        for which in ("video", "audio")
        for name, n in (
            ("num_attention_heads", 2),
            ("attention_head_dim", 16),
            ("num_learnable_registers", 8),
        )
    }
    made = LTX2TextConnectors(
        caption_channels=32, text_proj_in_factor=4, connector_rope_base_seq_len=64, rope_type=rope, **heads
    )
    stirred(made).save_pretrained(folder)
    return folder


@torch.no_grad()
def stirred(model: Any) -> Any:
    """Nothing is zero or one, so that nothing is switched off."""
    for p in model.parameters():
        p.add_(0.2 * torch.randn_like(p))
    return model.eval()


@contextmanager
def offline() -> Iterator[None]:
    """Whoever asks the network fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an encoder asked the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


def change(path: Path, **values: object) -> None:
    """Other values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
