"""The pretraining text: no held-out question, the planted shares, right arithmetic where it is meant to be right."""

from __future__ import annotations

import hashlib
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from zero.errors import InputError
from zero.nano.corpus import REFLECTIONS, Mix, documents
from zero.reflection import reflects

CONF = Path(__file__).parents[2] / "conf"
STAGES = OmegaConf.load(CONF / "corpus/nano.yaml").stages
QUESTION = re.compile(
    r"Start with [^?]*What is the result\?|(?<![a-z] )[A-Z][a-z]+ has \d[^?]*\?|Use \d, \d(?:, \d)? to make \d+\."
)
WORK = re.compile(r"(?:^|\? )(\d+[-+*]\d+)=(\d+)\.$", re.MULTILINE)


def mix(**changes: Any) -> Mix:
    settings: dict[str, Any] = {
        "sets": {"math": 1.0},
        "styles": {"careful": 1.0},
        "formats": {"plain": 1.0},
        **dict.fromkeys(("slip", "recheck", "afterthought", "guess", "talk", "broken"), 0.0),
        "end": 1.0,
    }
    return Mix(**(settings | changes))


def texts(count: int, **changes: Any) -> list[str]:
    return [text for text, _ in islice(documents(mix(**changes), 0), count)]


def digest_of(question: str) -> bytes:
    if question.startswith("Use"):
        *numbers, target = map(int, re.findall(r"\d+", question))
        question = f"countdown {sorted(numbers)} {target}"
    return hashlib.md5(question.encode()).digest()


@pytest.mark.parametrize("stage", list(STAGES))
def test_no_heldout_question_is_in_the_shipped_corpus(stage: str) -> None:
    source = instantiate(STAGES[stage].documents, _convert_="all")
    shipped = [text for text, _ in islice(source(seed=0), 20000)]
    questions = [question for text in shipped for question in QUESTION.findall(text)]
    # the search finds them all
    assert len(questions) == sum(bool(re.search(r"\d", text)) for text in shipped) > 0.9 * len(shipped)
    assert min(digest_of(question)[0] for question in questions) >= 13


def test_same_seed_same_documents() -> None:
    assert texts(50) == texts(50)
    assert [t for t, _ in islice(documents(mix(), 1), 50)] != texts(50)


def test_careful_work_is_true_and_answers_the_question() -> None:
    for text in texts(300, sets={"math": 1, "gsm": 1, "asdiv": 1}):
        lines = WORK.findall(text)
        assert lines
        assert all(eval(left) == int(right) for left, right in lines)
        assert text.endswith(f"\nThe answer is \\boxed{{{lines[-1][1]}}}.")
        assert len(lines) == len(re.findall(r"\d+", QUESTION.search(text).group())) - 1  # type: ignore[union-attr]


def test_slips_occur_at_their_rate() -> None:
    lines = [line for text in texts(1500, styles={"sloppy": 1}, slip=0.3) for line in WORK.findall(text)]
    wrong = sum(eval(left) != int(right) for left, right in lines) / len(lines)
    assert wrong == pytest.approx(0.3, abs=0.03)


def test_styles_have_their_form() -> None:
    assert all("=" not in text and "\\boxed" in text for text in texts(100, styles={"direct": 1}))
    assert all("\\boxed" not in text for text in texts(100, styles={"unboxed": 1}))
    rechecked = texts(400, styles={"rechecked": 1}, recheck=0.5)
    assert sum(map(reflects, rechecked)) / 400 == pytest.approx(0.9, abs=0.06)


def test_only_the_reflections_reflect() -> None:
    """The detector is the one that runs are measured with, so the planted share is the share it sees."""
    assert all(map(reflects, REFLECTIONS))
    styles = {"careful": 1, "sloppy": 1, "direct": 1, "unboxed": 1}
    plain = texts(1000, sets={"math": 1, "gsm": 1, "asdiv": 1}, styles=styles, slip=0.3, talk=0.2)
    assert not any(map(reflects, plain))
    assert sum(map(reflects, texts(1000, afterthought=0.25))) / 1000 == pytest.approx(0.25, abs=0.05)


def test_countdown_searches_end_on_the_first_hit() -> None:
    hits = 0
    for text in texts(400, sets={"countdown": 1}):
        *numbers, target = map(int, re.findall(r"\d+", QUESTION.search(text).group()))  # type: ignore[union-attr]
        verdicts = re.findall(r"=(\d+)\. (Yes|No)\.", text)
        assert [word for _, word in verdicts[:-1]] == ["No"] * (len(verdicts) - 1)
        assert all((int(value) == target) == (word == "Yes") for value, word in verdicts)
        expression = text.split("\\boxed{")[1].split("}")[0]
        assert sorted(map(int, re.findall(r"\d", expression))) == sorted(numbers)
        assert (eval(expression) == target) == (verdicts[-1][1] == "Yes")
        hits += verdicts[-1][1] == "Yes"
    assert 60 < hits < 340


def test_ends_and_formats() -> None:
    sample = list(islice(documents(mix(end=0.7), 0), 1000))
    assert sum(ended for _, ended in sample) / 1000 == pytest.approx(0.7, abs=0.05)
    assert all(text.endswith("\n\n") != ended for text, ended in sample)


def test_tagged_and_chat_documents_keep_their_form_unless_broken() -> None:
    tagged = re.compile(
        r"(?:[A-Z][^\n]*\.\n|[A-Z][^\n]*\?[^\n]*\n)?User: [^\n]*\nAssistant: <think> "
        r"(?:(?!</?think>).)* </think> <answer> \\boxed\{\d+\} </answer>",
        re.DOTALL,
    )
    chat = re.compile(
        r"(?:<\|im_start\|>system\n[^\n]*<\|im_end\|>\n)?<\|im_start\|>user\n[^\n]*\d[^\n]*<\|im_end\|>\n"
        r"<\|im_start\|>assistant\n[^<]*\\boxed\{\d+\}\.<\|im_end\|>",
    )
    for name, form in (("tagged", tagged), ("chat", chat)):
        assert all(form.fullmatch(text) for text in texts(200, formats={name: 1}))
        matching = [bool(form.fullmatch(text)) for text in texts(1000, formats={name: 1}, broken=0.4)]
        assert sum(matching) / 1000 == pytest.approx(0.6, abs=0.06)


@pytest.mark.parametrize("key", ["sets", "styles", "formats"])
def test_unknown_names_are_refused(key: str) -> None:
    with pytest.raises(InputError, match=f"corpus.{key}"):
        documents(mix(**{key: {"algebra": 1.0}}), 0)
