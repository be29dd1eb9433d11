"""Text as a model reads it: a prompt is encoded once, kept on disk, and its encoder is freed.

    stage_1 = Gemma2(folder=local_folder(STAGE_1), device="cuda")
    requests = [Request(prompt, instruction(release)), Request(negative)]
    positive, negative = embed(requests, stage_1, cache=TextCache(cache_folder()))

For a flight that goes on meanwhile, `device="cpu"` leaves the GPU's memory alone; `Generator.retell` takes the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from engine.text_cache import TextCache

LONGEST = 20_000  # characters of a prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A text as the states of its encoder."""

    states: Tensor  # [B, L, caption_dim]
    mask: Tensor  # [B, L] bool, True: a word
    lost: int = 0  # tokens at the end of the text that did not fit


@dataclass(frozen=True, slots=True)
class Request:
    """A text to be encoded. Negative prompts go without an instruction."""

    prompt: str
    instruction: str = (
        ""  # stands before the prompt: what an encoder that follows instructions is to make of it
    )

    def __post_init__(self) -> None:
        if len(self.prompt) > LONGEST:
            raise ValueError(f"the prompt has {len(self.prompt)} characters: use at most {LONGEST}")


class TextEncoder(Protocol):
    """An encoder on disk. `opened` loads it, and frees it when the context ends."""

    def identity(self) -> str:
        """Differs where embeddings would differ. Raises ValueError where the encoder is missing."""

    def opened(self) -> AbstractContextManager[Callable[[Request], Embedding]]:
        """Embeddings come back on the CPU. Raises ValueError where the encoder is missing or broken."""


def embed(
    requests: Sequence[Request],
    encoder: TextEncoder,
    *,
    cache: TextCache | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> list[Embedding]:
    """Encode texts, each only if the cache does not hold it: then the encoder is loaded once and freed again.

    `on_step` hears what is being done, what did not fit, and what could not be kept.
    """
    identity = encoder.identity() if cache is not None else ""
    known: dict[Request, Embedding] = {}
    if cache is not None:
        known = {r: found for r in requests if (found := cache.get(identity, r)) is not None}
    missing = [r for r in dict.fromkeys(requests) if r not in known]
    if missing:
        on_step("loading the text encoder")
        with encoder.opened() as encode:
            for request in missing:
                on_step("encoding the prompt")
                known[request] = encode(request)
                if cache is not None and (why := cache.put(identity, request, known[request])):
                    on_step(
                        f"the encoded prompt could not be kept ({why}): it will be encoded again next time"
                    )
    for request, embedding in known.items():
        if embedding.lost:
            on_step(f"'{request.prompt[:30]}' is {embedding.lost} tokens too long: its end is not read")
    return [known[r] for r in requests]
