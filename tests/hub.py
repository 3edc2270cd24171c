"""A hub of one model on this machine, as far as the real client uses it, and repositories that are refused.

OWNER of OWNER/NAME says what happens: see `Hub.do_HEAD`. Started by `serving`; `HF_ENDPOINT` is its address.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSED = {  # owner -> status, the hub's own code for it
    "gated": (403, "GatedRepo"),
    "forbidden": (403, ""),
    "private": (401, ""),
    "Qwem": (401, "RepoNotFound"),  # the hub's reply for names that do not exist
    "mirror": (404, ""),
    "empty": (404, "EntryNotFound"),
    "busy": (503, ""),
    "hang": (503, ""),  # after HANG seconds
}
HANG = 20.0  # seconds of silence


class Hub(BaseHTTPRequestHandler):
    """Serves the files of `folder` as every revision of good/NAME but "lost"; hang/NAME never answers in time."""

    folder: Path
    requested_paths: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.requested_paths.append(self.path)
        parts = self.path.split("?")[0].strip("/").split("/")
        owner, revision, name = (parts[0], parts[3], "/".join(parts[4:])) if len(parts) >= 5 else ("", "", "")
        file = self.folder / name
        if owner == "hang":
            time.sleep(HANG)
        if owner in REFUSED:
            self._refuse(*REFUSED[owner])
        elif revision == "lost":
            self._refuse(404, "RevisionNotFound")
        elif owner != "good" or not file.is_file():  # the api, which lists the files of a repository, is absent
            self._refuse(404, "EntryNotFound")
        else:
            data = file.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """No log on the terminal: tests read `requested_paths`."""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a hub that holds `folder`, and the list of all requested paths."""
    requested_paths: list[str] = []
    handler = type("Served", (Hub,), {"folder": folder, "requested_paths": requested_paths})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False  # a hanging connection must not delay the shutdown
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requested_paths
        finally:
            server.shutdown()
