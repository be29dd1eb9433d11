"""The wire: every message survives the round trip, and nothing else gets in."""

from __future__ import annotations

import math
from dataclasses import asdict

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer import protocol as p

BOTH = {**p.FROM_SERVER, **p.FROM_VIEWER}
times = st.floats(0.0, 1e12)
ids = st.integers(0, p.MAX_ID)
axes = st.tuples(*[st.floats(-1.0, 1.0)] * 3)
text = st.text(max_size=60)


@st.composite
def orientations(draw: st.DrawFn) -> tuple[float, ...]:
    a, b, c = (draw(st.floats(0.0, 2.0 * math.pi)) for _ in range(3))
    return (
        math.cos(a),
        math.sin(a) * math.cos(b),
        math.sin(a) * math.sin(b) * math.cos(c),
        math.sin(a) * math.sin(b) * math.sin(c),
    )


messages = st.one_of(
    st.builds(
        p.Hello,
        world=text,
        width=st.integers(1, 8192),
        height=st.integers(1, 8192),
        fps=st.floats(0.1, 1000.0),
        chunk_frames=st.integers(1, 1000),
        codecs=st.just(("jpeg",)),
        scenes=st.lists(st.builds(p.Scene, id=text, title=text), max_size=4).map(tuple),
        role=st.sampled_from(["pilot", "spectator"]),
        client=ids,
    ),
    st.builds(p.Seat, role=st.sampled_from(["pilot", "spectator"]), place=st.integers(0, 99), reason=text),
    st.builds(
        p.Status,
        state=st.sampled_from(["loading", "flying", "resting"]),
        piloted=st.booleans(),
        waiting=st.integers(0, 99),
        viewers=st.integers(0, 99),
        scene=text,
        note=text,
    ),
    st.builds(
        p.Picture,
        index=ids,
        world=text,
        q=orientations(),
        t=st.tuples(*[st.floats(-1e9, 1e9)] * 3),
        intrinsics=st.tuples(*[st.floats(-1e6, 1e6)] * 4),
        width=st.integers(1, 8192),
        height=st.integers(1, 8192),
        codec=st.just("jpeg"),
        control=ids,
        due=times,
        encode=st.floats(0.0, 1e3),
        data=st.binary(min_size=1, max_size=200),
    ),
    st.builds(p.Error, code=st.text(max_size=32), message=text),
    st.builds(p.Pong, time=times, server=times),
    st.builds(p.Ask, action=st.sampled_from(["fly", "leave"])),
    st.builds(
        p.Control,
        id=ids,
        time=times,
        move=axes,
        turn=axes,
        look=st.tuples(*[st.floats(-math.pi, math.pi)] * 2),
        speed=st.floats(0.01, 1000.0),
        taps=st.tuples(*[st.floats(-100.0, 100.0)] * 6),
    ),
    st.builds(p.Credit, frames=st.integers(1, 2)),
    st.builds(p.Choose, scene=text),
    st.builds(p.Ping, time=times),
)


@given(messages)
def test_every_message_survives_the_round_trip(message: p.Message) -> None:
    assert p.decode(p.encode(message), known=BOTH, limit=p.MAX_OUTGOING) == message


@given(st.binary(max_size=300))
def test_random_bytes_raise_protocol_errors_only(data: bytes) -> None:
    with pytest.raises(p.ProtocolError):
        p.decode(data, known=p.FROM_VIEWER)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(sorted(BOTH)), st.data())
def test_random_fields_raise_protocol_errors_only(kind: str, data: st.DataObject) -> None:
    names = [f.name for f in p.fields(BOTH[kind])]
    body = data.draw(st.dictionaries(st.sampled_from([*names, "more"]), anything))
    message = decoded(msgpack.packb({"v": 1, "type": kind, **body}))
    assert message is None or type(message) is BOTH[kind]


@given(messages, st.data())
def test_a_flipped_byte_is_a_message_or_a_protocol_error(message: p.Message, data: st.DataObject) -> None:
    raw = bytearray(p.encode(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    decoded(bytes(raw))


def decoded(data: bytes) -> p.Message | None:
    """The message, or None where it is refused; any other error fails the test."""
    try:
        return p.decode(data, known=BOTH, limit=p.MAX_OUTGOING)
    except p.ProtocolError:
        return None


CONTROL = {"id": 1, "time": 0.5, "move": [0, 0, 1], "turn": [0, 0, 0], "speed": 4.0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"v": 2}, "version 1, not 2"),
        ({"v": True}, "version 1, not True"),
        ({"type": "picture"}, "unknown message type 'picture'"),
        ({"type": ["control"]}, "unknown message type a list of 1"),
        ({"id": 1.5}, "id must be a whole number, not 1.5"),
        ({"id": True}, "id must be a whole number"),
        ({"move": [0, 0]}, "move has 2 entries"),
        ({"move": [0, 0, float("nan")]}, "move[2] is nan"),
        ({"move": [0, 0, 7]}, "move[2] is 7"),
        ({"speed": float("inf")}, "speed is inf"),
        ({"speed": "fast"}, "speed must be a number, not 'fast'"),
        ({"boost": 1}, "control has no field 'boost'"),
    ],
)
def test_each_mistake_is_named(change: dict[str, object], says: str) -> None:
    body = {"v": 1, "type": "control", **CONTROL, **change}
    with pytest.raises(p.ProtocolError) as caught:
        p.decode(msgpack.packb(body), known=p.FROM_VIEWER)
    assert says in str(caught.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(p.ProtocolError, match="control lacks turn, speed"):
        p.decode(
            msgpack.packb({"v": 1, "type": "control", "id": 1, "time": 0, "move": [0, 0, 0]}),
            known=p.FROM_VIEWER,
        )


def test_numbers_of_the_other_kind_arrive_as_floats() -> None:
    control = p.decode(msgpack.packb({"v": 1, "type": "control", **CONTROL}), known=p.FROM_VIEWER)
    assert asdict(control)["move"] == (0.0, 0.0, 1.0)
    assert all(type(x) is float for x in asdict(control)["move"])


def test_too_long_too_deep_and_text_messages_are_refused() -> None:
    with pytest.raises(p.ProtocolError, match="too long") as caught:
        p.decode(bytes(p.MAX_INCOMING + 1), known=p.FROM_VIEWER)
    assert caught.value.code == "size"
    with pytest.raises(p.ProtocolError):
        p.decode(b"\x91" * 5000 + b"\xc0", known=p.FROM_VIEWER)
    deep = b"\x83\xa1v\x01\xa4type\xa3ask\xa6action" + b"\x91" * 900 + b"\xc0"
    with pytest.raises(p.ProtocolError, match="a list of 1"):
        p.decode(deep, known=p.FROM_VIEWER)
    with pytest.raises(p.ProtocolError, match="not text"):
        p.decode("hello", known=p.FROM_VIEWER)


def test_nothing_malformed_goes_out_either() -> None:
    with pytest.raises(p.ProtocolError, match=r"place must be a whole number, not None"):
        p.Seat(role="pilot", place=None)  # type: ignore[arg-type]
    with pytest.raises(p.ProtocolError, match=r"role is 'king'"):
        p.Seat(role="king")  # type: ignore[arg-type]
