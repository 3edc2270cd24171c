"""Metrics of episodes, from their rows as they are saved: how they ended, and what happened at each turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from zero.images import run_path
from zero.records import Completion, Ending, Group, Metrics, Outcome

SHOWN = 10  # turns with curves of their own
SHOWN_KINDS = (
    20  # kinds of turns in a step; the rarer ones are OTHER: an environment may call every turn something else
)
OTHER = "other"
# What zero.environments.tries calls its turns: where a question may be tried again, accuracy is that of the first try
TRIES = tuple(str(outcome).replace(" ", "_") for outcome in (Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER))


def episode_row(completion: Completion) -> dict[str, Any]:
    """The columns of an episode; none outside environments."""
    if not completion.turns:
        return {}
    turns = [
        {"text": turn.text, "reward": turn.reward, "kind": turn.kind, "tokens": turn.end - turn.start}
        | ({"images": [run_path(digest) for digest in turn.images]} if turn.images else {})
        for turn in completion.turns
    ]
    observed = sum(turn.start - before.end for before, turn in pairwise(completion.turns))
    return {"turns": turns, "ending": str(completion.ending), "observed": observed}


def policy_texts(row: Mapping[str, Any]) -> list[str]:
    """What the policy wrote, without the environment's words between."""
    return [str(turn["text"]) for turn in row.get("turns", ())] or [str(row["response"])]


def tried_again(completion: Completion) -> bool:
    """Whether the first try at a question that may be tried again was wrong."""
    return completion.success is None and len(completion.turns) > 1 and completion.turns[0].kind in TRIES


def try_metrics(table: Sequence[Mapping[str, Any]]) -> Metrics:
    """`solved` and `tries` of questions that may be tried again; {} of other rows."""
    tries = [sum(turn["kind"] in TRIES for turn in row.get("turns", ())) for row in table]
    if not any(tries):
        return {}
    return {"solved": fmean(row["solved"] for row in table), "tries": fmean(tries)}


def episode_metrics(table: Sequence[Mapping[str, Any]]) -> Metrics:
    """Metrics of a table of rows by their names in training; {} outside environments."""
    table = [row for row in table if "turns" in row]
    if not table:
        return {}
    metrics = {
        "episode/turns": fmean(len(row["turns"]) for row in table),
        "episode/observed": fmean(row["observed"] for row in table),
    }
    endings = Counter(row["ending"] for row in table)
    metrics |= {f"episode/{ending.replace(' ', '_')}": endings[ending] / len(table) for ending in Ending}
    turns = [turn for row in table for turn in row["turns"]]
    kinds = Counter(turn["kind"] for turn in turns if turn["kind"])
    shown = dict(sorted(kinds.most_common(SHOWN_KINDS)))
    if others := kinds.total() - sum(shown.values()):
        shown[OTHER] = shown.get(OTHER, 0) + others
    metrics |= {f"turns/{kind}": count / len(turns) for kind, count in shown.items()}
    for k in range(min(SHOWN, max(len(row["turns"]) for row in table))):
        taken = [row["turns"][k] for row in table if len(row["turns"]) > k]
        metrics |= {
            f"turn/{k + 1}/alive": len(taken) / len(table),
            f"turn/{k + 1}/reward": fmean(turn["reward"] for turn in taken),
            f"turn/{k + 1}/positive": fmean(turn["reward"] > 0 for turn in taken),
            f"turn/{k + 1}/length": fmean(turn["tokens"] for turn in taken),
        }
    return metrics


def prefix_cached(groups: Sequence[Group]) -> Metrics:
    """How much of what later turns see their engine had read in earlier ones; {} if it does not say, or there are none."""
    cached = seen = 0
    for group in groups:
        for completion in group.completions:
            start = -len(group.prompt.ids)  # of the context
            for before, turn in pairwise(completion.turns):
                start = before.end if turn.fresh else start
                if turn.cached >= 0:
                    cached, seen = cached + turn.cached, seen + turn.start - start
    return {"speed/prefix_cached": cached / seen} if seen else {}
