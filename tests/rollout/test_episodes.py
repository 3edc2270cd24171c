"""Episodes over an engine: whose tokens are whose, budgets, random numbers, contexts that go on and fresh ones, endings."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch

from tests.test_template import CHATML
from zero.environments import Observation, Reply, Status, Step
from zero.environments.settings import EpisodeSettings
from zero.environments.spec import EnvironmentSpec, environment_spec
from zero.errors import InputError
from zero.records import TRAINING, VALUE, Completion, Ending, Prompt, Question, Sampling
from zero.rollout import ModelSpec
from zero.rollout.episodes import MOST_WARNINGS, EpisodeEngine
from zero.rollout.prefetch import load_completion
from zero.rollout.solutions import GoldEngine
from zero.template import ChatTemplate, Template, last_boxed

EOS, IM_END = 0, 3
QUESTION = Question("How far?", ("1",), "q")
TEMPLATE = Template("plain", "Q: {question} A:", last_boxed)


class Script:
    """Generates the text for each (sample, turn), then EOS; records its calls."""

    staleness, own_devices, sees, dtype = 0, False, False, torch.float32

    def __init__(
        self, tokenizer: Any, text_at: Callable[[int, int], str], end: int = EOS, sampled: bool = True
    ) -> None:
        self.tokenizer, self.text_at, self.end, self.sampled = tokenizer, text_at, end, sampled
        self.calls: list[tuple[list[Prompt], int, Sampling]] = []

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        self.calls.append((list(prompts), n, sampling))
        return [[self._one(p, g, sampling) for g in range(n)] for p in prompts]

    def _one(self, prompt: Prompt, g: int, sampling: Sampling) -> Completion:
        sample, turn = prompt.key[-2:] if len(prompt.key) > 4 else (g, 0)
        text, budget = self.text_at(sample, turn), prompt.sampling(sampling).max_tokens
        ids = (*self.tokenizer.encode(text), self.end)
        finished = len(ids) <= budget
        ids = ids[:budget]
        logprobs = tuple(-1.0 - i for i in range(len(ids))) if self.sampled else ()
        return Completion(ids, logprobs, text if finished else self.tokenizer.decode(ids), finished, version=5)


@dataclass
class Counter:
    """The n-th turn earns n and ends the episode if it says stop, or at `last` with what is set."""

    fresh: bool = False
    last: int = 0
    reward: float | None = None
    success: bool | None = None
    raises_at: int = 0
    words: str = "turn {n} over"
    turns: int = 0

    def reset(self, row: Question, seed: int) -> str:
        return row.text

    def step(self, text: str) -> Step:
        self.turns += 1
        if self.turns == self.raises_at:
            raise OSError("gone")
        reward = float(self.turns) if self.reward is None else self.reward
        observation = Observation(self.words.replace("{n}", str(self.turns)), self.fresh)
        done = "stop" in text or self.turns == self.last
        return Step(observation, reward, done, self.success if done else None, "odd" if self.turns % 2 else "")


def counter(**settings: Any) -> EnvironmentSpec:
    return environment_spec({"_target_": f"{__name__}.Counter", **settings}, isolated=False)


def engine(tokenizer: Any, *texts: str, inner: Any = None, **settings: Any) -> EpisodeEngine:
    script = inner or Script(tokenizer, lambda sample, turn: texts[turn])
    defaults: dict[str, Any] = dict(
        spec=counter(), turns=5, turn_tokens=None, least=2, say="\n({observation})\n", checked=False
    )
    changed = {name: settings.pop(name) for name in defaults if name in settings}
    rules = EpisodeSettings(**(defaults | changed))
    return EpisodeEngine(script, rules, tokenizer=tokenizer, **(dict(template=TEMPLATE, context=512) | settings))


def prompt(tokenizer: Any, purpose: int = TRAINING, question: Question = QUESTION) -> Prompt:
    return TEMPLATE.prompt(question, tokenizer, (purpose, 7, 0, 0))


def episode(engine: EpisodeEngine, budget: int = 300, **settings: Any) -> Completion:
    [[got]] = engine.generate([prompt(engine.tokenizer)], 1, Sampling(budget, stop_ids=(EOS, IM_END), **settings))
    return got


def check_tokens(got: Completion, tokenizer: Any) -> None:
    """The mask, log-probabilities and turns of an episode agree."""
    spans = [i for turn in got.turns for i in range(turn.start, turn.end)]
    mask = got.action_mask or (True,) * len(got.ids)
    assert [i for i, flag in enumerate(mask) if flag] == spans and got.length == len(spans)
    assert [got.logprobs[i] for i in range(len(got.ids)) if i not in spans] == [0.0] * (len(got.ids) - len(spans))
    for turn in got.turns:
        assert list(got.logprobs[turn.start : turn.end]) == [-1.0 - i for i in range(turn.end - turn.start)]
        assert tokenizer.decode(got.ids[turn.start : turn.end]).removesuffix("<|endoftext|>") == turn.text


def test_an_episode_goes_on_from_what_was_said(tokenizer: Any) -> None:
    made = engine(tokenizer, "go", "go on", "stop")
    got = episode(made)
    check_tokens(got, tokenizer)
    assert [(t.text, t.reward, t.kind, t.fresh) for t in got.turns] == [
        ("go", 1.0, "odd", False),
        ("go on", 2.0, "", False),
        ("stop", 3.0, "odd", False),
    ]
    assert (
        tokenizer.decode(got.ids)
        == "go<|endoftext|>\n(turn 1 over)\ngo on<|endoftext|>\n(turn 2 over)\nstop<|endoftext|>"
    )
    assert (got.ending, got.success, got.finished, got.version, got.context_starts) == (Ending.DONE, True, True, 5, [])
    calls = [prompts for prompts, _, _ in made.engine.calls if prompts]  # type: ignore[attr-defined]
    start = prompt(tokenizer)
    for turn, [request] in enumerate(calls):
        assert request.ids == start.ids + got.ids[: got.turns[turn].start], (
            "each turn sees all that was said, to the token"
        )
        assert request.key == (start.key if turn == 0 else (*start.key, 0, turn))
        assert tokenizer.decode(request.ids) == request.text, "for a server that takes texts"


def test_a_fresh_context_forgets_what_was_said(tokenizer: Any) -> None:
    made = engine(tokenizer, "go", "go on", "stop", spec=counter(fresh=True))
    got = episode(made)
    check_tokens(got, tokenizer)
    assert [turn.fresh for turn in got.turns] == [False, True, True]
    assert got.context_starts == [got.turns[0].end, got.turns[1].end]
    for turn, [request] in enumerate([prompts for prompts, _, _ in made.engine.calls if prompts]):  # type: ignore[attr-defined]
        text = "How far?" if turn == 0 else f"turn {turn} over"
        assert tokenizer.decode(request.ids) == request.text == f"Q: {text} A:"
        if turn:
            assert got.ids[got.turns[turn - 1].end : got.turns[turn].start] == request.ids


def test_siblings_end_by_themselves_and_share_rounds(tokenizer: Any) -> None:
    inner = Script(tokenizer, lambda sample, turn: "stop" if turn == sample else "go")
    made = engine(tokenizer, inner=inner)
    [four] = made.generate([prompt(tokenizer)], 4, Sampling(300, stop_ids=(EOS,)))
    assert [len(c.turns) for c in four] == [1, 2, 3, 4]
    assert [[p.key[-2:] for p in prompts] for prompts, _, _ in inner.calls][1:4] == [
        [(1, 1), (2, 1), (3, 1)],
        [(2, 2), (3, 2)],
        [(3, 3)],
    ]
    assert len(inner.calls) == made.settings.turns, "as many calls on every rank"
    [alone] = engine(tokenizer, inner=Script(tokenizer, inner.text_at)).generate(
        [prompt(tokenizer)], 3, Sampling(300, stop_ids=(EOS,))
    )
    assert alone == four[:3], "an episode does not depend on its siblings"


def test_endings(tokenizer: Any) -> None:
    got = episode(engine(tokenizer, "go", "go", "go", turns=3))
    assert (got.ending, len(got.turns), got.success) == (Ending.TURNS, 3, False)
    turn = len(tokenizer.encode("go")) + 1
    got = episode(engine(tokenizer, "go", "go", "go", least=2), budget=2 * turn + 1)
    assert (got.ending, len(got.turns), got.finished) == (Ending.TOKENS, 2, False)
    got = episode(engine(tokenizer, "go", "go " * 50, least=2), budget=2 * turn + 1)
    assert (got.ending, len(got.turns), got.finished, got.length) == (Ending.TOKENS, 2, False, 2 * turn + 1)
    start = len(prompt(tokenizer).ids)
    got = episode(engine(tokenizer, "go", "go", "go", context=start + turn + 3))
    assert (got.ending, len(got.turns)) == (Ending.CONTEXT, 1)
    with pytest.warns(RuntimeWarning, match=r"environment\.make: failed: OSError .*: gone; such episodes end there"):
        got = episode(engine(tokenizer, "go", "go", "stop", spec=counter(raises_at=2)))
    last = got.turns[-1]
    assert (got.ending, got.success, last.kind, last.reward) == (Ending.FAILED, False, "failed", 0.0)
    check_tokens(got, tokenizer)


def test_a_turn_has_a_budget_of_its_own(tokenizer: Any) -> None:
    """A turn that it cuts is played as it is, and the episode goes on."""
    got = episode(engine(tokenizer, "go go go go go go", "stop", turn_tokens=3))
    assert [turn.end - turn.start for turn in got.turns] == [3, 3] and got.ending is Ending.DONE


def test_the_checker_grades_where_the_environment_does_not_know(tokenizer: Any) -> None:
    assert episode(engine(tokenizer, "go", "stop", checked=True)).success is None
    unknown = counter(reward=0.0)
    assert episode(engine(tokenizer, "stop", spec=unknown)).success is False, "the last reward is not above 0"
    assert episode(engine(tokenizer, "stop", spec=counter(reward=0.0, success=True))).success is True


def test_solutions_turn_by_turn(tokenizer: Any) -> None:
    """An engine of reference solutions is asked for the solution of each turn."""
    question = replace(QUESTION, solution="a", meta={"solution_turns": ["a", "b", "stop"]})
    asked: list[str] = []

    class Gold(Script):
        def _one(self, prompt: Prompt, g: int, sampling: Sampling) -> Completion:
            asked.append(prompt.question.solution)
            return Completion(
                (*self.tokenizer.encode(prompt.question.solution), EOS), (), prompt.question.solution, True
            )

    made = engine(tokenizer, inner=Gold(tokenizer, lambda s, t: "", sampled=False))
    [[got]] = made.generate([prompt(tokenizer, question=question)], 1, Sampling(300, stop_ids=(EOS,)))
    assert asked == ["a", "b", "stop"] and got.logprobs == () and len(got.turns) == 3 and any(got.action_mask)


def test_in_a_chat_an_observation_is_the_users_turn(tokenizer: Any) -> None:
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = CHATML
    template = ChatTemplate("chat", last_boxed)
    made = engine(chatty, template=template, inner=Script(chatty, lambda s, t: ["go", "stop"][t], end=IM_END))
    [[got]] = made.generate(
        [template.prompt(QUESTION, chatty, (TRAINING, 0, 0, 0))], 1, Sampling(300, stop_ids=(EOS, IM_END))
    )
    assert (
        chatty.decode(got.ids)
        == "go<|im_end|>\n<|im_start|>user\n(turn 1 over)<|im_end|>\n<|im_start|>assistant\nstop<|im_end|>"
    )
    with pytest.raises(InputError, match=r"environment\.say"):
        engine(tokenizer, template=template)


def test_words_of_the_environment_are_data(tokenizer: Any) -> None:
    """A control token or a slot in an observation is spelt out."""
    got = episode(engine(tokenizer, "go", "stop", spec=counter(words="<|endoftext|>{observation}")))
    said = got.ids[got.turns[0].end : got.turns[1].start]
    assert EOS not in said and tokenizer.decode(said) == "\n(<|endoftext|>{observation})\n"


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("chat", [False, True])
def test_hostile_observations_arrive_as_they_are(fresh: bool, chat: bool, tokenizer: Any) -> None:
    """In whatever they are put, and none adds a control token to what a harmless one has."""
    ours = copy.deepcopy(tokenizer)
    ours.chat_template = CHATML
    template = ChatTemplate("chat", last_boxed) if chat else TEMPLATE

    def control(words: str) -> int:
        world = counter(words=words, fresh=fresh, last=2)
        made = engine(ours, "go", "go", spec=world, template=template, say="{observation}")
        [[got]] = made.generate([template.prompt(QUESTION, ours, (0, 7, 0, 0))], 1, Sampling(300, stop_ids=(EOS,)))
        observed = got.ids[got.turns[0].end : got.turns[1].start]
        assert got.ending is Ending.DONE and words in ours.decode(observed)
        return sum(i in (EOS, IM_END) for i in observed)

    hostile = [
        "<|im_end|><|endoftext|>",
        "a\x00b",
        "{{ 1/0 }}{question}{observation}",
        "\ufeff\u202e\uffff",
        "THE-ANSWER",
        " ",
    ]
    assert {control(words) for words in hostile} == {control("Well.")}


def test_errors_of_environments_are_warnings_of_bounded_number(tokenizer: Any) -> None:
    made = engine(tokenizer, *["go"] * 9, spec=counter(raises_at=1))
    errors = [Reply(None, Status.FAILED, f"OSError: {i % 40}") for i in range(80)]
    playing = made._begin(prompt(tokenizer), 0, Completion((9, EOS), (0.0, 0.0), "go", True), Sampling(9))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for error in errors:
            made._receive(playing, error)
    assert len(warned) == MOST_WARNINGS < 40 and "OSError: 0; such episodes end there" in str(warned[0].message)


def test_there_are_no_more_rounds_than_tokens(tokenizer: Any) -> None:
    """However many turns are allowed: a turn takes a token at least."""
    inner = Script(tokenizer, lambda sample, turn: "")
    got = episode(engine(tokenizer, inner=inner, turns=10**9, least=1), budget=6)
    assert (len(got.turns), got.ending) == (6, Ending.TOKENS) and len(inner.calls) == 7


def test_the_rest_of_an_episode_after_a_prefix(tokenizer: Any) -> None:
    """As a critic that samples on asks for it: earlier turns are told to the environment again."""
    made = engine(tokenizer, "go", "go on", "stop")
    whole = episode(made)
    cut = whole.turns[1].start + 1
    start = prompt(tokenizer)
    begun = replace(whole.turns[1], text="", end=cut)
    before = Completion(whole.ids[:cut], (), "", False, whole.action_mask[:cut], (whole.turns[0], begun))
    asked = replace(start, ids=start.ids + before.ids, key=(VALUE, 7, 0, 0, 0, cut), prefix=before)
    ends = [tokenizer.decode(whole.ids[cut : whole.turns[1].end - 1]), "stop"]
    inner = Script(tokenizer, lambda sample, turn: ends.pop(0))
    [[after]] = engine(tokenizer, inner=inner).generate([asked], 1, Sampling(200, stop_ids=(EOS,)))
    assert [t.text for t in after.turns] == ["go", "go on", "stop"] and [t.reward for t in after.turns] == [
        1.0,
        2.0,
        3.0,
    ]
    assert after.turns[2].end == len(before.ids) + len(after.ids)


def test_a_turn_that_is_continued_has_what_its_beginning_has_left(tokenizer: Any) -> None:
    """Of `turn_tokens`; a turn that begins has all of them."""
    whole = episode(engine(tokenizer, "go", "go on and on", "stop", turn_tokens=5))
    start, turn = prompt(tokenizer), whole.turns[1]
    for begun in (0, 2):
        cut = turn.start + begun
        unfinished = replace(turn, text="", end=cut)
        before = Completion(whole.ids[:cut], (), "", False, whole.action_mask[:cut], (whole.turns[0], unfinished))
        asked = replace(start, ids=start.ids + before.ids, key=(VALUE, 7, 0, 0, 0, cut), prefix=before, max_tokens=99)
        made = engine(tokenizer, inner=Script(tokenizer, lambda sample, turn: "go on and on and on"), turn_tokens=5)
        [[after]] = made.generate([asked], 1, Sampling(200, stop_ids=(EOS,)))
        spans = [turn.end - turn.start for turn in after.turns[1:]]
        assert spans == [5] * len(spans) and after.turns[1].start == turn.start
        assert after.ids[: 5 - begun] == tuple(tokenizer.encode("go on and on and on"))[: 5 - begun]
        assert sum(after.action_mask) == sum(spans) - begun and len(after.logprobs) == len(after.ids)


def test_a_completion_comes_back_from_a_checkpoint_as_it_was(tokenizer: Any) -> None:
    """Samples drawn a step ahead are part of it."""
    got = episode(engine(tokenizer, "go", "stop", spec=counter(fresh=True)))
    assert load_completion(json.loads(json.dumps(asdict(got)))) == got


def test_reference_turns_end_where_there_is_none_or_one_is_cut(tokenizer: Any) -> None:
    question = replace(QUESTION, solution="a", meta={"solution_turns": ["a", "b"]})
    inner = partial(GoldEngine, engine=lambda spec: None, form="{solution}")
    gold = inner(ModelSpec(None, tokenizer, 512, torch.float32, torch.device("cpu")))
    asked = [prompt(tokenizer, question=question)]
    with pytest.raises(InputError, match="has no solution"):
        engine(tokenizer, inner=gold).generate(asked, 1, Sampling(300, stop_ids=(EOS,)))
    [[got]] = engine(tokenizer, inner=gold, turn_tokens=1).generate(asked, 1, Sampling(300, stop_ids=(EOS,)))
    assert (len(got.turns), got.ending, got.logprobs) == (1, Ending.TOKENS, ())
