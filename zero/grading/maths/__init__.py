"""Mathematical answers: equal or not, for one answer and as checkers of question sets.

Three modes. `strict` is ours: exact, no tolerance, a mathematician's "the same answer" (zero/grading/maths/symbolic.py).
`paper_fast` and `paper_slow` give the verdicts of arXiv 2503.20783's code, its defects included
(zero/grading/maths/understand_r1_zero.py), so that published numbers can be compared; its training uses the first, its
evaluation the second. Select one for a question set by `questions.check._target_=zero.grading.check_paper_slow`.

Algebra runs only in worker processes with limits (zero/grading/worker_pool.py); answers that need none are decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zero.errors import InputError
from zero.grading.maths.exact import exact_equal
from zero.grading.worker_pool import BoundedChecker
from zero.questions.references import reference as out_of_dress
from zero.records import Outcome, Question


def check_equal(answer: str, question: Question) -> bool:
    """Whether the answer equals a reference without any algebra: numbers and words. Quick, in this process."""
    return bool(_exact(answer, question))


def _exact(answer: str, question: Question) -> bool | None:
    """True or False where no algebra is needed, else None."""
    verdicts = [exact_equal(answer, undressed_reference(reference)) for reference in question.answer]
    return True if True in verdicts else None if None in verdicts else False


def strict(answer: str, question: Question) -> bool:
    """Strict equality with any of the references; may take long. For worker processes."""
    from zero.grading.maths.symbolic import strict_equal

    return any(strict_equal(answer, undressed_reference(reference)) for reference in question.answer)


def undressed_reference(reference: str) -> str:
    """A reference without its box, its `####` or its tags, also if a solution stands around them; others unchanged."""
    if "\\boxed" not in reference and "####" not in reference and "</answer>" not in reference:
        return reference
    try:
        return out_of_dress(reference, "", "")
    except InputError:  # a box that is empty or never closes
        return reference


def paper_fast(answer: str, question: Question) -> bool:
    """The paper's verdict in training; may take long. For worker processes."""
    from zero.grading.maths.understand_r1_zero import paper_fast as same

    return any(same(answer, reference) for reference in question.answer)


def paper_slow(answer: str, question: Question) -> bool:
    """The paper's verdict in evaluation; may take long. For worker processes."""
    from zero.grading.maths.understand_r1_zero import paper_slow as same

    return any(same(answer, reference) for reference in question.answer)


check_maths = BoundedChecker("zero.grading.maths.strict", quick=_exact, preload=("zero.grading.maths.symbolic",))
check_paper_fast = BoundedChecker("zero.grading.maths.paper_fast", preload=("zero.grading.maths.understand_r1_zero",))
check_paper_slow = BoundedChecker("zero.grading.maths.paper_slow", preload=("zero.grading.maths.understand_r1_zero",))
MODES = {"strict": check_maths, "paper_fast": check_paper_fast, "paper_slow": check_paper_slow}


def math_equal(answer: str, reference: str | Sequence[str], *, mode: str = "strict", limit_s: float = 1.0) -> bool:
    """Whether the answer equals the reference, or any of several. An answer that cannot be read, or takes longer than limit_s
    CPU seconds, is not equal. `mode` is strict, paper_fast or paper_slow; InputError for another.
    """
    if mode not in MODES:
        raise InputError("mode", mode, f"choose one of {', '.join(MODES)}")
    references = (reference,) if isinstance(reference, str) else tuple(reference)
    checker = replace(MODES[mode], limit_s=limit_s)
    return checker.many([(answer, Question("", references, ""))]) == [Outcome.CORRECT]
