"""Do the prompts fit the model's context, with room for an answer?"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from zero.benchmark import Benchmark
from zero.errors import InputError
from zero.questions import QuestionSet
from zero.records import Prompt, Question, Sampling
from zero.template import AnyTemplate

MAX_LONG_ROWS_COUNTED = 200  # rows that are too long, to know that the settings are wrong
MAX_LONG_SHARE = 0.05  # share of a training set that may be too long for the context


def without_overlong_prompts(
    questions: QuestionSet, template: AnyTemplate, tokenizer: Any, sampling: Sampling, context: int
) -> QuestionSet:
    """The set without the training rows whose prompts leave less than a full answer of the context; noted in its rows.

    InputError if that is more than one row in twenty: then the settings are wrong, not the rows.
    """
    room = context - sampling.max_tokens
    total = len(questions.rows.train)
    long: dict[str, int] = {}
    for prompt in _long_prompts(questions.rows.train, template, tokenizer, room):
        if len(prompt.ids) > context - prompt.sampling(sampling).max_tokens:
            long[prompt.question.id] = len(prompt.ids)
        if len(long) > max(MAX_LONG_ROWS_COUNTED, MAX_LONG_SHARE * total):  # the rows that are left may take minutes
            break
    if len(long) > MAX_LONG_SHARE * total:
        least = "at least " if len(long) > MAX_LONG_ROWS_COUNTED else ""
        longest = max(long.values())
        lower = f"lower it to {context - longest} or " if longest < context else ""
        remedy = (
            f"with prompts of up to {longest} tokens it exceeds the context of {context} (model.context) for "
            f"{least}{len(long)} of {total} questions; {lower}choose a model with more"
        )
        raise InputError("sampling.max_tokens", sampling.max_tokens, remedy)
    note = f"dropped {len(long)} rows whose prompts leave less than {sampling.max_tokens} tokens: {', '.join(long)}"
    return questions.drop_rows(frozenset(long), note) if long else questions


def check_context(bench: Benchmark, template: AnyTemplate, tokenizer: Any, context: int) -> None:
    """Refuse a benchmark with a prompt that leaves no room for an answer; say how many leave less than a full one."""
    budget = bench.sampling.max_tokens
    short = 0
    for prompt in _long_prompts(bench.subset(), template, tokenizer, context - budget):
        length = len(prompt.ids)
        if length >= context:
            remedy = f"a prompt of {length} tokens exceeds the context of {context} (model.context); drop question "
            raise InputError("benchmarks", bench.questions.name, remedy + prompt.question.id)
        short += length + prompt.sampling(bench.sampling).max_tokens > context
    if short:
        print(f"benchmark {bench.questions.name}: {short} prompts leave less than {budget} tokens", file=sys.stderr)


def _long_prompts(rows: Sequence[Question], template: AnyTemplate, tokenizer: Any, room: int) -> Iterator[Prompt]:
    """The prompts that may have more tokens than `room`: those of more bytes than that."""
    around: dict[str, int] = {}  # tokens of the template alone; the sources of a mixture may have their own
    for q in rows:
        if q.kind not in around:
            around[q.kind] = len(template.prompt(replace(q, text="?"), tokenizer, (0,)).ids)
        if len(q.text.encode("utf-8", "replace")) + around[q.kind] > room:
            yield template.prompt(q, tokenizer, (0,))
