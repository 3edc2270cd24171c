"""Weight sync to a server, and servers that fail: a stub server, and workers that only store the weights."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import tiny_config
from tests.rollout.stub_server import Say, Stub, in_turn, serving
from tests.warm import Process
from zero.errors import InputError
from zero.records import Prompt, Question, Sampling
from zero.rollout import ModelSpec
from zero.rollout import weight_sync as exchange
from zero.rollout.http import Client, ServerError
from zero.rollout.server import ServerEngine
from zero.rollout.weight_sync import Server, ServerReceiver, WeightSender, model_fields

CPU = torch.device("cpu")
WAYS = ("file", "group")


class Worker(ServerReceiver):
    """A server's worker without a model: it stores the weights, and fails at the weight `bad`."""

    def __init__(self, rank: int, bad: str = "") -> None:
        self.rank, self.device, self.bad, self.received = rank, CPU, bad, dict[str, Tensor]()

    def take_over(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.received = {}
        for name, tensor in weights:
            if name == self.bad:
                raise RuntimeError(f"{name} is none of the model's")
            self.received[name] = tensor.clone()


def answering(workers: list[Worker]) -> Callable[[Any], Say]:
    """What vLLM's /collective_rpc does: the method runs in every worker."""

    def call(body: Any) -> Say:
        results: list[Any] = [None] * len(workers)

        def work(i: int) -> None:
            results[i] = getattr(workers[i], body["method"])(*body["args"])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(workers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Say({"results": results})

    return call


WEIGHTS = {f"layer.{i}": torch.arange(8.0) + i / 3 for i in range(20)} | {
    "big": torch.randn(90, 3),
    "one": torch.ones(()),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(exchange, "SHARD", 100)  # two of the small ones, and the big one alone
    return str(request.param)


def sender(stub: Stub, way: str, folder: Path, limit: float = 10.0) -> WeightSender:
    return WeightSender(Client(stub.url, limit, 2), way, str(folder), CPU, limit)


SERVER = Server({}, 64, torch.float32, "cpu", "processed_logprobs", 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_worker_gets_every_weight_again_and_again(way: str, tmp_path: Path, dtype: torch.dtype) -> None:
    workers = [Worker(0), Worker(1)]
    ahead: list[int] = []

    def watched() -> Iterator[tuple[str, Tensor]]:
        for item in WEIGHTS.items():
            ahead.append(len(list(tmp_path.glob("*/*.safetensors"))))
            yield item

    with serving({"/collective_rpc": answering(workers)}) as stub:
        one = sender(stub, way, tmp_path)
        for _ in range(3):
            one.send(watched(), replace(SERVER, dtype=dtype))
    for worker in workers:
        assert worker.received.keys() == WEIGHTS.keys()
        assert all(t.dtype == dtype and torch.equal(t, WEIGHTS[n].to(dtype)) for n, t in worker.received.items())
    assert max(ahead) <= exchange.MAX_UNREAD and not list(tmp_path.iterdir())


def test_weights_that_live_only_until_the_next_one_arrive_whole(way: str, tmp_path: Path) -> None:
    """As with weights gathered by ZeRO-3."""
    shared = torch.empty(30)

    def lent() -> Iterator[tuple[str, Tensor]]:
        for i in range(12):
            yield f"w{i}", shared.fill_(i)
        shared.fill_(-1)

    worker = Worker(0)
    with serving({"/collective_rpc": answering([worker])}) as stub:
        sender(stub, way, tmp_path).send(lent(), replace(SERVER, workers=1))
    assert [t.unique().tolist() for t in worker.received.values()] == [[float(i)] for i in range(12)]


def test_a_failure_on_one_side_ends_the_other(way: str, tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, Tensor]]:
        yield from list(WEIGHTS.items())[:5]
        raise ArithmeticError("of the learner")

    began, worker = time.monotonic(), Worker(0, bad="layer.7")
    with serving({"/collective_rpc": answering([worker])}) as stub:
        one = sender(stub, way, tmp_path, limit=5.0)
        with pytest.raises(ArithmeticError, match="of the learner"):
            one.send(broken(), replace(SERVER, workers=1))
        with pytest.raises(ServerError, match=rf"{stub.url}: .*(layer.7 is none|lost|did not take)"):
            one.send(iter(WEIGHTS.items()), replace(SERVER, workers=1))
        worker.bad = ""
        one.send(iter(WEIGHTS.items()), replace(SERVER, workers=1))  # and what failed leaves nothing behind
    assert worker.received.keys() == WEIGHTS.keys() and not list(tmp_path.iterdir())
    assert time.monotonic() - began < 30


def test_a_server_that_is_silent_or_fails_is_an_error(way: str, tmp_path: Path) -> None:
    for say, limit in ((Say({"results": []}, hang=3.0), 0.5), (Say({}, 500), 5.0), (Say({"results": ["?"]}), 5.0)):
        with serving({"/collective_rpc": in_turn(say)}) as stub, pytest.raises(ServerError, match=stub.url):
            sender(stub, way, tmp_path, limit).send(iter(WEIGHTS.items()), SERVER)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_the_server_does_not_see(tmp_path: Path) -> None:
    class Elsewhere(Worker):
        def take_files(self, folder: str, limit: float) -> dict[str, Any]:
            return super().take_files("/nowhere" + folder, limit)

    blind = {"/collective_rpc": answering([Elsewhere(0)])}
    with serving(blind) as stub, pytest.raises(InputError, match=r"rollout.folder=.*the server does not see it"):
        sender(stub, "file", tmp_path).send(iter(WEIGHTS.items()), replace(SERVER, workers=1))
    with serving({}) as stub, pytest.raises(InputError, match=r"rollout.folder=.*cannot be written"):
        sender(stub, "file", tmp_path / "none").send(iter(WEIGHTS.items()), SERVER)


def test_impossible_transports_are_refused(tmp_path: Path) -> None:
    with serving({}) as stub:
        with pytest.raises(InputError, match=r"rollout.transport=pigeon: must be one of file, group"):
            sender(stub, "pigeon", tmp_path)
        with pytest.raises(InputError, match=r"rollout.transport=group: the learner is on cpu, the server on cuda"):
            sender(stub, "group", tmp_path).send(iter([]), replace(SERVER, device="cuda"))


# The engine around it

PROMPT = Prompt(Question("x", ("1",), "0"), "x", (5, 6, 7), (0, 0, 0, 0))


def engine_of(stub: Stub, tokenizer: Any, folder: Path, **settings: Any) -> ServerEngine:
    defaults = dict(url=stub.url, transport="file", folder=str(folder), timeout=2.0, concurrency=4)
    config = tiny_config("qwen2", len(tokenizer) + 8)
    return ServerEngine(ModelSpec(config, tokenizer, 64, torch.float32, CPU), **defaults | settings)


def vllm_like(tokenizer: Any, bad: str = "", **overrides: Any) -> dict[str, Callable[[Any], Say]]:
    """Every endpoint of a server that the engine uses; the model is the tests'."""
    worker, label = Worker(0, bad), ["default"]
    config = model_fields(tiny_config("qwen2", len(tokenizer)))
    facts = dict(config=config, context=64, dtype="float32", device="cpu", logprobs="processed_logprobs")
    worker.describe_model = lambda: facts | overrides  # type: ignore[method-assign]
    rpc = answering([worker])

    def generate(body: Any) -> Say:
        span = {"version": label[0], "start": 0, "end": 1}
        choice = {"token_ids": [9], "finish_reason": "length", "logprobs": {"content": [{"logprob": -1.5}]}}
        return Say({"choices": [choice | {"weight_versions": [span]}]})

    def rename(body: Any) -> Say:
        label[0] = body["new_version"]
        return Say({})

    return {
        "/collective_rpc": lambda body: rpc({"args": []} | body),
        "/tokenize": lambda body: Say({"tokens": tokenizer.encode(body["prompt"], add_special_tokens=False)}),
        "/weight_info": lambda body: Say({"weight_version": label[0]}),
        "/inference/v1/generate": generate,
        "/reset_prefix_cache": in_turn(Say({"success": True})),
        "/update_weight_version": rename,
    }


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: {}, r"rollout.url=http.*: it is not a server that takes weights \(HTTP 404"),
        (lambda t: vllm_like(t, config={"hidden_size": 64}), r"rollout.url=.*hidden_size is 64 there and 32 here"),
        (lambda t: vllm_like(t, config={"vocab_size": 9}), r"rollout.url=.*vocab_size is 9 there and 600 here"),
        (lambda t: vllm_like(t, context=32), r"model.context=64: serves 32 tokens at most"),
        (lambda t: vllm_like(t, logprobs="raw_logprobs"), r"rollout.url=.*before temperature"),
        (lambda t: vllm_like(t) | {"/tokenize": in_turn(Say({"tokens": [1]}))}, r"rollout.url=.*another tokenizer"),
        (lambda t: vllm_like(t) | {"/inference/v1/generate": in_turn(Say({}, 403))}, r"rollout.url=.*HTTP 403"),
    ],
)
def test_a_server_that_cannot_be_used_is_named(
    tokenizer: Any, tmp_path: Path, change: Callable[[Any], Any], match: str
) -> None:
    names: list[str] = []
    weights = ((name, names.append(name) or tensor) for name, tensor in WEIGHTS.items())
    with serving(change(tokenizer)) as stub, pytest.raises(InputError, match=match):
        engine_of(stub, tokenizer, tmp_path).sync(weights, 0)
    assert names == list(WEIGHTS)  # other ranks wait in each of them


def test_no_server_is_one_line_and_no_weights_is_an_error(tokenizer: Any, tmp_path: Path) -> None:
    engine = engine_of(Stub({}, "http://127.0.0.1:9"), tokenizer, tmp_path)
    with pytest.raises(InputError, match=r"rollout.url=http://127.0.0.1:9: .*refused.*python -m launch.serve"):
        engine.sync(iter([]), 0)
    with pytest.raises(RuntimeError, match="sync comes first"):
        engine.generate([PROMPT], 1, Sampling(1))


def test_a_completion_of_other_weights_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    answers = vllm_like(tokenizer)
    with serving(answers) as stub:
        engine, rival = (engine_of(stub, tokenizer, tmp_path) for _ in range(2))
        engine.sync(iter(WEIGHTS.items()), 4)
        [[one, two]] = engine.generate([PROMPT], 2, Sampling(1))
        assert (one.version, one.ids, one.logprobs, one.finished) == (4, (9,), (-1.5,), False) and two == one
        rival.sync(iter(WEIGHTS.items()), 4)
        with pytest.raises(ServerError, match="other weights"):
            engine.generate([PROMPT], 1, Sampling(1))
        stub.answers["/reset_prefix_cache"] = in_turn(Say({"success": False}))
        with pytest.raises(ServerError, match="keeps its prefix cache"):
            engine.sync(iter(WEIGHTS.items()), 5)
        assert engine.version == -1


def test_weights_do_not_change_beside_a_completion(tokenizer: Any, tmp_path: Path) -> None:
    answers = vllm_like(tokenizer)
    quick = answers["/inference/v1/generate"]
    with serving(answers) as stub:
        engine = engine_of(stub, tokenizer, tmp_path)
        engine.sync(iter(WEIGHTS.items()), 0)
        started, go = threading.Event(), threading.Event()

        def slow(body: Any) -> Say:
            started.set()
            go.wait(5)
            return quick(body)

        stub.answers["/inference/v1/generate"] = slow
        samples: list[Any] = []
        thread = threading.Thread(target=lambda: samples.append(engine.generate([PROMPT], 1, Sampling(1))))
        thread.start()
        assert started.wait(5)
        with pytest.raises(RuntimeError, match="sync while generate runs"):
            engine.sync(iter(WEIGHTS.items()), 1)
        go.set()
        thread.join(5)
        assert samples[0][0][0].version == 0
        engine.sync(iter(WEIGHTS.items()), 1)


@pytest.mark.parametrize(
    "say",
    [
        Say({}, 500),
        Say({"choices": []}),
        Say({"choices": [{}]}),
        Say(b"["),
        Say({}, hang=9.0),
        Say({"choices": None}),
        Say(
            {
                "choices": [
                    {
                        "token_ids": [9],
                        "finish_reason": "abort",
                        "weight_versions": [],
                        "logprobs": {"content": [{"logprob": -1.5}]},
                    }
                ]
            }
        ),
    ],
)
def test_a_server_that_fails_is_an_error_in_time(tokenizer: Any, tmp_path: Path, say: Say) -> None:
    with serving(vllm_like(tokenizer)) as stub:
        engine = engine_of(stub, tokenizer, tmp_path, timeout=1.0)
        engine.sync(iter(WEIGHTS.items()), 0)
        stub.answers["/inference/v1/generate"] = in_turn(say)
        began = time.monotonic()
        with pytest.raises(ServerError, match=stub.url):
            engine.generate([PROMPT] * 3, 2, Sampling(1))
        assert time.monotonic() - began < 8


def test_every_rank_takes_part_in_every_weight_and_hears_how_it_went(tokenizer: Any, tmp_path: Path) -> None:
    """Two processes, each weight a collective of both, as with ZeRO-3; rank 0 alone speaks with the server until all generate.
    The server refuses the first weights and takes the next."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serving(vllm_like(tokenizer, bad="bad.7")) as stub:
        ranks = [
            Process(
                "tests.rollout.server_ranks",
                stub.url,
                str(tmp_path),
                errors=True,
                env=os.environ | dict(RANK=str(r), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)),
            )
            for r in range(2)
        ]
        outputs = [rank.communicate(timeout=300) for rank in ranks]
        calls = [path for path, _, _ in stub.seen]
    reports = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert [t["weights"] for t in reports] == [24, 24]
    assert all("bad.7 is none of the model's" in t["fault"] for t in reports)
    assert [(t["versions"], t["rows"]) for t in reports] == [([3], 2), ([3], 4)]  # of three prompts, two samples each
    assert calls.count("/collective_rpc") == 3  # one check, then the weights


def test_the_compared_config_leaves_out_keys_without_meaning() -> None:
    config = tiny_config("llama", 100)
    meaningful = model_fields(config)
    assert {"vocab_size", "hidden_size", "rope_parameters", "rms_norm_eps", "model_type"} <= meaningful.keys()
    assert not {"architectures", "transformers_version", "eos_token_id", "dtype"} & meaningful.keys()
    assert model_fields(SimpleNamespace(get_text_config=lambda: config)) == meaningful
