"""Numbers that describe graded completions: of a training step, and of a benchmark with its uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from zero.grading import Grader
from zero.questions import QuestionSet
from zero.records import Completion, Group, Metrics, Sampling, Verdict
from zero.reflection import reflects
from zero.rollout import RolloutEngine
from zero.statistics import mean_interval, pass_at_k
from zero.template import AnyTemplate

TRAINING, EVALUATION = 0, 1  # the first part of a prompt's key: the two never share random numbers


@dataclass(frozen=True)
class Benchmark:
    """The first `limit` held-out questions of a set, answered n times each."""

    questions: QuestionSet
    grader: Grader
    sampling: Sampling
    n: int
    limit: int
    seed: int


@dataclass(frozen=True)
class Result:
    """What a benchmark measured. Accuracy is avg@n over questions, [low, high] its 95 % bootstrap interval."""

    name: str
    questions: int
    n: int
    accuracy: float
    low: float
    high: float
    formatted: float
    length: float
    truncated: float
    reflection: float
    pass_at: dict[int, float]
    groups: tuple[Group, ...]

    def metrics(self) -> Metrics:
        """Under the glossary's names."""
        values = {"accuracy": self.accuracy, "accuracy_low": self.low, "accuracy_high": self.high}
        values |= {"formatted": self.formatted, "length": self.length, "truncated": self.truncated}
        return {f"eval/{self.name}/{key}": value for key, value in (values | {"reflection": self.reflection}).items()}


def evaluate(
    bench: Benchmark, template: AnyTemplate, tokenizer: Any, engine: RolloutEngine, ks: Sequence[int] = (1,)
) -> Result:
    """Answer and grade a benchmark with the current weights of the engine. The same key makes the same completions."""
    questions = bench.questions.rows.heldout[: bench.limit]
    prompts = [template.prompt(q, tokenizer, (EVALUATION, bench.seed, i)) for i, q in enumerate(questions)]
    with engine.awake():
        completions_PG = engine.generate(prompts, bench.n, bench.sampling)
    groups = tuple(bench.grader.grade(p, c_G) for p, c_G in zip(prompts, completions_PG, strict=True))
    right_P = [sum(verdict.correct for verdict in group.verdicts) for group in groups]
    shares_P = [right / bench.n for right in right_P]
    low, high = mean_interval(shares_P)
    return Result(
        name=bench.questions.name,
        questions=len(groups),
        n=bench.n,
        accuracy=fmean(shares_P),
        low=low,
        high=high,
        formatted=_mean(groups, lambda c, v: v.formatted),
        length=_mean(groups, lambda c, v: len(c.ids)),
        truncated=_mean(groups, lambda c, v: not c.finished),
        reflection=_mean(groups, lambda c, v: reflects(c.text)),
        pass_at={k: fmean(pass_at_k(bench.n, right, k) for right in right_P) for k in ks},
        groups=groups,
    )


def summarize(groups: Sequence[Group]) -> Metrics:
    """The metrics of a training step's completions. A mean over no responses is left out, never zero."""
    rewards_PG = [[verdict.reward for verdict in group.verdicts] for group in groups]
    metrics = {
        "train/reward": _mean(groups, lambda c, v: v.reward),
        "train/accuracy": _mean(groups, lambda c, v: v.correct),
        "train/formatted": _mean(groups, lambda c, v: v.formatted),
        "length/mean": _mean(groups, lambda c, v: len(c.ids)),
        "length/truncated": _mean(groups, lambda c, v: not c.finished),
        "reflection/share": _mean(groups, lambda c, v: reflects(c.text)),
        "groups/zero_advantage": fmean(len(set(rewards_G)) == 1 for rewards_G in rewards_PG),
        "tokens/generated": float(sum(len(c.ids) for group in groups for c in group.completions)),
        "tokens/prompt": float(sum(len(group.prompt.ids) for group in groups)),
    }
    for name, correct in (("length/correct", True), ("length/incorrect", False)):
        lengths = [
            len(c.ids)
            for group in groups
            for c, v in zip(group.completions, group.verdicts, strict=True)
            if v.correct == correct
        ]
        if lengths:
            metrics[name] = fmean(lengths)
    return metrics


def rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Completions as flat rows for a person to read."""
    return [
        {
            "question": group.prompt.question.text,
            "reference": " | ".join(group.prompt.question.answer),
            "prompt": group.prompt.text,
            "response": completion.text,
            "answer": verdict.answer,
            "correct": verdict.correct,
            "reward": verdict.reward,
            "reason": verdict.reason,
            "tokens": len(completion.ids),
            "finished": completion.finished,
        }
        for group in groups
        for completion, verdict in zip(group.completions, group.verdicts, strict=True)
    ]


def _mean(groups: Sequence[Group], value: Callable[[Completion, Verdict], float]) -> float:
    pairs = [pair for group in groups for pair in zip(group.completions, group.verdicts, strict=True)]
    return fmean(float(value(c, v)) for c, v in pairs)
