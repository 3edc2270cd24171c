"""The judge against a stub of an OpenAI-compatible server: one request per question, replies cached and checked."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from analysis.reflection import judge as judging
from analysis.reflection.judge import Instruction, Judge, Reply, category, connect, last_digit, shortened, yes_or_no
from tests.rollout.stub_server import Say, Stub, in_turn, serving
from zero.config.check import compose_config, instantiate
from zero.errors import Broken, InputError
from zero.rollout import http

AT = "/chat/completions"
ASK = Instruction("reflection", "Q {question} R {response}", 300, 0.0, category)


def chat(text: Any, reason: str = "stop") -> Say:
    return Say({"choices": [{"message": {"content": text}, "finish_reason": reason}]})


def judge_of(stub: Stub, folder: Path, **settings: Any) -> Judge:
    defaults: dict[str, Any] = dict(
        model="m", key_env="NO_SUCH_KEY", timeout=5.0, retries=2, concurrency=4, most=100, longest=1000, extra={}
    )
    return Judge(stub.url, **defaults | {"cache": str(folder / "judge.jsonl")} | settings)


def texts(*responses: str) -> list[dict[str, str]]:
    return [{"question": "1+1?", "reference": "2", "response": response} for response in responses]


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(http, "time", type("Clock", (), {"sleep": pauses.append, "monotonic": time.monotonic}))
    return pauses


@pytest.mark.parametrize(
    ("read", "text", "label"),
    [
        (category, "It shows self-reflection. 2.", 2),
        (category, "Category: **2**\n\n", 2),
        (category, "It answers directly. 1", 1),
        (category, "Only Python. 3.", 3),
        (category, "2 is what I would say, but I cannot decide", None),
        (category, "", None),
        (category, "category 7", None),
        (yes_or_no, "1: it tries", 1),
        (yes_or_no, " 0", 0),
        (yes_or_no, "10 of 10", None),
        (yes_or_no, "The answer is 1", None),
        (last_digit, "It doubts it and is right. 2", 2),
        (last_digit, "so: **4**.", 4),
        (last_digit, "it ends with 14", None),
        (last_digit, "it ends with 0.4", None),
        (last_digit, "5", None),
        (last_digit, "4 or so, hard to say at all", None),
    ],
)
def test_only_a_digit_in_the_requested_place_is_a_label(read: Any, text: str, label: int | None) -> None:
    assert read(Reply(text)) == label
    if read is not yes_or_no:  # a truncated reply has no end
        assert read(Reply(text, whole=False)) is None


def test_each_different_question_is_asked_only_once(tmp_path: Path) -> None:
    def answer(body: Any) -> Say:
        return chat("reflects. 2" if "again" in body["messages"][0]["content"] else "no. 1")

    responses = ["check again", "plain", "check again", "{question} {reference}"]
    with serving({AT: answer}) as stub:
        judge = judge_of(stub, tmp_path, extra={"top_p": 0.5, "max_tokens": None, "max_completion_tokens": 300})
        assert judge.label(ASK, texts(*responses)) == [2, 1, 2, 1]
        assert len(stub.seen) == 3
        body = next(b for b in stub.bodies(AT) if "plain" in str(b))
        assert body == {
            "model": "m",
            "temperature": 0.0,
            "top_p": 0.5,
            "max_completion_tokens": 300,
            "messages": [{"role": "user", "content": "Q 1+1? R plain"}],
        }
        assert any(b["messages"][0]["content"].endswith("R {question} {reference}") for b in stub.bodies(AT))
        assert judge_of(stub, tmp_path, extra=judge.extra).label(ASK, texts(*responses)) == [2, 1, 2, 1]
        assert len(stub.seen) == 3  # another process would find them in the cache, too
        other = Instruction("reflection", ASK.prompt, 200, 0.0, category)
        judge_of(stub, tmp_path).label(other, texts("plain"))
        assert len(stub.seen) == 4  # other instructions make another question


def test_many_texts_are_asked_about_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(judging, "PART", 3)
    with serving({AT: lambda body: chat(body["messages"][0]["content"][-1])}) as stub:
        assert judge_of(stub, tmp_path).label(ASK, texts(*"0123012a")) == [0, 1, 2, 3, 0, 1, 2, None]
    assert len(stub.seen) == 5
    assert capsys.readouterr().err.splitlines() == [
        "judge, reflection: 3 of 5 asked",
        "judge, reflection: 5 of 5 asked",
    ]


def test_a_killed_run_asks_for_the_rest_and_damage_costs_its_own_line(tmp_path: Path, no_pauses: list[float]) -> None:
    broken = Say({"error": "boom"}, 500)
    with serving({AT: in_turn(chat("1"), chat("2"), broken)}) as stub:
        with pytest.raises(Broken, match=r"judge http.*boom.*2 answers are kept"):
            judge_of(stub, tmp_path, concurrency=1).label(ASK, texts("a", "b", "c", "d"))
        assert no_pauses == [1.0, 2.0]
    path = tmp_path / "judge.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"key": 3}\n[]\n\xff\xfe\n' + lines[1][:-9])  # the second is torn
    with serving({AT: in_turn(chat("3"))}) as stub:
        assert judge_of(stub, tmp_path).label(ASK, texts("a", "b", "c", "d")) == [1, 3, 3, 3]
        assert len(stub.seen) == 3
    chosen = [line for line in path.read_text(errors="replace").splitlines() if line.endswith("}") and '"text"' in line]
    assert sum(json.loads(line)["text"] == "3" for line in chosen) == 3


@pytest.mark.parametrize(
    "reply",
    [
        chat(None),
        chat(["2"]),
        Say({"choices": []}),
        Say([2]),
        Say("2"),
        Say({"error": "filtered"}, 400),
        chat("2", "length"),
        chat("2" * 30_000),
    ],
)
def test_a_reply_without_an_answer_gives_no_label(tmp_path: Path, reply: Say) -> None:
    with serving({AT: lambda body: reply if "bad" in str(body) else chat("1")}) as stub:
        assert judge_of(stub, tmp_path).label(ASK, texts("good", "bad", "good")) == [1, None, 1]


def test_a_server_that_refuses_everything_is_given_up(tmp_path: Path) -> None:
    with serving({AT: in_turn(Say({"error": "no such field max_tokens"}, 400))}) as stub:
        with pytest.raises(InputError, match=r"judge.model=m: .*no such field max_tokens"):
            judge_of(stub, tmp_path).label(ASK, texts(*map(str, range(60))))
        assert len(stub.seen) < 60


@pytest.mark.parametrize(
    ("settings", "say", "message"),
    [
        ({}, Say({"error": "key"}, 401), r"judge.key_env=NO_SUCH_KEY: the server wants a key"),
        ({}, Say({"error": "x"}, 404), r"judge.url=http.*urls often end in /v1"),
        ({"most": 2}, chat("1"), r"judge.most=2: 3 more requests are needed"),
        ({"timeout": -1}, chat("1"), r"judge.timeout=-1: must be a number"),
        ({"concurrency": 0}, chat("1"), r"judge.concurrency=0: must be a number of at least 1"),
        ({"model": None}, chat("1"), r"judge.model=null: name"),
        ({"cache": "/proc/no/such"}, chat("1"), r"judge.cache=/proc/no/such: cannot be written"),
    ],
)
def test_bad_settings_are_one_line(tmp_path: Path, settings: dict[str, Any], say: Say, message: str) -> None:
    with serving({AT: in_turn(say)}) as stub, pytest.raises(InputError, match=message) as caught:
        judge_of(stub, tmp_path, **settings).label(ASK, texts("a", "b", "c"))
    assert "\n" not in str(caught.value)


def test_no_more_at_once_than_allowed_and_busy_servers_are_waited_for(tmp_path: Path, no_pauses: list[float]) -> None:
    inside, most, first, lock = [0], [0], set[str](), threading.Lock()

    def answer(body: Any) -> Say:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            new = (text := str(body["messages"])) not in first
            first.add(text)
        time.sleep(0.03)
        with lock:
            inside[0] -= 1
        return Say({"error": "busy"}, 429, {"Retry-After": "7"}) if new else chat("0")

    with serving({AT: answer, "/models": in_turn(Say({"data": [{"id": "only"}]}))}) as stub:
        labels = judge_of(stub, tmp_path, model=None, concurrency=3).label(ASK, texts(*map(str, range(9))))
    assert labels == [0] * 9 and 2 <= most[0] <= 3
    assert no_pauses.count(7.0) == 9  # as long as the server asked; a lost connection has pauses of its own
    assert {body["model"] for body in stub.bodies(AT)} == {"only"}


def test_long_texts_lose_their_middle_and_surrogates_are_no_text() -> None:
    assert shortened("x" * 100, 100) == "x" * 100
    cut = shortened("begin" + "x" * 1000 + "the end", 100)
    assert cut.startswith("begin") and cut.endswith("the end") and "[... 912 characters left out ...]" in cut
    assert shortened("a\ud800b", 10) == "a?b"


def test_the_shipped_instructions(tmp_path: Path) -> None:
    own = instantiate(compose_config("reflection", []))
    assert own["judge"] is None and connect(None) is None
    result = {name: (one.max_tokens, one.temperature, one.read) for name, one in own["instructions"].items()}
    assert result == {
        "reflection": (300, 0.0, category),
        "answering": (100, 0.0, yes_or_no),
        "behaviour": (300, 0.0, last_digit),
    }
    for name, one in own["instructions"].items():
        text = one.filled_in(
            {"question": "THE {response}", "reference": "THE ANSWER", "response": "SAID {question}"}, 99
        )
        assert text.count("THE {response}") == 1 and text.count("SAID {question}") == 1
        assert ("THE ANSWER" in text) == (name == "behaviour")  # a judge that knows the answer might judge by it
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Mine: {response}")
    typed = [f"instructions.answering.prompt='@{prompt}'"]
    assert instantiate(compose_config("reflection", typed))["instructions"]["answering"].prompt == "Mine: {response}"
    with pytest.raises(InputError, match=r"instructions.x.prompt=say 2: must hold \{response\}"):
        Instruction("x", "say 2", 1, 0.0, category)
