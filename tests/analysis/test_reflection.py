"""Reflection measured as a user does: real answers of the nano model, a stub as judge, tables whose numbers are known."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.reflection import __main__ as reflection
from analysis.reflection import tables
from analysis.reflection.__main__ import plan_of, read_rows, stored, temperatures_of
from analysis.reflection.judge import Instruction
from tests.analysis.test_judge import chat
from tests.conftest import ROOT
from tests.integration.runs import train_here
from tests.rollout.stub_server import Say, serving
from zero.config.check import compose_config, instantiate
from zero.errors import Broken, InputError
from zero.reflection import KEYWORDS

SMALL = ["n=4", "questions.rows.train=64", "questions.rows.heldout=8", "sampling.max_tokens=96", "traces=40"]


def frame_of(*rows: tuple[str, str, bool], step: int = -1, temperature: float = 1.0) -> pd.DataFrame:
    """(question, response, correct) as responses."""
    seen: dict[str, int] = {}
    table = []
    for question, text, correct in rows:
        seen[question] = seen.get(question, -1) + 1
        table.append({
            "step": step, "temperature": temperature, "benchmark": "b", "id": question, "sample": seen[question],
            "question": question, "reference": "4", "text": text, "correct": correct, "outcome": "correct",
            "finished": True, "tokens": 3,
        })  # fmt: skip
    return pd.DataFrame(table)


class Fake:
    """A judge that says what a function says of a response."""

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
    ("text", "values"),
    [
        ("0.1,...,1.0", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ("0.2,0.4,...,1", [0.2, 0.4, 0.6, 0.8, 1.0]),
        ("[0.5, 1]", [0.5, 1.0]),
        ("1", [1.0]),
        ("0,...,3", [0, 1, 2, 3]),
        ("1.0,0.5,0.5", [0.5, 1.0]),
    ],
)
def test_temperatures(text: str, values: list[float]) -> None:
    assert temperatures_of(text) == values


@pytest.mark.parametrize(
    "text",
    ["", "x", "0.1,...", "...,1", "1,...,0.5", "0.1,0.2,...,0.55", "0.1,0.1,...,1", "nan", "-1", "inf", "1e-9,...,1",
     "0.1,...,0.5,1", "0.1;0.2", "101", "0.1,...,...,1", "1e999999999"],
)  # fmt: skip
def test_bad_temperatures_are_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"temperatures=.*: (must be numbers|at most)"):
        temperatures_of(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pool=mine"], "pool=mine: choose one of paper, oat_zero"),
        (["judge.ulr=x"], "judge.ulr=x: no such setting; did you mean judge.url"),
        (["judge.url=ftp://x"], "judge.url=ftp://x: must begin with http"),
        (["run_dir=x"], "run_dir=x: is set for each temperature; give out="),
        (["sampling.temperature=1"], "sampling.temperature=1: is set for each temperature; give temperatures="),
        (["modle=nano"], "modle=nano: no such setting"),
        (["model=nanno"], "model=nanno: no such option; did you mean nano"),
        (["traces=x"], "traces=x: must be a whole number"),
        (["--fast"], "command line=--fast: must be KEY=VALUE"),
        (["n=0"], "n=0: must be above 0"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        plan_of([*arguments, f"out={tmp_path}/x=y"])
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("*/answers"))


def test_a_model_gets_eight_samples_at_ten_temperatures_of_the_nano_questions(tmp_path: Path) -> None:
    plan = plan_of([f"out={tmp_path}/o"])
    assert plan.temperatures == [i / 10 for i in range(1, 11)] and plan.steps == []
    assert plan.asked == ["n=8", "sampling=default", "benchmarks=heldout", "questions=nano_math"]
    assert tuple(plan.own["pools"]["paper"]) == KEYWORDS
    assert plan.own["pools"]["oat_zero"] == [
        "recheck", "rethink", "reevaluate", "re-evaluate", "reevaluation", "re-examine", "reexamine", "try again",
        "check again", "think again", "go over the steps",
    ]  # fmt: skip


def test_help_is_quick_and_errors_leave_with_two(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "analysis.reflection", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "temperatures=0.1,...,1.0" in done.stdout and time.monotonic() - began < 20
    for module in ("torch", "pandas", "matplotlib", "numpy"):
        assert f" {module}\n" not in done.stderr, module
    bad = subprocess.run(
        [sys.executable, "-m", "analysis.reflection", "pool=x", f"out={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert bad.returncode == 2 and bad.stderr == "error: pool=x: choose one of paper, oat_zero\n"


# ------------------------------------------------------------------------------------------------------------ the tables


def test_cross_detection_needs_both_and_a_question_any_response() -> None:
    frame = frame_of(
        ("p", "let me RECHECK", True), ("p", "hm, once more", False), ("p", "plain", False),
        ("q", "plain", True), ("q", "unread recheck", True), ("q", "unread", False),
        ("r", "I reconsider the books", True), ("r", "plain", True), ("r", "plain", True),
    )  # fmt: skip
    judge: Any = Fake(
        reflection=lambda t: None if "unread" in t else 2 if "more" in t or "RECHECK" in t else 1,
        answering=lambda t: None if t == "unread" else 0 if "books" in t else 1,
        behaviour=lambda t: 1,
    )
    found = tables.labelled(frame, KEYWORDS, {}, judge, NAMED)
    assert found["keyword"].tolist() == [True, False, False, False, True, False, True, False, False]
    assert [str(value) for value in found["cross"]] == [
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
    rows = tables.detection(found).set_index("detector")
    assert rows["reflecting"].to_dict() == {"keyword": 3, "judge": 2, "cross": 1}
    assert rows["questions_reflecting"].to_dict() == {"keyword": 3, "judge": 1, "cross": 1}
    assert rows["unjudged"].to_dict() == {"keyword": 0, "judge": 2, "cross": 1}
    assert (rows["questions"] == 3).all() and rows.loc["judge", "share"] == pytest.approx(2 / 9)
    answers = tables.answers(found).iloc[0]
    assert answers["judged"] == 8 and answers["answering"] == pytest.approx(7 / 8)
    assert found["labeller"].tolist().count("judge") == 1  # behaviours are those of cross-detected responses
    counts = tables.keywords(found, KEYWORDS).set_index("keyword")
    assert counts.loc["recheck", ["responses", "occurrences"]].tolist() == [2, 2]
    assert counts["responses"].sum() == 3


def test_accuracy_with_and_without_is_compared_within_questions_and_temperatures() -> None:
    again = "check again"
    low = frame_of(
        ("p", again, True), ("p", "x", False), ("p", "x", True), ("q", again, False), ("q", "x", True), ("r", "x", True),
        temperature=0.5,
    )  # fmt: skip
    high = frame_of(("p", again, False), ("p", again, True), ("p", "x", True), ("q", again, True), temperature=1.0)
    found = tables.labelled(pd.concat([low, high], ignore_index=True), KEYWORDS, {}, None, {})
    questions = tables.questions(found).set_index(["temperature", "id"])
    assert questions.loc[(0.5, "p"), ["with", "without"]].tolist() == [1, 2]
    assert questions.loc[(0.5, "p"), "difference"] == pytest.approx(0.5)
    assert math.isnan(questions.loc[(1.0, "q"), "difference"])  # nothing to compare with
    rows = tables.differences(tables.questions(found)).set_index("temperature")
    assert rows["with_both"].to_dict() == {0.5: 2, 1.0: 1, "all": 2}
    assert rows["questions"].to_dict() == {0.5: 3, 1.0: 2, "all": 3}
    assert rows.loc[0.5, "difference"] == pytest.approx((0.5 - 1) / 2)
    assert rows.loc["all", "difference"] == pytest.approx(((0.5 - 0.5) / 2 - 1) / 2)
    assert math.isnan(rows.loc[1.0, "low"]) and -1 < rows.loc[0.5, "low"] < -0.7 and 0.5 < rows.loc[0.5, "high"] < 1


def test_intervals_need_two_questions_and_have_width_at_0() -> None:
    assert all(map(math.isnan, tables.interval([0.5])))
    low, high = tables.interval([0.0] * 20)
    assert low == 0 and high > 0.1  # twenty questions without a reflection are not all questions


def test_nothing_reflects_and_nothing_breaks(tmp_path: Path) -> None:
    own = instantiate(compose_config("reflection", [f"out={tmp_path}"]))
    found = reflection.examine(frame_of(("p", "x", True)), KEYWORDS, {}, None, own["instructions"], traces=0)
    assert "What reflection does:\nnone" in found.text and "no effect of reflecting" in found.text
    assert reflection.write(found, tmp_path).read_text().count("no data") >= 2
    assert stored(tmp_path).text == found.text
    with pytest.raises(InputError, match="holds no tables"):
        stored(tmp_path / "none")


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    row = '{"id": "a", "question": "q", "reference": "1", "response": "r", "correct": true, "outcome": "correct", ' \
        '"tokens": 1, "finished": true}'  # fmt: skip
    path = tmp_path / "completions_b.jsonl"
    path.write_text(f"{row}\n[]\n{row[:-5]}\n\n{row}\nnull\n")
    rows, bad = read_rows(path)
    assert [row["sample"] for row in rows] == [0, 1] and bad == 4
    assert rows[0]["benchmark"] == "b" and rows[0]["text"] == "r"


# -------------------------------------------------------------------------------------------------------- real answers


def judging(body: Any) -> Say:
    """By keywords, at the place where the right instruction wants it; of behaviours it knows nothing."""
    text = body["messages"][0]["content"]
    if "[Output]" in text:
        return chat("1: it tries")
    if "[Right answer]" in text:
        return chat("It is hard to say. 4")
    said = text.partition("[Response]")[2].lower()
    return chat(f"Category {2 if 'recheck' in said or 'rethink' in said or 'check again' in said else 1}.")


@pytest.mark.slow
def test_the_nano_model_over_temperatures_and_its_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o=1"
    arguments = [*SMALL, "temperatures=0.5,1", f"out={out}"]
    alone = reflection.run(arguments)
    who = alone.tables["reflection"]
    assert who[["temperature", "responses", "questions"]].to_numpy().tolist() == [[0.5, 32, 8], [1.0, 32, 8]]
    assert who["reflecting"].sum() > 0  # planted
    behaviours = alone.tables["reflection_behaviours"]
    assert set(behaviours["labeller"]) == {"rule"} and behaviours["reflecting"].sum() == who["reflecting"].sum()
    labels = pd.read_csv(out / "reflection_labels.csv")
    rule = labels[labels["keyword"] & labels["correct"]]["behaviour"]
    assert rule.isin([0, 1, 2]).mean() > 0.8  # the grader, who knows nothing of reflection: it ends right
    svg = (out / "reflection.svg").read_text()
    assert "<svg" in svg and "no data" not in svg
    assert "Who reflects" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in out.glob("answers/*/completions_*.jsonl")}
    with serving({"/chat/completions": judging}) as stub:
        both = reflection.run([*arguments, f"judge.url={stub.url}", "judge.model=m"])
        asked = len(stub.seen)
        with monkeypatch.context() as patch:
            patch.setattr(reflection, "answer", lambda plan: None)
            again = reflection.run([*arguments, f"judge.url={stub.url}", "judge.model=m"])
        assert asked == len(stub.seen) > 40  # everything was kept
    assert before == {path: path.read_bytes() for path in out.glob("answers/*/completions_*.jsonl")}
    counts = both.tables["reflection"].pivot(index="temperature", columns="detector", values="reflecting")
    assert (counts["cross"] <= counts[["keyword", "judge"]].min(axis=1)).all() and counts["cross"].sum() > 0
    assert (both.tables["reflection_answers"]["answering"] == 1).all()
    right = both.tables["reflection_labellers"].set_index(["labeller", "truth"])["right"]
    assert right["judge", "circles"] == 1 and right["judge", "all"] == pytest.approx(0.2)
    assert right["rule", "all"] > 0.8 and 0 < right["cross", "reflects"] <= right["keyword", "reflects"]
    assert again.text == both.text == stored(out).text
    with pytest.raises(Broken, match=r"other settings|holds a run|different"):
        reflection.run([*SMALL[1:], "n=3", "temperatures=0.5,1", f"out={out}"])


@pytest.mark.slow
def test_a_run_before_training_against_its_checkpoints(tmp_path: Path) -> None:
    train_here(tmp_path / "run", "steps=4", "checkpoint.keep=9", "evaluation.every=4")
    found = reflection.run([
        f"run={tmp_path / 'run'}", "step=all", f"out={tmp_path / 'o'}", "n=2", "traces=0",
    ])  # fmt: skip
    who = found.tables["reflection"]
    assert sorted(set(who["step"])) == [0, 2, 4] and set(who["temperature"]) == {1.0}
    assert (who["responses"] == who["questions"] * 2).all()
    assert (tmp_path / "o" / "answers" / "0" / "t1.0" / "step_000000").is_dir()
    assert ">step<" in (tmp_path / "o" / "reflection.svg").read_text()
