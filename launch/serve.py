"""python -m launch.serve model=NAME: vLLM's own server for a model, as rollout=vllm_server and rollout=openai want it.

Where Slurm is, as a job, which this command waits for (launch/serving/job.py; launcher.partition=gpu launcher.nodes=2 and so
on); elsewhere, or with launcher=local, here until Ctrl-C or SIGTERM, for this machine only unless told otherwise: whoever
reaches a server may replace its weights. Needs vLLM: pip install -e '.[vllm]'.
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
from tempfile import TemporaryDirectory
from typing import Any

from launch.serving import server as serving
from launch.serving.mlflow_server import refuse_taken_port
from launch.sweep.process import Process
from zero.errors import InputError
from zero.models.load import find

LAUNCHER = ("launcher=", "launcher.", "hydra/launcher=", "hydra.launcher.")
PORT = 8000


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal, or submit the job that does. Returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(arguments)
    try:
        model, launcher = parse_words(options.words)
        options.model = str(model["path"])
        if job := slurm_settings(launcher):
            from launch.serving import job as serve_job

            return serve_job.run(options, [word for word in arguments if not word.startswith(LAUNCHER)], job)
        if options.stop:
            raise InputError(
                "--stop", "launcher=local", "ends a server that is a job; one started here ends with Ctrl-C"
            )
        if find_spec("vllm") is None:
            raise InputError("launch.serve", "vllm", "vLLM is not installed; pip install -e '.[vllm]'")
        process = Process.from_environment(os.environ)
        if process.is_main:
            options.port = serving.free_port(options.host) if options.port == 0 else options.port or PORT
            refuse_taken_port(options.host, options.port)
        import torch

        cuda = torch.cuda.is_available()
        with TemporaryDirectory(prefix="zero-serve-") as folder:
            weights = prepare(model, Path(folder))
            return serving.serve(options, settings(options, Path(folder), cuda), weights, process, cuda)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m launch.serve", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "words",
        nargs="+",
        metavar="MODEL",
        help="model=NAME as for zero.train, a Hugging Face folder or a hub id; launcher.KEY=VALUE",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve on; others than this machine's are open to all"
    )
    parser.add_argument("--port", type=int, help=f"0: any that is free (default: {PORT}; of a job: 0)")
    parser.add_argument("--name", help="that clients call the model by (default: MODEL)")
    parser.add_argument("--context", type=int, help="tokens of prompt and response (default: the model's own limit)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="(default: bfloat16 on a GPU, else float32)")
    parser.add_argument("--max-rows", type=int, default=256, help="completions decoded at once (default: 256)")
    parser.add_argument("--batched-tokens", type=int, default=8192, help="tokens of a forward pass (default: 8192)")
    parser.add_argument("--memory", type=float, default=0.9, help="share of a GPU's memory (default: 0.9)")
    parser.add_argument("--cache-gib", type=float, default=1.0, help="key-value cache on a CPU (default: 1)")
    parser.add_argument(
        "--tensor-parallel", type=int, help="GPUs that hold each layer together (default: 1; of a job: a node's GPUs)"
    )
    parser.add_argument(
        "--pipeline-parallel",
        type=int,
        help="groups of such GPUs, each with a part of the layers (default: 1; of a job: its nodes)",
    )
    parser.add_argument("--graphs", action="store_true", help="CUDA graphs and compilation: faster, slow to start")
    parser.add_argument(
        "--endpoint",
        type=Path,
        help="file to write url, model and pid to once it serves (of a job: runs/servers/NAME/endpoint.json)",
    )
    parser.add_argument("--stop", action="store_true", help="end the job of this server")
    parser.add_argument("--start-limit", type=float, default=1800, help="seconds to start within (default: 1800)")
    return parser.parse_intermixed_args(arguments)


def parse_words(words: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
    """The model's settings, path and revision among them, and the launcher's overrides as Hydra wants them."""
    from launch.submit import expand_shorthand
    from zero.config.check import check
    from zero.paths import CONF

    launcher = [expand_shorthand(word) for word in words if word.startswith(LAUNCHER)]
    rest = [word for word in words if not word.startswith(LAUNCHER)]
    chosen = [word for word in rest if word.startswith(("model=", "model."))]
    plain = [word for word in rest if word not in chosen]
    name = chosen[0].removeprefix("model=") if len(chosen) == 1 else ""
    if ("/" in name or Path(name).is_dir()) and name and not (CONF / "model" / f"{name}.yaml").is_file():
        chosen, plain = [], [*plain, name]
    if len(plain) + bool(chosen) != 1:
        raise InputError("MODEL", " ".join(rest), "name one model: model=NAME, a folder or a hub id")
    model: Mapping[str, Any] = check("train", chosen)["model"] if chosen else {"path": plain[0]}
    return model, launcher


def slurm_settings(overrides: Sequence[str]) -> dict[str, Any] | None:
    """The settings of the job; None: serve here. In a job already, here is where it is to serve."""
    from launch.sweep.compose import launcher_settings

    slurm = shutil.which("sbatch") is not None and "SLURM_JOB_ID" not in os.environ
    if not overrides and not slurm:
        return None
    settings = launcher_settings(overrides, default="slurm" if slurm else "local")
    if settings["backend"] == "launch.places.slurm.Slurm":
        return settings
    for text in overrides:
        key, _, value = text.partition("=")
        if key != "hydra/launcher":
            raise InputError(key, value, "is a setting of a job, and this server is none; add launcher=slurm")
    return None


def prepare(model: Mapping[str, Any], folder: Path) -> Path:
    """Write into `folder` what vLLM reads of the model, its vocabulary cut to the tokenizer's; where its weights lie."""
    from transformers import AutoConfig, AutoTokenizer

    from zero.models.vocabulary import write_model

    source, name = find(model), model["path"]
    path = source.path if Path(source.path).is_dir() else download(source.path, source.revision)
    if not list(Path(path).glob("*.safetensors")):
        raise InputError("MODEL", name, "holds no *.safetensors; save it in that form")
    try:
        write_model(folder, AutoConfig.from_pretrained(path), AutoTokenizer.from_pretrained(path))
    except (OSError, ValueError, KeyError) as error:
        raise InputError("MODEL", name, f"transformers cannot load it ({str(error).splitlines()[0]})") from error
    return Path(path).absolute()


def download(model: str, revision: str | None) -> str:
    """The folder of a hub's model in the cache of this machine."""
    from huggingface_hub import snapshot_download

    wanted = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
    try:
        return str(snapshot_download(model, revision=revision, allow_patterns=wanted))
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


def context_limit(options: argparse.Namespace, folder: Path) -> int:
    """The context: what was asked for, or the model's own. InputError if it knows none, or less."""
    config = json.loads((folder / "config.json").read_text())
    most = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    asked = most if options.context is None else options.context
    if asked is None or asked < 1 or (most and asked > most):
        raise InputError("--context", asked, f"the model's own limit is {most} tokens; give --context within it")
    return int(asked)


if __name__ == "__main__":
    sys.exit(main())
