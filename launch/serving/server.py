"""vLLM's server as a child process: started, given its weights, announced, and ended with all of its workers.

In a job of several nodes each node runs this: the first has the API, the others run its workers.
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
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from launch.sweep.process import Process
from launch.sweep.process import free_port as rendezvous_port
from zero.errors import InputError
from zero.files import read_json, write_json
from zero.paths import ROOT

ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "1",  # allows the calls that replace weights
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",  # it warns of every setting that is not its default
}
ON_CPU = {
    "OMP_NUM_THREADS": "1",  # more are slower wherever anything else runs
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # otherwise it pins itself to one core, busy or not
    "TORCH_COMPILE_DISABLE": "1",  # otherwise the first token waits for a C++ compiler
}
MAIN = "vllm.entrypoints.openai.api_server"  # module of the first node
WORKERS = "zero.rollout.headless"  # module of the others
RENDEZVOUS = "rendezvous.json"  # file in which the first node writes the port at which the nodes meet
RENDEZVOUS_TIMEOUT = 600.0  # seconds to read it
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where to ask a server that listens on every address
GRACE = 30  # seconds for vLLM to end after SIGTERM


def multi_node_flags(options: argparse.Namespace, process: Process) -> dict[str, Any]:
    """vLLM's flags for a server of several nodes: ranks, address and port. InputError if the first node writes no port."""
    if process.world_size == 1:
        return {}
    path = options.endpoint.parent / RENDEZVOUS
    if process.is_main:
        write_json(path, {"token": process.token, "port": rendezvous_port(process.job, process.restart)})
    deadline = time.monotonic() + RENDEZVOUS_TIMEOUT
    while (rendezvous := read_json(path)).get("token") != process.token:
        if time.monotonic() > deadline:
            raise InputError("--endpoint", path, "the first node wrote nothing there: does every node see this folder?")
        time.sleep(0.1)
    return {
        "nnodes": process.world_size,
        "node-rank": process.rank,
        "master-addr": process.address,
        "master-port": rendezvous["port"],
        "distributed-executor-backend": "mp",
    }


def own_address() -> dict[str, str]:
    """The variable by which vLLM tells other nodes this node's address; {} if its name has only a loopback address."""
    with suppress(OSError):
        if not (address := socket.gethostbyname(socket.gethostname())).startswith("127."):
            return {"VLLM_HOST_IP": address}
    return {}


def serve(options: argparse.Namespace, flags: Mapping[str, Any], weights: Path, process: Process, cuda: bool) -> int:
    """Run vLLM, load the weights, announce it; its exit code, or 0 after a signal. On nodes other than the first: run workers."""
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
    signals: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        signals.append(signal.Signals(number).name)

    if options.endpoint and process.is_main:  # left by a server that was killed
        options.endpoint.unlink(missing_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", MAIN if process.is_main else WORKERS, *arguments],
        env=environment,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if process.is_main and load_weights(child, signals, options, weights):
            announce(child, options, process)
        while child.poll() is None and not signals:
            time.sleep(0.2)
        return 0 if signals else child.returncode or 1  # a server that ends by itself has failed
    finally:
        stop_server(child)
        if options.endpoint and process.is_main:
            options.endpoint.unlink(missing_ok=True)
        for number, handler in former.items():
            signal.signal(number, handler)


def load_weights(
    child: subprocess.Popen[bytes], signals: list[str], options: argparse.Namespace, weights: Path
) -> bool:
    """Wait until vLLM serves, and load the weights. False if it ended or a signal came. InputError if it takes too long."""
    from zero.rollout.http import Client, HttpError, ServerError, in_background

    client = Client(url_of(LOOPBACK.get(options.host, options.host), options.port), 10.0, 1)
    since = time.monotonic()

    def may_wait() -> bool:
        time.sleep(0.2)
        if time.monotonic() - since > options.start_limit:
            raise InputError("--start-limit", options.start_limit, "vLLM does not serve within these seconds; raise it")
        return child.poll() is None and not signals

    while may_wait():
        try:
            client.get("/health")
            break
        except (ServerError, HttpError):
            continue
    body = {"method": "take_checkpoint", "args": [str(weights)]}
    loading = in_background(lambda: client.post("/collective_rpc", body, limit=None)["results"])
    while may_wait():
        try:
            if loading.done():
                for worker in loading.result():
                    if "error" in worker:
                        raise InputError("MODEL", options.model, f"vLLM cannot load its weights ({worker['error']})")
                client.post("/reset_prefix_cache", None)
                return True
        except (ServerError, HttpError) as error:
            raise InputError("MODEL", options.model, f"vLLM failed while it loaded its weights ({error})") from error
    return False


def announce(child: subprocess.Popen[bytes], options: argparse.Namespace, process: Process) -> None:
    """Print where the server is, and write the endpoint file."""
    host = socket.gethostname() if options.host in LOOPBACK else options.host  # as other machines know it
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
    """The url of a port."""
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
    """End vLLM and all of its processes: without that its workers would stay if it is killed."""
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # it leads a process group


def die_with_parent() -> None:
    """In the child: ask the kernel for SIGTERM when this process dies (on Linux only)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGTERM)
