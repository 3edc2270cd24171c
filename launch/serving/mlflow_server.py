"""MLflow's server over an embedded store: its login, the names under which it may be reached, and its end with all processes."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

from zero.errors import InputError
from zero.paths import pip_install
from zero.tracking.store import SQLITE, artifact_root

# without these the server starts 4 workers, a job runner and 7 consumers, 3 GB in all, and reports to its vendor
ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY_ADDRESS = ("0.0.0.0", "::")  # hosts that mean every address of this machine
START_SECONDS = 180  # a busy machine took 90


def login_environment(store: str) -> dict[str, str]:
    """The variables of MLflow's basic-auth app. Its users are stored beside the runs; the first start creates `admin`, with the
    password of MLFLOW_AUTH_ADMIN_PASSWORD or a random one that is printed here. InputError if the app is not installed."""
    if find_spec("flask_wtf") is None:
        remedy = f"MLflow's basic-auth app is not installed; {pip_install('auth')}"
        raise InputError("--login", "", remedy)
    folder = Path(store.removeprefix(SQLITE)).parent
    database, settings = folder / "mlflow-users.db", folder / "mlflow-users.ini"
    settings.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {SQLITE}{database}\nadmin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    password = os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD") or secrets.token_urlsafe(12)
    if not database.exists():
        secret = "" if "MLFLOW_AUTH_ADMIN_PASSWORD" in os.environ else f", password {password}"
        print(f"user admin{secret}; more users: /signup of these pages")
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,  # read only if there is no admin yet
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),  # of this server's forms
    }


def refuse_taken_port(host: str, port: int) -> None:
    """InputError if the port is taken, or the machine has no such address."""
    if not 0 <= port < 1 << 16:  # 0: any that is free
        raise InputError("--port", port, "must be a number up to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise InputError("--host", host, f"is no address of this machine ({error.strerror})") from error
    with socket.socket(family) as probe:
        # as the server does, for a port that was just closed
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError("--port", port, f"cannot be used ({error.strerror}); give another one") from error


def shown_name(host: str) -> str:
    """The name of this machine in a link: the full one if every address is served."""
    return socket.getfqdn() if host in ANY_ADDRESS else bracketed(host)


def bracketed(name: str) -> str:
    """A name or address as it is written before :PORT."""
    return f"[{name}]" if ":" in name else name


def names_of_this_machine(host: str, more: Sequence[str]) -> list[str]:
    """The names and addresses by which a request may call this machine, and `more`: with any other one, pages of other sites
    could reach the server. Where every address is served, private addresses are allowed, as by MLflow itself."""
    names = [host, *LOOPBACK, socket.gethostname(), socket.getfqdn(), *more]
    if host in ANY_ADDRESS:
        names += [*addresses(), "192.168.*", "10.*", *(f"172.{i}.*" for i in range(16, 32))]
    return list(dict.fromkeys(bracketed(name) for name in names if name not in ANY_ADDRESS))


def addresses() -> list[str]:
    """The addresses of this machine's name."""
    try:
        return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)))
    except OSError:
        return []


def serve(
    store: str,
    host: str,
    port: int,
    links: Sequence[tuple[str, str]],
    login: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
) -> int:
    """Run the server until it ends or a signal comes; no process is left behind. `login`: from `login_environment`; `more`:
    other names of this machine."""
    folder = Path(store.removeprefix(SQLITE)).parent
    log = folder / "mlflow-server.log"
    names = names_of_this_machine(host, more)
    allowed = ",".join(f"{name}{end}" for name in names for end in ("", f":{port}"))
    origins = ",".join(f"http://{name}:{port}" for name in names)  # of requests of its own pages
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        store,
        "--host",
        host,
        "--port",
        str(port),
    ]
    command += ["--workers", "1", "--artifacts-destination", str(artifact_root(store))]
    command += ["--allowed-hosts", allowed, "--cors-allowed-origins", origins]
    command += ["--app-name", "basic-auth"] if login else []
    signal.signal(signal.SIGTERM, _interrupt)
    with log.open("w") as file:
        # in a session of its own, so that the server's children can be ended with it
        server = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            cwd=folder,
            env={**os.environ, **ENVIRONMENT, **(login or {})},
            start_new_session=True,
        )
    try:
        address = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, bracketed(host))
        if not _answers(server, f"http://{address}:{port}/health"):
            print(f"error: the MLflow server did not start; see {log}", file=sys.stderr)
            return 1
        print_links(links)
        print("Ctrl-C stops the server.", flush=True)
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(server)


def print_links(links: Sequence[tuple[str, str]]) -> None:
    """Print links a person can click."""
    for text, link in links:
        print(f"{text}:\n  {link}", flush=True)


def _answers(server: subprocess.Popen[bytes], health: str) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=2):
                return True
        except (URLError, OSError):
            time.sleep(0.2)
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server's whole session: by SIGTERM, then by SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
