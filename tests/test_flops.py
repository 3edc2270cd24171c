"""The cost of a step, against plain loops and against torch's own count of its matrix products."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from tests.conftest import tiny_config
from tests.test_algorithm import load
from zero.batching import make_batch, mini_batches
from zero.flops import FlopCounter, Sight
from zero.learner.trainable import matrix_parameters
from zero.records import Completion, Ending, Group, Outcome, Prompt, Question, Turn, Verdict

N = 1000


def completion(ids: int, mask: tuple[bool, ...] = (), turns: tuple[Turn, ...] = (), version: int = 3) -> Completion:
    ending = Ending.DONE if turns else None
    return Completion((1,) * ids, (-1.0,) * ids, "", True, mask, turns, ending, version=version)


def group(prompt: int, completions: list[Completion], rewards: list[float]) -> Group:
    verdicts = [Verdict(r, Outcome.CORRECT, Outcome.CORRECT, "", "") for r in rewards]
    question = Prompt(Question("?", ("1",), "q"), "?", (2,) * prompt, (0, 0, 0, 0))
    return Group(question, tuple(completions), tuple(verdicts))


# An episode of 9 tokens: 2 said, 4 of a whole new prompt, 3 said
EPISODE = completion(9, (True,) * 2 + (False,) * 4 + (True,) * 3, (Turn("", 0, 2), Turn("", 6, 9, fresh=True)))
GROUPS = [group(5, [completion(7), EPISODE], [1.0, 0.0]), group(4, [completion(3), completion(6)], [1.0, 1.0])]
THROWN_AWAY = group(8, [completion(2), completion(2)], [0.0, 0.0])


def cost(algo: str = "drgrpo", updates: int = 1, epochs: int = 1, **more: Any) -> dict[str, float]:
    """Of a step that sampled GROUPS and THROWN_AWAY and learned from GROUPS."""
    own = load(algo)
    batch = make_batch(more.pop("groups", GROUPS), own, 0)
    advantage_N1 = torch.tensor([[0.5], [-0.5], [0.0], [0.0]])
    batch = replace(batch, advantage_NT=advantage_N1 * batch.mask_NT, **more.pop("given", {}))
    first, *others = mini_batches(batch, own, updates, epochs, key=(0, 0))
    updated = [replace(first, old_NT=None), *(replace(b, old_NT=b.mask_NT) for b in others)]
    sampled = more.pop("sampled", [*GROUPS, THROWN_AWAY])
    return FlopCounter(N, more.pop("frozen", False)).metrics(sampled, batch, updated, own, more.pop("critic", None))


SAMPLED = (5 + 7 + 9) + (4 + 3 + 6) + (8 + 2 + 2)
LEARNING, OTHERS = (5 + 7) + (5 + 9), (4 + 3) + (4 + 6)


def test_a_step_costs_its_sampled_and_its_trained_tokens() -> None:
    assert cost() == {
        "cost/flops": 2 * N * SAMPLED + 6 * N * LEARNING + 2 * N * OTHERS,
        "cost/tokens_trained": LEARNING,
        "cost/tokens_sampled": SAMPLED,
    }
    assert cost(frozen=True)["cost/flops"] == 2 * N * SAMPLED + 4 * N * LEARNING + 2 * N * OTHERS


def test_every_epoch_and_every_pass_of_log_probabilities_counts() -> None:
    whole = LEARNING + OTHERS
    twice = 2 * N * SAMPLED + 2 * (6 * N * LEARNING + 2 * N * OTHERS)
    assert cost(epochs=2)["cost/flops"] == twice + 2 * N * whole, "old log-probabilities of the second epoch"
    assert cost(epochs=2)["cost/tokens_trained"] == 2 * LEARNING
    one, two = cost(updates=1), cost(updates=2)  # the second update's rows need their old log-probabilities
    rows = {2 * N * (a + b) for a in (12, 14, 7, 10) for b in (12, 14, 7, 10) if a != b}
    assert two["cost/flops"] - one["cost/flops"] in rows
    known = torch.zeros_like(make_batch(GROUPS, load("grpo"), 0).mask_NT)
    assert cost(given={"reference_NT": known})["cost/flops"] == cost()["cost/flops"] + 2 * N * whole
    assert cost(given={"old_NT": known})["cost/flops"] == cost()["cost/flops"] + 2 * N * whole
    assert cost("ppo", epochs=2)["cost/tokens_sampled"] == SAMPLED


def test_images_cost_what_turns_them_into_features() -> None:
    image, seen = 9, 3  # an id, and how often it stands in the first prompt, which two responses share
    shown = replace(GROUPS[0].prompt, ids=(image,) * seen + (2, 2), image_tokens=seen)
    groups = [replace(GROUPS[0], prompt=shown), GROUPS[1]]
    own, V = load("drgrpo"), 50
    batch = make_batch(groups, own, 0)
    batch = replace(batch, advantage_NT=torch.tensor([[0.5], [-0.5], [0.0], [0.0]]) * batch.mask_NT)

    def more(sight: Sight, **given: Any) -> float:
        updated = [replace(batch, **given)]
        counts = (FlopCounter(N, sight=each).metrics(groups, batch, updated, own, None) for each in (sight, None))
        with_images, without = (count["cost/flops"] for count in counts)
        return with_images - without

    assert more(Sight(image, V)) == V * (seen + 2 * seen), "sampling once for the group, the update for each response"
    assert more(Sight(image, V, learns=True)) == V * (seen + 3 * 2 * seen)
    assert more(Sight(image, V), old_NT=batch.mask_NT) == V * (seen + 2 * 2 * seen), "a pass for old log-probabilities"
    assert more(Sight(image + 1, V)) == V * seen, "an id that stands nowhere"


def test_a_bonus_for_entropy_gives_every_row_a_gradient() -> None:
    own = replace(load("drgrpo"), entropy=0.1)
    batch = make_batch(GROUPS, own, 0)
    batch = replace(batch, advantage_NT=batch.mask_NT * 0)
    assert FlopCounter(N).metrics(GROUPS, batch, [batch], own, None)["cost/tokens_trained"] == LEARNING + OTHERS


def test_solutions_cost_no_sampling() -> None:
    given = [replace(g, completions=tuple(replace(c, version=-1) for c in g.completions)) for g in GROUPS]
    metrics = cost(groups=given, sampled=given)
    assert metrics["cost/tokens_sampled"] == 0 and metrics["cost/flops"] == 6 * N * LEARNING + 2 * N * OTHERS


def test_a_critic_costs_its_own_passes_and_what_it_samples() -> None:
    whole, learned, sampling = (
        LEARNING + OTHERS,
        SimpleNamespace(parameters=50, tokens=0),
        SimpleNamespace(parameters=0, tokens=70),
    )
    assert cost(critic=learned)["cost/flops"] == cost()["cost/flops"] + 50 * (6 + 2) * whole
    assert cost(critic=learned, epochs=2)["cost/flops"] == cost(epochs=2)["cost/flops"] + 50 * (2 * 6 + 2) * whole
    assert cost(critic=sampling)["cost/flops"] == cost()["cost/flops"] + 2 * N * 70


@pytest.mark.parametrize("family", ["qwen2", "llama", "gpt2"])  # tied, untied, tied with positions in a table
def test_parameters_in_matrix_products_are_those_that_torch_multiplies(family: str) -> None:
    model = AutoModelForCausalLM.from_config(tiny_config(family, 40), attn_implementation="eager").eval()
    tokens = 8
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(input_ids=torch.arange(tokens)[None], use_cache=False)
    counts = counter.get_flop_counts()["Global"]
    products = sum(count for op, count in counts.items() if "attention" not in str(op) and "bmm" not in str(op))
    assert products == 2 * tokens * matrix_parameters(model)
