"""What a reflection does to an answer: the rule for nano chains, and its accuracy where the truth is known."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from analysis.reflection.behaviours import (
    HARD,
    LURES,
    SUPERFICIAL,
    UNNAMED,
    Behaviour,
    behaviour,
    by_rule,
    is_chain,
    known_traces,
)
from analysis.reflection.tables import labellers
from zero.nano.world import rows
from zero.reflection import KEYWORDS, reflects

META = {"level": 2, "start": 3, "steps": ["+4", "*2"]}  # 7, then 14
RIGHT, WRONG = "3+4=7.\n7*2=14.", "3+4=8.\n8*2=16."
AGAIN = "\nLet me recheck.\n"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (RIGHT + "\nThe answer is \\boxed{14}.", Behaviour.NONE),
        (f"{RIGHT}{AGAIN}{RIGHT}\nThe answer is \\boxed{{14}}.", Behaviour.CONFIRMS),
        (f"{RIGHT}\nThe answer is \\boxed{{14}}.{AGAIN}", Behaviour.CONFIRMS),  # doubted and not changed
        (f"3+4=7.{AGAIN}{RIGHT}\nThe answer is 14.", Behaviour.CONFIRMS),  # half the work was right so far
        (f"{WRONG}{AGAIN}{RIGHT}", Behaviour.CORRECTS),
        (f"3+4=8.{AGAIN}{RIGHT}\nThe answer is \\boxed{{14}}.", Behaviour.CORRECTS),
        (f"{WRONG}{AGAIN}No, it is 14.", Behaviour.CORRECTS),
        (f"{RIGHT}{AGAIN}{WRONG}\nThe answer is \\boxed{{16}}.", Behaviour.SPOILS),
        (f"{WRONG}{AGAIN}{WRONG}{AGAIN}{WRONG}\nThe answer is \\boxed{{16}}.", Behaviour.CIRCLES),
        (f"{RIGHT}{AGAIN}3+4=7.", Behaviour.CIRCLES),  # it never comes to an answer
        (f"{WRONG}{AGAIN}{RIGHT}{AGAIN}{RIGHT}\nThe answer is \\boxed{{14}}.", Behaviour.CORRECTS),
        (f"Let me rethink this. {RIGHT}\nThe answer is \\boxed{{14}}.", Behaviour.NONE),  # corrects no earlier step
        ("recheck" * 100_000, Behaviour.CIRCLES),
        ("recheck " + "9" * 100_000 + "+1=2. \\boxed{" * 1000, Behaviour.CIRCLES),
        ("", Behaviour.NONE),
    ],
)
def test_the_rule_reads_chains(response: str, expected: Behaviour) -> None:
    assert by_rule(META, response, KEYWORDS) is expected


def test_the_table_of_behaviours() -> None:
    table = {(b, a): behaviour(b, a).value for b in (True, False, None) for a in (True, False, None)}
    assert table == {
        (True, True): 1, (True, False): 3, (True, None): 4, (False, True): 2, (False, False): 4, (False, None): 4,
        (None, True): 0, (None, False): 4, (None, None): 4,
    }  # fmt: skip
    assert {3, 4} == SUPERFICIAL


def test_known_traces_have_the_behaviour_they_are_labelled_with() -> None:
    traces = known_traces(500)
    assert traces == known_traces(500) and traces[:20] == known_traces(20) != known_traces(20, seed=1)
    assert set(Counter(trace.truth for trace in traces).values()) == {100}
    for trace in traces:
        answer, boxed = trace.question.answer[0], re.findall(r"\{(\d+)\}|answer is (\d+)", trace.response)
        last = next((a or b for a, b in boxed[-1:]), None)
        if trace.truth in (Behaviour.CONFIRMS, Behaviour.CORRECTS):
            assert last == answer
        if trace.truth is Behaviour.SPOILS:
            assert last not in (None, answer)
        if trace.truth is Behaviour.CIRCLES:
            assert last != answer
    unnamed = [t for t in traces if t.truth and not reflects(t.response)]
    lured = [t for t in traces if not t.truth and reflects(t.response)]
    assert all(any(words in t.response for words in UNNAMED) for t in unnamed)
    assert 0.3 * HARD < len(unnamed) / 400 < 1.5 * HARD and 0 < len(lured) / 100 < 3 * HARD
    assert not any(reflects(words) for words in UNNAMED) and all(reflects(words) for words in LURES)


def test_the_rule_is_measured_and_errs_only_where_keywords_do() -> None:
    traces = known_traces(1000)
    for trace in traces:
        if by_rule(trace.question.meta, trace.response, KEYWORDS) != trace.truth:
            assert (
                any(words in trace.response for words in UNNAMED)
                or "books" in trace.response
                or "shop" in trace.response
            )
    table = labellers(KEYWORDS, None, {}, 1000)
    rule = table[table["labeller"] == "rule"].set_index("truth")
    every, by_truth = rule.loc["all"], rule.drop(index="all")
    assert 0.85 < every["low"] < every["right"] < every["high"] < 0.99
    assert (by_truth["traces"] == 200).all() and by_truth["right"].mean() == pytest.approx(every["right"])
    labels = [column for column in rule if column.startswith("as ")]
    assert every[labels].sum() == 1000 and every["unread"] == 0
    assert all(row[f"as {name}"] == row["right"] * 200 for name, row in by_truth.iterrows())


def test_chains_are_told_from_other_questions() -> None:
    assert all(is_chain(q.meta) for kind in ("math", "gsm", "asdiv") for q in rows(kind, 4, 4).heldout)
    assert not any(is_chain(q.meta) for q in rows("countdown", 4, 4).heldout) and not is_chain({})
