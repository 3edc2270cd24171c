"""The numbers of a step and of a benchmark, the file that a kill cannot spoil, and the published scores beside ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests.conftest import ROOT
from zero.benchmark import (
    Benchmark,
    Result,
    Row,
    evaluate,
    evaluate_in_parts,
    macro,
    result_from_rows,
    rows,
    shared_metrics,
    summarize,
    votes,
)
from zero.episode_metrics import SHOWN_KINDS, prefix_cached
from zero.errors import InputError
from zero.grading import Grader, Reward, RewardTerm
from zero.published import figures
from zero.questions import QuestionSet, Rows
from zero.records import Completion, Ending, Group, Outcome, Prompt, Question, Response, Sampling, Turn, Verdict
from zero.template import Template, last_boxed
from zero.tracking import journal
from zero.tracking.glossary import describe
from zero.tracking.tables import benchmark_tables, evaluation_table, steps_table

PUBLISHED: dict[str, Any] = yaml.safe_load((ROOT / "conf" / "published.yaml").read_text())["tables"]


def row(answer: str | None, correct: bool = False, **changes: Any) -> Row:
    outcome = "no answer" if answer is None else "correct" if correct else "wrong"
    return {
        "id": "q", "prompt": "p", "response": "so be it", "answer": answer, "correct": correct, "outcome": outcome,
        "lenient": outcome, "reward": float(correct), "terms": {}, "tokens": 10, "finished": True,
    } | changes  # fmt: skip


def group(*verdicts: Verdict, lengths: Sequence[int], finished: bool = True) -> Group:
    prompt = Prompt(Question("1 + 1?", ("2",), "q"), "1 + 1?", (1, 2, 3), (0, 0))
    completions = tuple(Completion((5,) * n, (-0.1,) * n, "wait, let me double-check: 2", finished) for n in lengths)
    return Group(prompt, completions, verdicts)


def verdict(strict: Outcome, lenient: Outcome, **parts: float) -> Verdict:
    answer = None if strict is Outcome.NO_ANSWER else "2"
    return Verdict(sum(parts.values()), strict, lenient, answer, str(strict), parts)


# --- a training step ---


def test_every_kind_of_outcome_is_a_number_of_its_own() -> None:
    o = Outcome
    right = [
        verdict(o.CORRECT, o.CORRECT, correct=0.9, form=0.1),
        verdict(o.NO_ANSWER, o.CORRECT, correct=0.0, form=0.0),
    ]
    odd = [verdict(kind, o.WRONG, correct=0.0, form=0.1) for kind in (o.UNPARSED, o.TIMEOUT)]
    metrics = summarize([group(*right, lengths=[4, 6]), group(*odd, lengths=[10, 20], finished=False)])
    expected = {
        "train/reward": 0.3, "train/accuracy": 0.25, "train/accuracy_lenient": 0.5, "train/formatted": 0.75,
        "train/unparsed": 0.25, "train/timed_out": 0.25, "train/failed": 0.0,
        "reward/correct": 0.225, "reward/form": 0.075,
        "length/mean": 10.0, "length/correct": 4.0, "length/incorrect": 12.0, "length/truncated": 0.5,
        "reflection/share": 1.0, "groups/zero_advantage": 0.5, "tokens/zero_advantage": 0.75, "tokens/generated": 40.0,
        "tokens/prompt": 6.0,
    }  # fmt: skip
    assert metrics == pytest.approx(expected)
    for name in (*metrics, "alarm/reward_hack"):
        assert describe(name)


@pytest.mark.parametrize(("outcome", "absent"), [("wrong", "length/correct"), ("correct", "length/incorrect")])
def test_a_mean_over_no_responses_is_absent_not_zero(outcome: str, absent: str) -> None:
    kind = Outcome(outcome)
    metrics = summarize([group(verdict(kind, kind, correct=1.0), lengths=[7])])
    assert absent not in metrics
    assert {"length/correct", "length/incorrect"} - {absent} <= metrics.keys()
    assert metrics["train/timed_out"] == 0.0  # a share of all responses exists


def test_kinds_and_levels_have_curves_of_their_own_and_none_where_a_step_asks_none() -> None:
    def answered(right: bool, tokens: int, **meta: Any) -> Group:
        outcome = Outcome.CORRECT if right else Outcome.WRONG
        plain = group(verdict(outcome, outcome, right=float(right), form=0.5), lengths=[tokens])
        return replace(plain, prompt=replace(plain.prompt, question=Question("?", ("2",), "q", meta=meta)))

    groups = [
        answered(True, 10, kind="cards", level=1), answered(False, 30, kind="cards", level=2),
        answered(True, 20, kind="chains", level="Level 1"), answered(True, 8, level=3),
        answered(False, 9, level=[1], kind="two words"),
    ]  # fmt: skip
    metrics = summarize(groups)
    names = [name for name in metrics if name.count("/") > 1]
    assert {name: metrics[name] for name in names} == {
        "train/cards/accuracy": 0.5, "length/cards/mean": 20, "reward/cards/mean": 1.0,
        "train/cards/level_1/accuracy": 1, "length/cards/level_1/mean": 10,
        "train/cards/level_2/accuracy": 0, "length/cards/level_2/mean": 30,
        "train/chains/accuracy": 1, "length/chains/mean": 20, "reward/chains/mean": 1.5,
        "train/chains/level_1/accuracy": 1, "length/chains/level_1/mean": 20,
        "train/level_3/accuracy": 1, "length/level_3/mean": 8,
    }  # fmt: skip
    units = {name: describe(name)[0] for name in names}
    assert all(
        units[name] == {"train": "share", "length": "tokens", "reward": "reward"}[name.split("/")[0]] for name in units
    )
    assert journal.kinds(metrics) == ["cards", "cards/level_1", "cards/level_2", "chains", "chains/level_1", "level_3"]

    table = rows(groups)
    result, other = result_from_rows("b", 1, table), result_from_rows("c", 1, [r for r in table if r["level"] == 3])
    numbers = result.metrics()
    assert (numbers["eval/b/cards/accuracy"], numbers["eval/b/cards/level_2/length"]) == (0.5, 30)
    assert all(describe(name) for name in numbers) and journal.benchmarks(numbers) == ["b"]
    assert not [name for name in macro([result, other]) if "level" in name]  # levels of two sets have nothing in common
    shown = printed(evaluation_table([("before", numbers), ("after", {"eval/b/accuracy": 1.0})]))
    assert "cards, level 2" in shown and "50.0 %, 20.0" in shown
    shown = printed(benchmark_tables(numbers, 1, (1,), {}))
    assert "by kind and level" in shown and "chains, level 1" in shown


def episodes(*tries_and_outcomes: tuple[int, Outcome], attempt_text: str = "no") -> Group:
    """Each with so many tries of 3 sampled tokens; between them the environment says to double-check."""
    prompt = Prompt(Question("1 + 1?", ("2",), "q"), "1 + 1?", (1, 2, 3), (0, 0))
    completions, verdicts = [], []
    for attempts, outcome in tries_and_outcomes:
        own = (*(True, True, True, False) * (attempts - 1), True, True, True)
        text = " Double-check! ".join([attempt_text] * attempts)
        kinds = ["wrong"] * (attempts - 1) + [str(outcome)]
        turns = tuple(Turn(attempt_text, 4 * k, 4 * k + 3, kind=kind) for k, kind in enumerate(kinds))
        ids = (5,) * len(own)
        completions.append(Completion(ids, (-0.1,) * len(own), text, True, own, turns, Ending.DONE))
        verdicts.append(verdict(outcome, outcome, right=float(outcome is Outcome.CORRECT)))
    return Group(prompt, tuple(completions), tuple(verdicts))


def test_accuracy_is_that_of_first_attempts_and_what_feedback_solves_is_another_metric() -> None:
    yes, no = Outcome.CORRECT, Outcome.WRONG
    metrics = summarize([episodes((1, yes), (3, yes), (5, no), (1, no))])
    expected = {
        "train/reward": 0.5, "train/accuracy": 0.25, "tries/solved": 0.5, "tries/mean": 2.5,
        "length/mean": 7.5, "length/correct": 3.0, "length/incorrect": 9.0, "tokens/generated": 30.0,
        "reflection/share": 0.0,
    }  # fmt: skip
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert all(describe(name) for name in metrics)
    assert summarize([episodes((2, no), attempt_text="I recheck")])["reflection/share"] == 1.0
    single = summarize([episodes((1, yes))])  # also where no response happens to have a second attempt
    assert (single["tries/solved"], single["tries/mean"]) == (1.0, 1.0)
    plain = summarize([group(verdict(yes, yes, right=1.0), lengths=[3])])
    assert not [name for name in plain if name.startswith(("tries/", "episode/", "turn"))]


def test_what_happened_turn_by_turn() -> None:
    group = episodes((1, Outcome.CORRECT), (3, Outcome.WRONG))
    first, second = group.completions
    paid = tuple(replace(turn, reward=float(k)) for k, turn in enumerate(second.turns))
    cut = replace(second, turns=paid, ending=Ending.TOKENS)
    metrics = summarize([replace(group, completions=(first, cut))])
    expected = {
        "episode/turns": 2.0, "episode/observed": 1.0, "episode/done": 0.5, "episode/out_of_tokens": 0.5,
        "episode/failed": 0.0, "turns/correct": 0.25, "turns/wrong": 0.75, "turn/1/alive": 1.0, "turn/2/alive": 0.5,
        "turn/3/reward": 2.0, "turn/3/positive": 1.0, "turn/1/positive": 0.0, "turn/2/length": 3.0,
    }  # fmt: skip
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert "turn/4/alive" not in metrics and all(describe(name) for name in metrics)


def test_what_later_turns_find_in_the_engines_cache() -> None:
    """The third turn, of a fresh context, sees 4 tokens; the others all that was before."""
    turns = (Turn("a", 0, 3, cached=5), Turn("b", 5, 8, cached=7), Turn("c", 12, 14, fresh=True, cached=0))
    episode = Completion((1,) * 16, (), "", True, turns=(*turns, Turn("d", 15, 16, cached=5)), version=0)
    group = Group(Prompt(Question("q", ("1",), "q"), "q", (7,) * 10, (0, 0, 0, 0)), (episode,), ())
    assert prefix_cached([group]) == {"speed/prefix_cached": (7 + 0 + 5) / (10 + 5 + 4 + 7)}
    silent = replace(episode, turns=tuple(replace(turn, cached=-1) for turn in episode.turns))
    assert prefix_cached([replace(group, completions=(silent,))]) == {}
    assert silent == episode, "where it came from is no part of what was sampled"


def test_an_environment_cannot_make_more_curves_than_there_are_shown() -> None:
    """One that calls every turn something else."""
    group = episodes((60, Outcome.WRONG), (2, Outcome.WRONG))
    named = [
        replace(
            c, turns=tuple(replace(turn, kind=f"kind_{k}" if g == 0 else "often") for k, turn in enumerate(c.turns))
        )
        for g, c in enumerate(group.completions)
    ]
    metrics = summarize([replace(group, completions=tuple(named))])
    kinds = {name: value for name, value in metrics.items() if name.startswith("turns/")}
    assert len(kinds) == SHOWN_KINDS + 1 and sum(kinds.values()) == pytest.approx(1)
    assert kinds["turns/often"] == pytest.approx(2 / 62) and kinds["turns/other"] == pytest.approx(41 / 62)


def test_a_benchmark_with_feedback_from_its_saved_rows() -> None:
    yes, no = Outcome.CORRECT, Outcome.WRONG
    saved = [json.loads(json.dumps(row)) for row in rows([episodes((1, yes), (2, yes)), episodes((2, no), (3, yes))])]
    assert [(r["correct"], r["solved"], len(r["turns"])) for r in saved] == [
        (True, True, 1),
        (False, True, 2),
        (False, False, 2),
        (False, True, 3),
    ]
    numbers = result_from_rows("b", 2, saved, ks=(1, 2)).metrics()
    expected = {"accuracy": 0.25, "pass@1": 0.25, "pass@2": 0.5, "solved": 0.75, "tries": 2.0, "maj@2": 0.75}
    assert {name: numbers[f"eval/b/{name}"] for name in expected} == pytest.approx(expected)
    assert all(describe(name) for name in numbers)


# --- a benchmark ---


def test_a_benchmark_from_its_rows() -> None:
    table = [row("4", True), row("8/2", True), row("5"), row(None), row("7"), row("7.0"), row("9", True), row(None)]
    result = result_from_rows("b", 4, table, ks=(1, 2, 4))
    numbers = result.numbers
    assert (result.questions, result.n, result.shares) == (2, 4, (0.5, 0.25))
    assert numbers["accuracy"] == 0.375 == pytest.approx(numbers["pass@1"])
    assert numbers["maj@1"] == pytest.approx(0.375)
    assert numbers["pass@2"] == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert numbers["maj@4"] == pytest.approx(0.5)  # 4 = 8/2 wins the first question, 7 = 7.0 the second
    assert numbers["accuracy_low"] <= 0.375 <= numbers["accuracy_high"]
    for name in result.metrics():
        assert describe(name)
    assert (
        shared_metrics([row(None)]).keys()
        == shared_metrics([row("x")]).keys()
        == shared_metrics(table).keys() - {"length_correct"}
    )


def test_guessing_stands_beside_the_accuracy_of_a_benchmark_where_it_is_known() -> None:
    table = [row("4", True), row("5"), row("6", True), row("7", True)]
    result = result_from_rows("b", 2, table, chances_P=[0.5, 0.0])
    assert (result.numbers["chance"], result.numbers["chance_p"]) == (0.25, 0.0)  # at most 2 of these are guessed
    both = [result, result_from_rows("c", 2, table, chances_P=[0.5, 0.5])]
    assert both[1].numbers["chance_p"] == pytest.approx(5 / 16)
    assert macro(both)["eval/macro/chance"] == 0.375 and "eval/macro/chance_p" not in macro(both)
    numbers = both[1].metrics()
    assert all(describe(name) for name in numbers)
    assert (
        "guessing" in (shown := printed(evaluation_table([("before", numbers)]), width=80))
        and "50.0 % (p 0.31)" in shown
    )
    assert "50.0 % (p 0.31)" in printed(benchmark_tables(numbers, 2, (), {}))
    without = result_from_rows("b", 2, table)
    assert not {"chance", "chance_p"} & without.numbers.keys()
    assert "guessing" not in printed(evaluation_table([("before", without.metrics())]))


@pytest.mark.parametrize(
    ("answers", "classes", "silent"),
    [
        ((("0.50", True), ("\\frac{1}{2}", True), ("$ 1/2 $", True)), [(3, 1.0)], 0),
        ((("x + 1", True), ("x+1", True), ("1+x", True)), [(2, 1.0), (1, 1.0)], 0),  # no algebra is done
        ((("", False), (None, False)), [(1, 0.0)], 1),
        ((("7" * 3000, False), ("7" * 3000, False)), [(2, 0.0)], 0),
    ],
)
def test_equal_answers_are_one_class(answers: Sequence[tuple[str | None, bool]], classes: Any, silent: int) -> None:
    assert votes([row(*pair) for pair in answers]) == (classes, silent)


def test_the_macro_average_is_a_plain_mean_of_what_all_have() -> None:
    a = result_from_rows("a", 1, [row("1", True)] * 8 + [row("2")] * 2)
    b = result_from_rows("b", 1, [row("1", tokens=30)] * 100)
    average = macro([a, b])
    assert average["eval/macro/accuracy"] == pytest.approx(0.4)
    assert average["eval/macro/length"] == pytest.approx(20.0)
    assert "eval/macro/length_correct" not in average  # b has no correct response
    assert 0.2 < average["eval/macro/accuracy_low"] < 0.4 < average["eval/macro/accuracy_high"] < 0.6
    assert macro([a]) == {name.replace("/a/", "/macro/"): value for name, value in a.metrics().items()}


# --- the file of a benchmark's answers ---


class Teller:
    """An engine whose answers follow from the prompt's key alone; it can be killed after some parts."""

    def __init__(self, parts: int = 1000) -> None:
        self.left, self.batch_sizes = parts, list[int]()

    def sync(self, weights: Any, version: int) -> None:
        raise AssertionError("an evaluation leaves the weights alone")

    @contextmanager
    def awake(self) -> Iterator[None]:
        yield

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.batch_sizes.append(len(prompts))
        texts = [[rf"\boxed{{{(p.key[-1] + i) % 3}}} \ud800" for i in range(n)] for p in prompts]
        return [[Completion((1,) * len(t), (0.0,) * len(t), t, True) for t in t_G] for t_G in texts]


class Words:
    bos_token_id = None
    all_special_tokens: tuple[str, ...] = ()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [len(word) for word in text.split()]


def worth(response: Response) -> float:
    return 1 / 3 if response.correct else 0.0


def bench(questions: int = 10, n: int = 2, answer: str = "1") -> Benchmark:
    rows_ = Rows([], [Question(f"What is {i}?", (answer,), f"q{i}") for i in range(questions)])
    question_set = QuestionSet("b", rows_, lambda answer, question: answer in question.answer)
    grader = Grader(last_boxed, question_set.check, question_set.extract_any, Reward({"worth": RewardTerm(worth)}))
    return Benchmark(question_set, grader, Sampling(max_tokens=64), n, None, seed=0)


TEMPLATE = Template("t", "{question}", last_boxed)


def in_parts(path: Path, engine: Any, benchmark: Benchmark, progress: list[tuple[int, int]] | None = None) -> Result:
    reports = [] if progress is None else progress
    return evaluate_in_parts(
        benchmark, TEMPLATE, Words(), engine, (1, 2), path, 6, lambda done, all_: reports.append((done, all_))
    )


def test_parts_give_what_the_whole_gives(tmp_path: Path) -> None:
    whole, progress, engine = evaluate(bench(), TEMPLATE, Words(), Teller(), (1, 2)), list[tuple[int, int]](), Teller()
    parts = in_parts(tmp_path / "b.jsonl", engine, bench(), progress)
    assert engine.batch_sizes == [3, 3, 3, 1]  # 6 answers at once, 2 of a question
    assert progress == [(3, 10), (6, 10), (9, 10), (10, 10)]
    assert (parts.metrics(), parts.rows, parts.shares) == (whole.metrics(), whole.rows, whole.shares)
    assert [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()] == list(whole.rows)


def test_wherever_it_is_cut_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    whole = in_parts(path, Teller(), bench())
    data = path.read_bytes()
    lines = [0, *(i + 1 for i, byte in enumerate(data) if byte == ord("\n"))]
    for cut in (0, 1, *(end + shift for end in lines[1:] for shift in (-1, 0, 5)), len(data)):
        path.write_bytes(data[:cut])
        engine = Teller()
        assert in_parts(path, engine, bench()) == whole, cut
        assert path.read_bytes() == data
        complete_parts = sum(end <= cut for end in lines[1:]) // 6 if cut < len(data) else 4
        assert len(engine.batch_sizes) == 4 - complete_parts


def test_a_killed_evaluation_keeps_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    with pytest.raises(KeyboardInterrupt):
        in_parts(path, Teller(parts=2), bench())
    assert len(path.read_text().splitlines()) == 12
    path.write_bytes(path.read_bytes() + b"\x00" * 100)  # what a power cut may leave
    engine = Teller()
    assert in_parts(path, engine, bench()) == in_parts(tmp_path / "other.jsonl", Teller(), bench())
    assert engine.batch_sizes == [3, 1]


@pytest.mark.parametrize(("other", "line"), [(bench(n=1), 2), (bench(questions=9), 19)])
def test_answers_to_other_questions_are_refused(tmp_path: Path, other: Benchmark, line: int) -> None:
    in_parts(tmp_path / "b.jsonl", Teller(), bench())
    with pytest.raises(InputError, match=rf"answers to other questions \(line {line}\)"):
        in_parts(tmp_path / "b.jsonl", Teller(), other)


# --- what is published ---


def our(**changes: Any) -> dict[str, Any]:
    return {"temperature": 0.0, "max_tokens": 3000, "n": 1} | changes


FIVE = ["aime24", "amc", "math500", "minerva", "olympiad_bench"]


def test_the_published_score_stands_beside_ours() -> None:
    published_figures = figures(PUBLISHED, "Qwen/Qwen2.5-Math-7B", "none", our(), FIVE)
    assert {name: round(100 * figure.score, 1) for name, figure in published_figures.items()} == {
        "aime24": 20.0, "amc": 45.8, "math500": 69.0, "minerva": 21.3, "olympiad_bench": 34.7, "macro": 38.2,
    }  # fmt: skip
    assert {figure.differs for figure in published_figures.values()} == {()}
    assert figures(PUBLISHED, "Qwen/Qwen2.5-Math-7B", "none", our(), ["math500", "gsm8k"]).keys() == {"math500"}
    assert figures(PUBLISHED, "zero/nano/base", "none", our(), FIVE) == {}


def test_the_source_with_the_nearest_protocol_is_taken() -> None:
    orz = "Open-Reasoner-Zero/Open-Reasoner-Zero-7B"
    assert figures(PUBLISHED, orz, "orz", our(), ["amc"])["amc"].score == pytest.approx(0.47)
    assert figures(PUBLISHED, orz, "orz", our(max_tokens=8000), ["amc"])["amc"].score == pytest.approx(0.542)
    assert figures(PUBLISHED, orz, "orz", our(), ["aime25"])["aime25"].score == pytest.approx(0.156)
    (figure,) = figures(PUBLISHED, "Qwen/Qwen2.5-Math-1.5B", "r1", our(temperature=1.0, n=8), ["amc"]).values()
    assert figure.differs == ("temperature 0, here 1", "n 1, here 8")


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_tables_are_consistent(name: str) -> None:
    table = PUBLISHED[name]
    known = {path.stem for path in (ROOT / "conf" / "questions").glob("*.yaml")} | {"macro"}
    templates = {path.stem for path in (ROOT / "conf" / "template").glob("*.yaml")} | {"*"}
    assert set(table["benchmarks"]) <= known
    for model, of_templates in table["scores"].items():
        assert of_templates.keys() <= templates, model
        for scores in of_templates.values():
            assert len(scores) == len(table["benchmarks"]), model
            *single, mean = scores
            if table["benchmarks"][-1] == "macro" and None not in single:  # a mistyped digit would show here
                assert sum(single) / len(single) == pytest.approx(mean, abs=0.11), model


# --- the printed tables ---


def printed(what: Any, width: int = 100) -> str:
    console = Console(width=width, highlight=False, force_terminal=False)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def test_tables_fit_their_width_and_show_only_what_happened() -> None:
    table = [row("1", True), row("2"), row(None), row("?", outcome="unparsed")] * 3
    results = [result_from_rows(name, 2, table, (1, 2)) for name in ("olympiad_bench", "nano_countdown")]
    numbers = {name: value for r in results for name, value in r.metrics().items()} | macro(results)
    text_of_tables = printed(benchmark_tables(numbers, 2, (1, 2), {"olympiad_bench": 0.347}))
    for text in (
        "avg@2",
        "published",
        "34.7 %",
        "pass@2",
        "maj@2",
        "unparsed",
        "macro average",
        "lenient",
        "incorrect",
    ):
        assert text in text_of_tables
    for text in ("timed out", "failed", "pass@1", "\u2026"):  # an ellipsis would be a cell that did not fit
        assert text not in text_of_tables
    assert "published" not in printed(benchmark_tables(numbers, 2, (1, 2), {}))
    before = printed(evaluation_table([("before", numbers), ("after 3 steps", numbers)]), width=80)
    assert before.count("unparsed") == 3 and "timed out" not in before and "lenient accuracy" in before
    steps = printed(steps_table({2: numbers, 4: numbers}))
    assert steps.count("25.0 %") == 6 and "macro average" in steps
