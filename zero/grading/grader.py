"""Completions -> verdicts. Total: any text in, a verdict out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zero.grading.reward import Reward
from zero.questions import Checker
from zero.records import Completion, Group, Prompt, Question, Verdict


@dataclass(frozen=True)
class Grader:
    """The template extracts, the question set checks, the reward composes.

    `correct` and `formatted` are facts about the text, whatever the reward makes of them; `formatted` says that the
    extractor found an answer. A checker must be quick on any string or raise TimeoutError in time: one that may hang
    belongs in a process that can be killed, behind the same signature.
    """

    extract: Callable[[str], str | None]
    check: Checker
    reward: Reward

    def grade(self, prompt: Prompt, completions: Sequence[Completion]) -> Group:
        """The verdicts of one prompt's completions, in their order."""
        verdicts = tuple(self.verdict(prompt.question, completion) for completion in completions)
        return Group(prompt, tuple(completions), verdicts)

    def verdict(self, question: Question, completion: Completion) -> Verdict:
        """One verdict; an extractor or checker that fails makes the answer wrong and is named in `reason`."""
        answer, correct = None, False
        try:
            answer = self.extract(completion.text)
            if answer is None:
                reason = "no answer"
            else:
                correct = bool(self.check(answer, question))
                reason = "correct" if correct else "wrong"
        except TimeoutError:
            reason = "timeout"
        except Exception as error:  # one hostile answer must not end a run of days
            reason = f"grading failed: {type(error).__name__}"
        if not completion.finished:
            reason = f"truncated, {reason}"
        formatted = answer is not None
        reward = self.reward(correct, formatted, completion.finished)
        return Verdict(reward, correct, formatted, answer, reason)
