"""Several tries at a question: what the engine samples is judged, and a wrong try is told why and followed by another.

An episode is one Completion: the tries and, between them, the environment's messages, `own` telling the tokens apart. It
shares one budget, sampling.max_tokens and the context, and never ends with a message. The first try is bit for bit
what the inner engine samples without feedback; a further one has random numbers that depend on the prompt's key, the
sample and the try alone. (A key of four parts or more collides with no longer one, see numpy's SeedSequence.)

SFTvsRL (arXiv 2501.17161) does this with GeneralPoints. Departures: its tries are turns of a trajectory with a reward each,
here the episode has the reward of its last try; it counts a hand as solved by any try under the name of a success rate,
here accuracy is the first try's.
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
from zero.rollout import RolloutEngine
from zero.template import encode_pieces

Explain = Callable[[str | None, Question], str | None]  # (extracted answer, question) -> message; None: it is right
MESSAGE, QUESTION = "{message}", "{question}"
_SLOTS = re.compile(f"({re.escape(MESSAGE)}|{re.escape(QUESTION)})")
_MARK = "THE-TRY-STANDS-HERE"


class FeedbackEngine:
    """A RolloutEngine whose completions are episodes of at most `tries` tries, in training and in evaluation.

    explain    what is wrong with an answer; it must agree with the question set's checker
    extract    finds the answer in the text of one try
    least      tokens that must be left after the message for another try to begin
    turn       the environment's text with {message}, {question} or both: as it stands, or as the user's turn of a chat
               (see `chat_turn`)
    variables  of the model's chat template; None for a template of plain text
    """

    def __init__(
        self,
        engine: Callable[..., RolloutEngine],
        explain: Explain,
        extract: Callable[[str], str | None],
        attempts: int,
        least: int,
        turn: str,
        variables: Mapping[str, Any] | None,
        prefill: str,
        tokenizer: Any,
        context: int,
        **parts: Any,
    ) -> None:
        for key, value in (("attempts", attempts), ("least", least)):
            if value < 1:
                raise InputError(f"rollout.{key}", value, "must be above 0")
        if not _SLOTS.search(turn):
            raise InputError("rollout.turn", turn, f"must hold {MESSAGE}, where the verifier's words go, or {QUESTION}")
        self.turn = turn if variables is None else chat_turn(tokenizer, turn, variables) + prefill
        self.explain, self.extract, self.attempts, self.least = explain, extract, attempts, least
        self.tokenizer, self.context = tokenizer, context
        self.engine = engine(tokenizer=tokenizer, context=context, **parts)
        self.staleness, self.apart = self.engine.staleness, self.engine.apart

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        """n episodes for each prompt; of one that was begun the rest, with all of its tries. All tries of one round are one
        call of the inner engine, with the largest budget among them; what exceeds an episode's own is cut."""
        first_PG = self.engine.generate(prompts, n, sampling)
        whole_PG = [[self._first(p, c, sampling) for c in c_G] for p, c_G in zip(prompts, first_PG, strict=True)]
        places = [(p, g) for p, c_G in enumerate(whole_PG) for g in range(len(c_G))]
        for again in range(1, self.attempts):
            turns = {(p, g): self._turn(prompts[p].question, whole_PG[p][g], sampling) for p, g in places}
            rooms = {
                (p, g): self._room(prompts[p], whole_PG[p][g], turn, sampling)
                for (p, g), turn in turns.items()
                if turn is not None and len(whole_PG[p][g].attempts) < self.attempts
            }
            places = [
                place for place, room in rooms.items() if room >= self.least
            ]  # none: an engine may span ranks that have
            requests = [
                replace(
                    prompts[p],
                    ids=(*prompts[p].ids, *whole_PG[p][g].ids, *(turns[p, g] or ())),
                    key=(*prompts[p].key, g, again),
                )
                for p, g in places
            ]
            most = max((rooms[place] for place in places), default=1)
            sampled = self.engine.generate(requests, 1, replace(sampling, max_tokens=most))
            for (p, g), [answer] in zip(places, sampled, strict=True):
                within = self._cut(answer, rooms[p, g])
                whole_PG[p][g] = self._joined(whole_PG[p][g], turns[p, g] or (), within, sampling)
        return whole_PG

    def _first(self, prompt: Prompt, sampled: Completion, sampling: Sampling) -> Completion:
        """The episode after one answer, which may end a try that was begun before, and others before that."""
        if prompt.prefix is None:
            return replace(sampled, attempts=(sampled.text,))
        own = prompt.prefix.action_mask or (True,) * len(prompt.prefix.ids)
        message = next((i for i in reversed(range(len(own))) if not own[i]), -1)  # the last token not of this try
        ids = (*prompt.prefix.ids[message + 1 :], *sampled.ids)
        text = self._text(ids[:-1] if ids[-1] in sampling.stop_ids else ids)
        return replace(sampled, attempts=(*prompt.prefix.attempts[:-1], text))

    def _turn(self, question: Question, episode: Completion, sampling: Sampling) -> tuple[int, ...] | None:
        """The environment's tokens after the episode's last try; None if it is right, cut, or was not sampled."""
        if not episode.finished or not episode.logprobs:
            return None
        try:
            message = self.explain(self.extract(episode.final_text), question)
        except InputError:
            raise
        except Exception as error:  # one hostile answer must not end a run of days
            what = f"explaining an answer raised {type(error).__name__}: {error}; such an episode ends there"
            warnings.warn(what, RuntimeWarning, stacklevel=2)
            return None
        if message is None:
            return None
        text = self.turn
        if episode.ids[-1] in sampling.stop_ids:  # the format closes the turn; the try has done so itself
            text = text.removeprefix(self._text(episode.ids[-1:]))
        filled = {MESSAGE: message, QUESTION: question.text}  # in one pass: what fills a slot may look like one
        return encode_pieces(
            [(filled.get(piece, piece), piece in filled) for piece in _SLOTS.split(text)], self.tokenizer
        )

    def _room(self, prompt: Prompt, episode: Completion, turn: tuple[int, ...], sampling: Sampling) -> int:
        """Tokens that are left for a try after the turn."""
        budget = min(sampling.max_tokens, self.context - len(prompt.ids))
        return budget - len(episode.ids) - len(turn)

    def _cut(self, answer: Completion, room: int) -> Completion:
        """As if the answer had been sampled with a budget of `room` tokens."""
        if len(answer.ids) <= room:
            return answer
        ids = answer.ids[:room]
        logprobs, normalizers = answer.logprobs[:room], answer.log_normalizers[:room]
        return replace(
            answer, ids=ids, logprobs=logprobs, log_normalizers=normalizers, text=self._text(ids), finished=False
        )

    def _joined(self, before: Completion, turn: tuple[int, ...], after: Completion, sampling: Sampling) -> Completion:
        """The episode with another try."""
        ids = (*before.ids, *turn, *after.ids)
        spoken = ids[:-1] if ids[-1] in sampling.stop_ids else ids
        own = before.action_mask or (True,) * len(before.ids)
        return Completion(
            ids,
            (*before.logprobs, *(0.0 for _ in turn), *after.logprobs),
            self._text(spoken),
            after.finished,
            action_mask=(*own, *(False for _ in turn), *(True for _ in after.ids)),
            attempts=(*before.attempts, after.text),
            version=before.version,
            log_normalizers=(*before.log_normalizers, *(0.0 for _ in turn), *after.log_normalizers)
            if after.log_normalizers
            else (),
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
    """What the model's chat format puts between two turns of the assistant: the end of the first, `turn` without outer
    white space as the user's, the beginning of the second. InputError if the format does not keep turns as they are."""
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
