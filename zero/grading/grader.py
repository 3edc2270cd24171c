"""Completions -> verdicts, for any text."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from zero.grading.reward import Reward
from zero.grading.worker_pool import check_many
from zero.questions import Checker, Extractor, SourceSettings
from zero.records import Completion, Group, Outcome, Prompt, Question, Response, Verdict

Extract = Callable[[str], str | None]
NOTHING_OF_ITS_OWN = SourceSettings()


@dataclass(frozen=True)
class Grader:
    """The template extracts, the question set checks, the reward composes.

    Strict outcomes are of the answer that the template extracts, lenient ones of what the question set's `extract_any` finds in
    any form.
    """

    extract: Extract
    check: Checker
    extract_any: Extractor
    reward: Reward
    # Of the sources of a mixture, in place of the above
    own: Mapping[str, SourceSettings] = field(default_factory=dict)

    def grade(
        self, prompts: Sequence[Prompt], completions_PG: Sequence[Sequence[Completion]], budget: int
    ) -> list[Group]:
        """The verdicts of every prompt's completions, in order; `budget` is the most tokens a completion may have, where the
        prompt has no lower one of its own.

        All answers are checked together, so that a checker with workers keeps all of them busy. Of an episode the last turn is
        graded, unless the environment says whether its task is solved.
        """
        pairs_N = [(p.question, c) for p, c_G in zip(prompts, completions_PG, strict=True) for c in c_G]
        strict_N, lenient_N, answer_N = self._outcomes(pairs_N)
        groups, start = [], 0
        for prompt, completions in zip(prompts, completions_PG, strict=True):
            n = slice(start, start + len(completions))
            responses = [
                Response(
                    question=prompt.question,
                    prompt=prompt.text,
                    text=c.final_text,
                    tokens=c.length,
                    budget=min(budget, prompt.max_tokens or budget),
                    finished=c.finished,
                    strict=strict,
                    lenient=lenient,
                    answer=answer,
                    turns=c.turns,
                )
                for c, strict, lenient, answer in zip(completions, strict_N[n], lenient_N[n], answer_N[n], strict=True)
            ]
            reward = self._settings(prompt.question).reward or self.reward
            rewards = zip(responses, reward(responses), strict=True)
            verdicts = [_verdict(r, terms, self._program(r), reward.turn_rewards(r, terms)) for r, terms in rewards]
            groups.append(Group(prompt, tuple(completions), tuple(verdicts)))
            start = n.stop
        return groups

    def _settings(self, question: Question) -> SourceSettings:
        return self.own.get(question.kind, NOTHING_OF_ITS_OWN)

    def _extractor(self, question: Question) -> Extract:
        template = self._settings(question).template
        return template.extract if template else self.extract

    def _program(self, response: Response) -> str:
        """What became of the answer, if it is a program that the checker has run."""
        program_outcome = getattr(self.check, "program_outcome", None)
        return (
            program_outcome(response.answer, response.question)
            if program_outcome and response.answer is not None
            else ""
        )

    def _outcomes(
        self, pairs_N: Sequence[tuple[Question, Completion]]
    ) -> tuple[list[Outcome], list[Outcome], list[str | None]]:
        """(strict outcomes, lenient outcomes, answers that the template extracted)."""
        judged_N = [c.success for _, c in pairs_N]
        if any(success is not None for success in judged_N):  # all of a run, or none
            outcome_N = [Outcome.CORRECT if success else Outcome.WRONG for success in judged_N]
            return outcome_N, outcome_N, [c.final_text for _, c in pairs_N]
        extracted_N = [_extract(self._extractor(question), c.final_text) for question, c in pairs_N]
        any_form_N = [_extract(self.extract_any, c.final_text) for _, c in pairs_N]
        pairs = [
            (answer, question)
            for (question, _), answers in zip(pairs_N, zip(extracted_N, any_form_N, strict=True), strict=True)
            for answer in answers
            if answer is not None
        ]
        outcomes = iter(check_many(self.check, pairs))
        both_N = [
            tuple(Outcome.NO_ANSWER if answer is None else next(outcomes) for answer in answers)
            for answers in zip(extracted_N, any_form_N, strict=True)
        ]
        strict_N = [strict for strict, _ in both_N]
        # Strictly right is leniently right; and without an answer in any form the strict outcome counts for both.
        lenient_N = [
            strict if strict is Outcome.CORRECT or lenient is Outcome.NO_ANSWER else lenient
            for strict, lenient in both_N
        ]
        return strict_N, lenient_N, extracted_N


def _extract(extract: Extract, text: str) -> str | None:
    try:
        return extract(text)
    except Exception as error:  # one hostile answer must not end a run of days
        problem = f"{getattr(extract, '__name__', 'extractor')} raised {type(error).__name__}: {error}"
        warnings.warn(f"{problem}; such responses count as without an answer", RuntimeWarning, stacklevel=2)
        return None


def _verdict(response: Response, terms: dict[str, float], program: str, turn_rewards: tuple[float, ...]) -> Verdict:
    reason = str(response.strict) if response.finished else f"truncated, {response.strict}"
    return Verdict(
        sum(terms.values()), response.strict, response.lenient, response.answer, reason, terms, program, turn_rewards
    )
