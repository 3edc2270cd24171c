"""python -m launch.serve model=NAME: a vLLM server for a model, for rollout=vllm_server and rollout=openai.

Where there is Slurm it runs as a job, and this command waits until it answers (launcher.partition=gpu launcher.nodes=2 and so
on; launch/serving/job.py). Elsewhere, or with launcher=local, it runs here until Ctrl-C or SIGTERM. By default only this machine
can reach it: whoever can may replace its weights. Needs the extra vllm.
Exit codes: 0 it serves, or was stopped by a signal; 2 bad input; else vLLM's own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from typing import Any

from launch.places import backend_class
from launch.serving import server as serving
from launch.serving.mlflow_server import refuse_taken_port
from launch.sweep.process import Process
from zero.errors import ArgumentParser, InputError, one_line_errors
from zero.models.load import find
from zero.paths import USER_CONF, pip_install

LAUNCHER = ("launcher=", "launcher.", "hydra/launcher=", "hydra.launcher.")
PORT = 8000


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal, or submit a job that serves. Returns the exit code."""
    from zero.config import search_path

    arguments = search_path.take(sys.argv[1:] if arguments is None else arguments)
    options = parse(arguments)
    model, launcher = parse_words(options.words)
    options.model = str(model["path"])
    if job := job_settings(launcher):
        run = resolve_name(backend_class(job).server or "")
        words = [word for word in arguments if not word.startswith(LAUNCHER)]
        return int(run(options, [*(f"--config-dir={folder}" for folder in USER_CONF), *words], job))
    if options.stop:
        remedy = "ends a server that is a job; one started here ends with Ctrl-C"
        raise InputError("--stop", "launcher=local", remedy)
    if find_spec("vllm") is None:
        raise InputError("launch.serve", "vllm", f"vLLM is not installed; {pip_install('vllm')}")
    process = Process.from_environment(os.environ)
    if process.is_main:
        options.port = serving.free_port(options.host) if options.port == 0 else options.port or PORT
        refuse_taken_port(options.host, options.port)
    import torch

    cuda = torch.cuda.is_available()
    with TemporaryDirectory(prefix="zero-serve-") as folder:
        weights = prepare(model, Path(folder))
        return serving.serve(options, settings(options, Path(folder), cuda), weights, process, cuda)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser("python -m launch.serve", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add(
        "words",
        nargs="+",
        metavar="MODEL",
        help="model=NAME as for zero.train, a folder or a hub id; launcher.KEY=VALUE",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="address to serve on; on any but this machine's own, anyone may use the server",
    )
    add("--config-dir", metavar="DIR", help="yaml files of your own: DIR/model/mine.yaml is model=mine")
    add("--port", type=int, help=f"0: any that is free (default: {PORT}; of a job: 0)")
    add("--name", help="what clients call the model (default: MODEL)")
    add("--context", type=int, help="tokens of prompt and response (default: the model's own limit)")
    add("--dtype", choices=("float32", "bfloat16"), help="(default: bfloat16 on a GPU, else float32)")
    add("--max-rows", type=int, default=256, help="completions decoded at once (default: 256)")
    add("--batched-tokens", type=int, default=8192, help="tokens of a forward pass (default: 8192)")
    add("--memory", type=float, default=0.9, help="share of a GPU's memory (default: 0.9)")
    add("--cache-gib", type=float, default=1.0, help="key-value cache on a CPU (default: 1)")
    add("--tensor-parallel", type=int, help="GPUs that share each layer (default: 1; of a job: a node's GPUs)")
    add(
        "--pipeline-parallel",
        type=int,
        help="groups of such GPUs that share the layers (default: 1; of a job: its nodes)",
    )
    add("--graphs", action="store_true", help="CUDA graphs and compilation: faster, slow to start")
    endpoint = "file for url, model and pid once it serves (of a job: runs/servers/NAME/endpoint.json)"
    add("--endpoint", type=Path, help=endpoint)
    add("--stop", action="store_true", help="end the job of this server")
    add("--start-limit", type=float, default=1800, help="seconds until it must serve (default: 1800)")
    return parser.parse_intermixed_args(arguments)


def parse_words(words: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
    """The model's settings, with its path and revision, and the launcher's overrides as Hydra wants them."""
    from launch.submit import expand_shorthand
    from zero.config.check import check
    from zero.config.overrides import options_of

    launcher = [expand_shorthand(word) for word in words if word.startswith(LAUNCHER)]
    model_words = [word for word in words if not word.startswith(LAUNCHER)]
    overrides = [word for word in model_words if word.startswith(("model=", "model."))]
    paths = [word for word in model_words if word not in overrides]
    name = overrides[0].removeprefix("model=") if len(overrides) == 1 else ""
    if ("/" in name or Path(name).is_dir()) and name and name not in (options_of("model") or ()):
        overrides, paths = [], [*paths, name]
    if len(paths) + bool(overrides) != 1:
        raise InputError("MODEL", " ".join(model_words), "name one model: model=NAME, a folder or a hub id")
    model: Mapping[str, Any] = check("train", overrides)["model"] if overrides else {"path": paths[0]}
    return model, launcher


def job_settings(overrides: Sequence[str]) -> dict[str, Any] | None:
    """The settings of the job; None: serve here, as also inside a job."""
    from launch.sweep.compose import launcher_settings

    slurm = shutil.which("sbatch") is not None and "SLURM_JOB_ID" not in os.environ
    if not overrides and not slurm:
        return None
    settings = launcher_settings(overrides, default="slurm" if slurm else "local")
    if backend_class(settings).server:
        return settings
    for text in overrides:
        key, _, value = text.partition("=")
        if key != "hydra/launcher":
            raise InputError(key, value, "is a setting of a job, and this server is none; add launcher=slurm")
    return None


def prepare(model: Mapping[str, Any], folder: Path) -> Path:
    """Write the model's config, tokenizer and image processor into `folder` for vLLM, the vocabulary cut to the tokenizer's.
    Returns the folder of its weights."""
    from transformers import AutoConfig, AutoTokenizer

    from zero.models.vision import read_vision
    from zero.models.vocabulary import write_model

    source, name = find(model), model["path"]
    path = source.path if Path(source.path).is_dir() else download(source.path, source.revision)
    if not list(Path(path).glob("*.safetensors")):
        raise InputError("MODEL", name, "holds no *.safetensors; save it in that form")
    try:
        config, tokenizer = AutoConfig.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        write_model(folder, config, tokenizer, read_vision(config, tokenizer, path))
    except (OSError, ValueError, KeyError) as error:
        raise InputError("MODEL", name, f"transformers cannot load it ({str(error).splitlines()[0]})") from error
    return Path(path).absolute()


def download(model: str, revision: str | None) -> str:
    """The folder of a model of the hub in this machine's cache."""
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        return str(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise InputError("MODEL", model, f"the hub does not give it ({str(error).splitlines()[0]})") from error


def settings(options: argparse.Namespace, folder: Path, cuda: bool) -> dict[str, Any]:
    """vLLM's flags; None: a flag without a value."""
    from zero.rollout.vllm import BLOCK, GIB
    from zero.rollout.weight_sync import EXTENSION

    flags: dict[str, Any] = {
        "model": folder,
        "served-model-name": options.name or options.model,
        "host": options.host,
        "port": options.port,
        "load-format": "dummy",  # vLLM's own loader would refuse an embedding with more rows than the vocabulary
        "dtype": options.dtype or ("bfloat16" if cuda else "float32"),
        "max-num-seqs": options.max_rows,
        "max-num-batched-tokens": max(options.batched_tokens, context_limit(options, folder)),
        "max-model-len": context_limit(options, folder),
        "tensor-parallel-size": options.tensor_parallel or 1,
        "pipeline-parallel-size": options.pipeline_parallel or 1,
        "generation-config": "vllm",  # clients choose the sampling
        "logprobs-mode": "processed_logprobs",
        "worker-extension-cls": EXTENSION,
        "enable-scale-out": None,  # token ids in, token ids out
        "enable-prompt-tokens-details": None,  # how much of a prompt was in the cache
        "disable-log-stats": None,
        "disable-uvicorn-access-log": None,
    }
    if not options.graphs:
        flags["enforce-eager"] = None
    if cuda:
        return flags | {"gpu-memory-utilization": options.memory}
    # a prompt in two chunks crashes a request with a seed ("CPU Generator does not use offset")
    flags["no-enable-chunked-prefill"] = None
    return flags | {"kv-cache-memory-bytes": int(options.cache_gib * GIB), "block-size": BLOCK}


def context_limit(options: argparse.Namespace, folder: Path) -> int:
    """The context: --context, or the model's own limit. InputError if that is unknown or exceeded."""
    config = json.loads((folder / "config.json").read_text())
    limit = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    context = limit if options.context is None else options.context
    if context is None or context < 1 or (limit and context > limit):
        raise InputError("--context", context, f"the model's own limit is {limit} tokens; give --context within it")
    return int(context)


if __name__ == "__main__":
    sys.exit(main())
