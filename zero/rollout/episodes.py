"""Episodes: the policy and an environment in turns, over an engine that samples single answers.

An episode is one Completion: the policy's turns and, between them, the environment's tokens; `action_mask` tells them apart. An
observation goes on from all that was said, as the user's next turn, or is a whole new prompt (`fresh`), after which the policy
sees nothing of what was before. What the policy wrote is never tokenized again. `sampling.max_tokens` is what the policy may
say in an episode, and the model's context holds each prompt with all that follows it.

The turns of all episodes are sampled together, round by round. The first is to the bit what the inner engine samples without
an environment, if `turn_tokens` does not cut it; later ones have random numbers that depend on the prompt's key, the sample and
the turn alone. (Keys of different length, four parts or more, do not collide: see numpy's SeedSequence.)
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from zero.environments import Observation, Reply
from zero.environments.chat_turn import chat_turn, filled
from zero.environments.live import Transcript
from zero.environments.pool import play
from zero.environments.settings import EpisodeSettings
from zero.environments.tool_calls import RESULT_CLOSE, RESULT_OPEN
from zero.environments.tool_prompt import results_turn
from zero.errors import InputError
from zero.prompt_text import Pieces, encode_pieces, expanded, with_placeholders
from zero.records import TRAINING, VALUE, Completion, Ending, Prompt, Sampling, Turn
from zero.rollout import RolloutEngine
from zero.template import AnyTemplate, ChatTemplate, SourceTemplates

BLIND = (
    "it shows an image, which this model or engine does not see; take a model with vision and rollout=native or vllm"
)
MOST_WARNINGS = 20  # of a run: what goes wrong is counted, and an error may have another text each time


@dataclass
class _Episode:
    """An episode that goes on. Tokens before `ids` are the prompt's, and those of a prefix that it continues."""

    prompt: Prompt
    sample: int
    context: tuple[int, ...]  # what the policy sees, and its text
    text: str
    images: tuple[str, ...]  # of the context
    offset: int  # tokens of the prefix
    earlier: tuple[Turn, ...] = ()  # turns of the prefix that are over
    unfinished: tuple[int, ...] = ()  # tokens of the turn that the prefix begins
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    normalizers: list[float] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    spoken: int = 0  # tokens that the policy has sampled; the budget of a prompt with a prefix is for the rest
    finished: bool = True  # whether the last turn ended by itself
    stopped: bool = False  # by a stop token
    version: int = -1
    known: bool = True  # whether the engine reports log-probabilities
    observation: Observation | None = None  # what the policy reads next
    ending: Ending | None = None
    success: bool | None = None

    @property
    def number(self) -> int:
        """Of the next turn."""
        return len(self.earlier) + len(self.turns)

    def texts(self) -> tuple[str, ...]:
        return tuple(turn.text for turn in (*self.earlier, *self.turns))


class EpisodeEngine:
    """A RolloutEngine whose completions are episodes in an environment, in training and in evaluation.

    engine    samples the turns
    settings  of the environment, and of when episodes end
    template  of the run: a fresh observation stands where its question goes
    context   tokens of a prompt and all that goes on from it
    """

    def __init__(
        self,
        engine: RolloutEngine,
        settings: EpisodeSettings,
        template: AnyTemplate,
        tokenizer: Any,
        context: int,
    ) -> None:
        self.engine, self.settings, self.template = engine, settings, template
        self.tokenizer, self.context = tokenizer, context
        self.staleness, self.own_devices, self.sees = engine.staleness, engine.own_devices, engine.sees
        self.chat_turns: dict[str, str] = {}  # by template
        self.warnings: set[tuple[str, str]] = set()
        templates = template.own.values() if isinstance(template, SourceTemplates) else (template,)
        for one in templates:  # InputError for a chat format that has no such turn, before anything is sampled
            self._pieces(f"{RESULT_OPEN}\n{RESULT_CLOSE}", one)

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        """n episodes for each prompt; for a prompt with a prefix the rest of the episode, with all its turns."""
        first_turn = replace(sampling, max_tokens=self._turn_budget(sampling.max_tokens))
        first_PG = self.engine.generate([self._first_request(prompt) for prompt in prompts], n, first_turn)
        episodes = [
            self._begin(prompt, g, completion, sampling)
            for prompt, completions in zip(prompts, first_PG, strict=True)
            for g, completion in enumerate(completions)
        ]
        for number in range(1, min(self.settings.turns, sampling.max_tokens) + 1):  # each turn takes a token at least
            playing = [e for e in episodes if e.ending is None and e.number == number]
            for episode, reply in zip(playing, play([self._transcript(e) for e in playing]), strict=True):
                self._receive(episode, reply)
            if number == self.settings.turns:
                break
            asked = [(episode, self._request(episode, sampling)) for episode in playing if episode.ending is None]
            asked = [(episode, request) for episode, request in asked if self._has_room(episode, request, sampling)]
            # Also without a request: the engine may span ranks that have some
            sampled = self.engine.generate([request for _, request in asked], 1, sampling)
            for (episode, request), [completion] in zip(asked, sampled, strict=True):
                self._add(episode, request, completion, sampling)
        completions = [self._completion(episode, sampling) for episode in episodes]
        return [completions[p * n : (p + 1) * n] for p in range(len(prompts))]

    def _first_request(self, prompt: Prompt) -> Prompt:
        """The first turn's; after a prefix its budget is what the turn that the prefix begins has left."""
        before, most, prompt = prompt.prefix, self.settings.turn_tokens, replace(prompt, seen=0)
        if before is None or not before.turns or most is None:
            return prompt
        left = most - len(before.ids) + before.turns[-1].start
        return replace(prompt, max_tokens=min(prompt.max_tokens or left, left))

    def _begin(self, prompt: Prompt, sample: int, first: Completion, sampling: Sampling) -> _Episode:
        """The episode with its first completion, which ends the last turn of a prompt's prefix, if there is one."""
        episode = _Episode(prompt, sample, prompt.ids, prompt.text, prompt.images, 0)
        if prompt.prefix is not None:
            before = prompt.prefix
            start = before.turns[-1].start if before.turns else 0
            episode.offset, episode.unfinished = len(before.ids), before.ids[start:]
            episode.earlier = before.turns[:-1]
        self._extend(episode, first, sampling, start=episode.offset - len(episode.unfinished))
        if prompt.prefix is not None and prompt.prefix.turns:
            unfinished = prompt.prefix.turns[-1]
            episode.turns[0] = replace(episode.turns[0], fresh=unfinished.fresh, images=unfinished.images)
        return episode

    def _extend(self, episode: _Episode, completion: Completion, sampling: Sampling, start: int) -> None:
        """Add a turn that begins at token `start` of the whole episode."""
        episode.ids += completion.ids
        episode.logprobs += completion.logprobs
        episode.normalizers += completion.log_normalizers or (0.0,) * len(completion.ids)
        episode.sampled += (True,) * len(completion.ids)
        episode.context += completion.ids
        episode.text += completion.text
        episode.spoken += len(completion.ids)
        episode.finished, episode.version = completion.finished, completion.version
        episode.known = episode.known and bool(completion.logprobs)
        seen = episode.observation or Observation("")
        ids = (*episode.unfinished, *completion.ids)
        episode.stopped = ids[-1] in sampling.stop_ids
        text = self._text(ids[:-1] if episode.stopped else ids) if episode.unfinished else completion.text
        episode.unfinished, episode.observation = (), None
        end = episode.offset + len(episode.ids)
        turn = Turn(text, start, end, fresh=seen.fresh, images=seen.images, cached=completion.cached)
        episode.turns.append(turn)

    def _transcript(self, episode: _Episode) -> Transcript:
        """Siblings have one seed: what an environment draws depends on the prompt's key and on what was said. So has a critic
        that samples on from the middle of a training episode."""
        prompt = episode.prompt
        key = (TRAINING, *prompt.key[1:4]) if prompt.key[0] == VALUE else prompt.key
        seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4])
        return Transcript(self.settings.spec, prompt.question, seed, episode.texts())

    def _receive(self, episode: _Episode, reply: Reply) -> None:
        """What the environment gives for the last turn: its reward, and the next observation or the end."""
        step = reply.step
        if step is None:
            if len(self.warnings) < MOST_WARNINGS and (reply.status, reply.error) not in self.warnings:
                self.warnings.add((reply.status, reply.error))
                warning = f"environment.make: {reply.status}: {reply.error}; such episodes end there"
                warnings.warn(warning, RuntimeWarning, stacklevel=2)
            episode.turns[-1] = replace(episode.turns[-1], kind=reply.status)
            episode.ending, episode.success = Ending.FAILED, None if self.settings.checked else False
            return
        episode.turns[-1] = replace(episode.turns[-1], reward=step.reward, kind=step.kind)
        if not self.settings.checked:
            episode.success = step.done and (step.reward > 0 if step.success is None else step.success)
        seen = step.observation
        episode.observation = seen if isinstance(seen, Observation) else Observation(seen)
        if episode.observation.images and not self.sees:
            raise InputError("environment.make", self.settings.spec.path, BLIND)
        if step.done:
            episode.ending = Ending.DONE
        elif episode.version < 0 and not episode.finished:  # the next reference turn does not follow one that was cut
            episode.ending = Ending.TOKENS
        elif episode.number >= self.settings.turns:
            episode.ending = Ending.TURNS

    def _has_room(self, episode: _Episode, request: Prompt, sampling: Sampling) -> bool:
        """Whether there is room for another turn; if not, the episode ends."""
        if self._left(episode, sampling) < self.settings.least:
            episode.ending = Ending.TOKENS
        elif self.context - len(request.ids) < self.settings.least:
            episode.ending = Ending.CONTEXT
        return episode.ending is None

    def _request(self, episode: _Episode, sampling: Sampling) -> Prompt:
        """The prompt of the next turn, with what that turn may say."""
        observation, prompt = episode.observation, episode.prompt
        assert observation is not None
        budget = self._turn_budget(self._left(episode, sampling))
        key = (*prompt.key, episode.sample, episode.number)
        question = prompt.question
        solutions = question.meta.get("solution_turns") or ()
        # For an engine of reference solutions, which refuses a turn without one
        solution = solutions[episode.number] if episode.number < len(solutions) else ""
        question = replace(question, id=f"{question.id}, turn {episode.number + 1},", solution=solution, more=())
        if observation.fresh:
            shown = replace(prompt.question, text=observation.text, images=observation.images)
            new = self.template.prompt(shown, self.tokenizer, prompt.key)
            return replace(new, question=question, key=key, max_tokens=budget, stop=prompt.stop, seen=0)
        pieces, ids = self._observed(episode, observation)
        end = self._text(episode.context[-1:]) if episode.stopped else ""
        return replace(
            prompt,
            question=question,
            text=episode.text + end + "".join(piece for piece, _ in pieces),
            ids=(*episode.context, *ids),
            images=(*episode.images, *observation.images),
            key=key,
            max_tokens=budget,
            prefix=None,
            seen=len(episode.context),
        )

    def _observed(self, episode: _Episode, observation: Observation) -> tuple[Pieces, tuple[int, ...]]:
        """An observation that goes on from what was said, in pieces, and its token ids."""
        template = self.template
        if isinstance(template, SourceTemplates):
            template = template.own.get(episode.prompt.question.kind, template.default)
        assert not isinstance(template, SourceTemplates)
        (first, is_data), *others = self._pieces(observation.text, template)
        if episode.stopped:  # the chat format closes the turn, which the policy has done itself
            first = first.removeprefix(self._text(episode.context[-1:]))
        pieces, images, vision = [(first, is_data), *others], observation.images, template.vision
        if not images:
            return pieces, encode_pieces(pieces, self.tokenizer)
        assert vision, "an environment that shows images needs a model that sees"
        shown = with_placeholders(observation.text, len(images), vision)
        pieces = [new for old in pieces for new in (shown if old == (observation.text, True) else [old])]
        return pieces, encode_pieces(expanded(pieces, images, vision, template.name), self.tokenizer)

    def _pieces(self, text: str, template: AnyTemplate) -> list[tuple[str, bool]]:
        """An observation and what stands around it, as pieces (text, is_data)."""
        if not isinstance(template, ChatTemplate):
            return filled(self.settings.say, text)
        if self.settings.tools:
            pieces = results_turn(self.tokenizer, text, template.variables)
        else:
            pieces = filled(self._chat_turn(template), text)
        return [*pieces, (template.prefill, False)]

    def _chat_turn(self, template: ChatTemplate) -> str:
        """`say` as the user's turn in the model's chat format, with {observation}."""
        if template.name not in self.chat_turns:
            self.chat_turns[template.name] = chat_turn(self.tokenizer, self.settings.say, template)
        return self.chat_turns[template.name]

    def _add(self, episode: _Episode, request: Prompt, completion: Completion, sampling: Sampling) -> None:
        """The environment's tokens, and the turn that follows them."""
        assert episode.observation is not None
        observed = request.ids if episode.observation.fresh else request.ids[len(episode.context) :]
        episode.ids += observed
        episode.logprobs += [0.0] * len(observed)
        episode.normalizers += [0.0] * len(observed)
        episode.sampled += [False] * len(observed)
        episode.context, episode.text, episode.images = request.ids, request.text, request.images
        self._extend(episode, completion, sampling, start=episode.offset + len(episode.ids))

    def _completion(self, episode: _Episode, sampling: Sampling) -> Completion:
        ids = tuple(episode.ids)
        text = episode.turns[0].text  # of one turn, which nothing stands around
        if len(episode.turns) > 1 or episode.offset:
            text = self._text(ids[:-1] if ids[-1] in sampling.stop_ids else ids)
        return Completion(
            ids,
            tuple(episode.logprobs) if episode.known else (),
            text,
            self._is_finished(episode),
            action_mask=() if all(episode.sampled) else tuple(episode.sampled),
            turns=(*episode.earlier, *episode.turns),
            ending=episode.ending,
            success=episode.success,
            version=episode.version,
            log_normalizers=tuple(episode.normalizers) if any(episode.normalizers) else (),
        )

    def _is_finished(self, episode: _Episode) -> bool:
        """Whether no budget cut the episode off. Where the environment judges, a turn that is cut is a turn."""
        cut_off = episode.ending in (Ending.TOKENS, Ending.CONTEXT)
        return not cut_off and (episode.finished or not self.settings.checked)

    def _left(self, episode: _Episode, sampling: Sampling) -> int:
        """Tokens that the policy may still say."""
        return episode.prompt.sampling(sampling).max_tokens - episode.spoken

    def _turn_budget(self, left: int) -> int:
        """Tokens of a turn, at most, where the episode has `left`."""
        return min(left, self.settings.turn_tokens or left)

    @property
    def dtype(self) -> torch.dtype | None:  # a server's is known after its first answer
        return self.engine.dtype

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.engine.sync(weights, version)

    def awake(self, last: bool = False) -> AbstractContextManager[None]:
        return self.engine.awake(last)


def without_environment(engine: RolloutEngine) -> RolloutEngine:
    """The engine that samples single answers: that of the turns, of an engine that plays episodes."""
    return engine.engine if isinstance(engine, EpisodeEngine) else engine
