"""The native engine against transformers: greedy token for token, sampled log-probabilities, stops, seeds, masks."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import BASE
from zero.cpu import decoder as compiled
from zero.cpu.decoder import CompiledDecoder
from zero.cpu.kernels import library
from zero.errors import InputError
from zero.records import Completion, Prompt, Question, Sampling
from zero.rollout import ModelSpec, NotFinite
from zero.rollout import decoder as decoders
from zero.rollout.decoder import FusedDecoder, TransformersDecoder
from zero.rollout.native import NativeEngine, draw, truncate

TEXTS = ["Start with 12, add 7. What is the result?", "Tom has 3 apples.", "Use 3, 5, 2 to make 16.", "a"]

CAN = library() is not None


@pytest.fixture(params=[True, False], ids=["compiled", "torch"], autouse=True)
def compiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Every test with the kernels and without."""
    if request.param and not CAN:
        pytest.skip("no C++ compiler")
    if not request.param:
        monkeypatch.setattr(decoders, "can_compile", lambda *_: False)
        monkeypatch.setattr(compiled, "can_draw", lambda _: False)
    return request.param


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def engine_of(model: Any, tokenizer: Any, max_rows: int = 64) -> NativeEngine:
    engine = NativeEngine(ModelSpec(model.config, tokenizer, 256, torch.float32, torch.device("cpu")), max_rows)
    engine.sync(model.named_parameters(), version=0)
    return engine


def prompts_of(tokenizer: Any, texts: list[str] = TEXTS, seed: int = 0) -> list[Prompt]:
    return [
        Prompt(Question(text, ("1",), str(i)), text, tuple(tokenizer(text).input_ids), (0, seed, 0, i))
        for i, text in enumerate(texts)
    ]


@torch.no_grad()
def scored(model: Any, prompt: Prompt, completion: Completion, temperature: float, vocabulary: int) -> torch.Tensor:
    """The model's own log-probabilities of a completion, each token from one plain forward pass."""
    ids = torch.tensor([prompt.ids + completion.ids])
    logits = model(ids).logits[0, len(prompt.ids) - 1 : -1, :vocabulary] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(completion.ids)[:, None])[:, 0]


def test_families_get_the_decoder_meant_for_them(tiny_folder: Path, tokenizer: Any, compiles: bool) -> None:
    """The tiny Qwen's heads of 8 fill no panel."""
    known = tiny_folder.name.startswith(("qwen2", "llama"))
    decoder = engine_of(load(tiny_folder), tokenizer).decoder
    if isinstance(decoder, CompiledDecoder):
        assert compiles and tiny_folder.name.startswith("llama")
    else:
        assert type(decoder) is (FusedDecoder if known else TransformersDecoder)
    assert type(engine_of(load(BASE), tokenizer).decoder) is (CompiledDecoder if compiles else FusedDecoder)


def test_greedy_equals_generate_token_for_token(tiny_folder: Path, tokenizer: Any) -> None:
    model = load(tiny_folder)
    prompts = prompts_of(tokenizer)
    for prompt, [completion] in zip(
        prompts, engine_of(model, tokenizer).generate(prompts, 1, Sampling(40, 0.0, stop_ids=(0,))), strict=True
    ):
        expected = model.generate(
            torch.tensor([prompt.ids]),
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=0,
            pad_token_id=7,
            suppress_tokens=list(range(len(tokenizer), model.config.vocab_size)),
        )[0, len(prompt.ids) :].tolist()
        assert list(completion.ids) == expected
        assert completion.finished == (expected[-1] == 0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampled_log_probabilities_are_the_models_own(tiny_folder: Path, tokenizer: Any, temperature: float) -> None:
    model = load(tiny_folder)
    prompts = prompts_of(tokenizer)
    groups = engine_of(model, tokenizer).generate(prompts, 3, Sampling(30, temperature, stop_ids=(0,)))
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            expected = scored(model, prompt, completion, temperature, len(tokenizer))
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=1e-5, atol=1e-5)


def test_log_probabilities_of_the_shipped_model(tokenizer: Any) -> None:
    model = load(BASE)
    prompts = prompts_of(tokenizer)
    for prompt, group in zip(
        prompts, engine_of(model, tokenizer).generate(prompts, 8, Sampling(60, stop_ids=(0,))), strict=True
    ):
        for completion in group:
            expected = scored(model, prompt, completion, 1.0, len(tokenizer))
            torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=1e-5, atol=1e-5)
            assert completion.finished == (completion.ids[-1] == 0)
            spoken = completion.ids[:-1] if completion.finished else completion.ids
            assert completion.text == tokenizer.decode(spoken)


def test_rows_with_budgets_of_their_own_share_a_batch(tokenizer: Any, compiles: bool) -> None:
    """One prefill for all; each ends at its budget, or at the context, with what it samples alone."""
    engine = engine_of(load(BASE), tokenizer)
    long = prompts_of(tokenizer, [*TEXTS, "2 + 2 = " * 29])
    prompts = [replace(prompt, max_tokens=budget) for prompt, budget in zip(long, (5, 20, 13, 9, 40), strict=True)]
    room = 256 - len(long[-1].ids)
    assert 13 < room < 30, "the context cuts the last one"
    alone = [engine.generate([prompt], 3, Sampling(30, stop_ids=(0,)))[0] for prompt in prompts]
    prefills: list[int] = []
    prefill = engine.decoder.prefill
    engine.decoder.prefill = lambda *a, **k: prefills.append(1) or prefill(*a, **k)  # type: ignore[func-returns-value, method-assign]
    groups = engine.generate(prompts, 3, Sampling(30, stop_ids=(0,)))
    assert len(prefills) == 1
    for group, group_alone, budget in zip(groups, alone, (5, 20, 13, 9, room), strict=True):
        assert [(c.ids, c.finished) for c in group] == [(c.ids, c.finished) for c in group_alone]
        assert all(c.finished or len(c.ids) == budget for c in group)
        assert not compiles or group == group_alone, "to the bit: a row does not depend on the others"


def test_a_turn_goes_on_from_the_rows_before(tiny_folder: Path, tokenizer: Any, compiles: bool) -> None:
    """Three turns, of rows that end early and late, one of them with a fresh context: what an engine samples that reads every
    prompt whole. Nothing is taken after a sync, after a sleep, and where the rows are too many for one batch."""
    model = load(tiny_folder)
    kept, whole, small = (engine_of(model, tokenizer, max_rows) for max_rows in (64, 64, 4))
    sampling = Sampling(24, 1.5, stop_ids=tuple(range(0, len(tokenizer), 9)))
    rows = [(replace(prompt, seen=0), 0) for prompt in prompts_of(tokenizer)]
    for turn in range(3):
        prompts = [prompt for prompt, _ in rows]
        groups = kept.generate(prompts, 1 if turn else 3, sampling)
        expected = whole.generate([replace(p, seen=None) for p in prompts], 1 if turn else 3, sampling)
        assert [[c.ids for c in group] for group in groups] == [[c.ids for c in group] for group in expected]
        for c, e in zip(chain(*groups), chain(*expected), strict=True):
            torch.testing.assert_close(torch.tensor(c.logprobs), torch.tensor(e.logprobs), rtol=1e-5, atol=1e-5)
            assert c.logprobs == e.logprobs or not isinstance(kept.decoder, CompiledDecoder), "to the bit"
        goes_on = not isinstance(kept.decoder, TransformersDecoder)
        assert [g[0].cached for g in groups] == [cached if goes_on else 0 for _, cached in rows]
        if turn:
            assert {g[0].cached for g in small.generate(prompts, 1, sampling)} == {0}
        rows = [
            (
                replace(p, ids=p.ids + c.ids + (20, 21), key=(*p.key, g, turn), seen=len(p.ids + c.ids)),
                len(p.ids + c.ids) - 1,
            )
            for p, group in zip(prompts, groups, strict=True)
            for g, c in enumerate(group)
        ]
        rows[1] = (replace(rows[1][0], ids=prompts[0].ids, seen=0), 0)
    for asleep in (False, True):
        with kept.awake() if asleep else nullcontext():
            kept.generate(prompts, 1, sampling)
        if not asleep:
            kept.sync(model.named_parameters(), 1)
        assert {g[0].cached for g in kept.generate([prompt for prompt, _ in rows], 1, sampling)} == {0}


def in_panels(logits: torch.Tensor) -> torch.Tensor:
    """The same logits in a decoder's layout: rows in whole panels, padded with arbitrary numbers."""
    width = -(-logits.shape[1] // 64) * 64
    return torch.nn.functional.pad(logits, (0, width - logits.shape[1]), value=1e4)[:, : logits.shape[1]]


def test_samples_follow_the_distribution(compiles: bool) -> None:
    """20,000 draws with uniforms spread evenly."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -30.0]])
    n = 20_000
    uniform = (torch.arange(n).double() / n * 2**23).floor().float() * 2.0**-23
    rows = in_panels(logits.repeat(n, 1))
    assert compiled.can_draw(rows) == compiles
    token, logprob = draw(rows, uniform, Sampling(1))
    share = torch.bincount(token, minlength=5) / n
    torch.testing.assert_close(share, logits[0].softmax(-1), rtol=0, atol=2e-4)
    torch.testing.assert_close(logprob, logits[0].log_softmax(-1)[token])


@pytest.mark.parametrize("vocabulary", [3, 16, 600, 5003])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 5.0])
def test_draws_are_those_of_exact_arithmetic(vocabulary: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 4 * torch.randn(200, vocabulary, generator=generator)
    uniform = torch.rand(200, generator=generator)
    token, logprob = draw(in_panels(logits), uniform, Sampling(1, temperature))
    exact = (logits.double() / temperature).log_softmax(-1)
    expected = torch.searchsorted(exact.exp().cumsum(-1), uniform[:, None].double(), right=True)[:, 0]
    assert (token != expected).sum() <= 1, "a uniform number may lie within rounding of a boundary"
    torch.testing.assert_close(logprob.double(), exact.gather(1, token[:, None])[:, 0], rtol=1e-5, atol=1e-5)


def test_the_largest_uniform_never_draws_an_impossible_token() -> None:
    logits = torch.full((7, 1050), -torch.inf)
    logits[:, :20] = torch.randn(7, 20, generator=torch.Generator().manual_seed(0))
    for u in (0.0, 1 - 2.0**-23):
        token, logprob = draw(in_panels(logits), torch.full((7,), u), Sampling(1))
        assert (token < 20).all() and torch.isfinite(logprob).all()


def test_truncation_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert torch.isfinite(truncate(logits, 2, 1.0)).tolist() == [[True, True, False, False]]
    assert torch.isfinite(truncate(logits, 0, 0.7)).tolist() == [[True, True, False, False]]
    assert torch.isfinite(truncate(logits, 0, 0.95)).tolist() == [[True, True, True, False]]
    assert torch.isfinite(truncate(logits, 0, 1e-9)).tolist() == [[True, False, False, False]]
    _, logprob = draw(logits, torch.tensor([0.0]), Sampling(1, top_k=2))
    assert float(logprob) == pytest.approx(np.log(0.5 / 0.8))  # of the truncated distribution


def test_a_completion_depends_on_its_key_alone(tokenizer: Any) -> None:
    model = load(BASE)
    sampling = Sampling(40, stop_ids=(0,))
    prompts = prompts_of(tokenizer)
    whole = engine_of(model, tokenizer).generate(prompts, 6, sampling)
    again = engine_of(model, tokenizer).generate(prompts, 6, sampling)
    assert whole == again
    in_parts = engine_of(model, tokenizer, max_rows=6).generate(prompts, 6, sampling)
    fewer = engine_of(model, tokenizer).generate(prompts[2:3], 2, sampling)[0]
    assert [[c.ids for c in g] for g in in_parts] == [[c.ids for c in g] for g in whole]
    assert [c.ids for c in fewer] == [c.ids for c in whole[2][:2]]
    other = engine_of(model, tokenizer).generate(prompts_of(tokenizer, seed=1), 6, sampling)
    assert other != whole and len({c.ids for c in whole[0]}) > 1


def test_stop_strings_end_a_response_and_stay_in_it(tokenizer: Any) -> None:
    engine = engine_of(load(BASE), tokenizer)
    prompts = prompts_of(tokenizer)
    free = engine.generate(prompts, 8, Sampling(60, stop_ids=(0,)))
    stopped = engine.generate(prompts, 8, Sampling(60, stop=("answer is",), stop_ids=(0,)))
    hits = 0
    for before, after in zip(chain(*free), chain(*stopped), strict=True):
        if "answer is" in before.text:
            hits += 1
            assert after.finished and after.text.endswith("answer is")
            assert before.ids[: len(after.ids)] == after.ids  # cut where the string is complete, not resampled
        else:
            assert after == before
    assert hits > 3


def test_a_stop_string_split_over_any_tokens_is_found(tokenizer: Any) -> None:
    engine = engine_of(load(BASE), tokenizer)
    for stop in ("</answer>", "\n\n", "Wait", "er> x"):
        candidates = engine.stop_tokens((stop,))
        for text in (f"so {stop}", f"so{stop}!", stop):
            ids = tokenizer(text).input_ids
            ends = [i for i in range(len(ids)) if stop in tokenizer.decode(ids[: i + 1])]
            assert candidates[ids[ends[0]]], (stop, text)
        assert not candidates.all()


def test_a_prompt_may_have_its_own_budget_and_stops(tokenizer: Any) -> None:
    """As if each kind of prompt had been sampled by a call of its own."""
    engine, prompts = engine_of(load(BASE), tokenizer), prompts_of(tokenizer)
    usual = Sampling(40, stop_ids=(0,))
    own = [
        replace(prompts[0], max_tokens=9),
        replace(prompts[1], stop=("answer is",)),
        replace(prompts[2], max_tokens=99),
    ]
    short, stopped, large, plain = engine.generate([*own, prompts[3]], 8, usual)
    whole = engine.generate(prompts, 8, usual)
    assert [c.ids for c in short] == [c.ids[:9] for c in whole[0]] and not all(c.finished for c in short)
    assert [c.ids for c in stopped] == [
        c.ids for c in engine.generate(prompts[1:2], 8, replace(usual, stop=("answer is",)))[0]
    ]
    assert ([c.ids for c in large], [c.ids for c in plain]) == ([c.ids for c in whole[2]], [c.ids for c in whole[3]])


def test_budget_of_one_token_and_exact_fit(tokenizer: Any) -> None:
    engine = engine_of(load(BASE), tokenizer)
    [[completion]] = engine.generate(prompts_of(tokenizer)[:1], 1, Sampling(1, stop_ids=(0,)))
    assert len(completion.ids) == 1 and completion.finished == (completion.ids[0] == 0)


def test_the_context_cuts_an_answer_and_changes_no_other(tokenizer: Any) -> None:
    model = load(BASE)
    long, short = prompts_of(tokenizer, ["2 + 2 = " * 22, TEXTS[0]])
    engine = engine_of(model, tokenizer)
    room = engine.context - len(long.ids)
    assert 0 < room < 100
    sampling = Sampling(120, 1.0)  # no stop token
    cut_G, whole_G = engine.generate([long, short], 2, sampling)
    assert [(len(c.ids), c.finished) for c in cut_G] == [(room, False)] * 2
    assert [len(c.ids) for c in whole_G] == [120] * 2
    engine.context += 100
    assert [c.ids[:room] for c in engine.generate([long], 2, sampling)[0]] == [c.ids for c in cut_G]


def test_a_prompt_beyond_the_context_is_refused_in_one_line(tokenizer: Any) -> None:
    prompt = prompts_of(tokenizer, ["a " * 300])[0]
    with pytest.raises(InputError, match=r"model.context=256: a prompt of \d+ tokens leaves no room"):
        engine_of(load(BASE), tokenizer).generate([prompt], 1, Sampling(8))


def test_a_row_does_not_depend_on_the_others_in_a_single_bit(tokenizer: Any, compiles: bool) -> None:
    if not compiles:
        pytest.skip("torch's products depend on their number of rows")
    engine, sampling = engine_of(load(BASE), tokenizer), Sampling(40, stop_ids=(0,))
    prompts = prompts_of(tokenizer)
    together = engine.generate(prompts, 5, sampling)
    alone = [engine.generate([prompt], 5, sampling)[0] for prompt in prompts]
    assert [(c.ids, c.logprobs) for c in chain(*together)] == [(c.ids, c.logprobs) for c in chain(*alone)]


def test_prompts_in_several_calls_are_the_same(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, sampling = engine_of(load(BASE), tokenizer), Sampling(10)
    prompts = prompts_of(tokenizer)
    whole = engine.generate(prompts, 2, sampling)
    monkeypatch.setattr(compiled, "PREFILL", 1)
    for one, other in zip(chain(*whole), chain(*engine.generate(prompts, 2, sampling)), strict=True):
        assert one.ids == other.ids and one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_both_decoders_sample_the_same(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same uniforms, numbers that differ in their last digits: a different token is possible, but rare."""
    model, sampling, prompts = load(BASE), Sampling(40, stop_ids=(0,)), prompts_of(tokenizer)
    completions = {}
    for compiles in (True, False):
        monkeypatch.setattr(decoders, "can_compile", lambda *_, c=compiles: c and CAN)
        completions[compiles] = list(chain(*engine_of(model, tokenizer).generate(prompts, 8, sampling)))
    same = [one.ids == other.ids for one, other in zip(completions[True], completions[False], strict=True)]
    assert sum(same) >= len(same) - 1
    for one, other in zip(completions[True], completions[False], strict=True):
        if one.ids == other.ids:
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_sync_takes_over_new_weights(tiny_folder: Path, tokenizer: Any) -> None:
    model = load(tiny_folder)
    engine = engine_of(model, tokenizer)
    prompts = prompts_of(tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    engine.sync(model.named_parameters(), version=1)
    [[completion]] = engine.generate(prompts[:1], 1, Sampling(20, stop_ids=(0,)))
    expected = scored(model, prompts[0], completion, 1.0, len(tokenizer))
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampling", [Sampling(8), Sampling(8, 0.0), Sampling(8, top_p=0.9), Sampling(8, 0.7, top_k=5)])
@pytest.mark.parametrize("version", [0, 12])
def test_logits_that_are_not_finite_are_one_line(tokenizer: Any, sampling: Sampling, version: int) -> None:
    model = load(BASE)
    with torch.no_grad():
        model.model.layers[0].self_attn.k_proj.weight[0, 0] = float("nan")
    engine = engine_of(model, tokenizer)
    engine.version = version
    cause = "lower optimizer.lr" if version else "check model.path"
    with pytest.raises(NotFinite, match=f"logits are not finite after {version} steps: .*{cause}"):
        engine.generate(prompts_of(tokenizer), 2, sampling)


@pytest.mark.parametrize("sign", [1, -1])
def test_gates_of_any_size(tokenizer: Any, sign: float) -> None:
    """Beyond -89 the exponential of a gate is no float32 any more; silu is then 0, not the gate."""
    model, prompts = load(BASE), prompts_of(tokenizer)
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight.mul_(60 * sign)
        model.model.layers[1].mlp.down_proj.weight.mul_(0.02)
    for prompt, [completion] in zip(
        prompts, engine_of(model, tokenizer).generate(prompts, 1, Sampling(20)), strict=True
    ):
        expected = scored(model, prompt, completion, 1.0, len(tokenizer))
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=1e-4, atol=1e-4)
