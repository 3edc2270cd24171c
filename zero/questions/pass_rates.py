"""Training rows chosen by a measured pass rate: `python -m zero.evaluate split=train sampling=default n=8` writes
pass_rates_NAME.json, and questions.where.path=FILE questions.where.low=0.1 questions.where.high=0.9 keeps the rows within.

{"questions": "nano_math", "n": 8, "rates": {ID: 0.375, ...}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zero.errors import InputError
from zero.questions import QuestionSet

KEY = "questions.where"
SETTINGS = ("path", "low", "high")


@dataclass(frozen=True)
class PassRates:
    """The rows whose pass rate in the file lies between `low` and `high`, both included."""

    path: str
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        for key, value in (("low", self.low), ("high", self.high)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(f"{KEY}.{key}", value, "must be a pass rate from 0 to 1")
        if self.low > self.high:
            raise InputError(f"{KEY}.low", self.low, f"is above {KEY}.high, which is {self.high}")

    def select(self, questions: QuestionSet) -> QuestionSet:
        """The set without the training rows of other pass rates; noted in its rows. Raises InputError."""
        name, rates = read(self.path)
        train = questions.rows.train
        unknown = {row.id for row in train if row.id not in rates}
        if len(unknown) == len(train):
            remedy = (
                f"holds pass rates of {name} and knows none of the {len(train)} training rows of {questions.name}; "
            )
            remedy += "measure these: python -m zero.evaluate benchmarks=heldout split=train sampling=default n=8 questions=..."
            raise InputError(f"{KEY}.path", self.path, remedy)
        outside = {row.id for row in train if row.id not in unknown and not self.low <= rates[row.id] <= self.high}
        if len(outside) + len(unknown) == len(train):
            remedy = (
                f"no training row of {questions.name} has a pass rate from {self.low} to {self.high}; widen the range"
            )
            raise InputError(KEY, self.path, remedy)
        note = f"left out {len(outside)} rows whose pass rates are not from {self.low} to {self.high}"
        note += f", and {len(unknown)} rows that {Path(self.path).name} does not know" if unknown else ""
        return questions.drop_rows(outside | unknown, note) if outside or unknown else questions


def split_condition(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], PassRates | None]:
    """The config of a question set without its condition on pass rates, and that condition. Conditions on columns, which are
    lists, stay. Raises InputError."""
    where = config.get("where")
    if not isinstance(where, Mapping):
        return config, None
    for key, value in where.items():
        if key not in SETTINGS and not isinstance(value, list):
            remedy = (
                "no such condition: path, low and high are of measured pass rates, COLUMN=[LOW,HIGH] is of a column"
            )
            raise InputError(f"{KEY}.{key}", value, remedy)
    given = {key: where[key] for key in SETTINGS if key in where and not isinstance(where[key], list)}
    if not given:
        return config, None
    if not isinstance(given.get("path"), str):
        raise InputError(
            f"{KEY}.path", given.get("path"), "is required: a pass_rates_NAME.json of python -m zero.evaluate"
        )
    columns = {key: value for key, value in where.items() if key not in given}
    others = {key: value for key, value in config.items() if key != "where"}
    return others | ({"where": columns} if columns else {}), PassRates(**given)


def read(path: str) -> tuple[str, dict[str, float]]:
    """The name of the set and the pass rates of its rows by id. Raises InputError."""
    try:
        table = json.loads(Path(path).expanduser().read_text())
        return str(table["questions"]), {str(row): float(rate) for row, rate in table["rates"].items()}
    except OSError as error:
        raise InputError(f"{KEY}.path", path, f"cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        remedy = "is no file of pass rates; python -m zero.evaluate split=train sampling=default n=8 writes pass_rates_NAME.json"
        raise InputError(f"{KEY}.path", path, remedy) from error
