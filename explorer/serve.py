"""`explorer serve`: an engine process and a broadcast, and the loop that carries frames from one to the other."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from explorer import protocol as wire
from explorer.assets import Scene, assets_folder, imagined, load_gallery, photograph
from explorer.broadcast import Broadcast, BroadcastConfig
from explorer.choice import WorldChoice
from explorer.controls import SPEED_DEFAULT, Steering
from explorer.encode import jpeg
from explorer.messages import Ready
from explorer.pacer import Shown
from explorer.remote import RemoteHands
from explorer.session import Session
from explorer.web import Asset, page

FLYING, RESTING = 0.008, 0.03  # seconds between looks at the controls
FAILURES = 3  # of the engine within a minute: then it is given up


@dataclass(frozen=True, kw_only=True)
class ServeOptions(WorldChoice):
    """Show a world in browsers: one person flies, everybody else watches."""

    image: Annotated[Path | None, arg(metavar="IMAGE", help_behavior_hint="")] = None
    """a photograph or painting to begin with (PNG, JPEG, WebP); without it: in pocket a place drawn from the words of a
    --prompt, else the gallery"""
    fov: Annotated[float | None, arg(metavar="DEGREES", help_behavior_hint="")] = None
    """horizontal field of view of the picture in degrees; default: from its EXIF data, else 64"""
    scene: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """of the gallery, to begin with; default: its first"""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """to listen on: 127.0.0.1 is this computer only, 0.0.0.0 everybody who can reach it"""
    port: Annotated[int, arg(metavar="N")] = 8765
    """TCP port for the page and the frames; 0 takes any free one"""
    fps: Annotated[float, arg(metavar="N")] = 60.0
    """frames a second that are sent at most"""
    quality: Annotated[int, arg(metavar="N")] = 88
    """of JPEGs, 1 to 100"""
    origins: Annotated[tuple[str, ...], arg(metavar="[URL [URL ...]]", help_behavior_hint="")] = ()
    """other web pages that may connect, such as https://example.org; the page served here always may"""
    max_viewers: Annotated[int, arg(metavar="N")] = 32
    """who may connect at once"""
    patience: Annotated[float, arg(metavar="S")] = 30.0
    """seconds of a pilot's silence after which the next in line flies"""

    def broadcast(self) -> BroadcastConfig:
        """Raises ValueError for a value out of range: here, not when built, so that it is told in one sentence."""
        if not 0.1 <= self.fps <= 1000.0:
            raise ValueError(f"fps {self.fps:g} must lie between 0.1 and 1000")
        return BroadcastConfig(
            host=self.host,
            port=self.port,
            origins=self.origins,
            quality=self.quality,
            max_viewers=self.max_viewers,
            patience=self.patience,
        )


def serve(options: ServeOptions, *, say: Callable[[str], None]) -> None:
    """Run until KeyboardInterrupt, which is passed on, and leave nothing behind. `say` prints a line for people.

    Raises ValueError, one sentence, for what the user can mend and for an engine that keeps failing.
    """
    config = options.broadcast()
    assets = assets_folder()
    scenes = _scenes(options, assets)
    files = page()
    session = Session(
        options.model, assets=assets, device=options.device, threads=options.threads, setup=options.setup
    )
    try:
        spec = _loaded(session, say)
        scenes = (_drawn(session, scenes[0], say), *scenes[1:])
        hands = RemoteHands()
        files |= thumbnails(scenes, spec.width, spec.height)
        broadcast = Broadcast(
            hands, hello=greeting(spec, scenes, speed=options.usual_speed), assets=files, config=config
        )
        _open(broadcast)
        try:
            for line in welcome(options.host, broadcast.port):
                say(line)
            Station(session, broadcast, hands, scenes, fps=options.fps).run()
        finally:
            broadcast.stop()
    finally:
        session.stop()


class Station:
    """The loop between engine and broadcast. One thread, the one that calls `run`."""

    def __init__(
        self,
        session: Session,
        broadcast: Broadcast,
        hands: RemoteHands,
        scenes: Sequence[Scene],
        *,
        fps: float,
    ) -> None:
        """`fps`: at most so many frames a second are sent. The first of `scenes` is where it starts."""
        self._session, self._broadcast, self._hands, self._scenes = session, broadcast, hands, scenes
        self._gap = 1.0 / fps
        self._next = 0.0  # perf_counter seconds before which no frame is sent
        self._failures: deque[float] = deque(maxlen=FAILURES)
        self._said: tuple[str, str] = ("", "")
        self._begin("0")

    def run(self) -> None:
        """Until interrupted; raises ValueError when the engine keeps failing."""
        while True:
            self.turn()
            time.sleep(FLYING if self._session.stage == "flying" else RESTING)

    def turn(self) -> None:
        """Once round: steer, collect, send the newest frame that is due."""
        chosen = self._hands.scenes.take()
        if chosen is not None:
            self._begin(chosen)
        now = time.perf_counter()
        for shown in self._session.tick(self._hands.steering, now=now)[-1:]:
            self._show(shown, now)
        if self._session.stage == "failed":
            self._restart(now)
        self._report()

    def _begin(self, scene: str) -> None:
        self._scene = scene
        self._session.begin(self._scenes[int(scene)])

    def _restart(self, now: float) -> None:
        """The scene begins anew with a new engine, unless that did not help lately."""
        self._failures.append(now)
        if len(self._failures) == FAILURES and now - self._failures[0] < 60.0:
            raise ValueError(f"the engine keeps failing: {self._session.note}")
        self._session.restart()

    def _report(self) -> None:
        stage = self._session.stage
        state = stage if stage in ("flying", "resting") else "loading"
        if (state, self._scene) != self._said:
            self._said = (state, self._scene)
            self._broadcast.report(state, scene=self._scene, note=self._session.note[:200])

    def _show(self, shown: Shown, now: float) -> None:
        if shown.due >= self._next:
            self._next = max(self._next + self._gap, shown.due)
            control = self._hands.control_of(shown.input)
            pilot = self._session.pilot
            self._broadcast.publish(
                shown.frame, control=control, due=shown.due, pilot=pilot.pose if pilot else None, at=now
            )
            self._session.stats.latency.presented(time.perf_counter())


def greeting(spec: Ready, scenes: Sequence[Scene], *, speed: float = SPEED_DEFAULT) -> wire.Hello:
    """What every viewer is told first. A scene's id is its place in the list. speed: m/s at which pilots begin."""
    return wire.Hello(
        world=spec.name,
        width=spec.width,
        height=spec.height,
        fps=spec.fps,
        chunk_frames=spec.chunk_frames,
        codecs=("jpeg",),
        scenes=tuple(wire.Scene(id=str(i), title=scene.title[:80]) for i, scene in enumerate(scenes)),
        role="spectator",
        client=0,
        speed=speed,
    )


def thumbnails(scenes: Sequence[Scene], width: int, height: int) -> dict[str, Asset]:
    """A small picture of each scene, by path."""
    pictures = (scene.picture(width, height)[0] for scene in scenes)
    return {f"/scene/{i}.jpg": Asset(jpeg(p, quality=80).data, "image/jpeg") for i, p in enumerate(pictures)}


def welcome(host: str, port: int) -> list[str]:
    """Where to point a browser, and who can."""
    everywhere = host in ("0.0.0.0", "::")
    names = ["127.0.0.1", own_address()] if everywhere else [host]
    lines = ["World Explorer is running. Open:"]
    lines += [f"  http://{f'[{name}]' if ':' in name else name}:{port}/" for name in dict.fromkeys(names)]
    if not everywhere and _is_loopback(host):
        lines.append("Only this computer can connect. To let others in, start it with --host 0.0.0.0.")
    else:
        lines.append("Everybody who can reach this address can watch, and the first who asks flies.")
    return [*lines, "Ctrl-C ends it."]


def _scenes(options: ServeOptions, assets: Path) -> tuple[Scene, ...]:
    """The gallery, with the scene to start in first, under the words of the prompt; these alone make one more."""
    ordered = _ordered(options, assets)
    if options.words_alone is not None and options.image is None and options.scene is None:
        return (imagined(options.words_alone, fov=options.fov), *ordered)
    return tuple(options.worded(scene) for scene in ordered)


def _ordered(options: ServeOptions, assets: Path) -> tuple[Scene, ...]:
    gallery = load_gallery(assets / "gallery")
    if options.image is not None:
        return (photograph(options.image, fov=options.fov), *gallery)
    if options.scene is None:
        return gallery
    chosen = [scene for scene in gallery if scene.name == options.scene]
    if not chosen:
        names = ", ".join(scene.name for scene in gallery)
        raise ValueError(f"the gallery has no scene '{options.scene}': choose one of {names}")
    return (*chosen, *(scene for scene in gallery if scene.name != options.scene))


def _loaded(session: Session, say: Callable[[str], None]) -> Ready:
    """Wait for the model. Raises ValueError where it cannot be loaded."""
    _wait(session, say, lambda: session.engine.spec is not None)
    assert session.engine.spec is not None
    return session.engine.spec


def _drawn(session: Session, scene: Scene, say: Callable[[str], None]) -> Scene:
    """The scene with its picture, which the engine draws where there are only words. Raises ValueError."""
    if scene.drawn:
        return scene
    session.begin(scene)
    _wait(session, say, lambda: session.scene is not None and session.scene.drawn)
    assert session.scene is not None
    return session.scene


def _wait(session: Session, say: Callable[[str], None], done: Callable[[], bool]) -> None:
    """Until something is done, saying what the engine does meanwhile. Raises ValueError where it fails."""
    said = ""
    while not done():
        if session.note and session.note != said:
            said = session.note
            say(f"{said} …")
        session.tick(Steering(), now=time.perf_counter())
        if session.stage == "failed":
            raise ValueError(session.note)
        time.sleep(RESTING)


def _open(broadcast: Broadcast) -> None:
    config = broadcast.config
    try:
        broadcast.start()
    except OSError as error:
        why = error.strerror or str(error)
        raise ValueError(
            f"cannot listen on {config.host} port {config.port} ({why}): choose another with --host or --port"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_address() -> str:
    """This machine's address on its network, as far as can be told; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])
