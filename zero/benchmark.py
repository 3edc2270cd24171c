"""Metrics of graded completions: of a training step, and of a benchmark with confidence intervals.

All are computed from the rows that are saved as JSON Lines, so that a saved file gives the same numbers again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from zero.episode_metrics import episode_metrics, episode_row, policy_texts, prefix_cached, tried_again, try_metrics
from zero.errors import InputError
from zero.files import append_whole, json_lines
from zero.grading import Grader
from zero.grading.chance import chances
from zero.grading.maths.exact import LONGEST_FORMULA, normal_form, number
from zero.image_rows import image_metrics, image_row, image_tokens, save_images
from zero.images import run_path
from zero.questions import QuestionSet
from zero.records import EVALUATION, Group, Metrics, Outcome, Prompt, Question, Sampling, in_a_word
from zero.reflection import reflects
from zero.sandbox.code_tests import ATTEMPTS, OUTCOMES
from zero.statistics import MACRO, at_least, macro_interval, maj_at_k, mean_interval, pass_at_k
from zero.template import AnyTemplate

if TYPE_CHECKING:  # measuring saved rows needs no torch
    from zero.distributed import World
    from zero.rollout import RolloutEngine

Row = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """The first `limit` held-out questions of a set (None: all of them), answered n times each."""

    questions: QuestionSet
    grader: Grader
    sampling: Sampling
    n: int
    limit: int | None
    seed: int
    template: AnyTemplate | None = None  # its own, if its sources have templates or budgets of their own

    def prompts(self, template: AnyTemplate, tokenizer: Any) -> list[Prompt]:
        """The prompts, with the same keys at every step of a run: the same random numbers for the same question."""
        template = self.template or template
        return [template.prompt(q, tokenizer, (EVALUATION, self.seed, i)) for i, q in enumerate(self.subset())]

    def subset(self) -> Sequence[Question]:
        """The questions that are asked: the first `limit` held-out ones."""
        return self.questions.rows.heldout[: self.limit]

    @cached_property
    def chances(self) -> list[float] | None:
        """What guessing scores on each question that is asked (zero.grading.chance); None: it is not known of all."""
        return chances(self.subset())


@dataclass(frozen=True)
class Result:
    """The scores of one benchmark. `numbers` have the glossary's names without eval/NAME/; accuracy is avg@n over
    questions, with Wilson's interval at 95 %. `rows` are n for each question, in order."""

    name: str
    questions: int
    n: int
    numbers: Metrics
    shares: tuple[float, ...]  # strict accuracy of each question
    rows: tuple[Row, ...]

    def metrics(self) -> Metrics:
        """The numbers under the glossary's names."""
        return {f"eval/{self.name}/{key}": value for key, value in self.numbers.items()}


def evaluate(
    bench: Benchmark,
    template: AnyTemplate,
    tokenizer: Any,
    engine: RolloutEngine,
    ks: Sequence[int] = (),
    world: World | None = None,
) -> Result:
    """Answer and grade a benchmark with the engine's current weights; pass@k and maj@k for each of `ks`. The ranks of
    `world` share the questions, and each returns the whole result."""
    prompts: Sequence[Prompt] = bench.prompts(template, tokenizer)
    with engine.awake():
        table = rows(_answer_and_grade(bench, world.shard(prompts) if world else prompts, engine))
    table = world.all_gather(table) if world else table
    return result_from_rows(bench.questions.name, bench.n, table, ks, bench.chances)


def evaluate_in_parts(
    bench: Benchmark,
    template: AnyTemplate,
    tokenizer: Any,
    engine: RolloutEngine,
    ks: Sequence[int],
    path: Path,
    at_once: int,
    on_progress: Callable[[int, int], None],
) -> Result:
    """As `evaluate`, with the rows of each part appended to `path` (JSON Lines) when they are graded: after a kill the
    same call continues. `on_progress` is called with (questions done, questions).

    A part is at_once // n questions, at least one. The parts do not depend on where a run was killed, so that the
    engine sees the same batches and the result is the same to the bit. InputError if the file holds other answers.
    """
    prompts = bench.prompts(template, tokenizer)
    size = max(1, at_once // bench.n)
    table = _saved_rows(path, prompts, bench.n, size)
    done = len(table) // bench.n
    if done:
        on_progress(done, len(prompts))
    if done < len(prompts):
        with engine.awake():
            for start in range(done, len(prompts), size):
                new_rows = rows(_answer_and_grade(bench, prompts[start : start + size], engine))
                save_images(path.parent, new_rows)
                append_whole(path, "".join(json.dumps(row) + "\n" for row in new_rows).encode())
                table += new_rows
                on_progress(len(table) // bench.n, len(prompts))
    return result_from_rows(bench.questions.name, bench.n, table, ks, bench.chances)


def _answer_and_grade(bench: Benchmark, prompts: Sequence[Prompt], engine: RolloutEngine) -> list[Group]:
    completions_PG = engine.generate(prompts, bench.n, bench.sampling)
    return bench.grader.grade(prompts, completions_PG, bench.sampling.max_tokens)


def _saved_rows(path: Path, prompts: Sequence[Prompt], n: int, size: int) -> list[Row]:
    """The rows of the complete parts in the file; truncates the file after them, where a kill left a torn part."""
    data = path.read_bytes() if path.exists() else b""
    lines = list(json_lines(data))
    table: list[Row] = []
    for line, row in lines:
        if row is None or not line.endswith(b"\n"):
            break
        prompt = prompts[len(table) // n] if len(table) < n * len(prompts) else None
        asked = (row.get("id"), row.get("prompt"), row.get("images", []))
        if prompt is None or asked != (prompt.question.id, prompt.text, [*map(run_path, prompt.question.images)]):
            remedy = (
                f"{path.name} holds answers to other questions (line {len(table) + 1}); choose another name or run_dir"
            )
            raise InputError("run_dir", path.parent, remedy)
        table.append(row)
    if len(table) < n * len(prompts):
        table = table[: len(table) // (n * size) * n * size]
    length = sum(len(line) for line, _ in lines[: len(table)])
    if length < len(data):
        os.truncate(path, length)
    return table


def result_from_rows(
    name: str, n: int, table: Sequence[Row], ks: Sequence[int] = (), chances_P: Sequence[float] | None = None
) -> Result:
    """The numbers of a benchmark from its rows: n for each question, in order; beside what guessing scores on each, if given."""
    questions_PG = [table[i : i + n] for i in range(0, len(table), n)]
    right_P = [sum(row["correct"] for row in rows_G) for rows_G in questions_PG]
    shares_P = [right / n for right in right_P]
    low, high = mean_interval(shares_P)
    numbers = shared_metrics(table) | {"accuracy_low": low, "accuracy_high": high}
    if "turns" in table[0]:
        numbers["turns"] = fmean(len(row["turns"]) for row in table)
        numbers["reward"] = fmean(row["reward"] for row in table)
    if chances_P:
        numbers |= {"chance": fmean(chances_P), "chance_p": at_least(sum(right_P), chances_P, n)}
    for kind, means in by_kind(table).items():
        numbers |= {f"{kind}/accuracy": means["accuracy"], f"{kind}/length": means["length"]}
    votes_P = [votes(rows_G) for rows_G in questions_PG] if ks else []
    for k in ks:
        numbers[f"pass@{k}"] = fmean(pass_at_k(n, right, k) for right in right_P)
        numbers[f"maj@{k}"] = fmean(maj_at_k(*counts, k) for counts in votes_P)
    return Result(name, len(questions_PG), n, numbers, tuple(shares_P), tuple(table))


def macro(results: Sequence[Result]) -> Metrics:
    """The plain mean over benchmarks of every number that all of them have, under eval/macro/; the interval is over the
    questions of each benchmark. p-values are left out, and levels: those of two sets have nothing in common."""
    kinds = {kind for result in results for kind in by_kind(result.rows)}
    shared = [
        key
        for key in results[0].numbers
        if all(key in result.numbers for result in results)
        and key.rpartition("/")[0] not in kinds
        and key != "chance_p"
    ]
    numbers = {key: fmean(result.numbers[key] for result in results) for key in shared}
    numbers["accuracy_low"], numbers["accuracy_high"] = macro_interval([result.shares for result in results])
    return {f"eval/{MACRO}/{key}": value for key, value in numbers.items()}


def votes(rows_G: Sequence[Row]) -> tuple[list[tuple[int, float]], int]:
    """The answers to one question as `maj_at_k` takes them, and the number of responses without one. Answers with equal
    numbers, or else with equal normal forms, are one class."""
    answers = [(_vote(row["answer"]), solved(row)) for row in rows_G if row["answer"] is not None]
    counts, right = Counter(answer for answer, _ in answers), Counter(answer for answer, correct in answers if correct)
    return [(count, right[answer] / count) for answer, count in counts.items()], len(rows_G) - len(answers)


def _vote(answer: str) -> str:
    """The class of an answer: equal for answers that count as the same."""
    if len(answer) > LONGEST_FORMULA:
        return answer
    form = normal_form(answer)
    value = number(form)
    return form if value is None else f"= {value}"


def solved(row: Row) -> bool:
    """Whether the row's answer is right: that of the last turn, in an environment."""
    return bool(row.get("solved", row["correct"]))


def shared_metrics(table: Sequence[Row]) -> Metrics:
    """The metrics that training and benchmarks share. A mean over no responses is left out, never zero.

    Where a question may be tried again, accuracy is that of first tries; all else about answers is that of last turns.
    """
    numbers = {
        "accuracy": fmean(row["correct"] for row in table),
        "accuracy_lenient": fmean(row["lenient"] == Outcome.CORRECT for row in table),
        "formatted": fmean(row["outcome"] != Outcome.NO_ANSWER for row in table),
        "unparsed": fmean(row["outcome"] == Outcome.UNPARSED for row in table),
        "timed_out": fmean(row["outcome"] == Outcome.TIMEOUT for row in table),
        "failed": fmean(row["outcome"] == Outcome.FAILED for row in table),
        "truncated": fmean(not row["finished"] for row in table),
        "reflection": fmean(any(map(reflects, policy_texts(row))) for row in table),
        "length": fmean(row["tokens"] for row in table),
    }
    numbers |= try_metrics(table) | image_metrics(table)
    programs = Counter(row["program"] for row in table if "program" in row)
    if programs:  # then a zero is a fact, too
        numbers |= {f"program/{name.replace(' ', '_')}": programs[name] / len(table) for name in OUTCOMES}
        numbers["program/forbidden"] = sum(numbers[f"program/forbidden_{kind}"] for kind in ATTEMPTS)
    for name, correct in (("length_correct", True), ("length_incorrect", False)):
        lengths = [row["tokens"] for row in table if row["correct"] == correct]
        if lengths:
            numbers[name] = fmean(lengths)
    return numbers


def by_kind(table: Sequence[Row]) -> dict[str, Metrics]:
    """Mean accuracy, reward and length of the responses to each kind of question and to each level, by name: KIND, level_2, or
    KIND/level_2 for a level of a kind. A kind or level without responses is absent."""
    rows_by_kind: dict[str, list[Row]] = {}
    for row in table:
        kind, level = row.get("kind", ""), in_a_word(row.get("level"))
        for name in (kind, f"{kind}/level_{level}".lstrip("/") if level else ""):
            if name:
                rows_by_kind.setdefault(name, []).append(row)
    columns = {"accuracy": "correct", "reward": "reward", "length": "tokens"}
    return {
        name: {metric: fmean(row[column] for row in rows_by_kind[name]) for metric, column in columns.items()}
        for name in sorted(rows_by_kind)
    }


# Names of the shared metrics in training
_TRAINING = {
    "accuracy": "train/accuracy",
    "accuracy_lenient": "train/accuracy_lenient",
    "formatted": "train/formatted",
    "unparsed": "train/unparsed",
    "timed_out": "train/timed_out",
    "failed": "train/failed",
    "length": "length/mean",
    "length_correct": "length/correct",
    "length_incorrect": "length/incorrect",
    "truncated": "length/truncated",
    "reflection": "reflection/share",
    "solved": "tries/solved",
    "tries": "tries/mean",
    "recognition": "train/recognition",
}


def summarize(groups: Sequence[Group], has_signal_P: Sequence[bool] | None = None) -> Metrics:
    """The metrics of a training step's completions. `has_signal_P`: which groups teach anything; None: those with rewards that
    differ."""
    table = rows(groups)
    metrics = {"train/reward": fmean(row["reward"] for row in table)}
    metrics |= {_TRAINING.get(name, name): value for name, value in shared_metrics(table).items()}
    metrics |= episode_metrics(table) | prefix_cached(groups) | image_tokens(groups)
    terms = dict.fromkeys(name for row in table for name in row["terms"])  # sources of a mixture may have their own
    metrics |= {f"reward/{name}": fmean(row["terms"].get(name, 0.0) for row in table) for name in terms}
    for kind, means in by_kind(table).items():
        metrics |= {f"train/{kind}/accuracy": means["accuracy"], f"length/{kind}/mean": means["length"]}
        if "level_" not in kind:
            metrics[f"reward/{kind}/mean"] = means["reward"]
    signals_P = [group.rewards_differ for group in groups] if has_signal_P is None else has_signal_P
    flat_P = [not has_signal for has_signal in signals_P]
    tokens_P = [sum(completion.length for completion in group.completions) for group in groups]
    return metrics | {
        "groups/zero_advantage": fmean(flat_P),
        "tokens/zero_advantage": sum(compress(tokens_P, flat_P)) / max(1, sum(tokens_P)),
        "tokens/generated": float(sum(tokens_P)),
        "tokens/prompt": float(sum(len(group.prompt.ids) for group in groups)),
    }


def rows(groups: Sequence[Group]) -> list[Row]:
    """Completions as rows of JSON values. Episodes have their `turns`, too, and `solved`, about the last one; `correct` is about
    the first try, where a question may be tried again."""
    return [
        {
            "id": group.prompt.question.id,
            "question": group.prompt.question.text,
            "reference": " | ".join(group.prompt.question.answer),
            "level": _level(group.prompt.question),
            "prompt": group.prompt.text,
            "response": completion.text,
            "answer": verdict.answer,
            "correct": verdict.correct and not tried_again(completion),
            "outcome": str(verdict.strict),
            "lenient": str(verdict.lenient),
            "reward": verdict.reward,
            "terms": dict(verdict.terms),
            "reason": verdict.reason,
            "tokens": completion.length,
            "finished": completion.finished,
        }
        | ({"kind": kind} if (kind := group.prompt.question.kind) else {})
        | image_row(group.prompt.question, completion)
        | ({"program": verdict.program} if verdict.program else {})
        | ({"solved": verdict.correct} | episode_row(completion) if completion.turns else {})
        for group in groups
        for completion, verdict in zip(group.completions, group.verdicts, strict=True)
    ]


def _level(question: Question) -> str | int | None:
    """The question's difficulty, if its set gives one."""
    level = question.meta.get("level")
    return level if isinstance(level, str | int | None) else str(level)
