"""Sections of the report that are made of the records of runs: what was varied, where they ran, cost, warnings.

Each is a function of the runs that gives HTML, or None where there is nothing to say.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from analysis.reader.folders import as_typed
from analysis.reader.records import natural
from analysis.report.page import folded, heading, listed, number, pairs, paragraph, table

if TYPE_CHECKING:
    import numpy as np

    from analysis.reader.records import Run, Runs

ERRORS = {
    "unparsed": "answers that the checker cannot read",
    "timed_out": "answers on which the checker hit its limit",
    "failed": "answers on which the checker failed",
}
LATE = 0.1  # of a run's steps: its end, and its windows
FELL = 0.5  # a reward below this part of its best has collapsed
FLAT = 0.9  # share of groups without a signal above which training stands still
CUT = 0.5  # share of truncated responses that is worth a word
FEW = 5  # steps below which an end is not judged
SHORTEST = 10  # steps below which no collapse is looked for
NAMED = 6  # runs that a warning names


# ---------------------------------------------------------------------------------------------------------------- varied


def varied(runs: Runs) -> Markup | None:
    """The axes in which the runs differ, their values and numbers; every run with its state."""
    everyone = [*runs.runs, *runs.evaluated]
    axes = list(dict.fromkeys(axis for run in everyone for axis in run.axes))
    rows, fixed = [], {}
    for axis in axes:
        counts = Counter(run.axes.get(axis) or "not set" for run in everyone)
        if len(counts) > 1:
            values = sorted(counts, key=natural)
            rows.append({"varied": axis, "values": ", ".join(f"{value} ({counts[value]})" for value in values[:40])})
        else:
            fixed[axis] = next(iter(counts))
    body = table(rows) or paragraph("One setting only: nothing was varied.")
    if rows:
        body += paragraph("In brackets: the number of runs with that value.", quiet=True)
    if same := {axis: value for axis, value in fixed.items() if value != "not set"}:
        body += heading("The same in all") + pairs(same)
    each = [
        {
            "run": run.name,
            "state": run.status + ", no longer asked for" * (not run.wanted),
            "last step": _last(runs, run),
            "of": run.settings.get("steps", ""),
            "signature": run.result.get("signature", ""),
        }
        for run in everyone
    ]
    return body + folded(
        f"All {len(everyone)} runs" if len(everyone) > 1 else "The run", table(each), open_=len(everyone) <= 8
    )


def lead(runs: Runs) -> Markup:
    """The lines under the title."""
    states = Counter(run.status for run in runs.runs)
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    first = f"{len(runs.runs)} training run{'s' * (len(runs.runs) != 1)}" + (f": {counts}" if counts else "")
    if runs.evaluated:
        first += f"; {len(runs.evaluated)} evaluation{'s' * (len(runs.evaluated) != 1)}"
    # All settings of the benchmarks count as one here; the tables below tell them apart.
    whole = ("benchmarks" if axis.startswith("benchmarks.sets.") else axis for axis in runs.varying())
    by = ", ".join(dict.fromkeys(whole))
    seeds = len({run.axes.get("seed") for run in runs.runs})
    second = f"Varied: {by or 'nothing'}; {seeds} seed{'s' * (seeds != 1)}." if runs.runs else ""
    return paragraph(first + ".") + paragraph(second, quiet=True)


def _last(runs: Runs, run: Run) -> int | str:
    steps = runs.steps.loc[runs.steps["run"] == run.name, "step"]
    return int(steps.max()) if len(steps) else ""


# ----------------------------------------------------------------------------------------------------------- environment


def environment(runs: Runs) -> Markup | None:
    """Commit, versions, machines, times, and all settings."""
    everyone = [*runs.runs, *runs.evaluated]
    facts: dict[str, Counter[str]] = {}
    for run in everyone:
        for key, value in recorded(run).items():
            facts.setdefault(key, Counter())[value] += 1
    rows = {
        key: ", ".join(
            value if count == len(everyone) else f"{value} ({count} of {len(everyone)} runs)"
            for value, count in counts.most_common(8)
        )
        for key, counts in sorted(facts.items(), key=lambda item: _order(item[0]))
    }
    if "commit" not in rows:
        rows = {"commit": "not recorded: no starts.jsonl, and no tags of MLflow", **rows}
    if "time/unix" in runs.metrics and runs.steps["time/unix"].notna().any():
        clock = runs.steps["time/unix"].dropna()
        rows["first and last step"] = f"{when(clock.min())} to {when(clock.max())}"
    if "system/memory" in runs.metrics and runs.steps["system/memory"].notna().any():
        rows["memory"] = f"at most {runs.steps['system/memory'].max():.3g} GB of a process"
    settings = _settings(everyone)
    return pairs(rows) + folded("All settings", table(settings, most=400))


def recorded(run: Run) -> dict[str, str]:
    """What is known of where a run ran, by its starts."""
    facts: dict[str, str] = {}
    newest = run.starts[-1] if run.starts else {}
    facts |= {key: str(newest[key]) for key in ("commit", "processor", "device", "ranks") if newest.get(key)}
    versions = newest.get("versions")
    facts |= {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {}
    if hosts := sorted({str(start["host"]) for start in run.starts if start.get("host")}):
        facts["machine"] = " and ".join(hosts)
    if len(run.starts) > 1:
        facts["starts"] = str(len(run.starts))
    if codes := list(dict.fromkeys(str(start["code"]) for start in run.starts if start.get("code"))):
        facts["digest of the code"] = " then ".join(codes)  # of one that went on with other code, both
    return facts


def _order(key: str) -> tuple[int, str]:
    first = ("commit", "digest of the code", "machine", "processor", "device", "ranks", "starts", "python", "torch")
    return (first.index(key) if key in first else len(first), key)


def _settings(everyone: Sequence[Run]) -> list[dict[str, Any]]:
    """Every setting with its value, or with all its values."""

    rows = []
    for key in dict.fromkeys(key for run in everyone for key in run.settings):
        values = sorted({as_typed(run.settings[key]) for run in everyone if key in run.settings}, key=natural)
        more = f" and {len(values) - 8} more" if len(values) > 8 else ""
        rows.append({"setting": key, "value": "\n".join(value[:300] for value in values[:8]) + more})
    return rows


def when(unix: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix))
    except (OverflowError, ValueError, OSError):
        return "an unknown time"


# ----------------------------------------------------------------------------------------------------------------- costs


def costs(runs: Runs) -> Markup | None:
    """Hours, tokens and what share of the time was generation, by group of runs, and of all."""
    from analysis.curves import grouped

    groups = {group.label: list(group.runs) for group in (grouped(runs) if runs.runs else ())}
    if len(groups) > 1:
        groups["all"] = list(runs.runs)
    rows = [_cost(runs, label, group_runs) for label, group_runs in groups.items()]
    if not any(row["hours of runs"] for row in rows):
        return None
    text = "Summed over the steps that journals hold: starting up and loading are not in them. Shares of generation, update "
    text += "and grading are of the steps' time without evaluation; that of evaluation is of both together."
    if any("unknown" in row["GPU- or CPU-hours"] for row in rows):
        text += " GPU-hours are unknown where nothing recorded how many GPUs a run had."
    return table(rows) + paragraph(text, quiet=True)


def _cost(runs: Runs, label: str, group_runs: Sequence[Run]) -> dict[str, Any]:
    steps = runs.steps[runs.steps["run"].isin([run.name for run in group_runs])]
    total = {name: _sum(steps, f"time/{name}") for name in ("step", "rollout", "update", "grade", "evaluate")}
    spent, tokens = total["step"] + total["evaluate"], _sum(steps, "tokens/generated")
    row: dict[str, Any] = {"runs": label, "hours of runs": spent / 3600 if spent else ""}
    row["GPU- or CPU-hours"] = _device_hours(steps, group_runs) if spent else ""
    row["tokens generated"], row["tokens of prompts"] = tokens or "", _sum(steps, "tokens/prompt") or ""
    for name, title in {"rollout": "generation", "update": "update", "grade": "grading"}.items():
        row[title] = f"{100 * total[name] / total['step']:.0f} %" if total["step"] else ""
    row["evaluation"] = f"{100 * total['evaluate'] / spent:.0f} %" if spent else ""
    row["tokens/s generated"] = tokens / total["rollout"] if total["rollout"] else ""
    return row


def _device_hours(steps: Any, group_runs: Sequence[Run]) -> str:
    """Hours of each run times its GPUs, or, without any, its processes and their threads."""
    spent = {"GPU": 0.0, "CPU": 0.0, "": 0.0}
    clocks = [name for name in ("time/step", "time/evaluate") if name in steps]
    seconds = steps.groupby("run", observed=True)[clocks].sum().sum(axis=1).to_dict()
    for run in group_runs:
        hours, gpus, threads = float(seconds.get(run.name, 0.0)) / 3600, devices(run), run.settings.get("threads")
        kind = "" if gpus is None else "GPU" if gpus else "CPU"
        cores = run.starts[-1]["ranks"] * (threads if isinstance(threads, int) else 1) if kind == "CPU" else 1
        spent[kind] += hours * (gpus or cores)
    known = [f"{number(hours)} {kind}" for kind, hours in spent.items() if hours and kind]
    return " + ".join([*known, *(["unknown"] if spent[""] else [])])


def devices(run: Run) -> int | None:
    """GPUs of a run by its newest start, one for each of its processes; 0 on a CPU; None if nothing says so."""
    newest = run.starts[-1] if run.starts else {}
    device, ranks = newest.get("device"), newest.get("ranks")
    if not isinstance(device, str) or not isinstance(ranks, int):
        return None
    return 0 if device == "cpu" else ranks


def _sum(steps: Any, name: str) -> float:
    return float(steps[name].sum()) if name in steps else 0.0


# -------------------------------------------------------------------------------------------------------------- warnings


def warnings(runs: Runs) -> Markup | None:
    """What a reader must know before believing anything: collapsed runs, grader errors, missing cells, damaged files."""
    together: dict[str, list[str]] = {}
    for name, text in (*alarms(runs), *((note.run, note.text) for note in runs.notes)):
        together.setdefault(text, []).append(name)
    items = []
    for text, names in together.items():
        named = [name for name in dict.fromkeys(names) if name]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        items.append(f"{', '.join(named[:NAMED])}{more}: {text}" if named else text)
    if items:
        return listed(items)
    tested = (
        [len(steps) for _, steps in runs.steps.groupby("run", observed=True)] if "train/reward" in runs.metrics else []
    )
    verdict = "None: every run is complete"
    if tested and min(tested) >= SHORTEST:
        verdict += ", none collapsed"
    elif tested:
        verdict += f" (collapse is judged from {SHORTEST} steps on, which not all have)"
    return paragraph(f"{verdict}, and {'the grader had no errors' if tested else 'no training was watched'}.")


def alarms(runs: Runs) -> Iterator[tuple[str, str]]:
    """(run, what is wrong with it) by its numbers; run "" for all."""
    for name, steps in runs.steps.groupby("run", sort=False, observed=True):
        columns = {column: steps[column].to_numpy() for column in runs.metrics}
        if runs.run(str(name)).settings.get("group_size") == 1:
            columns.pop("groups/zero_advantage", None)  # a group of one has nothing to differ from
        yield from ((str(name), alarm) for alarm in _alarms(columns))
    yield from (("", alarm) for alarm in _uneven(runs))


def _alarms(columns: Mapping[str, np.ndarray]) -> Iterator[str]:
    import numpy as np

    def values(name: str) -> np.ndarray:
        column = columns.get(name, np.zeros(0))
        return np.asarray(column[np.isfinite(column)], np.float64)

    if fall := collapsed(values("train/reward")):
        yield f"collapsed: {fall}"
    if (hacks := int((values("alarm/reward_hack") > 0).sum())) > 0:
        yield f"reward rose without accuracy in {hacks} step{'s' * (hacks > 1)} (alarm/reward_hack)"
    flat, cut = values("groups/zero_advantage"), values("length/truncated")
    end = max(FEW, int(len(flat) * LATE))
    if len(flat) >= FEW and flat[-end:].mean() > FLAT:
        yield f"almost no signal at its end: in over {FLAT:.0%} of the groups all rewards are equal"
    end = max(FEW, int(len(cut) * LATE))
    if len(cut) >= FEW and cut[-end:].mean() > CUT:
        yield f"more than {CUT:.0%} of its responses are cut off by the token budget at its end"
    for column in columns:
        place, _, what = column.rpartition("/")
        if what in ERRORS and (place == "train" or place.startswith("eval/")) and (shares := values(column)).any():
            where = "training" if place == "train" else place.removeprefix("eval/")
            yield f"grader, {where}: {ERRORS[what]}, up to {shares.max():.2%} of a step's responses"


def collapsed(reward: np.ndarray) -> str:
    """In words how a reward fell below half of its best, counted from 0 or the worst seen; "" if it did not. Means over a
    tenth of the run: single steps are noise, and a fall within their noise is none."""
    from analysis.stats.intervals import running_mean

    if len(reward) < SHORTEST:
        return ""
    window = max(3, int(len(reward) * LATE)) // 2 * 2 + 1
    smooth = running_mean(reward, window)
    floor, best, end = min(0.0, float(reward.min())), float(smooth.max()), float(reward[-window:].mean())
    noise = 4 * float((reward - smooth).std()) / window**0.5
    if best - end > max(noise, 0.02) and end - floor < FELL * (best - floor):
        return f"mean reward fell from {number(best)} to {number(end)} at its end (means over {window} steps)"
    return ""


def _uneven(runs: Runs) -> Iterator[str]:
    """Groups with fewer seeds than others, and with one."""
    from analysis.curves import grouped

    seeds = {
        group.label: {run.axes.get("seed") for run in group.runs} for group in (grouped(runs) if runs.runs else ())
    }
    everyone = set().union(*seeds.values())
    for label, own in seeds.items():
        if lacking := sorted(str(seed) for seed in everyone - own if seed):
            yield f"{label} has no run of seed {', '.join(lacking[:20])}, which others have"
    if seeds and all(len(own) == 1 for own in seeds.values()):
        yield "one seed everywhere: nothing here has an interval over seeds"
