"""The port, over real sockets: pulling, roles, and nothing that a client sends can hurt the others."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import cv2
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyquaternion import Quaternion
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from engine.camera import Intrinsics, Pose
from engine.frame import Frame
from explorer import protocol as wire
from explorer.broadcast import Broadcast, BroadcastConfig
from explorer.seat import Line
from explorer.web import Asset, page
from tests.client import Client, until

HELLO = wire.Hello(
    world="pocket",
    width=64,
    height=40,
    fps=16.0,
    chunk_frames=8,
    codecs=("jpeg",),
    scenes=(wire.Scene(id="dunes", title="Dunes"),),
    role="spectator",
    client=0,
)


class Log:
    """What viewers did, in order."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def steer(self, control: wire.Control) -> None:
        self.events.append(control)

    def release(self) -> None:
        self.events.append("release")

    def choose(self, scene: str) -> None:
        self.events.append(scene)


@contextlib.contextmanager
def opened(
    config: BroadcastConfig | None = None, assets: dict[str, Asset] | None = None
) -> Iterator[tuple[Broadcast, Log]]:
    log = Log()
    broadcast = Broadcast(log, hello=HELLO, assets=assets or {}, config=config or BroadcastConfig(port=0))
    broadcast.start()
    try:
        yield broadcast, log
    finally:
        broadcast.stop()


@contextlib.contextmanager
def viewer(broadcast: Broadcast, **keywords: object) -> Iterator[Client]:
    with connect(f"ws://127.0.0.1:{broadcast.port}/socket", compression=None, **keywords) as ws:  # type: ignore[arg-type]
        yield Client(ws)


def frame(index: int, size: tuple[int, int] = (40, 64), seed: int | None = None) -> Frame:
    pixels = np.full((*size, 3), (index * 7 % 256, 80, 120), np.uint8)
    if seed is not None:
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    pose = Pose(Quaternion(axis=(0, 1, 0), angle=0.01 * index), np.array([0.0, -2.0, 0.25 * index]))
    intrinsics = Intrinsics.from_fov(1.2, width=size[1], height=size[0])
    return Frame(pixels=pixels, pose=pose, intrinsics=intrinsics, index=index, world="w1")


def control(number: int = 1, forward: float = 1.0) -> wire.Control:
    return wire.Control(id=number, time=1.0, move=(0, 0, forward), turn=(0, 0, 0), speed=4.0)


def test_a_viewer_is_greeted_and_buys_frames_that_know_their_pose() -> None:
    with opened() as (broadcast, _), viewer(broadcast) as client:
        hello = client.hear(wire.Hello)
        assert isinstance(hello, wire.Hello)
        assert (hello.world, hello.role, hello.scenes) == ("pocket", "spectator", HELLO.scenes)
        shown = frame(3)
        broadcast.publish(shown, control=41, due=12.5)
        client.say(wire.Credit())
        picture = client.hear(wire.Picture)
        assert isinstance(picture, wire.Picture)
        assert (picture.index, picture.control, picture.due, picture.world) == (3, 41, 12.5, "w1")
        assert np.allclose(Quaternion(picture.q).rotation_matrix, shown.pose.R)
        assert np.allclose(picture.t, shown.pose.t)
        assert np.allclose(picture.intrinsics, shown.intrinsics.row)
        pixels = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(pixels.astype(int) - shown.pixels).max() <= 4


def test_frames_are_pulled_and_the_newest_wins() -> None:
    with opened() as (broadcast, _), viewer(broadcast) as client:
        client.hear(wire.Hello)
        for i in range(5):
            broadcast.publish(frame(i), control=0, due=0.0)
        with pytest.raises(TimeoutError):  # no credit, no frame
            client.hear(wire.Picture, timeout=0.1)
        client.say(wire.Credit(frames=2))
        assert client.hear(wire.Picture).index == 4  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError):  # each frame is sent once
            client.hear(wire.Picture, timeout=0.1)
        for _ in range(9):
            client.say(wire.Credit(frames=2))  # no more than two are ever kept
        client.say(wire.Ping(time=1.0))
        client.hear(wire.Pong)
        got = []
        for i in range(5, 9):
            broadcast.publish(frame(i), control=0, due=0.0)
            with contextlib.suppress(TimeoutError):
                got.append(client.hear(wire.Picture, timeout=0.15).index)  # type: ignore[attr-defined]
        assert got == [5, 6]


def test_late_comers_see_the_newest_frame_at_once() -> None:
    with opened() as (broadcast, _):
        broadcast.publish(frame(8), control=0, due=0.0)
        with viewer(broadcast) as client:
            client.say(wire.Credit())
            assert client.hear(wire.Picture).index == 8  # type: ignore[attr-defined]


def test_a_slow_viewer_is_behind_nobody_and_delays_nobody() -> None:
    """Sixty frames of some 300 kB: the fast one sees them all, the slow one ends at the newest."""
    count = 60
    fast, slow = [], []

    def watch(client: Client, seen: list[int], rest: float) -> None:
        client.say(wire.Credit(frames=2))
        while not seen or seen[-1] < count - 1:
            seen.append(client.hear(wire.Picture).index)  # type: ignore[attr-defined]
            time.sleep(rest)
            client.say(wire.Credit())

    noise = [frame(i, (320, 512), seed=1) for i in range(count)]
    with opened(BroadcastConfig(port=0, quality=95)) as (broadcast, _):  # noqa: SIM117 -- one line each
        with viewer(broadcast) as one, viewer(broadcast) as two:
            threads = [
                threading.Thread(target=watch, args=(one, fast, 0.0)),
                threading.Thread(target=watch, args=(two, slow, 0.25)),
            ]
            for thread in threads:
                thread.start()
            began = time.perf_counter()
            for i, shown in enumerate(noise):
                time.sleep(max(began + i / 30 - time.perf_counter(), 0.0))
                broadcast.publish(shown, control=0, due=0.0)
            for thread in threads:
                thread.join(timeout=8)
    assert len(fast) >= 0.9 * count
    assert slow == sorted(slow)
    assert slow[-1] == count - 1
    assert len(slow) < count / 3


def test_one_pilot_and_nobody_else_steers() -> None:
    with opened() as (broadcast, log), viewer(broadcast) as first, viewer(broadcast) as second:
        first.say(wire.Ask(action="fly"))
        assert first.hear(wire.Seat).role == "pilot"  # type: ignore[attr-defined]
        second.say(wire.Ask(action="fly"))
        seat = second.hear(wire.Seat)
        assert (seat.role, seat.place) == ("spectator", 1)  # type: ignore[attr-defined]
        second.say(control(9, -1.0))
        refused = second.hear(wire.Error)
        assert refused.code == "spectator"  # type: ignore[attr-defined]
        second.say(wire.Choose(scene="dunes"))
        assert second.hear(wire.Error).code == "spectator"  # type: ignore[attr-defined]
        first.say(control(1))
        first.say(wire.Choose(scene="dunes"))
        until(lambda: len(log.events) == 2)
        assert log.events == [control(1), "dunes"]
        first.say(wire.Ask(action="leave"))
        assert second.hear(wire.Seat).role == "pilot"  # type: ignore[attr-defined]
        assert log.events[-1] == "release"


def test_a_pilot_who_vanishes_lets_go_and_the_next_flies() -> None:
    with opened() as (broadcast, log), viewer(broadcast) as second:
        with viewer(broadcast) as first:
            first.say(wire.Ask(action="fly"))
            first.hear(wire.Seat)
            second.say(wire.Ask(action="fly"))
            second.hear(wire.Seat)
            first.say(control())
            until(lambda: log.events)
            first.socket.socket.shutdown(socket.SHUT_RDWR)  # no goodbye
            assert second.hear(wire.Seat).role == "pilot"  # type: ignore[attr-defined]
        assert log.events == [control(), "release"]


def test_held_keys_end_a_second_after_the_last_word() -> None:
    with opened(BroadcastConfig(port=0, patience=1.4)) as (broadcast, log):  # noqa: SIM117 -- one line each
        with viewer(broadcast) as first, viewer(broadcast) as second:
            first.say(wire.Ask(action="fly"))
            first.hear(wire.Seat)
            first.say(control())
            second.say(wire.Ask(action="fly"))
            assert second.hear(wire.Seat).place == 1  # type: ignore[attr-defined]
            until(lambda: "release" in log.events)
            assert second.hear(wire.Seat, timeout=3).role == "pilot"  # type: ignore[attr-defined]
            lost = first.hear(wire.Seat)
            assert lost.role == "spectator"  # type: ignore[attr-defined]
            assert "away" in lost.reason  # type: ignore[attr-defined]


def test_nonsense_gets_an_answer_and_the_session_lives_on() -> None:
    nonsense = [
        b"",
        b"\xc1",
        b"\x00" * 1000,
        msgpack.packb({"v": 1, "type": "hello"}),
        msgpack.packb([1] * 50),
    ]
    nonsense += [msgpack.packb({"v": 9, "type": "ask", "action": "fly"}), b"\x91" * 3000]
    with opened() as (broadcast, log), viewer(broadcast) as client:
        for data in nonsense:
            client.socket.send(data)
            assert client.hear(wire.Error).message  # type: ignore[attr-defined]
        client.socket.send("text")
        assert "not text" in client.hear(wire.Error).message  # type: ignore[attr-defined]
        client.say(wire.Ask(action="fly"))
        client.hear(wire.Seat)
        client.say(wire.Choose(scene="../etc"))
        assert client.hear(wire.Error).code == "scene"  # type: ignore[attr-defined]
        client.say(wire.Ping(time=2.0))
        assert client.hear(wire.Pong).time == 2.0  # type: ignore[attr-defined]
        assert log.events == []


def test_a_message_too_long_ends_only_its_own_session() -> None:
    with opened() as (broadcast, _), viewer(broadcast) as good, viewer(broadcast) as bad:
        bad.socket.send(bytes(wire.MAX_INCOMING + 1))
        with pytest.raises(ConnectionClosed):
            bad.hear(wire.Error)
        good.say(wire.Ping(time=1.0))
        good.hear(wire.Pong)


def test_a_flood_is_slowed_down_and_others_do_not_feel_it() -> None:
    with opened(BroadcastConfig(port=0, rate=100.0)) as (broadcast, _):  # noqa: SIM117 -- one line each
        with viewer(broadcast) as loud, viewer(broadcast) as calm:
            began = time.perf_counter()
            for _ in range(150):
                loud.say(wire.Ping(time=0.0))
            calm.say(wire.Ping(time=1.0))
            calm.hear(wire.Pong, timeout=1.0)
            for _ in range(150):
                loud.hear(wire.Pong)
            assert time.perf_counter() - began > 0.9  # 50 at once, then 100 a second


def _flood(raw: socket.socket) -> None:
    raw.settimeout(5)
    for _ in range(1000):
        raw.sendall(b"\x82\x81\x00\x00\x00\x00\xc1" * 1000)


def test_a_flood_that_nobody_reads_ends() -> None:
    with opened(BroadcastConfig(port=0, rate=1e6)) as (broadcast, _), viewer(broadcast) as calm:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", broadcast.port))
        host = f"127.0.0.1:{broadcast.port}"
        raw.sendall(
            f"GET /socket HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        until(lambda: broadcast.status.viewers == 2)
        with raw, pytest.raises((ConnectionResetError, BrokenPipeError)):
            _flood(raw)
        until(lambda: broadcast.status.viewers == 1)
        calm.say(wire.Ping(time=1.0))
        calm.hear(wire.Pong)


def test_a_full_house_says_so() -> None:
    with opened(BroadcastConfig(port=0, max_viewers=1)) as (broadcast, _), viewer(broadcast) as first:
        first.hear(wire.Hello)
        with viewer(broadcast) as second:
            error = second.hear(wire.Error)
            assert error.code == "full"  # type: ignore[attr-defined]
            with pytest.raises(ConnectionClosed):
                second.hear(wire.Hello)
        first.say(wire.Ping(time=1.0))
        first.hear(wire.Pong)


@pytest.mark.parametrize(
    ("origin", "origins", "welcome"),
    [
        ("http://127.0.0.1:{port}", (), True),
        (None, (), True),
        ("http://evil.example", (), False),
        ("http://127.0.0.1:{port}.evil.example", (), False),
        ("null", (), False),
        ("https://art.example", ("https://art.example",), True),
        ("http://evil.example", ("*",), True),
    ],
)
def test_pages_of_others_may_not_connect(origin: str | None, origins: tuple[str, ...], welcome: bool) -> None:
    with opened(BroadcastConfig(port=0, origins=origins)) as (broadcast, _):
        named = origin and origin.format(port=broadcast.port)
        if welcome:
            with viewer(broadcast, origin=named) as client:
                client.hear(wire.Hello)
        else:
            with pytest.raises(InvalidStatus) as caught, viewer(broadcast, origin=named):
                pass
            assert caught.value.response.status_code == 403


def get(broadcast: Broadcast, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{broadcast.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.status, dict(reply.headers), reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_the_page_comes_with_its_types_and_a_tight_policy() -> None:
    assets = page() | {"/scene/dunes.jpg": Asset(b"\xff\xd8", "image/jpeg")}
    with opened(assets=assets) as (broadcast, _):
        for path, asset in assets.items():
            status, headers, body = get(broadcast, path)
            assert (status, headers["Content-Type"], body) == (200, asset.kind, asset.body)
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert b"<script" in get(broadcast, "/")[2]


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/viewer/../web.py", "/%2e%2e/web.py", "/scene/../x", "/nothing"]
)
def test_no_other_path_is_served(path: str) -> None:
    with opened(assets=page()) as (broadcast, _):
        assert get(broadcast, path)[0] == 404


def test_a_name_that_is_not_ours_is_refused() -> None:
    with opened(assets=page()) as (broadcast, _):
        assert get(broadcast, "/", Host=f"rebound.example:{broadcast.port}")[0] == 403
        assert get(broadcast, "/", Host="[::1")[0] == 403
        assert get(broadcast, "/", Host=f"localhost:{broadcast.port}")[0] == 200


def test_health_tells_what_goes_on() -> None:
    with opened() as (broadcast, _), viewer(broadcast) as client:
        client.say(wire.Ask(action="fly"))
        client.hear(wire.Seat)
        broadcast.report("flying", scene="dunes")
        until(lambda: broadcast.status.state == "flying")
        status, headers, body = get(broadcast, "/healthz")
        health = json.loads(body)
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert health["state"] == "flying"
        assert health["piloted"] is True
        assert health["viewers"] == 1


def test_a_taken_port_is_an_error_of_start() -> None:
    with opened() as (broadcast, _):
        second = Broadcast(Log(), hello=HELLO, assets={}, config=BroadcastConfig(port=broadcast.port))
        with pytest.raises(OSError, match="in use"):
            second.start()
        second.stop()


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".b"])
def test_what_is_no_address_is_an_error_of_start(host: str) -> None:
    broadcast = Broadcast(Log(), hello=HELLO, assets={}, config=BroadcastConfig(host=host, port=0))
    with pytest.raises(OSError, match="is no address"):
        broadcast.start()
    broadcast.stop()


def test_stop_is_quick_with_viewers_on_the_line() -> None:
    with opened() as (broadcast, _), viewer(broadcast) as client, viewer(broadcast):
        client.hear(wire.Hello)
        began = time.perf_counter()
        broadcast.stop()
        assert time.perf_counter() - began < 1.0
        with pytest.raises(ConnectionClosed):
            client.hear(wire.Picture)
        broadcast.publish(frame(1), control=0, due=0.0)  # nobody is left: no error


events = st.lists(
    st.tuples(st.sampled_from(["ask", "leave", "hear", "pass"]), st.integers(1, 4), st.floats(0.0, 20.0))
)


@given(events)
def test_the_line_keeps_its_rules(moves: list[tuple[str, int, float]]) -> None:
    """Nobody waits twice or while flying, nobody waits for a free seat, and a pilot who speaks is never displaced."""
    line, now = Line(patience=10.0), 0.0
    for event, client, later in moves:
        now += later
        before = line
        match event:
            case "ask":
                line = line.ask(client, now=now)
            case "leave":
                line = line.leave(client, now=now)
            case "hear":
                line = line.hear(client, now=now)
            case _:
                line = line.pass_on(now=now)
        assert len(set(line.waiting)) == len(line.waiting)
        assert line.pilot not in line.waiting
        assert line.pilot is not None or not line.waiting
        if before.pilot is not None and line.pilot != before.pilot:
            assert now - before.heard >= 10.0 or (event, client) == ("leave", before.pilot)
            queue = [c for c in before.waiting if (event, c) != ("leave", client)]
            queue += [client] if event == "ask" else []
            assert line.pilot == (queue[0] if queue else None)
