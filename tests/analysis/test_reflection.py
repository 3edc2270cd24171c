"""Reflection measured as a user measures it: real answers of the nano model, a stub as judge, tables of known numbers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.coverage import main as coverage
from analysis.reader.runs import read
from analysis.reflection import __main__ as reflection
from analysis.reflection import tables
from analysis.reflection.__main__ import is_setting, read_findings, responses_of, settings_of
from analysis.reflection.judge import Instruction
from tests.analysis.test_coverage import evaluation
from tests.analysis.test_judge import chat
from tests.analysis.test_runs import make
from tests.conftest import ROOT
from tests.integration.runs import train_here
from tests.rollout.stub_server import Say, serving
from zero.errors import InputError
from zero.reflection import KEYWORDS

SMALL = [
    "n=4",
    "sampling=default",
    "sampling.max_tokens=96",
    "benchmarks=heldout",
    "questions=nano_math",
    "questions.rows.train=64",
    "questions.rows.heldout=8",
]


def frame_of(*rows: tuple[str, str, bool], step: int = -1, temperature: float = 1.0) -> pd.DataFrame:
    """(question, response, correct) as responses."""
    seen: dict[str, int] = {}
    table = []
    for question, text, correct in rows:
        seen[question] = seen.get(question, -1) + 1
        row = {"step": step, "temperature": temperature, "benchmark": "b", "id": question, "sample": seen[question]}
        row |= {"question": question, "reference": "4", "text": text, "correct": correct, "outcome": "correct"}
        table.append(row | {"finished": True, "tokens": 3})
    return pd.DataFrame(table)


class Fake:
    """A judge whose label of a response is given by a function."""

    longest = 1000

    def __init__(self, **labels: Any) -> None:
        self.labels = labels

    def label(self, instruction: Instruction, texts: Any) -> list[int | None]:
        return [self.labels[instruction.name](text["response"]) for text in texts]


NAMED = {
    name: Instruction(name, "{response}", 1, 0.0, lambda r: None) for name in ("reflection", "answering", "behaviour")
}


# ---------------------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("pool=mine", "pool=mine: choose one of paper, oat_zero"),
        ("judge.ulr=x", "judge.ulr=x: no such setting; did you mean judge.url"),
        ("judge.url=ftp://x", "judge.url=ftp://x: must begin with http"),
        ("traces=x", "traces=x: must be a whole number"),
        ("n=0", "n=0: no such setting"),
    ],
)
def test_bad_input_is_one_line(typed: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reflection.main([str(tmp_path), typed]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_settings_are_told_from_folders_and_stores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a=1").mkdir()
    assert is_setting("pool=oat_zero") and is_setting("judge.url=http://x/v1")
    assert not is_setting(str(tmp_path / "a=1")) and not is_setting("sqlite:///a.db?x=1") and not is_setting("runs")
    assert reflection.main(["pool=paper"]) == 2
    assert capsys.readouterr().err == "error: FOLDER=none: give the folder of the evaluations to read\n"


def test_the_pools_are_the_published_ones(tmp_path: Path) -> None:
    pools = settings_of([], tmp_path)["pools"]
    assert tuple(pools["paper"]) == KEYWORDS
    assert pools["oat_zero"] == [
        "recheck",
        "rethink",
        "reevaluate",
        "re-evaluate",
        "reevaluation",
        "re-examine",
        "reexamine",
        "try again",
        "check again",
        "think again",
        "go over the steps",
    ]


def test_help_is_quick() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "analysis.reflection", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "pool=oat_zero" not in done.stderr and "judge.url=http" in done.stdout
    for module in ("torch", "pandas", "matplotlib", "numpy", "hydra"):
        assert f" {module}\n" not in done.stderr, module


# -------------------------------------------------------------------------------------------------------- the responses


def saved(place: Path, temperature: float, texts: Sequence[str], seed: int = 0, template: str = "none") -> Path:
    """An evaluation whose answers to one question are `texts`."""
    evaluation(place, temperature, [], seed=seed, template=template)
    row = {
        "id": "a",
        "question": "q",
        "reference": "1",
        "correct": True,
        "outcome": "correct",
        "tokens": 1,
        "finished": True,
    }
    (place / "completions_b.jsonl").write_text("".join(json.dumps(row | {"response": text}) + "\n" for text in texts))
    return place


def test_seeds_add_their_answers_and_the_same_one_does_not(tmp_path: Path) -> None:
    saved(tmp_path / "a", 1.0, ["x", "y"])
    saved(tmp_path / "again", 1.0, ["x", "y"])
    saved(tmp_path / "b", 1.0, ["z"], seed=1)
    saved(tmp_path / "cold", 0.5, ["w"])
    frame = responses_of(read(tmp_path))
    assert frame[["temperature", "text", "sample"]].to_numpy().tolist() == [
        [0.5, "w", 0],
        [1.0, "x", 0],
        [1.0, "y", 1],
        [1.0, "z", 2],
    ]
    assert (frame["step"] == -1).all() and (frame["benchmark"] == "b").all()


def test_damaged_answers_are_left_out_and_noted(tmp_path: Path) -> None:
    path = saved(tmp_path / "a", 1.0, ["x", "y"]) / "completions_b.jsonl"
    path.write_text('[]\n{"id": "a"}\n' + path.read_text() + '{"id": "a", "quest')
    runs = read(tmp_path)
    assert responses_of(runs)["text"].tolist() == ["x", "y"]
    notes = "; ".join(note.text for note in runs.notes)
    assert "1 saved answers lack a field" in notes and "2 lines damaged or half written" in notes


def test_two_models_are_not_taken_together(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no evaluation"):
        responses_of(read(make(tmp_path / "run", "grpo", 0, steps=2)))
    saved(tmp_path / "a", 1.0, ["x"])
    saved(tmp_path / "b", 1.0, ["x"], template="r1")
    with pytest.raises(InputError, match="these evaluations differ in template; give the folders of one model"):
        responses_of(read([tmp_path / "a", tmp_path / "b"]))


# ------------------------------------------------------------------------------------------------------------ the tables


def test_cross_detection_needs_both_and_a_question_any_response() -> None:
    frame = frame_of(
        ("p", "let me RECHECK", True),
        ("p", "hm, once more", False),
        ("p", "plain", False),
        ("q", "plain", True),
        ("q", "unread recheck", True),
        ("q", "unread", False),
        ("r", "I reconsider the books", True),
        ("r", "plain", True),
        ("r", "plain", True),
    )
    judge: Any = Fake(
        reflection=lambda t: None if "unread" in t else 2 if "more" in t or "RECHECK" in t else 1,
        answering=lambda t: None if t == "unread" else 0 if "books" in t else 1,
        behaviour=lambda t: 1,
    )
    result = tables.with_labels(frame, KEYWORDS, {}, judge, NAMED)
    assert result["keyword"].tolist() == [True, False, False, False, True, False, True, False, False]
    assert [str(value) for value in result["cross"]] == [
        "True",
        "False",
        "False",
        "False",
        "<NA>",
        "False",
        "False",
        "False",
        "False",
    ]
    rows = tables.detection(result).set_index("detector")
    assert rows["reflecting"].to_dict() == {"keyword": 3, "judge": 2, "cross": 1}
    assert rows["questions_reflecting"].to_dict() == {"keyword": 3, "judge": 1, "cross": 1}
    assert rows["unjudged"].to_dict() == {"keyword": 0, "judge": 2, "cross": 1}
    assert (rows["questions"] == 3).all() and rows.loc["judge", "share"] == pytest.approx(2 / 9)
    answers = tables.answers(result).iloc[0]
    assert answers["judged"] == 8 and answers["answering"] == pytest.approx(7 / 8)
    assert result["labeller"].tolist().count("judge") == 1  # behaviours are those of cross-detected responses
    counts = tables.keywords(result, KEYWORDS).set_index("keyword")
    assert counts.loc["recheck", ["responses", "occurrences"]].tolist() == [2, 2]
    assert counts["responses"].sum() == 3


def test_accuracy_with_and_without_is_compared_within_questions_and_temperatures() -> None:
    again = "check again"
    low = frame_of(
        ("p", again, True),
        ("p", "x", False),
        ("p", "x", True),
        ("q", again, False),
        ("q", "x", True),
        ("r", "x", True),
        temperature=0.5,
    )
    high = frame_of(("p", again, False), ("p", again, True), ("p", "x", True), ("q", again, True), temperature=1.0)
    result = tables.with_labels(pd.concat([low, high], ignore_index=True), KEYWORDS, {}, None, {})
    questions = tables.questions(result).set_index(["temperature", "id"])
    assert questions.loc[(0.5, "p"), ["with", "without"]].tolist() == [1, 2]
    assert questions.loc[(0.5, "p"), "difference"] == pytest.approx(0.5)
    assert math.isnan(questions.loc[(1.0, "q"), "difference"])  # nothing to compare with
    rows = tables.differences(tables.questions(result)).set_index("temperature")
    assert rows["with_both"].to_dict() == {0.5: 2, 1.0: 1, "all": 2}
    assert rows["questions"].to_dict() == {0.5: 3, 1.0: 2, "all": 3}
    assert rows.loc[0.5, "difference"] == pytest.approx((0.5 - 1) / 2)
    assert rows.loc["all", "difference"] == pytest.approx(((0.5 - 0.5) / 2 - 1) / 2)
    assert math.isnan(rows.loc[1.0, "low"]) and -1 < rows.loc[0.5, "low"] < -0.7 and 0.5 < rows.loc[0.5, "high"] < 1


def test_intervals_need_two_questions_and_have_width_at_0() -> None:
    assert all(map(math.isnan, tables.interval([0.5])))
    low, high = tables.interval([0.0] * 20)
    assert low == 0 and high > 0.1  # twenty questions without a reflection are not all questions


def test_responses_without_reflection_are_no_error(tmp_path: Path) -> None:
    instructions = settings_of([], tmp_path)["instructions"]
    findings = reflection.examine(frame_of(("p", "x", True)), KEYWORDS, {}, None, instructions, traces=0)
    assert "What reflection does:\nnone" in findings.text and "no effect of reflecting" in findings.text
    assert reflection.write(findings, tmp_path).read_text().count("no data") >= 2
    assert read_findings(tmp_path).text == findings.text
    with pytest.raises(InputError, match="holds no tables"):
        read_findings(tmp_path / "none")


# -------------------------------------------------------------------------------------------------------- real answers


def judging(body: Any) -> Say:
    """A judge that goes by keywords and knows no behaviours."""
    text = body["messages"][0]["content"]
    if "[Output]" in text:
        return chat("1: it tries")
    if "[Right answer]" in text:
        return chat("It is hard to say. 4")
    response = text.partition("[Response]")[2].lower()
    hit = any(keyword in response for keyword in ("recheck", "rethink", "check again"))
    return chat(f"Category {2 if hit else 1}.")


def evaluate(folder: Path, *settings: str) -> None:
    """Evaluations of a sweep by the command that a user types."""
    launcher = ("hydra/launcher=local", f"hydra.launcher.folder={folder}", "hydra.launcher.at_once=1")
    command = [sys.executable, "-m", "zero.evaluate", "-m", *launcher, *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_nano_model_over_temperatures_and_its_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(tmp_path / "heat", *SMALL, "sampling.temperature=0.5,1.0")
    places, out = [str(tmp_path / "heat")], tmp_path / "o=1"
    out.mkdir()
    assert coverage([*places, "--out", str(out)]) == 0
    table = pd.read_csv(out / "coverage.csv").set_index(["temperature", "k"])
    assert sorted(table.index) == [(t, k) for t in (0.5, 1.0) for k in (1, 2, 4)] and (table["questions"] == 8).all()
    results = [json.loads(path.read_text()) for path in (tmp_path / "heat").glob("*/result.json")]
    accuracies = sorted(result["evaluation"]["nano_math"]["eval/nano_math/accuracy"] for result in results)
    assert sorted(table.loc[[(0.5, 1), (1.0, 1)], "pass"]) == pytest.approx(accuracies)

    assert reflection.main([*places, "traces=40", "--out", str(out)]) == 0
    alone = read_findings(out)
    reflections = alone.tables["reflection"]
    assert reflections[["temperature", "responses", "questions"]].to_numpy().tolist() == [[0.5, 32, 8], [1.0, 32, 8]]
    assert reflections["reflecting"].sum() > 0  # planted
    behaviours = alone.tables["reflection_behaviours"]
    assert set(behaviours["labeller"]) == {"rule"} and behaviours["reflecting"].sum() == reflections["reflecting"].sum()
    labels = pd.read_csv(out / "reflection_labels.csv")
    rule = labels[labels["keyword"] & labels["correct"]]["behaviour"]
    assert rule.isin([0, 1, 2]).mean() > 0.8  # the grader ignores reflection: the answer is right in the end
    svg = (out / "reflection.svg").read_text()
    assert "<svg" in svg and "no data" not in svg
    assert "Who reflects" in capsys.readouterr().out
    with serving({"/chat/completions": judging}) as stub:
        typed = ["traces=40", f"judge.url={stub.url}", "judge.model=m"]
        both = reflection.reflection(places, typed, out)
        requests = len(stub.seen)
        again = reflection.reflection(places, typed, out)
        assert requests == len(stub.seen) > 40  # every reply was kept
    counts = both.tables["reflection"].pivot(index="temperature", columns="detector", values="reflecting")
    assert (counts["cross"] <= counts[["keyword", "judge"]].min(axis=1)).all() and counts["cross"].sum() > 0
    assert (both.tables["reflection_answers"]["answering"] == 1).all()
    right = both.tables["reflection_labellers"].set_index(["labeller", "truth"])["right"]
    assert right["judge", "circles"] == 1 and right["judge", "all"] == pytest.approx(0.2)
    assert right["rule", "all"] > 0.8 and 0 < right["cross", "reflects"] <= right["keyword", "reflects"]
    assert again.text == both.text == read_findings(out).text


@pytest.mark.slow
def test_a_run_before_training_against_its_checkpoints(tmp_path: Path) -> None:
    train_here(tmp_path / "run", "steps=4", "checkpoint.keep=9", "evaluation.every=4")
    evaluate(tmp_path / "answers", f"run={tmp_path / 'run'}", "step=0,all", "n=2")
    findings = reflection.reflection([str(tmp_path / "answers")], ["traces=0"], tmp_path)
    reflections = findings.tables["reflection"]
    assert sorted(set(reflections["step"])) == [0, 2, 4] and set(reflections["temperature"]) == {1.0}
    assert (reflections["responses"] == reflections["questions"] * 2).all()
    assert ">step<" in (tmp_path / "reflection.svg").read_text()
