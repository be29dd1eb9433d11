"""Watching a station from phones: the broadcast of `explorer serve` without its seat, and a QR code of its address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from explorer import protocol as wire
from explorer.assets import Scene
from explorer.broadcast import Broadcast, BroadcastConfig, State
from explorer.kiosk.settings import Watch
from explorer.messages import Ready
from explorer.pacer import Shown
from explorer.serve import greeting, own_address, thumbnails
from explorer.web import page

STATES: Mapping[str, State] = {"flying": "flying", "resting": "resting"}  # of the engine; all else is loading


class Nobody:
    """Hands of viewers who only watch."""

    def steer(self, control: wire.Control) -> None:
        raise AssertionError("a viewer steered a station")

    def release(self) -> None:
        pass

    def choose(self, scene: str) -> None:
        raise AssertionError("a viewer chose a scene of a station")


class Watching:
    """The port for phones, from the first loaded engine to the end of the program."""

    def __init__(self, settings: Watch, spec: Ready, scenes: Sequence[Scene]) -> None:
        """Raises ValueError where it cannot listen."""
        self._names = [scene.name for scene in scenes]
        self._unsent: Shown | None = None
        origins = (settings.address.rstrip("/"),) if settings.address else ()  # a name that is ours
        config = BroadcastConfig(
            origins=origins,
            host=settings.host,
            port=settings.port,
            max_viewers=settings.max_viewers,
            pilots=False,
        )
        assets = page() | thumbnails(scenes, spec.width, spec.height)
        self._broadcast = Broadcast(Nobody(), hello=greeting(spec, scenes), assets=assets, config=config)
        try:
            self._broadcast.start()
        except OSError as error:
            why = error.strerror or str(error)
            raise ValueError(
                f"[watch] cannot listen on {settings.host} port {settings.port} ({why})"
            ) from None
        self.address = settings.address or f"http://{_reachable(settings.host)}:{self._broadcast.port}/"
        self.code = qr(self.address)

    @property
    def viewers(self) -> int:
        return self._broadcast.status.viewers

    def show(self, shown: Shown) -> None:
        """What is on the screen."""
        self._unsent = shown

    def send(self) -> None:
        """Nothing is compressed while nobody watches; whoever comes while the world rests still sees it."""
        if self._unsent is not None and self.viewers:
            self._broadcast.publish(self._unsent.frame, control=0, due=self._unsent.due)
            self._unsent = None

    def report(self, stage: str, scene: str) -> None:
        state = STATES.get(stage, "loading")
        self._broadcast.report(state, scene=str(self._names.index(scene)))

    def stop(self) -> None:
        self._broadcast.stop()


def require_segno() -> None:
    """Raises ValueError naming the extra where the QR library is missing."""
    try:
        import segno  # noqa: F401 -- only whether it is there
    except ImportError:
        raise ValueError(
            "[watch] enabled needs segno for the QR code: pip install 'world-explorer[kiosk]', or set it to false"
        ) from None


def qr(address: str) -> tuple[tuple[bool, ...], ...]:
    """Rows of dark modules, without a quiet zone."""
    import segno

    return tuple(tuple(bool(module) for module in row) for row in segno.make_qr(address, error="m").matrix)


def _reachable(host: str) -> str:
    name = own_address() if host in ("0.0.0.0", "::") else host
    return f"[{name}]" if ":" in name else name
