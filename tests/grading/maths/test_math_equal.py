r"""math_equal as users call it: through the workers, in three modes, on several references, under a limit."""

from __future__ import annotations

import pytest

from zero.errors import InputError
from zero.grading import check_equal, check_maths, math_equal
from zero.records import Outcome, Question

# what the paper's grader says where a mathematician would not; both directions of its defects
DIFFER = [
    # answer, reference, strict, paper_fast, paper_slow
    ("a+b", "c+b", False, True, True),
    ("\\frac{a}{b}", "\\frac{c}{b}", False, True, True),
    ("5 east", "5 west", False, True, True),
    ("1,234", "(1,234)", False, True, True),
    ("12_{3}", "12_{4}", False, False, True),
    ("101_2", "101", False, False, True),
    ("\\frac{2}{4}", "\\frac{1}{2}", True, False, True),
    ("2^{10}", "1024", True, False, True),
    ("\\{2,1\\}", "\\{1,2\\}", True, False, True),
    ("x<2", "(-\\infty,2)", True, False, False),
    ("\\frac{\\pi}{2}", "90^\\circ", True, False, False),
    ("x+1", "1+x", True, True, True),
    ("7", "8", False, False, False),
]


@pytest.mark.parametrize(("answer", "reference", "strict", "fast", "slow"), DIFFER)
def test_the_three_modes_differ_where_the_table_says(
    answer: str, reference: str, strict: bool, fast: bool, slow: bool
) -> None:
    modes = ("strict", "paper_fast", "paper_slow")
    assert [math_equal(answer, reference, mode=mode) for mode in modes] == [strict, fast, slow]


def test_any_reference_will_do() -> None:
    assert math_equal("1/2", ["0.3", "0.5"])
    assert math_equal("1+x", ["y", "x+1"])
    assert not math_equal("1/2", ["0.3", "0.4"])
    assert not math_equal("1/2", [])
    assert check_equal("1/2", Question("", ("0.3", "0.5"), "q"))


@pytest.mark.parametrize(
    "dress", ["\\boxed{5}", "#### 5", "$\\boxed{5}$", "<answer>5</answer>", "2+3=5, so \\boxed{5}."]
)
def test_a_reference_is_taken_out_of_its_formatting(dress: str) -> None:
    assert math_equal("five", dress)
    assert not math_equal("2", dress)
    assert math_equal("2,1", "\\boxed{1} \\text{ or } \\boxed{2}") and not math_equal("2", "\\boxed{1} or \\boxed{2}")


def test_a_hostile_answer_is_not_equal_and_costs_no_more_than_its_limit() -> None:
    for answer in ("9**9**9**9+x", "x" * 200_000, "((((" * 5000, "\0", "\ud800", "__import__('os').system('false')"):
        for mode in ("strict", "paper_fast", "paper_slow"):
            assert not math_equal(answer, "x", mode=mode, limit_s=0.2)


def test_outcomes_are_distinguished() -> None:
    question = Question("", ("x+1",), "q")
    answers = ["1+x", "x", "\\frac{", "no idea at all"]
    outcomes = check_maths.many([(answer, question) for answer in answers])
    assert outcomes[:2] == [Outcome.CORRECT, Outcome.WRONG]
    assert outcomes[2] is Outcome.UNPARSED
    assert outcomes[3] in (Outcome.WRONG, Outcome.UNPARSED)


def test_another_mode_is_refused() -> None:
    with pytest.raises(InputError, match=r"mode=lenient: choose one of strict, paper_fast, paper_slow"):
        math_equal("1", "1", mode="lenient")
