"""Imitates Kaggle on localhost: an API that redirects, and a storage that holds the archive."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

API = "/api/v1/datasets/download/virajbagal/roco-dataset"
MODIFIED = "Mon, 04 May 2020 12:00:00 GMT"


@dataclass
class KaggleServer:
    """What it serves, how it misbehaves, and the requests it got. Close it when done.

    As on Kaggle the API and the storage have different names (localhost and 127.0.0.1 here), so
    the Authorization header must not follow the redirect.
    """

    archive: bytes = b""
    etag: str | None = '"first"'
    content_type: str = "application/zip"
    api_status: int = 0  # of every answer of the API, unless 0
    retry_after: str | None = None
    refuse_accounts: int = 0  # the status for calls with an Authorization header, unless 0
    refuse_anonymous: int = 0  # the status for calls without one, unless 0
    ranges: bool = True
    shift: int = 0  # answers a range with one that begins so many bytes later
    drop_after: list[int] = field(default_factory=list)  # bytes, one entry per storage request
    hold_after: int | None = None  # bytes, after which the storage falls silent until `close`
    pause: float = 0  # seconds after every 8 KiB
    silent: bool = False  # the API takes requests and never answers
    storage_refuses_ranges: int = 0  # the status for requests with a Range header, unless 0
    requests: list[dict] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # Content-Length of each answer of the storage

    def __post_init__(self) -> None:
        self._http = _Http(("127.0.0.1", 0), type("Bound", (_Handler,), {"of": self}))
        self._released = threading.Event()
        self.port = self._http.server_port
        self.url = f"http://localhost:{self.port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._released.set()
        self._http.shutdown()
        self._http.server_close()

    def to(self, path: str) -> list[dict]:
        return [request for request in self.requests if request["path"].startswith(path)]

    @property
    def api_calls(self) -> list[dict]:
        return self.to(API)

    @property
    def downloads(self) -> list[dict]:
        return self.to("/storage")


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Print nothing about clients that hang up, which these tests make them do."""


class _Handler(BaseHTTPRequestHandler):
    of: KaggleServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        names = ("Authorization", "Range", "If-Range")
        self.of.requests.append({name: self.headers.get(name) for name in names})
        self.of.requests[-1]["path"] = self.path
        if self.path.partition("?")[0] == API:
            self._answer_for_api()
        elif self.path.startswith("/storage"):
            self._answer_for_storage()
        else:
            self._fail(404)

    def _answer_for_api(self) -> None:
        server = self.of
        if server.silent:
            server._released.wait(20)
            self.close_connection = True
        elif "Authorization" in self.headers and server.refuse_accounts:
            self._fail(server.refuse_accounts)
        elif "Authorization" not in self.headers and server.refuse_anonymous:
            self._fail(server.refuse_anonymous)
        elif server.api_status:
            self._fail(server.api_status)
        else:
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{server.port}/storage/archive.zip?s=1")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _answer_for_storage(self) -> None:
        server = self.of
        if "Range" in self.headers and server.storage_refuses_ranges:
            return self._fail(server.storage_refuses_ranges)
        whole, start = server.archive, self._start()
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(len(whole) - start))
        self.send_header("Last-Modified", MODIFIED)
        if server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if server.etag:
            self.send_header("ETag", server.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        # before the client can ask again: answers are dropped in the order of the requests
        holds = server.hold_after is not None
        drop = server.drop_after.pop(0) if server.drop_after and not holds else None
        self.end_headers()
        self._send(whole[start:], drop)

    def _send(self, body: bytes, drop: int | None) -> None:
        server = self.of
        server.sent.append(len(body))
        if server.hold_after is not None:
            self.wfile.write(body[: server.hold_after])
            self.wfile.flush()
            server._released.wait(20)
            self.close_connection = True
        elif drop is not None:
            self.wfile.write(body[:drop])
            self.close_connection = True
        elif server.pause:
            for start in range(0, len(body), 8192):
                self.wfile.write(body[start : start + 8192])
                time.sleep(server.pause)
        else:
            self.wfile.write(body)

    def _start(self) -> int:
        """The first byte of the answer: 0 unless the rest of this version is requested."""
        asked = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, self.of.etag or MODIFIED)
        if not (asked and same and self.of.ranges):
            return 0
        return int(asked[len("bytes=") : -1]) + self.of.shift

    def _fail(self, status: int) -> None:
        page = b'{"code": %d, "message": "no"}' % status
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(page)))
        if self.of.retry_after:
            self.send_header("Retry-After", self.of.retry_after)
        self.end_headers()
        self.wfile.write(page)
