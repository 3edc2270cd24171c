"""vLLM on prompts with images, for real, on a CPU: the native engine's tokens and log-probabilities, from the same pixels."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from tests.learner.setups import setup_of
from tests.learner.test_torch import OPTIM
from tests.models.visual_families import CONTEXT, write_family
from tests.rollout.test_images import CPU, GREEDY, Family, stored
from tests.test_algorithm import load as load_algo
from zero.distributed import World
from zero.errors import InputError
from zero.learner.deepspeed import DeepSpeedLearner
from zero.models.load import load_model
from zero.models.vision import load_vision, vision_parameters
from zero.monitoring.sync_check import SyncCheck
from zero.records import Completion, Prompt, Question
from zero.rollout import ModelSpec
from zero.rollout.vllm import VllmEngine
from zero.template import Template, extract_any

pytestmark = pytest.mark.engines
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "smolvlm", "llava")  # qwen2_vl, idefics3 and llava_siglip run their code


@dataclass(frozen=True)
class Subject:
    family: Family
    engine: VllmEngine

    def sync(self, model: Any, version: int = 1) -> None:
        self.engine.sync(model.named_parameters(), version)

    def agrees(self, prompts: list[Prompt], family: Family | None = None) -> list[Completion]:
        """vLLM's greedy answers, which must be the native engine's."""
        answers = [c for [c] in self.engine.generate(prompts, 1, GREEDY)]
        expected = [c for [c] in (family or self.family).engine().generate(prompts, 1, GREEDY)]
        for ours, native in zip(answers, expected, strict=True):
            assert ours.ids == native.ids
            torch.testing.assert_close(torch.tensor(ours.logprobs), torch.tensor(native.logprobs), atol=1e-5, rtol=0)
        return answers


def family_of(name: str, folder: Any) -> Family:
    write_family(name, folder)
    model, tokenizer, _ = load_model({"path": str(folder), "context": None})
    vision = load_vision(model, tokenizer, folder)
    assert vision is not None
    return Family(name, model.eval(), tokenizer, vision)


def engine_of(family: Family) -> VllmEngine:
    return VllmEngine(
        ModelSpec(family.model.config, family.tokenizer, CONTEXT, torch.float32, CPU, family.vision),
        max_rows=32,
        batched_tokens=2048,
        memory=0.5,
        cache_gib=0.05,
        tensor_parallel=1,
        prefix_caching=True,
        eager=True,
        sleep=True,
    )


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        family = family_of(request.param, tmp_path_factory.mktemp(request.param))
        yield Subject(family, engine_of(family))


def test_greedy_answers_are_the_native_ones(subject: Subject) -> None:
    """Prompts with no image, one and two in one batch; twice, the second time from the caches."""
    subject.sync(subject.family.model)
    prompts = subject.family.prompts()
    assert [len(prompt.images) for prompt in prompts] == [0, 1, 1, 2]
    first = subject.agrees(prompts)
    assert [c.ids for c in subject.agrees(prompts)] == [c.ids for c in first]


def test_a_changed_tower_is_taken_over(subject: Subject) -> None:
    """The features of an image under the old weights are kept nowhere."""
    subject.sync(subject.family.model)
    prompts = subject.family.prompts()
    before = subject.agrees(prompts)
    other = deepcopy(subject.family.model)
    tower = vision_parameters(other)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in tower:
                parameter.add_(torch.randn_like(parameter), alpha=0.5 * float(parameter.std().nan_to_num()))
    subject.sync(other, 2)
    after = subject.agrees(prompts, replace(subject.family, model=other))
    assert before[0].ids == after[0].ids
    assert all(a.logprobs != b.logprobs for a, b in zip(before[1:], after[1:], strict=True))


def test_prompts_of_the_same_tokens_share_nothing_if_their_images_differ(subject: Subject) -> None:
    subject.sync(subject.family.model)
    template = Template("none", "{question}", extract_any, vision=subject.family.vision)
    shown = [stored(40, 30, seed) for seed in (1, 3)]
    one, other = (
        template.prompt(
            Question("<image> " + "What is it? " * 20, ("",), "q", images=(digest,)), subject.family.tokenizer, (0, i)
        )
        for i, digest in enumerate(shown)
    )
    assert one.ids == other.ids
    [a], [b], [again] = (subject.agrees([prompt]) for prompt in (one, other, one))
    assert a.logprobs != b.logprobs
    assert (a.cached, b.cached, again.cached) == (0, 0, again.cached) and again.cached >= 32


def test_engine_and_learner_are_one_policy(subject: Subject) -> None:
    subject.sync(subject.family.model)
    check = SyncCheck(1, image_token_id=subject.family.vision.image_token_id)
    prompts = subject.family.prompts()[1:3]
    sampling, pad = replace(GREEDY, temperature=1.0), subject.family.tokenizer.pad_token_id
    learner = subject.family.learner()
    gap = check.check(subject.engine, learner, load_algo("drgrpo"), prompts, sampling, pad, World(), 1)
    assert gap < 1e-5


def test_a_model_whose_images_vllm_gets_wrong_is_refused(tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"rollout=vllm: .* CPU is causal, which is wrong for the images of Gemma3"):
        engine_of(family_of("gemma3", tmp_path))


def test_sharded_weights_are_refused_for_a_model_that_sees(subject: Subject) -> None:
    """A rank without images would wait for ever for the ranks that gather the tower's weights."""
    setup = setup_of(subject.family.model, OPTIM, world=World(0, 2))
    with pytest.raises(InputError, match=r"learner.stage=3: ranks that show no image .*; set learner.stage=2"):
        DeepSpeedLearner(replace(setup, vision=subject.family.vision), 100, False, stage=3)
