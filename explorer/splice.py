"""Films of one encoder put one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from explorer.recorder import FRAGMENTED


def joined(out: Path, parts: Iterable[Path]) -> None:
    """Films of one encoder one after the other, without encoding them again. The file appears whole or not at all."""
    import av

    whole = out.with_name(out.name + ".part")
    try:
        with av.open(str(whole), "w", format="mp4", options=FRAGMENTED) as film:
            stream: Any = None
            frames = 0
            for part in parts:
                with av.open(str(part)) as source:
                    if stream is None:
                        stream = film.add_stream_from_template(source.streams.video[0])
                    frames += _copied(source, film, stream, after=frames)
        os.replace(whole, out)
    finally:
        whole.unlink(missing_ok=True)


def _copied(source: Any, film: Any, stream: Any, *, after: int) -> int:
    """Packets of one part, moved in time by `after` frames. Returns how many there were."""
    video = source.streams.video[0]
    length = 1 / (video.average_rate * video.time_base)  # of a frame, in units of the stream
    count = 0
    for packet in source.demux(video):
        if packet.size == 0:
            continue
        packet.pts = packet.dts = round((after + count) * length)
        packet.duration = round(length)
        packet.stream = stream
        film.mux(packet)
        count += 1
    return count
