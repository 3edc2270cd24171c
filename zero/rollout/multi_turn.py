"""Several attempts at a question: each attempt is checked; a wrong one gets a message that says why, and another follows.

An episode is one Completion: the attempts and, between them, the environment's messages; `action_mask` tells their tokens
apart. All share one budget, sampling.max_tokens within the context, and an episode never ends with a message. The first
attempt is to the bit what the inner engine samples without feedback; later ones have random numbers that depend on the
prompt's key, the sample and the attempt alone. (Keys of different length, four parts or more, do not collide: see numpy's
SeedSequence.)

SFTvsRL (arXiv 2501.17161) does this with GeneralPoints. Departures: its attempts are turns of a trajectory with a reward
each, here the episode has the reward of its last attempt; its success rate counts a hand that any attempt solves, here
accuracy is that of the first attempt.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zero.errors import InputError
from zero.records import Completion, Prompt, Question, Sampling
from zero.rollout import ModelSpec, RolloutEngine
from zero.template import encode_pieces

Explain = Callable[[str | None, Question], str | None]  # (extracted answer, question) -> message; None: it is right
MESSAGE, QUESTION = "{message}", "{question}"
_SLOTS = re.compile(f"({re.escape(MESSAGE)}|{re.escape(QUESTION)})")
_MARK = "THE-ATTEMPT"


class FeedbackEngine:
    """A RolloutEngine whose completions are episodes of at most `attempts` attempts, in training and in evaluation.

    engine     makes the inner engine
    explain    says what is wrong with an answer; must agree with the question set's checker
    extract    finds the answer in the text of one attempt
    least      tokens that must be left after the message for another attempt to begin
    turn       the environment's text with {message}, {question} or both: as it is, or as the user's turn of a chat
               (see `chat_turn`)
    variables  of the model's chat template; None for a template of plain text
    prefill    begins the assistant's turn in a chat
    """

    def __init__(
        self,
        spec: ModelSpec,
        engine: Callable[[ModelSpec], RolloutEngine],
        explain: Explain,
        extract: Callable[[str], str | None],
        attempts: int,
        least: int,
        turn: str,
        variables: Mapping[str, Any] | None,
        prefill: str,
    ) -> None:
        for key, value in (("attempts", attempts), ("least", least)):
            if value < 1:
                raise InputError(f"rollout.{key}", value, "must be above 0")
        if not _SLOTS.search(turn):
            raise InputError("rollout.turn", turn, f"must hold {MESSAGE}, where the verifier's words go, or {QUESTION}")
        self.turn = turn if variables is None else chat_turn(spec.tokenizer, turn, variables) + prefill
        self.explain, self.extract, self.attempts, self.least = explain, extract, attempts, least
        self.tokenizer, self.context, self.engine = spec.tokenizer, spec.context, engine(spec)
        self.staleness, self.own_devices = self.engine.staleness, self.engine.own_devices

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        """n episodes for each prompt; for a prompt with a prefix the rest of the episode, with all its attempts. Each round of
        attempts is one call of the inner engine, with the largest budget among them; attempts are then cut to their own."""
        first_PG = self.engine.generate(prompts, n, sampling)
        episodes_PG = [[self._start(p, c, sampling) for c in c_G] for p, c_G in zip(prompts, first_PG, strict=True)]
        active = [(p, g) for p, c_G in enumerate(episodes_PG) for g in range(len(c_G))]
        for attempt in range(1, self.attempts):
            turns = {(p, g): self._turn(prompts[p].question, episodes_PG[p][g], sampling) for p, g in active}
            budgets = {
                (p, g): self._tokens_left(prompts[p], episodes_PG[p][g], turn, sampling)
                for (p, g), turn in turns.items()
                if turn is not None and len(episodes_PG[p][g].attempts) < self.attempts
            }
            active = [index for index, budget in budgets.items() if budget >= self.least]
            requests = [
                replace(
                    prompts[p],
                    ids=(*prompts[p].ids, *episodes_PG[p][g].ids, *(turns[p, g] or ())),
                    key=(*prompts[p].key, g, attempt),
                )
                for p, g in active
            ]
            largest = max((budgets[index] for index in active), default=1)
            # Also without a request: the engine may span ranks that have some
            sampled = self.engine.generate(requests, 1, replace(sampling, max_tokens=largest))
            for (p, g), [completion] in zip(active, sampled, strict=True):
                cut = self._cut(completion, budgets[p, g])
                episodes_PG[p][g] = self._extended(episodes_PG[p][g], turns[p, g] or (), cut, sampling)
        return episodes_PG

    def _start(self, prompt: Prompt, sampled: Completion, sampling: Sampling) -> Completion:
        """The episode after its first completion, which ends the last attempt of a prompt's prefix, if there is one."""
        if prompt.prefix is None:
            return replace(sampled, attempts=(sampled.text,))
        action_mask = prompt.prefix.action_mask or (True,) * len(prompt.prefix.ids)
        message_end = next((i + 1 for i in reversed(range(len(action_mask))) if not action_mask[i]), 0)
        ids = (*prompt.prefix.ids[message_end:], *sampled.ids)
        text = self._text(ids[:-1] if ids[-1] in sampling.stop_ids else ids)
        return replace(sampled, attempts=(*prompt.prefix.attempts[:-1], text))

    def _turn(self, question: Question, episode: Completion, sampling: Sampling) -> tuple[int, ...] | None:
        """The environment's tokens after the episode's last attempt; None if it is right, cut, or was not sampled."""
        if not episode.finished or not episode.logprobs:
            return None
        try:
            message = self.explain(self.extract(episode.final_text), question)
        except InputError:
            raise
        except Exception as error:  # one hostile answer must not end a run of days
            warning = f"explaining an answer raised {type(error).__name__}: {error}; such an episode ends there"
            warnings.warn(warning, RuntimeWarning, stacklevel=2)
            return None
        if message is None:
            return None
        text = self.turn
        if episode.ids[-1] in sampling.stop_ids:  # the chat format closes the turn, which the attempt has done itself
            text = text.removeprefix(self._text(episode.ids[-1:]))
        values = {MESSAGE: message, QUESTION: question.text}  # filled in one pass: a value may look like a slot
        return encode_pieces(
            [(values.get(piece, piece), piece in values) for piece in _SLOTS.split(text)], self.tokenizer
        )

    def _tokens_left(self, prompt: Prompt, episode: Completion, turn: tuple[int, ...], sampling: Sampling) -> int:
        """The token budget of an attempt after the turn."""
        budget = min(prompt.sampling(sampling).max_tokens, self.context - len(prompt.ids))
        return budget - len(episode.ids) - len(turn)

    def _cut(self, completion: Completion, budget: int) -> Completion:
        """The completion as if it had been sampled with a budget of `budget` tokens."""
        if len(completion.ids) <= budget:
            return completion
        ids = completion.ids[:budget]
        logprobs, normalizers = completion.logprobs[:budget], completion.log_normalizers[:budget]
        return replace(
            completion, ids=ids, logprobs=logprobs, log_normalizers=normalizers, text=self._text(ids), finished=False
        )

    def _extended(
        self, episode: Completion, turn: tuple[int, ...], attempt: Completion, sampling: Sampling
    ) -> Completion:
        """The episode with the environment's turn and another attempt."""
        ids = (*episode.ids, *turn, *attempt.ids)
        text = self._text(ids[:-1] if ids[-1] in sampling.stop_ids else ids)
        action_mask = episode.action_mask or (True,) * len(episode.ids)
        normalizers = (*episode.log_normalizers, *(0.0 for _ in turn), *attempt.log_normalizers)
        return Completion(
            ids,
            (*episode.logprobs, *(0.0 for _ in turn), *attempt.logprobs),
            text,
            attempt.finished,
            action_mask=(*action_mask, *(False for _ in turn), *(True for _ in attempt.ids)),
            attempts=(*episode.attempts, attempt.text),
            version=episode.version,
            log_normalizers=normalizers if attempt.log_normalizers else (),
        )

    @property
    def dtype(self) -> torch.dtype | None:
        return self.engine.dtype

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.engine.sync(weights, version)

    def awake(self, last: bool = False) -> AbstractContextManager[None]:
        return self.engine.awake(last)


def chat_turn(tokenizer: Any, turn: str, variables: Mapping[str, Any]) -> str:
    """The text between two turns of the assistant in the model's chat format: the end of the first, `turn` without outer
    white space as the user's, the beginning of the second. InputError if the format changes the text of turns."""
    content = turn.strip()
    turns = [("user", "?"), ("assistant", _MARK), ("user", content)]
    messages = [{"role": role, "content": text} for role, text in turns]
    remedy = "the model's chat format has no such conversation; choose a template of plain text"
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
    except Exception as error:  # the template is a program from elsewhere
        raise InputError("rollout", "feedback", f"{remedy} ({type(error).__name__}: {error})") from error
    after: str = text.rpartition(_MARK)[2]
    if _MARK not in text or content not in after:
        raise InputError("rollout", "feedback", remedy)
    return after
