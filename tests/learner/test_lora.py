"""LoRA: only adapters train, engines get plain merged weights, and the base is the reference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.learner.test_torch import batch_of, gradient, learner_of
from tests.test_algorithm import load as load_algo
from zero.build import make_learner
from zero.config.check import check, instantiate
from zero.distributed import World
from zero.errors import InputError
from zero.learner.lora import Lora
from zero.learner.torch import TorchLearner
from zero.models.export import store_as

LORA = Lora(4, 8, "all-linear")


def plain_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def lora_learner(folder: Path, updates: int = 0, **changes: Any) -> TorchLearner:
    learner = learner_of(folder, **({"lora": LORA} | changes))
    for _ in range(updates):
        learner.update(batch_of(load_algo("drgrpo")), load_algo("drgrpo"))
    return learner


def test_the_start_is_the_base_bit_for_bit_and_the_base_stays(tiny_folder: Path) -> None:
    base = dict(plain_model(tiny_folder).named_parameters())
    learner = lora_learner(tiny_folder)
    start = dict(learner.weights())
    assert list(start) == list(base) and all(torch.equal(start[name], base[name]) for name in base)
    for _ in range(2):
        learner.update(batch_of(load_algo("drgrpo")), load_algo("drgrpo"))
    moved = {name for name, weight in learner.weights() if not torch.equal(weight, base[name])}
    assert moved == set(learner.adapters.layers) and moved  # type: ignore[union-attr]
    head = plain_model(tiny_folder).get_output_embeddings().weight
    assert not any(base[name].shape == head.shape for name in moved)
    assert all(torch.equal(w, base[name]) for name, w in learner.adapters.plain.items())  # type: ignore[union-attr]


def test_merged_weights_compute_what_the_adapters_compute(tiny_folder: Path) -> None:
    learner = lora_learner(tiny_folder, updates=5)
    merged = plain_model(tiny_folder)
    merged.load_state_dict(dict(learner.weights()), strict=False)
    ids = torch.randint(8, 400, (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, with_adapters, after = (m(ids).logits for m in (plain_model(tiny_folder), learner.model, merged))
    assert (before - with_adapters).abs().max() > 1e-3
    torch.testing.assert_close(with_adapters.log_softmax(-1), after.log_softmax(-1), rtol=1e-5, atol=1e-5)


def test_only_adapters_are_kept_and_a_resumed_learner_goes_on_to_the_same_bits(
    tiny_folder: Path, tmp_path: Path
) -> None:
    algo = load_algo("drgrpo")
    batch = batch_of(algo)
    straight = lora_learner(tiny_folder, updates=2, seed=3)
    straight.save(tmp_path)
    for file in ("policy.safetensors", "policy_optimizer.safetensors"):
        assert all(".lora_A." in name or ".lora_B." in name for name in load_file(tmp_path / file))
    resumed = lora_learner(tiny_folder, seed=4)
    resumed.load(tmp_path)
    for learner in (straight, resumed):
        learner.update(batch, algo)
    for (name, a), (_, b) in zip(straight.weights(), resumed.weights(), strict=True):
        assert torch.equal(a, b), name


def test_the_seed_alone_decides_the_adapters(tiny_folder: Path) -> None:
    def trained(seed: int, noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        weights = lora_learner(tiny_folder, updates=2, seed=seed).weights()
        return torch.cat([w.flatten() for _, w in weights])

    assert torch.equal(trained(0, 1), trained(0, 2)) and not torch.equal(trained(0, 1), trained(1, 1))


def test_the_adapters_begin_as_those_of_peft(tiny_folder: Path) -> None:
    for layer in lora_learner(tiny_folder).adapters.layers.values():  # type: ignore[union-attr]
        a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight
        bound = a.shape[1] ** -0.5
        assert a.shape[0] == b.shape[1] == 4 and not b.any() and layer.scaling["default"] == 2
        assert 0.8 * bound < a.abs().max() <= bound and float(a.std()) == pytest.approx(bound / 3**0.5, rel=0.25)


def test_an_update_lowers_the_loss(tiny_folder: Path) -> None:
    algo = load_algo("sft")
    learner = lora_learner(tiny_folder)
    batch = batch_of(algo)
    first = learner.update(batch, algo)["loss/policy"]
    later = [learner.update(batch, algo)["loss/policy"] for _ in range(8)]
    assert later[0] < first and later[-1] < later[0]


def test_the_reference_is_the_base_and_costs_no_copy(tiny_folder: Path) -> None:
    algo = replace(load_algo("drgrpo"), beta=0.1)
    learner = lora_learner(tiny_folder, keep_reference=True)
    batch = batch_of(algo)
    first = learner.logprobs(batch, reference=True)
    assert learner.reference_state is None
    plain = learner_of(tiny_folder).logprobs(batch)  # perhaps by kernels, which are not used with adapters
    torch.testing.assert_close(first, plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(first, learner.logprobs(batch))
    batch = replace(batch, reference_NT=first)
    assert learner.update(batch, algo)["loss/kl"] == pytest.approx(0, abs=1e-9)
    moved = learner.logprobs(batch)
    assert not torch.equal(moved, first) and torch.equal(learner.logprobs(batch, reference=True), first)
    assert torch.equal(learner.logprobs(batch), moved)
    learner.update(batch, algo)
    assert not torch.equal(learner.logprobs(batch), moved)  # the adapters still learn


def test_cuts_and_gradient_checkpointing_change_nothing(tiny_folder: Path) -> None:
    """At B = 0 a gradient reaches B alone; after an update it reaches both."""
    algo = load_algo("drgrpo")

    def gradient_with(**changes: Any) -> torch.Tensor:
        learner = lora_learner(tiny_folder, updates=1, **changes)
        return gradient_of_trained(learner)

    def gradient_of_trained(learner: TorchLearner) -> torch.Tensor:
        caught: list[torch.Tensor] = []
        learner.trained.optimizers[0].step = lambda: caught.extend(
            p.grad.flatten() for _, p in learner.trained.parameters()
        )  # type: ignore
        learner.update(batch_of(algo), algo)
        return torch.cat(caught)

    plain = gradient_with()
    assert (plain != 0).float().mean() > 0.9
    torch.testing.assert_close(gradient_with(gradient_checkpointing=True), plain, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(gradient_with(micro_tokens=30), plain, rtol=2e-3, atol=1e-6)


def test_the_head_is_as_plain_as_without(tiny_folder: Path) -> None:
    assert learner_of(tiny_folder).plain_head and lora_learner(tiny_folder).plain_head


def test_full_training_has_no_adapters(tiny_folder: Path) -> None:
    learner = learner_of(tiny_folder)
    assert learner.adapters is None and gradient(learner, batch_of(load_algo("drgrpo")), load_algo("drgrpo")).any()


def test_export_is_a_plain_model_and_an_adapter_that_peft_loads(tiny_folder: Path, tmp_path: Path) -> None:
    learner = lora_learner(tiny_folder, updates=3)
    learner.export(tmp_path / "model")
    exported = plain_model(tmp_path / "model")
    loaded, plain = dict(exported.named_parameters()), plain_model(tiny_folder)
    assert list(loaded) == [name for name, _ in plain.named_parameters()]
    assert all(torch.equal(w, loaded[name]) for name, w in learner.weights())
    plain.save_pretrained(tmp_path / "plain")
    stored = [load_file(tmp_path / folder / "model.safetensors") for folder in ("model", "plain")]
    assert stored[0].keys() == stored[1].keys()
    again = PeftModel.from_pretrained(plain, tmp_path / "model" / "adapter").eval()
    ids = torch.arange(8, 28)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            exported(input_ids=ids).logits, learner.model(input_ids=ids).logits, rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(again(input_ids=ids).logits, exported(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    written = json.loads((tmp_path / "model" / "adapter" / "adapter_config.json").read_text())
    named = written["target_modules"]  # a set, which every process orders in its own way
    assert named == sorted(named) and len(named) >= 3
    lora_learner(tiny_folder, updates=3).export(tmp_path / "twin")
    for file in ("model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        assert (tmp_path / "model" / file).read_bytes() == (tmp_path / "twin" / file).read_bytes()


def test_what_is_exported_is_what_was_computed_with(tiny_folder: Path, tmp_path: Path) -> None:
    """Also where the model is stored in a higher precision than that of the passes."""
    learner = lora_learner(tiny_folder, updates=3, autocast=True)
    learner.export(tmp_path / "model")
    store_as(tmp_path / "model", torch.float32)
    exported = dict(plain_model(tmp_path / "model").named_parameters())
    assert all(torch.equal(weight.float(), exported[name]) for name, weight in learner.weights())


@pytest.mark.parametrize("family", ["llama"])
def test_chosen_layers_only(family: str, tmp_path: Path) -> None:
    from tests.conftest import tiny_config

    AutoModelForCausalLM.from_config(tiny_config(family, 500)).save_pretrained(tmp_path)
    chosen = lora_learner(tmp_path, lora=Lora(2, 2, ["q_proj", "v_proj"])).adapters
    assert {name.split(".")[-2] for name in chosen.layers} == {"q_proj", "v_proj"} and len(chosen.layers) == 4  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("llama", (0, 8, "all-linear"), r"learner\.lora\.rank=0: must be above 0"),
        ("llama", (4, 0, "all-linear"), r"learner\.lora\.alpha=0: must be above 0"),
        ("llama", (4, 8, ["q_porj"]), r"learner\.lora\.targets=\['q_porj'\]: peft refuses it"),
        ("llama", (4, 8, []), r"learner\.lora\.targets=\[\]: "),
        ("llama", (4, 8, ["embed_tokens"]), "an embedding or a weight that two layers share"),
        ("qwen2", (4, 8, ["lm_head"]), "an embedding or a weight that two layers share"),
    ],
)
def test_impossible_adapters_are_one_clear_line(family: str, settings: Any, message: str) -> None:
    from tests.conftest import tiny_config

    with pytest.raises(InputError, match=message) as caught:
        Lora(*settings).register_adapters(AutoModelForCausalLM.from_config(tiny_config(family, 100)), 0)
    assert "\n" not in str(caught.value)


def test_the_option_of_the_command_line_makes_it(tiny_folder: Path, tokenizer: Any) -> None:
    config = check("train", ["learner=lora", "learner.lora.rank=3", "algo.beta=0.1"])
    algo, optimizer = instantiate(config["algo"]), instantiate(config["optimizer"])
    learner = make_learner(config, plain_model(tiny_folder), tokenizer, algo, optimizer, torch.device("cpu"), World())
    assert learner.adapters.config.r == 3 and learner.reference_state is None
    assert check("train", [])["learner"] == {k: v for k, v in config["learner"].items() if k != "lora"}
