"""Load a run's question sets, before torch: the training set and those of the benchmarks; refuse files that have changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from zero import run_folder
from zero.config import check as configs
from zero.errors import InputError
from zero.files import read_json
from zero.prompt_text import check_marks
from zero.questions import QuestionSet, Rows, refuse_namesakes
from zero.questions.pass_rates import split_condition
from zero.records import Question


def load_questions(config: Mapping[str, Any], run_dir: Path) -> dict[str, QuestionSet]:
    """The training set (first) and those of the benchmarks, by config; questions of the benchmarks are removed from the
    training rows.

    InputError if a set cannot be loaded, nothing is left to train on, or the files have changed since the run started.
    """
    training = as_key(config["questions"])
    plain, pass_rates = split_condition(config["questions"])
    sets = {training: configs.instantiate(plain, "questions")}
    sets |= {as_key(b): benchmark_set(k, b) for k, b in config["benchmarks"]["sets"].items() if as_key(b) not in sets}
    refuse_namesakes(sets[as_key(b)] for b in config["benchmarks"]["sets"].values())
    tested: dict[str, list[Question]] = {}
    for question_set in sets.values():  # the training set may be a benchmark's too, with other rows
        tested.setdefault(question_set.name, []).extend(question_set.rows.heldout)
    if pass_rates:
        sets[training] = pass_rates.select(sets[training])
    had_rows = bool(sets[training].rows.train)
    refuse_images(sets.values(), config["model"])
    sets[training] = questions = sets[training].drop_tested(tested)
    if not questions.rows.train:
        why = "each of its questions is tested, too" if had_rows else questions.rows.whereabouts()
        remedy = "other benchmarks, or other questions" if had_rows else "a lower heldout, or more questions"
        raise InputError("questions", questions.name, f"holds no question to train on: {why}; give it {remedy}")
    path = run_dir / run_folder.QUESTIONS
    stored = run_folder.read_yaml(path, ("training", "tested")) if path.exists() else None
    if stored is not None and stored != manifest(sets):
        old, new = ([m["training"], *m["tested"]] for m in (stored, manifest(sets)))
        changed = [b["name"] for a, b in zip_longest(old, new, fillvalue={"name": "?"}) if a != b]
        remedy = f"its question files have changed since ({', '.join(changed)}); restore them or choose another name or run_dir"
        raise InputError("run_dir", run_dir, remedy)
    return sets


def load_benchmarks(config: Mapping[str, Any]) -> dict[str, QuestionSet]:
    """The question sets of an evaluation's benchmarks, by config (see `as_key`)."""
    entries = config["benchmarks"]["sets"]
    if not entries:
        raise InputError("benchmarks.sets", "{}", "holds no question set to answer; name one: benchmarks=NAME")
    for name, entry in entries.items():
        if entry is None:
            remedy = (
                "takes the held-out rows of a question set: name one (questions=...) or a training run (run=FOLDER)"
            )
            raise InputError(f"benchmarks.sets.{name}", "null", remedy)
    sets = {as_key(entry): benchmark_set(name, entry) for name, entry in entries.items()}
    refuse_images(sets.values(), config["model"])
    if config["split"] == "train":
        sets = {key: with_training_rows_tested(questions) for key, questions in sets.items()}
    refuse_namesakes(sets.values())
    return sets


def refuse_images(sets: Iterable[QuestionSet], model: Mapping[str, Any], sees: bool | None = None) -> None:
    """InputError if a question has an image, and the model does not see. `sees` is None before it is loaded: then its folder says
    whether it does, if it is one."""
    for questions in sets:
        if not questions.rows.have_images:
            continue
        for row in (*questions.rows.train, *questions.rows.heldout):
            check_marks(row)
        if sees is None:
            path = Path(configs.model_folder(model["path"])) / "config.json"
            sees = "vision_config" in read_json(path) if path.is_file() else True
        if not sees:
            remedy = f"its rows have images (questions.images), and model {model['path']} reads text alone; take other questions"
            raise InputError("questions", questions.name, f"{remedy}, or a model that sees")


def benchmark_set(key: str, config: Any) -> Any:
    """The question set benchmarks.sets.KEY; its InputErrors name settings by that prefix."""
    prefix = f"benchmarks.sets.{key}"
    try:
        return configs.instantiate(split_condition(config)[0], prefix)  # a condition is about training rows
    except InputError as error:
        if error.key.startswith(prefix):
            raise
        remedy = error.remedy.replace("questions.", f"{prefix}.")
        raise InputError(error.key.replace("questions", prefix, 1), error.value, remedy) from error


def with_training_rows_tested(questions: QuestionSet) -> QuestionSet:
    """The set as a benchmark of its training rows."""
    if not questions.rows.train:
        raise InputError("split", "train", f"{questions.name} has no training rows: it is a benchmark")
    return replace(questions, rows=Rows((), questions.rows.train, questions.rows.notes))


def manifest(sets: Mapping[str, QuestionSet]) -> dict[str, Any]:
    """Name, size and content hash of the training set and of the benchmarks' other sets."""
    entries = [
        {"name": s.name, "train": len(s.rows.train), "heldout": len(s.rows.heldout), "digest": s.rows.digest}
        for s in sets.values()
    ]
    return {"training": entries[0], "tested": entries[1:]}


def as_key(config: Any) -> str:
    """A config as a dictionary key: equal for equal configs."""
    return json.dumps(config, sort_keys=True)
