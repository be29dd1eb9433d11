"""Wire messages between a world and its viewers: frozen dataclasses to msgpack maps and back, every field checked.

A message is one msgpack map: `v` (version), `type`, and the fields of its dataclass. What comes in is built into the
same dataclasses that go out, and a dataclass checks itself, so nothing malformed exists on either side of the wire.
Poses are camera-to-world, OpenCV axes, metres; `q` is w, x, y, z; times are seconds on the sender's own clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

import msgpack

VERSION = 1
MAX_INCOMING = 64 * 1024  # bytes a viewer may send in one message
MAX_OUTGOING = 8 * 1024 * 1024  # bytes of one message to a viewer
DEPTH = (64, 40)  # cells of the depth of a picture
MAX_ID = 2**53 - 1  # the largest whole number a browser holds exactly

Check = Callable[[str, object], object]


class ProtocolError(ValueError):
    """A message that breaks the schema. The text is one sentence fit to be sent back."""

    def __init__(self, message: str, *, code: str = "malformed") -> None:
        super().__init__(message)
        self.code = code


def _shown(value: object) -> str:
    if isinstance(value, list | tuple | dict):  # never printed: it may be nested a thousand deep
        return f"a {'map' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = ascii(value[:40] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _real(lo: float, hi: float) -> Check:
    def check(name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ProtocolError(f"{name} must be a number, not {_shown(value)}")
        if not lo <= value <= hi:  # NaN fails too
            raise ProtocolError(f"{name} is {_shown(value)}: it must lie between {lo:g} and {hi:g}")
        return float(value)

    return check


def _whole(lo: int, hi: int) -> Check:
    def check(name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ProtocolError(f"{name} must be a whole number, not {_shown(value)}")
        if not lo <= value <= hi:
            raise ProtocolError(f"{name} is {_shown(value)}: it must lie between {lo} and {hi}")
        return value

    return check


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ProtocolError(f"{name} must be true or false, not {_shown(value)}")
    return value


def _text(limit: int) -> Check:
    def check(name: str, value: object) -> str:
        if not isinstance(value, str):
            raise ProtocolError(f"{name} must be text, not {_shown(value)}")
        if len(value) > limit:
            raise ProtocolError(f"{name} has {len(value)} characters: at most {limit} are taken")
        return value

    return check


def _one_of(*choices: str) -> Check:
    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ProtocolError(f"{name} is {_shown(value)}: it must be one of {', '.join(choices)}")
        return value

    return check


def _blob(limit: int) -> Check:
    def check(name: str, value: object) -> bytes:
        if not isinstance(value, bytes):
            raise ProtocolError(f"{name} must be bytes, not {_shown(value)}")
        if not 0 < len(value) <= limit:
            raise ProtocolError(f"{name} has {len(value)} bytes: 1 to {limit} are taken")
        return value

    return check


def _at_most(limit: int) -> Check:
    def check(name: str, value: object) -> bytes:
        if not isinstance(value, bytes):
            raise ProtocolError(f"{name} must be bytes, not {_shown(value)}")
        if len(value) > limit:
            raise ProtocolError(f"{name} has {len(value)} bytes: at most {limit} are taken")
        return value

    return check


def _list(item: Check, lo: int, hi: int) -> Check:
    def check(name: str, value: object) -> tuple[object, ...]:
        if not isinstance(value, list | tuple):
            raise ProtocolError(f"{name} must be a list, not {_shown(value)}")
        if not lo <= len(value) <= hi:
            raise ProtocolError(
                f"{name} has {len(value)} entries: {lo if lo == hi else f'{lo} to {hi}'} are taken"
            )
        return tuple(item(f"{name}[{i}]", entry) for i, entry in enumerate(value))

    return check


def _unit_quaternion(name: str, value: object) -> object:
    q: Any = _list(_real(-1.001, 1.001), 4, 4)(name, value)
    if abs(math.hypot(*q) - 1.0) > 1e-3:
        raise ProtocolError(f"{name} has length {math.hypot(*q):.3f}: an orientation has length 1")
    return q


def _is(check: Check, **keywords: Any) -> Any:
    """A dataclass field that `check` guards."""
    return field(metadata={"check": check}, **keywords)


@dataclass(frozen=True, kw_only=True)
class Message:
    """Base of all messages: building one checks every field, and turns lists into tuples."""

    def __post_init__(self) -> None:
        for f in fields(self):
            checked = f.metadata["check"](f.name, getattr(self, f.name))
            object.__setattr__(self, f.name, checked)


_role = _one_of("pilot", "spectator")
_id = _whole(0, MAX_ID)
_time = _real(0.0, 1e12)
_name = _text(80)
_metres = _real(-1e9, 1e9)
_axis = _real(-1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Scene(Message):
    """A first picture that can be chosen; its thumbnail is at `/scene/<id>.jpg`."""

    id: str = _is(_text(64))
    title: str = _is(_name)


def _scene(name: str, value: object) -> object:
    if isinstance(value, Scene):
        return value
    return _build(Scene, name, value)


@dataclass(frozen=True, kw_only=True)
class Hello(Message):
    """To a viewer, first of all: what is shown here, and who the viewer is."""

    world: str = _is(_name)
    width: int = _is(_whole(1, 8192))
    height: int = _is(_whole(1, 8192))
    fps: float = _is(_real(0.1, 1000.0))
    chunk_frames: int = _is(_whole(1, 1000))
    codecs: tuple[str, ...] = _is(_list(_text(16), 1, 8))
    scenes: tuple[Scene, ...] = _is(_list(_scene, 0, 500))
    role: Literal["pilot", "spectator"] = _is(_role)
    client: int = _is(_id)
    pilots: bool = _is(_flag, default=True)  # viewers may ask for the controls
    speed: float = _is(_real(0.01, 1000.0), default=4.0)  # metres per second at which a pilot begins


@dataclass(frozen=True, kw_only=True)
class Seat(Message):
    """To a viewer whose role changed, or who asked: what it is now, its place in the line (0: not waiting), and why."""

    role: Literal["pilot", "spectator"] = _is(_role)
    place: int = _is(_whole(0, 10_000), default=0)
    reason: str = _is(_text(200), default="")


@dataclass(frozen=True, kw_only=True)
class Status(Message):
    """To all viewers, whenever one of these changes."""

    state: Literal["loading", "flying", "resting"] = _is(_one_of("loading", "flying", "resting"))
    piloted: bool = _is(_flag)  # somebody has the controls
    waiting: int = _is(_whole(0, 10_000))  # how many stand in line for them
    viewers: int = _is(_whole(0, 10_000))  # everybody, pilot included
    scene: str = _is(_text(64), default="")  # id of the scene being flown
    note: str = _is(_text(200), default="")  # one sentence for people


@dataclass(frozen=True, kw_only=True)
class Picture(Message):
    """One frame and from where it was seen."""

    index: int = _is(_id)
    world: str = _is(_name)  # id of the flight
    q: tuple[float, ...] = _is(_unit_quaternion)  # camera-to-world
    t: tuple[float, ...] = _is(_list(_metres, 3, 3))
    intrinsics: tuple[float, ...] = _is(_list(_real(-1e6, 1e6), 4, 4))  # fx fy cx cy, pixels
    width: int = _is(_whole(1, 8192))
    height: int = _is(_whole(1, 8192))
    codec: str = _is(_one_of("jpeg"))
    control: int = _is(_id)  # newest control of the pilot that this frame obeys
    due: float = _is(_time)  # when to show it, on the server's clock
    encode: float = _is(_real(0.0, 1e3))  # seconds that compressing took
    data: bytes = _is(_blob(MAX_OUTGOING - 128 * 1024))
    # inverse depth, a byte for each of DEPTH = (width, height) cells: 0 sky, else log(400 d) / log(1600) as 1…255;
    # empty: unknown
    depth: bytes = _is(_at_most(DEPTH[0] * DEPTH[1]), default=b"")
    pilot_q: tuple[float, ...] = _is(_unit_quaternion, default=(1.0, 0.0, 0.0, 0.0))  # where the pilot is
    pilot_t: tuple[float, ...] = _is(_list(_metres, 3, 3), default=(0.0, 0.0, 0.0))
    pilot_at: float = _is(_time, default=0.0)  # at this time of the server's clock; 0: nobody knows


@dataclass(frozen=True, kw_only=True)
class Error(Message):
    """To a viewer: its last message was not obeyed. The session goes on."""

    code: str = _is(_text(32))
    message: str = _is(_text(400))


@dataclass(frozen=True, kw_only=True)
class Pong(Message):
    """The answer to a ping: its time, and the server's."""

    time: float = _is(_time)
    server: float = _is(_time)


@dataclass(frozen=True, kw_only=True)
class Ask(Message):
    """From a viewer: to fly, or to let go of the controls."""

    action: Literal["fly", "leave"] = _is(_one_of("fly", "leave"))


@dataclass(frozen=True, kw_only=True)
class Control(Message):
    """From the pilot: what is held now. It stays in force until the next one, at most a second."""

    id: int = _is(_id)  # grows by one
    time: float = _is(_time)
    move: tuple[float, ...] = _is(_list(_axis, 3, 3))  # right, down, forward; shares of `speed`
    turn: tuple[float, ...] = _is(
        _list(_axis, 3, 3)
    )  # yaw right, pitch up, roll clockwise; shares of the turning rate
    # since the control before: signed key presses per axis (move, then turn), which count for the pilot's shortest
    # pulse even if released again; and mouse travel, yaw right and pitch up in radians
    taps: tuple[float, ...] = _is(_list(_real(-100.0, 100.0), 6, 6), default=(0.0,) * 6)
    look: tuple[float, ...] = _is(_list(_real(-math.pi, math.pi), 2, 2), default=(0.0, 0.0))
    speed: float = _is(_real(0.01, 1000.0))  # metres per second at full axis


@dataclass(frozen=True, kw_only=True)
class Credit(Message):
    """From a viewer: it has room for this many more frames."""

    frames: int = _is(_whole(1, 2), default=1)


@dataclass(frozen=True, kw_only=True)
class Choose(Message):
    """From the pilot: start again in this scene."""

    scene: str = _is(_text(64))


@dataclass(frozen=True, kw_only=True)
class Ping(Message):
    """From a viewer: measure the way there and back."""

    time: float = _is(_time)


FROM_SERVER: dict[str, type[Message]] = {
    "hello": Hello,
    "seat": Seat,
    "status": Status,
    "picture": Picture,
    "error": Error,
    "pong": Pong,
}
FROM_VIEWER: dict[str, type[Message]] = {
    "ask": Ask,
    "control": Control,
    "credit": Credit,
    "choose": Choose,
    "ping": Ping,
}
_TYPE_OF = {kind: name for name, kind in {**FROM_SERVER, **FROM_VIEWER}.items()}


def encode(message: Message) -> bytes:
    """One message as msgpack."""
    body = {f.name: _plain(getattr(message, f.name)) for f in fields(message)}
    return msgpack.packb({"v": VERSION, "type": _TYPE_OF[type(message)], **body})


def decode(data: object, *, known: Mapping[str, type[Message]], limit: int = MAX_INCOMING) -> Message:
    """One message of the `known` types from bytes of at most `limit`. Raises ProtocolError, and nothing else."""
    if not isinstance(data, bytes):
        raise ProtocolError("messages are binary msgpack maps, not text")
    if len(data) > limit:
        raise ProtocolError(
            f"a message of {len(data)} bytes is too long: at most {limit} are taken", code="size"
        )
    body = _unpack(data)
    version, kind = body.pop("v", None), body.pop("type", None)
    if version != VERSION or isinstance(version, bool):
        raise ProtocolError(
            f"this world speaks protocol version {VERSION}, not {_shown(version)}: reload the page",
            code="version",
        )
    if not isinstance(kind, str) or kind not in known:
        raise ProtocolError(
            f"unknown message type {_shown(kind)}: known are {', '.join(known)}", code="unknown"
        )
    return _build(known[kind], kind, body)


def _unpack(data: bytes) -> dict[str, object]:
    try:
        body = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError("the message is not valid msgpack") from error
    if not isinstance(body, dict):
        raise ProtocolError(f"a message is a map, not {_shown(body)}")
    return body


def _build(kind: type[Any], name: str, body: object) -> Any:
    """`kind` from a map; unknown and missing fields are named."""
    if not isinstance(body, dict):
        raise ProtocolError(f"{name} must be a map, not {_shown(body)}")
    names = {f.name: f.default is MISSING for f in fields(kind)}
    for key in body:
        if key not in names:
            raise ProtocolError(f"{name} has no field {_shown(key)}: known are {', '.join(names)}")
    lacking = [field for field, required in names.items() if required and field not in body]
    if lacking:
        raise ProtocolError(f"{name} lacks {', '.join(lacking)}")
    try:
        return kind(**body)
    except ProtocolError as error:
        raise ProtocolError(f"{name}: {error}", code=error.code) from None


def _plain(value: object) -> object:
    if isinstance(value, Message):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    return value
