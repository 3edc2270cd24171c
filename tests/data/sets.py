"""Every published set as its option loads it, from local copies: `python -m tests.data.sets FOLDER`.

FOLDER holds train/*.jsonl and eval/*.jsonl. Counts are of the files named here; a file that is not there is reported and
skipped, a count that differs is an error.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from zero.config.check import check, instantiate
from zero.errors import InputError
from zero.questions import QuestionSet


@dataclass(frozen=True)
class Known:
    """What a file must give. `kept` counts questions of both splits, with every row that is left out gone."""

    file: str
    option: str  # of conf/questions
    usable: int  # two rows of MATH have no answer in these files
    repeated: int = 0  # rows that are another row's question
    leaks: int = 0  # rows that are a benchmark's questions
    refused: str = ""  # part of the message, for a file that must not load


@dataclass(frozen=True)
class Loaded:
    """One line of the table."""

    name: str
    file: str
    train: int
    heldout: int
    digest: str
    repeated: int
    leaks: int
    seconds: float
    notes: tuple[str, ...]


KNOWN = (
    Known("train/math_12k.jsonl", "math_12k", usable=11_985, repeated=9, leaks=4),
    Known("train/math_12k.jsonl", "math_lvl3to5", usable=8_877, repeated=5, leaks=4),
    Known("train/math_lvl3to5_8888.jsonl", "math_lvl3to5", usable=8_877, repeated=5, leaks=4),
    Known("train/gsm8k_train_7473.jsonl", "gsm8k", usable=7_473),
    Known("train/gsm8k_as_shipped_8792.jsonl", "gsm8k", usable=0, refused="questions of the gsm8k_test benchmark"),
    Known("train/asdiv_2k_1788.jsonl", "asdiv", usable=1_788),
    Known("train/asdiv_full_2305.jsonl", "asdiv", usable=2_091, repeated=1),
    Known("train/aime_1983_2023_975.jsonl", "aime_1983_2023", usable=969, leaks=6),
    Known("eval/aime24_30.jsonl", "aime24", usable=30),
    Known("eval/amc_83.jsonl", "amc", usable=83),
    Known("eval/amc23_40_qwen.jsonl", "amc23", usable=40),
    Known("eval/math500.jsonl", "math500", usable=500),
    Known("eval/minerva_272.jsonl", "minerva", usable=272),
    Known("eval/olympiad_bench_675.jsonl", "olympiad_bench", usable=675),
    Known("eval/gsm8k_test_1319.jsonl", "gsm8k_test", usable=1_319),
)


def table(folder: str | Path) -> list[Loaded]:
    """One row for each known file under the folder. AssertionError where a count differs from what is known."""
    present = [known for known in KNOWN if (Path(folder) / known.file).is_file()]
    return [line for known in present if (line := _load(Path(folder), known)) is not None]


def _load(folder: Path, known: Known) -> Loaded | None:
    overrides = [f"questions={known.option}", f"questions.path={(folder / known.file).resolve()}"]
    config = check("train", overrides)["questions"]
    began = time.monotonic()
    message = ""
    try:
        questions: QuestionSet = instantiate(config)
    except InputError as error:
        message = str(error)
    assert bool(message) == bool(known.refused) and known.refused in message, (
        f"{known.file}: {message or 'not refused'}"
    )
    if message:
        return None
    seconds = time.monotonic() - began
    rows = questions.rows
    repeated = sum(_count(note) for note in rows.notes if " repeated" in note)
    leaks = sum(_count(note) for note in rows.notes if note.startswith("dropped"))
    line = Loaded(
        questions.name,
        known.file,
        len(rows.train),
        len(rows.heldout),
        rows.digest,
        repeated,
        leaks,
        round(seconds, 2),
        tuple(rows.notes),
    )
    seen = (line.train + line.heldout, repeated, leaks)
    assert seen == (known.usable, known.repeated, known.leaks), f"{known.file}, {known.option}: {seen}, {rows.notes}"
    assert {q.id for q in rows.train}.isdisjoint(q.id for q in rows.heldout)
    return line


def _count(note: str) -> int:
    return int(next(word for word in note.split() if word.isdigit()))


def main(arguments: list[str]) -> int:
    """Print the table; 1 if there is nothing to read."""
    folder = Path(arguments[0]) if arguments else Path(".")
    for line in table(folder):
        print(f"{line.name:16} {line.file:36} train {line.train:6} heldout {line.heldout:5} {line.digest} ", end="")
        print(f"repeated {line.repeated} leaks {line.leaks} {line.seconds:.2f} s")
        for note in line.notes:
            print(f"{'':16} {note[:150]}")
    missing = [known.file for known in KNOWN if not (folder / known.file).is_file()]
    print(f"not there: {', '.join(dict.fromkeys(missing)) or 'none'}")
    return int(len(missing) == len(KNOWN))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
