"""The refiner: window arithmetic, states as values, memory, and what a config may ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.ltx2 import LTX2_REFINER, refiner_config
from engine.refiner import Refiner, RefinerState
from engine.refiner_model import RefinerModel, is_unread
from engine.refiner_room import KV
from engine.refiner_rope import Turn, turns
from engine.release import empty
from engine.values import mapped, tensors
from kernels.norm_turn import turned
from tests.checks.ltx2 import SMALL_REFINER, filled, normal
from tests.checks.vae import count
from tests.test_whole import FAKE, NothingSent, without_numbers

GRID = (2, 3)
LATENTS = normal(1, 1, 8, 22, *GRID)
CPU = torch.device("cpu")


def refiner(**change: object) -> Refiner:
    model = filled(RefinerModel(replace(SMALL_REFINER, **change)))
    assert isinstance(model, RefinerModel)
    return Refiner(model)


def begun(r: Refiner) -> RefinerState:
    return r.start(LATENTS[:, :, : r.config.sink], prompt=r.prompt(normal(2, 1, 7, 12)))


def run(r: Refiner, state: RefinerState, blocks: int) -> tuple[list[Tensor], RefinerState]:
    out = []
    for _ in range(blocks):
        refined, state = r.step(state, LATENTS[:, :, state.frame : state.frame + r.config.block])
        out.append(refined)
    return out, state


def test_history_grows_to_the_window_and_cuts_inside_a_block() -> None:
    """The published lengths: 0, 3, 6, 9, 10, 10."""
    r = refiner(window=11)
    state, held = begun(r), []
    for _ in range(6):
        held.append(state.held)
        _, state = run(r, state, 1)
        for blocks in state.history:
            lengths = [[x.shape[1] for x in (kv.k, kv.v)] for kv in blocks]
            assert [sum(n) for n in zip(*lengths, strict=True)] == [6 * state.held] * 2
            for x in tensors(blocks):
                assert x.untyped_storage().nbytes() == x.nbytes  # what was forgotten is freed
    assert held == [0, 3, 6, 9, 10, 10]
    assert state.frame == 19


def test_states_share_the_blocks_that_both_remember() -> None:
    """Only the newest is new, and the rest of one that the window cuts."""
    r = refiner(window=11)
    _, before = run(r, begun(r), 4)
    _, after = run(r, before, 1)
    for old, new in zip(before.history, after.history, strict=True):
        assert [kv.tokens // 6 for kv in old] == [kv.tokens // 6 for kv in new] == [1, 3, 3, 3]
        assert all(a is b for a, b in zip(old[2:], new[1:3], strict=True))
        assert torch.equal(new[0].k, old[1].k[:, -6:])


@pytest.mark.parametrize("window", [1, 2, 5])
def test_small_windows(window: int) -> None:
    r = refiner(window=window)
    _, state = run(r, begun(r), 3)
    assert state.held == window - 1
    assert all(sum(kv.tokens for kv in blocks) == 6 * (window - 1) for blocks in state.history)


def test_what_lies_before_the_window_is_forgotten() -> None:
    """A window that holds the sink alone: the second block knows nothing of the first."""
    r = refiner(window=1)
    _, state = run(r, begun(r), 1)
    fresh = replace(begun(r), frame=state.frame)
    a, b = (run(r, s, 1)[0][0] for s in (state, fresh))
    assert torch.equal(a, b)


def test_an_old_state_stays_valid_and_seeds_repeat() -> None:
    r = refiner()
    _, state = run(r, begun(r), 2)
    kept = [x.clone() for x in tensors(state.history)]
    a, _ = run(r, state, 2)
    b, _ = run(r, state, 2)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(kept, tensors(state.history), strict=True))
    c, _ = run(r, replace(state, seed=7), 1)
    assert not torch.equal(a[0], c[0])


def test_the_prompt_of_a_stream_can_change() -> None:
    r = refiner()
    _, state = run(r, begun(r), 1)
    other = replace(state, prompt=r.prompt(normal(3, 1, 5, 12)))
    a, b = (run(r, s, 1)[0][0] for s in (state, other))
    assert not torch.allclose(a, b)


def test_masked_words_do_not_count() -> None:
    r, words = refiner(), normal(2, 1, 7, 12)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    outs = []
    for prompt in (r.prompt(words, mask), r.prompt(words[:, 2:])):
        outs.append(run(r, replace(begun(r), prompt=prompt), 1)[0][0])
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)


def test_a_whole_clip_is_one_block() -> None:
    r = refiner()
    prompt = r.prompt(normal(2, 1, 7, 12))
    noise = normal(4, 1, 8, 6, *GRID)
    whole = r.refine_clip(LATENTS[:, :, :7], prompt=prompt, noise=noise)
    block, _ = r.step(r.start(LATENTS[:, :, :1], prompt=prompt), LATENTS[:, :, 1:7], noise=noise)
    assert torch.equal(whole, torch.cat((LATENTS[:, :, :1], block), dim=2))


def test_keys_joined_once_or_in_every_pass_are_the_same() -> None:
    runs = []
    for hold in (False, True):
        r = refiner(hold=hold)
        out, state = run(r, begun(r), 3)
        runs.append([*out, *tensors(state.history)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def flown(*, fast: bool, window: int, device: str = "cpu") -> list[Tensor]:
    """13 blocks and what is remembered: four prompts in turns, an older state again, another flight between."""
    model = filled(RefinerModel(replace(SMALL_REFINER, window=window))).to(device)
    assert isinstance(model, RefinerModel)
    r, latents = Refiner(model, fast=fast), LATENTS.to(device)
    words = [normal(2, 1, 7, 12), normal(3, 1, 7, 12), normal(4, 1, 5, 12)]
    prompts = [r.prompt(w.to(device)) for w in words]
    uneven = torch.tensor([[1, 1, 0, 1, 1, 1, 1]], device=device)
    prompts.append(r.prompt(words[0].to(device), uneven))
    state, out, states = r.start(latents[:, :, :1], prompt=prompts[0]), [], []
    with torch.inference_mode():
        for i, prompt in enumerate((0, 0, 0, 0, 0, 1, 2, 2, 2, 3, 3, 0, 0)):
            if i == 7:
                state = states[4]  # back, under another prompt
            if i == 9:
                other = r.start(latents[:, :, 3:4], prompt=prompts[1], seed=7)
                more, other = r.step(other, latents[:, :, 4:7])  # its window is empty
                out += [more, *tensors(other.history)]
            states.append(state)
            at = i % 5
            refined, state = r.step(replace(state, prompt=prompts[prompt]), latents[:, :, 1 + at : 4 + at])
            out += [refined, *tensors(state.history)]
        out += [x for s in states for x in tensors((s.sink, s.history))]  # nobody wrote there
    assert (r.steady is not None and r.steady.ready) == (fast and device == "cuda")
    return out


@pytest.mark.parametrize("window", [5, 8])
def test_in_memory_that_stays_a_block_is_the_same(window: int) -> None:
    """Filled anew for every block, and going on."""
    runs = (flown(fast=fast, window=window) for fast in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("window", [5, 8])
def test_captured_a_block_is_the_same(window: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    runs = (flown(fast=fast, window=window, device="cuda") for fast in (True, False))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def coming(state: RefinerState) -> Tensor:
    """Some latents for the block after a state, however far it is."""
    at = state.frame % 19
    return LATENTS[:, :, at : at + 3]


def same(a: tuple[Tensor, RefinerState], b: tuple[Tensor, RefinerState]) -> bool:
    """What came out of two steps, and all that they remember, bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each piece of a history that is copied into a memory."""
    tokens, fill = [], KV.fill

    def counted(there: KV, first: int, other: KV) -> None:
        tokens.append(other.tokens)
        fill(there, first, other)

    monkeypatch.setattr(KV, "fill", counted)
    return tokens


@pytest.mark.parametrize("window", [3, 4, 5, 6, 7, 8, 9, 10, 11])
def test_behind_a_full_window_only_what_is_new_is_filled_in(window: int, copies: list[int]) -> None:
    """In two pieces at most; as good as all of it, over twelve blocks behind the window. All where it cuts the newest block."""
    plain = refiner(window=window)
    going, state, frames = Refiner(plain.model, fast=True), begun(plain), []
    for _ in range(16):
        full, latents = state.held == window - 1, coming(state)
        wanted = [r.step(state, latents) for r in (plain, Refiner(plain.model, fast=True))]
        copies.clear()
        got = going.step(state, latents)
        assert all(same(got, w) for w in wanted)
        if full:
            frames.append(sum(copies) / 6 / 2)
            assert frames[-1] > 3 or len(copies) <= 2 * 2  # pieces and layers
        state = got[1]
    assert len(frames) >= 12
    assert frames[0] == window - 1
    assert set(frames[1:]) == {3 if window > 6 else window - 1}


def test_the_order_of_keys_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the oldest to the newest, as released, or each in the place of its number: equal but for rounding."""
    ring, row = refiner(window=11), refiner(window=11)
    past = row._past
    monkeypatch.setattr(row, "_past", lambda s, on: [replace(p, first=0) for p in past(s, on)])
    states, differ = [begun(ring), begun(row)], 0
    for _ in range(12):
        latents = coming(states[0])
        (a, one), (b, two) = (r.step(s, latents) for r, s in zip((ring, row), states, strict=True))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        differ, states = differ + (not torch.equal(a, b)), [one, two]
    assert differ  # it was another order


class Watched:
    """A refiner in memory that stays, beside a plain one."""

    def __init__(self, copies: list[int]) -> None:
        self.plain = refiner(window=11)
        self._going, self._copies = Refiner(self.plain.model, fast=True), copies

    def after(self, state: RefinerState, blocks: int = 1) -> RefinerState:
        for _ in range(blocks):
            _, state = self.plain.step(state, coming(state))
        return state

    def filled(self, *states: RefinerState) -> list[float]:
        """Step from one state after the other, as the plain one does. Returns the frames filled in, of each layer."""
        frames = []
        for state in states:
            latents = coming(state).repeat(state.sink[0].k.shape[0], 1, 1, 1, 1)
            latents = latents.reshape(*latents.shape[:3], *state.grid)
            wanted = self.plain.step(state, latents)
            self._copies.clear()
            assert same(self._going.step(state, latents), wanted)
            frames.append(sum(self._copies) / 6 / 2)
        return frames


def test_whichever_past_comes_next_its_history_is_there(copies: list[int]) -> None:
    """Again, back, of another flight, under another prompt, from a file, at another time."""
    r = Watched(copies)
    a, b = (r.after(replace(begun(r.plain), seed=seed), 4) for seed in (1, 2))
    after = r.after(a)
    assert r.filled(a, a, after, after, a, after) == [10, 0, 3, 0, 10, 3]
    assert r.filled(b, after, r.after(b), after, r.after(after)) == [10, 10, 10, 10, 3]
    told = replace(after, prompt=r.plain.prompt(normal(3, 1, 5, 12)))
    assert r.filled(after, told, r.after(told)) == [10, 0, 3]
    loaded = mapped(after, torch.clone)
    assert r.filled(after, loaded, r.after(loaded), after) == [10, 10, 3, 10]
    whole = tuple((joined(blocks),) for blocks in after.history)  # as old files have it
    for history in (whole, (whole[0], *after.history[1:])):
        old = replace(after, history=history)
        assert r.filled(a, old, old, r.after(old), r.after(old, 2)) == [10, 10, 0, 10, 10]
    later = replace(after, frame=after.frame + 1)  # other places for the same keys
    assert r.filled(after, later, later, after) == [10, 10, 0, 10]


def joined(blocks: tuple[KV, ...]) -> KV:
    return KV(torch.cat([kv.k for kv in blocks], dim=1), torch.cat([kv.v for kv in blocks], dim=1))


@pytest.mark.parametrize(
    ("lengths", "new"),
    [((1,), 1), ((5,), 5), ((7,), 7), ((8,), 10), ((10,), 10), ((12,), 10), ((1, 2), 3), ((3, 4, 1), 10)],
)
def test_what_is_remembered_without_a_step_is_filled_in_too(
    lengths: tuple[int, ...], new: int, copies: list[int]
) -> None:
    """Blocks of any length and number; all of the history where they leave the newest one that stands there no place."""
    r = Watched(copies)
    state = grown = r.after(begun(r.plain), 5)
    for length in lengths:
        grown = r.plain.commit(grown, LATENTS[:, :, :length])
    assert r.filled(state, grown, r.after(grown)) == [10, new, 3 if lengths[-1] <= 7 else 10]


def test_a_window_that_fills_again_leaves_nothing_that_is_trusted(copies: list[int]) -> None:
    """After a gap, and of other shapes: rows for columns, two clips at once."""
    r = Watched(copies)
    state = r.after(begun(r.plain), 5)
    gap = r.plain.skip(state, 4)
    line = [r.after(gap, blocks) for blocks in range(5)]
    assert [s.held for s in line] == [0, 3, 6, 9, 10]
    assert r.filled(state, *line, state, line[1], state) == [10, 0, 3, 6, 9, 10, 10, 3, 10]
    high = r.plain.start(LATENTS[:, :, :1].reshape(1, 8, 1, 3, 2), prompt=state.prompt)
    two = r.plain.start(LATENTS[:, :, :1].repeat(2, 1, 1, 1, 1), prompt=r.plain.prompt(normal(2, 2, 7, 12)))
    for other in (high, two):
        for _ in range(6):
            latents = coming(other).repeat(other.sink[0].k.shape[0], 1, 1, 1, 1)
            _, other = r.plain.step(other, latents.reshape(*latents.shape[:3], *other.grid))
        assert r.filled(other, other, state) == [10, 0, 10]


@pytest.mark.parametrize(
    ("owner", "name", "at"), [(KV, "fill", 2), (RefinerModel, "forward", 2), (RefinerModel, "remember", 1)]
)
def test_a_step_that_failed_leaves_memory_that_is_as_good(
    owner: type, name: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halfway through what is filled in, between two passes, or in the last."""
    plain = refiner(window=8)
    going = Refiner(plain.model, fast=True)
    a, b = begun(plain), replace(begun(plain), seed=7)
    for _ in range(4):
        a, b = (plain.step(s, coming(s))[1] for s in (a, b))
    whole = getattr(owner, name)
    for state in (plain.step(a, coming(a))[1], b):
        going.step(a, coming(a))
        calls: list[None] = []

        def failing(*args: Any, calls: list[None] = calls, **given: Any) -> Any:
            calls.append(None)
            if len(calls) == at:
                raise RuntimeError("no more memory")
            return whole(*args, **given)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, failing)
            with pytest.raises(RuntimeError, match="no more memory"):
                going.step(state, coming(state))
        for again in (state, a, b):
            assert same(going.step(again, coming(again)), plain.step(again, coming(again)))


def test_a_history_longer_than_the_window_has_fresh_memory() -> None:
    """That of a flight saved where the window was longer."""
    longer, plain = refiner(window=11), refiner(window=5)
    _, state = run(longer, begun(longer), 5)
    going = Refiner(plain.model, fast=True)
    for _ in range(4):
        wanted, got = (r.step(state, coming(state)) for r in (plain, going))
        assert same(wanted, got)
        state = got[1]
    assert state.held == 4


@pytest.mark.parametrize("change", [{"hold": False}, {"window": 2}, {}], ids=str)
def test_what_does_not_come_again_has_fresh_memory(change: dict[str, Any]) -> None:
    """Blocks of another length, windows shorter than a block, and configs that hold nothing."""
    r = Refiner(refiner(**change).model, fast=True)
    plain = refiner(**change)
    noise = normal(4, 1, 8, 4, *GRID)
    states = [begun(r), begun(plain)]
    outs = [x.step(s, LATENTS[:, :, 1:5], noise=noise)[0] for x, s in zip((r, plain), states, strict=True)]
    assert torch.equal(*outs)
    assert r.steady is not None
    assert not r.steady._memory
    assert r.steady.fits(LATENTS[:, :, 1:4], 0) == (not change)


def test_nothing_in_the_passes_of_a_block_is_looked_at_or_sent() -> None:
    """What a capture allows, as far as it shows without a GPU."""
    model = filled(RefinerModel(SMALL_REFINER))
    assert isinstance(model, RefinerModel)
    r = Refiner(model, fast=True)
    _, state = run(r, begun(r), 3)
    latents = LATENTS[:, :, :3]
    assert r.steady is not None
    with torch.inference_mode():
        rooms = r.steady.enter(r._past(state, CPU), 6)
    given = without_numbers((latents, torch.zeros_like(latents), r._told(state, latents)))
    r.steady._memory = without_numbers(r.steady._memory)
    model.load_state_dict({k: FAKE.from_tensor(v) for k, v in model.state_dict().items()}, assign=True)
    with FAKE, torch.inference_mode(), NothingSent():
        refined = r.steady(*given, rooms)
    assert refined.shape == latents.shape


def test_padding_is_cut_and_gaps_are_masked() -> None:
    """Columns that no text uses are gone; what one text uses and another does not is masked for that one."""
    r, words = refiner(), normal(2, 2, 7, 12)
    full, cut = r.prompt(words), r.prompt(words, torch.tensor([[0, 0, 1, 1, 1, 1, 0]] * 2))
    assert full.mask is None
    assert cut.mask is None
    for kv, all in zip(cut.words, full.words, strict=True):
        assert kv.k.shape[1] == 4
        torch.testing.assert_close(kv.k, all.k[:, 2:6])
    uneven = r.prompt(words, torch.tensor([[0, 0, 1, 1, 1, 1, 0], [0, 1, 1, 0, 1, 1, 0]]))
    assert uneven.mask is not None
    assert uneven.mask[:, 0, 0].tolist() == [[False, True, True, True, True], [True, True, False, True, True]]
    none = r.prompt(words, torch.zeros(2, 7))
    assert none.mask is not None
    assert not none.mask.any()


@pytest.mark.parametrize("layout", ["split", "interleaved"])
def test_only_relative_time_counts(layout: str) -> None:
    """Scores do not change when query and key move on together, beyond the short frame 0; in fp64, even after hours."""
    config = replace(SMALL_REFINER, rope=layout, exact_angles=True)
    q, k = normal(5, 1, 6, 2, 20).double(), normal(6, 1, 6, 2, 20).double()

    def by(x: Tensor, at: Turn) -> Tensor:
        return turned(x, cos=at.cos, sin=at.sin, columns=at.columns, split=layout == "split")

    def score(frame: int) -> Tensor:
        a, b = (turns(config, frame=f, frames=1, grid=GRID, device=CPU) for f in (frame, frame + 3))
        return torch.einsum("bthk,bshk->bhts", by(q, a), by(k, b))

    torch.testing.assert_close(score(1), score(20_000), rtol=0, atol=1e-4)
    at = turns(config, frame=9, frames=1, grid=GRID, device=CPU)
    torch.testing.assert_close(by(q, at).norm(), q.norm(), rtol=1e-6, atol=0)


def test_frame_0_is_short() -> None:
    """Its middle is at half a pixel frame, that of latent frame 1 at five: the others are eight apart."""
    seconds = []
    for frame in range(4):
        angle = turns(SMALL_REFINER, frame=frame, frames=1, grid=(1, 1), device=CPU)
        pair = 40 // 2 - 3 * (40 // 6)  # after the pairs that do not turn: time at the lowest speed
        phase = torch.atan2(angle.sin, angle.cos).flatten()[pair].item()
        seconds.append((phase / (torch.pi / 2) + 1) / 2 * 20)
    assert seconds == pytest.approx([0.5 / 16, 5 / 16, 13 / 16, 21 / 16], abs=1e-5)


def test_released_size() -> None:
    model = empty(lambda: RefinerModel(LTX2_REFINER))
    assert count(model) == 13_041_520_768
    assert not any(is_unread(name) for name in model.state_dict())


def test_a_state_of_another_size_is_refused() -> None:
    r = refiner()
    with pytest.raises(ValueError, match="grid"):
        r.step(begun(r), torch.zeros(1, 8, 3, 3, 3))
    with pytest.raises(ValueError, match="this refiner takes 1"):
        r.start(LATENTS[:, :, :2], prompt=r.prompt(normal(2, 1, 7, 12)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gated_attn": True}, "gated_attn=True: only False"),
        ({"rope_type": "spiral"}, "rope_type='spiral'"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"cross_attention_dim": 8}, "cross_attention_dim=8: only 4096"),
        ({"vae_scale_factors": [8, 32]}, "vae_scale_factors"),
    ],
)
def test_a_config_we_cannot_run_is_refused(change: dict[str, object], said: str) -> None:
    assert refiner_config({}) == LTX2_REFINER
    assert refiner_config({"rope_type": "split"}).rope == "split"
    with pytest.raises(ValueError, match=said):
        refiner_config(change)
