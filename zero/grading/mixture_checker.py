"""A mixture of question sets, each question with the checker of its source. conf/questions/mixture.yaml makes one.

A question's source is known when an answer is checked, but not when `extract_any` extracts one, and the sources' own
`extract_any` may differ (numbers here, formulas there). So the mixture's returns the whole response, from which the check
extracts with the source's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zero.errors import InputError
from zero.grading.worker_pool import Pair, check_many
from zero.questions import QuestionSet, SourceSettings
from zero.questions.mixture import Mixture, mixed_rows, split_id
from zero.records import Outcome, Question


class RawResponse(str):
    """A whole response, from which the question's source must still extract an answer. A type of its own, since any text may
    be an extracted answer."""


KEYS = ("questions", "weight", "limit", "template", "reward", "max_tokens")  # of a source


def mixture_set(name: str, sources: Mapping[str, Mapping[str, Any]], weight_by: str = "rows") -> Mixture:
    """The mixture of `sources`: name -> {questions: a question set, weight: above 0, limit: most training rows or None, template,
    reward and max_tokens: its own or None}. The weights are shares of the rows or of the tokens generated.

    Raises InputError.
    """
    if weight_by not in ("rows", "tokens"):
        raise InputError("questions.weight_by", weight_by, "must be rows or tokens")
    for source, given in sources.items():
        for key in given.keys() - set(KEYS):
            remedy = f"a source has no such setting; it has {', '.join(KEYS)}"
            raise InputError(f"questions.sources.{source}.{key}", given[key], remedy)
    sets = {source: _required(source, settings, "questions") for source, settings in sources.items()}
    weights = {source: _required(source, settings, "weight") for source, settings in sources.items()}
    rows = mixed_rows(sets, weights, {source: settings.get("limit") for source, settings in sources.items()})
    extractors = [questions.extract_any for questions in sets.values()]
    alike = all(extract is extractors[0] for extract in extractors)
    extract_any = extractors[0] if alike else RawResponse
    own = {source: _own(source, given) for source, given in sources.items()}
    own = {source: settings for source, settings in own.items() if settings != SourceSettings()}
    return Mixture(name, rows, Mixed(sets), extract_any, weights, own, weight_by == "tokens")


def _own(source: str, given: Mapping[str, Any]) -> SourceSettings:
    """What the source brings of its own. Raises InputError."""
    key, max_tokens = f"questions.sources.{source}", given.get("max_tokens")
    if max_tokens is not None and not (type(max_tokens) is int and max_tokens >= 1):
        raise InputError(f"{key}.max_tokens", max_tokens, "must be a whole number above 0, or null for the run's")
    template, reward = given.get("template"), given.get("reward")
    if template is not None and not hasattr(template, "prompt"):
        remedy = f"must be an option of template: +template@{key}.template=NAME"
        raise InputError(f"{key}.template", template, remedy)
    if reward is not None and not callable(reward):
        raise InputError(f"{key}.reward", reward, f"must be an option of reward: +reward@{key}.reward=NAME")
    return SourceSettings(template, reward, max_tokens)


def _required(source: str, settings: Mapping[str, Any], key: str) -> Any:
    if settings.get(key) is None:
        remedy = "is required; conf/questions/mixture.yaml shows how to name a source"
        raise InputError(f"questions.sources.{source}.{key}", None, remedy)
    return settings[key]


@dataclass(frozen=True)
class Mixed:
    """A checker that passes each question, with its id in its source, to the checker of that source."""

    sets: Mapping[str, QuestionSet]

    def __call__(self, answer: str, question: Question) -> bool:
        """One answer; raises what the source's checker raises, ValueError if there is no answer in a response."""
        source, inner = split_id(question)
        extracted = self._extract(source, answer)
        if extracted is None:
            raise ValueError("no answer in any form")
        return self.sets[source].check(extracted, inner)

    def many(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """The outcome of each pair, in order; the pairs of a source are checked together."""
        outcomes = [Outcome.NO_ANSWER] * len(pairs)
        by_source: dict[str, list[tuple[int, Pair]]] = {}
        for i, (answer, question) in enumerate(pairs):
            source, inner = split_id(question)
            extracted = self._extract(source, answer)
            if extracted is not None:
                by_source.setdefault(source, []).append((i, (extracted, inner)))
        for source, numbered in by_source.items():
            checked = check_many(self.sets[source].check, [pair for _, pair in numbered])
            for (i, _), outcome in zip(numbered, checked, strict=True):
                outcomes[i] = outcome
        return outcomes

    def program_outcome(self, answer: str, question: Question) -> str:
        """What became of an answer that its source's checker has run as a program; "" if it runs none."""
        source, inner = split_id(question)
        program_outcome = getattr(self.sets[source].check, "program_outcome", None)
        return program_outcome(answer, inner) if program_outcome else ""

    def _extract(self, source: str, answer: str) -> str | None:
        if not isinstance(answer, RawResponse):
            return answer
        extract = self.sets[source].extract_any
        try:
            return extract(str(answer))
        except Exception as error:  # one hostile answer must not end a run of days
            problem = f"{getattr(extract, '__name__', 'extract_any')} raised {type(error).__name__}: {error}"
            warnings.warn(f"{problem}; such responses count as without an answer", RuntimeWarning, stacklevel=2)
            return None
