"""A server of OpenAI's API that answers as a test wants: right, late, cut off, or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Say:
    """One answer. `cut`: so many bytes of the body fewer than announced. `hang`: seconds of silence before it. `drip`: seconds
    between two of its bytes."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    hang: float = 0.0
    drip: float = 0.0


def completion(text: Any, reason: Any = "stop", **more: Any) -> Say:
    return Say({"choices": [{"text": text, "finish_reason": reason, **more}]})


@dataclass
class Stub:
    """`answers`: for each path the reply to a body. `seen`: (path, body, headers) of every request."""

    answers: dict[str, Callable[[Any], Say]]
    url: str = ""
    seen: list[tuple[str, Any, dict[str, str]]] = field(default_factory=list)

    def bodies(self, path: str) -> list[Any]:
        return [body for at, body, _ in self.seen if at == path]


def in_turn(*says: Say) -> Callable[[Any], Say]:
    """One after another; the last one is repeated."""
    left, lock = list(says), threading.Lock()

    def answer(body: Any) -> Say:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return answer


@contextmanager
def serving(answers: dict[str, Callable[[Any], Say]]) -> Iterator[Stub]:
    stub = Stub(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(raw) if raw else None
            stub.seen.append((self.path, body, dict(self.headers)))
            respond = stub.answers.get(self.path)
            self._say(respond(body) if respond else Say({"detail": "Not Found"}, 404))

        do_GET = do_POST

        def _say(self, say: Say) -> None:
            time.sleep(say.hang)
            raw = say.body if isinstance(say.body, bytes) else json.dumps(say.body).encode()
            try:
                self.send_response(say.status)
                for key, value in {"Content-Length": str(len(raw)), **say.headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                for piece in [raw[i : i + 1] for i in range(len(raw))] if say.drip else [raw[: len(raw) - say.cut]]:
                    self.wfile.write(piece)
                    time.sleep(say.drip)
            except OSError:
                pass  # the client went away
            if say.cut:
                self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
