"""Values by sampling: steps, budgets, the text that is graded, and values that can be predicted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.integration.runs import SMALL
from zero.batching import make_batch
from zero.build import build
from zero.config.check import check, instantiate
from zero.critic.monte_carlo import MonteCarloCritic
from zero.distributed import World
from zero.loop import Run
from zero.question_sets import load_questions
from zero.records import TRAINING, VALUE, Completion, Group, Prompt, Sampling
from zero.tracking import provenance


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("vine")
    config = check("train", [*SMALL, "tracker=jsonl", f"run_dir={folder}", "algo=vineppo", "evaluation.every=0"])
    light = {key: instantiate(config[key]) for key in ("template", "reward", "curriculum")}
    run = build(config, folder, "vine", load_questions(config, folder), provenance.start({}, "cpu", 1), **light)
    run.engine.sync(run.learner.weights(), version=0)
    return run


def vine_of(run: Run, **settings: Any) -> MonteCarloCritic:
    defaults: dict[str, Any] = {"samples": 4, "every": 4, "separator": None}
    return MonteCarloCritic(run.tokenizer, run.engine, run.grader, run.sampling, World(), **(defaults | settings))


def groups_of(run: Run, texts: list[str]) -> list[Group]:
    """One question with the given responses, in the template's form and graded."""
    question = run.questions.rows.train[0]
    prompt = run.template.prompt(question, run.tokenizer, (TRAINING, 0, 0, 0))
    completions = []
    for text in texts:
        ids = (*run.tokenizer.encode(text, add_special_tokens=False), run.tokenizer.eos_token_id)
        completions.append(Completion(ids, (-1.0,) * len(ids), text, True))
    return run.grader.grade([prompt], [completions], run.sampling.max_tokens)


def test_where_steps_start(run: Run) -> None:
    ids = run.tokenizer.encode("1+2=3.\n3+4=7.\n7-1=6.\nSo 6.", add_special_tokens=False)
    lines = vine_of(run, every=1, separator="\n").step_starts(ids)
    ended = [run.tokenizer.decode(ids[:b]) for b in lines[1:]]
    assert lines[0] == 0 and ended == ["1+2=3.\n", "1+2=3.\n3+4=7.\n", "1+2=3.\n3+4=7.\n7-1=6.\n"]
    first = len(run.tokenizer.encode("1+2=3.\n", add_special_tokens=False))
    assert vine_of(run, every=first + 1, separator="\n").step_starts(ids) == [0, lines[2]]
    assert vine_of(run, every=4).step_starts(range(10)) == [0, 4, 8]
    own = [True] * 6 + [False] * 3 + [True] * 5  # after the environment's message another attempt begins
    assert vine_of(run, every=4).step_starts(range(14), own) == [0, 4, 9, 13]
    assert vine_of(run, every=4).step_starts(range(4)) == [0]


def test_a_state_behind_the_right_answer_is_worth_1_and_behind_a_wrong_one_0(run: Run) -> None:
    """The model has boxed its answer, and most continuations end there."""
    answer = run.questions.rows.train[0].answer[0]
    groups = groups_of(run, [rf" The answer is \boxed{{{answer}}}.", r" The answer is \boxed{12345}."])
    batch = make_batch(groups, run.algo, pad_id=0)
    value_NT, step_start_NT = vine_of(run, every=1, samples=8).values(groups, batch)
    assert torch.equal(step_start_NT, batch.mask_NT.bool())
    at_end = [int(length) - 1 for length in batch.length_N]  # before the stop token
    assert float(value_NT[0, at_end[0]]) >= 0.75 and float(value_NT[1, at_end[1]]) == 0
    start = len(groups[0].prompt.ids)
    assert value_NT[0, start] == value_NT[1, start] < 1  # siblings share the value of their prompt


def test_the_whole_response_is_graded_within_its_own_budget(run: Run) -> None:
    requests: list[tuple[Prompt, Sampling]] = []
    judged: list[tuple[str, int]] = []

    class Spy:
        def generate(self, prompts: Any, n: int, sampling: Sampling) -> Any:
            requests.extend((prompt, sampling) for prompt in prompts)
            return run.engine.generate(prompts, n, sampling)

        def awake(self) -> Any:
            return run.engine.awake()

        def grade(self, prompts: Any, completions: Any, budget: int) -> list[Group]:
            judged.extend((c.text, budget) for c_K in completions for c in c_K)
            return run.grader.grade(prompts, completions, budget)

    groups = groups_of(run, [" 3+4=7.\nThe answer is 7.", " No."])
    vine = vine_of(run, every=4)
    vine.engine, vine.grader = Spy(), Spy()  # type: ignore[assignment]
    vine.values(groups, make_batch(groups, run.algo, pad_id=0))
    prompt, first = groups[0].prompt, groups[0].completions[0].ids
    depths = [len(p.ids) - len(prompt.ids) for p, _ in requests]
    assert depths == [0, *range(4, len(first), 4)]  # the second response is over before its second step
    assert all(p.ids == prompt.ids + first[:b] for (p, _), b in zip(requests, depths, strict=True))
    assert all(
        p.sampling(s).max_tokens == run.sampling.max_tokens - b for (p, s), b in zip(requests, depths, strict=True)
    )
    keys = [p.key for p, _ in requests]
    assert len(set(keys)) == len(keys) and all(key[0] == VALUE for key in keys)
    assert {budget for _, budget in judged} == {run.sampling.max_tokens}
    assert all(text.startswith(run.tokenizer.decode(first[:4])) for text, _ in judged[4:8])


def test_the_same_state_has_the_same_value(run: Run) -> None:
    groups = groups_of(run, [" 3+4=7.\nThe answer is 7.", " The answer is 5."])
    batch = make_batch(groups, run.algo, pad_id=0)
    vine = vine_of(run)
    first, again = vine.values(groups, batch), vine_of(run).values(groups, batch)
    assert torch.equal(first[0], again[0])
    assert 0 < vine.update(batch)["critic/tokens"] <= 4 * 8 * run.sampling.max_tokens
