"""A station as visitors and its operator meet it: a real window, real keys, real HTTP, an engine of random weights."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from websockets.sync.client import connect

from explorer import protocol as wire
from tests.client import Client
from tests.tiny import screen, tiny_assets

pytestmark = [
    pytest.mark.window,
    pytest.mark.skipif(
        not (shutil.which("Xvfb") and shutil.which("xdotool")), reason="Xvfb and xdotool are not installed"
    ),
]
ROOT = Path(__file__).parents[1]
TOKEN = "only-the-operator-knows"
STATION = f"""
[world]
device = "cpu"
threads = 1
[visit]
minutes = 0.3
idle_seconds = 3.0
countdown_seconds = 2.0
help_seconds = 1.0
[attract]
scene_seconds = 600.0
[screen]
languages = ["de", "ja"]
[watch]
enabled = true
host = "127.0.0.1"
port = 0
[operator]
port = 0
token = "{TOKEN}"
"""


@dataclass
class Station:
    """One that runs, and how to touch it."""

    env: dict[str, str]
    process: subprocess.Popen[str]
    port: int
    folder: Path
    cookies: dict[str, str] = field(default_factory=lambda: {"Cookie": f"station={TOKEN}"})

    def ask(self, path: str, words: object = None, **headers: str) -> tuple[int, str]:
        """GET, or POST where there are words."""
        http_ = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        body = None if words is None else words if isinstance(words, str) else json.dumps(words)
        http_.request("GET" if body is None else "POST", path, body, headers or self.cookies)
        reply = http_.getresponse()
        text = reply.read().decode()
        http_.close()
        return reply.status, text

    @property
    def status(self) -> dict[str, Any]:
        return json.loads(self.ask("/status")[1])

    @property
    def report(self) -> dict[str, Any]:
        return self.status["report"] or {}

    def key(self, *words: str) -> None:
        subprocess.run(["xdotool", *words], check=True, env=self.env)

    def until(self, true: Callable[[], object], what: str, seconds: float = 40.0) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"{what}; {self.report}"
            time.sleep(0.1)

    def phase(self, name: str) -> None:
        self.until(lambda: self.report.get("phase") == name, f"it never was {name}")

    def flying(self) -> None:
        self.until(lambda: self.report.get("stage") in ("flying", "resting"), "the engine never flew")

    def shot(self) -> np.ndarray:
        """The screen, [Y, X, 3] BGR."""
        path = str(self.folder / "shot.png")
        command = ["ffmpeg", "-loglevel", "error", "-y", "-f", "x11grab", "-video_size", "1280x800"]
        subprocess.run(
            [*command, "-i", self.env["DISPLAY"], "-frames:v", "1", path], check=True, env=self.env
        )
        picture = cv2.imread(path)
        assert picture is not None
        return picture

    def engine(self) -> psutil.Process:
        """The engine's process: the last child of the program's."""
        return self.program().children()[-1]

    def program(self) -> psutil.Process:
        return psutil.Process(self.process.pid).children()[-1]


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    folder = tmp_path_factory.mktemp("station")
    assets = tiny_assets(folder / "assets", scenes=3)
    (folder / "station.toml").write_text(STATION)
    with screen() as env:
        env |= {
            "WORLD_EXPLORER_ASSETS": str(assets),
            "PYTHONPATH": str(ROOT),
            "XDG_STATE_HOME": str(folder / "state"),
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "explorer.app", "kiosk", str(folder / "station.toml")],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                assert process.stdout is not None
                found = re.search(r":(\d+)/\?token=", process.stdout.readline())
                assert found is not None
                yield Station(env, process, int(found[1]), folder)
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    _, err = process.communicate(timeout=20)
                finally:
                    process.kill()
        assert err == ""


@pytest.fixture
def idle(station: Station) -> Station:
    """The station as it waits for a visitor."""
    station.until(lambda: station.report, "the program never spoke")
    if station.report["phase"] != "attract":
        station.ask("/reset", {})
        station.phase("attract")
    station.flying()
    return station


def test_a_visitor_comes_flies_and_goes(idle: Station) -> None:
    before = idle.report["visits"]
    idle.key("key", "F7")  # any key
    idle.phase("flying")
    assert idle.report["visits"] == before + 1
    assert idle.report["language"] == "de"
    idle.key("key", "l")
    idle.until(lambda: idle.report["language"] == "ja", "the language stayed")
    idle.phase("attract")  # nobody touches anything
    assert idle.report["language"] in ("de", "ja")


def test_it_flies_by_itself(idle: Station) -> None:
    above = idle.shot()[:300].astype(int)  # no words there
    idle.until(lambda: np.abs(idle.shot()[:300] - above).mean() > 2, "nothing moves")
    assert idle.report["phase"] == "attract"


def test_the_key_that_begins_a_visit_flies_at_once(idle: Station) -> None:
    idle.key("keydown", "d")
    idle.phase("flying")
    time.sleep(1.0)  # the help has gone
    idle.until(lambda: idle.report["stage"] == "flying", "it rests")
    before = idle.shot().astype(int)
    idle.until(lambda: np.abs(idle.shot() - before).mean() > 2, "nothing moves")
    time.sleep(2.5)  # longer than without input
    assert idle.report["phase"] == "flying"
    idle.key("keyup", "d")


def test_keys_that_leave_do_nothing(idle: Station) -> None:
    program = idle.program().pid
    for keys in ("Escape", "Escape", "alt+F4", "ctrl+w", "F11", "F12", "ctrl+q", "super+d"):
        idle.key("key", keys)
    window = subprocess.check_output(["xdotool", "getwindowfocus"], env=idle.env, text=True)
    _ask_to_close(window.strip(), idle.env)
    time.sleep(1.5)
    assert idle.program().pid == program
    assert idle.report["phase"] == "flying"
    assert not list(idle.folder.rglob("world-*.png"))


def _ask_to_close(window: str, env: dict[str, str]) -> None:
    """What a window manager sends when somebody closes a window."""
    code = (
        "import ctypes, sys\n"
        "x = ctypes.CDLL('libX11.so.6')\n"
        "x.XOpenDisplay.restype = ctypes.c_void_p\n"
        "d = ctypes.c_void_p(x.XOpenDisplay(None))\n"
        "atom = lambda name: x.XInternAtom(d, name, 0)\n"
        "class Message(ctypes.Structure):\n"
        "    _fields_ = [('type', ctypes.c_int), ('serial', ctypes.c_ulong), ('send', ctypes.c_int),\n"
        "        ('display', ctypes.c_void_p), ('window', ctypes.c_ulong), ('message', ctypes.c_ulong),\n"
        "        ('format', ctypes.c_int), ('data', ctypes.c_long * 5), ('rest', ctypes.c_long * 16)]\n"
        "m = Message(33, 0, 1, d, int(sys.argv[1]), atom(b'WM_PROTOCOLS'), 32)\n"
        "m.data[0] = atom(b'WM_DELETE_WINDOW')\n"
        "x.XSendEvent(d, ctypes.c_ulong(int(sys.argv[1])), 0, 0, ctypes.byref(m))\n"
        "x.XSync(d, 0)\n"
    )
    subprocess.run([sys.executable, "-c", code, window], check=True, env=env)


def test_a_scene_is_chosen_with_keys(idle: Station) -> None:
    idle.key("key", "F7")
    idle.phase("flying")
    first = idle.report["scene"]
    idle.key("key", "n")
    idle.phase("choosing")
    idle.key("key", "Right")
    idle.key("key", "Return")
    idle.phase("flying")
    assert idle.report["scene"] != first


def test_a_killed_engine_is_a_calm_message_and_a_flight_again(idle: Station) -> None:
    idle.key("key", "F7")
    idle.phase("flying")
    restarts = idle.report["engine_restarts"]
    engine = idle.engine()
    engine.kill()
    idle.key("keydown", "w")
    idle.until(lambda: idle.shot()[400, 640].max() < 90, "no message in the middle")
    idle.until(lambda: idle.report["engine_restarts"] == restarts + 1, "the engine was not started again")
    idle.until(lambda: idle.report["stage"] == "flying", "it never flew again")
    idle.key("keyup", "w")
    assert idle.status["restarts"] == 0
    assert any("exit code -9" in line["words"] for line in idle.status["events"])


def test_phones_watch_and_cannot_fly(idle: Station) -> None:
    with connect(idle.report["watch"].replace("http", "ws") + "socket") as ours:
        client = Client(ours)
        hello = client.hear(wire.Hello)
        assert isinstance(hello, wire.Hello)
        assert not hello.pilots
        client.say(wire.Credit(frames=2))
        client.say(wire.Ask(action="fly"))
        refused = client.hear(wire.Error)
        assert isinstance(refused, wire.Error)
        assert refused.code == "watch"
        idle.key("key", "F7")
        picture = client.hear(wire.Picture)
        assert isinstance(picture, wire.Picture)
        assert (picture.width, picture.height) == (256, 160)


def test_the_operators_page(idle: Station) -> None:
    assert idle.ask("/")[0] == 200
    assert idle.ask("/operator.js")[0] == 200
    assert [scene["name"] for scene in idle.status["scenes"]] == ["scene-0", "scene-1", "scene-2"]
    assert idle.ask("/scene", {"scene": "scene-2"}) == (200, "Done.\n")
    idle.until(lambda: idle.report["scene"] == "scene-2", "the scene did not change")
    for path, words, code in (
        ("/scene", {"scene": "../../etc/passwd"}, 400),
        ("/scene", {"scene": ["scene-1"]}, 400),
        ("/scene", "[" * 1000, 400),
        ("/scene", "3", 400),
        ("/scene", "x" * 2000, 413),
        ("/nowhere", {}, 404),
        ("/../settings.py", None, 404),
    ):
        assert idle.ask(path, words)[0] == code, path


@pytest.mark.parametrize(
    "cookie", ["", "station=", "station=wrong", 'station="', "station=é", "x" * 5000, f"other={TOKEN}"]
)
def test_nobody_else_reads_or_commands(idle: Station, cookie: str) -> None:
    headers = {"Cookie": cookie.encode().decode("latin-1")}
    for path, words in (("/", None), ("/status", None), ("/nowhere", None), ("/restart", {})):
        status, said = idle.ask(path, words, **headers)
        assert status == 403
        assert TOKEN not in said
    assert idle.ask("/?token=wrong", **headers)[0] == 403


def test_a_request_that_never_ends_holds_nobody_up(idle: Station) -> None:
    with socket.create_connection(("127.0.0.1", idle.port)) as half:
        half.sendall(
            f"POST /reset HTTP/1.1\r\nCookie: station={TOKEN}\r\nContent-Length: 900\r\n\r\n".encode()
        )
        assert idle.ask("/status")[0] == 200


def test_the_token_becomes_a_cookie_that_no_other_page_can_send(idle: Station) -> None:
    http_ = http.client.HTTPConnection("127.0.0.1", idle.port, timeout=5)
    http_.request("GET", f"/?token={TOKEN}")
    reply = http_.getresponse()
    reply.read()
    http_.close()
    assert reply.status == 303
    cookie = reply.getheader("Set-Cookie", "")
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    assert reply.getheader("Location") == "/"


def test_a_program_that_dies_begins_again(idle: Station) -> None:
    program, engine = idle.program(), idle.engine()
    program.kill()
    psutil.wait_procs([program, engine], timeout=10)
    assert not engine.is_running()
    idle.until(lambda: idle.status["restarts"] == 1 and idle.report, "the program was not started again")
    idle.phase("attract")
    log = (idle.folder / "state" / "world-explorer" / "station.log").read_text()
    assert "exit code -9" in log
    assert TOKEN not in log


def test_the_operators_keys_close_it(station: Station) -> None:
    """The last test: nothing is left."""
    children = psutil.Process(station.process.pid).children(recursive=True)

    def closed() -> bool:
        station.key("key", "ctrl+shift+q")
        return station.process.poll() is not None

    deadline = time.monotonic() + 30
    while not closed():
        assert time.monotonic() < deadline, "ctrl+shift+q did not close it"
        time.sleep(0.2)
    assert station.process.returncode == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
