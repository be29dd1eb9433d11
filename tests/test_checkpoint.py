"""Checkpoint files: what goes in comes out, and every kind of broken file says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from engine.checkpoint import SCALE, expand_rows, load_module, quantise_rows, read_config, save_module


class Net(nn.Module):
    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.wide = nn.Linear(96, width)
        self.kernel = nn.Conv2d(16, 32, 3)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("mean", torch.randn(7))
        self.register_buffer("count", torch.tensor(3))


def _saved(tmp_path: Path, **options: Any) -> tuple[Path, Net]:
    torch.manual_seed(0)
    net, path = Net(), tmp_path / "net.safetensors"
    save_module(path, net, kind="net", config={"width": 48}, **options)
    return path, net


def test_error_is_at_most_half_a_step() -> None:
    w = torch.randn(64, 33, 3) * torch.logspace(-6, 2, 64)[:, None, None]
    w[5] = 0
    q, scale = quantise_rows(w)
    error = (expand_rows(q, scale).double() - w.double()).abs().flatten(1).amax(1)
    # half a step, and the rounding of w/scale and q·scale in fp32: 127 steps of 2⁻²⁴ each
    assert (error <= scale.double() * (0.5 + 2 * 127 * 2**-24)).all()
    assert scale[5] == 0
    assert expand_rows(q, scale)[5].eq(0).all()


def test_round_trip_quantised(tmp_path: Path) -> None:
    path, net = _saved(tmp_path)
    torch.manual_seed(1)
    other = Net()
    assert load_module(path, other, kind="net") == {"width": 48}
    assert read_config(path, kind="net") == {"width": 48}
    for name, t in net.state_dict().items():
        expected = expand_rows(*quantise_rows(t)) if name in ("wide.weight", "kernel.weight") else t
        assert torch.equal(other.state_dict()[name], expected), name
    assert load_file(path)["wide.weight"].dtype == torch.int8


def test_round_trip_exact_and_half(tmp_path: Path) -> None:
    path, net = _saved(tmp_path, quantise=False)
    with torch.device("meta"):
        other = Net()
    load_module(path, other, kind="net", dtype=torch.bfloat16)
    for name, t in net.state_dict().items():
        got = other.state_dict()[name]
        assert torch.equal(got, t.bfloat16() if t.is_floating_point() else t), name


def test_others_may_read_the_file(tmp_path: Path) -> None:
    """Weights are installed once and used by everyone, as far as the umask lets them."""
    path, _ = _saved(tmp_path)
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_layout_survives(tmp_path: Path) -> None:
    path, _ = _saved(tmp_path)
    net = Net().to(memory_format=torch.channels_last)
    load_module(path, net, kind="net")
    assert net.kernel.weight.is_contiguous(memory_format=torch.channels_last)


def test_every_wrong_tensor_is_named(tmp_path: Path) -> None:
    path, net = _saved(tmp_path, quantise=False)
    tensors = load_file(path)
    del tensors["norm.bias"], net.norm
    net.extra = nn.Linear(2, 3)  # type: ignore[assignment]
    net.wide = nn.Linear(95, 48)
    with pytest.raises(ValueError, match="does not fit this model") as caught:
        load_module(path, net, kind="net")
    message = str(caught.value)
    assert "missing: extra.bias, extra.weight" in message
    assert "not known: norm.bias, norm.weight" in message
    assert "wide.weight is 48x96, not 48x95" in message
    assert "\n" not in message


def _tampered(path: Path, out: Path, *, metadata: dict[str, str] | None = None, flip: bool = False) -> Path:
    """The same file with other metadata, or with one number changed behind the back of the hash."""
    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    tensors = load_file(path)
    if flip:
        tensors["norm.weight"][0] += 1
    save_file(tensors, out, {**old, **(metadata or {})})
    return out


def test_broken_files_say_so(tmp_path: Path) -> None:
    path, net = _saved(tmp_path)
    out = tmp_path / "broken.safetensors"
    whole = path.read_bytes()

    def refused(match: str) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            load_module(out, net, kind="net")
        assert "\n" not in str(caught.value)

    refused("no weights at")
    for junk in (b"", b"\x00" * 64, b"PK\x03\x04 not a tensor", whole[: len(whole) // 2], whole[:6]):
        out.write_bytes(junk)
        refused("not a whole safetensors file")
    save_file({"a": torch.zeros(2)}, out)
    refused("not weights saved by World Explorer")
    _tampered(path, out, metadata={"format": "99"})
    refused("format '99'")
    _tampered(path, out, metadata={"kind": "codec"})
    refused("holds a 'codec', not a 'net'")
    _tampered(path, out, metadata={"config": "{"})
    refused("not JSON")
    _tampered(path, out, metadata={"config": json.dumps([1])})
    refused("not a JSON object")
    _tampered(path, out, flip=True)
    refused("damaged")


def test_infinite_weights_are_refused(tmp_path: Path) -> None:
    net, path = Net(), tmp_path / "net.safetensors"
    nn.init.constant_(net.norm.weight, float("inf"))
    save_module(path, net, kind="net", config={})
    with pytest.raises(ValueError, match=r"norm\.weight that are not finite"):
        load_module(path, Net(), kind="net")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path, net = _saved(tmp_path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_module(path, net, kind="net", config={"width": object()})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_scales_have_names_no_parameter_can_have(tmp_path: Path) -> None:
    path, net = _saved(tmp_path)
    assert {n for n in load_file(path) if SCALE in n} == {"wide.weight:scale", "kernel.weight:scale"}
    assert not any(":" in n for n in net.state_dict())
