"""Encoded prompts on disk: what comes back is what went in, and the encoder is loaded only for what is not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from engine.text import Embedding, Request, embed
from engine.text_cache import TextCache, cache_folder


@dataclass
class Letters:
    """An encoder whose answer is the letters themselves, and that counts how often it was loaded."""

    name: str = "letters"
    loaded: int = 0
    asked: list[Request] = field(default_factory=list)

    def identity(self) -> str:
        return self.name

    @contextmanager
    def opened(self) -> Iterator[Callable[[Request], Embedding]]:
        self.loaded += 1
        yield self._encode

    def _encode(self, request: Request) -> Embedding:
        self.asked.append(request)
        codes = torch.tensor([ord(c) for c in (request.instruction + request.prompt).ljust(8)[:8]])
        return Embedding(
            states=codes[None, :, None].bfloat16().expand(1, 8, 4),
            mask=(codes != 32)[None],
            lost=max(len(request.prompt) - 8, 0),
        )


def same(a: Embedding, b: Embedding) -> bool:
    return (
        torch.equal(a.states, b.states) and torch.equal(a.mask, b.mask) and a.states.dtype == b.states.dtype
    )


def test_a_prompt_is_encoded_once(tmp_path: Path) -> None:
    encoder, cache, said = Letters(), TextCache(tmp_path / "text"), []
    prompt, negative = Request("hill", "see "), Request("")
    first = embed([prompt, negative, prompt], encoder, cache=cache, on_step=said.append)
    assert encoder.asked == [prompt, negative]
    assert said == ["loading the text encoder", "encoding the prompt", "encoding the prompt"]
    again = embed([prompt, negative], encoder, cache=TextCache(tmp_path / "text"))
    assert (encoder.loaded, len(encoder.asked)) == (1, 2)
    assert same(again[0], first[0])
    assert same(again[1], first[1])
    assert same(first[0], first[2])


def test_whatever_changes_the_answer_changes_the_key(tmp_path: Path) -> None:
    cache, encoder = TextCache(tmp_path), Letters()
    embed([Request("hill", "see ")], encoder, cache=cache)
    for request, name in (
        (Request("hills", "see "), "letters"),
        (Request("hill", "see"), "letters"),
        (Request("see hill"), "letters"),
        (Request("hill", "see "), "other"),
    ):
        assert cache.get(name, request) is None
    assert cache.get("letters", Request("hill", "see ")) is not None


def flipped(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


@pytest.mark.parametrize("harm", [lambda d: d[:-5], flipped, lambda d: b"", lambda d: b"\x00" * len(d)])
def test_a_broken_file_is_encoded_again(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    encoder, cache, request = Letters(), TextCache(tmp_path), Request("hill")
    (want,) = embed([request], encoder, cache=cache)
    path = cache.path("letters", request)
    path.write_bytes(harm(path.read_bytes()))
    (got,) = embed([request], encoder, cache=cache)
    assert encoder.loaded == 2
    assert same(got, want)
    assert same(cache.get("letters", request), want)


def test_a_file_that_holds_something_else_is_encoded_again(tmp_path: Path) -> None:
    cache, request = TextCache(tmp_path), Request("hill")
    mask = torch.ones(1, 8, dtype=torch.bool)
    for states in (torch.ones(1, 7, 4), torch.full((1, 8, 4), torch.nan), torch.ones(8, 4)):
        cache.put("letters", request, Embedding(states=states, mask=mask))
        assert cache.get("letters", request) is None


def test_what_was_not_read_for_longest_goes_first(tmp_path: Path) -> None:
    encoder = Letters()
    cache = TextCache(tmp_path)
    requests = [Request(c) for c in "abcd"]
    embed(requests[:3], encoder, cache=cache)
    for age, request in enumerate(requests[:3]):
        os.utime(cache.path("letters", request), (age, age))
    assert cache.get("letters", requests[0]) is not None  # read: now the youngest
    size = cache.path("letters", requests[0]).stat().st_size
    small = TextCache(tmp_path, largest=3 * size + 10)
    embed([requests[3]], encoder, cache=small)
    assert [small.get("letters", r) is not None for r in requests] == [True, False, True, True]
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_that_cannot_be_written_is_named_but_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a file where the folder should be")
    said: list[str] = []
    (got,) = embed([Request("hill")], Letters(), cache=TextCache(tmp_path / "text"), on_step=said.append)
    assert got.mask.sum() == 4
    assert "could not be kept" in said[-1]


def test_what_does_not_fit_is_told_every_time(tmp_path: Path) -> None:
    encoder, cache = Letters(), TextCache(tmp_path)
    for _ in range(2):
        said: list[str] = []
        embed([Request("hills and more")], encoder, cache=cache, on_step=said.append)
        assert said[-1] == "'hills and more' is 6 tokens too long: its end is not read"
    assert encoder.loaded == 1


def test_without_a_cache_nothing_is_kept() -> None:
    encoder = Letters()
    embed([Request("a")], encoder)
    embed([Request("a")], encoder)
    assert encoder.loaded == 2


def test_a_book_is_no_prompt() -> None:
    with pytest.raises(ValueError, match="20001 characters: use at most 20000"):
        Request("a" * 20_001)


def test_the_folder_is_the_platforms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache_folder().is_relative_to(tmp_path)
    assert cache_folder().name == "text"
