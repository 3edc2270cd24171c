"""The page of algorithms: its text and its figure, from cards and numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import style
from analysis.algorithm_cards import Card, default_name, sources
from zero.tracking import palette


def markdown(every: Sequence[Card], numbers: Mapping[str, Any], own: Mapping[str, tuple[tuple[str, ...], str]]) -> str:
    """The whole page. `own` holds the settings in which an algorithm's runs differ, and why."""
    from zero import objective

    measured = numbers.get("algorithms", {})
    departure = re.search(r"Departures, in words: (.*?)(?:\n\n|\Z)", objective.__doc__ or "", flags=re.DOTALL)
    text = [
        "# The algorithms: what the code does, and what it gave",
        "`python -m analysis.docs` makes this page from `conf/algo`, the docstrings of "
        "[zero/objective.py](../zero/objective.py) and [algorithms.json](algorithms.json); "
        "`make algorithms` measures. Edit those, not this.",
        *conditions(numbers),
        "![Held-out accuracy and response length of every algorithm against steps](algorithms.png)",
        table(every, measured),
        "## What each is made of",
        anatomy(every),
        "The loss is the sum over all response tokens of weight x (surrogate + beta x KL). "
        + (f"A departure of all: {' '.join(departure[1].split())}" if departure else ""),
    ]
    for i, one in enumerate(every):
        if i == 0 or one.family != every[i - 1].family:
            text.append(f"## {one.family}")
        text += section(one, measured.get(one.name), own.get(one.name))
    text += ["## Sources", "\n".join(f"- {key}: {with_links(value)}" for key, value in sources().items())]
    text.append("\n".join(f"[{key}]: {address(value)}" for key, value in sources().items()))
    return "\n\n".join(text) + "\n"


def conditions(numbers: Mapping[str, Any]) -> list[str]:
    """Under which budget the numbers came about, and what the intervals mean."""
    if not numbers:
        return ["Nothing has been measured yet."]
    shared, all_of_them = numbers["budget"], numbers["algorithms"].values()
    counts = sorted({len(entry["seeds"]) for entry in all_of_them})
    seeds = " or ".join(map(str, counts)) + (" seed" if counts == [1] else " seeds")
    limit = shared["benchmarks"]["limit"]
    subset = f"the first {limit} held-out questions" if limit else "all held-out questions"
    return [
        f"**One budget for all:** model `{shared['model']['path']}`, questions `{shared['questions']['name']}`, {shared['steps']} "
        f"steps of {shared['responses']} responses of at most {shared['sampling']['max_tokens']} tokens, {shared['updates']} "
        f"update a step, learning rate {shared['optimizer']['lr']:g}, {seeds}. Accuracy and response length are those of {subset} "
        f"at temperature {shared['evaluation']['temperature']:g}. No algorithm was tuned, and none has its paper's learning "
        "rate: this shows what changing one yaml does, not which method is best. The embedded world illustrates mechanisms "
        "and is no evidence about models of useful size.",
        "**Intervals** are Student's t at 95 % over seeds (mean +- t s / sqrt(n)), as everywhere in analysis/. They "
        "speak of other seeds on the same questions, not of other questions or models, and are not "
        "adjusted for the number of comparisons. **Tokens** are the response tokens of all training steps, evaluations aside, "
        "with those sampled to estimate values, which also stand alone. " + _costs(all_of_them),
    ]


def _costs(entries: Iterable[Mapping[str, Any]]) -> str:
    """What the last column counts: CPU seconds where a run recorded them, else the time of its steps and evaluations."""
    cpus = sorted({cpu for entry in entries for cpu in entry.get("cpu", ())})
    whole = (
        "**CPU seconds** are of a whole run, start and evaluations included, of one thread"
        + (f" of {' or '.join(cpus)}" if cpus else "")
        + "; they wander with what else the machine does."
    )
    by_clock = any("seconds" in entry for entry in entries)
    return whole + (" Where `s` stands, seconds of steps and evaluations by the clock." if by_clock else "")


def table(every: Sequence[Card], measured: Mapping[str, Any]) -> str:
    """The contents: every algorithm with its final numbers."""
    rows = ["| algorithm | accuracy | response length | of wrong answers | tokens | for values | CPU s |"]
    rows += ["| --- | --- | --- | --- | ---: | ---: | ---: |"]
    for one in every:
        entry = measured.get(one.name)
        if entry:
            curves = [
                last_value(entry["accuracy"], 3, most=1),
                last_value(entry["length"], 1),
                last_value(entry["length_incorrect"], 1),
            ]
            values = f"{entry['critic_tokens'] / 1000:,.0f} k" if entry["critic_tokens"] else ""
            cost = f"{entry['cpu_seconds']:.0f}" if entry.get("cpu_seconds") else ""
            cost = f"{entry['seconds']:.0f} s" if entry.get("seconds") else cost
            cells = [*curves, f"{(entry['tokens'] + entry['critic_tokens']) / 1000:,.0f} k", values, cost]
        else:
            cells = ["not measured", *[""] * 5]
        rows.append(f"| {' | '.join([f'[{one.name}](#{one.name})', *cells])} |")
    return "\n".join(rows)


def anatomy(every: Sequence[Card]) -> str:
    """The functions of every algorithm side by side."""
    rows = ["| algorithm | advantage | weight | surrogate | extras | paper |", "| --- | --- | --- | --- | --- | --- |"]
    for one in every:
        calls = one.calls
        first = [f"`{calls.pop(slot)}`" for slot in ("advantage", "weight", "surrogate")]
        extras = [f"{slot} `{call if slot != 'critic' else call.partition('(')[0]}`" for slot, call in calls.items()]
        extras += [f"`{key}={value}`" for key, value, _ in one.extras]
        papers = ", ".join(f"[{key}]" for key in one.papers or one.sources)
        rows.append(f"| {' | '.join([f'[{one.name}](#{one.name})', *first, ', '.join(extras), papers])} |")
    return "\n".join(rows)


def section(one: Card, entry: Mapping[str, Any] | None, own: tuple[tuple[str, ...], str] | None) -> list[str]:
    """Everything about one algorithm."""
    lines = []
    for p in one.functions:
        module = p.target.rpartition(".")[0].replace(".", "/")
        lines.append(f"- {p.slot} [`{p.call}`](../{module}.py): {p.says}")
        lines += [f"  - {' '.join(p.notes)}"] if p.notes else []
    lines += [f"- `{key}: {value}`{': ' + meaning if meaning else ''}" for key, value, meaning in one.extras]
    if own:
        lines.append(f"- runs with `{' '.join(own[0])}`: {own[1]}")
    if entry:
        start, end = (f"{entry['accuracy']['mean'][i]:.3f}" for i in (0, -1))
        each = ", ".join(f"{value:.3f}" for value in entry["accuracy"]["final"])
        counted = "seed " + str(entry["seeds"][0]) if len(entry["seeds"]) == 1 else f"{len(entry['seeds'])} seeds"
        lines.append(
            f"- measured, {counted}: accuracy {start} -> {end} in {entry['steps'][-1]} steps (each seed's end: {each}); "
            f"response length {entry['length']['mean'][0]:.1f} -> {last_value(entry['length'], 1)} tokens"
        )
    else:
        lines.append("- measured: not yet")
    lines.append("- sources: " + ", ".join(f"[{key}]" for key in one.sources))
    return [f"### {one.name}", one.header, "\n".join(lines)]


def with_links(reference: str) -> str:
    """A reference with a link for every arXiv number."""
    return re.sub(r"(?:arXiv )?(\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", reference)


def address(reference: str) -> str:
    """Where the key of a reference leads: to its first arXiv page, else to the list of sources."""
    number = re.search(r"\d{4}\.\d{5}", reference)
    return f"https://arxiv.org/abs/{number[0]}" if number else "#sources"


def last_value(curve: Mapping[str, Sequence[float | None]], digits: int, most: float = math.inf) -> str:
    """The last mean of a curve with its interval, within 0 and `most`."""
    mean, low, high = (curve[key][-1] for key in ("mean", "low", "high"))
    if mean is None:
        return "-"
    if low is None or high is None:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} [{max(low, 0):.{digits}f}, {min(high, most):.{digits}f}]"


# ------------------------------------------------------------------------------------------------------------- the figure


def draw(every: Sequence[Card], numbers: Mapping[str, Any], path: Path) -> None:
    """Accuracy (above) and response length (below) against steps: a column per family, the default algorithm in grey."""
    measured = numbers.get("algorithms", {})
    families = list(dict.fromkeys(one.family for one in every))
    drawn = style.figure(len(families), 2, width=4.3, height=4.2)
    style.caption(drawn, "mean over seeds and its 95 % interval (Student's t); grey: the default algorithm")
    default = {default_name(): palette.LineStyle(palette.GREY, "dashed", "o")}
    for column, family in enumerate(families):
        line_styles = default | palette.line_styles(
            [one.name for one in every if one.family == family and one.name not in default]
        )
        above, below = drawn.axes[column], drawn.axes[len(families) + column]
        for axis, key in ((above, "accuracy"), (below, "length")):
            for name, line_style in line_styles.items():
                if name in measured:
                    entry = measured[name]
                    low, high = ([float("nan") if v is None else v for v in entry[key][end]] for end in ("low", "high"))
                    style.line(axis, entry["steps"], entry[key]["mean"], line_style, name, low, high)
        style.finish(above, "step", "held-out accuracy", family)
        style.finish(below, "step", "response length, tokens")
    # the means decide: the interval of two or three seeds may be wider than all that matters
    for key, row in (("accuracy", drawn.axes[: len(families)]), ("length", drawn.axes[len(families) :])):
        means = [value for entry in measured.values() for value in entry[key]["mean"] if value is not None]
        for axis in row if means else ():
            axis.set_ylim(0 if key == "accuracy" else 0.85 * min(means), 1.15 * max(means))
    drawn.savefig(path, dpi=110)
