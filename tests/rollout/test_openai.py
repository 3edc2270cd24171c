"""The engine for OpenAI's API, against a stub of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.rollout.stub_server import Say, Stub, completion, in_turn, serving
from zero.config.check import check, instantiate
from zero.errors import InputError
from zero.records import EVALUATION, Prompt, Question, Sampling
from zero.rollout import ModelSpec, http
from zero.rollout.http import ServerError, in_parallel
from zero.rollout.openai import OpenAIEngine

ONE_MODEL = {"/models": in_turn(Say({"data": [{"id": "m", "owned_by": "someone"}]}))}
VLLM = {"/models": in_turn(Say({"data": [{"id": "m", "owned_by": "vllm"}]}))}


def engine_of(stub: Stub, tokenizer: Any, **settings: Any) -> OpenAIEngine:
    defaults = dict(model=None, key_env="NO_SUCH_KEY", timeout=5.0, retries=2, concurrency=4, seed=True, extra={})
    return OpenAIEngine(
        ModelSpec(None, tokenizer, 64, torch.float32, torch.device("cpu")), stub.url, **defaults | settings
    )


def prompts_of(tokenizer: Any, *texts: str) -> list[Prompt]:
    return [
        Prompt(Question(t, ("1",), str(i)), t, tuple(tokenizer.encode(t)), (EVALUATION, 0, 0, i))
        for i, t in enumerate(texts)
    ]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between retries, recorded and not waited for."""
    pauses: list[float] = []
    monkeypatch.setattr(http, "time", type("Clock", (), {"sleep": pauses.append, "monotonic": time.monotonic}))
    return pauses


EIGHT = Sampling(8)


def one(stub: Stub, tokenizer: Any, sampling: Sampling = EIGHT, **settings: Any) -> Any:
    return engine_of(stub, tokenizer, **settings).generate(prompts_of(tokenizer, "1 + 1 ="), 1, sampling)[0][0]


def test_a_request_for_each_sample_holds_the_prompt_as_it_stands(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    echo = ONE_MODEL | {"/completions": lambda body: completion(f"{body['prompt']}|{body['seed']}", "length")}
    texts = ["What is {1 + 1}?", "<|im_start|>user\n2\\boxed{}", "long " * 10]
    with serving(echo) as stub:
        engine = engine_of(stub, tokenizer, key_env="MY_KEY")
        engine.sync(iter([]), 3)
        groups = engine.generate(prompts_of(tokenizer, *texts), 5, Sampling(50, 0.7, 0.9, stop=("</answer>",)))
        again = engine.generate(prompts_of(tokenizer, *texts)[1:2], 2, Sampling(50, 0.7, 0.9, stop=("</answer>",)))
    assert [{c.text.rpartition("|")[0] for c in group} for group in groups] == [{text} for text in texts]
    assert len({c.text for group in groups for c in group}) == 15  # a seed each
    assert [c.text for c in again[0]] == [c.text for c in groups[1][:2]]  # the same ones next time
    assert all(not c.finished and c.logprobs == () and c.version == 3 for group in groups for c in group)
    body = stub.bodies("/completions")[0]
    assert set(body) == {"model", "prompt", "max_tokens", "temperature", "top_p", "stop", "seed"}
    assert (body["model"], body["temperature"], body["top_p"], body["stop"]) == ("m", 0.7, 0.9, ["</answer>"])
    rooms = {b["prompt"]: b["max_tokens"] for b in stub.bodies("/completions")}
    assert [rooms[p.text] for p in prompts_of(tokenizer, *texts)] == [
        min(50, 64 - len(p.ids)) for p in prompts_of(tokenizer, *texts)
    ]
    assert {headers.get("Authorization") for _, _, headers in stub.seen} == {"Bearer secret"}


def test_a_prompt_may_have_its_own_budget_and_stops(tokenizer: Any) -> None:
    first, second = prompts_of(tokenizer, "1 + 1 =", "2 + 2 =")
    with serving(ONE_MODEL | {"/completions": lambda body: completion("4")}) as stub:
        prompts = [replace(first, max_tokens=7, stop=("Q:",)), second]
        [[one], [other]] = engine_of(stub, tokenizer).generate(prompts, 1, Sampling(8, stop=("</a>",)))
    bodies = {body["prompt"]: (body["max_tokens"], body["stop"]) for body in stub.bodies("/completions")}
    assert bodies == {first.text: (7, ["Q:"]), second.text: (8, ["</a>"])}
    assert (one.text, other.text) == ("4Q:", "4</a>")  # the server cut them off


@pytest.mark.parametrize(
    ("choice", "stops", "text", "finished", "ended"),
    [
        (completion(" 4"), (), " 4", True, True),
        (completion(" 4", "length"), (), " 4", False, False),
        (completion("", "stop"), (), "", True, True),
        (completion("", "length"), (), "", False, True),  # no response is without a token
        (completion(" 4"), ("</a>",), " 4</a>", True, False),  # cut off, and the only one there is
        (completion(" 4</a>"), ("</a>",), " 4</a>", True, False),  # not every server cuts
        (completion(" 4"), ("</a>", "Q:"), " 4", True, True),  # the server did not name the token
        (completion(" 4", stop_reason="Q:"), ("</a>", "Q:"), " 4Q:", True, False),
        (completion(" 4", stop_reason=0), ("</a>",), " 4", True, True),  # a token ended it
        (completion(" 4", "length"), ("</a>",), " 4", False, False),
        (completion("a\ud800\x00\u202e b"), (), "a?\x00\u202e b", True, True),
    ],
)
def test_finish_reasons_and_stop_strings(
    tokenizer: Any, choice: Say, stops: tuple[str, ...], text: str, finished: bool, ended: bool
) -> None:
    with serving(ONE_MODEL | {"/completions": in_turn(choice)}) as stub:
        got = one(stub, tokenizer, Sampling(8, stop=stops, stop_ids=(0,)))
    assert (got.text, got.finished, got.ids[-1] == 0) == (text, finished, ended)
    assert got.ids[: len(got.ids) - ended] == tuple(tokenizer.encode(text, add_special_tokens=False))


def test_vllm_returns_the_tokens(tokenizer: Any) -> None:
    ids = [*tokenizer.encode(" 4</a> and"), 0]
    says = in_turn(completion("whatever", token_ids=ids, stop_reason=0), completion(" 4", token_ids=[10**9]))
    with serving(VLLM | {"/completions": says}) as stub:
        engine = engine_of(stub, tokenizer)
        [[whole]] = engine.generate(prompts_of(tokenizer, "x"), 1, Sampling(30, top_k=5, stop_ids=(0,)))
        [[odd]] = engine.generate(prompts_of(tokenizer, "x"), 1, Sampling(30, stop_ids=(0,)))
    assert (whole.ids, whole.text, whole.finished, whole.logprobs) == (tuple(ids), " 4</a> and", True, ())
    assert odd.text == " 4" and max(odd.ids) < len(tokenizer)
    body = stub.bodies("/completions")[0]
    assert (
        body["prompt"] == list(prompts_of(tokenizer, "x")[0].ids)
        and body["stop_token_ids"] == [0]
        and body["top_k"] == 5
    )


GOOD = completion(" 2", "length")
HICCUPS: dict[str, Say] = {
    "429": Say({"error": "slow down"}, 429, {"Retry-After": "7"}),
    "500": Say(b"oops", 500),
    "503": Say(b"", 503),
    "half a json": Say(b'{"choices": [{"te'),
    "cut off": Say({"choices": [{"text": " 2"}]}, cut=9),
    "silence": Say({}, hang=1.5),
    "drip": Say({"choices": [{"text": " 2" * 100}]}, drip=0.1),
}


@pytest.mark.parametrize("kind", HICCUPS)
def test_passing_errors_are_retried_and_others_raised(tokenizer: Any, kind: str, pauses: list[float]) -> None:
    with serving(ONE_MODEL | {"/completions": in_turn(HICCUPS[kind], HICCUPS[kind], GOOD)}) as stub:
        assert one(stub, tokenizer, timeout=0.5).text == " 2"
        assert pauses == ([7.0, 7.0] if kind == "429" else [1.0, 2.0])
    with serving(ONE_MODEL | {"/completions": in_turn(HICCUPS[kind])}) as stub:
        with pytest.raises(ServerError, match=rf"rollout server {stub.url}: "):
            one(stub, tokenizer, timeout=0.5)
        assert len(stub.bodies("/completions")) == 3


@pytest.mark.parametrize(
    "say",
    [
        Say([]),
        Say({"choices": []}),
        Say({"choices": [7]}),
        Say("hello"),
        completion(None),
        completion({"a": 1}),
        completion(" 2", None),
        completion(" 2", "content_filter"),
        completion(" 2", ["stop"]),
        Say({"detail": "no"}, 400),
        Say(b"[" * 200_000),
        Say(b"\xff\xfe"),
        Say(b"", 302, {"Location": "http://127.0.0.1:9/"}),
    ],
)
def test_a_malformed_answer_is_one_error(tokenizer: Any, say: Say, pauses: list[float]) -> None:
    with serving(ONE_MODEL | {"/completions": in_turn(say)}) as stub, pytest.raises(ServerError, match=stub.url):
        one(stub, tokenizer)


def test_an_overlong_answer_is_not_read_to_its_end(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST_ANSWER", 10_000)
    flood = ONE_MODEL | {"/completions": in_turn(completion("x" * 10**6))}
    with serving(flood) as stub, pytest.raises(ServerError, match="more than 10000 bytes"):
        one(stub, tokenizer)


@pytest.mark.parametrize(
    ("answers", "settings", "sampling", "match"),
    [
        ({"/models": in_turn(Say({"data": [{"id": "a"}, {"id": "b"}]}))}, {}, {}, r"rollout.model=null: .*: a, b"),
        ({}, {}, {}, r"rollout.model=null: name the server's model"),
        ({}, {"model": "m"}, {}, r"rollout.url=.*: it knows no model m"),
        (ONE_MODEL | {"/completions": in_turn(Say({}, 401))}, {}, {}, r"rollout.key_env=NO_SUCH_KEY: .*set it"),
        ({"/models": in_turn(Say({}, 403))}, {}, {}, r"rollout.key_env=NO_SUCH_KEY: "),
        (ONE_MODEL, {}, {"top_k": 5}, r"sampling.top_k=5: "),
    ],
)
def test_errors_that_a_user_can_mend_are_one_line(
    tokenizer: Any,
    answers: dict[str, Callable[[Any], Say]],
    settings: dict[str, Any],
    sampling: dict[str, Any],
    match: str,
) -> None:
    with serving(answers) as stub, pytest.raises(InputError, match=match):
        one(stub, tokenizer, Sampling(8, **sampling), **settings)


def test_a_url_of_another_kind_and_a_training_engine_are_refused(tokenizer: Any) -> None:
    for settings, match in (({}, r"rollout.url=localhost:1: "), ({"takes_weights": True}, r"rollout.takes_weights")):
        with pytest.raises(InputError, match=match):
            engine_of(Stub({}, "localhost:1"), tokenizer, **settings)


def test_no_server_is_one_line_at_once(tokenizer: Any, pauses: list[float]) -> None:
    with pytest.raises(InputError, match=r"rollout.url=http://127.0.0.1:9: .*refused.*; correct the url, or start"):
        one(Stub({}, "http://127.0.0.1:9"), tokenizer, retries=9)
    assert sum(pauses) < 5


def test_the_yaml_makes_the_engine(tokenizer: Any) -> None:
    config = check(
        "evaluate", ["rollout=openai", "rollout.url=http://127.0.0.1:9/v1", "rollout.seed=false", "rollout.retries=2"]
    )
    engine = instantiate(config["rollout"], "rollout")(
        ModelSpec(None, tokenizer, 64, torch.float32, torch.device("cpu"))
    )
    assert isinstance(engine, OpenAIEngine) and not engine.seed and engine.client.url.endswith("/v1")


def test_concurrency_is_bounded_and_answers_keep_their_order() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def ask(i: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002 * (i % 3))
        with lock:
            running -= 1
        return i * i

    assert in_parallel(ask, range(60), 7, TimeoutError, 10.0) == [i * i for i in range(60)]
    assert 1 < most <= 7


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_the_first_error_and_silence_end_the_wait_for_the_others(stuck: threading.Event) -> None:
    started: list[int] = []

    def ask(i: int) -> None:
        started.append(i)
        if i == 1:
            raise LookupError("one")
        stuck.wait(20)

    began = time.monotonic()
    with pytest.raises(LookupError, match="one"):
        in_parallel(ask, range(50), 2, TimeoutError, 10.0)
    with pytest.raises(TimeoutError):
        in_parallel(lambda i: stuck.wait(20), range(50), 3, TimeoutError, 0.2)
    assert time.monotonic() - began < 5
    assert len(started) <= 3
