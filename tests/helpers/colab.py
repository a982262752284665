"""Imitates what Colab knows of a notebook: its session's server, and its frontend."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ColabServer:
    """Answers GET /api/sessions with `body`, after `delay` seconds, with `status`."""

    def __init__(self) -> None:
        self.status, self.delay, self.body, self.requests = 200, 0.0, b"[]", 0
        colab = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                colab.requests += 1
                time.sleep(colab.delay)
                found = self.path == "/api/sessions"
                self.send_response(colab.status if found else 404)
                self.send_header("Content-Length", str(len(colab.body)))
                self.end_headers()
                self.wfile.write(colab.body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def opened(self, path: Any) -> None:
        """Let the session's notebook have this path."""
        session = {"id": "1", "name": "roco_captioning.ipynb", "type": "notebook", "path": path}
        self.body = json.dumps([session]).encode()

    @property
    def variables(self) -> dict[str, str]:
        host, port = self._server.server_address[:2]
        return {"COLAB_JUPYTER_IP": str(host), "KMP_TARGET_PORT": str(port)}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def frontend(
    answer: Any, *, upload: Any = dict, events: list[Any] | None = None
) -> dict[str, types.ModuleType]:
    """Return modules that imitate `google.colab`; `answer` is its notebook, or a function.

    `upload` is `files.upload`; `events` collects what else is called.
    """
    events = [] if events is None else events

    def blocking_request(request_type: str, request: str = "", timeout_sec: float = 5) -> Any:
        assert request_type == "get_ipynb"
        return answer(timeout_sec) if callable(answer) else answer

    google, colab = types.ModuleType("google"), types.ModuleType("google.colab")
    message = types.ModuleType("google.colab._message")
    message.blocking_request = blocking_request  # type: ignore[attr-defined]
    google.colab, colab._message = colab, message  # type: ignore[attr-defined]
    colab.files = types.SimpleNamespace(  # type: ignore[attr-defined]
        upload=upload, download=lambda path: events.append(("download", path))
    )
    colab.output = types.SimpleNamespace(  # type: ignore[attr-defined]
        use_tags=contextlib.nullcontext,
        clear=lambda output_tags: events.append(("clear", output_tags)),
    )
    return {"google": google, "google.colab": colab, "google.colab._message": message}


def notebook_from(*file_ids: Any) -> dict[str, Any]:
    """Return the frontend's answer for a notebook that is a copy of these, the newest first."""
    origins = [{"file_id": file_id, "timestamp": 1} for file_id in file_ids]
    return {"ipynb": {"metadata": {"colab": {"provenance": origins}}, "cells": []}}
