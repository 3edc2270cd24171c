"""The named sets and benchmarks: how their rows are read, and that their options are complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from zero.config.check import check, instantiate
from zero.errors import InputError
from zero.questions import published, splits
from zero.questions.files import table
from zero.questions.splits import fingerprint

TRAINING = ("math_12k", "math_lvl3to5", "gsm8k", "asdiv", "orz_57k", "aime_1983_2023", "big_math")
TESTS = ("aime24", "aime25", "amc", "amc23", "math500", "minerva", "olympiad_bench", "gsm8k_test")
FORMS: list[tuple[Any, dict[str, Any], tuple[Any, Any] | None]] = [
    (published.gsm8k, {"question": "q", "answer": "5*9=<<5*9=45>>45\n#### 45"}, ("q", "45")),
    (published.gsm8k, {"problem": "q", "answer": "... #### 1,234,000"}, ("q", "1234000")),
    (published.gsm8k, {"problem": "q", "answer": " 72", "solution": "s"}, ("q", "72")),
    (published.gsm8k, {"problem": "q", "answer": "1,234"}, ("q", "1234")),
    (published.asdiv, {"problem": "q", "answer": "9 (apples)"}, ("q", "9")),
    (published.asdiv, {"problem": "q", "answer": "14  (seats)"}, ("q", "14")),
    (published.asdiv, {"problem": "q", "answer": "1/6"}, ("q", "1/6")),
    (published.asdiv, {"problem": "q", "answer": "-0.65"}, ("q", "-0.65")),
    (published.asdiv, {"problem": "q", "answer": "4 (boys); 5 (girls)"}, None),
    (published.asdiv, {"problem": "q", "answer": "yes"}, None),
    (
        published.orz,
        {"0": {"from": "human", "value": "q"}, "1": {"from": "assistant", "ground_truth": {"value": "\\pi"}}},
        ("q", "\\pi"),
    ),
    (published.orz, {"problem": "q", "answer": "a"}, ("q", "a")),
    (published.math, {"problem": "q", "level": "Level 4", "solution": "so \\boxed{\\frac12}."}, ("q", "\\frac12")),
    (published.math, {"problem": "q", "level": 4, "answer": "7", "solution": "\\boxed{8}"}, ("q", "7")),
    (published.math, {"problem": "q", "level": "Level ?", "solution": "none"}, ("q", None)),
]


@pytest.mark.parametrize(("read", "row", "expected"), FORMS)
def test_rows_of_published_files(read: Any, row: dict[str, Any], expected: tuple[Any, Any] | None) -> None:
    before = json.dumps(row)
    out = read(row)
    assert (out and (out["problem"], out["answer"])) == expected
    assert json.dumps(row) == before  # the row itself is not changed


def test_which_rows_the_row_functions_keep() -> None:
    assert published.gsm8k({"question": "q", "answer": "w #### 3"})["solution"] == "w #### 3"
    assert [published.math({"level": f"Level {x}", "answer": ""})["level"] for x in ("1", "5", "?")] == [1, 5, 0]
    for read in (published.gsm8k, published.orz, published.math, published.asdiv):
        with pytest.raises((LookupError, TypeError)):
            read({"text": "another set"})


@pytest.mark.parametrize("name", TRAINING)
def test_every_set_says_where_its_rows_lie(name: str) -> None:
    config = check("train", [f"questions={name}"])["questions"]
    assert config["name"] == name and config["path"] is None
    assert config["hub"]["id"].count("/") == 1 and config["hub"]["split"] == "train"
    assert 0 < config["heldout"] < 1 or config["heldout"] == 256
    assert config["check"]["_target_"] == "zero.grading.check_maths"


@pytest.mark.parametrize("name", TESTS)
def test_every_benchmark_is_one_set_held_out_whole(name: str) -> None:
    overrides = [f"benchmarks={name.removesuffix('_test')}", f"benchmarks.sets.{name}.path=FILE"]
    benchmark = check("evaluate", overrides)["benchmarks"]
    (config,) = benchmark["sets"].values()
    assert (config["name"], config["path"], config["heldout"]) == (name, "FILE", 1.0)
    assert (config["where"], config["limit"]) == (None, None) and benchmark["limit"] >= 1319
    assert config["hub"]["id"].count("/") == 1
    assert config["check"]["_target_"] == "zero.grading.check_maths"
    assert name in splits.benchmarks() or name == "aime25"  # aime25: its file was not available


def test_the_paper_is_five_benchmarks_from_one_folder(tmp_path: Path) -> None:
    files = {
        "aime24": "aime",
        "amc": "amc",
        "math500": "math",
        "minerva": "minerva",
        "olympiad_bench": "olympiad_bench",
    }
    for file in files.values():
        (tmp_path / f"{file}.jsonl").write_text(json.dumps({"problem": f"of {file}", "answer": ["9.6\n", 2.0]}) + "\n")
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"problem": "of another file", "answer": "025"}) + "\n")
    overrides = ["benchmarks=paper", f"benchmarks.folder={tmp_path}", f"benchmarks.sets.math500.path={other}"]
    sets = {k: instantiate(v) for k, v in check("evaluate", overrides)["benchmarks"]["sets"].items()}
    assert list(sets) == list(files)
    texts = {key: [(q.text, q.answer) for q in questions.rows.heldout] for key, questions in sets.items()}
    expected = {key: [(f"of {file}", ("9.6", "2"))] for key, file in files.items()}
    assert texts == {**expected, "math500": [("of another file", ("025",))]}


def test_levels_three_to_five(tmp_path: Path) -> None:
    path = tmp_path / "math.jsonl"
    rows = [{"problem": f"q{i}", "level": f"Level {i}", "solution": f"\\boxed{{{i}}}"} for i in range(1, 6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["questions=math_lvl3to5", f"questions.path={path}", "questions.heldout=0"]
    questions = instantiate(check("train", overrides)["questions"])
    assert [(q.text, q.answer, q.meta["level"]) for q in questions.rows.train] == [
        (f"q{i}", (str(i),), i) for i in (3, 4, 5)
    ]


def test_years_up_to_2023(tmp_path: Path) -> None:
    path = tmp_path / "aime.jsonl"
    path.write_text(
        "".join(json.dumps({"problem": f"q{y}", "answer": 5, "year": y}) + "\n" for y in (1983, 2023, 2024))
    )
    overrides = ["questions=aime_1983_2023", f"questions.path={path}", "questions.heldout=0"]
    questions = instantiate(check("train", overrides)["questions"])
    assert [q.text for q in questions.rows.train] == ["q1983", "q2023"]


def test_gsm8k_with_its_test_questions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """7,473 + 1,319 rows, as one published copy has them; texts are made up, and so are the fingerprints."""
    tested = frozenset(fingerprint(f"tested {i}") for i in range(1319))
    monkeypatch.setattr(splits, "benchmarks", lambda: {"gsm8k_test": tested})
    texts = [f"trained {i}" for i in range(7473)] + [f"tested {i}" for i in range(1319)]
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(json.dumps({"problem": text, "answer": "1,234"}) + "\n" for text in texts))
    overrides = ["questions=gsm8k", f"questions.path={path}"]
    with pytest.raises(InputError) as error:
        instantiate(check("train", overrides)["questions"])
    assert str(error.value) == (
        f"questions.path={path}: contains 1319 of the 1319 questions of the gsm8k_test benchmark; "
        "take a clean training file, or leave them out: questions.leaks=drop"
    )
    rows = instantiate(check("train", [*overrides, "questions.leaks=drop"])["questions"]).rows
    assert len(rows.train) + len(rows.heldout) == 7473 and rows.train[0].answer == ("1234",)


def test_files_of_another_set_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "q", "label": 1}\n')
    with pytest.raises(InputError, match=r"questions\.row=gsm8k: cannot read line 1 .* is this a file of that set"):
        table(str(path), row=published.gsm8k)


def test_every_option_opens_with_what_it_is_and_can_be_read() -> None:
    for name in (*TRAINING, *TESTS, "file", "hub"):
        lines = (ROOT / "conf" / "questions" / f"{name}.yaml").read_text().splitlines()
        assert lines[0].startswith("# "), name
        assert all(len(line) <= 132 or "_target_" in line for line in lines), name


def test_responses_of_a_stronger_model(tmp_path: Path) -> None:
    """open-r1's two formats, and rows that are left out: wrong generations, and a response without an answer."""
    talk = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "hm"},
        {"role": "user", "content": "So?"},
        {"role": "assistant", "content": "It is \\boxed{4}."},
    ]
    raw = [
        {
            "problem": "1+1?",
            "answer": "2",
            "solution": "s",
            "generations": ["a 2", "b 3", "c 2"],
            "correctness_math_verify": [True, False, True],
        },
        {"messages": talk},
        {"problem": "3+3?", "answer": "6", "generations": ["7"], "correctness_math_verify": [False]},
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in raw))
    loaded = instantiate(check("train", ["questions=distilled", f"questions.path={path}"])["questions"])
    contents = {(q.text, q.answer, q.solution, q.more) for q in (*loaded.rows.train, *loaded.rows.heldout)}
    assert contents == {("1+1?", ("2",), "a 2", ("c 2",)), ("2+2?", ("4",), "It is \\boxed{4}.", ())}
    path.write_text('{"text": "x"}\n')
    with pytest.raises(InputError, match=r"questions\.row=distilled: cannot read line 1"):
        instantiate(check("train", ["questions=distilled", f"questions.path={path}"])["questions"])
