"""The gap between sampler and learner, and checkpoints of several files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from zero.errors import InputError
from zero.learner import tensor_files as store
from zero.learner.token_metrics import mismatch


def test_mismatch_is_its_definition_token_by_token() -> None:
    learner = torch.tensor([[-1.0, -2.0, -3.0, -9.0], [-0.5, -0.5, 0.0, 0.0]])
    sampler = torch.tensor([[-1.1, -1.0, -3.0, -1.0], [-2.0, -0.5, 0.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    d = [0.1, -1.0, 0.0, 1.5, 0.0]
    metrics = {name: float(value) for name, value in mismatch(learner, sampler, mask).items()}
    assert metrics == pytest.approx(
        {
            "mismatch/logprob_gap": sum(map(abs, d)),
            "mismatch/k3": sum(math.exp(x) - 1 - x for x in d),
            "mismatch/beyond_2x": 2,
        },
        rel=1e-5,
    )


def test_its_mean_is_the_divergence_from_sampler_to_learner() -> None:
    generator = torch.Generator().manual_seed(0)
    sampler, learner = (torch.randn(6, generator=generator).log_softmax(0) for _ in range(2))
    sampled_ids = torch.multinomial(sampler.exp(), 200_000, replacement=True, generator=generator)[None]
    ones = torch.ones(sampled_ids.shape)
    divergence = float(mismatch(learner[sampled_ids], sampler[sampled_ids], ones)["mismatch/k3"]) / sampled_ids.numel()
    assert divergence == pytest.approx(float((sampler.exp() * (sampler - learner)).sum()), rel=0.02)


@pytest.mark.parametrize("wild", [1e4, -1e4, math.inf, -math.inf])
def test_one_hostile_token_makes_nothing_infinite_that_is_bounded(wild: float) -> None:
    metrics = mismatch(torch.tensor([[wild, -1.0]]), torch.tensor([[-1.0, -1.0]]), torch.ones(1, 2))
    assert math.isfinite(metrics["mismatch/k3"]) and metrics["mismatch/beyond_2x"] == 1
    outside = mismatch(torch.tensor([[wild, -1.0]]), torch.tensor([[-1.0, -1.0]]), torch.tensor([[0.0, 1.0]]))
    assert all(value == 0 for value in outside.values())


def test_large_checkpoints_are_files_of_bounded_size(tmp_path: Path) -> None:
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(7)} | {"large": torch.arange(100.0)}
    store.write(tmp_path, "policy", tensors.items(), limit=100)  # bytes: two small ones to a file
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [f"policy.{i}.safetensors" for i in (1, 2, 3, 4)] + ["policy.safetensors"]
    for stored in (dict(store.read(tmp_path, "policy")), dict(store.read_checked(tmp_path, "policy", tensors))):
        assert stored.keys() == tensors.keys() and all(torch.equal(stored[k], v) for k, v in tensors.items())
    assert list(dict(store.read(tmp_path, "policy", "ge"))) == ["large"]


@pytest.mark.parametrize("names", [["t0"], ["t0", "t1", "t2"]])
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, names: list[str]) -> None:
    store.write(tmp_path, "policy", {"t0": torch.zeros(1), "t1": torch.zeros(1)}.items())
    with pytest.raises(InputError, match="is of another model or learner") as caught:
        list(store.read_checked(tmp_path, "policy", names))
    assert "\n" not in str(caught.value)
