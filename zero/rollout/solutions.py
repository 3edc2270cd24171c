"""Reference solutions in place of samples: supervised learning with the same loop, learner and evaluation."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from zero.errors import InputError
from zero.prompt_text import encode_pieces
from zero.records import TRAINING, Completion, Prompt, Sampling
from zero.rollout import ModelSpec, RolloutEngine

SOLUTION, ANSWER = "{solution}", "{answer}"
_SLOTS = re.compile(r"(\{solution\}|\{answer\})")


class GoldEngine:
    """A RolloutEngine whose training completions are the questions' solutions; all others are sampled by `engine`.

    `form` is the text of a response with {solution} and {answer} (the first reference); EOS is appended. A solution beyond
    the token budget is cut and unfinished, as a sample would be. If a question has several, they are shuffled by the
    prompt's key and used in turn; with one solution the n completions are equal: take group_size=1.
    """

    def __init__(self, spec: ModelSpec, engine: Callable[[ModelSpec], RolloutEngine], form: str) -> None:
        if SOLUTION not in form and ANSWER not in form:
            raise InputError("rollout.form", form, f"must hold {SOLUTION} or {ANSWER}")
        if spec.tokenizer.eos_token_id is None:
            remedy = "its tokenizer has no end-of-text token, with which solutions end; set one"
            raise InputError("model.path", getattr(spec.tokenizer, "name_or_path", ""), remedy)
        self.engine, self.form, self.tokenizer = engine(spec), form, spec.tokenizer
        self.staleness, self.own_devices, self.sees = 0, False, True  # solutions do not depend on the weights

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        """The solution of each prompt, n times. InputError for a question that has none."""
        if any(prompt.key[0] != TRAINING for prompt in prompts):
            return self.engine.generate(prompts, n, sampling)
        return [[self._completion(p, solution, sampling) for solution in _solutions(p, n)] for p in prompts]

    def _completion(self, prompt: Prompt, solution: str, sampling: Sampling) -> Completion:
        question = prompt.question
        if SOLUTION in self.form and not solution:
            remedy = "rollout=gold trains on solutions; name their column (questions.solution), or use another set"
            raise InputError("questions", f"question {question.id} has no solution", remedy)
        values = {ANSWER: question.answer[0], SOLUTION: solution}
        pieces = [(values.get(piece, piece), piece in values) for piece in _SLOTS.split(self.form)]
        text = "".join(piece for piece, _ in pieces)
        ids = (*encode_pieces(pieces, self.tokenizer), self.tokenizer.eos_token_id)
        budget = prompt.sampling(sampling).max_tokens
        if len(ids) <= budget:
            return Completion(ids, (), text, True)
        cut = ids[:budget]
        return Completion(cut, (), self.tokenizer.decode(cut, clean_up_tokenization_spaces=False), False)

    @property
    def dtype(self) -> torch.dtype | None:
        return self.engine.dtype

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.engine.sync(weights, version)

    def awake(self, last: bool = False) -> AbstractContextManager[None]:
        return self.engine.awake(last)


def _solutions(prompt: Prompt, n: int) -> list[str]:
    solutions = [prompt.question.solution, *prompt.question.more]
    if len(solutions) > 1:
        random.Random(f"gold/{prompt.key}").shuffle(solutions)
    return [solutions[i % len(solutions)] for i in range(n)]
