"""vLLM's real server, in processes of its own: as python -m launch.serve starts it, with both ways for weights."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.engines.contract import CHECKS, CONTEXT, TEXTS, Subject, differences, model_of, prompts_of, shaken
from tests.engines.episodes import EPISODES, playing, questions
from zero.config.check import check
from zero.errors import InputError
from zero.records import Sampling
from zero.rollout import ModelSpec
from zero.rollout.http import ServerError
from zero.rollout.native import NativeEngine
from zero.rollout.openai import OpenAIEngine
from zero.rollout.server import ServerEngine

pytestmark = pytest.mark.engines
CPU = torch.device("cpu")
START_SECONDS = 600  # of the server, on a busy machine


@dataclass(frozen=True)
class Served:
    url: str
    pid: int  # of vLLM
    launcher: subprocess.Popen[str]
    folder: Path  # of the model
    model: Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(model: Path, port: int, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launch.serve", str(model), "launcher=local", f"--port={port}", *flags]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@contextmanager
def serving(model: Path, context: int, folder: Path) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """The content of a server's endpoint file, and its process."""
    endpoint, port = folder / "endpoint.json", free_port()
    limits = (f"--context={context}", "--max-rows=32", "--cache-gib=0.1", "--batched-tokens=2048")
    launcher = launch(model, port, *limits, f"--endpoint={endpoint}")
    try:
        until = time.monotonic() + START_SECONDS
        while not endpoint.exists():
            assert launcher.poll() is None, launcher.communicate()[0]
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.1)
        about = json.loads(endpoint.read_text())
        assert about["url"] == f"http://127.0.0.1:{port}" and about["model"] == str(model)
        yield about, launcher
    finally:
        launcher.terminate()
        launcher.communicate(timeout=60)


@pytest.fixture(scope="module")
def served(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The shipped model with eight rows more in its embedding than the tokenizer has tokens."""
    folder = tmp_path_factory.mktemp("padded")
    model = model_of("shipped", tokenizer)
    model.resize_token_embeddings(len(tokenizer) + 8, mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with serving(folder, CONTEXT, tmp_path_factory.mktemp("endpoint")) as (endpoint, launcher):
        yield Served(endpoint["url"], endpoint["pid"], launcher, folder, model)


def spec_of(served: Served, tokenizer: Any) -> ModelSpec:
    return ModelSpec(served.model.config, tokenizer, CONTEXT, torch.float32, CPU)


def engine_of(served: Served, tokenizer: Any, transport: str, **settings: Any) -> ServerEngine:
    defaults = dict(url=served.url, transport=transport, folder="/dev/shm", timeout=60.0, concurrency=48)
    return ServerEngine(spec_of(served, tokenizer), **defaults | settings)


# First, while the server has the weights that it was started with


def openai_and_native(served: Served, tokenizer: Any) -> tuple[OpenAIEngine, NativeEngine]:
    settings = dict(model=None, key_env="NO_SUCH_KEY", timeout=60.0, retries=1, concurrency=16, seed=True, extra={})
    remote = OpenAIEngine(spec_of(served, tokenizer), served.url + "/v1", **settings)  # type: ignore[arg-type]
    native = NativeEngine(spec_of(served, tokenizer), 64)
    for engine in (remote, native):
        engine.sync(served.model.named_parameters(), 0)
    return remote, native


def test_a_server_of_openais_api_answers_as_the_native_engine_does(served: Served, tokenizer: Any) -> None:
    """Greedy: the same tokens. Sampled: the share of answers that end and their lengths."""
    remote, native = openai_and_native(served, tokenizer)
    prompts = prompts_of(tokenizer, [f"{text} {i}" for i in range(8) for text in TEXTS])
    for sampling in (Sampling(40, 0.0, stop_ids=(0,)), Sampling(40, 0.0, stop=("is", "12"), stop_ids=(0,))):
        theirs, ours = (list(chain(*engine.generate(prompts, 1, sampling))) for engine in (remote, native))
        assert [(c.ids, c.text, c.finished) for c in theirs] == [(c.ids, c.text, c.finished) for c in ours]
        assert {c.finished for c in ours} == {True, False} and {c.logprobs for c in theirs} == {()}
    sampling = Sampling(60, stop_ids=(0,))
    theirs, ours = (list(chain(*engine.generate(prompts, 6, sampling))) for engine in (remote, native))
    for measure in (lambda c: c.finished, lambda c: len(c.ids)):
        a, b = (torch.tensor([float(measure(c)) for c in cs]) for cs in (theirs, ours))
        assert abs(a.mean() - b.mean()) < 4 * ((a.var() + b.var()) / len(a)).sqrt()
    # the same seed gives the same sample
    assert remote.generate(prompts[:2], 6, sampling) == [theirs[:6], theirs[6:12]]


def test_episodes_over_openais_api_are_the_native_ones(served: Served, tokenizer: Any) -> None:
    """Greedy, with turns that their budget cuts: the same tokens, turns and endings."""
    sampling, prompts = Sampling(40, 0.0, stop_ids=(0,)), questions(tokenizer)
    for fresh in (False, True):
        theirs, ours = (
            list(
                chain(
                    *playing(Subject(engine, served.model, tokenizer), world={"fresh": fresh}).generate(
                        prompts, 1, sampling
                    )
                )
            )
            for engine in openai_and_native(served, tokenizer)
        )
        assert [replace(c, logprobs=()) for c in ours] == theirs
        assert any(turn.end - turn.start == 12 for c in ours for turn in c.turns[:-1]), (
            "one that was cut, and gone on from"
        )


def test_evaluation_over_openais_api_gives_the_native_accuracy(served: Served, tmp_path: Path) -> None:
    from zero.evaluate import run

    shared = [
        "model=hf",
        f"model.path={served.folder}",
        f"model.context={CONTEXT}",
        "model.stop=['<|im_end|>']",
        "benchmarks.limit=64",
        "sampling.max_tokens=64",
    ]
    remote = ["rollout=openai", f"rollout.url={served.url}/v1", "rollout.concurrency=16"]
    results = [
        run(check("evaluate", [*shared, *more, f"run_dir={tmp_path / name}"]), name, {})
        for name, more in (("remote", remote), ("native", []))
    ]
    remote, native = (result["evaluation"] for result in results)
    assert native and all(numbers["questions"] == 64 for numbers in native.values())
    for name, numbers in native.items():
        key = f"eval/{name}/accuracy"
        assert abs(remote[name][key] - numbers[key]) <= 1 / 64 + 1e-9  # greedy: a tie may fall otherwise
    assert max(numbers[f"eval/{name}/accuracy"] for name, numbers in native.items()) > 0.05


@pytest.fixture(scope="module", params=["file", "group"])
def subject(request: pytest.FixtureRequest, served: Served, tokenizer: Any) -> Subject:
    return Subject(engine_of(served, tokenizer, request.param), served.model, tokenizer)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract(subject: Subject, check: Callable[[Subject], None]) -> None:
    check(subject)


@pytest.mark.parametrize("check", EPISODES, ids=lambda check: check.__name__)
def test_episodes(subject: Subject, check: Callable[[Subject], None]) -> None:
    check(subject)


def test_it_may_generate_beside_an_update_but_not_beside_a_sync(subject: Subject) -> None:
    subject.sync(version=5)
    engine, prompts = subject.engine, prompts_of(subject.tokenizer, TEXTS)
    samples: list[Any] = []
    thread = threading.Thread(target=lambda: samples.append(engine.generate(prompts, 24, Sampling(200))))
    thread.start()
    time.sleep(0.3)
    moved = shaken(subject.model, 3)  # the learner updates meanwhile
    with pytest.raises(RuntimeError, match="sync while generate runs"):
        engine.sync(moved.named_parameters(), 6)
    thread.join(60)
    assert {c.version for group in samples[0] for c in group} == {5}
    assert differences(subject, prompts, samples[0], Sampling(200)).max() < subject.bound


def test_another_model_is_refused(served: Served, tokenizer: Any) -> None:
    other = model_of("tied", tokenizer)
    settings = dict(url=served.url, transport="file", folder="/dev/shm", timeout=60.0, concurrency=4)
    engine = ServerEngine(ModelSpec(other.config, tokenizer, CONTEXT, torch.float32, CPU), **settings)
    with pytest.raises(InputError, match=rf"rollout.url={served.url}: serves another model: .* there and .* here"):
        engine.sync(other.named_parameters(), 0)


def test_a_taken_port_is_one_line(served: Served) -> None:
    child = launch(served.folder, int(served.url.rpartition(":")[2]))
    output = child.communicate(timeout=120)[0]
    assert child.returncode == 2 and output.startswith("error: --port=") and output.count("\n") == 1


def alive(group: int) -> bool:
    """Whether a process of the group still runs; one that has ended and is not yet collected does not."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its = place.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue  # ended meanwhile
        if int(its) == group and state not in "ZX":
            return True
    return False


def until(fact: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until a condition holds: on a busy machine a killed process takes a moment to end."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_server_that_is_killed_is_an_error_within_seconds(served: Served, tokenizer: Any) -> None:
    """The last test: afterwards there is no server and none of its processes."""
    engine = engine_of(served, tokenizer, "file")
    engine.sync(served.model.named_parameters(), 0)
    prompts = prompts_of(tokenizer, [f"{text} {i}" for i in range(64) for text in TEXTS])
    caught: list[BaseException] = []

    def generate() -> None:
        try:
            engine.generate(prompts, 8, Sampling(200))
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=generate)
    thread.start()
    time.sleep(1.0)
    assert thread.is_alive()
    group = os.getpgid(served.pid)
    os.kill(served.pid, signal.SIGKILL)
    began = time.monotonic()
    thread.join(30)
    assert time.monotonic() - began < 15
    assert isinstance(caught[0], ServerError) and served.url in str(caught[0])
    assert served.launcher.wait(60) != 0
    until(lambda: not alive(group))  # its workers went with it
    assert not (served.folder / "endpoint.json").exists()
    with pytest.raises(RuntimeError, match=r"refused|lost"):
        engine.sync(served.model.named_parameters(), 1)
