"""What the context leaves for an answer: long training rows are dropped and named, benchmarks are never thinned."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from zero.asking import asking_template
from zero.benchmark import Benchmark
from zero.build import make_benchmarks, precision_warning, with_episodes
from zero.config.check import check, instantiate
from zero.context import check_context, without_overlong_prompts
from zero.errors import InputError
from zero.grading import Grader, Reward, RewardTerm, check_equal
from zero.questions import QuestionSet, Rows
from zero.records import Prompt, Question, Sampling
from zero.rollout.episodes import EpisodeEngine
from zero.template import SourceTemplates, Template, joined, last_boxed

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


BENCHMARK = [
    "benchmarks.limit=8",
    "+questions@benchmarks.sets.mix=mixture",
    "+template@benchmarks.sets.mix.sources.nano_gsm.template=r1",
]


def test_a_benchmark_that_brings_a_template_lists_the_tools_in_it(tokenizer: Any) -> None:
    """And an episode of its questions goes on as it began."""
    config = check("train", ["environment=calculator", "questions=nano_math", *BENCHMARK])
    template, environment, reward = (instantiate(config[key], key) for key in ("template", "environment", "reward"))
    asking = partial(asking_template, template, config["model"], environment, tokenizer)
    bench = make_benchmarks(config, asking, reward, Sampling(64), 1, 0, {}, tokenizer, 4096)[-1]
    assert bench.template is not None
    prompts = {prompt.question.kind: prompt for prompt in bench.prompts(asking(), tokenizer)}
    assert prompts["nano_gsm"].text.endswith("<think>") and not prompts["nano_math"].text.endswith("<think>")
    for prompt in prompts.values():
        assert '"name": "calculate"' in prompt.text and "</tool_call>" in (*(prompt.stop or asking().stop),)
    engine = with_episodes(AnyEngine(), environment, (), [bench], asking(), tokenizer, 4096)
    assert isinstance(engine, EpisodeEngine) and isinstance(engine.template, SourceTemplates)
    assert engine.template.own["nano_gsm"].name == "r1"


class AnyEngine:
    """An engine that is not asked."""

    staleness, own_devices, sees = 0, False, False


def test_templates_of_sources_are_joined_unless_they_differ() -> None:
    plain, tagged = TEMPLATE, Template("r1", "{question} <think>", last_boxed)
    one = SourceTemplates(plain, {"a": plain}, {}, {})
    other = SourceTemplates(plain, {"b": tagged}, {}, {})
    assert joined(plain, None, "k") is joined(plain, plain, "k") is plain and joined(plain, one, "k") is one
    both = joined(one, other, "k")
    assert isinstance(both, SourceTemplates) and both.own == {"a": plain, "b": tagged}
    again = SourceTemplates(plain, {"a": replace(plain, extract=lambda text: None)}, {}, {})
    assert joined(one, again, "k")
    with pytest.raises(InputError, match=r"benchmarks=a: sources of this name have two templates"):
        joined(one, SourceTemplates(plain, {"a": tagged}, {}, {}), "benchmarks")
