"""python -m launch.serve MODEL: vLLM's own server for a model, as rollout=vllm_server and rollout=openai want it.

Serves on this machine only, unless told otherwise, until Ctrl-C or SIGTERM: whoever reaches it may replace its weights.
Needs vLLM: pip install 'r1-zero-suite[vllm]'. Exit codes: 0 stopped by a signal, 2 bad input, else vLLM's own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from launch.dashboard import refuse_taken_port
from zero.config import model_folder
from zero.errors import InputError

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
MAIN = "vllm.entrypoints.openai.api_server"
DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where to ask a server that listens on every address
GRACE = 30  # seconds for vLLM to end after it was asked to


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal. Returns the exit code."""
    options = parse(arguments)
    try:
        if find_spec("vllm") is None:
            raise InputError("launch.serve", "vllm", "vLLM is not installed; pip install 'r1-zero-suite[vllm]'")
        if options.port == 0:
            options.port = free_port(options.host)
        refuse_taken_port(options.host, options.port)
        with TemporaryDirectory(prefix="zero-serve-") as folder:
            weights = prepare(options.model, Path(folder))
            return serve(options, Path(folder), weights)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m launch.serve", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="Hugging Face folder or hub id")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve on; others than this machine's are open to all"
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free (default: 8000)")
    parser.add_argument("--name", help="that clients call the model by (default: MODEL)")
    parser.add_argument("--context", type=int, help="tokens of prompt and response (default: the model's own limit)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="(default: bfloat16 on a GPU, else float32)")
    parser.add_argument("--max-rows", type=int, default=256, help="completions decoded at once (default: 256)")
    parser.add_argument("--batched-tokens", type=int, default=8192, help="tokens of a forward pass (default: 8192)")
    parser.add_argument("--memory", type=float, default=0.9, help="share of a GPU's memory (default: 0.9)")
    parser.add_argument("--cache-gib", type=float, default=1.0, help="key-value cache on a CPU (default: 1)")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs that hold the model together (default: 1)")
    parser.add_argument("--graphs", action="store_true", help="CUDA graphs and compilation: faster, slow to start")
    parser.add_argument("--endpoint", type=Path, help="file to write url, model and pid to once it serves")
    parser.add_argument("--start-limit", type=float, default=1800, help="seconds to start within (default: 1800)")
    return parser.parse_args(arguments)


def prepare(model: str, folder: Path) -> Path:
    """Write into `folder` what vLLM reads of the model, its vocabulary cut to the tokenizer's; where its weights lie."""
    from transformers import AutoConfig, AutoTokenizer

    from zero.rollout.vllm import write_model

    path = model_folder(model)
    if path == model and not Path(path).is_dir():
        path = download(model)
    if not list(Path(path).glob("*.safetensors")):
        raise InputError("MODEL", model, "holds no *.safetensors; save it in that form")
    try:
        write_model(folder, AutoConfig.from_pretrained(path), AutoTokenizer.from_pretrained(path))
    except (OSError, ValueError, KeyError) as error:
        raise InputError("MODEL", model, f"transformers cannot load it ({str(error).splitlines()[0]})") from error
    return Path(path).absolute()


def download(model: str) -> str:
    """The folder of a hub's model in the cache of this machine."""
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(model, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]))
    except (OSError, ValueError) as error:
        raise InputError("MODEL", model, f"is no folder, and not on the hub ({str(error).splitlines()[0]})") from error


def settings(options: argparse.Namespace, folder: Path, cuda: bool) -> dict[str, Any]:
    """vLLM's flags; None: a flag without a value."""
    from zero.rollout.exchange import EXTENSION
    from zero.rollout.vllm import BLOCK, GIB

    flags: dict[str, Any] = {
        "model": folder,
        "served-model-name": options.name or options.model,
        "host": options.host,
        "port": options.port,
        "load-format": "dummy",  # vLLM's own loader would refuse an embedding with more rows than the vocabulary
        "dtype": options.dtype or ("bfloat16" if cuda else "float32"),
        "max-num-seqs": options.max_rows,
        "max-num-batched-tokens": max(options.batched_tokens, limit_of(options, folder)),
        "max-model-len": limit_of(options, folder),
        "tensor-parallel-size": options.tensor_parallel,
        "generation-config": "vllm",  # sampling is the client's alone
        "logprobs-mode": "processed_logprobs",
        "worker-extension-cls": EXTENSION,
        "enable-scale-out": None,  # token ids in, token ids out
        "disable-log-stats": None,
        "disable-uvicorn-access-log": None,
    }
    if not options.graphs:
        flags["enforce-eager"] = None
    if cuda:
        return flags | {"gpu-memory-utilization": options.memory}
    # a prompt cut in two crashes a request with a seed ("CPU Generator does not use offset")
    return flags | {"kv-cache-memory-bytes": int(options.cache_gib * GIB), "block-size": BLOCK,
                    "no-enable-chunked-prefill": None}  # fmt: skip


def limit_of(options: argparse.Namespace, folder: Path) -> int:
    """The context: what was asked for, or the model's own. InputError if it knows none, or less."""
    config = json.loads((folder / "config.json").read_text())
    most = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    asked = most if options.context is None else options.context
    if asked is None or asked < 1 or (most and asked > most):
        raise InputError("--context", asked, f"the model's own limit is {most} tokens; give --context within it")
    return int(asked)


def serve(options: argparse.Namespace, folder: Path, weights: Path) -> int:
    """Run vLLM, give it the weights, say so; its exit code, or 0 after a signal."""
    import torch

    cuda = torch.cuda.is_available()
    flags = settings(options, folder, cuda)
    arguments = [f"--{key}" + ("" if value is None else f"={value}") for key, value in flags.items()]
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**ENVIRONMENT, **({} if cuda else ON_CPU), **os.environ}
    environment["VLLM_SERVER_DEV_MODE"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    asked: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(signal.Signals(number).name)

    if options.endpoint:
        options.endpoint.unlink(
            missing_ok=True
        )  # of a server that was killed: whoever waits must not take it for this one
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", MAIN, *arguments],
        env=environment,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if ready(child, asked, options, weights):
            announce(child, options)
        while child.poll() is None and not asked:
            time.sleep(0.2)
        return 0 if asked else child.returncode or 1  # a server that ends by itself has failed
    finally:
        end(child)
        if options.endpoint:
            options.endpoint.unlink(missing_ok=True)
        for number, handler in former.items():
            signal.signal(number, handler)


def ready(child: subprocess.Popen[bytes], asked: list[str], options: argparse.Namespace, weights: Path) -> bool:
    """Wait until vLLM serves, and load the weights. False if it ended, or was asked to. InputError if it takes too long."""
    from zero.rollout.http import Aside, Client, EngineDied, Refused

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
        except (EngineDied, Refused):
            continue
    body = {"method": "take_checkpoint", "args": [str(weights)]}
    loading = Aside(lambda: client.post("/collective_rpc", body, limit=None)["results"])
    while patient():
        try:
            if loading.ended:
                said: Sequence[Mapping[str, Any]] = loading.result(0, RuntimeError())
                for worker in said:
                    if "error" in worker:
                        raise InputError("MODEL", options.model, f"vLLM cannot load its weights ({worker['error']})")
                client.post("/reset_prefix_cache", None)
                return True
        except (EngineDied, Refused) as error:
            raise InputError("MODEL", options.model, f"vLLM failed while it loaded its weights ({error})") from error
    return False


def announce(child: subprocess.Popen[bytes], options: argparse.Namespace) -> None:
    """Say where the server is; the endpoint file appears whole or not at all."""
    host = socket.gethostname() if options.host in LOOPBACK else options.host  # as other machines know this one
    about = {"url": url_of(host, options.port), "model": options.name or options.model, "pid": child.pid}
    print(f"serving {about['model']} at {about['url']} until Ctrl-C", flush=True)
    if options.endpoint:
        partial = options.endpoint.with_name(options.endpoint.name + ".partial")
        partial.write_text(json.dumps(about))
        partial.replace(options.endpoint)


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


def end(child: subprocess.Popen[bytes]) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
