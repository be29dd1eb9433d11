"""Gemma through transformers: loading from disk only, and gemma-2-2b-it as stage 1 of SANA-WM reads prompts with it."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from engine.fingerprint import fingerprint
from engine.release import read_json
from engine.text import Embedding, Request

STAGE_1 = "Efficient-Large-Model/gemma-2-2b-it"  # where the releases take it from
INSTALL = "pip install 'world-explorer[sana]'"


@dataclass(frozen=True, kw_only=True)
class Gemma2:
    """The encoder of stage 1.

    States are those after the final norm. With an instruction the text is padded on the right to the instruction's
    tokens and `tokens` - 2 more; the first and the last `tokens` - 1 are kept. So the instruction acts through what
    the prompt attends to, and is itself not seen but for its first and last token. Without an instruction all
    `tokens` are kept. Longer texts are cut at the end.
    """

    folder: Path
    tokens: int = 300
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16

    def identity(self) -> str:
        return f"gemma2 {fingerprint(checked(self.folder, 'gemma2'))} {self.tokens} {self.dtype}"

    @contextmanager
    def opened(self) -> Iterator[Callable[[Request], Embedding]]:
        checked(self.folder, "gemma2")
        tokenizer = load_tokenizer(self.folder)
        # Attention scores are capped by a tanh, which only the plain implementation has.
        model = load_model(
            "Gemma2Model", self.folder, device=self.device, dtype=self.dtype, attention="eager"
        )
        held = [model]
        del model
        try:
            yield lambda request: self._encode(request, tokenizer, held[0])
        finally:
            held.clear()
            free_memory()

    @torch.inference_mode()
    def _encode(self, request: Request, tokenizer: Any, model: Any) -> Embedding:
        length = self.tokens
        if request.instruction:
            length += len(tokenizer.encode(request.instruction)) - 2
        read, lost = tokens_of(tokenizer, request.instruction + request.prompt, length, padding="right")
        read = read.to(self.device)
        states = model(input_ids=read.input_ids, attention_mask=read.attention_mask).last_hidden_state
        keep = [0, *range(length - self.tokens + 1, length)]
        mask = read.attention_mask[:, keep].bool()
        return Embedding(states=states[:, keep].cpu(), mask=mask.cpu(), lost=lost)


def local_folder(name: str) -> Path:
    """A folder, or where huggingface_hub keeps the repository `owner/name`; nothing is fetched. ValueError."""
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"there is no folder {name}, and it is not the name of a repository (owner/name)")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise ValueError(f"looking for {name} needs huggingface_hub: {INSTALL}") from error
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{name} is not on this machine: fetch it, or name the folder that holds it"
        ) from error


def checked(folder: Path, kind: str) -> Path:
    """The folder of a model of this kind. Raises ValueError for any other."""
    found = read_json(folder / "config.json").get("model_type")
    if found != kind:
        raise ValueError(
            f"{folder} holds a model of type {found!r}: a text encoder of type {kind!r} is needed"
        )
    return folder


def load_tokenizer(folder: Path) -> Any:
    """From this folder and nowhere else; no code from it is run. ValueError."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(f"reading prompts needs transformers: {INSTALL}") from error
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} holds no tokenizer ({_first_line(error)}): fetch the encoder again"
        ) from error


def tokens_of(tokenizer: Any, text: str, length: int, *, padding: str) -> tuple[Any, int]:
    """Ids and mask of exactly `length` tokens, the special ones included, and how many did not fit."""
    read = tokenizer(
        [text],
        max_length=length,
        padding="max_length",
        padding_side=padding,
        truncation=True,
        add_special_tokens=True,
        return_tensors="pt",
    )
    return read, max(len(tokenizer.encode(text)) - length, 0)


def load_model(kind: str, folder: Path, *, device: str, dtype: torch.dtype, attention: str) -> Any:
    """A model of the transformers class `kind`, strict about missing weights. ValueError.

    On a GPU that it does not fit into, accelerate leaves the rest of its layers in RAM.
    """
    try:
        import transformers
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise ValueError(f"reading prompts needs transformers: {INSTALL}") from error
    disable_progress_bar()
    if device == "cpu":
        _require_memory(folder)
    place: dict[str, str] = {"device_map": "auto"} if device.startswith("cuda") else {}
    try:
        model, told = getattr(transformers, kind).from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            **place,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no whole {kind} ({_first_line(error)}): fetch it again") from error
    if lost := sorted({*told["missing_keys"], *(str(name) for name, *_ in told["mismatched_keys"])}):
        raise ValueError(
            f"{folder} lacks weights of {kind}: {', '.join(lost[:5])}, {len(lost)} in all; fetch it again"
        )
    return model.eval().requires_grad_(False)


def free_memory() -> None:
    """Give back what a dropped model held, also to the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _require_memory(folder: Path) -> None:
    """Before the system ends whatever asks for too much. Raises ValueError."""
    from engine.opening import free_memory as free
    from engine.setup import GB

    need, there = sum(f.stat().st_size for f in folder.glob("*.safetensors")), free(torch.device("cpu"))
    if need > there:
        raise ValueError(
            f"the text encoder in {folder} needs {need / GB:.1f} GB of main memory and {there / GB:.1f} GB are free: "
            "close other programs"
        )


def _first_line(error: Exception) -> str:
    said = str(error).strip()
    return said.splitlines()[0][:200] if said else type(error).__name__
