"""Does a model reflect on its answers, before and after training, and does it help?

    python -m zero.evaluate -m hydra/launcher=local hydra.launcher.name=heat n=8 sampling=default sampling.temperature=0.2,0.6,1.0
    python -m analysis.reflection runs/sweeps/heat
    python -m analysis.reflection FOLDER judge.url=http://HOST/v1     with a language model as judge beside the keywords

FOLDER holds evaluations of one model, or of the checkpoints of one run, at one or several temperatures. KEY=VALUE words are
settings of conf/reflection.yaml. The judge's replies are kept, so that the same command goes on after a kill. It prints a
summary and writes into the first FOLDER (--out elsewhere):

    reflection.svg, .pdf, .csv        the figure; who reflects, by keywords, judge, both (cross): responses, questions
    reflection_answers.csv            accuracy, and which share of responses answers at all
    reflection_keywords.csv           which keywords
    reflection_differences.csv        accuracy with and without reflection, within questions;  reflection_questions.csv: of each
    reflection_behaviours.csv         what reflection does to the answer, and how much of it is superficial
    reflection_labellers.csv          how right the detectors and labellers are on traces whose truth is known
    reflection_labels.csv             the labels of every response
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.reader.records import Note
from analysis.style import save
from zero.episode_metrics import policy_texts
from zero.errors import InputError
from zero.files import read_regular
from zero.paths import CONF

if TYPE_CHECKING:  # --help and bad input are answered without them
    from pandas import DataFrame

    from analysis.cli import Finding
    from analysis.reader.records import Run, Runs
    from analysis.reflection.judge import Instruction, Judge

UNTRAINED = -1  # step of a model that no run of ours trained
TEMPERATURE = "sampling.temperature"
MOST_TRACES = 100_000
TABLES = (
    "reflection",
    "reflection_answers",
    "reflection_keywords",
    "reflection_questions",
    "reflection_differences",
    "reflection_behaviours",
    "reflection_labellers",
    "reflection_labels",
)


@dataclass(frozen=True)
class Findings:
    """`tables` by the name of their file; `notes`: what was left out."""

    tables: Mapping[str, DataFrame]
    text: str
    notes: Sequence[str] = field(default=())


# ------------------------------------------------------------------------------------------------------ the command line


def is_setting(word: str) -> bool:
    """Whether an argument is KEY=VALUE, and neither a folder that exists nor the uri of an MLflow store."""
    return "=" in word and "://" not in word.partition("=")[0] and not Path(word).expanduser().exists()


def settings_of(typed: Sequence[str], folder: Path) -> dict[str, Any]:
    """The settings of conf/reflection.yaml with what was typed, built; the judge's replies are kept in `folder` unless
    judge.cache says otherwise. Raises InputError."""
    from zero.config.check import compose_config, instantiate, quoted

    words = [quoted(word) for word in typed]
    if not any(word.startswith("judge.cache=") for word in words):
        words.append(quoted(f"judge.cache={folder / 'judge.jsonl'}"))
    built: dict[str, Any] = dict(instantiate(compose_config("reflection", words)))
    if built["pool"] not in built["pools"]:
        raise InputError("pool", built["pool"], f"choose one of {', '.join(built['pools'])}")
    traces = built["traces"]
    if isinstance(traces, bool) or not isinstance(traces, int) or not 0 <= traces <= MOST_TRACES:
        raise InputError("traces", traces, f"must be a whole number from 0 to {MOST_TRACES}")
    return built


# ---------------------------------------------------------------------------------------------------------- the responses


def responses_of(runs: Runs) -> DataFrame:
    """All responses of the evaluations among `runs`; the same seed at the same temperature counts once. What is left out is
    noted in `runs`. InputError if there is none, and if they are of several models."""
    import pandas as pd

    from analysis.coverage import axes_apart, no_evaluation

    if not runs.evaluated:
        raise no_evaluation(runs)
    if apart := axes_apart(runs.evaluated, None):
        values = f"these evaluations differ in {', '.join(apart)}; give the folders of one model under one protocol"
        raise InputError("FOLDER", " ".join(runs.places), values)
    rows = [row for run in runs.evaluated for row in _rows(runs, run)]
    if not rows:
        raise InputError("FOLDER", " ".join(runs.places), "holds no saved answers")
    place = ["benchmark", "step", "temperature", "id"]
    frame = pd.DataFrame(rows).drop_duplicates([*place, "seed", "sample"])
    frame = frame.sort_values(["step", "temperature", "seed"], kind="stable", ignore_index=True)
    frame["sample"] = frame.groupby(place).cumcount()
    return frame.drop(columns="seed")


def _rows(runs: Runs, run: Run) -> Iterator[dict[str, Any]]:
    """The responses of one evaluation."""
    from analysis.reader.benchmarks import completions

    temperature = run.settings.get(TEMPERATURE)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        runs.notes.append(Note(run.name, "its temperature is unknown; left out"))
        return
    trained = run.settings.get("run") is not None
    samples: dict[tuple[str, int, str], int] = {}
    damaged = 0
    for row in completions(runs, run):
        try:
            response = response_of(row)
        except (LookupError, TypeError, ValueError):
            damaged += 1
            continue
        key = (row["benchmark"], row["step"], response["id"])
        samples[key] = samples.get(key, -1) + 1
        yield response | {
            "benchmark": row["benchmark"],
            "step": row["step"] if trained else UNTRAINED,
            "temperature": float(temperature),
            "seed": run.axes.get("seed", ""),
            "sample": samples[key],
        }
    if damaged:
        runs.notes.append(Note(run.name, f"{damaged} saved answers lack a field: left out"))


def response_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the tables need of a saved answer. LookupError, TypeError or ValueError if it is not there."""
    texts = policy_texts(row)
    response: dict[str, Any] = {key: str(row[key]) for key in ("id", "question", "reference", "outcome")}
    response |= {"text": "\n".join(texts), "correct": bool(row["correct"]), "tokens": int(row["tokens"])}
    return response | {"finished": bool(row["finished"])}


def question_meta(runs: Runs) -> dict[str, Mapping[str, Any]]:
    """What the question sets of an evaluation know of each held-out question, by id; nothing if they are gone."""
    import yaml

    from zero.question_sets import load_benchmarks

    for run in runs.evaluated:
        if run.path is None:
            continue
        try:
            sets = load_benchmarks(yaml.safe_load(read_regular(run.path / "config.yaml")))
        except (OSError, InputError, yaml.YAMLError, LookupError, TypeError):
            continue
        return {question.id: question.meta for one in sets.values() for question in one.rows.heldout}
    return {}


# ---------------------------------------------------------------------------------------------------------- the findings


def examine(
    frame: DataFrame,
    pool: Sequence[str],
    meta: Mapping[str, Mapping[str, Any]],
    judge: Judge | None,
    instructions: Mapping[str, Instruction],
    traces: int,
    notes: Sequence[str] = (),
) -> Findings:
    """Every table from responses: step, temperature, benchmark, id, sample, question, reference, text, correct, outcome,
    finished. Raises InputError or Broken of the judge."""
    from analysis.reflection import tables

    labelled = tables.with_labels(frame, pool, meta, judge, instructions)
    questions = tables.questions(labelled)
    by_name = {
        "reflection": tables.detection(labelled),
        "reflection_answers": tables.answers(labelled),
        "reflection_keywords": tables.keywords(labelled, pool),
        "reflection_questions": questions,
        "reflection_differences": tables.differences(questions),
        "reflection_behaviours": tables.behaviours(labelled),
        "reflection_labellers": tables.labellers(pool, judge, instructions, traces),
        "reflection_labels": labelled.drop(columns=["question", "reference", "text"]),
    }
    return Findings(by_name, tables.summary(by_name, judge is not None, notes), notes)


def write(findings: Findings, folder: Path) -> Path:
    """All tables and the figure, into a folder; returns the path of the figure."""
    from analysis.cli import write_table

    for name, table in findings.tables.items():
        write_table(table, folder / f"{name}.csv")
    return save(as_finding(findings).figure, folder / "reflection")[0]


def as_finding(findings: Findings) -> Finding:
    """The findings as every question of analysis/ gives them."""
    from analysis.cli import Finding
    from analysis.reflection.figure import draw

    return Finding(draw(findings.tables), findings.tables["reflection"], findings.text)


def read_findings(folder: Path) -> Findings:
    """What `write` left in a folder. InputError if it is not all there."""
    import pandas as pd

    from analysis.reflection.tables import summary

    try:
        tables = {name: pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""]) for name in TABLES}
    except (OSError, ValueError) as error:
        raise InputError("FOLDER", folder, f"holds no tables of analysis.reflection ({error})") from None
    differences = tables["reflection_differences"]
    differences["temperature"] = [t if t == "all" else float(t) for t in differences["temperature"].astype(object)]
    return Findings(tables, summary(tables, (tables["reflection"]["detector"] != "keyword").any(), ()))


def reflection(places: Sequence[str], typed: Sequence[str], folder: Path) -> Findings:
    """What the command line does: read, label, write and print. Raises InputError, Broken and OSError."""
    from analysis.cli import print_notes
    from analysis.reader.runs import read

    settings = settings_of(typed, folder)
    runs = read(places, ())
    frame = responses_of(runs)
    pool, judge = settings["pools"][settings["pool"]], settings["judge"]
    findings = examine(frame, pool, question_meta(runs), judge, settings["instructions"], settings["traces"])
    figure = write(findings, folder)
    print(findings.text)
    print_notes(runs.notes)
    print(f"written: {figure} and tables beside it")
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 2 for bad input, or 1 if the judge failed."""
    from analysis.cli import common_parser, exit_code, output_folder

    parser = common_parser("reflection", __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"{__doc__}\nconf/reflection.yaml:\n\n{(CONF / 'reflection.yaml').read_text()}".replace("%", "%%")
    options = parser.parse_args(arguments)
    typed = [word for word in options.places if is_setting(word)]
    options.places = [word for word in options.places if word not in typed]

    def work() -> None:
        if not options.places:
            raise InputError("FOLDER", "none", "give the folder of the evaluations to read")
        reflection(options.places, typed, output_folder(options))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
