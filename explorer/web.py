"""The few files of the viewer page, and who may ask for them: plain HTTP answered from memory. Pure but for `page`.

No path from a client ever touches the disk: all there is to serve is read once and looked up by its exact name.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

SOCKET = "/socket"
FONTS = {
    "/regular.otf": ("fonts/Inter-Regular.otf", "font/otf"),
    "/semibold.otf": ("fonts/Inter-SemiBold.otf", "font/otf"),
}
PAGE = {  # path → file in explorer, content type
    "/": ("viewer/index.html", "text/html; charset=utf-8"),
    "/viewer.css": ("viewer/viewer.css", "text/css; charset=utf-8"),
    "/viewer.js": ("viewer/viewer.js", "text/javascript; charset=utf-8"),
    "/wire.js": ("viewer/wire.js", "text/javascript; charset=utf-8"),
    "/screen.js": ("viewer/screen.js", "text/javascript; charset=utf-8"),
    "/hands.js": ("viewer/hands.js", "text/javascript; charset=utf-8"),
    "/pilot.js": ("viewer/pilot.js", "text/javascript; charset=utf-8"),
    "/view.js": ("viewer/view.js", "text/javascript; charset=utf-8"),
    "/redraw.glsl": ("viewer/redraw.glsl", "text/plain; charset=utf-8"),
    "/icon.svg": ("viewer/icon.svg", "image/svg+xml"),
    **FONTS,
}
SAFETY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One thing that can be fetched."""

    body: bytes
    kind: str  # content type


def page(names: Mapping[str, tuple[str, str]] = PAGE) -> dict[str, Asset]:
    """A page, the viewer's or another, by path. Raises RuntimeError naming a file that the installation lacks."""
    folder = files("explorer")
    try:
        return {path: Asset((folder / name).read_bytes(), kind) for path, (name, kind) in names.items()}
    except FileNotFoundError as error:
        raise RuntimeError(f"{error.filename} is missing: install World Explorer again") from error


def answer(path: str, assets: Mapping[str, Asset], health: Mapping[str, object]) -> Response:
    """The reply to GET `path`; anything not listed is 404."""
    name = path.partition("?")[0]
    if name == "/healthz":
        return _reply(200, "OK", Asset(json.dumps(health).encode(), "application/json"))
    asset = assets.get(name)
    if asset is None:
        return refusal(404, "Not Found", "There is no such page here.")
    return _reply(200, "OK", asset)


def refusal(status: int, title: str, sentence: str) -> Response:
    return _reply(status, title, Asset(f"{sentence}\n".encode(), "text/plain; charset=utf-8"))


def _reply(status: int, title: str, asset: Asset) -> Response:
    headers = Headers(SAFETY)
    headers["Content-Type"] = asset.kind
    headers["Content-Length"] = str(len(asset.body))
    headers["Cache-Control"] = "no-cache"
    headers["Connection"] = "close"
    return Response(status, title, headers, asset.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Who is let in. A name that is not ours in `Host` is a foreign page that had its name point at this machine."""

    host: str  # the address listened on
    origins: Collection[
        str
    ] = ()  # further pages that may connect, like https://example.org; "*" is everybody

    def objection(self, request: Request) -> str | None:
        """Why this request is refused, or None."""
        host, origin = _one(request, "Host"), _one(request, "Origin")
        if "*" in self.origins:
            return None
        if host is None or not self._ours(host):
            return f"This world does not answer to the name {_short(host)}: use its address, or start it with --origins."
        if origin is not None and origin not in self.origins and urlsplit(origin).netloc != host:
            return f"Pages of {_short(origin)} may not connect: start the world with --origins to allow it."
        return None

    def _ours(self, host: str) -> bool:
        name = (_hostname(f"//{host}") or "").lower()
        own = socket.gethostname().lower()
        known = {"localhost", self.host.lower(), own, f"{own}.local"}
        return name in known | {_hostname(o) for o in self.origins} or _is_address(name)


def _one(request: Request, name: str) -> str | None:
    """The header, or None; several are as bad as a wrong one."""
    values: list[Any] = request.headers.get_all(name)
    return ", ".join(values) if values else None


def _short(text: str | None) -> str:
    return ascii((text or "")[:80])


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
