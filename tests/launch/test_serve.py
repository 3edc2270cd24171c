"""What python -m launch.serve decides before vLLM starts. The rest is in tests/engines/test_server.py."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from launch import serve
from launch.places import submitit_executor
from launch.places.slurm_script import Settings
from launch.serving import job as serve_job
from launch.serving import server as serving
from launch.sweep.process import Process
from tests.conftest import BASE, ROOT
from zero.errors import InputError


def one_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert serve.main([*arguments, "launcher=local"]) == 2
    error_output = capsys.readouterr().err
    assert error_output.startswith("error: ") and error_output.count("\n") == 1
    return error_output


def test_without_vllm_it_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert "pip install -e '.[vllm]'" in one_line(capsys, str(BASE))


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed; nothing here gets as far as starting it."""
    monkeypatch.setattr(serve, "find_spec", lambda name: SimpleNamespace())

    def started(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("vLLM was started")

    monkeypatch.setattr(serving, "subprocess", SimpleNamespace(Popen=started))


def test_bad_input_is_one_line(vllm: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert f"--port={port}: cannot be used" in one_line(capsys, str(BASE), f"--port={port}")
    assert "--host=203.0.113.1: " in one_line(capsys, str(BASE), "--host=203.0.113.1", "--port=0")
    assert "holds no *.safetensors" in one_line(capsys, str(tmp_path), "--port=0")
    (tmp_path / "model.safetensors").touch()
    assert "transformers cannot load it" in one_line(capsys, str(tmp_path), "--port=0")
    for context in ("600", "0", "-5"):
        assert "the model's own limit is 512" in one_line(capsys, str(BASE), "--port=0", f"--context={context}")


def test_vllm_reads_a_folder_with_the_tokenizers_vocabulary(tmp_path: Path) -> None:
    padded, folder = tmp_path / "padded", tmp_path / "folder"
    for process in (padded, folder):
        process.mkdir()
    for path in BASE.iterdir():
        if path.is_file():
            (padded / path.name).write_bytes(path.read_bytes())
    config = json.loads((padded / "config.json").read_text())
    (padded / "config.json").write_text(json.dumps(config | {"vocab_size": 640}))
    assert serve.prepare({"path": str(padded)}, folder) == padded
    assert AutoConfig.from_pretrained(folder).vocab_size == 600 and (folder / "tokenizer.json").exists()
    assert not list(folder.glob("*.safetensors"))


def test_the_flags_of_vllm_that_the_engine_depends_on(tmp_path: Path) -> None:
    serve.prepare({"path": str(BASE)}, tmp_path)
    options = serve.parse(["zero/nano/base", "--batched-tokens=100", "--cache-gib=0.5"])
    options.model = "zero/nano/base"
    for cuda in (False, True):
        flags = serve.settings(options, tmp_path, cuda)
        assert flags["logprobs-mode"] == "processed_logprobs" and flags["generation-config"] == "vllm"
        assert (
            flags["worker-extension-cls"] == "zero.rollout.weight_sync.ServerReceiver" and "enable-scale-out" in flags
        )
        assert flags["host"] == "127.0.0.1" and flags["served-model-name"] == "zero/nano/base"
        assert flags["max-num-batched-tokens"] == flags["max-model-len"] == 512  # a whole prompt at least
        assert ("gpu-memory-utilization" in flags) == cuda and ("no-enable-chunked-prefill" in flags) != cuda
    assert serve.settings(options, tmp_path, False)["kv-cache-memory-bytes"] == 2**29


def test_help_is_fast() -> None:
    began = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "launch.serve", "--help"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert "--endpoint" in child.stdout and time.monotonic() - began < 30
    imported = {line.rpartition("|")[2].strip() for line in child.stderr.splitlines()}
    assert not {"torch", "transformers", "vllm", "requests"} & imported


def test_the_endpoint_is_what_other_machines_can_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for host, url in (("127.0.0.1", "http://127.0.0.1:8123"), ("0.0.0.0", f"http://{socket.gethostname()}:8123")):
        options = serve.parse(["m", f"--host={host}", "--port=8123", f"--endpoint={tmp_path / 'e.json'}", "--name=n"])
        options.model = "m"
        serving.announce(SimpleNamespace(pid=7), options, Process())  # type: ignore[arg-type]
        assert json.loads((tmp_path / "e.json").read_text()) == {"url": url, "model": "n", "pid": 7, "job": ""}
        assert f"serving n at {url}" in capsys.readouterr().out
    assert serving.url_of("::1", 1) == "http://[::1]:1"


def test_a_missing_model_is_one_line(
    vllm: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set, and the cache of this machine has no copy" in one_line(
        capsys, "nobody/nothing", "--port=0"
    )


MODELS = {
    "a choice": (["model=qwen2_5_math_7b"], "Qwen/Qwen2.5-Math-7B"),
    "a setting of it": (["model=hf", "model.path=a/b"], "a/b"),
    "a hub id": (["Qwen/Qwen3-0.6B"], "Qwen/Qwen3-0.6B"),
    "a hub id as a choice": (["model=Qwen/Qwen3-0.6B"], "Qwen/Qwen3-0.6B"),
    "a run's model": (["runs/algo=drgrpo/model"], "runs/algo=drgrpo/model"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_named_as_in_training_or_by_its_place(name: str) -> None:
    words, path = MODELS[name]
    model, launcher = serve.parse_words([*words, "launcher.partition=gpu", "launcher=slurm"])
    assert model["path"] == path and launcher == ["hydra.launcher.partition=gpu", "hydra/launcher=slurm"]


@pytest.mark.parametrize("line", ["launcher=slurm", "a b", "a model=nano", "model=nanno", "model=nano model.x=1"])
def test_not_one_model_is_one_line(line: str) -> None:
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        serve.parse_words(line.split())


def test_settings_of_a_job_are_refused_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert "hydra.launcher.nodes=2: is a setting of a job" in one_line(capsys, "m", "launcher.nodes=2")


def settings_of_job(**more: Any) -> Settings:
    return Settings.parse({"nodes": 2, "gpus_per_node": 4, "shared": True, **more})


def test_the_gpus_of_a_job_hold_one_model() -> None:
    def flags(*typed: str, **more: Any) -> list[str]:
        return serve_job.layout(serve.parse(["m", *typed]), settings_of_job(**more))

    assert flags() == ["--tensor-parallel=4", "--pipeline-parallel=2"]
    assert flags("--tensor-parallel=8") == ["--tensor-parallel=8", "--pipeline-parallel=1"]
    assert flags(gpus_per_node=0) == ["--tensor-parallel=1", "--pipeline-parallel=2"]
    with pytest.raises(
        InputError, match="--tensor-parallel=3: times --pipeline-parallel=2 must be the 8 of 2 nodes x 4"
    ):
        flags("--tensor-parallel=3")


def test_the_job_runs_the_typed_line_on_every_node(tmp_path: Path) -> None:
    typed = ["model=nano", "--context=100", "--tensor-parallel=4"]
    settings = settings_of_job(setup=["module load x"], teardown=["rm y"])
    text = submitit_executor.batch_file(serve_job.job_request(settings, typed, tmp_path, tmp_path / "e.json", 0))
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=True).returncode == 0
    (line,) = (line for line in text.splitlines() if line.startswith("srun "))
    assert "model=nano --context=100 --tensor-parallel=4 launcher=local" in line
    assert f"--host=0.0.0.0 --port=0 --endpoint={tmp_path / 'e.json'}" in line
    assert (
        "#SBATCH --nodes=2" in text
        and "#SBATCH --gpus-per-node=4" in text
        and text.index("module load") < text.index(line)
    )
    assert f"{line}\ncode=$?\nrm y\nexit $code\n}}\n" in text  # of the function that the last line calls


def test_nodes_meet_at_the_address_that_the_first_writes(tmp_path: Path) -> None:
    options = serve.parse(["m", f"--endpoint={tmp_path / 'e.json'}"])
    places = [Process(job="7_0", rank=rank, world_size=2, address="n1") for rank in (0, 1)]
    first, second = (serving.multi_node_flags(options, process) for process in places)
    assert first["node-rank"] == 0 and second == first | {"node-rank": 1} and first["nnodes"] == 2
    assert serving.multi_node_flags(options, Process()) == {}


def test_a_place_of_ones_own_runs_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from launch.places.local import Local\nclass Queue(Local): server = 'my_queue.run'\n"
    (tmp_path / "my_queue.py").write_text(text + "def run(options, words, settings): return 40 + len(words)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert serve.main([str(BASE), "--port=0", "launcher=local", "launcher.backend=my_queue.Queue"]) == 42
