"""What every rollout engine must do, as checks over any of them: zero.rollout.RolloutEngine's contract.

Each check takes a Subject, gives the engine the model's weights anew, and asserts. The model is in float32 on a CPU.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import BASE, tiny_config
from zero.errors import InputError
from zero.records import Completion, Prompt, Question, Sampling
from zero.rollout import RolloutEngine
from zero.rollout.native import truncate

CONTEXT = 256
TEXTS = ["Start with 12, add 7. What is the result?", "Tom has 3 apples.", "Use 3, 5, 2 to make 16.", "a"]
LONG = "Tom has 3 apples. " * 12  # more tokens than a block of the key-value cache
KINDS = ("tied", "untied", "llama", "shipped")
Groups = list[list[Completion]]


@dataclass(frozen=True)
class Subject:
    """An engine, and the model whose weights it gets. `bound` is how much its log-probabilities may differ, `block` the tokens
    of a block of its prefix cache."""

    engine: RolloutEngine
    model: Any
    tokenizer: Any
    bound: float = 1e-4
    block: int = 32

    @property
    def vocabulary(self) -> int:
        return min(len(self.tokenizer), self.model.config.vocab_size)

    def sync(self, model: Any = None, version: int = 0) -> None:
        self.engine.sync((model or self.model).named_parameters(), version)

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> Groups:
        with self.engine.awake():
            return self.engine.generate(prompts, n, sampling)


def model_of(kind: str, tokenizer: Any) -> Any:
    """A causal model by kind. All but the shipped one are random, with eight rows more than the tokenizer has tokens."""
    from transformers import AutoModelForCausalLM

    if kind == "shipped":
        return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    config = tiny_config("llama" if kind == "llama" else "qwen2", len(tokenizer) + 8)
    if kind == "llama":
        config.head_dim = 32  # the smallest heads that vLLM knows on a CPU
    else:
        config.hidden_size, config.tie_word_embeddings = 128, kind == "tied"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # far from uniform, or every comparison of tokens would be a coin toss
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model


def prompts_of(tokenizer: Any, texts: Sequence[str], seed: int = 0) -> list[Prompt]:
    return [
        Prompt(Question(text, ("1",), str(i)), text, tuple(tokenizer(text).input_ids), (0, seed, 0, i))
        for i, text in enumerate(texts)
    ]


@torch.no_grad()
def scored(model: Any, prompt: Prompt, ids: tuple[int, ...], sampling: Sampling, vocabulary: int) -> torch.Tensor:
    """[T] log-probabilities of a completion under the distribution it should be drawn from, by one plain forward pass."""
    logits = model(torch.tensor([prompt.ids + ids])).logits[0, len(prompt.ids) - 1 : -1, :vocabulary].float()
    if sampling.temperature > 0:
        logits = truncate(logits / sampling.temperature, sampling.top_k, sampling.top_p)
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]


def differences(s: Subject, prompts: Sequence[Prompt], groups: Groups, sampling: Sampling, model: Any = None) -> Any:
    """|engine - model| for every token drawn."""
    pairs = [(prompt, completion) for prompt, group in zip(prompts, groups, strict=True) for completion in group]
    own = [scored(model or s.model, p, c.ids, sampling, s.vocabulary) for p, c in pairs]
    return torch.cat([(torch.tensor(c.logprobs) - o).abs() for (_, c), o in zip(pairs, own, strict=True)])


def shaken(model: Any, seed: int) -> Any:
    """A copy with other weights: every parameter moved by a tenth of its size."""
    model, noise = deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * parameter.abs().mean() * torch.randn(parameter.shape, generator=noise))
    return model


def check_log_probabilities_before_and_after_two_syncs(s: Subject) -> None:
    """With a prompt longer than a block, so that a prefix cache that outlived its weights would show."""
    prompts, sampling = prompts_of(s.tokenizer, [*TEXTS, LONG, LONG]), Sampling(30, stop_ids=(0,))
    models = [s.model, shaken(s.model, 1), shaken(s.model, 2)]
    for version, model in enumerate(models):
        s.sync(model, version)
        groups = s.generate(prompts, 3, sampling)
        assert differences(s, prompts, groups, sampling, model).max() < s.bound
        assert {c.version for c in chain(*groups)} == {version}
    assert differences(s, prompts, groups, sampling, models[1]).max() > 100 * s.bound  # stale weights would be seen


def check_temperature_and_truncation_are_in_the_log_probabilities(s: Subject) -> None:
    s.sync()
    prompts = prompts_of(s.tokenizer, TEXTS)
    for sampling in (
        Sampling(30, 0.7),
        Sampling(30, 1.0, top_k=5),
        Sampling(30, 1.3, top_p=0.8),
        Sampling(30, 0.7, 0.9, 20),
    ):
        assert differences(s, prompts, s.generate(prompts, 3, sampling), sampling).max() < s.bound


def check_text_and_ends(s: Subject) -> None:
    """ids re-decode to the text; a stop id is the last id and not in the text; unfinished is exactly at the budget."""
    s.sync()
    sampling = Sampling(25, stop_ids=(0, s.tokenizer.encode(" ")[-1]))
    completions = list(chain(*s.generate(prompts_of(s.tokenizer, TEXTS), 16, sampling)))
    for c in completions:
        stops = [i for i in c.ids if i in sampling.stop_ids]
        assert c.finished == bool(stops) and len(stops) <= 1 and len(c.logprobs) == len(c.ids) <= 25
        assert c.ids[-1] in sampling.stop_ids if c.finished else len(c.ids) == 25
        assert c.text == s.tokenizer.decode(c.ids[:-1] if c.finished else c.ids)
    assert {c.finished for c in completions} == {True, False}


def check_stop_strings(s: Subject) -> None:
    """Against the oracle: a response ends with the token after which its text first holds a stop string, and is otherwise
    what it is without stop strings. The strings are made to end within a token, to span tokens, and to be completed by
    the budget's last token."""
    s.sync()
    prompts, budget = prompts_of(s.tokenizer, TEXTS), 24
    free = list(chain(*s.generate(prompts, 8, Sampling(budget, stop_ids=(0,)))))
    strings: list[tuple[str, ...]] = [(stop,) for stop in _awkward(s.tokenizer, [c for c in free if not c.finished])]
    assert len(strings) == 3
    strings += [("e", "zzz")]
    at_the_end = 0
    for stop in strings:
        stopped = list(chain(*s.generate(prompts, 8, Sampling(budget, stop=stop, stop_ids=(0,)))))
        for before, after in zip(free, stopped, strict=True):
            end = next((k for k in range(1, len(before.ids) + 1) if _holds(s.tokenizer, before.ids[:k], stop)), None)
            assert after.ids == before.ids[:end] and after.finished == (end is not None or before.finished)
            assert after.text == (before.text if end is None else s.tokenizer.decode(before.ids[:end]))
            at_the_end += end == budget
    assert at_the_end >= 1


def _holds(tokenizer: Any, ids: Sequence[int], stop: tuple[str, ...]) -> bool:
    return any(text in tokenizer.decode([i for i in ids if i != 0]) for text in stop)


def _awkward(tokenizer: Any, completions: Sequence[Completion]) -> list[str]:
    """Stop strings out of responses: one that ends within a token, one over three tokens, one that the last token ends."""
    texts: dict[str, str] = {}
    for c in completions:
        decoded = [tokenizer.decode(c.ids[:k]) for k in range(len(c.ids) + 1)]
        pieces = [new[len(old) :] if new.startswith(old) else "\ufffd" for old, new in pairwise(decoded)]
        for k in range(4, len(pieces)):
            few = pieces[k - 2 : k + 1]
            if "\ufffd" in "".join(few) or not all(few):  # half a character cannot be a stop string
                continue
            if len(few[2]) > 1 and k + 1 < len(pieces):
                texts.setdefault("within", few[1] + few[2][:-1])
            if k + 1 < len(pieces):
                texts.setdefault("over", "".join(few))
            elif "".join(few) not in decoded[-2]:
                texts.setdefault("last", "".join(few))
    return list(texts.values())


def check_a_completion_depends_on_its_key_alone(s: Subject) -> None:
    s.sync()
    prompts, sampling = prompts_of(s.tokenizer, [*TEXTS, TEXTS[0], LONG]), Sampling(20, 2.0, stop_ids=(0,))
    whole = s.generate(prompts, 6, sampling)
    ids = [[c.ids for c in group] for group in whole]
    assert [[c.ids for c in group] for group in s.generate(prompts, 6, sampling)] == ids
    assert [[c.ids for c in group] for group in s.generate(prompts[::-1], 6, sampling)] == ids[::-1]
    assert [c.ids for c in s.generate(prompts[2:3], 2, sampling)[0]] == ids[2][:2]
    others = s.generate(prompts_of(s.tokenizer, [*TEXTS, TEXTS[0], LONG], seed=1), 6, sampling)
    assert others != whole
    assert not {*ids[0]} & {*ids[4]}  # the same text under another key
    assert len({*ids[0]}) == 6
    s.sync()
    assert s.generate(prompts, 6, sampling) == whole  # to the bit: a resumed run is in this state


def check_more_rows_than_fit(s: Subject) -> None:
    """128 rows, where the engine decodes at most 32 at once: the same as in parts."""
    s.sync()
    prompts, sampling = prompts_of(s.tokenizer, [f"{text} {i}" for i in range(4) for text in TEXTS]), Sampling(12)
    whole = s.generate(prompts, 8, sampling)
    assert [len(group) for group in whole] == [8] * 16
    for p in (0, 15):
        assert [c.ids for c in s.generate(prompts[p : p + 1], 8, sampling)[0]] == [c.ids for c in whole[p]]


def check_greedy(s: Subject) -> None:
    """The arg-max of each step, and its log-probability at temperature 1, whatever top_p and top_k say."""
    s.sync()
    prompts = prompts_of(s.tokenizer, TEXTS)
    sampling = Sampling(30, 0.0, 0.5, 3, stop_ids=(0,))
    groups = s.generate(prompts, 2, sampling)
    assert differences(s, prompts, groups, sampling).max() < s.bound
    for prompt, [one, two] in zip(prompts, groups, strict=True):
        assert one.ids == two.ids
        with torch.no_grad():
            logits = s.model(torch.tensor([prompt.ids + one.ids])).logits[0, len(prompt.ids) - 1 : -1, : s.vocabulary]
        assert logits.argmax(-1).tolist() == list(one.ids)


def check_no_id_beyond_the_tokenizer(s: Subject) -> None:
    """Not even if the model's padding rows are the likeliest by far."""
    model = deepcopy(s.model)
    with torch.no_grad():
        rows = model.get_output_embeddings().weight[s.vocabulary :]
        assert len(rows) == 8
        rows[::2] = 20.0 * torch.randn(4, rows.shape[1], generator=torch.Generator().manual_seed(0))
        rows[1::2] = -rows[::2]  # whatever the hidden state is, one of the two is large
    s.sync(model)
    prompts, sampling = prompts_of(s.tokenizer, TEXTS), Sampling(20)
    with torch.no_grad():
        assert model(torch.tensor([prompts[0].ids])).logits[0, -1].argmax() >= s.vocabulary
    for sampling in (Sampling(20), Sampling(20, 0.0)):
        groups = s.generate(prompts, 3, sampling)
        assert max(chain(*(c.ids for c in chain(*groups)))) < s.vocabulary
        assert differences(s, prompts, groups, sampling, model).max() < s.bound


def check_the_context_is_the_limit(s: Subject) -> None:
    s.sync()
    long = prompts_of(s.tokenizer, ["2 + 2 = " * 22, TEXTS[0]])
    room = CONTEXT - len(long[0].ids)
    assert 0 < room < 100
    cut, whole = s.generate(long, 2, Sampling(120))
    assert [(len(c.ids), c.finished) for c in cut] == [(room, False)] * 2
    assert [len(c.ids) for c in whole] == [120] * 2
    with pytest.raises(InputError, match=r"model.context=256: a prompt of \d+ tokens leaves no room"):
        s.generate([*long, *prompts_of(s.tokenizer, ["a " * 300])], 1, Sampling(8))
    assert s.generate([], 4, Sampling(8)) == []
    [[one]] = s.generate(long[1:], 1, Sampling(1))
    assert len(one.ids) == 1 and not one.finished


def check_the_random_state_of_the_process_is_untouched(s: Subject) -> None:
    before = random_states()
    s.sync()
    s.generate(prompts_of(s.tokenizer, TEXTS), 2, Sampling(8))
    assert random_states() == before


def random_states() -> tuple[Any, ...]:
    """The states of a process's three random generators, comparable."""
    return random.getstate(), str(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()


CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_log_probabilities_before_and_after_two_syncs,
    check_temperature_and_truncation_are_in_the_log_probabilities,
    check_text_and_ends,
    check_stop_strings,
    check_a_completion_depends_on_its_key_alone,
    check_more_rows_than_fit,
    check_greedy,
    check_no_id_beyond_the_tokenizer,
    check_the_context_is_the_limit,
    check_the_random_state_of_the_process_is_untouched,
)
