"""Prompts with images: the native engine against transformers' own generate, and the learner against the engine, by family."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from tests.learner.setups import setup_of
from tests.learner.test_torch import OPTIM
from tests.models.test_vision import stored
from tests.models.visual_families import CONTEXT, FAMILIES, write_family
from tests.test_algorithm import load as load_algo
from zero.batching import make_batch, mini_batches, rewards
from zero.cpu import packing
from zero.critic.value_model import ValueModel
from zero.distributed import World
from zero.learner.torch import TorchLearner
from zero.models.load import load_model
from zero.models.vision import load_vision
from zero.models.vocabulary import vocabulary_size
from zero.records import Completion, Group, Prompt, Question, Sampling, Turn, Verdict
from zero.rollout import ModelSpec
from zero.rollout.native import NativeEngine
from zero.template import Template, extract_any
from zero.vision import Vision

CPU = torch.device("cpu")
GREEDY = Sampling(max_tokens=12, temperature=0.0)


@dataclass(frozen=True)
class Family:
    name: str
    model: Any
    tokenizer: Any
    vision: Vision

    def engine(self) -> NativeEngine:
        engine = NativeEngine(
            ModelSpec(self.model.config, self.tokenizer, CONTEXT, torch.float32, CPU, self.vision), 64
        )
        engine.sync(self.model.named_parameters(), 1)
        return engine

    def prompts(self, purpose: int = 0) -> list[Prompt]:
        """Without an image, with one of each of two, with both, each at its place."""
        a, b = stored(40, 30, 1), stored(90, 50, 2)
        template = Template("none", "{question}", extract_any, vision=self.vision)
        rows = [
            ("1 + 1 = ?", ()),
            ("What is it?", (a,)),
            ("What is it?", (b,)),
            ("First <image> then <image> or not?", (a, b)),
        ]
        return [
            template.prompt(Question(text, ("",), str(i), images=shown), self.tokenizer, (purpose, 0, 0, i))
            for i, (text, shown) in enumerate(rows)
        ]

    def learner(self, **more: Any) -> TorchLearner:
        setup = replace(
            setup_of(copy.deepcopy(self.model), OPTIM),
            vision=self.vision,
            temperature=1.0,
            vocabulary=vocabulary_size(self.tokenizer, self.model.config),
        )
        return TorchLearner(setup, **{"micro_tokens": 10_000, "gradient_checkpointing": False} | more)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        folder = write_family(request.param, tmp_path_factory.mktemp(request.param))
        model, tokenizer, _ = load_model({"path": str(folder), "context": None})
        vision = load_vision(model, tokenizer, folder)
        assert vision is not None
        yield Family(request.param, model.eval(), tokenizer, vision)


def test_greedy_tokens_are_those_of_transformers(family: Family) -> None:
    """And their log-probabilities to 1e-5: prompts of one batch, against each alone."""
    prompts = family.prompts()
    answers = family.engine().generate(prompts, 1, GREEDY)
    vocabulary, rows = vocabulary_size(family.tokenizer, family.model.config), family.model.get_input_embeddings()
    for prompt, [answer] in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt.ids])
        out = family.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **family.vision.inputs([prompt.images], ids),
            max_new_tokens=GREEDY.max_tokens,
            do_sample=False,
            eos_token_id=[],
            suppress_tokens=list(range(vocabulary, rows.num_embeddings)),  # padding of the embedding
            output_logits=True,
            return_dict_in_generate=True,
        )
        assert answer.ids == tuple(out.sequences[0, len(prompt.ids) :].tolist())
        logp = (
            torch.stack(out.logits)[:, 0, :vocabulary]
            .log_softmax(-1)
            .gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        )
        torch.testing.assert_close(torch.tensor(answer.logprobs), logp, atol=1e-5, rtol=0)


def answered(family: Family, n: int = 3) -> list[Group]:
    prompts = family.prompts()
    answers = family.engine().generate(prompts, n, replace(GREEDY, temperature=1.0))
    verdicts = [Verdict(float(i == 0), True, True, "", "") for i in range(n)]
    return [Group(p, tuple(c), tuple(verdicts)) for p, c in zip(prompts, answers, strict=True)]


def test_the_learner_gives_the_log_probabilities_of_the_engine(family: Family) -> None:
    groups = answered(family)
    batch = make_batch(groups, load_algo("drgrpo"), 0)
    assert batch.images_N is not None and [len(row) for row in batch.images_N[::3]] == [0, 1, 1, 2]
    learner = family.learner()
    assert learner.policy.packs(CPU) is (family.name.startswith("llava"))
    for cut in (10_000, 150):
        learner.micro_tokens = cut
        gap_NT = (learner.logprobs(batch) - batch.sampler_NT) * batch.mask_NT
        assert gap_NT.abs().max() < 1e-5


def test_a_sampled_image_token_is_a_token_like_any_other(family: Family) -> None:
    """A hostile policy may say it: nothing fails, and the tokens before it have the values that they had."""
    groups = answered(family, 1)
    token = family.vision.image_token_id
    changed = []
    for group in groups:
        [c] = group.completions
        ids = (*c.ids[:4], token, token, *c.ids[6:])
        changed.append(replace(group, completions=(replace(c, ids=ids),)))
    learner = family.learner()
    plain, odd = (learner.logprobs(make_batch(g, load_algo("drgrpo"), 0)) for g in (groups, changed))
    assert odd.isfinite().all()
    for n, group in enumerate(groups):
        start = len(group.prompt.ids)
        torch.testing.assert_close(odd[n, : start + 4], plain[n, : start + 4], atol=1e-5, rtol=0)


def test_an_update_is_the_same_however_the_rows_are_cut(family: Family) -> None:
    """Also that of the vision tower, whose features siblings share, against transformers' own forward pass."""
    algo = load_algo("drgrpo")
    groups = answered(family)
    batch = algo.with_advantages(make_batch(groups, algo, 0), rewards(groups))
    whole, cut = family.learner(), family.learner(micro_tokens=120)
    metrics = [learner.update(batch, algo) for learner in (whole, cut)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-3, abs=1e-6)
    tower = next(p for name, p in family.model.named_parameters() if "patch" in name and p.ndim > 1)
    moved = dict(whole.model.named_parameters())
    name = next(name for name, p in family.model.named_parameters() if p is tower)
    assert (moved[name] != tower).any()
    expected = own_gradient(family, batch)
    learner = family.learner()
    logprob_NT, _ = learner._forward(batch)
    (logprob_NT * batch.mask_NT).sum().backward()
    for name, parameter in learner.model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], atol=2e-3, rtol=2e-3)


def own_gradient(family: Family, batch: Any) -> dict[str, torch.Tensor]:
    """Of the sum of the log-probabilities, by transformers' own forward pass of all rows."""
    model = family.model
    model.zero_grad()
    shown = [tuple(digest for _, digest in row) for row in batch.images_N]
    mask = (torch.arange(batch.ids_NT.shape[1]) < batch.length_N[:, None]).long()
    logits = model(
        input_ids=batch.ids_NT, attention_mask=mask, use_cache=False, **family.vision.inputs(shown, batch.ids_NT)
    ).logits[:, :-1, : vocabulary_size(family.tokenizer, model.config)]
    picked = logits.log_softmax(-1).gather(2, batch.ids_NT[:, 1:, None])[..., 0]
    (picked * batch.mask_NT[:, 1:]).sum().backward()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return gradient


def test_a_critic_sees_the_images(family: Family) -> None:
    groups = answered(family)
    batch = make_batch(groups, load_algo("drgrpo"), 0)
    critic = ValueModel(family.model, 1, 0, False, CPU, World(), OPTIM, None, 10_000, vision=family.vision)
    value_NT, _ = critic.values(groups, batch)
    blind = [replace(g, prompt=replace(g.prompt, images=g.prompt.images[::-1])) for g in groups]
    if family.name in ("llava", "gemma3"):  # whose images all have as many features
        other_NT, _ = critic.values(blind, make_batch(blind, load_algo("drgrpo"), 0))
        same_N = (value_NT - other_NT).abs().sum(1) < 1e-6
        assert same_N.tolist() == [True] * 9 + [False] * 3
    assert value_NT.isfinite().all()


def test_each_context_of_an_episode_sees_its_own_images(family: Family) -> None:
    """A fresh turn sees what the environment showed with it, a turn that goes on all since then: as separate rows."""
    text, one, other, _ = family.prompts()
    answer = tuple(family.tokenizer.encode("7", add_special_tokens=False))
    first = len(answer)
    turns = (
        Turn("7", 0, first),
        Turn("7", first + len(other.ids), 2 * first + len(other.ids), fresh=True, images=other.images),
    )
    ids = (*answer, *other.ids, *answer)
    mask = (*[True] * first, *[False] * len(other.ids), *[True] * first)
    episode = Completion(ids, (0.0,) * len(ids), "", True, mask, turns)
    verdict = Verdict(0.0, True, True, "", "")
    alone = [Group(p, (Completion(answer, (0.0,) * first, "7", True),), (verdict,)) for p in (one, other)]
    learner, algo = family.learner(), load_algo("drgrpo")
    together = learner.logprobs(make_batch([Group(one, (episode,), (verdict,)), alone[0]], algo, 0))
    apart = learner.logprobs(make_batch(alone, algo, 0))
    start = len(one.ids)
    torch.testing.assert_close(together[0, start : start + first], apart[0, start : start + first])
    end = start + len(ids)
    torch.testing.assert_close(
        together[0, end - first : end], apart[1, len(other.ids) : len(other.ids) + first], atol=1e-5, rtol=1e-5
    )
    assert text.images == ()


def test_mini_batches_keep_their_images(family: Family) -> None:
    algo = load_algo("drgrpo")
    groups = answered(family)
    batch = algo.with_advantages(make_batch(groups, algo, 0), rewards(groups))
    known = {tuple(ids.tolist()): shown for ids, shown in zip(batch.ids_NT, batch.images_N or (), strict=True)}
    width = batch.ids_NT.shape[1]
    for part in mini_batches(batch, algo, 3, 1, (0, 0)):
        rows: Sequence[Any] = part.images_N or ()
        padded = torch.nn.functional.pad(part.ids_NT, (0, width - part.ids_NT.shape[1]))
        assert [known[tuple(ids.tolist())] for ids in padded] == list(rows)


def test_packing_splits_rows_by_their_images(family: Family) -> None:
    """Two prompts of the same tokens with other images are two prompts."""
    if not family.name.startswith("llava"):
        pytest.skip("not packed")
    algo = load_algo("drgrpo")
    _, one, other, _ = family.prompts()
    if one.ids != other.ids:
        pytest.skip("images of other sizes")
    answer = Completion((5, 6, 7), (0.0,) * 3, "", True)
    batch = make_batch([Group(p, (answer,), (Verdict(0.0, True, True, "", ""),)) for p in (one, other)], algo, 0)
    room = len(one.ids) + 8
    assert len(packing.split_rows(True, batch, torch.arange(2), room)) == 2
    a, b = family.learner().logprobs(batch)[:, len(one.ids) :]
    assert (a - b).abs().max() > 1e-4
