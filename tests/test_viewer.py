"""The page in a real Chromium: it connects, draws what it is sent, flies, and tells people what goes on.

WORLD_EXPLORER_SHOTS=FOLDER keeps the screenshots for looking at.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.sync.client import connect

from engine.camera import Intrinsics, Pose
from engine.frame import Frame
from explorer import protocol as wire
from explorer.broadcast import Broadcast, BroadcastConfig
from explorer.controls import Controls, Steering
from explorer.encode import jpeg
from explorer.pilot import PilotState, angles, oriented
from explorer.pilot import steered as steered_pilot
from explorer.predict import Flown, foretold, held_back, reconciled
from explorer.remote import RemoteHands, steered
from explorer.reproject import View, leashed, shown_lens, transfer
from explorer.web import Asset, page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]
LENS = Intrinsics.from_fov(1.2, width=256, height=160)
START = Pose(t=np.array([0.0, -1.6, 0.0]))
DESKTOP, PHONE, LANDSCAPE = (1280, 720), (390, 844), (844, 390)


def landscape(pose: Pose, lens: Intrinsics = LENS, *, scale: int = 1) -> NDArray[np.uint8]:
    """A striped plain under an evening sky, as the camera at `pose` sees it: [160, 256, 3] times `scale`."""
    x, y = np.meshgrid((np.arange(256 * scale) + 0.5) / scale, (np.arange(160 * scale) + 0.5) / scale)
    rays = np.stack([(x - lens.cx) / lens.fx, (y - lens.cy) / lens.fy, np.ones_like(x)], -1) @ pose.R.T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    down = rays[..., 1]
    far = np.where(down > 1e-3, -pose.t[1] / np.maximum(down, 1e-3), 1e3)
    ground = pose.t[[0, 2]] + rays[..., [0, 2]] * far[..., None]
    fields = 0.5 + 0.5 * np.tanh(4.0 * np.sin(ground[..., 0] * 0.8) * np.sin(ground[..., 1] * 0.8))
    haze = np.exp(-far / 25.0)[..., None]
    sky = np.array([236, 190, 150]) * (1 + down[..., None]) + np.array([50, 84, 140]) * -down[..., None]
    land = np.array([86, 104, 62]) + fields[..., None] * np.array([74, 52, 28])
    return np.clip(np.where(down[..., None] > 0, land * haze + sky * (1 - haze), sky), 0, 255).astype(
        np.uint8
    )


def ground_depth(pose: Pose) -> NDArray[np.float16]:
    """Inverse depth of the plain, 1/m along the optical axis: [160, 256]."""
    x, y = np.meshgrid(np.arange(256) + 0.5, np.arange(160) + 0.5)
    rays = np.stack([(x - LENS.cx) / LENS.fx, (y - LENS.cy) / LENS.fy, np.ones_like(x)], -1) @ pose.R.T
    return np.maximum(rays[..., 1] / -pose.t[1], 0).astype(np.float16)


class Plain:
    """A flight over the plain: real hands, a real pilot, and frames of where he was foretold to be, chunk by chunk."""

    def __init__(self, hands: RemoteHands) -> None:
        self.hands, self.state, self.used = hands, PilotState(START), Steering()
        self.generated = START
        self.index = 0
        self.frozen = False  # no frames come, whatever hands do
        self.broadcast: Broadcast | None = None
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        due = self.now = time.perf_counter()
        self.show(START, due)
        while not self.stopped.is_set():
            steering = self.hands.steering
            rests = steering.input == self.used.input and not self.state.moving(steering)
            if self.frozen or rests:
                self.fly(time.perf_counter() + 0.02)
                continue
            due = self.chunk(steering, max(due, time.perf_counter()))

    def chunk(self, steering: Steering, begin: float) -> float:
        """Eight frames; returns when they are over."""
        self.used = steering
        flown = Flown(flight=1, steering=steering, pilot=self.state, time=self.now)
        before, *states = foretold(flown, [begin + i / 16 for i in range(-1, 8)])
        poses = reconciled(self.generated, before.pose, [s.pose for s in states], seconds=0.5)
        for i, pose in enumerate(poses):
            self.fly(begin + i / 16)
            self.show(pose, begin + i / 16)
        self.generated = poses[-1]
        return begin + 0.5

    def fly(self, until: float) -> None:
        """The pilot flies on, in short steps."""
        while not self.stopped.is_set():
            now = min(time.perf_counter(), until)
            self.state, self.now = steered_pilot(self.state, self.hands.steering, now - self.now), now
            if now == until:
                return
            self.stopped.wait(min(until - now, 0.01))

    def show(self, pose: Pose, due: float) -> None:
        frame = Frame(
            pixels=landscape(pose),
            pose=pose,
            intrinsics=LENS,
            index=self.index,
            world="1",
            inverse_depth=ground_depth(pose),
        )
        self.index += 1
        assert self.broadcast is not None
        self.broadcast.report("flying", scene="0")
        control = self.hands.control_of(self.used.input)
        self.broadcast.publish(frame, control=control, due=due, pilot=self.state.pose, at=self.now)


@contextlib.contextmanager
def flying(port: int = 0, places: int = 32) -> Iterator[Plain]:
    """A plain on the air."""
    titles = ["Evening plain", "Morning haze", "Red desert", "Northern coast", "Pine valley", "High steppe"]
    scenes = tuple(wire.Scene(id=str(i), title=title) for i, title in enumerate(titles))
    hello = wire.Hello(
        world="pocket",
        width=256,
        height=160,
        fps=16,
        chunk_frames=8,
        codecs=("jpeg",),
        scenes=scenes,
        role="spectator",
        client=0,
    )
    tints = [np.roll(landscape(START), i, axis=-1) for i in range(len(scenes))]
    thumbs = {f"/scene/{i}.jpg": Asset(jpeg(tint).data, "image/jpeg") for i, tint in enumerate(tints)}
    hands = RemoteHands()
    plain = Plain(hands)
    plain.broadcast = Broadcast(
        hands, hello=hello, assets=page() | thumbs, config=BroadcastConfig(port=port, max_viewers=places)
    )
    plain.broadcast.start()
    plain.thread.start()
    try:
        yield plain
    finally:
        plain.stopped.set()
        plain.thread.join()
        plain.broadcast.stop()


class Browser:
    """A headless Chromium, spoken to in its own DevTools protocol."""

    def __init__(self, folder: str) -> None:
        assert CHROMIUM is not None
        command = ["nice", "-n", "5", CHROMIUM, *FLAGS, f"--user-data-dir={folder}"]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found = re.search(rb"listening on (ws://\S+)", line)
            if found:
                break
        else:
            pytest.fail(f"{CHROMIUM} ended before it listened")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()  # else its pipe fills
        self.open = contextlib.ExitStack()
        self.socket = self.open.enter_context(connect(found[1].decode(), max_size=None, compression=None))
        self.numbers = itertools.count(1)

    def call(self, method: str, session: str | None = None, **params: object) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params} | (
            {"sessionId": session} if session else {}
        )
        self.socket.send(json.dumps(message))
        while True:
            reply = json.loads(self.socket.recv(timeout=20))
            if reply.get("id") == number:
                assert "error" not in reply, reply
                result: dict[str, Any] = reply["result"]
                return result

    def stop(self) -> None:
        with contextlib.suppress(Exception):  # whatever state it is in, it ends
            self.call("Browser.close")
        self.open.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


class Tab:
    """One page, in a browsing context of its own."""

    def __init__(self, browser: Browser, url: str, size: tuple[int, int], *, phone: bool = False) -> None:
        self.browser = browser
        self.context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=self.context)[
            "targetId"
        ]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        if phone:
            self.call("Emulation.setTouchEmulationEnabled", enabled=True)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Page.enable")
        self.call("Page.navigate", url=url)

    def call(self, method: str, **params: object) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def js(self, expression: str) -> Any:
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def until(self, expression: str, timeout: float = 10.0) -> None:
        deadline = time.perf_counter() + timeout
        while not self.js(f"Boolean(document.body && ({expression}))"):
            assert time.perf_counter() < deadline, (
                f"never true: {expression}\n{self.js('document.body.innerText')}"
            )
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Click as a person would: when the thing has come to rest and nothing lies over it."""
        self.until(
            f"(() => {{ const e = document.querySelector('{selector}'), b = e.getBoundingClientRect();"
            "const still = e.lastX === b.x && e.lastY === b.y; e.lastX = b.x; e.lastY = b.y;"
            "const top = document.elementFromPoint(b.x + b.width / 2, b.y + b.height / 2);"
            "return still && top && e.contains(top); })()"
        )
        box = self.js(
            f"(() => {{ const b = document.querySelector('{selector}').getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def key(self, kind: str, key: str, code: str) -> None:
        self.call(
            "Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=ord(key.upper())
        )

    def shot(self, name: str) -> NDArray[np.uint8]:
        """What is on the screen, RGB."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if folder := os.environ.get("WORLD_EXPLORER_SHOTS"):
            Path(folder, f"{name}.png").write_bytes(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8)

    def close(self) -> None:
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        opened = Browser(folder)
        try:
            yield opened
        finally:
            opened.stop()


Opener = Callable[..., Tab]


@pytest.fixture
def tab(browser: Browser) -> Iterator[Opener]:
    tabs: list[Tab] = []

    def opened(plain: Plain, size: tuple[int, int] = DESKTOP, *, phone: bool = False) -> Tab:
        assert plain.broadcast is not None
        tabs.append(Tab(browser, f"http://127.0.0.1:{plain.broadcast.port}/", size, phone=phone))
        return tabs[-1]

    yield opened
    for each in tabs:
        each.close()


CONNECTED = "document.body.dataset.link === 'open' && document.body.dataset.frame !== undefined"
PILOT = "document.body.dataset.role === 'pilot'"


def until(true: Callable[[], bool], timeout: float = 5.0) -> None:
    deadline = time.perf_counter() + timeout
    while not true():
        assert time.perf_counter() < deadline, "it never happened"
        time.sleep(0.02)


@pytest.mark.browser
def test_fly_with_keys_and_see_it(tab: Opener) -> None:
    """Frames appear as sent, W moves the camera forward, letting go stops it, and the world rests."""
    with flying() as plain:
        page = tab(plain)
        page.until(CONNECTED)
        before = page.shot("desktop-lobby")
        beside = (slice(160, 620), slice(20, 420))  # the card
        assert psnr(before[beside], seen_from(START)[beside]) > 30
        page.click("#fly")
        page.until(PILOT)
        page.key("keyDown", "w", "KeyW")
        until(lambda: plain.state.pose.t[2] > 1.0)
        page.until("Number(document.getElementById('speed').textContent) > 1")
        page.until("Number(document.getElementById('response').textContent) > 0")
        moving = page.shot("desktop-flying")
        later = page.shot("desktop-flying-on")
        page.key("keyUp", "w", "KeyW")
        ground = (slice(440, 620), slice(20, 400))  # nothing but canvas here
        assert before[ground].mean() > 60
        assert np.abs(moving[ground].astype(int) - before[ground]).mean() > 3
        assert np.abs(later[ground].astype(int) - moving[ground]).mean() > 0.5
        until(lambda: plain.hands.steering.controls.idle)
        until(lambda: abs(plain.state.velocity).max() < 1e-3)
        time.sleep(1.2)  # the chunk on its way, and the one that makes good for it
        index = plain.index
        time.sleep(0.3)
        assert plain.index <= index + 8  # the last chunk, and then nothing moves
        assert abs(plain.state.pose.t[0]) < 1e-6  # W is straight ahead


MIDDLE = (slice(160, 560), slice(160, 1120))  # of the desktop: nothing but canvas here


def seen_from(pose: Pose) -> NDArray[np.uint8]:
    """The plain on a desktop screen, as a camera at `pose` with the lens that is shown sees it: [720, 1280, 3]."""
    big = landscape(pose, shown_lens(LENS), scale=5)
    return big[40:760]  # fills the width: 1280 / 256 = 5 times, then cut to 720 rows


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(-10 * np.log10(np.mean((a.astype(float) - b) ** 2) / 255**2))


@pytest.mark.browser
def test_the_view_turns_before_a_frame_does(tab: Opener) -> None:
    """The mouse turns the picture on the page at once, though the world sends nothing."""
    with flying() as plain:
        page = tab(plain)
        page.until(CONNECTED)
        page.click("#fly")
        page.until(PILOT)
        page.key("keyDown", "w", "KeyW")  # frames flow, and say where the pilot is
        until(lambda: plain.state.pose.t[2] > 0.5)
        page.key("keyUp", "w", "KeyW")
        until(lambda: not plain.state.moving(plain.hands.steering))
        plain.frozen = True
        time.sleep(1.5)
        pose, index = plain.generated, plain.index
        before = page.shot("desktop-still")
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=600, y=300)
        for x in (615, 630, 645):
            page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=300, button="left", buttons=1)
        until(lambda: plain.hands.steering.look[0] > 0.05)
        time.sleep(0.3)
        turned = page.shot("desktop-turned")
        assert plain.index == index
        there = replace(pose, q=oriented(plain.hands.steering.look[0], 0, 0))
        assert psnr(before[MIDDLE], seen_from(pose)[MIDDLE]) > 26
        assert psnr(turned[MIDDLE], seen_from(there)[MIDDLE]) > 26
        assert (
            psnr(turned[MIDDLE], seen_from(there)[MIDDLE])
            > psnr(before[MIDDLE], seen_from(there)[MIDDLE]) + 4
        )


@pytest.mark.browser
def test_its_pilot_and_its_view_are_the_programs(tab: Opener) -> None:
    """The same keys and mouse lead to the same pose, and the same poses to the same way of drawing."""
    presses = [(0, 0, 1, 0, 0, 0), (0, 0, 1, 1, 0, 0), (0, 0, 1, 1, -1, 0), (-1, 0, 1, 1, -1, 1)]
    axes = [(0, 0, 1, 0, 0, 0), (0, 0, 1, 1, 0, 0), (0, 0, 0, 0.5, 0, 0), (-0.6, 0, 0.8, 0, 0, 1)]
    look = [(0.0, 0.0), (0.3, -0.1), (0.3, -0.1), (-0.9, 0.2)]
    state = PilotState(Pose(oriented(3.0, 0.2, -0.1), np.array([1.0, 2.0, 3.0])))
    script = []
    for a, p, d in zip(axes, presses, look, strict=True):
        steering = Steering(Controls(a[:3], a[3:], 5.0), p, d)
        for _ in range(25):
            state = steered_pilot(state, steering, 0.02)
        script.append({"axes": a, "presses": p, "looked": d, "speed": 5.0})
    frame = Pose(oriented(2.9, 0.1, 0.0), np.array([1.5, 2.0, 2.5]))
    T, s = transfer(frame, LENS, View(pose=state.pose, lens=shown_lens(LENS)))
    led = leashed(state.pose, frame, reach=7.0)
    with flying() as plain:
        page = tab(plain)
        page.until(CONNECTED)
        got = page.js(
            f"""(async () => {{
              const {{ Pilot, angles }} = await import("/pilot.js");
              const {{ transfer, lens, leashed }} = await import("/view.js");
              const pilot = new Pilot();
              pilot.place([3.0, 0.2, -0.1], [1, 2, 3], {{ presses: [0, 0, 0, 0, 0, 0], looked: [0, 0] }});
              for (const hands of {json.dumps(script)})
                for (let i = 0; i < 25; i++) pilot.step(hands, 0.02);
              const picture = {{ turn: angles({list(map(float, frame.q.elements))}), t: [1.5, 2.0, 2.5], nearest: 0,
                intrinsics: {list(map(float, LENS.row))}, width: 256, height: 160 }};
              const way = transfer(picture, pilot, lens(picture, true));
              const led = leashed(pilot, picture, 7.0);
              const out = [pilot.turn, pilot.t, way.turn, way.shift, led.turn, led.t];
              pilot.holdBack({{ turn: [1.0, 0.1, 0.0], t: [40, 2, 3] }});
              return [...out, pilot.turn, pilot.t];
            }})()"""
        )
    turn, t, ways, shift, led_turn, led_t, held_turn, held_t = got
    np.testing.assert_allclose(turn, angles(state.pose), atol=1e-9)
    np.testing.assert_allclose(t, state.pose.t, atol=1e-9)
    np.testing.assert_allclose(np.transpose(ways), T, atol=1e-9)
    np.testing.assert_allclose(shift, s, atol=1e-9)
    np.testing.assert_allclose(np.sin(np.subtract(led_turn, angles(led))), 0, atol=1e-9)
    np.testing.assert_allclose(led_t, led.t, atol=1e-9)
    held = held_back(state, Pose(oriented(1.0, 0.1, 0.0), np.array([40.0, 2.0, 3.0]))).pose
    np.testing.assert_allclose(np.sin(np.subtract(held_turn, angles(held))), 0, atol=1e-9)
    np.testing.assert_allclose(held_t, held.t, atol=1e-9)


@pytest.mark.browser
def test_mouse_and_arrows_turn(tab: Opener) -> None:
    with flying() as plain:
        page = tab(plain)
        page.until(CONNECTED)
        page.click("#fly")
        page.until(PILOT)
        for step in range(1, 6):  # dragged: a headless browser grants no pointer lock
            page.call(
                "Input.dispatchMouseEvent",
                type="mouseMoved",
                x=600 + 20 * step,
                y=300,
                button="left",
                buttons=1,
            )
        until(lambda: plain.hands.steering.look[0] > 0.1)
        until(lambda: plain.state.pose.yaw > 0.1)
        yaw = plain.state.pose.yaw
        page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft", code="ArrowLeft")
        until(lambda: plain.state.pose.yaw < yaw - 0.1)
        page.call("Input.dispatchKeyEvent", type="keyUp", key="ArrowLeft", code="ArrowLeft")
        page.call("Input.dispatchMouseEvent", type="mouseWheel", x=600, y=300, deltaX=0, deltaY=-120)
        until(lambda: plain.hands.steering.controls.speed > 4.5)


@pytest.mark.browser
def test_a_spectator_watches_and_waits(tab: Opener) -> None:
    """Its keys do nothing, it may stand in line, and flies when the pilot lets go."""
    with flying() as plain:
        pilot, other = tab(plain), tab(plain, PHONE, phone=True)
        pilot.until(CONNECTED)
        other.until(CONNECTED)
        pilot.click("#fly")
        pilot.until(PILOT)
        other.until("document.body.dataset.busy === 'yes'")
        other.key("keyDown", "w", "KeyW")
        time.sleep(0.2)
        assert plain.hands.steering.controls.idle
        other.shot("phone-watching")
        other.click("#fly")
        other.until("document.getElementById('invite-text').textContent.includes('next in line')")
        pilot.click("#leave")
        other.until(PILOT)
        pilot.until("document.body.dataset.role === 'spectator'")
        time.sleep(0.4)
        other.shot("phone-flying")
        stick = other.js(
            "(() => { const b = document.querySelector('.stick').getBoundingClientRect(); return [b.x + 64, b.y + 64]; })()"
        )
        other.call(
            "Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": stick[0], "y": stick[1] - 60}]
        )
        until(lambda: plain.state.pose.t[2] > 0.5)
        other.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        until(lambda: plain.hands.steering.controls.idle)


@pytest.mark.browser
def test_where_nobody_may_fly_nothing_invites_to(tab: Opener) -> None:
    """A station's phones: they see the world, and no button that would do nothing."""
    with flying() as plain:
        assert plain.broadcast is not None
        plain.broadcast.config = replace(plain.broadcast.config, pilots=False)
        plain.broadcast.hello = replace(plain.broadcast.hello, pilots=False)
        phone = tab(plain, PHONE, phone=True)
        phone.until(CONNECTED)
        for button in ("#fly", "#open-scenes", "#open-help", ".gears"):
            phone.until(
                f"!document.querySelector('{button}').checkVisibility({{ visibilityProperty: true }})"
            )
        assert phone.js("document.getElementById('status').innerText").strip() == "Watching"
        assert phone.shot("phone-station")[200:600].std() > 5


@pytest.mark.browser
def test_scenes_are_chosen_by_the_pilot(tab: Opener) -> None:
    with flying() as plain:
        page = tab(plain)
        page.until(CONNECTED)
        page.click("#open-scenes")
        page.until("document.querySelectorAll('#grid button:disabled').length === 6")
        page.js("document.getElementById('scenes').close()")
        page.click("#fly")
        page.until(PILOT)
        page.click("#open-scenes")
        page.until(
            "[...document.querySelectorAll('#grid img')].every(i => i.complete && i.naturalWidth === 256)"
        )
        page.shot("desktop-scenes")
        page.click("#grid li:nth-child(3) button")
        until(lambda: plain.hands.scenes.take() == "2")
        page.until("!document.getElementById('scenes').open")


@pytest.mark.browser
def test_it_says_so_when_the_world_goes_away_and_comes_back(tab: Opener) -> None:
    with flying() as plain:
        assert plain.broadcast is not None
        port = plain.broadcast.port
        page = tab(plain)
        page.until(CONNECTED)
    page.until("document.getElementById('trouble')?.hidden === false")
    page.shot("desktop-lost")
    assert "Connection lost" in page.js("document.body.innerText")
    with flying(port):
        page.click("#retry")
        page.until("document.body.dataset.link === 'open' && document.getElementById('trouble').hidden")


@pytest.mark.browser
def test_a_full_house_says_so_and_lets_in_later(tab: Opener) -> None:
    with flying(places=1) as plain:
        first = tab(plain)
        first.until(CONNECTED)
        second = tab(plain, LANDSCAPE, phone=True)
        second.until("document.getElementById('trouble-text').textContent.includes('places (1) are taken')")
        second.shot("landscape-full")
        first.call("Page.navigate", url="about:blank")
        second.until(CONNECTED, timeout=15.0)  # by itself, after a pause that has grown meanwhile
        second.click("#fly")
        second.until(PILOT)
        second.shot("landscape-flying")
        second.click("#open-help")
        second.shot("landscape-help")


@pytest.mark.browser
def test_another_version_is_told_apart(tab: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "VERSION", 2)
    with flying() as plain:
        page = tab(plain)
        page.until("document.getElementById('trouble')?.hidden === false")
        assert "out of date" in page.js("document.body.innerText")
        page.shot("desktop-version")


@pytest.mark.browser
def test_its_msgpack_is_the_servers(tab: Opener) -> None:
    """Values that only corners of the format hold survive page → Python → page."""
    import msgpack

    value = {
        "v": 1, "type": "x", "n": [0, 127, 128, -1, -33, 255, 65536, 2**40, -(2**40), 0.1, -1e300, None, True, False],
        "text": "é世界🌍" * 20, "short": "", "list": list(range(40)), "map": {f"k{i}": i for i in range(20)},
    }  # fmt: skip
    with flying() as plain:
        page = tab(plain)
        page.until(CONNECTED)
        packed = base64.b64encode(msgpack.packb(value)).decode()
        back = page.js(
            f"""(async () => {{
              const wire = await import("/wire.js");
              const bytes = Uint8Array.from(atob("{packed}"), (c) => c.charCodeAt(0));
              const {{ v, type, ...fields }} = wire.decode(bytes.buffer);
              return btoa(String.fromCharCode(...wire.encode(type, fields)));
            }})()"""
        )
    assert msgpack.unpackb(base64.b64decode(back)) == value


def test_remote_controls_are_steering() -> None:
    """Taps and mouse travel add up, diagonals are no faster, speed stays in the trained range."""
    control = wire.Control(
        id=3,
        time=0.0,
        move=(1, 0, 1),
        turn=(0, 0, -1),
        taps=(0, 0, 1, 0, 0, 0),
        look=(0.1, -0.2),
        speed=900.0,
    )
    once = steered(Steering(), control, input=3, time=5.0)
    twice = steered(once, control, input=4, time=6.0)
    assert np.isclose(np.linalg.norm(once.controls.move), 1.0)
    assert (once.controls.turn, once.controls.speed) == ((0, 0, -1), 30.0)
    assert (twice.presses, twice.input, twice.time) == ((0, 0, 2, 0, 0, 0), 4, 6.0)
    assert np.allclose(twice.look, (0.2, -0.4))


def test_inputs_of_successive_pilots_never_meet() -> None:
    hands = RemoteHands()
    still = dict(time=0.0, move=(0, 0, 1), turn=(0, 0, 0), speed=4.0)
    seen = [hands.steering.input]
    for number in (1, 2, 3):
        hands.steer(wire.Control(id=number, **still))  # type: ignore[arg-type]
        assert hands.control_of(hands.steering.input) == number
        seen.append(hands.steering.input)
    hands.release()
    assert hands.steering.controls.idle
    seen.append(hands.steering.input)
    hands.steer(wire.Control(id=1, **still))  # type: ignore[arg-type]
    seen.append(hands.steering.input)
    assert seen == sorted(set(seen))
    assert hands.control_of(seen[1]) == 0
