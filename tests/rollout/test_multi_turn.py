"""Episodes: attempts and messages in one completion, one budget, random numbers per attempt, and the mask of sampled tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import BASE
from tests.test_template import CHATML
from zero.batching import make_batch
from zero.errors import InputError
from zero.grading.explain import explain
from zero.objective import generalized_advantage, token_mean
from zero.records import (
    EVALUATION,
    TRAINING,
    VALUE,
    Completion,
    Group,
    Outcome,
    Prompt,
    Question,
    Sampling,
    Verdict,
)
from zero.rollout import ModelSpec
from zero.rollout.multi_turn import FeedbackEngine
from zero.rollout.native import NativeEngine
from zero.template import last_boxed

QUESTION = Question("Use 3, 5, 2 to make 16.", ("16",), "q", meta={"numbers": [3, 5, 2], "target": 16})
WRONG, RIGHT, NONE = "\\boxed{3+5+2}", "\\boxed{2*(3+5)}", "I do not know"
FEEDBACK = "your formula equals 10, not 16"
EOS, IM_END = 0, 3


class Script:
    """Generates the given text for each (sample, attempt), then EOS; records its calls."""

    staleness, own_devices = 0, False

    def __init__(self, spec: ModelSpec, says: Callable[[int, int], str], end: int) -> None:
        self.tokenizer, self.says, self.end = spec.tokenizer, says, end
        self.calls: list[tuple[list[Prompt], int, Sampling]] = []

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        if prompts:
            self.calls.append((list(prompts), n, sampling))
        return [[self._one(*self._place(p, g), sampling.max_tokens) for g in range(n)] for p in prompts]

    def _place(self, prompt: Prompt, g: int) -> tuple[int, int]:
        return (prompt.key[-2], prompt.key[-1]) if len(prompt.key) > 4 else (g, 0)

    def _one(self, sample: int, again: int, budget: int) -> Completion:
        text = self.says(sample, again)
        ids = (*self.tokenizer.encode(text), self.end)
        if len(ids) > budget:
            ids = ids[:budget]
            return Completion(ids, (-1.0,) * budget, self.tokenizer.decode(ids), False)
        return Completion(ids, (-1.0,) * len(ids), text, True)


def prompt(tokenizer: Any, question: Question = QUESTION, kind: int = TRAINING, i: int = 0) -> Prompt:
    return Prompt(question, question.text, tuple(tokenizer.encode(question.text)), (kind, 7, 0, i))


def spec_of(tokenizer: Any, context: int = 512) -> ModelSpec:
    return ModelSpec(None, tokenizer, context, torch.float32, torch.device("cpu"))


def feedback(
    tokenizer: Any,
    *texts: str,
    end: int = EOS,
    says: Callable[[int, int], str] | None = None,
    context: int = 512,
    **settings: Any,
) -> FeedbackEngine:
    """An engine whose every sample generates the given texts in turn."""
    inner = partial(Script, says=says or (lambda sample, again: texts[again]), end=end)
    defaults: dict[str, Any] = dict(
        explain=explain,
        extract=last_boxed,
        attempts=5,
        least=4,
        turn="\nNo: {message}\n",
        variables=None,
        prefill="",
    )
    return FeedbackEngine(spec_of(tokenizer, context), inner, **(defaults | settings))  # type: ignore[arg-type]


def episode(engine: FeedbackEngine, budget: int = 200, stop: tuple[int, ...] = (EOS, IM_END)) -> Completion:
    return engine.generate([prompt(engine.tokenizer)], 1, Sampling(budget, stop_ids=stop))[0][0]


def lengths(tokenizer: Any, *texts: str) -> list[int]:
    return [len(tokenizer.encode(text)) for text in texts]


def test_attempts_and_messages_are_one_completion_whose_mask_marks_sampled_tokens(tokenizer: Any) -> None:
    got = episode(feedback(tokenizer, NONE, WRONG, RIGHT))
    turns = ["\nNo: no formula was found in the form that was asked for\n", f"\nNo: {FEEDBACK}\n"]
    assert got.attempts == (NONE, WRONG, RIGHT) and got.final_text == RIGHT and got.finished
    assert got.text == f"{NONE}<|endoftext|>{turns[0]}{WRONG}<|endoftext|>{turns[1]}{RIGHT}"
    assert tokenizer.decode(got.ids[:-1]) == got.text and got.ids[-1] == EOS
    of_attempts, of_turns = lengths(tokenizer, NONE, WRONG, RIGHT), lengths(tokenizer, *turns)
    pattern = [(of_attempts[0] + 1, True), (of_turns[0], False), (of_attempts[1] + 1, True), (of_turns[1], False)]
    assert got.action_mask == tuple(
        sampled for count, sampled in [*pattern, (of_attempts[2] + 1, True)] for _ in range(count)
    )
    assert got.length == sum(of_attempts) + 3 < len(got.ids) == len(got.action_mask)
    assert got.logprobs == tuple(-1.0 if sampled else 0.0 for sampled in got.action_mask)


@pytest.mark.parametrize(
    ("texts", "attempts", "expected_attempts"),
    [
        ((RIGHT,), 5, 1),
        ((WRONG, RIGHT), 1, 1),
        ((WRONG, WRONG, WRONG, RIGHT), 3, 3),  # out of attempts
        ((WRONG, RIGHT), 3, 2),
    ],
)
def test_it_ends_when_right_or_out_of_attempts(
    tokenizer: Any, texts: tuple[str, ...], attempts: int, expected_attempts: int
) -> None:
    engine = feedback(tokenizer, *texts, attempts=attempts)
    got = episode(engine)
    assert got.attempts == texts[:expected_attempts] and got.finished and got.ids[-1] == EOS
    assert len(engine.engine.calls) == expected_attempts  # type: ignore[attr-defined]


@pytest.mark.parametrize("bound", ["budget", "context"])
@pytest.mark.parametrize(
    ("spare", "attempts", "finished"),
    [
        (-1, (WRONG,), True),  # no room for an attempt: no message either, and nothing was cut
        (0, (WRONG, "\\boxed"), False),  # the least room: the attempt is cut
        (1000, (WRONG, RIGHT), True),
    ],
)
def test_an_episode_shares_one_budget(
    tokenizer: Any, bound: str, spare: int, attempts: tuple[str, ...], finished: bool
) -> None:
    wrong, turn, right = lengths(tokenizer, WRONG, f"\nNo: {FEEDBACK}\n", RIGHT)
    least = lengths(tokenizer, "\\boxed")[0]
    budget = min(wrong + 1 + turn + least + spare, wrong + 1 + turn + right + 1)  # at most exactly what it takes
    context = len(tokenizer.encode(QUESTION.text)) + budget if bound == "context" else 512
    engine = feedback(tokenizer, WRONG, RIGHT, least=least, context=context)
    got = episode(engine, budget if bound == "budget" else 400)
    assert (got.attempts, got.finished) == (attempts, finished)
    assert len(got.ids) == (budget if len(attempts) > 1 else wrong + 1)
    assert not got.action_mask or got.action_mask[-1]


def test_a_truncated_or_unsampled_attempt_gets_no_feedback(tokenizer: Any) -> None:
    explained: list[str | None] = []
    engine = feedback(tokenizer, NONE, RIGHT, explain=lambda answer, question: explained.append(answer))
    got = episode(engine, lengths(tokenizer, NONE)[0])
    assert not got.finished and got.attempts == (NONE,) and len(engine.engine.calls) == 1  # type: ignore[attr-defined]
    gold = Completion((5, EOS), (), "a solution", True)
    engine.engine = SimpleNamespace(generate=lambda prompts, n, sampling: [[gold] * n for _ in prompts])
    assert episode(engine) == replace(gold, attempts=("a solution",)) and not explained


def test_a_round_is_one_call_and_each_episode_keeps_its_own_budget(tokenizer: Any) -> None:
    """Sample 0 is wrong after a long attempt, 1 is right at once, 2 is wrong quickly; then 0 and 2 are long."""
    firsts = [NONE * 8 + WRONG, RIGHT, WRONG]
    engine = feedback(tokenizer, says=lambda sample, again: NONE * 20 if again else firsts[sample])
    budget = 150
    [got] = engine.generate([prompt(tokenizer)], 3, Sampling(budget, stop_ids=(EOS,)))
    (_, n, first), (second_prompts, samples, second) = engine.engine.calls  # type: ignore[attr-defined]
    assert (n, first.max_tokens, samples, len(second_prompts)) == (3, budget, 1, 2)
    assert [p.key for p in second_prompts] == [(TRAINING, 7, 0, 0, 0, 1), (TRAINING, 7, 0, 0, 2, 1)]
    # the larger of the two rooms
    assert second.max_tokens == budget - (len(second_prompts[1].ids) - len(prompt(tokenizer).ids))
    assert [len(c.ids) for c in got] == [budget, lengths(tokenizer, RIGHT)[0] + 1, budget]
    assert [c.finished for c in got] == [False, True, False]
    assert all(tokenizer.decode(c.ids).endswith(c.attempts[-1]) for c in (got[0], got[2]))
    alone = feedback(tokenizer, says=lambda sample, again: NONE * 20 if again else firsts[0])
    assert episode(alone, budget) == got[0]


def test_braces_and_hostile_texts_are_only_text(tokenizer: Any) -> None:
    engine = feedback(tokenizer, NONE, RIGHT, explain=lambda answer, question: None if answer else "{0} {message} %s {")
    assert "No: {0} {message} %s {\n" in episode(engine).text
    question = replace(QUESTION, text="{message} \\frac{1}{2}?")
    engine = feedback(tokenizer, WRONG, RIGHT, turn="{question} {message}!")
    [[got]] = engine.generate([prompt(tokenizer, question)], 1, Sampling(100, stop_ids=(EOS,)))
    assert f"<|endoftext|>{{message}} \\frac{{1}}{{2}}? {FEEDBACK}!{RIGHT}" in got.text


def test_control_tokens_in_a_message_are_its_letters(tokenizer: Any) -> None:
    hostile = lambda answer, question: None if answer else "you wrote <|endoftext|>"  # noqa: E731
    [[got]] = feedback(tokenizer, NONE, RIGHT, explain=hostile).generate(
        [prompt(tokenizer)], 1, Sampling(100, stop_ids=(EOS,))
    )
    assert "you wrote <|endoftext|>" in got.text and got.ids.count(EOS) == 2  # the end of each attempt


def test_what_the_verifier_or_the_extractor_raises_ends_an_episode_and_says_so(tokenizer: Any) -> None:
    def broken(answer: str | None, question: Question) -> str | None:
        raise ArithmeticError("boom")

    with pytest.warns(RuntimeWarning, match="explaining an answer raised ArithmeticError: boom"):
        assert episode(feedback(tokenizer, WRONG, RIGHT, explain=broken)).attempts == (WRONG,)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"attempts": 0}, r"^rollout\.attempts=0: must be above 0"),
        ({"least": 0}, r"^rollout\.least=0: must be above 0"),
        ({"turn": "no"}, r"^rollout\.turn=no: must hold \{message\}"),
        ({"variables": {}}, r"^rollout=feedback: the model's chat format has no such conversation"),  # no chat template
    ],
)
def test_bad_settings_are_one_line(tokenizer: Any, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        feedback(tokenizer, WRONG, **settings)


@pytest.mark.parametrize("cut", ["nothing", "half an attempt", "a message", "half of the second attempt"])
def test_an_episode_continued_from_a_prefix_counts_its_attempts(tokenizer: Any, cut: str) -> None:
    """Continued from any token with the same texts, the episode ends the same; attempts made before count."""
    whole = episode(feedback(tokenizer, WRONG, WRONG, RIGHT, attempts=3))
    first, _ = (i for i in range(1, len(whole.ids)) if whole.action_mask[i] and not whole.action_mask[i - 1])
    message = whole.action_mask.index(False)
    b = {"nothing": 0, "half an attempt": 3, "a message": first, "half of the second attempt": first + 2}[cut]
    over = sum(sampled < before for before, sampled in pairwise(whole.action_mask[:b]))
    prefix = Completion(whole.ids[:b], (), "", False, whole.action_mask[:b], (*whole.attempts[:over], ""))
    end = message if b < message else whole.action_mask.index(False, first)
    remainder = tokenizer.decode([i for i in whole.ids[b:end] if i != EOS])
    continued = replace(prompt(tokenizer, kind=VALUE), ids=prompt(tokenizer).ids + prefix.ids, prefix=prefix)
    later = [remainder, *whole.attempts[over + 1 :]]
    engine = feedback(tokenizer, attempts=3, says=lambda sample, again: later[again])
    [[got]] = engine.generate([continued], 1, Sampling(200, stop_ids=(EOS, IM_END)))
    assert prefix.ids + got.ids == whole.ids and got.attempts == whole.attempts
    assert (*prefix.action_mask, *(got.action_mask or (True,) * len(got.ids))) == whole.action_mask
    spent = feedback(tokenizer, attempts=over + 1, says=lambda sample, again: later[again])
    [[last]] = spent.generate([continued], 1, Sampling(200, stop_ids=(EOS, IM_END)))
    assert len(last.attempts) == over + 1


def test_impossible_settings_are_refused(tokenizer: Any) -> None:
    other = prompt(tokenizer, Question("2+2", ("4",), "bare"))
    with pytest.raises(InputError, match="question bare has no numbers"):
        feedback(tokenizer, WRONG).generate([other], 1, Sampling(50))


# --- chat formats ---


@pytest.mark.parametrize(
    ("end", "closing"),
    [(IM_END, "<|im_end|>\n"), (EOS, "<|endoftext|><|im_end|>\n")],  # the format's own end is not repeated
)
def test_in_a_chat_the_message_is_the_users_turn(tokenizer: Any, end: int, closing: str) -> None:
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = CHATML
    got = episode(feedback(chatty, WRONG, RIGHT, end=end, variables={}, prefill="<think>"))
    assert got.text == (
        f"{WRONG}{closing}<|im_start|>user\nNo: {FEEDBACK}<|im_end|>\n<|im_start|>assistant\n<think>{RIGHT}"
    )
    assert [got.ids[i] for i in range(len(got.ids)) if got.action_mask[i]].count(end) == 2


@pytest.mark.parametrize(
    "format", ["{{ messages[0].content }}", "{{ raise_exception('no') }}", "{{ messages[1].content + 5 }}"]
)
def test_a_chat_format_without_several_turns_is_refused(tokenizer: Any, format: str) -> None:
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = format
    with pytest.raises(InputError, match="has no such conversation; choose a template of plain text"):
        feedback(chatty, WRONG, variables={})


# --- on the native engine ---


@pytest.fixture(scope="module")
def native(tokenizer: Any) -> Callable[..., NativeEngine]:
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()

    def make(spec: ModelSpec) -> NativeEngine:
        engine = NativeEngine(replace(spec, config=model.config), max_rows=64)
        engine.sync(model.named_parameters(), version=0)
        return engine

    return make


def over(native: Callable[..., NativeEngine], tokenizer: Any, **settings: Any) -> FeedbackEngine:
    engine = feedback(tokenizer, **settings)
    engine.engine = native(spec_of(tokenizer))
    return engine


SAMPLING = Sampling(160, stop_ids=(EOS, IM_END))


@pytest.mark.parametrize("kind", [TRAINING, EVALUATION])
def test_the_first_attempt_is_what_the_inner_engine_samples(
    native: Callable[..., NativeEngine], tokenizer: Any, kind: int
) -> None:
    prompts = [prompt(tokenizer, kind=kind, i=i) for i in range(4)]
    plain = native(spec_of(tokenizer)).generate(prompts, 2, SAMPLING)
    single = over(native, tokenizer, attempts=1).generate(prompts, 2, SAMPLING)
    assert [[replace(c, attempts=()) for c in c_G] for c_G in single] == plain
    many = over(native, tokenizer).generate(prompts, 2, SAMPLING)
    assert max(len(c.attempts) for c_G in many for c in c_G) > 1
    for first, whole in zip((c for c_G in plain for c in c_G), (c for c_G in many for c in c_G), strict=True):
        cut = len(first.ids)
        assert (whole.ids[:cut], whole.logprobs[:cut], whole.attempts[0]) == (first.ids, first.logprobs, first.text)


def test_an_episode_does_not_depend_on_its_neighbours(native: Callable[..., NativeEngine], tokenizer: Any) -> None:
    engine = over(native, tokenizer)
    prompts = [prompt(tokenizer, i=i) for i in range(4)]
    together = engine.generate(prompts, 3, SAMPLING)
    assert engine.generate(prompts, 3, SAMPLING) == together
    for one, expected in zip(prompts, together, strict=True):
        for got, whole in zip(engine.generate([one], 3, SAMPLING)[0], expected, strict=True):
            assert replace(got, logprobs=()) == replace(whole, logprobs=())
            assert got.logprobs == pytest.approx(whole.logprobs, abs=1e-4)
    assert any(len({c.attempts[1:] for c in c_G if len(c.attempts) > 1}) > 1 for c_G in together)


def test_no_two_attempts_share_random_numbers() -> None:
    keys: list[tuple[int, ...]] = [
        (kind, 0, *position) for kind, position in product((TRAINING, VALUE), product((0, 1), (0, 1)))
    ]
    keys += [(EVALUATION, 0, i) for i in range(3)]
    # as the native engine draws first attempts
    streams: list[tuple[int, ...]] = [(*key, sample) for key in keys for sample in range(3)]
    streams += [(*key, sample, again, 0) for key in keys for sample in range(3) for again in range(1, 4)]
    streams += [(VALUE, 0, 0, i, g, b, s) for i, g, b, s in product((0, 1), (0, 1), (16, 32), (0, 1))]
    states = {tuple(np.random.SeedSequence(list(s)).generate_state(4, np.uint64).tolist()) for s in streams}
    assert len(states) == len(streams)


@pytest.mark.parametrize("masked", [False, True])
def test_the_batch_holds_all_tokens_and_learns_from_the_policys(tokenizer: Any, masked: bool) -> None:
    first_prompt = prompt(tokenizer)
    whole, cut = episode(feedback(tokenizer, WRONG, RIGHT)), episode(feedback(tokenizer, WRONG, NONE * 9), 60)
    plain = Completion((5, 6), (-0.5, -0.25), "x", True)
    verdicts = (Verdict(1.0, Outcome.CORRECT, Outcome.CORRECT, "16", "correct"),) * 3
    algo: Any = SimpleNamespace(weight=token_mean, mask_truncated=masked)
    batch = make_batch([Group(first_prompt, (whole, cut, plain), verdicts)], algo, pad_id=9)
    assert not cut.finished and len(cut.attempts) == 2 and batch.sampler_NT is not None
    start = len(first_prompt.ids)
    for n, completion in enumerate((whole, cut, plain)):
        end = start + len(completion.ids)
        assert batch.ids_NT[n, :end].tolist() == [*first_prompt.ids, *completion.ids] and int(batch.length_N[n]) == end
        own = [float(sampled) for sampled in completion.action_mask] or [1.0] * len(completion.ids)
        expected = [0.0] * len(own) if masked and not completion.finished else own
        assert batch.mask_NT[n, start:end].tolist() == expected
        assert batch.sampler_NT[n, start:end].tolist() == list(completion.logprobs)
        assert not batch.mask_NT[n, :start].any() and not batch.mask_NT[n, end:].any()
    torch.testing.assert_close(batch.weight_NT.bool(), batch.mask_NT.bool())


def test_a_critics_credit_passes_over_the_environment() -> None:
    """Generalized advantages of an episode are those of the same tokens without the message between them."""
    own = torch.tensor([0, 1, 1, 0, 0, 1, 1, 1], dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    earned, value = (torch.rand(1, 8, generator=generator, dtype=torch.float64) * own for _ in range(2))
    mask = own[None].double()
    whole = generalized_advantage(earned, value, mask.bool(), mask, gamma=0.9, lam=0.8)
    ones = torch.ones(1, 5, dtype=torch.float64)
    short = generalized_advantage(earned[:, own], value[:, own], ones.bool(), ones, gamma=0.9, lam=0.8)
    torch.testing.assert_close(whole[:, own], short)
    assert not whole[:, ~own].any()
