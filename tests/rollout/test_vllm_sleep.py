"""When the vLLM engine keeps its weights in the host's memory and when it drops them, seen in the calls to vLLM: it
sleeps on a GPU alone, which no test has. What the calls do to vLLM: tests/engines, and analysis/LOG.md."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from zero.records import Prompt, Question, Sampling
from zero.rollout.vllm import Ranks, VllmEngine


class Llm:
    """Records every call."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.llm_engine = SimpleNamespace(reset_encoder_cache=lambda: None)  # of images

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.calls.append(f"wake {' '.join(tags)}")

    def collective_rpc(self, method: str, args: Any = ()) -> None:
        self.calls.append(method)

    def reset_prefix_cache(self) -> bool:
        return True


def make_engine(loose: list[str]) -> tuple[VllmEngine, list[str]]:
    """As its constructor leaves it: asleep, and without useful weights."""
    engine, llm = VllmEngine.__new__(VllmEngine), Llm()
    engine.llm, engine.sleeps, engine.loose, engine.ranks = llm, True, loose, Ranks(1, 1)
    engine.go_to_sleep(keep_weights=False)
    return engine, llm.calls


def test_weights_are_kept_only_for_a_use_before_the_next_sync() -> None:
    engine, calls = make_engine([])
    engine.sync([], 0)
    with engine.awake():  # an evaluation
        pass
    with engine.awake(last=True):  # the samples of a step
        pass
    with pytest.raises(RuntimeError, match="dropped its weights"), engine.awake():
        pass
    engine.sync([], 1)
    with engine.awake():
        pass
    assert calls == [
        "sleep 2",
        *("wake weights", "take_over", "wake kv_cache", "sleep 1"),
        *("wake weights kv_cache", "sleep 2"),
        *("wake weights", "take_over", "wake kv_cache", "sleep 1"),
    ]


def test_nothing_is_sampled_while_it_sleeps() -> None:
    engine, _ = make_engine([])
    engine.sync([], 0)
    with pytest.raises(RuntimeError, match=r"inside awake\(\)"):
        engine.generate([Prompt(Question("", ("",), ""), "", (1,), (0,))], 1, Sampling(4))


def test_a_model_with_tensors_of_its_own_keeps_all() -> None:
    engine, calls = make_engine(["model.layers.0.self_attn.attn.alibi_slopes"])
    engine.sync([], 0)
    with engine.awake(last=True):
        pass
    with engine.awake():
        pass
    assert {call for call in calls if call.startswith("sleep")} == {"sleep 1"}
