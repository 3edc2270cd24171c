"""A vLLM server as a Slurm job of one or several nodes: submit it, wait until it answers, print where it is.

The same line again finds the job that runs or waits, and submits one only if there is none. Its files are in
runs/servers/NAME: job.json, server.sbatch, server.out and, while it serves, endpoint.json. If Slurm requeues the job it serves
again, maybe on other nodes, which endpoint.json then names.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.places import SWEEP_KEYS, slurm_checks, slurm_jobs, submitit_executor
from launch.places.slurm_script import Settings
from zero.errors import InputError
from zero.files import read_json, write_atomically, write_json
from zero.paths import ROOT

HOME = Path("runs/servers")
JOB, ENDPOINT, OUTPUT, SCRIPT = "job.json", "endpoint.json", "server.out", "server.sbatch"
HEALTH_TIMEOUT = 5.0  # seconds
EXIT_INTERRUPTED = 130


def run(options: argparse.Namespace, arguments: Sequence[str], launcher: Mapping[str, Any]) -> int:
    """Submit or stop the job of a server. Returns 0 once it serves, 1 if it ended before, 130 after Ctrl-C. `arguments`: the
    command line without the settings of the `launcher`."""
    settings = Settings.parse({key: value for key, value in launcher.items() if key not in SWEEP_KEYS})
    settings = replace(settings, tasks_per_node=1)
    folder = (HOME / re.sub(r"[^\w.=+-]+", "-", options.name or options.model).strip("-")).absolute()
    endpoint = (options.endpoint or folder / ENDPOINT).absolute()
    request = job_request(settings, [*arguments, *layout(options, settings)], folder, endpoint, options.port or 0)
    text = submitit_executor.batch_file(request)
    known = read_json(folder / JOB)
    task = str(known.get("task", ""))
    snapshot = slurm_jobs.snapshot([task] if task else [])
    if snapshot is None:
        raise InputError("launcher", "slurm", "squeue does not answer; try again later, or launcher=local")
    live = task in snapshot and snapshot[task].state in slurm_jobs.LIVE
    if options.stop:
        if not live:
            raise InputError("--stop", folder, "no job of this server runs or waits")
        slurm_jobs.cancel([task])
        print(f"job {task} is cancelled")
        return 0
    if live and known["script"] != text:
        remedy = f"job {task} serves it with other settings; --stop ends that one, --name calls this one something else"
        raise InputError("--name", folder.name, remedy)
    if not live:
        slurm_checks.check(settings, folder, 1)
        task = submit(request, text)
    print(f"job {task}: {relative(endpoint)} once it serves, output in {relative(folder / OUTPUT)}", flush=True)
    try:
        return wait(task, endpoint, folder / OUTPUT, options.start_limit, settings)
    except KeyboardInterrupt:
        print(f"\njob {task} goes on; the same line again waits for it, with --stop it ends", file=sys.stderr)
        return EXIT_INTERRUPTED


def layout(options: argparse.Namespace, settings: Settings) -> list[str]:
    """vLLM's parallel sizes: by default tensor-parallel over the GPUs of a node, pipeline-parallel over the nodes. InputError if
    their product is not the number of GPUs."""
    devices = settings.nodes * max(1, settings.gpus_per_node)
    tensor = options.tensor_parallel or max(1, settings.gpus_per_node)
    pipeline = options.pipeline_parallel or max(1, devices // tensor)
    if tensor * pipeline != devices:
        gpus = f"{settings.nodes} nodes x {settings.gpus_per_node} GPUs"
        total = f"{devices} of {gpus if settings.gpus_per_node else f'{devices} nodes'}"
        remedy = f"times --pipeline-parallel={pipeline} must be the {total} (launcher.nodes, launcher.gpus_per_node)"
        raise InputError("--tensor-parallel", tensor, remedy)
    return [f"--tensor-parallel={tensor}", f"--pipeline-parallel={pipeline}"]


def job_request(
    settings: Settings, arguments: Sequence[str], folder: Path, endpoint: Path, port: int
) -> submitit_executor.JobRequest:
    """The job: one task on each node, which runs the same command with launcher=local and an endpoint file."""
    local = ["launcher=local", "--host=0.0.0.0", f"--port={port}", f"--endpoint={endpoint}"]
    python = settings.python or shlex.quote(sys.executable)
    flags = ["--kill-on-bad-exit=1", f"--cpus-per-task={settings.cpus_per_task}", *settings.srun_args]
    line = f"srun {shlex.join(flags)} {python} -u -m launch.serve {shlex.join([*arguments, *local])}"
    body = [line, "code=$?", *settings.teardown, "exit $code"] if settings.teardown else [f"exec {line}"]
    lines = [
        *settings.setup,
        "trap '' USR2  # the warning before the time limit, which a cell needs: a server has nothing to save",
        "export ZERO_CELL_JOB=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID",
        f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "serve() {  # the words after it are submitit's own runner",
        *body,
        "}",
    ]
    return submitit_executor.JobRequest(
        settings, folder, f"serve-{folder.name}", lines, "serve", {"output": str(folder / OUTPUT)}
    )


def submit(request: submitit_executor.JobRequest, text: str) -> str:
    """Submit the job; its JOB_TASK. InputError if Slurm refuses it."""
    folder = request.home
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ENDPOINT, OUTPUT):
        (folder / name).unlink(missing_ok=True)
    write_atomically(folder / SCRIPT, text)
    try:
        task = f"{submitit_executor.submit(request)}_0"
    except submitit_executor.SubmissionRefused as error:
        raise InputError("launcher", "slurm", f"sbatch failed ({error})") from error
    write_json(folder / JOB, {"task": task, "script": text, "time": time.time()})
    return task


def wait(task: str, endpoint: Path, output: Path, limit: float, settings: Settings) -> int:
    """Wait until the server answers (returns 0) or its job has ended (1). InputError `limit` seconds after the job's start."""
    started, state = None, ""
    while True:
        server = read_json(endpoint)
        if server.get("job") == task and is_healthy(str(server["url"])):
            print(f"serving {server['model']} at {server['url']} for at most {settings.timeout_min} minutes of its job")
            print(f"  python -m zero.evaluate ... rollout=openai rollout.url={relative(endpoint)}")
            return 0
        now = (slurm_jobs.snapshot([task]) or {}).get(task)
        if now is not None and now.state not in slurm_jobs.LIVE:
            reason = f"{last_line(output)}; all of it: {relative(output)}"
            print(f"error: job {task} ended as {now.state}: {reason}", file=sys.stderr)
            return 1
        if now is not None and now.state != state:
            state = now.state
            detail = f" on {now.node}" if now.node else f" ({now.reason})" if now.reason else ""
            print(f"job {task}: {state.lower()}{detail}", flush=True)
        started = started or (time.monotonic() if state == "RUNNING" else None)
        if started is not None and time.monotonic() - started > limit:
            remedy = f"job {task} does not serve within these seconds; it goes on; see {relative(output)}"
            raise InputError("--start-limit", limit, remedy)
        time.sleep(min(settings.poll_s, 2.0) if state == "RUNNING" else settings.poll_s)


def is_healthy(url: str) -> bool:
    """Whether the server answers. Without a proxy, which would not know the nodes."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=HEALTH_TIMEOUT) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def last_line(output: Path) -> str:
    """The last line that is not empty, preferably one of an error."""
    try:
        lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "it printed nothing"
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it printed nothing"])[-1][:300]


def relative(path: Path) -> str:
    """A path relative to the current folder, if it is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
