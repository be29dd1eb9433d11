"""The video decoder's GPU kernels, interpreted where no GPU is, against their twins; the decoder made of them, too."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from engine.pictures import PictureDecoder
from engine.vae import DecoderState, Vae, to_uint8
from kernels.conv_input import ConvInput, conv_input, conv_input_plain, spread_input, spread_plain
from kernels.to_pixels import to_pixels, to_pixels_plain
from tests.checks.ltx2 import SMALL_VAE, filled, normal
from tests.flights import distance

pytest.importorskip("triton", reason="needs Triton (its interpreter where no GPU is)")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter truncates casts to bf16
FLOOR = torch.finfo(torch.float32).eps  # a unit in the last place: a GPU's exp is off by up to two
Given = dict[str, Tensor | None]


def drawn(**shapes: tuple[int, ...] | None) -> Given:
    g = torch.Generator().manual_seed(len(shapes))
    given = {name: s and torch.randn(s, generator=g, dtype=torch.float64) for name, s in shapes.items()}
    return {name: t for name, t in given.items() if t is not None}


def cast(given: Given, dtype: torch.dtype) -> Given:
    return {name: None if t is None else t.to(DEVICE, dtype) for name, t in given.items()}


def compare(ours: ConvInput, twin: ConvInput, exact: ConvInput) -> None:
    for name in ("p", "tail", "x"):
        a, b, want = (getattr(v, name) for v in (ours, twin, exact))
        assert (a is None) == (want is None), name
        if want is not None:
            assert a.shape == want.shape, name
            assert distance(a, want) <= 2 * max(distance(b, want), FLOOR), name


@pytest.mark.parametrize(
    ("shape", "has"),
    [
        ((1, 1, 2, 2, 3), ("tail", "bias")),  # one frame: the older of the tail stays
        ((2, 1, 5, 3, 24), ()),
        ((2, 3, 2, 7, 24), ("bias", "skip", "tail")),
        ((1, 4, 9, 16, 130), ("bias", "skip")),
    ],
    ids=str,
)
@pytest.mark.parametrize(("norm", "keep"), [(True, True), (True, False), (False, False)])
def test_kernel_equals_twin(shape: tuple[int, ...], has: tuple[str, ...], norm: bool, keep: bool) -> None:
    B, _, Y, X, C = shape
    shapes = dict(y=shape, bias=(C,), skip=shape, tail=(B, 2, Y, X, C))
    given = drawn(**{name: s for name, s in shapes.items() if name in ("y", *has)})
    exact = conv_input_plain(**cast(given, torch.float64), norm=norm, keep=keep)
    twin = conv_input_plain(**cast(given, torch.float32), norm=norm, keep=keep)
    compare(conv_input(**cast(given, torch.float32), norm=norm, keep=keep), twin, exact)


def test_half_precision_is_rounded_once() -> None:
    shape, dtype = (1, 3, 4, 5, 24), HALF
    given = cast(drawn(y=shape, bias=(24,), skip=shape, tail=(1, 2, 4, 5, 24)), dtype)
    exact = conv_input_plain(**cast(given, torch.float64), keep=True)
    ours, twin = (form(**given, keep=True) for form in (conv_input, conv_input_plain))
    assert ours.x is not None
    assert {ours.p.dtype, ours.tail.dtype, ours.x.dtype} == {dtype}
    compare(ours, twin, exact)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("B", "F", "Y", "X", "C"), [(1, 1, 2, 2, 8), (2, 3, 3, 5, 24)])
def test_spreading_kernel_equals_twin(B: int, F: int, Y: int, X: int, C: int, first: bool) -> None:
    """C channels below, half of them above."""
    tail = None if first else (B, 2, 2 * Y, 2 * X, C // 2)
    given = drawn(y=(B, F, Y, X, 4 * C), bias=(4 * C,), skip=(B, F + 2, Y + 2, X + 2, C), tail=tail)

    def plain(dtype: torch.dtype) -> ConvInput:
        t = cast(given, dtype)
        before = t.pop("tail", None)
        return conv_input_plain(spread_plain(**t, first=first), tail=before, keep=True)

    ours = spread_input(**{"tail": None, **cast(given, torch.float32)})
    compare(ours, plain(torch.float32), plain(torch.float64))


@pytest.mark.parametrize(
    ("shape", "patch"), [((1, 1, 1, 1), 4), ((2, 3, 5, 7), 4), ((1, 2, 3, 200), 2)], ids=str
)
def test_bytes_equal_the_twin(shape: tuple[int, ...], patch: int) -> None:
    given = drawn(y=(*shape, 3 * patch**2), bias=(3 * patch**2,))
    ours = to_pixels(**cast(given, torch.float32), patch=patch)
    want = to_pixels_plain(**cast(given, torch.float32), patch=patch)
    assert ours.dtype == torch.uint8
    assert {0, 255} < set(ours.flatten().tolist()) or ours.numel() < 100
    assert (ours.int() - want.int()).abs().max() <= 1  # a fused product may round across a whole number
    assert (ours != want).double().mean() < 1e-3


def test_impossible_shapes_are_refused() -> None:
    y = torch.zeros(1, 1, 1, 4, 8, device=DEVICE)
    with pytest.raises(ValueError, match="frames of 1x4 have no border"):
        conv_input(y)
    with pytest.raises(ValueError, match=r"a skip of shape \(1, 1, 1, 4, 8\)"):
        conv_input(y.expand(1, 2, 1, 4, 8), skip=y)
    with pytest.raises(ValueError, match=r"a tail of shape \(1, 1, 1, 4, 8\)"):
        conv_input(y.expand(1, 1, 2, 4, 8), tail=y)


def test_a_decoder_that_looks_ahead_makes_no_stream() -> None:
    vae = Vae(replace(SMALL_VAE, decoder_causal=False))
    with pytest.raises(ValueError, match="looks ahead"):
        PictureDecoder(vae, together=1)


def small() -> tuple[Vae, Vae]:
    """The same decoder twice: as it runs here, and as an oracle in fp64."""
    config = replace(SMALL_VAE, decoder_widths=(16, 8), decoder_layers=(2, 2, 1))
    ours, exact = (filled(Vae(config)).requires_grad_(False) for _ in range(2))
    assert isinstance(ours, Vae)
    assert isinstance(exact, Vae)
    return ours.to(DEVICE), exact.double()


def fused(vae: Vae, together: int) -> PictureDecoder:
    decoder = PictureDecoder(vae, together=together)
    decoder.fused = True  # as on a GPU
    return decoder


LATENTS = normal(3, 1, 8, 3, 2, 3)


@pytest.mark.parametrize(("cuts", "together"), [((0, 3), 3), ((0, 1, 3), 1)])
def test_the_decoder_equals_the_plain_one(cuts: tuple[int, ...], together: int) -> None:
    """However the stream is cut: pictures of the whole clip in fp64, and the tails that the plain decoder leaves."""
    ours, exact = small()
    decoder, state, pictures = fused(ours, together), None, []
    for a, b in pairwise(cuts):
        given, state = decoder.decode(LATENTS[:, :, a:b].to(DEVICE), state)
        pictures += [torch.from_numpy(x) for x in given]
    frames, want = exact.decode(LATENTS.double())
    assert state is not None
    assert_alike(torch.stack(pictures), to_uint8(frames)[0])
    for tail, right in zip(state.tails, want.tails, strict=True):
        torch.testing.assert_close(tail.double().cpu(), right, rtol=1e-4, atol=1e-4)
        assert tail.untyped_storage().nbytes() == tail.nbytes


def test_states_of_both_decoders_are_the_same_thing() -> None:
    """A flight saved by one goes on in the other, and the state that it went on from stays as it was."""
    ours, exact = small()
    _, state = exact.decode(LATENTS[:, :, :1].double())
    given = DecoderState(tuple(t.to(DEVICE, torch.float32) for t in state.tails))
    kept = [t.clone() for t in given.tails]
    pictures, after = fused(ours, 2).decode(LATENTS[:, :, 1:].to(DEVICE), given)
    frames, want = exact.decode(LATENTS[:, :, 1:].double(), state)
    assert_alike(torch.stack([torch.from_numpy(x) for x in pictures]), to_uint8(frames)[0])
    assert all(torch.equal(a, b) for a, b in zip(kept, given.tails, strict=True))
    back = DecoderState(tuple(t.cpu().double() for t in after.tails))
    (a, _), (b, _) = (exact.decode(LATENTS[:, :, :1].double(), s) for s in (back, want))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def assert_alike(ours: Tensor, want: Tensor) -> None:
    """Bytes that differ at most where a fraction was cut off on either side of a whole number."""
    assert ours.shape == want.shape
    assert (ours.int() - want.int()).abs().max() <= 1
    assert (ours != want).double().mean() < 2e-3
