"""Reference solutions as completions: the form, the end, the budget; evaluation is sampled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zero.errors import InputError
from zero.records import EVALUATION, TRAINING, Completion, Prompt, Question, Sampling
from zero.rollout import ModelSpec
from zero.rollout.solutions import GoldEngine

QUESTION = Question("2+3?", ("5", "5.0"), "q", "2+3=5.\nThe answer is \\boxed{5}.")


class Sampler:
    def __init__(self, spec: ModelSpec) -> None:
        self.spec, self.prompts_sampled = spec, 0

    def generate(self, prompts: list[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        self.prompts_sampled += len(prompts)
        return [[Completion((1,), (-0.5,), "sampled", True)] * n for _ in prompts]


def prompt(kind: int, question: Question = QUESTION) -> Prompt:
    return Prompt(question, question.text, (1, 2), (kind, 0, 0, 0))


def gold(tokenizer: Any, form: str = " {solution}") -> GoldEngine:
    return GoldEngine(ModelSpec(None, tokenizer, 64, torch.float32, torch.device("cpu")), Sampler, form)  # type: ignore[arg-type]


def test_a_solution_in_its_form_and_an_end(tokenizer: Any) -> None:
    engine = gold(tokenizer, " {solution} </think> <answer> {answer} </answer>")
    [[first, second]] = engine.generate([prompt(TRAINING)], 2, Sampling(100))
    assert first == second and first.finished and first.logprobs == ()
    assert first.text == " 2+3=5.\nThe answer is \\boxed{5}. </think> <answer> 5 </answer>"
    assert first.ids[-1] == tokenizer.eos_token_id and tokenizer.decode(first.ids[:-1]) == first.text


def test_several_solutions_are_drawn_by_the_prompts_key_and_none_twice(tokenizer: Any) -> None:
    question = Question("2+3?", ("5",), "q", "one", more=("two", "three"))
    texts = lambda step, n: [  # noqa: E731
        c.text.strip()
        for c in gold(tokenizer).generate([Prompt(question, "", (1,), (TRAINING, 0, step, 0))], n, Sampling(9))[0]
    ]
    assert all(sorted(texts(step, 3)) == ["one", "three", "two"] for step in range(5))
    assert texts(1, 5) == texts(1, 5) and texts(1, 5)[:3] == texts(1, 5)[3:] + texts(1, 3)[2:]
    assert {texts(step, 1)[0] for step in range(20)} == {"one", "two", "three"}


def test_the_budget_cuts_a_solution(tokenizer: Any) -> None:
    whole = gold(tokenizer).generate([prompt(TRAINING)], 1, Sampling(100))[0][0]
    cut = gold(tokenizer).generate([prompt(TRAINING)], 1, Sampling(len(whole.ids) - 1))[0][0]
    assert (cut.ids, cut.finished, cut.text) == (whole.ids[:-1], False, whole.text)
    assert gold(tokenizer).generate([prompt(TRAINING)], 1, Sampling(len(whole.ids)))[0][0] == whole


def test_control_tokens_in_a_solution_are_plain_text(tokenizer: Any) -> None:
    end = tokenizer.eos_token
    question = Question("2+3?", (f"5{end}",), "q", f"2+3=5.{end} {{answer}}")
    [[completion]] = gold(tokenizer, f" {{solution}}{end}{{answer}}").generate(
        [prompt(TRAINING, question)], 1, Sampling(200)
    )
    assert completion.ids.count(tokenizer.eos_token_id) == 2  # the form's own, and the end
    assert (
        completion.text == f" 2+3=5.{end} {{answer}}{end}5{end}"
        and tokenizer.decode(completion.ids[:-1]) == completion.text
    )


def test_evaluation_is_sampled(tokenizer: Any) -> None:
    engine = gold(tokenizer)
    assert engine.generate([prompt(EVALUATION)], 1, Sampling(8))[0][0].text == "sampled"
    assert engine.engine.prompts_sampled == 1 and engine.engine.spec.context == 64  # type: ignore[attr-defined]


def test_impossible_settings_are_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"rollout\.form=x: must hold \{solution\} or \{answer\}"):
        gold(tokenizer, "x")
    bare = Question("2+3?", ("5",), "bare")
    with pytest.raises(InputError, match="question bare has no solution"):
        gold(tokenizer).generate([prompt(TRAINING, bare)], 1, Sampling(8))
    assert gold(tokenizer, " {answer}").generate([prompt(TRAINING, bare)], 1, Sampling(8))[0][0].text == " 5"
