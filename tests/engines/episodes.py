"""What every rollout engine must do for episodes (zero/rollout/episodes.py), as checks over any of them.

Each check takes a Subject around an engine of single answers, gives that engine the model's weights anew, and asserts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import pytest
import torch

from tests.engines.contract import CONTEXT, TEXTS, Groups, Subject, scored, shaken
from zero.environments import Observation, Step
from zero.environments.settings import EpisodeSettings
from zero.environments.spec import environment_spec
from zero.episode_metrics import prefix_cached
from zero.records import Completion, Ending, Group, Prompt, Question, Sampling
from zero.rollout.episodes import EpisodeEngine
from zero.template import Template, last_boxed

TEMPLATE = Template("plain", "Q: {question} A:", last_boxed)
SAMPLING = Sampling(48, stop_ids=(0,))


@dataclass
class Talk:
    """Answers with the question, the number of the turn and the length of what was said; raises at the second turn of questions
    that begin with `raises`."""

    fresh: bool = False
    raises: str = "-"
    turns: int = 0

    def reset(self, row: Question, seed: int) -> str:
        self.text = row.text
        return row.text

    def step(self, text: str) -> Step:
        self.turns += 1
        if self.turns == 2 and self.text.startswith(self.raises):
            raise OSError("gone")
        observation = Observation(f"{self.text} {self.turns} {len(text)}", self.fresh)
        return Step(observation, reward=float(self.turns), done=False)


def playing(s: Subject, context: int = CONTEXT, world: dict[str, Any] | None = None, **rules: Any) -> Subject:
    """The subject with episodes of up to four turns of up to 12 tokens."""
    spec = environment_spec({"_target_": f"{__name__}.Talk", **(world or {})}, isolated=False)
    defaults: dict[str, Any] = dict(turns=4, turn_tokens=12, least=2, say="\n({observation})\n", checked=False)
    settings = EpisodeSettings(spec, **defaults | rules)
    return replace(s, engine=EpisodeEngine(s.engine, settings, TEMPLATE, s.tokenizer, context))


def questions(tokenizer: Any, texts: Sequence[str] = TEXTS, seed: int = 0) -> list[Prompt]:
    return [TEMPLATE.prompt(Question(text, ("1",), str(i)), tokenizer, (0, seed, 0, i)) for i, text in enumerate(texts)]


def contexts(prompt: Prompt, episode: Completion) -> list[tuple[int, ...]]:
    """What the policy saw in each turn."""
    seen, start = prompt.ids, 0
    result = []
    for before, turn in zip((None, *episode.turns), episode.turns, strict=False):
        if before is not None and turn.fresh:
            seen, start = (), before.end
        result.append(seen + episode.ids[start : turn.start])
    return result


def check_tokens(s: Subject, prompts: Sequence[Prompt], groups: Groups, sampling: Sampling, model: Any = None) -> float:
    """The largest difference between the engine's log-probabilities and one plain forward pass over each turn's context; asserts
    that the mask, the environment's zeros and the turns agree."""
    largest = 0.0
    for prompt, episode in ((p, e) for p, group in zip(prompts, groups, strict=True) for e in group):
        policy = [i for turn in episode.turns for i in range(turn.start, turn.end)]
        mask = episode.action_mask or (True,) * len(episode.ids)
        assert [i for i, flag in enumerate(mask) if flag] == policy and len(episode.logprobs) == len(episode.ids)
        assert all(episode.logprobs[i] == 0.0 for i, flag in enumerate(mask) if not flag)
        for turn, context in zip(episode.turns, contexts(prompt, episode), strict=True):
            ids = episode.ids[turn.start : turn.end]
            assert 0 < len(ids) <= 12
            assert s.tokenizer.decode(ids[:-1] if ids[-1] in sampling.stop_ids else ids) == turn.text
            own = scored(model or s.model, replace(prompt, ids=context), ids, sampling, s.vocabulary)
            gaps = (torch.tensor(episode.logprobs[turn.start : turn.end]) - own).abs()
            largest = max(largest, float(gaps.max()))
    return largest


def check_every_token_is_scored_in_its_context(s: Subject) -> None:
    """Contexts that go on and fresh ones; the environment answers to what was said."""
    s.sync()
    prompts = questions(s.tokenizer)
    for fresh in (False, True):
        groups = playing(s, world={"fresh": fresh}).generate(prompts, 3, SAMPLING)
        episodes = list(chain(*groups))
        assert check_tokens(s, prompts, groups, SAMPLING) < s.bound
        assert {turn.fresh for e in episodes for turn in e.turns[1:]} == {fresh}
        assert max(len(e.turns) for e in episodes) == 4 and {e.version for e in episodes} == {0}
        for prompt, episode in ((p, e) for p, group in zip(prompts, groups, strict=True) for e in group):
            for number, (before, turn) in enumerate(zip(episode.turns, episode.turns[1:], strict=False), start=1):
                words = f"{prompt.question.text} {number} {len(before.text)}"
                expected = f"Q: {words} A:" if fresh else f"\n({words})\n"
                assert s.tokenizer.decode(episode.ids[before.end : turn.start]) == expected


def check_the_first_turn_is_what_the_engine_samples(s: Subject) -> None:
    prompts = questions(s.tokenizer)
    s.sync()
    plain = s.generate(prompts, 3, replace(SAMPLING, max_tokens=12))
    s.sync()
    for single, episode in zip(chain(*plain), chain(*playing(s).generate(prompts, 3, SAMPLING)), strict=True):
        first = episode.turns[0]
        assert (episode.ids[: first.end], episode.logprobs[: first.end]) == (single.ids, single.logprobs)
        assert first.text == single.text


def check_an_episode_depends_on_its_key_alone(s: Subject) -> None:
    s.sync()
    prompts, sampling = questions(s.tokenizer, [*TEXTS, TEXTS[0]]), replace(SAMPLING, temperature=1.5)
    for fresh in (False, True):
        engine = playing(s, world={"fresh": fresh})
        whole = engine.generate(prompts, 3, sampling)
        ids = [[c.ids for c in group] for group in whole]
        assert [[c.ids for c in group] for group in engine.generate(prompts[::-1], 3, sampling)] == ids[::-1]
        assert [c.ids for c in engine.generate(prompts[2:3], 2, sampling)[0]] == ids[2][:2]
        assert not {*ids[0]} & {*ids[4]} and len({*ids[0]}) == 3
    s.sync()
    assert engine.generate(prompts, 3, sampling) == whole  # to the bit: a resumed run is in this state


def check_budgets_end_episodes(s: Subject) -> None:
    """That of the episode, those of its turns, their number, and the context, in which some have less room than others."""
    s.sync()
    prompts = questions(s.tokenizer, [*TEXTS, "2 + 2 = " * 18])
    free = Sampling(500)  # nothing stops a turn but its budget
    for episode in chain(*playing(s).generate(prompts[:4], 2, free)):
        assert (episode.ending, [turn.end - turn.start for turn in episode.turns]) == (Ending.TURNS, [12] * 4)
    for episode in chain(*playing(s).generate(prompts[:4], 2, Sampling(29))):
        assert (episode.ending, [turn.end - turn.start for turn in episode.turns]) == (Ending.TOKENS, [12, 12, 5])
    # With budgets of their own: 12, 12 and 4; 12 and 8
    own = [replace(prompt, max_tokens=budget) for prompt, budget in zip(prompts, (28, 20, 28, 20), strict=False)]
    groups = playing(s).generate(own, 2, free)
    assert [len(group[0].turns) for group in groups] == [3, 2, 3, 2]
    assert [group[0].length for group in groups] == [28, 20, 28, 20]
    assert check_tokens(s, own, groups, free) < s.bound
    groups = playing(s, turns=9).generate(prompts, 2, free)
    assert check_tokens(s, prompts, groups, free) < s.bound
    for prompt, group in zip(prompts, groups, strict=True):
        for episode in group:
            assert len(prompt.ids) + len(episode.ids) <= CONTEXT
    assert {e.ending for e in groups[-1]} == {Ending.CONTEXT} and {e.ending for e in groups[3]} == {Ending.TURNS}
    alone = playing(s, turns=9).generate(prompts[-1:], 2, free)
    assert [e.ids for e in alone[0]] == [e.ids for e in groups[-1]]


def check_an_environment_that_raises_ends_its_episode_alone(s: Subject) -> None:
    s.sync()
    prompts = questions(s.tokenizer)
    whole = playing(s).generate(prompts, 2, SAMPLING)
    with pytest.warns(RuntimeWarning, match="gone"):
        groups = playing(s, world={"raises": TEXTS[1][:6]}).generate(prompts, 2, SAMPLING)
    assert [(e.ending, len(e.turns)) for e in groups[1]] == [(Ending.FAILED, 2)] * 2
    assert [[e.ids for e in g] for i, g in enumerate(groups) if i != 1] == [
        [e.ids for e in g] for i, g in enumerate(whole) if i != 1
    ]
    assert [e.ids for e in groups[1]] == [e.ids[: e.turns[1].end] for e in whole[1]]


def check_later_turns_find_their_prefix_in_the_cache(s: Subject) -> None:
    """All whole blocks of what went before, but for the last token, which was never fed; and the share of a run's curve."""
    s.sync()
    prompts, sampling = questions(s.tokenizer), replace(SAMPLING, temperature=1.5)
    groups = playing(s).generate(prompts, 3, sampling)
    for prompt, episode in ((p, e) for p, group in zip(prompts, groups, strict=True) for e in group):
        for context, before, turn in zip(contexts(prompt, episode), episode.turns, episode.turns[1:], strict=False):
            fed = len(context) + before.end - before.start - 1
            assert turn.cached >= fed // s.block * s.block
    graded = [Group(prompt, tuple(group), ()) for prompt, group in zip(prompts, groups, strict=True)]
    share = prefix_cached(graded)["speed/prefix_cached"]
    print(f"of the tokens before later turns {share:.3f} were in the cache")
    assert share > (0.7 if s.block == 1 else 0.4)
    fresh = list(chain(*playing(s, world={"fresh": True}).generate(prompts, 3, sampling)))
    assert all(0 <= turn.cached < s.block for e in fresh for turn in e.turns[1:])


def check_stop_strings_end_turns(s: Subject) -> None:
    """A turn ends with the token that completes a stop string; what follows sees exactly that."""
    s.sync()
    prompts, sampling = questions(s.tokenizer), replace(SAMPLING, stop=("e", "1"))
    groups = playing(s).generate(prompts, 3, sampling)
    assert check_tokens(s, prompts, groups, sampling) < s.bound
    stopped = 0
    for turn, ids in ((turn, e.ids[turn.start : turn.end]) for e in chain(*groups) for turn in e.turns):
        stopped += (ends := "e" in turn.text or "1" in turn.text)
        before = s.tokenizer.decode(ids[:-1])
        assert not ("e" in before or "1" in before) and (ends or ids[-1] == 0 or len(ids) <= 12)
    assert stopped > 10


def check_nothing_of_the_old_weights_survives_a_sync(s: Subject) -> None:
    """The same prompts with other weights, so that every prefix of the first turn is one that a cache would have."""
    prompts = questions(s.tokenizer, [*TEXTS, "Tom has 3 apples. " * 8])
    models = [s.model, shaken(s.model, 1), shaken(s.model, 2)]
    for version, model in enumerate(models):
        s.sync(model, version)
        groups = playing(s).generate(prompts, 2, SAMPLING)
        assert check_tokens(s, prompts, groups, SAMPLING, model) < s.bound
        assert {e.version for e in chain(*groups)} == {version}
    assert check_tokens(s, prompts, groups, SAMPLING, models[1]) > 100 * s.bound  # stale weights would be seen


EPISODES: tuple[Callable[[Subject], None], ...] = (
    check_every_token_is_scored_in_its_context,
    check_the_first_turn_is_what_the_engine_samples,
    check_an_episode_depends_on_its_key_alone,
    check_budgets_end_episodes,
    check_an_environment_that_raises_ends_its_episode_alone,
    check_later_turns_find_their_prefix_in_the_cache,
    check_stop_strings_end_turns,
    check_nothing_of_the_old_weights_survives_a_sync,
)
