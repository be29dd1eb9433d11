"""Filling an empty model part by part, so that each can be reworked before the next one takes memory."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Read = Callable[[str, Tensor], Tensor]  # a tensor's full name, and the one without memory that it replaces
Ready = Callable[[str, nn.Module], None]  # a part's name, and the part with its own tensors in place


def as_is(model: nn.Module) -> Ready:
    """Leave every filled part of a model as it is."""
    return lambda name, part: None


def place(model: nn.Module, read: Read, *, ready: Ready | None = None) -> None:
    """Fill every part in the order of the state dict; `ready` is told of each part, and may put another in its place."""
    names = [name for name, _ in model.named_modules()]  # not the parts: one that is replaced must be gone
    for owner in names:
        part = model.get_submodule(owner)
        _fill(part, f"{owner}." if owner else "", read)
        if ready is not None:
            ready(owner, part)


def _fill(part: nn.Module, prefix: str, read: Read) -> None:
    own = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
    kept = {n: read(prefix + n, t) for n, t in own if n not in part._non_persistent_buffers_set}
    if kept:
        part.load_state_dict(kept, strict=False, assign=True)
