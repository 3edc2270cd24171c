"""Tables of evaluations: before and after, a model on several benchmarks, checkpoints, and answers side by side.

Nothing here computes a result: `metrics` everywhere have the glossary's names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from zero.statistics import MACRO
from zero.tracking import journal

# Rows of an evaluation: label, metric, and whether it is left out where every value is 0
EVAL = (
    ("lenient accuracy", "accuracy_lenient", False), ("image recognised", "recognition", False),
    ("solved in all tries", "solved", True),
    ("formatted", "formatted", False), ("unparsed", "unparsed", True),
    ("timed out", "timed_out", True), ("failed", "failed", True), ("truncated", "truncated", False),
    ("reflection", "reflection", False),
)  # fmt: skip
EPISODE = (("turns", "turns"), ("reward", "reward"))  # means of an episode; only in an environment
IMAGES = 4  # of a question whose files are named
LENGTHS = (("length, tokens", "length"), ("  correct", "length_correct"), ("  incorrect", "length_incorrect"))

Rows = Sequence[Mapping[str, Any]]


def evaluation_table(moments: Sequence[tuple[str, Mapping[str, Any]]], plain: bool = False) -> Group:
    """A table for each benchmark, a column for each (label, metrics) moment; 80 characters are enough for two."""
    tables = []
    for name in journal.benchmarks(moments[-1][1]):
        table = Table(box=box_style(plain))
        table.add_column(Text(f"held-out {name}"))
        for label, _ in moments:
            table.add_column(label, justify="right", no_wrap=True)
        values = [_of_benchmark(name, metrics) for _, metrics in moments]
        table.add_row("accuracy", *(_share(value.get("accuracy")) for value in values))
        table.add_row("95 % interval", *(_interval(value) for value in values))
        if any("chance" in value for value in values):
            table.add_row("guessing", *(_guessing(value) for value in values))
        for label, key, rare in EVAL:
            if any(value.get(key) or (value.get(key) is not None and not rare) for value in values):
                table.add_row(label, *(_share(value.get(key)) for value in values))
        for label, key in (*EPISODE, *LENGTHS):
            if any(value.get(key) is not None for value in values):
                table.add_row(label, *(_mean(value.get(key), 2 if key == "reward" else 1) for value in values))
        for kind in _kinds(values):
            table.add_row(Text(f"  {_label(kind)}"), *(_accuracy_and_length(kind, value) for value in values))
        tables.append(table)
    return Group(*tables)


def benchmark_tables(
    metrics: Mapping[str, Any], n: int, ks: Sequence[int], published: Mapping[str, float], plain: bool = False
) -> Group:
    """One model on several benchmarks, a row each, in 100 columns: scores with what is published (shares by benchmark),
    pass@k and maj@k, the form of the responses, their lengths. `metrics` has the glossary's names."""
    names = journal.benchmarks(metrics)
    values = {name: _of_benchmark(name, metrics) for name in names}
    theirs = [("published", lambda name, v: _share(published.get(name)))] if published else []
    votes = [
        (f"{kind}@{k}", lambda name, v, key=f"{kind}@{k}": _share(v.get(key)))
        for kind in ("pass", "maj")
        for k in ks
        if k > 1
    ]
    guesses = [("guessing", lambda name, v: _guessing(v))] if any("chance" in v for v in values.values()) else []
    scores = [
        (f"avg@{n}", lambda name, v: _share(v.get("accuracy"))),
        ("95 % interval", lambda name, v: _interval(v)),
        *guesses,
        *theirs,
        ("lenient", lambda name, v: _share(v.get("accuracy_lenient"))),
    ]
    rare = [(label, key) for label, key, rare in EVAL if rare and any(v.get(key) for v in values.values())]
    seen = [("recognised", "recognition")] if any("recognition" in v for v in values.values()) else []
    shares = [("formatted", "formatted"), *seen, *rare, ("truncated", "truncated"), ("reflection", "reflection")]
    form = [(label, lambda name, v, key=key: _share(v.get(key))) for label, key in shares]
    means = (("mean", "length"), ("correct", "length_correct"), ("incorrect", "length_incorrect"))
    lengths = [(label, lambda name, v, key=key: _mean(v.get(key))) for label, key in means]
    played = EPISODE if any("turns" in v for v in values.values()) else ()
    episodes = [(label, lambda name, v, key=key: _mean(v.get(key), 2)) for label, key in played]
    tables = []
    for title, columns in (
        ("accuracy", scores), ("of k answers", votes), ("responses", form), ("length, tokens", lengths),
        ("episodes", episodes),
    ):  # fmt: skip
        table = Table(box=box_style(plain))
        table.add_column(title, no_wrap=True)
        for label, _ in columns:
            table.add_column(label, justify="right")
        for name in names:
            if name == MACRO:
                table.add_section()
            label = "macro average" if name == MACRO else name
            table.add_row(Text(label), *(cell(name, values[name]) for _, cell in columns))
        tables += [table] if columns else []
    if any(_kinds([value]) for value in values.values()):
        tables.append(_kinds_table(values, plain))
    return Group(*tables)


def _kinds_table(values: Mapping[str, Mapping[str, float]], plain: bool) -> Table:
    """Accuracy and length by kind and level of question, on each benchmark that knows them."""
    table = Table(box=box_style(plain))
    table.add_column("by kind and level", no_wrap=True)
    for label in ("", "accuracy", "length"):
        table.add_column(label, justify="right" if label else "left")
    for name, value in values.items():
        for i, kind in enumerate(_kinds([value])):
            cells = (_share(value.get(f"{kind}/accuracy")), _mean(value.get(f"{kind}/length")))
            table.add_row(Text("" if i else name), _label(kind), *cells)
    return table


def steps_table(steps: Mapping[int, Mapping[str, Any]], plain: bool = False) -> Table:
    """Accuracy of a run's checkpoints: a row for each step, a column for each benchmark, the interval of the last."""
    names = journal.benchmarks(next(iter(steps.values())))
    table = Table(box=box_style(plain))
    table.add_column("step", justify="right")
    for name in names:
        table.add_column(Text("macro average" if name == MACRO else name), justify="right")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    for step, metrics in steps.items():
        values = [_of_benchmark(name, metrics) for name in names]
        table.add_row(str(step), *(_share(value.get("accuracy")) for value in values), _interval(values[-1]))
    return table


def sample_answers(
    before: Rows, after: Rows, count: int, encoding: str, plain: bool = False, folder: Path | None = None
) -> Group:
    """The first `count` questions, not chosen ones, with the first answer to each before and after; long texts are cut.

    Rows are those of zero.benchmark.rows; the moments are matched by question. `folder`: of the run, where its images are.
    """
    firsts = [{_asked(row): row for row in reversed(rows)} for rows in (before, after)]
    questions = [q for q in dict.fromkeys(map(_asked, before)) if q in firsts[1]][:count]
    title = "the first held-out question" if len(questions) == 1 else f"the first {len(questions)} held-out questions"
    parts: list[Any] = [Text(f"{title}, before and after", "bold")]
    for question in questions:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=9, style="dim")
        grid.add_column(overflow="fold")
        grid.add_row("question", _clean(question[0], encoding))
        for name in question[1:][:IMAGES]:
            grid.add_row("image", _clean(str(folder / name if folder else name), encoding))
        grid.add_row("reference", _clean(str(firsts[0][question]["reference"]), encoding))
        for label, rows in (("before", firsts[0]), ("after", firsts[1])):
            row = rows[question]
            ending = (
                f"{row['ending']} after {len(row['turns'])} turns" if row.get("turns") else f"answer {row['answer']}"
            )
            verdict = f"{row['reason']}: {ending}, {row['tokens']} tokens"
            grid.add_row(label, _clean(_policy_text(row), encoding))
            grid.add_row("", Text("-> ") + _clean(verdict, encoding, "green" if row["correct"] else "red"))
        parts.append(Panel(grid, box=box_style(plain), expand=False))
    return Group(*parts)


def _asked(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A row's question: its words, and its images by their files."""
    return (row["question"], *map(str, row.get("images", ())))


def _policy_text(row: Mapping[str, Any]) -> str:
    """The response; of an episode, whose response repeats the prompts, what the policy said in each turn and what that earned."""
    turns = row.get("turns") or ()
    return " | ".join(f"{turn['text'].strip()} ({turn['reward']:g})" for turn in turns) or row["response"]


def evaluation_line(name: str, metrics: Mapping[str, Any]) -> str:
    value = _of_benchmark(name, metrics)
    length = f", length {value['length']:.1f}" if "length" in value else ""
    return f"{name} accuracy {_share(value.get('accuracy'))} ({_interval(value)}){length}"


def _of_benchmark(name: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Its numbers, by their names without eval/NAME/; those that are not finite are left out."""
    start = f"eval/{name}/"
    return {k.removeprefix(start): v for k, v in metrics.items() if k.startswith(start) and v is not None}


def _kinds(values: Sequence[Mapping[str, float]]) -> list[str]:
    """The kinds and levels that a benchmark has at one of these moments."""
    return list(dict.fromkeys(kind for value in values for kind in journal.kinds((f"eval/{k}" for k in value), "eval")))


def _label(kind: str) -> str:
    return kind.replace("/level_", ", level ").replace("level_", "level ")


def _accuracy_and_length(kind: str, value: Mapping[str, float]) -> str:
    accuracy = value.get(f"{kind}/accuracy")
    return "-" if accuracy is None else f"{_share(accuracy)}, {_mean(value.get(f'{kind}/length'))}"


def _mean(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(value: Mapping[str, float]) -> str:
    low, high = value.get("accuracy_low"), value.get("accuracy_high")
    return "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f} %"


def _guessing(value: Mapping[str, float]) -> str:
    return _share(value.get("chance")) + (f" (p {value['chance_p']:.2g})" if "chance_p" in value else "")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _clean(text: str, encoding: str, style: str = "") -> Text:
    """Model output as one paragraph that cannot move the cursor; a long one loses its middle, as answers come last."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    shown = shown if len(shown) <= 360 else f"{shown[:200]} [... {len(shown) - 340} characters ...] {shown[-140:]}"
    return Text(shown.encode(encoding, "replace").decode(encoding), style)


def box_style(plain: bool) -> box.Box:
    return box.ASCII if plain else box.ROUNDED
