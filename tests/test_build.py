"""What the context leaves for an answer: long training rows are dropped and named, benchmarks are never thinned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zero.benchmark import Benchmark
from zero.build import precision_warning
from zero.context import check_context, without_overlong_prompts
from zero.errors import InputError
from zero.grading import Grader, Reward, RewardTerm, check_equal
from zero.questions import QuestionSet, Rows
from zero.records import Prompt, Question, Sampling
from zero.template import Template, last_boxed

TEMPLATE = Template("t", "Q: {question}\nA:", last_boxed)


def questions(*texts: str) -> list[Question]:
    return [Question(text, ("1",), f"q{i}") for i, text in enumerate(texts)]


def test_training_rows_that_leave_no_full_answer_are_dropped_and_named(tokenizer: Any) -> None:
    train = questions(*(f"what is {i}?" for i in range(30)), "9 " * 80)
    rows = Rows(train, questions("held out " * 100), ("before",))
    remaining = without_overlong_prompts(
        QuestionSet("s", rows, check_equal), TEMPLATE, tokenizer, Sampling(100), context=200
    )
    assert [q.id for q in remaining.rows.train] == [q.id for q in train[:-1]]
    assert remaining.rows.heldout == rows.heldout
    assert remaining.rows.notes == ("before", "dropped 1 rows whose prompts leave less than 100 tokens: q30")
    roomy = QuestionSet("s", rows, check_equal)
    assert without_overlong_prompts(roomy, TEMPLATE, tokenizer, Sampling(100), context=2000) is roomy


def test_settings_that_fit_too_few_rows_are_refused(tokenizer: Any) -> None:
    rows = Rows(questions(*(f"what is {'9 ' * 80}{i}?" for i in range(9))), ())
    with pytest.raises(InputError, match=r"sampling\.max_tokens=100: .*context of 200 .* for 9 of 9 questions"):
        without_overlong_prompts(QuestionSet("s", rows, check_equal), TEMPLATE, tokenizer, Sampling(100), context=200)


def test_settings_that_fit_no_row_are_refused_after_a_few_hundred_rows(tokenizer: Any) -> None:
    counted = []

    class Counting(Template):
        def prompt(self, question: Question, tokenizer: Any, key: tuple[int, ...]) -> Prompt:
            counted.append(question.id)
            return super().prompt(question, tokenizer, key)

    rows = Rows(questions(*(f"what is {'9 ' * 80}{i}?" for i in range(3000))), ())
    with pytest.raises(InputError, match="for at least 201 of 3000 questions"):
        without_overlong_prompts(
            QuestionSet("s", rows, check_equal),
            Counting("t", TEMPLATE.text, last_boxed),
            tokenizer,
            Sampling(100),
            context=200,
        )
    assert len(counted) < 300


def test_a_benchmark_keeps_long_questions_unless_nothing_is_left_for_the_answer(
    tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Rows((), questions("short?", "9 " * 80, "9 " * 800))

    def bench(budget: int, limit: int | None = 2) -> Benchmark:
        grader = Grader(last_boxed, check_equal, last_boxed, Reward({"one": RewardTerm(lambda response: 1.0)}))
        return Benchmark(QuestionSet("b", rows, check_equal), grader, Sampling(budget), 1, limit, 0)

    check_context(bench(100), TEMPLATE, tokenizer, context=200)
    assert capsys.readouterr().err == "benchmark b: 1 prompts leave less than 100 tokens\n"
    check_context(bench(10), TEMPLATE, tokenizer, context=400)
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError, match=r"benchmarks=b: a prompt of \d+ tokens exceeds the context of 400"):
        check_context(bench(10, None), TEMPLATE, tokenizer, context=400)


@pytest.mark.parametrize(
    ("device", "settings", "doubted"),
    [
        ("cuda", {}, True),
        ("cpu", {}, False),
        ("cuda", {"precision": "bfloat16"}, False),
        ("cuda", {"tf32": True}, False),
    ],
)
def test_full_float32_on_a_gpu_is_warned_of(device: str, settings: dict[str, Any], doubted: bool) -> None:
    config = {"learner": {"precision": "float32", "tf32": False} | settings}
    doubt = precision_warning(config, torch.device(device))
    assert (doubt is not None) == doubted
    assert doubt is None or ("learner.precision=bfloat16" in doubt and "learner.tf32=true" in doubt)
