"""Tables about reflection from labelled responses. A frame of responses has one row each: step (-1: a model that no run
trained), temperature, benchmark, id, sample, correct, and the labels of `with_labels`. Intervals are Wilson's at 95 %
over questions, to others of which such numbers should generalize; of fewer than two questions there is none (NaN).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.reflection.behaviours import SUPERFICIAL, Behaviour, by_rule, is_chain, known_traces
from zero.statistics import mean_interval, ratio_interval

if TYPE_CHECKING:
    from analysis.reflection.judge import Instruction, Judge

PLACE = ["benchmark", "step", "temperature"]  # what is counted together
QUESTION = ["benchmark", "id"]
DETECTORS = ("keyword", "judge", "cross")  # cross: both of them
NAMES = [behaviour.name.lower() for behaviour in Behaviour]
NONE = (float("nan"), float("nan"))


def with_labels(
    frame: pd.DataFrame,
    pool: Sequence[str],
    meta: Mapping[str, Mapping[str, Any]],
    judge: Judge | None,
    instructions: Mapping[str, Instruction],
) -> pd.DataFrame:
    """The responses with their labels: keyword, judge, cross (NA: not judged), category, answering, behaviour, labeller.

    `meta` holds what is known of a question, by id: chains of the nano world can be labelled by rule. Behaviours are those of
    responses that reflect: by both detectors, or by keywords if there is no judge.
    """
    frame = frame.copy()
    lower = frame["text"].str.lower()
    frame["keyword"] = [any(keyword in text for keyword in pool) for text in lower]
    texts = [
        {"question": q, "reference": r, "response": t}
        for q, r, t in zip(frame["question"], frame["reference"], frame["text"], strict=True)
    ]
    unknown = [None] * len(frame)
    category = judge.label(instructions["reflection"], texts) if judge else unknown
    answering = judge.label(instructions["answering"], texts) if judge else unknown
    frame["category"] = pd.array(category, dtype="Int64")
    frame["answering"] = pd.array(answering, dtype="Int64")
    frame["judge"] = (frame["category"] == 2).astype("boolean")
    frame["cross"] = frame["judge"] & frame["keyword"]  # no keyword: no cross detection, judged or not
    shown = frame["cross"].fillna(False) if judge else frame["keyword"]
    places = np.flatnonzero(shown.to_numpy(dtype=bool))
    behaviour: list[int | None] = list(unknown)
    labeller = [""] * len(frame)
    if judge:
        labels = judge.label(instructions["behaviour"], [texts[i] for i in places])
        for i, label in zip(places, labels, strict=True):
            behaviour[i], labeller[i] = label, "judge"
    else:
        for i in places:
            known = meta.get(frame["id"].iloc[i], {})
            if is_chain(known):
                behaviour[i], labeller[i] = int(by_rule(known, frame["text"].iloc[i], pool)), "rule"
    frame["behaviour"] = pd.array(behaviour, dtype="Int64")
    frame["labeller"] = labeller
    return frame


def detectors(frame: pd.DataFrame) -> list[str]:
    """The detectors in use: keywords alone if nothing was judged."""
    return list(DETECTORS) if frame["category"].notna().any() else ["keyword"]


def detection(frame: pd.DataFrame) -> pd.DataFrame:
    """How many responses, and how many questions in any of their responses, reflect: a row for each place and detector."""
    rows = []
    for place, group in frame.groupby(PLACE, sort=True):
        for name in detectors(frame):
            hit = group[name].fillna(False).astype(bool)
            by_question = hit.groupby([group[key] for key in QUESTION])
            shares, some = by_question.mean(), by_question.any()
            low, high = interval(shares.tolist())
            some_low, some_high = interval(some.astype(float).tolist())
            rows.append(
                dict(zip(PLACE, place, strict=True))
                | {
                    "detector": name,
                    "responses": len(group),
                    "reflecting": int(hit.sum()),
                    "share": float(hit.mean()),
                    "share_low": low,
                    "share_high": high,
                    "unjudged": int(group[name].isna().sum()),
                    "questions": len(some),
                    "questions_reflecting": int(some.sum()),
                    "questions_share": float(some.mean()),
                    "questions_low": some_low,
                    "questions_high": some_high,
                }
            )
    return pd.DataFrame(rows)


def answers(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, and which share of responses answers at all: in the template's form, and in the eyes of the judge."""
    rows = []
    for place, group in frame.groupby(PLACE, sort=True):
        of_questions = group.groupby(QUESTION)["correct"].mean()
        low, high = interval(of_questions.tolist())
        judged = group["answering"].dropna()
        rows.append(
            dict(zip(PLACE, place, strict=True))
            | {
                "questions": len(of_questions),
                "responses": len(group),
                "accuracy": float(group["correct"].mean()),
                "accuracy_low": low,
                "accuracy_high": high,
                "formatted": float((group["outcome"] != "no answer").mean()),
                "truncated": float((~group["finished"]).mean()),
                "judged": len(judged),
                "answering": float(judged.mean()) if len(judged) else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def keywords(frame: pd.DataFrame, pool: Sequence[str]) -> pd.DataFrame:
    """For each keyword and place: the responses that hold it, and how often it stands in them."""
    rows = []
    for place, group in frame.groupby(PLACE, sort=True):
        lower = group["text"].str.lower().tolist()
        for keyword in pool:
            counts = [text.count(keyword) for text in lower]
            values = {"keyword": keyword, "responses": sum(c > 0 for c in counts), "occurrences": sum(counts)}
            rows.append(dict(zip(PLACE, place, strict=True)) | values)
    return pd.DataFrame(rows)


def questions(frame: pd.DataFrame) -> pd.DataFrame:
    """For each question, place and detector: responses and accuracy with and without reflection. Unjudged responses are
    neither."""
    rows = []
    for name in detectors(frame):
        known = frame[frame[name].notna()]
        for place, group in known.groupby([*PLACE, "id"], sort=True):
            hit = group[name].astype(bool)
            values: dict[str, Any] = {"detector": name}
            for label, those in (("with", group.loc[hit, "correct"]), ("without", group.loc[~hit, "correct"])):
                values[label] = len(those)
                values[f"accuracy_{label}"] = float(those.mean()) if len(those) else float("nan")
            rows.append(dict(zip([*PLACE, "id"], place, strict=True)) | values)
    table = pd.DataFrame(rows)
    table["difference"] = table["accuracy_with"] - table["accuracy_without"]
    return table


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with reflection minus without, within questions that have both, from the table of `questions`: the mean over
    questions, its interval and the median.

    temperature "all" is the mean over temperatures of the differences within each, so that a temperature which brings both
    more reflection and more errors makes none. A question chooses itself by having both kinds: the numbers do not speak of others.
    """
    both = table.dropna(subset=["difference"]).astype({"temperature": object})
    mixed = both.groupby(["benchmark", "step", "detector", "id"], as_index=False)["difference"].mean()
    rows = []
    keys = ["benchmark", "step", "detector"]
    counted = table.astype({"temperature": object}).groupby([*keys, "temperature"])["id"].nunique()
    counts = {key: int(number) for key, number in counted.items()}
    alike = {(*key, "all"): int(n) for key, n in table.groupby(keys)["id"].nunique().items()}
    several = table["temperature"].nunique() > 1
    for key, number in sorted((counts | (alike if several else {})).items(), key=lambda item: tuple(map(str, item[0]))):
        benchmark, step, detector, temperature = key
        source = mixed if temperature == "all" else both[both["temperature"] == temperature]
        here = (source["benchmark"] == benchmark) & (source["step"] == step) & (source["detector"] == detector)
        values = source.loc[here, "difference"].tolist()
        low, high = interval(values, bounds=(-1.0, 1.0))
        rows.append(
            {
                "benchmark": benchmark,
                "step": step,
                "temperature": temperature,
                "detector": detector,
                "questions": number,
                "with_both": len(values),
                "difference": float(np.mean(values)) if values else float("nan"),
                "low": low,
                "high": high,
                "median": float(np.median(values)) if values else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def behaviours(frame: pd.DataFrame) -> pd.DataFrame:
    """How many reflecting responses show which behaviour, and the share that is superficial, of those with one of the four."""
    rows = []
    for place, group in frame[frame["labeller"] != ""].groupby(PLACE, sort=True):
        known = group[group["behaviour"].notna()]
        counts = {name: int((known["behaviour"] == i).sum()) for i, name in enumerate(NAMES)}
        four = known[known["behaviour"] != int(Behaviour.NONE)]
        hit = four["behaviour"].isin([int(b) for b in SUPERFICIAL]).groupby([four[key] for key in QUESTION])
        shown, whole = hit.sum().tolist(), hit.count().tolist()
        low, high = ratio_interval(shown, whole) if len(whole) > 1 else NONE
        rows.append(
            dict(zip(PLACE, place, strict=True))
            | {"labeller": " and ".join(sorted(set(group["labeller"]))), "reflecting": len(group)}
            | counts
            | {
                "unread": len(group) - len(known),
                "superficial": float(hit.sum().sum() / len(four)) if len(four) else NONE[0],
            }
            | {"superficial_low": low, "superficial_high": high}
        )
    return pd.DataFrame(
        rows, columns=None if rows else [*PLACE, "labeller", "reflecting", *NAMES, "unread", "superficial"]
    )


def interval(values: Sequence[float], bounds: tuple[float, float] = (0.0, 1.0)) -> tuple[float, float]:
    """As `mean_interval`, of one value for each question; NaN for fewer than two of them."""
    return mean_interval(values, bounds=bounds) if len(values) > 1 else NONE


def labellers(
    pool: Sequence[str], judge: Judge | None, instructions: Mapping[str, Instruction], traces: int
) -> pd.DataFrame:
    """How right everyone who labels is on nano traces of known behaviour: detectors of reflection, labellers of behaviours.

    A row for each labeller and truth (all: over all traces, with an interval over traces), and how often each label came.
    """
    rows: list[dict[str, Any]] = []
    known = known_traces(traces)
    truths = [int(trace.truth) for trace in known]
    texts = [{"question": t.question.text, "reference": t.question.answer[0], "response": t.response} for t in known]
    named = [any(keyword in trace.response.lower() for keyword in pool) for trace in known]
    reflect = [int(truth > 0) for truth in truths]
    by_labeller: dict[str, tuple[Sequence[int], Sequence[int | None], Sequence[str]]] = {
        "keyword": (reflect, [int(hit) for hit in named], ("silent", "reflects")),
        "rule": (truths, [int(by_rule(t.question.meta, t.response, pool)) for t in known], NAMES),
    }
    if judge:
        judged = judge.label(instructions["reflection"], texts)
        seen = [None if label is None else int(label == 2) for label in judged]
        both = [0 if not hit else label for hit, label in zip(named, seen, strict=True)]
        by_labeller["judge detects"] = (reflect, seen, ("silent", "reflects"))
        by_labeller["cross"] = (reflect, both, ("silent", "reflects"))
        by_labeller["judge"] = (truths, judge.label(instructions["behaviour"], texts), NAMES)
    for labeller, (truth, labels, names) in by_labeller.items():
        for kind in ("all", *names):
            here = [(t, label) for t, label in zip(truth, labels, strict=True) if kind in ("all", names[t])]
            right = [float(t == label) for t, label in here]
            if right:
                low, high = interval(right)
                values: dict[str, Any] = {
                    "labeller": labeller,
                    "truth": kind,
                    "traces": len(here),
                    "right": fmean(right),
                }
                counts = {f"as {name}": sum(label == i for _, label in here) for i, name in enumerate(names)}
                rows.append(values | {"low": low, "high": high} | counts | {"unread": sum(y is None for _, y in here)})
    return pd.DataFrame(rows, columns=None if rows else ["labeller", "truth", "traces", "right", "low", "high"])


def summary(tables: Mapping[str, pd.DataFrame], judged: bool, notes: Sequence[str]) -> str:
    """The tables that a person wants to see first, with what they do and do not say."""
    pieces = []
    for title, name, columns in (
        (
            "Who reflects (intervals: 95 % over questions)",
            "reflection",
            [
                *PLACE,
                "detector",
                "responses",
                "reflecting",
                "share",
                "share_low",
                "share_high",
                "questions",
                "questions_reflecting",
                "unjudged",
            ],
        ),
        (
            "Answers",
            "reflection_answers",
            [*PLACE, "questions", "accuracy", "accuracy_low", "accuracy_high", "formatted", "answering"],
        ),
        (
            "Accuracy with reflection minus without, within questions that have both",
            "reflection_differences",
            [
                "benchmark",
                "step",
                "temperature",
                "detector",
                "questions",
                "with_both",
                "difference",
                "low",
                "high",
                "median",
            ],
        ),
        ("What reflection does", "reflection_behaviours", None),
        (
            "How right the labellers are on nano traces of known truth",
            "reflection_labellers",
            ["labeller", "truth", "traces", "right", "low", "high"],
        ),
    ):
        table = tables[name]
        shown = table if columns is None or table.empty else table[columns]
        if name == "reflection_labellers" and not table.empty:
            shown = shown[shown["truth"] == "all"]
        if "step" in shown and (shown["step"] < 0).all():
            shown = shown.drop(columns="step")
        text = "none" if shown.empty else shown.to_string(index=False, float_format="{:.3f}".format, na_rep="-")
        pieces.append(f"{title}:\n{text}")
    if not judged:
        pieces.append(
            "No judge (judge.url): reflection is what keywords find, and only chains of the nano world have behaviours."
        )
    pieces.append("Reflection is not assigned by lot: a difference in accuracy is no effect of reflecting.")
    return "\n\n".join([*pieces, *notes])
