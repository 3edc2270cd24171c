"""vLLM's own server as a process of ours: started, given its weights, announced, ended with all of its workers.

On several nodes of a job each runs one: the first has the API, the others work for it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from launch.sweep.files import read_json, write_json
from launch.sweep.process import Process
from launch.sweep.process import free_port as meeting_port
from zero.errors import InputError
from zero.paths import ROOT

ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",  # the calls that replace weights
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",  # its warnings tell of every setting that we chose
}
ON_CPU = {
    "OMP_NUM_THREADS": "1",  # more are slower wherever anything else runs
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else it pins itself to one core, busy or not
    "TORCH_COMPILE_DISABLE": "1",  # else the first token waits for a C++ compiler
}
MAIN, WORKERS = "vllm.entrypoints.openai.api_server", "zero.rollout.headless"  # of the first node, and of the others
MEETING, MEETING_TIMEOUT = (
    "meeting.json",
    600.0,
)  # where the first node says on which port the nodes meet; seconds to read it
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where to ask a server that listens on every address
GRACE = 30  # seconds for vLLM to end after it was asked to


def multi_node_flags(options: argparse.Namespace, process: Process) -> dict[str, Any]:
    """vLLM's flags for a server of several nodes: who is who, and where they meet. InputError if the first never says."""
    if process.world_size == 1:
        return {}
    said = options.endpoint.parent / MEETING
    if process.is_main:
        write_json(said, {"token": process.token, "port": meeting_port(process.job, process.restart)})
    until = time.monotonic() + MEETING_TIMEOUT
    while (meeting := read_json(said)).get("token") != process.token:
        if time.monotonic() > until:
            raise InputError("--endpoint", said, "the first node wrote nothing there: does every node see this folder?")
        time.sleep(0.1)
    return {"nnodes": process.world_size, "node-rank": process.rank, "master-addr": process.address,
            "master-port": meeting["port"], "distributed-executor-backend": "mp"}  # fmt: skip


def own_address() -> dict[str, str]:
    """What vLLM calls this node to the others: the address of its name, unless that is known here alone."""
    with suppress(OSError):
        if not (address := socket.gethostbyname(socket.gethostname())).startswith("127."):
            return {"VLLM_HOST_IP": address}
    return {}


def serve(options: argparse.Namespace, flags: Mapping[str, Any], weights: Path, process: Process, cuda: bool) -> int:
    """Run vLLM, give it the weights, say so; its exit code, or 0 after a signal. On a node that is not the first of a
    server: run its workers."""
    flags = {**flags, **multi_node_flags(options, process)}
    arguments = [f"--{key}" + ("" if value is None else f"={value}") for key, value in flags.items()]
    environment = {
        **ENVIRONMENT,
        **({} if cuda else ON_CPU),
        **(own_address() if process.world_size > 1 else {}),
        **os.environ,
    }
    environment["VLLM_SERVER_DEV_MODE"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    asked: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(signal.Signals(number).name)

    if options.endpoint and process.is_main:  # of a server that was killed: whoever waits must not take it for this one
        options.endpoint.unlink(missing_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", MAIN if process.is_main else WORKERS, *arguments],
        env=environment,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if process.is_main and load_weights(child, asked, options, weights):
            announce(child, options, process)
        while child.poll() is None and not asked:
            time.sleep(0.2)
        return 0 if asked else child.returncode or 1  # a server that ends by itself has failed
    finally:
        stop_server(child)
        if options.endpoint and process.is_main:
            options.endpoint.unlink(missing_ok=True)
        for number, handler in former.items():
            signal.signal(number, handler)


def load_weights(child: subprocess.Popen[bytes], asked: list[str], options: argparse.Namespace, weights: Path) -> bool:
    """Wait until vLLM serves, and load the weights. False if it ended, or was asked to. InputError if it takes too long."""
    from zero.rollout.http import Client, Future, HttpError, ServerError

    client = Client(url_of(LOOPBACK.get(options.host, options.host), options.port), 10.0, 1)
    since = time.monotonic()

    def patient() -> bool:
        time.sleep(0.2)
        if time.monotonic() - since > options.start_limit:
            raise InputError("--start-limit", options.start_limit, "vLLM does not serve within these seconds; raise it")
        return child.poll() is None and not asked

    while patient():
        try:
            client.get("/health")
            break
        except (ServerError, HttpError):
            continue
    body = {"method": "take_checkpoint", "args": [str(weights)]}
    loading = Future(lambda: client.post("/collective_rpc", body, limit=None)["results"])
    while patient():
        try:
            if loading.ended:
                said: Sequence[Mapping[str, Any]] = loading.result(0, RuntimeError())
                for worker in said:
                    if "error" in worker:
                        raise InputError("MODEL", options.model, f"vLLM cannot load its weights ({worker['error']})")
                client.post("/reset_prefix_cache", None)
                return True
        except (ServerError, HttpError) as error:
            raise InputError("MODEL", options.model, f"vLLM failed while it loaded its weights ({error})") from error
    return False


def announce(child: subprocess.Popen[bytes], options: argparse.Namespace, process: Process) -> None:
    """Say where the server is; the endpoint file appears whole or not at all."""
    host = socket.gethostname() if options.host in LOOPBACK else options.host  # as other machines know this one
    about = {
        "url": url_of(host, options.port),
        "model": options.name or options.model,
        "pid": child.pid,
        "job": process.job,
    }
    print(f"serving {about['model']} at {about['url']} until Ctrl-C", flush=True)
    if options.endpoint:
        write_json(options.endpoint, about)


def url_of(host: str, port: int) -> str:
    """The url of a host's port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def free_port(host: str) -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise InputError("--host", host, f"is no address of this machine ({error.strerror})") from error
        return int(probe.getsockname()[1])


def stop_server(child: subprocess.Popen[bytes]) -> None:
    """End vLLM and all of its processes: a killed one leaves its workers behind."""
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # it leads a group of its own


def die_with_parent() -> None:
    """In the child: be asked to end when this process is killed. Elsewhere than on Linux it lives on."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGTERM)
