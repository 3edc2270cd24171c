"""The question sets of a run, loaded before torch: the one to train on, those of its benchmarks; whether files have changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from zero import run_folder
from zero.config import check as configs
from zero.errors import InputError
from zero.questions import QuestionSet, refuse_namesakes
from zero.records import Question


def load_questions(config: Mapping[str, Any], run_dir: Path) -> dict[str, QuestionSet]:
    """The set to train on (first) and those of the benchmarks, by their config; what is in both leaves the training rows.

    InputError if a set cannot be loaded, nothing is left to train on, or the files changed since the run began.
    """
    training = as_key(config["questions"])
    sets = {training: configs.instantiate(config["questions"], "questions")}
    sets |= {
        as_key(b): configs.benchmark_set(k, b) for k, b in config["benchmarks"]["sets"].items() if as_key(b) not in sets
    }
    refuse_namesakes(sets[as_key(b)] for b in config["benchmarks"]["sets"].values())
    tested: dict[str, list[Question]] = {}
    for held in sets.values():  # the training set may be a benchmark's too, with other rows
        tested.setdefault(held.name, []).extend(held.rows.heldout)
    everything = sets[training].rows.train
    sets[training] = questions = sets[training].without(tested)
    if not questions.rows.train:
        why = "each of its questions is tested, too" if everything else questions.rows.whereabouts()
        remedy = "other benchmarks, or other questions" if everything else "a lower heldout, or more questions"
        raise InputError("questions", questions.name, f"holds no question to train on: {why}; give it {remedy}")
    known = run_dir / run_folder.QUESTIONS
    before = run_folder.read_yaml(known, ("training", "tested")) if known.exists() else None
    if before is not None and before != manifest(sets):
        old, new = ([m["training"], *m["tested"]] for m in (before, manifest(sets)))
        changed = [b["name"] for a, b in zip_longest(old, new, fillvalue={"name": "?"}) if a != b]
        remedy = f"its question files have changed since ({', '.join(changed)}); restore them or choose another run_dir"
        raise InputError("run_dir", run_dir, remedy)
    return sets


def load_benchmarks(config: Mapping[str, Any]) -> dict[str, QuestionSet]:
    """The question sets of an evaluation's benchmarks, by their config."""
    entries = config["benchmarks"]["sets"]
    for name, entry in entries.items():
        if entry is None:
            remedy = (
                "takes the held-out rows of a question set: name one (questions=...) or a training run (run=FOLDER)"
            )
            raise InputError(f"benchmarks.sets.{name}", "null", remedy)
    sets = {as_key(entry): configs.benchmark_set(name, entry) for name, entry in entries.items()}
    refuse_namesakes(sets.values())
    return sets


def manifest(sets: Mapping[str, QuestionSet]) -> dict[str, Any]:
    """Name, size and content hash of the set trained on and of those that are only tested on."""
    entries = [
        {"name": s.name, "train": len(s.rows.train), "heldout": len(s.rows.heldout), "digest": s.rows.digest}
        for s in sets.values()
    ]
    return {"training": entries[0], "tested": entries[1:]}


def as_key(config: Any) -> str:
    """Equal configs, equal keys."""
    return json.dumps(config, sort_keys=True)
