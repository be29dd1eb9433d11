"""The operator's page: how the station is, and a few buttons, on a local port behind a token.

The token comes once with the address and is then kept in a cookie that no other page can use; whoever lacks it learns
nothing, not even which paths exist.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from explorer.assets import Scene
from explorer.kiosk.journal import Journal
from explorer.kiosk.link import Fly, Reset
from explorer.kiosk.settings import Operator
from explorer.kiosk.supervisor import Command, Restart, Supervisor
from explorer.web import FONTS, SAFETY, page

LARGEST = 1024  # bytes of a request's body
PATIENCE = 5.0  # seconds for a request to arrive
COOKIE = "station"
PAGE = {  # path → file in explorer, content type
    "/": ("kiosk/page/operator.html", "text/html; charset=utf-8"),
    "/operator.css": ("kiosk/page/operator.css", "text/css; charset=utf-8"),
    "/operator.js": ("kiosk/page/operator.js", "text/javascript; charset=utf-8"),
    **FONTS,
}


def kept_token(folder: Path) -> str:
    """The token of this machine's station, made on first use and readable by its user only."""
    path = folder / "operator-token"
    try:
        token = path.read_text(encoding="ascii").strip()
        if len(token) >= 16:
            return token
    except (OSError, UnicodeDecodeError):
        pass
    token = secrets.token_urlsafe(24)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(token + "\n")
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror}): set [operator] token") from None
    return token


class OperatorPage:
    """A small HTTP server on threads of its own."""

    def __init__(
        self,
        settings: Operator,
        supervisor: Supervisor,
        journal: Journal,
        scenes: tuple[Scene, ...],
        *,
        token: str,
    ) -> None:
        """Raises ValueError where it cannot listen."""
        self._supervisor, self._journal, self._scenes, self._token = supervisor, journal, scenes, token
        self.files = page(PAGE)
        try:
            self._server = _Server((settings.host, settings.port), self)
        except OSError as error:
            why = error.strerror or str(error)
            raise ValueError(
                f"[operator] cannot listen on {settings.host} port {settings.port} ({why}): choose another port"
            ) from None
        self.port: int = self._server.server_address[1]
        self.address = f"http://{settings.host}:{self.port}/?token={token}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def knows(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())

    def status(self) -> dict[str, Any]:
        """What the page shows."""
        report = self._supervisor.report
        return {
            "report": asdict(report) if report else None,
            "uptime": time.time() - self._supervisor.started,
            "restarts": self._supervisor.restarts,
            "scenes": [{"name": scene.name, "title": scene.title} for scene in self._scenes],
            "events": [asdict(line) for line in reversed(self._journal.recent)],
        }

    def obey(self, path: str, words: Mapping[str, Any]) -> tuple[int, str]:
        """A button: status code and a sentence."""
        name = words.get("scene")
        commands: dict[str, Callable[[], Command]] = {
            "/restart": Restart,
            "/reset": Reset,
            "/scene": lambda: Fly(str(name)),
        }
        if path not in commands:
            return 404, "There is no such page here."
        if path == "/scene" and name not in [scene.name for scene in self._scenes]:
            return 400, "This station has no such scene."
        if not self._supervisor.ask(commands[path]()):
            return 503, "The station is busy: try again in a moment."
        self._journal.note(f"the operator asked: {path[1:]}{f' {name}' if path == '/scene' else ''}")
        return 200, "Done."


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], page: OperatorPage) -> None:
        self.page = page
        super().__init__(address, _Request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A torn connection is no news."""


class _Request(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE
    server_version, sys_version = "station", ""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        given = parse_qs(url.query, max_num_fields=8).get("token", [""])[0]
        if given and self.server.page.knows(given):
            self._reply(303, b"", "text/plain", {"Location": "/", "Set-Cookie": _cookie(given)})
        elif not self._trusted():
            self._refuse()
        elif url.path == "/status":
            self._reply(200, json.dumps(self.server.page.status()).encode(), "application/json")
        elif (asset := self.server.page.files.get(url.path)) is not None:
            self._reply(200, asset.body, asset.kind)
        else:
            self._say(404, "There is no such page here.")

    def do_POST(self) -> None:
        body = self._body()
        if not self._trusted():
            self._refuse()
        elif body is None:
            self._say(413, f"A request has at most {LARGEST} bytes, and says how many.")
        elif (words := _object(body)) is None:
            self._say(400, "A request must be a JSON object.")
        else:
            self._say(*self.server.page.obey(urlsplit(self.path).path, words))

    def _body(self) -> bytes | None:
        """None where it is too large; what of it has come is read, else the answer would be lost with it."""
        length = self.headers.get("Content-Length", "")
        size = int(length) if re.fullmatch(r"[0-9]{1,9}", length) else LARGEST + 1
        body = self.rfile.read(size) if size <= LARGEST else self.rfile.read1(64 * LARGEST)
        return body if size <= LARGEST else None

    def _trusted(self) -> bool:
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self.server.page.knows(cookie.value)

    def _refuse(self) -> None:
        self._say(403, "Open this page with the address that the station printed when it began.")

    def _say(self, status: int, sentence: str) -> None:
        self._reply(status, f"{sentence}\n".encode(), "text/plain; charset=utf-8")

    def _reply(self, status: int, body: bytes, kind: str, more: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        headers = {**SAFETY, "Cache-Control": "no-store", "Content-Type": kind, "Connection": "close"}
        for name, value in {**headers, "Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal, and no token in a log."""


def _cookie(token: str) -> str:
    return f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/; Max-Age=31536000"


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        words = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return None
    return words if isinstance(words, dict) else None
