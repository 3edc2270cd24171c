"""Does a model reflect on its answers, before and after training, and does it help?

    python -m analysis.reflection model=hf model.path=FOLDER template=qwen_math temperatures=0.1,...,1.0
    python -m analysis.reflection run=FOLDER step=all               a run: before training against its checkpoints
    python -m analysis.reflection ... judge.url=http://HOST/v1      with a language model as judge beside the keywords

Questions are those of benchmarks=..., or the held-out ones of questions=... (default nano_math), n=8 answers to each at every
temperature. python -m zero.evaluate answers them, and takes all settings but those of conf/reflection.yaml. The same command
goes on after a kill. It prints a summary and writes into its folder (out=...):

    reflection.svg, .pdf, .csv        the figure; who reflects, by keywords, judge, both (cross): responses, questions
    reflection_answers.csv            accuracy, and which share of responses answers at all
    reflection_keywords.csv           which keywords
    reflection_differences.csv        accuracy with and without reflection, within questions;  reflection_questions.csv: of each
    reflection_behaviours.csv         what reflection does to the answer, and how much of it is superficial
    reflection_labellers.csv          how right the detectors and labellers are on traces whose truth is known
    reflection_labels.csv             the labels of every response
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zero.config import check as configs
from zero.errors import Broken, InputError
from zero.files import read_regular
from zero.paths import CONF

if TYPE_CHECKING:  # --help and bad input are answered without them
    from pandas import DataFrame

    from analysis.cli import Finding
    from analysis.reflection.judge import Instruction, Judge

OWN = ("temperatures", "out", "pool", "pools", "traces", "judge", "instructions")  # keys of conf/reflection.yaml
TEN = "0.1,...,1.0"
MOST = 1000  # temperatures that a list may have
N = 8  # answers to each question, unless n is given
UNTRAINED = -1  # step of a model that no run of ours trained
TABLES = [
    f"reflection{name}"
    for name in "  _answers _keywords _questions _differences _behaviours _labellers _labels".split(" ")[1:]
]


@dataclass(frozen=True)
class Findings:
    """`tables` by the name of their file; `notes`: what was left out."""

    tables: Mapping[str, DataFrame]
    text: str
    notes: Sequence[str] = field(default=())


# ------------------------------------------------------------------------------------------------------ the command line


def temperatures_of(text: str) -> list[float]:
    """The temperatures of `0.1,0.5,1` or, by equal steps, `0.1,...,1.0` and `0.2,0.4,...,1`; brackets may stand around.

    One number before the dots: the step is one unit of its last decimal place. InputError for anything else."""
    parts = [part.strip() for part in text.strip().strip("[]").split(",")]
    try:
        values = [None if part == "..." else Decimal(part) for part in parts]
        if any(value is not None and not (value.is_finite() and 0 <= value <= 100) for value in values):
            raise InvalidOperation
        if None in values:
            *head, gap, last = values
            if gap is not None or None in head or last is None or not 1 <= len(head) <= 2:
                raise InvalidOperation
            first = head[0] or Decimal(0)
            step = Decimal(1).scaleb(int(first.as_tuple().exponent)) if len(head) == 1 else head[1] - first  # type: ignore[operator]
            if step <= 0 or not first < last or (last - first) / step > MOST:
                raise InvalidOperation
            values = [first + i * step for i in range(int((last - first) / step) + 1)]
            if values[-1] != last:
                raise InvalidOperation
    except (InvalidOperation, ValueError, OverflowError):
        remedy = "must be numbers from 0 to 100, such as 0.1,0.5,1.0 or 0.1,...,1.0 or 0.2,0.4,...,1.0"
        raise InputError("temperatures", text, remedy) from None
    found = sorted({float(value) for value in values if value is not None})
    if len(found) > MOST:
        raise InputError("temperatures", f"{len(found)} of them", f"at most {MOST}")
    return found


@dataclass(frozen=True)
class Plan:
    """`own`: the settings of conf/reflection.yaml, built; `asked`: the overrides of zero.evaluate; `steps` as it takes them,
    none for a model."""

    out: Path
    temperatures: Sequence[float]
    steps: Sequence[str]
    asked: Sequence[str]
    own: Mapping[str, Any]


def plan_of(arguments: Sequence[str]) -> Plan:
    """From a command line; everything is checked that can be without a model. Raises InputError."""
    typed: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = configs.quoted(argument).partition("=")
        if not equals or not key:
            raise InputError("command line", argument, "must be KEY=VALUE; --help explains")
        typed[key] = value
    mine = {key: value for key, value in typed.items() if key.split(".")[0] in OWN}
    theirs = {key: value for key, value in typed.items() if key not in mine}
    if "run_dir" in theirs or "sampling.temperature" in theirs:
        key, other = ("run_dir", "out") if "run_dir" in theirs else ("sampling.temperature", "temperatures")
        raise InputError(key, theirs[key], f"is set for each temperature; give {other}=")
    trained = "run" in theirs
    said = mine.pop("temperatures", "null")
    temperatures = temperatures_of(("1.0" if trained else TEN) if said == "null" else said)
    step = theirs.pop("step", "all") if trained else None
    asked = [f"{key}={value}" for key, value in (_defaults(theirs, trained) | theirs).items()]
    name = configs.run_name("evaluate", {key: theirs[key] for key in configs.AXES if key in theirs}, asked)
    out = Path(mine.pop("out", "").strip("'\"") or Path("runs") / "reflection" / name).expanduser().absolute()
    if set(str(out)) & set("'\\$"):
        raise InputError("out", out, "must have no quotes, backslashes or dollar signs in its path")
    built = configs.instantiate(configs.compose_config("reflection", [*map("=".join, mine.items()), f"out='{out}'"]))
    own: dict[str, Any] = dict(built)
    if own["pool"] not in own["pools"]:
        raise InputError("pool", own["pool"], f"choose one of {', '.join(own['pools'])}")
    if isinstance(own["traces"], bool) or not isinstance(own["traces"], int) or not 0 <= own["traces"] <= 100_000:
        raise InputError("traces", own["traces"], "must be a whole number from 0 to 100000")
    steps = [] if step is None else list(dict.fromkeys(["0", step]))
    first = [f"step={steps[0]}"] if steps else []
    configs.check("evaluate", [*asked, *first, f"sampling.temperature={temperatures[0]}"])
    return Plan(configs.writable_folder(out), temperatures, steps, asked, own)


def _defaults(typed: Mapping[str, str], trained: bool) -> dict[str, str]:
    """What zero.evaluate is told beside what was typed: samples, and questions. A run brings its own questions."""
    given = {} if "n" in typed else {"n": str(N)}
    if not trained:
        given |= {} if "sampling" in typed else {"sampling": "default"}
        if "benchmarks" not in typed:
            given |= {"benchmarks": "heldout", "questions": "nano_math"}
    return given


# ------------------------------------------------------------------------------------------------------------ the answers


def answer(plan: Plan) -> None:
    """Have all questions answered, at each temperature and step; what a kill left is taken up. Broken if it fails."""
    place = f"run_dir='{plan.out}/answers/" + ("${step}/" if plan.steps else "") + "t${sampling.temperature}'"
    command = [sys.executable, "-m", "zero.evaluate", "-m", *plan.asked, place, f"hydra.sweep.dir='{plan.out}/answers'"]
    command += [f"sampling.temperature={','.join(map(str, plan.temperatures))}"]
    command += [f"step={','.join(plan.steps)}"] if plan.steps else []
    with (plan.out / "evaluate.log").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.PIPE, text=True, errors="replace")
        last: list[str] = []
        try:
            assert child.stderr is not None
            for line in child.stderr:
                last = [*last[-7:], line.rstrip()]
                if " questions" in line and " of " in line:
                    print(line, end="", file=sys.stderr, flush=True)  # how far it is
                log.write(line)
            code = child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    if code:
        errors = [line for line in last if line.startswith("error: ")]
        raise Broken(f"zero.evaluate failed: {(errors or last or ['?'])[-1].removeprefix('error: ')} (evaluate.log)")


def responses_of(plan: Plan) -> tuple[DataFrame, dict[str, Mapping[str, Any]], list[str]]:
    """All responses as a frame, what is known of the questions by id, and notes on what was left out."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    meta: dict[str, Mapping[str, Any]] = {}
    for wanted in plan.steps or [""]:
        for temperature in plan.temperatures:
            folder = plan.out / "answers" / wanted / f"t{temperature}"
            meta = meta or _known(folder)
            for path in sorted(folder.rglob("completions_*.jsonl")):
                of_step = path.parent.name.startswith("step_")
                step = int(path.parent.name.removeprefix("step_")) if of_step else UNTRAINED
                found, bad = read_rows(path)
                rows += [{"step": step, "temperature": temperature} | row for row in found]
                notes += [f"{path}: {bad} damaged lines left out"] if bad else []
    if not rows:
        raise Broken(f"{plan.out}: no answers were found")
    frame = pd.DataFrame(rows)
    return frame.drop_duplicates(["benchmark", "step", "temperature", "id", "sample"]), meta, notes


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The responses in a file of zero.evaluate, and how many lines are no response."""
    rows, bad = [], 0
    seen: dict[str, int] = {}
    try:
        content = read_regular(path).decode("utf-8", "replace")
    except OSError as error:
        raise InputError("out", path, f"cannot be read ({error.strerror})") from None
    for line in content.splitlines():
        try:
            row = json.loads(line)
            tries = row.get("tries") or [row["response"]]
            kept: dict[str, Any] = {key: str(row[key]) for key in ("id", "question", "reference", "outcome")}
            kept |= {"text": "\n".join(map(str, tries)), "correct": bool(row["correct"]), "tokens": int(row["tokens"])}
            kept |= {"finished": bool(row["finished"]), "benchmark": path.stem.removeprefix("completions_")}
        except (ValueError, LookupError, TypeError, AttributeError):
            bad += 1
            continue
        kept["sample"] = seen[kept["id"]] = seen.get(kept["id"], -1) + 1
        rows.append(kept)
    return rows, bad


def _known(folder: Path) -> dict[str, Mapping[str, Any]]:
    """What the question sets of an evaluation know of each held-out question, by id; nothing if they are gone."""
    import yaml

    from zero.evaluate import load_questions

    try:
        sets = load_questions(yaml.safe_load(read_regular(folder / "config.yaml")))
    except (OSError, InputError, yaml.YAMLError, LookupError, TypeError):
        return {}
    return {question.id: question.meta for one in sets.values() for question in one.rows.heldout}


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

    labelled = tables.labelled(frame, pool, meta, judge, instructions)
    questions = tables.questions(labelled)
    found = {
        "reflection": tables.detection(labelled),
        "reflection_answers": tables.answers(labelled),
        "reflection_keywords": tables.keywords(labelled, pool),
        "reflection_questions": questions,
        "reflection_differences": tables.differences(questions),
        "reflection_behaviours": tables.behaviours(labelled),
        "reflection_labellers": tables.labellers(pool, judge, instructions, traces),
        "reflection_labels": labelled.drop(columns=["question", "reference", "text"]),
    }
    return Findings(found, tables.summary(found, judge is not None, notes), notes)


def write(findings: Findings, out: Path) -> Path:
    """All tables and the figure, into a folder; returns the path of the figure."""
    from analysis.cli import write_table
    from analysis.style import save

    for name, table in findings.tables.items():
        write_table(table, out / f"{name}.csv")
    return save(shown(findings).figure, out / "reflection")[0]


def shown(findings: Findings) -> Finding:
    """The findings as every question of analysis/ gives them."""
    from analysis.cli import Finding
    from analysis.reflection.figure import draw

    return Finding(draw(findings.tables), findings.tables["reflection"], findings.text)


def stored(out: Path) -> Findings:
    """What `write` left in a folder. InputError if it is not all there."""
    import pandas as pd

    from analysis.reflection.tables import summary

    try:
        tables = {name: pd.read_csv(out / f"{name}.csv", keep_default_na=False, na_values=[""]) for name in TABLES}
    except (OSError, ValueError) as error:
        raise InputError("out", out, f"holds no tables of analysis.reflection ({error})") from None
    differences = tables["reflection_differences"]
    differences["temperature"] = [t if t == "all" else float(t) for t in differences["temperature"].astype(object)]
    return Findings(tables, summary(tables, (tables["reflection"]["detector"] != "keyword").any(), ()))


def run(arguments: Sequence[str]) -> Findings:
    """What the command line does."""
    plan = plan_of(arguments)
    own = plan.own
    answer(plan)
    frame, meta, notes = responses_of(plan)
    pool, instructions = own["pools"][own["pool"]], own["instructions"]
    findings = examine(frame, pool, meta, own["judge"], instructions, own["traces"], notes)
    path = write(findings, plan.out)
    print(findings.text)
    print(f"written to {path.parent}")
    return findings


def main() -> None:
    """The console entry point."""
    arguments = sys.argv[1:]
    if not arguments or {"--help", "-h"} & set(arguments):
        print(__doc__)
        print("Its own settings (conf/reflection.yaml):\n")
        print((CONF / "reflection.yaml").read_text())
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the evaluation ends, too
    try:
        run(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except (InputError, Broken) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except OSError as error:
        print(f"error: out: {error.filename or ''}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
