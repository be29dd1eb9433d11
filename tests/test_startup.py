"""First impressions: named steps, what happens only the first time, smooth corners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pygame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.paint import Brush, rounded
from explorer.startup import Steps, startup_card
from explorer.state_folder import first_time
from explorer.theme import GOOD


@given(st.lists(st.sampled_from(["", "a", "b", "c"])))
def test_steps_keep_their_order_and_never_repeat_one_under_way(notes: list[str]) -> None:
    steps = Steps()
    for note in notes:
        steps = steps.then(note)
        assert not note or steps.names[-1] == note
    heard = [note for note in notes if note]
    assert list(steps.names) == [n for i, n in enumerate(heard) if i == 0 or heard[i - 1] != n]


def test_steps_done_have_a_tick() -> None:
    pygame.font.init()
    green = []
    for done in range(3):
        names = [f"step {i}" for i in range(done + 1)]
        pixels = pygame.surfarray.array3d(startup_card(Brush(800), "Meadow", names, seconds=1.0)).astype(int)
        green.append(int((np.abs(pixels - GOOD).sum(-1) < 60).sum()))
    assert green[0] == 0
    assert 0 < green[1] < green[2]


def test_the_first_time_comes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "new"))
    monkeypatch.setenv("HOME", str(tmp_path / "new"))
    assert [first_time("flight"), first_time("flight"), first_time("other")] == [True, False, True]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert not first_time("flight")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 30), st.integers(1, 255))
def test_a_rounded_card_is_symmetrical_and_of_one_colour(w: int, h: int, radius: int, opacity: int) -> None:
    card = rounded((w, h), (200, 100, 50, opacity), radius=radius)
    alpha = pygame.surfarray.array_alpha(card).astype(int)
    limit = min(radius, w // 2, h // 2)
    assert np.abs(alpha - alpha[::-1]).max() <= 8
    assert np.abs(alpha - alpha[:, ::-1]).max() <= 8
    assert (alpha[limit : w - limit] == opacity).all()
    assert alpha.max() <= opacity
