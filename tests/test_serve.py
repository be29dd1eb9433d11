"""`explorer serve` as a person runs it: a real process, a real engine of tiny random weights, a real socket."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from websockets.sync.client import connect

from explorer import protocol as wire
from explorer.assets import load_gallery
from explorer.serve import ServeOptions, thumbnails, welcome
from tests.client import Client
from tests.tiny import tiny_assets


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assets(tmp_path_factory.mktemp("world") / "assets")


@contextlib.contextmanager
def serving(assets: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "explorer.app", "serve", "--device", "cpu", "--threads", "1", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "WORLD_EXPLORER_ASSETS": str(assets), "OMP_NUM_THREADS": "1"},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def lines_until(process: subprocess.Popen[str], last: str) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if last in line:
            return said
    raise AssertionError(f"it ended saying {said!r}")


def test_from_the_command_to_flight_and_back(assets: Path) -> None:
    """The page is up, the world is seen, a pilot moves it, Ctrl-C ends it within a second, and nothing is left."""
    with serving(assets, "--port", "0", "--scene", "scene-2") as process:
        said = lines_until(process, "Ctrl-C")
        assert "Only this computer can connect" in said
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert found, said
        with urllib.request.urlopen(found[0], timeout=5) as reply:
            assert b"World Explorer" in reply.read()
        with connect(f"ws://127.0.0.1:{found[1]}/socket") as ws:
            fly(Client(ws), starts_at=2.0)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        began = time.perf_counter()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) in (0, 130)
        assert time.perf_counter() - began < 1.5
        assert process.stderr is not None
        assert process.stderr.read() == ""
        left = psutil.wait_procs(children, timeout=1)[1]  # dead ones stay listed where nobody reaps orphans
        assert [p for p in left if p.status() != psutil.STATUS_ZOMBIE] == []


def fly(client: Client, *, starts_at: float) -> None:
    hello = client.hear(wire.Hello)
    assert isinstance(hello, wire.Hello)
    assert (hello.world, hello.width, hello.height, hello.scenes[0].title) == ("pocket", 256, 160, "Hills 2")
    client.say(wire.Credit(frames=2))
    first = client.hear(wire.Picture, timeout=20)
    assert isinstance(first, wire.Picture)
    assert first.t[0] == starts_at
    client.say(wire.Ask(action="fly"))
    client.hear(wire.Seat)
    z, number = [], 0
    while not z or z[-1] < 0.5:
        number += 1
        assert number < 200
        client.say(wire.Control(id=number, time=0.0, move=(0, 0, 1), turn=(0, 0, 0), speed=4.0))
        client.say(wire.Credit())
        picture = client.hear(wire.Picture, timeout=20)
        assert isinstance(picture, wire.Picture)
        z.append(picture.t[2])
    assert np.all(np.diff(z) >= 0)
    assert 0 < picture.control <= number
    client.say(wire.Choose(scene="1"))
    for _ in range(100):
        client.say(wire.Credit())
        picture = client.hear(wire.Picture, timeout=20)
        assert isinstance(picture, wire.Picture)
        if picture.world != first.world:
            break
    assert picture.t[0] == 0.0  # scene-0: the one flown first has moved to the front of the list


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scene", "moon"], "the gallery has no scene 'moon': choose one of scene-0"),
        (["--port", "70000"], "port 70000 must lie between 0 and 65535"),
        (["--quality", "0"], "quality 0 must lie between 1 and 100"),
        (["--model", "nowhere"], "nowhere"),
        (["--image", "/nothing.jpg"], "/nothing.jpg"),
        (["--refiner", "on"], "--model sana-wm"),
        (["--prompt", "dragons"], "dragons"),
        (["--model", "sana-wm", "--memory", "20"], "--memory 20"),
        (["--model", "sana-wm", "--weights", "/nowhere"], "explorer download sana-wm-streaming"),
    ],
)
def test_a_mistake_is_one_sentence(assets: Path, arguments: list[str], says: str) -> None:
    with serving(assets, *arguments) as process:
        assert process.wait(30) == 2
        assert process.stderr is not None
        error = process.stderr.read()
    assert says in error
    assert error.count("\n") == 1


def test_a_taken_port_is_one_sentence(assets: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(assets, "--port", str(port)) as process:
            assert process.wait(30) == 2
            assert process.stderr is not None
            assert f"cannot listen on 127.0.0.1 port {port}" in process.stderr.read()


def test_who_can_connect_is_said() -> None:
    assert "Only this computer" in " ".join(welcome("127.0.0.1", 8765))
    everybody = welcome("0.0.0.0", 8765)
    assert "http://127.0.0.1:8765/" in everybody[1]
    assert "first who asks flies" in " ".join(everybody)
    assert "  http://[::1]:8765/" in welcome("::1", 8765)


def test_every_scene_has_a_thumbnail(assets: Path) -> None:
    scenes = load_gallery(assets / "gallery")
    pictures = thumbnails(scenes, 256, 160)
    assert set(pictures) == {f"/scene/{i}.jpg" for i in range(len(scenes))}
    assert all(asset.body.startswith(b"\xff\xd8") for asset in pictures.values())


def test_options_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="fps 0"):
        ServeOptions(fps=0.0).broadcast()
    with pytest.raises(ValueError, match="patience -1"):
        ServeOptions(patience=-1.0).broadcast()
