"""Question sets of reasoning-gym (an extra, `gym`): which rows, drawn by zero/questions/gym_generator.py in another process.

The rows are those of `reasoning_gym.create_dataset(NAME, seed=SEED, size=500, ...)`, and then of the seeds that follow, without
repetitions. They are the same on every machine and whatever PYTHONHASHSEED is, which six of the package's sets are not. A row's
id is a hash of all that its scorer reads, so that a set's digest, which a run keeps, covers it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from zero.errors import InputError
from zero.questions import Rows, row_cache
from zero.records import Question

ROW_S = 60.0  # CPU seconds within which a generator must draw a row
REPORT_S = 20.0  # seconds between two lines about rows that take long to draw
MOST = 1_000_000  # rows of a set: they are held in memory
VERSION = "0.1.25"  # of the package: pyproject.toml demands it exactly, since another draws other rows


def gym_rows(
    name: str | Sequence[str], config: Mapping[str, Any], level: int | None, train: int, heldout: int, seed: int
) -> dict[str, Rows]:
    """The rows of each set that `name` names: at most `train` and `heldout` distinct questions, fewer where there are no more.

    config  the set's own difficulty settings; where `name` is a list, those of each set by its name
    level   of each set's own curriculum, below the settings of `config`; None: the package's defaults
    seed    of the rows, as the package has it

    Raises InputError.
    """
    return _rows(json.dumps(request_for(name, config, level, train, heldout, seed)))


def request_for(
    name: str | Sequence[str], config: Mapping[str, Any], level: int | None, train: int, heldout: int, seed: int
) -> dict[str, Any]:
    """What the generator is asked for `gym_rows`. InputError for what needs no generator to be refused."""
    several = isinstance(name, Sequence) and not isinstance(name, str)
    names: list[Any] = list(name) if several else [name]
    if not names or not all(isinstance(each, str) and each for each in names):
        raise InputError("questions.gym.name", name, "must name a set, or several: questions.gym.name=[a,b]")
    if len(set(names)) < len(names):
        raise InputError("questions.gym.name", _listed(names), "names a set twice; name each once")
    for key, count in (("train", train), ("heldout", heldout)):
        if type(count) is not int or not 0 <= count <= MOST or (train, heldout) == (0, 0):
            raise InputError(
                f"questions.gym.{key}",
                count,
                f"must be a whole number from 0 to {MOST}; train and heldout must not both be 0",
            )
    if level is not None and type(level) is not int:
        raise InputError(
            "questions.gym.level", level, "must be a whole number, 0 the easiest; null: the package's defaults"
        )
    if not 0 <= seed < 2**31:
        raise InputError("questions.gym.seed", seed, "must lie between 0 and 2147483647, for NumPy")
    configs = {each: config.get(each) or {} for each in names} if several else {names[0]: config}
    for each, settings in (config if several else configs).items():
        if each not in names:
            remedy = f"names none of the sets; with several, the settings of a set are config.SET.KEY: {_listed(names)}"
            raise InputError(f"questions.gym.config.{each}", json.dumps(settings), remedy)
        if not isinstance(settings, Mapping):
            raise InputError(config_key(each, several), settings, "must be a mapping of the set's settings")
    sets = [{"name": each, "config": configs[each], "level": level} for each in names]
    return {"sets": sets, "several": several, "train": train, "heldout": heldout, "seed": seed}


def config_key(name: str, several: bool) -> str:
    """The setting that holds a set's own settings."""
    return f"questions.gym.config.{name}" if several else "questions.gym.config"


def _listed(names: Sequence[str]) -> str:
    return f"[{','.join(names)}]"


@lru_cache(maxsize=8)  # the cells of a multirun share theirs
def _rows(request: str) -> dict[str, Rows]:
    """The rows of a request, from the cache as far as it has them. InputError if the generator refuses, is killed or dies."""
    return collected(json.loads(request), _from_cache_or_generator(json.loads(request)))


def _from_cache_or_generator(request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What the generator sends for a request. A set that it has finished is kept, whatever becomes of the others."""
    files = {each["name"]: cache_file(each, request) for each in request["sets"]}
    missing = []
    for each in request["sets"]:
        stored = row_cache.load(files[each["name"]])
        if stored is None:
            missing.append(each)
        else:
            yield from stored
    rows: list[Mapping[str, Any]] = []
    for row in draw({**request, "sets": missing}) if missing else ():
        yield row
        rows.append(row)
        if row.get("end"):
            row_cache.store(files[row["set"]], rows)
            rows = []


def cache_file(each: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    """The name of a set's rows in the cache: a hash of all that decides them."""
    sources = [Path(__file__).with_name(name).read_text() for name in ("gym_generator.py", "splits.py")]
    versions = [version(package) for package in ("reasoning-gym", "numpy", "sympy")]
    counts = [request[key] for key in ("train", "heldout", "seed")]
    key = json.dumps([each, counts, versions, sys.version_info[:2], sources], sort_keys=True)
    return f"gym-{each['name']}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.jsonl"


def draw(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a generator, a process of its own, sends for a request, and at last why it died, if it did."""
    python_path = os.pathsep.join(path or os.getcwd() for path in sys.path)  # the same modules as here
    environment = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path}
    command = [sys.executable, "-m", "zero.questions.gym_generator"]
    with (
        TemporaryFile() as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
        ) as process,
    ):
        try:
            yield from _reporting(_replies(process, json.dumps(request), errors))
            process.wait()
        finally:
            process.kill()  # nothing, once it has ended


def _reporting(replies: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same, with a line for the user now and then where it takes long."""
    count, spoken = 0, time.monotonic()
    for row in replies:
        yield row
        count = count + 1 if "question" in row else 0
        if time.monotonic() - spoken > REPORT_S:
            spoken = time.monotonic()
            print(f"{row.get('set')}: {count} rows drawn", file=sys.stderr, flush=True)


def collected(request: Mapping[str, Any], replies: Iterable[Mapping[str, Any]]) -> dict[str, Rows]:
    """The rows of each set of a request, from what the generator sends. InputError if that is an error."""
    sets = {each["name"]: each for each in request["sets"]}
    train: dict[str, list[Question]] = {name: [] for name in sets}
    heldout: dict[str, list[Question]] = {name: [] for name in sets}
    notes: dict[str, list[str]] = {name: [] for name in sets}
    name = next(iter(sets))  # at work
    for row in replies:
        if "error" in row:
            raise InputError(*row["error"])
        if "died" in row:
            rows = len(train[name]) + len(heldout[name])
            raise InputError("questions.gym.name", name, f"{row['died']}, after {rows} rows{row['remedy']}")
        name = row["set"]
        if "note" in row:
            notes[name].append(row["note"])
        elif "question" in row:
            (heldout if row["heldout"] else train)[name].append(question_of(row, sets[name]))
    return {name: Rows(train[name], heldout[name], tuple(notes[name])) for name in sets}


def _replies(process: subprocess.Popen[str], request: str, errors: IO[bytes]) -> Iterator[dict[str, Any]]:
    """What the generator sends until it ends, and at last why it died, if it did."""
    assert process.stdin and process.stdout
    with suppress(BrokenPipeError):  # it died; its status says of what
        process.stdin.write(request)
        process.stdin.close()
    for line in process.stdout:
        if line.endswith("\n"):  # else it was killed while it wrote
            yield json.loads(line)
    status = process.wait()
    if status == -signal.SIGPROF:
        died = f"drew no row for {ROW_S:.0f} CPU seconds"
        yield {"died": died, "remedy": "; give it easier settings, or leave it out"}
    elif status:
        errors.seek(0)
        last_words = errors.read().decode(errors="replace").strip().splitlines()
        yield {"died": f"its generator died ({last_words[-1] if last_words else f'status {status}'})", "remedy": ""}


def question_of(row: Mapping[str, Any], settings: Mapping[str, Any]) -> Question:
    """A row that the generator sent, for {name, config, level}."""
    meta = {"gym": settings["name"], "config": settings["config"], "level": settings["level"], "entry": row["entry"]}
    identity = f"{settings['name']}-{row['id']}"
    return Question(row["question"], (row["answer"],), identity, row["answer"], meta)
