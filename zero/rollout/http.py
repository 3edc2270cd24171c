"""What the engines over HTTP share: bounded requests, retries, and many requests at once.

Every wait has a limit, and no answer is trusted. Retries are counted here and not by urllib3's Retry, which is done once
the headers have arrived: the body may still break off, trickle or be no JSON.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from zero.errors import Broken, InputError

Item = TypeVar("Item")
Answer = TypeVar("Answer")
CONNECT_SECONDS = 10.0
LONGEST_ANSWER = 64 * 2**20  # bytes: a completion of 100,000 tokens with its log-probabilities has 10 MB
LONGEST_PAUSE = 60.0  # seconds between two tries at most, whatever Retry-After asks for
UNREACHED = ("ConnectionRefusedError", "gaierror", "OSError: [Errno 113]", "OSError: [Errno 101]")  # no host, no route


class ServerError(Broken):
    """The server is unusable: it refuses connections, fails, does not answer in time, or answers nonsense."""

    def __init__(self, url: str, what: str) -> None:
        super().__init__(f"rollout server {url}: {what}")
        self.what = what


class HttpError(Exception):
    """The server answered with an error status; `text` is the beginning of the body, `wait` the seconds of Retry-After."""

    def __init__(self, status: int, text: str, wait: float = 0.0) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status, self.text, self.wait = status, text, wait


@dataclass(frozen=True)
class RetryPolicy:
    """When a request is repeated: after these pauses in seconds, or longer ones that the server asks for."""

    pauses: tuple[float, ...]
    statuses: frozenset[int]  # HTTP statuses to retry
    silence: bool  # whether to retry after a timeout


def address(url: str, path: str = "") -> str:
    """`url` itself, or the url in an endpoint file (*.json) of python -m launch.serve, followed by `path`."""
    if url.startswith(("http://", "https://")) or not url.endswith(".json"):
        return url
    try:
        return str(json.loads(Path(url).expanduser().read_text())["url"]) + path
    except FileNotFoundError:
        raise InputError("rollout.url", url, "no such file: the server is not up yet, or has ended") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("rollout.url", url, f"is no endpoint file ({error})") from None


class Client:
    """Requests to one server, from many threads, over reused connections.

    `timeout` is the longest wait for an answer in seconds, `pool_size` the connections kept; `proxies`: use those of the
    environment. Raises ServerError, naming the url, and HttpError for an error status that is not retried.
    """

    def __init__(self, url: str, timeout: float, pool_size: int, key: str = "", proxies: bool = False) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        if not url.startswith(("http://", "https://")):
            raise InputError("rollout.url", url, "must begin with http:// or https://")
        self.url, self.timeout = url.rstrip("/"), timeout
        self.session = requests.Session()
        self.session.trust_env = proxies
        self._has_answered = False  # at least once
        self.session.auth = lambda request: request  # else a password in ~/.netrc would replace the key
        if key:
            self.session.headers["Authorization"] = f"Bearer {key}"
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=pool_size))

    def get(self, path: str, retry: RetryPolicy | None = None) -> Any:
        """The JSON answer of a GET request."""
        return self._with_retries("GET", path, None, retry, self.timeout)

    def post(
        self, path: str, body: Mapping[str, Any] | None, retry: RetryPolicy | None = None, limit: float | None = 0.0
    ) -> Any:
        """The JSON answer of a POST request. `limit` replaces the timeout; None: no limit, the caller watches the thread."""
        return self._with_retries("POST", path, body, retry, self.timeout if limit == 0.0 else limit)

    def _with_retries(
        self, method: str, path: str, body: Any, retry: RetryPolicy | None, limit: float | None
    ) -> dict[str, Any]:
        pauses = retry.pauses if retry else ()
        for pause in (*pauses, None):
            try:
                return self._send(method, path, body, limit)
            except HttpError as error:
                if retry is None or error.status not in retry.statuses:
                    raise
                if pause is None:
                    raise ServerError(self.url, f"{error} (after {len(pauses) + 1} tries)") from None
                pause = max(pause, error.wait)
            except _TimedOut as error:
                if pause is None or retry is None or not retry.silence:
                    raise ServerError(self.url, str(error)) from None
            except _Disconnected as error:
                if pause is None:
                    raise ServerError(self.url, str(error)) from None
            time.sleep(min(pause, LONGEST_PAUSE))
        raise AssertionError("the last try answers or raises")

    def _send(self, method: str, path: str, body: Any, limit: float | None) -> dict[str, Any]:
        from requests import RequestException, Timeout

        try:
            with self.session.request(
                method, self.url + path, json=body, timeout=(CONNECT_SECONDS, limit), stream=True, allow_redirects=False
            ) as response:
                raw = self._read(response.raw, path, limit)
                status, wait = response.status_code, response.headers.get("Retry-After", "")
        except (_TimedOut, ServerError):
            raise
        except Timeout as error:
            raise _TimedOut(f"no answer to {path} within {limit or CONNECT_SECONDS:g} seconds") from error
        except (RequestException, OSError) as error:
            reason = _root_cause(error)
            if not self._has_answered and reason.startswith(UNREACHED):
                raise _Disconnected(f"nothing answers there ({reason}); start the server, or mend the url") from error
            raise _Disconnected(f"lost while it was asked for {path} ({reason})") from error
        except Exception as error:  # urllib3's own, when a connection breaks in the middle of an answer
            if "Timeout" in type(error).__name__:
                raise _TimedOut(f"no whole answer to {path} within {limit or CONNECT_SECONDS:g} seconds") from error
            raise _Disconnected(f"lost while it answered {path} ({_root_cause(error)})") from error
        self._has_answered = True
        if not 200 <= status < 300:
            text = " ".join(raw[:400].decode("utf-8", "replace").split())
            raise HttpError(status, text, float(wait) if wait.isascii() and wait.isdigit() else 0.0)
        try:
            return json.loads(raw) if raw else {}
        except (ValueError, RecursionError) as error:
            raise _Disconnected(f"the answer to {path} is no JSON ({_root_cause(error)})") from error

    def _read(self, raw: Any, path: str, limit: float | None) -> bytes:
        """The body of an answer, all of which must arrive within the limit."""
        body, start = bytearray(), time.monotonic()
        while chunk := raw.read1(2**16, decode_content=True):
            body += chunk
            if len(body) > LONGEST_ANSWER:
                raise ServerError(self.url, f"more than {LONGEST_ANSWER} bytes in answer to {path}")
            if limit is not None and time.monotonic() - start > limit:
                raise _TimedOut(f"no whole answer to {path} within {limit:g} seconds")
        return bytes(body)


class _TimedOut(Exception):
    """No answer in time."""


class _Disconnected(Exception):
    """No connection, a broken one, or half an answer."""


def _root_cause(error: BaseException) -> str:
    """The innermost cause in a few words."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def in_parallel(
    ask: Callable[[Item], Answer], items: Sequence[Item], at_once: int, silence: Callable[[], Exception], limit: float
) -> list[Answer]:
    """[ask(item) for item in items], at most `at_once` at a time; the first exception is raised at once.

    Raises `silence()` if no call returns for `limit` seconds. Threads that are still waiting are abandoned: they are
    daemons, end with their request, and start no other.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()
    for i in range(len(items)):
        todo.put(i)
    given_up = threading.Event()

    def work() -> None:
        while not given_up.is_set():
            try:
                i = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((i, ask(items[i]), None))
            except BaseException as error:
                done.put((i, None, error))

    for _ in range(min(at_once, len(items))):
        threading.Thread(target=work, daemon=True).start()
    answers: dict[int, Any] = {}
    try:
        while len(answers) < len(items):
            i, answer, error = done.get(timeout=limit)
            if error is not None:
                raise error
            answers[i] = answer
    except queue.Empty:
        raise silence() from None
    finally:
        given_up.set()
    return [answers[i] for i in range(len(items))]


def in_background(call: Callable[[], Answer]) -> Future[Answer]:
    """Run `call` in a daemon thread, for a request that the server answers only after something has happened here. No
    executor: Python waits for their threads at exit."""
    future: Future[Answer] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
