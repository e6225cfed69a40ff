"""A real HTTP server in a thread that speaks the chat protocol, and misbehaves on purpose."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Asked"], "Answer | None"]


@dataclass
class Asked:
    """One request as the server saw it."""

    number: int  # over all requests, from 0
    attempt: int  # at this same question, from 0
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def text(self) -> str:
        return str(self.body["messages"][-1]["content"])


@dataclass
class Answer:
    """What it sends back; raw bytes as they are, and `raw` in place of the whole response, piece by piece."""

    status: int = 200
    content: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    raw: Iterable[bytes] | None = None


def completion(text: str | None, reason: str = "stop", *, read: int = 10, generated: int = 5) -> Answer:
    usage = {"prompt_tokens": read, "completion_tokens": generated}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return Answer(content={"choices": [choice], "usage": usage})


def error(status: int, message: str = "no", **headers: str) -> Answer:
    return Answer(status, {"error": {"message": message}}, headers)


class FaultServer:
    """What it was asked, and the most requests it held at a time."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.asked: list[Asked] = []
        self.times: list[float] = []
        self.most = self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer._handle(self, body)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:  # a client that went away
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def _handle(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            before = sum(one.body["messages"] == body["messages"] for one in self.asked)
            one = Asked(len(self.asked), before, body, dict(handler.headers))
            self.asked.append(one)
            self.times.append(time.monotonic())
        try:
            answer = self.behaviour(one) if handler.path == "/v1/chat/completions" else error(404)
            if answer is None:  # nothing at all
                handler.close_connection = True
                return
            time.sleep(answer.seconds)
            if answer.raw is not None:
                handler.close_connection = True
                handler.wfile.writelines(answer.raw)
                return
            content = answer.content
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        finally:
            with self._lock:
                self._now -= 1

    @contextmanager
    def running(self) -> Iterator[FaultServer]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def echo(one: Asked) -> Answer:
    """Answers every question with itself, in capitals."""
    return completion(one.text.upper())
