r"""Reward terms for the answer and the form of a response. conf/reward/*.yaml weighs and adds them up.

A term is a function of one zero.records.Response, with further arguments set in yaml; your own functions, anywhere on
Python's path, can be used in the same way. All are total and linear in the response. Terms for length and repetition are in
rewards_length.py.

Departures from the public systems that these come from, all of which get these cases wrong: reasoning may span lines; a tag
that the template opened in the prompt counts as written by the model; nothing may follow a complete form; nothing is
executed. Whether an answer is right is not decided here: the Response holds the verdict of the question set's checker.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

from zero.grading.countdown import Expression, read_expression
from zero.records import Outcome, Question, Response

_INTEGER = re.compile(r"[-+\u2212]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)")
_PLAIN_ARITHMETIC = re.compile(r"[0-9+*/().\s-]+")
_STEP = re.compile(r"\bStep [0-9]{1,4}:|^[0-9]{1,4}\.(?![0-9])|^[-*] |\b(?:First|Second|Next|Finally),", re.MULTILINE)
_BELOW_ONE = 1 - 2**-53  # the largest float below 1


# The environment


def episode_return(response: Response) -> float:
    """The sum of what the environment gave for the turns; 0 outside environments. Each turn earns its own."""
    return sum(turn.reward for turn in response.turns)


# The answer


def correctness(response: Response, right: float = 1.0, wrong: float = 0.0, no_answer: float | None = None) -> float:
    """`right` if the answer that the template extracted is right; `no_answer` (default: `wrong`) if it found none.

    An answer that the checker cannot read, or not in time, counts as wrong. Every system has this term.
    """
    return _worth(response.strict, right, wrong, no_answer)


def lenient_correctness(
    response: Response, right: float = 1.0, wrong: float = 0.0, no_answer: float | None = None
) -> float:
    """As `correctness`, for the answer in any form: SimpleRL-Zoo's choice, since a rigid form harmed weak base models."""
    return _worth(response.lenient, right, wrong, no_answer)


def _worth(outcome: Outcome, right: float, wrong: float, no_answer: float | None) -> float:
    if outcome is Outcome.CORRECT:
        return right
    return no_answer if outcome is Outcome.NO_ANSWER and no_answer is not None else wrong


def has_answer(response: Response) -> float:
    """1 if the template found an answer, right or wrong, else 0. TinyZero and oat-zero pay 0.1 for it."""
    return float(response.formatted)


def boxed_present(response: Response, present: float = 1.0, absent: float = 0.0) -> float:
    r"""`present` if the string "boxed" stands anywhere in the response, else `absent`. SimpleRL v0.

    As in theirs the word is enough: a `\boxed{` that never closes counts.
    """
    return present if "boxed" in response.text else absent


def integer(response: Response) -> float:
    """1 if the extracted answer is a whole number, else 0. The GRPO demo's `int`, which refused -5, +5 and 1,000."""
    return float(response.answer is not None and _INTEGER.fullmatch(response.answer.strip()) is not None)


def closeness(response: Response) -> float:
    """Partial credit for a number near the target: 1 if the answer is right, else 1 - distance / max(1, |target|), at least 0
    and always below 1, by exact arithmetic.

    The distance is that of the value, or of the number that the answer claims after a `=` if that is farther off. 0 unless
    the answer is an expression of the given numbers, each once. ValueError for a question without numbers and a target.
    """
    numbers, target = _task(response)
    if response.correct:
        return 1.0
    expression = _expression(response.answer)
    if expression is None or expression.value is None or expression.numbers != numbers:
        return 0.0
    claimed = target if expression.claimed is None else expression.claimed
    distance = max(abs(expression.value - target), Fraction(abs(claimed - target)))
    return min(float(max(Fraction(0), 1 - distance / max(1, abs(target)))), _BELOW_ONE)


def numbers_overlap(response: Response) -> float:
    """Partial credit for the right numbers: 1 if the answer is right, else the share of the given numbers that it uses exactly
    as often as they are given, of all that are given or, if it uses more than that, of all that it uses.

    0 unless the answer is an expression: the branches of TinyZero paid for a list of the numbers, too. ValueError for a
    question without numbers and a target.
    """
    numbers, _ = _task(response)
    if response.correct:
        return 1.0
    expression = _expression(response.answer)
    if expression is None:
        return 0.0
    given, used = Counter(numbers), Counter(expression.numbers)
    matching = sum(count for number, count in given.items() if used[number] == count)
    return matching / max(len(numbers), len(expression.numbers))


def _task(response: Response) -> tuple[tuple[int, ...], int]:
    task = _numbers_and_target(response.question)
    if task is None:
        raise ValueError("questions must have numbers and a target in meta, as those of questions=countdown have")
    return task


def general_points(
    response: Response, right: float = 5.0, unsolved: float = -1.0, numbers: float = -2.0, illegal: float = -3.0
) -> float:
    """Four levels for a formula over cards: `right`; a legal one with another value `unsolved`; one that does not use each
    card's number once `numbers`; no answer, or no formula, `illegal`. SFTvsRL, one turn.

    Theirs adds the penalty of overused to that of unused numbers (-4, below an illegal formula), takes a space for an
    illegal character, and refuses 8/(3-8/3) = 24 by floating point. Without meta["numbers"] no numbers are wrong.
    """
    if response.correct:
        return right
    task, expression = _numbers_and_target(response.question), _expression(response.answer)
    if expression is None:
        return illegal
    return numbers if task is not None and expression.numbers != task[0] else unsolved


def _numbers_and_target(question: Question) -> tuple[tuple[int, ...], int] | None:
    """The numbers in ascending order, and the target, of a question that has them."""
    numbers, target = question.meta.get("numbers"), question.meta.get("target")
    return None if numbers is None or target is None else (tuple(sorted(numbers)), target)


def _expression(answer: str | None) -> Expression | None:
    try:
        return read_expression(answer or "")
    except ValueError:
        return None


# The form. `think` names the tag of the reasoning: "think", or "reasoning" in the GRPO demo.


def tag_format(response: Response, think: str = "think", own_lines: bool = True) -> float:
    """1 if the whole response is `<think>...</think><answer>...</answer>`, each tag exactly once, else 0.

    own_lines=True: every tag on a line of its own (open-r1; with think="reasoning" the GRPO demo's strict form), one
    line end may follow. False: any white space or none between the blocks and around them (Mini-R1, nano-aha-moment).
    Theirs: open-r1 lets text and further blocks follow (MULTILINE), and gives 0 if the template opened the tag; the demo
    gives 0 to reasoning of two lines (no DOTALL) and to a missing last line end; Mini-R1 wants exactly one line end
    between the blocks and lets a second <answer> pass.
    """
    return float(_answer_block(response, think, own_lines) is not None)


def arithmetic_format(response: Response, plain: float = 1.0, other: float = 0.5) -> float:
    """`plain` in the form of tag_format(own_lines=False) with nothing but digits, + - * / ( ) . and white space in the
    answer; `other` in that form with anything else; 0 otherwise. nano-aha-moment."""
    answer = _answer_block(response, "think", own_lines=False)
    if answer is None:
        return 0.0
    return plain if _PLAIN_ARITHMETIC.fullmatch(answer) else other


def tags_in_order(response: Response, think: str = "think") -> float:
    """1 if the response begins with `<think>`, and `</think>`, white space or none, `<answer>` and `</answer>` follow,
    with anything after them; else 0. The GRPO demo's soft form, over several lines too."""
    whole = _whole(response, think).lstrip()
    between = re.search(rf"</{re.escape(think)}>\s*<answer>", whole)
    closed = between is not None and whole.find("</answer>", between.end()) >= 0
    return float(whole.startswith(f"<{think}>") and closed)


def tag_count(response: Response, think: str = "think") -> float:
    r"""A quarter for each of `<think>\n`, `\n</think>\n`, `\n<answer>\n`, `\n</answer>` that occurs exactly once: in
    [0, 1]. open-r1, where a model whose template opens the tag never gets the first quarter."""
    return _tags_once(_whole(response, think), think) / 4


def xml_count(response: Response, think: str = "reasoning", each: float = 0.125, trailing: float = 0.001) -> float:
    r"""`each` for every tag as in tag_count, less `trailing` per character after the last `</answer>`, one line end
    free: in [0, 4 x each]. The GRPO demo, which subtracts twice, and without bound."""
    whole = _whole(response, think)
    _, closed, after = whole.rpartition("\n</answer>")
    extra = len(after.removeprefix("\n")) if closed else 0
    return max(0.0, each * _tags_once(whole, think) - trailing * extra)


def reasoning_steps(response: Response, enough: int = 3) -> float:
    """min(1, count / enough) of "Step 1:", "First," and the like, "1." or a bullet at the start of a line. open-r1,
    where "1." counts on the first line only. `enough` is at least 1."""
    if enough < 1:
        raise ValueError("enough must be 1 or more")
    return min(1.0, sum(1 for _ in _STEP.finditer(response.text)) / enough)


def _whole(response: Response, think: str) -> str:
    """The response, with the tag before it that the template opened at the very end of the prompt, if it did."""
    opening, prompt = f"<{think}>", response.prompt.rstrip()
    return response.prompt[len(prompt) - len(opening) :] + response.text if prompt.endswith(opening) else response.text


def _tags_once(whole: str, think: str) -> int:
    tags = (f"<{think}>\n", f"\n</{think}>\n", "\n<answer>\n", "\n</answer>")
    return sum(whole.count(tag) == 1 for tag in tags)


def _answer_block(response: Response, think: str, own_lines: bool) -> str | None:
    """The text in <answer> if the whole response has the form of `tag_format`, else None."""
    whole = _whole(response, think)
    if any(whole.count(tag) != 1 for tag in (f"<{think}>", f"</{think}>", "<answer>", "</answer>")):
        return None  # this also keeps the search below linear
    end, around, last = ("\n", "", "\n?") if own_lines else ("", r"\s*", r"\s*")
    name, between = re.escape(think), around or end
    form = rf"{around}<{name}>{end}.*?{end}</{name}>{between}<answer>{end}(.*?){end}</answer>{last}"
    match = re.fullmatch(form, whole, re.DOTALL)
    return match[1] if match else None
