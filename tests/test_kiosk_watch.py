"""Watching a station: real sockets, and a QR code read back by another library."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pygame
import pytest
from websockets.sync.client import connect

from engine.camera import Intrinsics, Pose
from engine.frame import Frame
from explorer import protocol as wire
from explorer.assets import Scene
from explorer.kiosk import cards
from explorer.kiosk.journal import Journal
from explorer.kiosk.settings import Watch
from explorer.kiosk.watch import Watching, qr
from explorer.messages import Ready
from explorer.pacer import Shown
from explorer.paint import Brush
from tests.client import Client
from tests.tiny import hills

LENS = Intrinsics(fx=200.0, fy=200.0, cx=128.0, cy=80.0, width=256, height=160)
SPEC = Ready(name="tiny", width=256, height=160, fps=16, chunk_frames=8, memory="")
SCENES = [Scene(name=f"scene-{i}", title=f"Hills {i}", rgb=hills(i), intrinsics=LENS) for i in range(2)]


@pytest.fixture
def watching() -> Iterator[Watching]:
    settings = Watch(enabled=True, host="127.0.0.1", port=0, max_viewers=2, address="http://station.example/")
    opened = Watching(settings, SPEC, SCENES)
    try:
        yield opened
    finally:
        opened.stop()


def test_a_phone_that_comes_while_the_world_rests_sees_it(watching: Watching) -> None:
    frame = Frame(pixels=hills(1), pose=Pose(), intrinsics=LENS, index=7, world="1")
    watching.show(Shown(frame, time.perf_counter(), 0))
    watching.send()  # to nobody
    port = watching._broadcast.port
    with connect(f"ws://127.0.0.1:{port}/socket") as ours:
        client = Client(ours)
        client.hear(wire.Hello)
        client.say(wire.Credit(frames=1))
        while not watching.viewers:
            time.sleep(0.01)
        watching.send()
        picture = client.hear(wire.Picture)
    assert isinstance(picture, wire.Picture)
    assert picture.index == 7
    seen = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(seen.astype(int) - hills(1)).mean() < 6


def test_its_own_name_is_let_in(watching: Watching) -> None:
    port = watching._broadcast.port
    for name, allowed in (("station.example", True), ("elsewhere.example", False)):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": name})
        if allowed:
            with urllib.request.urlopen(request) as page:
                assert page.status == 200
        else:
            with pytest.raises(urllib.error.HTTPError, match="403") as refused:
                urllib.request.urlopen(request)
            refused.value.close()


@pytest.mark.parametrize("height", [600, 800, 1440])
@pytest.mark.parametrize("address", ["http://192.0.2.7:8765/", "https://world.example/" + "x" * 60])
def test_the_code_on_the_screen_reads_back(address: str, height: int) -> None:
    pygame.font.init()
    card = cards.phone(Brush(height), "Watch on your phone", qr(address))
    pixels = pygame.surfarray.array3d(card).swapaxes(0, 1).astype(np.uint8)
    text, _, _ = cv2.QRCodeDetector().detectAndDecode(np.ascontiguousarray(pixels))
    assert text == address


def test_the_log_rotates_and_the_page_sees_one_line_each(tmp_path: Path) -> None:
    journal = Journal(tmp_path, megabytes=0.01, files=2)
    for i in range(400):
        journal.trouble(f"Traceback (most recent call last):\n  somewhere\nValueError: number {i}")
    journal.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["station.log", "station.log.1", "station.log.2"]
    assert all(path.stat().st_size <= 10_000 for path in tmp_path.iterdir())
    assert journal.recent[-1].words == "ValueError: number 399"
    assert "Traceback" in (tmp_path / "station.log").read_text()
