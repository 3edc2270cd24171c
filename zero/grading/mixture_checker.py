"""A mixture of question sets with the right check for each question. conf/questions/mixture.yaml makes one.

A question's part is known when it is checked, but not when an answer of any form is looked for, and the parts may look
differently (numbers here, formulas there). So `extract_any` then hands the response on whole, and the check lets the part look.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zero.errors import InputError
from zero.grading.sandbox import Pair, check_many
from zero.questions import QuestionSet
from zero.questions.mixture import Mixture, mixed_rows, split_id
from zero.records import Outcome, Question


class RawResponse(str):
    """A whole response, in which the part that owns the question has yet to look for an answer. A type of its own: no
    text that a model writes can pass for one."""


def mixture_set(name: str, sources: Mapping[str, Mapping[str, Any]]) -> Mixture:
    """The mixture of `parts`: name -> {questions: a question set, weight: above 0, limit: most training rows or None}.

    Raises InputError.
    """
    sets = {source: _of(source, settings, "questions") for source, settings in sources.items()}
    weights = {source: _of(source, settings, "weight") for source, settings in sources.items()}
    rows = mixed_rows(sets, weights, {source: settings.get("limit") for source, settings in sources.items()})
    finders = [questions.extract_any for questions in sets.values()]
    alike = all(find is finders[0] for find in finders)
    return Mixture(name, rows, Mixed(sets), finders[0] if alike else RawResponse, weights)


def _of(source: str, settings: Mapping[str, Any], key: str) -> Any:
    if settings.get(key) is None:
        remedy = "is required; conf/questions/mixture.yaml shows how to name a part"
        raise InputError(f"questions.sources.{source}.{key}", None, remedy)
    return settings[key]


@dataclass(frozen=True)
class Mixed:
    """A checker that asks that of the question's own part, about the question as that part knows it."""

    sets: Mapping[str, QuestionSet]

    def __call__(self, answer: str, question: Question) -> bool:
        """One answer; raises what the part's checker raises, ValueError if the part finds no answer in a response."""
        source, own = split_id(question)
        found = self._look(source, answer)
        if found is None:
            raise ValueError("no answer in any form")
        return self.sets[source].check(found, own)

    def many(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """The outcome of each pair, in order; the pairs of a part are checked together."""
        outcomes = [Outcome.NO_ANSWER] * len(pairs)
        asked: dict[str, list[tuple[int, Pair]]] = {}
        for place, (answer, question) in enumerate(pairs):
            source, own = split_id(question)
            found = self._look(source, answer)
            if found is not None:
                asked.setdefault(source, []).append((place, (found, own)))
        for source, placed in asked.items():
            said = check_many(self.sets[source].check, [pair for _, pair in placed])
            for (place, _), outcome in zip(placed, said, strict=True):
                outcomes[place] = outcome
        return outcomes

    def _look(self, source: str, answer: str) -> str | None:
        if not isinstance(answer, RawResponse):
            return answer
        find = self.sets[source].extract_any
        try:
            return find(str(answer))
        except Exception as error:  # one hostile answer must not end a run of days
            what = f"{getattr(find, '__name__', 'find')} raised {type(error).__name__}: {error}"
            warnings.warn(f"{what}; such responses count as without an answer", RuntimeWarning, stacklevel=2)
            return None
