"""What a flight remembers of itself: a save that was asked for is made, whatever is flown next."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from engine import container
from engine.camera import Intrinsics, Pose
from engine.frame import Frame
from explorer import spool as module
from explorer.assets import Scene
from explorer.history import History
from explorer.messages import Kept

LENS = Intrinsics.from_fov(1.2, width=64, height=40)


def scene(name: str) -> Scene:
    return Scene(name=name, title=name, rgb=np.zeros((40, 64, 3), np.uint8), intrinsics=LENS, pose=Pose())


def test_a_flight_that_is_left_while_it_is_saved_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARED", tmp_path / "missing")
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path))
    history = History()
    history.begin(scene("one"))
    state = history.spool.folder / "1.world"
    size = container.write(state, {"state.x": np.arange(3)}, {"index": 1})
    history.flown([Frame(pixels=scene("one").rgb, pose=Pose(), intrinsics=LENS, index=0, world="1")])
    history.kept(Kept(flight=1, index=0, path=state, size=size, seconds=0.0))
    busy = threading.Event()
    history.spool.later(busy.wait)  # as when a large state is moved to disk
    saved = history.save(tmp_path / "one.world", scene("one"))
    history.begin(scene("two"))
    busy.set()
    assert saved.result() > 0
    arrays, record = container.read(tmp_path / "one.world")
    assert arrays["state.x"].tolist() == [0, 1, 2]
    assert record["title"] == "one"
    history.close()
    assert not state.exists()
