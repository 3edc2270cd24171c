"""The verdicts of experiments as sentences, between two marks of a README: all its numbers come from the runs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.reader.experiments import Experiment
from analysis.reader.units import interval, plain, scale
from analysis.stats.verdicts import NOT_SHOWN, SHOWN, UNDECIDED, Verdict
from zero.errors import InputError
from zero.files import write_atomically

BEGIN, END = "<!-- verdicts -->", "<!-- /verdicts -->"
WIDTH = 128  # characters of a line


def sentences(every: Sequence[Experiment], verdicts: Mapping[str, Sequence[Verdict]]) -> str:
    """An item for each experiment with claims: what is shown, what is undecided, what is not shown, with effects, intervals and
    seeds."""
    items = []
    for experiment in every:
        by_word: dict[str, list[str]] = {SHOWN: [], UNDECIDED: [], NOT_SHOWN: []}
        for verdict in verdicts[experiment.name]:
            by_word[verdict.word].append(_sentence(verdict))
        clauses = [f"{word}: {'; '.join(texts)}" for word, texts in by_word.items() if texts]
        if clauses:
            changed = f", run with {' '.join(experiment.changed)}" if experiment.changed else ""
            item = f"- `{experiment.name}`{changed}. {'. '.join(one[:1].upper() + one[1:] for one in clauses)}."
            items += textwrap.wrap(item, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(items)


def _sentence(verdict: Verdict) -> str:
    estimate, (factor, unit) = verdict.measured, in_units(verdict)
    text = verdict.claim.text
    text = text[:1].lower() + text[1:] if text[1:2].islower() else text  # a name such as GRPO stays
    if not estimate.n:
        return f"{text} (no run)"
    effect = f"{plain(estimate.mean, factor)} {unit}".strip()
    if estimate.low is not None and estimate.high is not None:
        effect += f", {interval(estimate.low, estimate.high, unit)}"
    return f"{text} ({effect}; n = {estimate.n})"


def in_units(verdict: Verdict) -> tuple[float, str]:
    """(factor, unit) in which the effect of a claim is shown."""

    statistic = verdict.claim.statistic
    return scale(statistic.metric, statistic.axis is not None or statistic.when.startswith("change"))


def replace(path: Path, text: str) -> None:
    """Put the sentences between the marks of a file. InputError for a file without both."""
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError("--readme", path, f"cannot be read ({error.strerror})") from None
    before, begin, after_begin = content.partition(BEGIN)
    _, end, after = after_begin.partition(END)
    if not begin or not end:
        raise InputError("--readme", path, f"must hold a line {BEGIN} and, below it, a line {END}")
    write(path, "--readme", f"{before}{BEGIN}\n{text}\n{END}{after}")


def write(path: Path, option: str, text: str) -> None:
    """Write a page. InputError names the option whose file cannot be written."""
    try:
        write_atomically(path, text)
    except OSError as error:
        raise InputError(option, path, f"cannot be written ({error.strerror}); choose another file") from None
