"""What conf/optimizer builds: which parameters each optimizer moves, at which rate, and how the rate goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.learner.test_torch import OPTIM, batch_of, learner_of
from tests.test_algorithm import load as load_algo
from zero.config.check import check, instantiate
from zero.learner.optimizer import Optimizer, is_matrix_of, parameter_groups


def option(name: str, *overrides: str) -> Optimizer:
    return instantiate(check("train", [f"optimizer={name}", *overrides])["optimizer"])


def test_muon_moves_the_matrices_of_the_layers_and_adamw_all_others(tiny_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    is_matrix = is_matrix_of(model)
    names = {name for name, p in model.named_parameters() if is_matrix(p)}
    assert any(".mlp." in name for name in names)
    assert not any(word in name for name in names for word in ("embed", "head", "norm", "bias"))
    kinds = [[p for p in model.parameters() if is_matrix(p) == kind] for kind in (True, False)]
    muon, adamw = option("muon", "optimizer.lr=0.01", "optimizer.others.lr=0.002").build(*kinds)
    assert (type(muon), type(adamw)) == (torch.optim.Muon, torch.optim.AdamW)
    assert [len(group["params"]) for group in parameter_groups([muon, adamw])] == [len(kind) for kind in kinds]
    assert [group["initial_lr"] for group in parameter_groups([muon, adamw])] == [0.01, 0.002]
    [adamw] = option("adamw", "optimizer.weight_decay=0.1", "optimizer.others.weight_decay=0").build(*kinds)
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.1, 0.0]


def test_with_muon_a_policy_learns_and_a_resumed_run_has_the_same_bits(tiny_folder: Path, tmp_path: Path) -> None:
    algo = load_algo("drgrpo")
    batch, optimizer = batch_of(algo), option("scratch", "optimizer.warmup=4")
    straight = learner_of(tiny_folder, optimizer=optimizer)
    before = {name: weight.clone() for name, weight in straight.weights()}
    rates = [straight.update(batch, algo)["loss/learning_rate"] for _ in range(2)]
    assert rates == [0.25 * 5e-3, 0.5 * 5e-3]
    assert [group["lr"] for group in parameter_groups(straight.trained.optimizers)] == [0.5 * 5e-3, 0.5 * 3e-3]
    straight.save(tmp_path)
    resumed = learner_of(tiny_folder, optimizer=optimizer)
    resumed.load(tmp_path)
    for learner in (straight, resumed):
        learner.update(batch, algo)
    for (name, a), (_, b) in zip(straight.weights(), resumed.weights(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, before[name]), name


@pytest.mark.parametrize(("progress", "share"), [(0.0, 1.0), (0.5, 1.0), (0.75, 0.5), (0.875, 0.25), (1.0, 0.2)])
def test_wsd_holds_the_full_rate_then_falls_to_the_floor(progress: float, share: float) -> None:
    optimizer = option("adamw", "optimizer.schedule=wsd", "optimizer.decay_from=0.5", "optimizer.floor=0.2")
    assert optimizer.share(progress) == share
    assert OPTIM.share(progress) == 1.0
