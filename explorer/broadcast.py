"""The world on one TCP port: the viewer page by HTTP, frames and controls by WebSocket.

One thread owns the loop and all sockets. Frames come in by `publish` from any thread; controls go out to a `Flight`.
Viewers pull: each credit buys one frame, the newest there is, so a slow viewer is behind nobody and delays nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from engine.camera import Pose
from engine.frame import Frame
from explorer import protocol as wire
from explorer.encode import depth_bytes, jpeg
from explorer.seat import Line
from explorer.web import SOCKET, Asset, Door, answer, refusal

CREDITS = 2  # frames on their way to one viewer at most
OUTBOX = 64  # short messages that may wait for a viewer before it is given up
HOLD = 1.0  # seconds for which the pilot's last control stays in force
TICK = 0.25  # seconds between looks at the clock
State = Literal["loading", "flying", "resting"]
_quiet = logging.getLogger("explorer.broadcast")  # port scanners and torn connections are no news
_quiet.setLevel(logging.CRITICAL)


class Flight(Protocol):
    """What viewers do to the world. Called on the network thread: return at once."""

    def steer(self, control: wire.Control) -> None:
        """The pilot's newest control."""

    def release(self) -> None:
        """Nothing is held any more: the pilot left, or held something and was not heard for a second."""

    def choose(self, scene: str) -> None:
        """Start again in the scene with this id, which is one of those offered."""


@dataclass(frozen=True, kw_only=True)
class BroadcastConfig:
    """How the port behaves."""

    host: str = "127.0.0.1"
    port: int = 8765  # 0: any free one
    origins: tuple[str, ...] = ()
    quality: int = 88  # of the JPEGs
    max_viewers: int = 32
    patience: float = 30.0  # seconds of a pilot's silence after which somebody who waits may fly
    rate: float = 150.0  # messages per second taken from one viewer; more are slowed down
    pilots: bool = True  # viewers may ask for the controls

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} must lie between 0 and 65535")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality {self.quality} must lie between 1 and 100")
        if self.patience <= 0:
            raise ValueError(f"patience {self.patience:g} seconds must be positive")
        if self.max_viewers < 1:
            raise ValueError(f"max_viewers {self.max_viewers} must be at least 1")


@dataclass(eq=False)
class Viewer:
    """One connection. Lives on the network thread."""

    id: int
    socket: ServerConnection
    credits: int = 0
    picture: bytes | None = None  # slot of size one: a new frame replaces the old
    outbox: deque[bytes] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    told: tuple[str, int] = ("spectator", 0)  # role and place it knows of
    tokens: float = 50.0  # messages it may send now
    filled: float = 0.0  # when `tokens` was counted

    def tell(self, message: wire.Message) -> None:
        """Queue a short message; who does not read them is cut off."""
        if len(self.outbox) >= OUTBOX:
            self.socket.transport.abort()
            return
        self.outbox.append(wire.encode(message))
        self.wake.set()

    def show(self, picture: bytes) -> None:
        self.picture = picture
        self.wake.set()

    def debt(self, rate: float, now: float) -> float:
        """Count one message; seconds to wait before the next is read."""
        self.tokens = min(self.tokens + (now - self.filled) * rate, 50.0) - 1.0
        self.filled = now
        return max(-self.tokens / rate, 0.0)

    async def send(self) -> None:
        """Send short messages first, then the newest frame for each credit, for ever."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.wake.wait()
                self.wake.clear()
                while self.outbox:
                    await self.socket.send(self.outbox.popleft())
                if self.credits and self.picture is not None:
                    picture, self.picture = self.picture, None
                    self.credits -= 1
                    await self.socket.send(picture)
                    self.wake.set()


class Broadcast:
    """Start it, publish frames, stop it. `port` is the one that was bound."""

    def __init__(
        self,
        flight: Flight,
        *,
        hello: wire.Hello,
        assets: Mapping[str, Asset],
        config: BroadcastConfig,
    ) -> None:
        """`hello` says what is shown; its role and client are filled in for each viewer."""
        self.config, self.flight, self.assets = config, flight, dict(assets)
        self.hello = replace(hello, pilots=config.pilots)
        self.port = config.port
        self._scenes = frozenset(scene.id for scene in hello.scenes)
        self._door = Door(host=config.host, origins=config.origins)
        self._viewers: dict[int, Viewer] = {}
        self._line = Line(patience=config.patience)
        self._held = False  # a control of the pilot is in force
        self._status = wire.Status(state="loading", piloted=False, waiting=0, viewers=0)
        self._newest: bytes | None = None
        self._frames = self._next_id = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def start(self) -> None:
        """Listen. Raises OSError where the port is taken or the address is not this machine's, or no address."""
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """Say goodbye to everybody and end the thread, within a second. Again: nothing."""
        if self._thread.is_alive():
            self._call(self._stop.set)
            self._thread.join()

    @property
    def status(self) -> wire.Status:
        """What viewers were told last."""
        return self._status

    def publish(
        self, frame: Frame, *, control: int, due: float, pilot: Pose | None = None, at: float = 0.0
    ) -> None:
        """Show `frame` to everybody with a credit.

        control: newest control it obeys.  due: perf_counter seconds.  pilot: where the pilot is at the time `at`.
        """
        coded = jpeg(frame.pixels, quality=self.config.quality)
        message = picture_of(frame, data=coded.data, control=control, due=due, encode=coded.seconds)
        if pilot is not None:
            q, t = _plain(pilot)
            message = replace(message, pilot_q=q, pilot_t=t, pilot_at=at)
        self._call(self._show, wire.encode(message))

    def report(self, state: State, *, scene: str = "", note: str = "") -> None:
        """Tell everybody how the world is."""
        self._call(self._set_status, state, scene, note)

    def _call(self, function: Any, *arguments: object) -> None:
        if self._loop is None:
            raise RuntimeError("nobody can be told anything yet: start() the broadcast first")
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
            self._loop.call_soon_threadsafe(function, *arguments)

    # network thread from here on

    def _run(self) -> None:
        loop = self._loop
        assert loop is not None
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                runner.run(self._main())
            except UnicodeError as error:
                self._failure = OSError(f"{self.config.host} is no address")
                self._failure.__cause__ = error
            except OSError as error:
                self._failure = error
            finally:
                self._ready.set()

    async def _main(self) -> None:
        async with serve(
            self._meet,
            self.config.host,
            self.config.port,
            process_request=self._answer,
            compression=None,
            max_size=wire.MAX_INCOMING,
            max_queue=8,
            open_timeout=5,
            close_timeout=0.3,
            server_header=None,
            logger=_quiet,
        ) as server:
            self.port = _port(server)
            clock = asyncio.create_task(self._watch())
            self._ready.set()
            await self._stop.wait()
            clock.cancel()

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        objection = self._door.objection(request)
        if objection is not None:
            return refusal(403, "Forbidden", objection)
        if request.path == SOCKET:
            return None
        return answer(request.path, self.assets, self._health())

    def _health(self) -> dict[str, object]:
        s = self._status
        return {
            "status": "ok",
            "protocol": wire.VERSION,
            "world": self.hello.world,
            "state": s.state,
            "piloted": s.piloted,
            "viewers": s.viewers,
            "frames": self._frames,
        }

    async def _meet(self, socket: ServerConnection) -> None:
        """One viewer, from handshake to goodbye."""
        if len(self._viewers) >= self.config.max_viewers:
            await _refuse(socket, f"All places ({self.config.max_viewers}) are taken.")
            return
        viewer = self._enter(socket)
        sender = asyncio.create_task(viewer.send())
        try:
            async for data in socket:
                self._take(viewer, data)
                await asyncio.sleep(viewer.debt(self.config.rate, time.perf_counter()))
        except ConnectionClosed:
            pass
        finally:
            sender.cancel()
            del self._viewers[viewer.id]
            self._seat(self._line.leave(viewer.id, now=time.perf_counter()))

    def _enter(self, socket: ServerConnection) -> Viewer:
        self._next_id += 1
        viewer = Viewer(self._next_id, socket, picture=self._newest, filled=time.perf_counter())
        viewer.tell(replace(self.hello, role="spectator", client=viewer.id))
        self._viewers[viewer.id] = viewer
        viewer.tell(self._status)
        self._tell_status()
        return viewer

    def _take(self, viewer: Viewer, data: object) -> None:
        """One message of a viewer. Whatever is wrong with it is said, and that is all."""
        try:
            message = wire.decode(data, known=wire.FROM_VIEWER)
            self._obey(viewer, message)
        except wire.ProtocolError as error:
            viewer.tell(wire.Error(code=error.code, message=str(error)[:400]))

    def _obey(self, viewer: Viewer, message: wire.Message) -> None:
        now = time.perf_counter()
        match message:
            case wire.Credit():
                viewer.credits = min(viewer.credits + message.frames, CREDITS)
                viewer.wake.set()
            case wire.Ping():
                viewer.tell(wire.Pong(time=message.time, server=now))
            case wire.Ask(action="fly") if not self.config.pilots:
                raise wire.ProtocolError("whoever stands at the screen flies: here you watch", code="watch")
            case wire.Ask(action="fly"):
                self._seat(self._line.ask(viewer.id, now=now), asked=viewer)
            case wire.Ask():
                self._seat(self._line.leave(viewer.id, now=now), asked=viewer)
            case wire.Control():
                self._only_pilot(viewer, now)
                self._held = any((*message.move, *message.turn))
                self.flight.steer(message)
            case wire.Choose():
                self._only_pilot(viewer, now)
                if message.scene not in self._scenes:
                    raise wire.ProtocolError(f"there is no scene {message.scene[:64]!a}", code="scene")
                self.flight.choose(message.scene)

    def _only_pilot(self, viewer: Viewer, now: float) -> None:
        if viewer.id != self._line.pilot:
            raise wire.ProtocolError("only the pilot steers: ask for the controls first", code="spectator")
        self._line = self._line.hear(viewer.id, now=now)

    def _seat(self, line: Line, *, asked: Viewer | None = None) -> None:
        """Take on a new line, and tell those whose role or place it changes, and who asked."""
        before, self._line = self._line, line
        if before.pilot not in (None, line.pilot):
            self._let_go()
        for viewer in self._viewers.values():
            place = line.place(viewer.id)
            now: tuple[Literal["pilot", "spectator"], int]
            now = ("pilot" if viewer.id == line.pilot else "spectator", place)
            if now != viewer.told or viewer is asked:
                viewer.tell(wire.Seat(role=now[0], place=place, reason=_reason(*now, asked=viewer is asked)))
                viewer.told = now
        self._tell_status()

    def _let_go(self) -> None:
        self._held = False
        self.flight.release()

    async def _watch(self) -> None:
        """The clock: a pilot who went silent lets go, and after a while makes room."""
        while True:
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            if self._held and now - self._line.heard > HOLD:
                self._let_go()
            line = self._line.pass_on(now=now)
            if line is not self._line:
                self._seat(line)

    def _show(self, picture: bytes) -> None:
        self._newest = picture
        self._frames += 1
        for viewer in self._viewers.values():
            viewer.show(picture)

    def _set_status(self, state: State, scene: str, note: str) -> None:
        self._tell_status(replace(self._status, state=state, scene=scene, note=note))

    def _tell_status(self, status: wire.Status | None = None) -> None:
        fresh = replace(
            status or self._status,
            piloted=self._line.pilot is not None,
            waiting=len(self._line.waiting),
            viewers=len(self._viewers),
        )
        if fresh != self._status:
            self._status = fresh
            for viewer in list(self._viewers.values()):
                viewer.tell(fresh)


def picture_of(frame: Frame, *, data: bytes, control: int, due: float, encode: float) -> wire.Picture:
    """A frame as it goes over the wire."""
    q, t = _plain(frame.pose)
    height, width = frame.pixels.shape[:2]
    depth, (across, down) = frame.inverse_depth, wire.DEPTH
    divides = not (width % across or height % down)
    return wire.Picture(
        index=frame.index,
        world=frame.world,
        q=q,
        t=t,
        intrinsics=tuple(float(x) for x in frame.intrinsics.row),
        width=width,
        height=height,
        codec="jpeg",
        control=control,
        due=due,
        encode=encode,
        data=data,
        depth=depth_bytes(depth, wire.DEPTH) if depth is not None and divides else b"",
    )


def _plain(pose: Pose) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """q as w, x, y, z; and t."""
    return tuple(float(x) for x in pose.q.normalised.elements), tuple(float(x) for x in pose.t)


def _reason(role: str, place: int, *, asked: bool) -> str:
    if role == "pilot":
        return "You have the controls."
    if place:
        return (
            "Somebody else is flying. You are next in line."
            if place == 1
            else f"You are number {place} in line."
        )
    return "You let go of the controls." if asked else "You were away: the controls went to the next in line."


async def _refuse(socket: ServerConnection, sentence: str) -> None:
    with contextlib.suppress(ConnectionClosed):
        await socket.send(wire.encode(wire.Error(code="full", message=sentence)))
        await socket.close(1013, "full")


def _port(server: Server) -> int:
    sockets: Sequence[Any] = list(server.sockets)
    return int(sockets[0].getsockname()[1])
