"""python -m zero.questions.gym_generator: rows of reasoning-gym. A request as JSON on standard input, a row a line out.

A process of its own, started by zero/questions/gym.py with a fixed hash seed: some generators follow the order of sets, and some
draw from Python's or NumPy's global generator, which is seeded here before each row. A generator that finds no row within
its CPU seconds is killed by the kernel.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import dateutil.parser
import numpy as np
from reasoning_gym.arithmetic import time_intervals
from reasoning_gym.factory import CURRICULA, DATASETS

from zero.config.suggest import nearest
from zero.errors import InputError
from zero.questions import splits
from zero.questions.gym import ROW_S, VERSION, config_key
from zero.sandbox import values

CHUNK = 500  # rows of one data set of the package, its default; the next has the seed that follows the last row's
PATIENCE = 400  # rows in a row that bring nothing new, after which a set counts as exhausted
HELDOUT_BYTE = 16  # a question is held out if the first byte of its fingerprint is below this: 1 in 16
MEMORY = 8 << 30  # bytes of address space
OURS = ("seed", "size")  # settings of every set that are not settings of its difficulty
COMPOSITE = "composite"  # the package's own mixture
EXAMPLES = (
    "possible_answer",
    "example_answer",
    "example_correct_answer",
)  # in the metadata of sets with many right answers
_SCALARS = (bool, int, float, str)


class FixedDay(date):
    """A date whose today is always the same."""

    @classmethod
    def today(cls) -> FixedDay:
        return cls(2000, 1, 1)


def main() -> None:
    """Answer one request."""
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")  # whole lines, though it may be killed
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # generators print
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    request = json.load(sys.stdin)
    try:
        for row in rows(request):
            out.write(json.dumps(row) + "\n")
    except InputError as error:
        out.write(json.dumps({"error": [error.key, str(error.value), error.remedy]}) + "\n")


def rows(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of every set of a request, in its order. InputError for a set or a setting that does not exist."""
    # It draws times of today, and dateutil reads a time without a date as one of today: rows would be others every day
    time_intervals.date = FixedDay
    time_intervals.parser = SimpleNamespace(parse=partial(dateutil.parser.parse, default=datetime(2000, 1, 1)))
    sets = request["sets"]
    for each in sets:
        _check_name(each["name"])
    for each in sets:
        with _time_limit():
            make(each, 0, request["several"])
    for each in sets:
        yield {"set": each["name"]}
        yield from _rows_of_set(each, request)


def _check_name(name: str) -> None:
    if name == COMPOSITE:
        raise InputError("questions.gym.name", name, "is a mixture of others; name them: questions.gym.name=[a,b]")
    if name not in DATASETS:
        known = sorted(DATASETS.keys() - {COMPOSITE})
        hint = nearest(name, known)
        remedy = f"reasoning-gym {VERSION} has no such set{hint}; docs/gym.md lists all {len(known)}"
        raise InputError("questions.gym.name", name, remedy)


def make(each: Mapping[str, Any], seed: int, several: bool = False, size: int = CHUNK) -> Any:
    """The package's data set for {name, config, level}. InputError for a setting that it does not have, or refuses."""
    name, config, level = each["name"], dict(each["config"]), each["level"]
    key = config_key(name, several)
    dataset_class, config_class = DATASETS[name]
    fields = {field.name: field for field in dataclasses.fields(config_class) if field.name not in OURS}
    for setting, value in config.items():
        if setting in OURS:
            raise InputError(f"{key}.{setting}", value, "is no difficulty; set questions.gym.seed, .train and .heldout")
        if setting not in fields:
            has = f"{name} has {', '.join(fields)}" if fields else f"{name} has none"
            raise InputError(f"{key}.{setting}", value, f"no such setting{nearest(setting, list(fields))}; {has}")
    base = config_class() if level is None else _at_level(name, level)
    for setting, value in config.items():
        default = getattr(base, setting)
        if isinstance(default, _SCALARS) and not _fits(value, default):
            raise InputError(f"{key}.{setting}", value, f"must be of the kind of its default, {default}")
        if isinstance(default, list | tuple) and not isinstance(value, list | tuple):
            raise InputError(f"{key}.{setting}", value, f"must be a list, as its default is: {key}.{setting}=[a,b]")
        config[setting] = tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value
    _reseed(name, seed, "set")
    try:
        return dataset_class(dataclasses.replace(base, **config, seed=seed, size=size))
    except Exception as error:  # its own checks raise of every kind
        now = ", ".join(f"{setting}={config.get(setting, getattr(base, setting))}" for setting in fields)
        remedy = f"{name} refuses it ({type(error).__name__}: {error}); with {now}"
        raise InputError(key, json.dumps(config), remedy) from error


def _at_level(name: str, level: int) -> Any:
    """The config of a level of the set's own curriculum. InputError if it has none, or none so high."""
    if name not in CURRICULA:
        raise InputError(
            "questions.gym.level", level, f"{name} has no levels; null, and questions.gym.config.KEY=VALUE"
        )
    curriculum = CURRICULA[name]()
    highest = max(len(attribute.levels) for attribute in curriculum.attributes.values()) - 1
    if not 0 <= level <= highest:
        raise InputError("questions.gym.level", level, f"{name} has levels 0 to {highest}")
    curriculum.set_global_level(level)
    return curriculum.generate_configuration()


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, int | float if isinstance(default, float) else type(default))


def _rows_of_set(each: Mapping[str, Any], request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Distinct questions of one set until both splits are full or nothing new comes; at last what went wrong on the way."""
    name, seed = each["name"], request["seed"]
    wanted = {False: request["train"], True: request["heldout"]}
    known, misses, failures, first = set[str](), 0, 0, ""
    for index in itertools.count():
        if misses >= PATIENCE or not any(wanted.values()):
            break
        if index % CHUNK == 0:
            with _time_limit():
                dataset = make(each, seed + index, request["several"])
        misses += 1
        entry, problem = _entry(dataset, name, seed, index)
        if problem:
            failures, first = failures + 1, first or problem
            continue
        row = _row(name, entry)
        if wanted[row["heldout"]] and row["question"] not in known:
            known.add(row["question"])
            wanted[row["heldout"]] -= 1
            misses = 0
            yield row
    if not known:
        remedy = f"no row of {name} can be drawn{f' ({first})' if first else ''}; give it other settings"
        raise InputError(config_key(name, request["several"]), json.dumps(each["config"]), remedy)
    if failures:
        yield {"set": name, "note": f"{failures} rows could not be drawn, the first for {first}"}
    yield {"set": name, "end": True}


def _entry(dataset: Any, name: str, seed: int, index: int) -> tuple[dict[str, Any], str]:
    """Row `index` as the package has it, or why it could not be drawn."""
    _reseed(name, seed, index)
    try:
        with _time_limit():
            return dataset[index % CHUNK], ""
    except Exception as error:  # of every kind: "failed to generate a valid expression"
        return {}, f"{type(error).__name__}: {error}"


@contextmanager
def _time_limit() -> Iterator[None]:
    """The kernel kills this process if what is inside takes over ROW_S CPU seconds."""
    signal.setitimer(signal.ITIMER_PROF, ROW_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _reseed(name: str, seed: int, place: int | str) -> None:
    """The generators that all of Python and NumPy share, which some sets draw from."""
    random.seed(f"reasoning-gym/{name}/{seed}/{place}")
    np.random.seed(random.getrandbits(32))


def _row(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is sent: `entry` is all that its scorer reads, `answer` a reference as text, "" if the package gives none."""
    question, answer = str(entry["question"]), entry["answer"]
    content = json.dumps(values.encode([answer, plain(entry["metadata"])], _refuse))
    identity = hashlib.sha256("\0".join((name, question, content)).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    if answer is None or answer == "":
        answer = next((entry["metadata"][key] for key in EXAMPLES if key in entry["metadata"]), "")
    return {
        "set": name,
        "id": identity,
        "question": question,
        "answer": json.dumps(answer) if isinstance(answer, dict) else str(answer),
        "entry": content,
        "heldout": int(splits.fingerprint(question)[:2], 16) < HELDOUT_BYTE,
    }


def plain(value: Any) -> Any:
    """Metadata in Python's own types: NumPy's numbers and arrays are numbers and lists."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(plain(item) for item in value) if type(value) in (list, tuple, set, frozenset) else [
            plain(item) for item in value]  # fmt: skip
    return value


def _refuse(value: Any) -> int:
    raise TypeError(f"{type(value).__name__} cannot be kept")


if __name__ == "__main__":
    main()
