"""A real HTTP server in a thread that serves files, and misbehaves on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Sent:
    """How a request is answered: the file or the part asked for, unless something else is said."""

    status: int | None = None  # instead of the file
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None  # another file
    cut: int | None = None  # the connection ends after so many bytes of it
    ranges: bool = True  # false ignores the part that is asked for
    hang: float = 0.0  # seconds before the first byte
    pause: float = 0.0  # seconds between two pieces of 4,096 bytes


@dataclass
class Got:
    """A request as the server saw it."""

    path: str
    part: str | None


class FileServer:
    """Serves `files` by path; `behave` says how, given the request and how often its path was asked for."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.behave: Callable[[Got, int], Sent] = lambda got, before: Sent()
        self.got: list[Got] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer._answer(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:  # a client that went away
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def asked(self, end: str) -> list[str | None]:
        """The parts that were asked for of a path that ends so."""
        return [got.part for got in self.got if got.path.endswith(end)]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        got = Got(handler.path, handler.headers.get("Range"))
        before = len(self.asked(got.path))
        self.got.append(got)
        sent = self.behave(got, before)
        time.sleep(sent.hang)
        body = sent.body if sent.body is not None else self.files.get(got.path)
        status, headers = sent.status or (200 if body is not None else 404), dict(sent.headers)
        if status != 200 or body is None:
            body = b"no"
        elif got.part and sent.ranges:
            begin = int(got.part.removeprefix("bytes=").rstrip("-"))
            if begin >= len(body):
                status, body = 416, b""
            else:
                status = 206
                headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
                body = body[begin:]
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        body = body[: sent.cut]
        piece = 4096 if sent.pause else max(1, len(body))
        for start in range(0, len(body), piece):
            handler.wfile.write(body[start : start + piece])
            handler.wfile.flush()
            time.sleep(sent.pause)
        if sent.cut is not None:
            handler.close_connection = True

    @contextmanager
    def running(self) -> Iterator[FileServer]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
