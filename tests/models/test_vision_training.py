"""What of a model with images learns: model.vision is frozen, trained or lora."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.learner.setups import setup_of
from tests.learner.test_torch import OPTIM
from tests.models.test_vision import stored
from tests.models.visual_families import FAMILIES, write_family
from tests.test_algorithm import load as load_algo
from zero.batching import make_batch, rewards
from zero.config.check import check
from zero.distributed import World
from zero.errors import InputError
from zero.learner.lora import Lora
from zero.learner.torch import TorchLearner
from zero.models.export import export_model
from zero.models.load import load_model
from zero.models.vision import load_vision, vision_parameters
from zero.records import Batch, Completion, Group, Prompt, Question, Verdict


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(request.param, tmp_path_factory.mktemp(request.param))


def learner_of(
    folder: Path, vision: str, lora: Lora | None = None, gradient_checkpointing: bool = False, **changes: Any
) -> TorchLearner:
    model, tokenizer, _ = load_model({"path": str(folder), "context": None, "vision": vision})
    setup = setup_of(model, OPTIM, vision=load_vision(model, tokenizer, folder), **changes)
    return TorchLearner(setup, 10_000, gradient_checkpointing, lora)


def batch_of(learner: TorchLearner) -> Batch:
    """Rows with two images, one and none; responses are right and wrong."""
    vision, algo = learner.setup.vision, load_algo("drgrpo")
    assert vision is not None
    a, b = stored(40, 30, 0), stored(90, 50, 1)
    groups = [group_of(vision, p, shown) for p, shown in enumerate([(a, b), (b,), ()])]
    return algo.with_advantages(make_batch(groups, algo, pad_id=1), rewards(groups))


def group_of(vision: Any, p: int, shown: tuple[str, ...]) -> Group:
    text = "".join(vision.placeholder.replace(vision.image_token, vision.expansion(digest)) for digest in shown)
    ids = tuple(vision.tokenizer.encode(f"{text}1 + 1 = ?", add_special_tokens=False))
    prompt = Prompt(
        Question("", ("",), ""), "", ids, (0, p), images=shown, image_tokens=ids.count(vision.image_token_id)
    )
    completions = tuple(Completion((20 + i, 30 + i, 40), (-1.0,) * 3, "", True) for i in range(2))
    verdicts = tuple(Verdict(reward, reward == 1, True, "", "") for reward in (1.0, 0.0))  # type: ignore[arg-type]
    return Group(prompt, completions, verdicts)


def moved(learner: TorchLearner) -> set[str]:
    """The names of the weights that two updates change."""
    before = {name: weight.clone() for name, weight in learner.weights()}
    batch = batch_of(learner)
    for _ in range(2):
        metrics = learner.update(batch, load_algo("drgrpo"))
    assert metrics["loss/grad_norm"] > 0
    return {name for name, weight in learner.weights() if not torch.equal(weight, before[name])}


@pytest.mark.parametrize("vision", ["frozen", "trained"])
def test_what_sees_learns_only_if_it_is_trained(folder: Path, vision: str) -> None:
    learner = learner_of(folder, vision)
    seeing = vision_parameters(learner.model)
    names = moved(learner)
    assert names - seeing and bool(names & seeing) == (vision == "trained")
    if vision == "trained":  # from the first layer on
        assert any("embed" in name for name in names & seeing) or any("layers.0" in name for name in names & seeing)


@pytest.mark.parametrize("vision", ["frozen", "lora"])
def test_adapters_are_where_the_model_may_learn(folder: Path, vision: str) -> None:
    learner = learner_of(folder, vision, Lora(2, 4, "all-linear"))
    seeing = vision_parameters(learner.model)
    adapters = learner.adapters
    assert adapters is not None
    adapted = {name for name in adapters.layers if name.startswith(prefixes(seeing))}
    assert set(adapters.layers) - adapted and bool(adapted) == (vision == "lora")
    names = moved(learner)
    assert names <= set(adapters.layers) and bool(names & adapted) == (vision == "lora")


def prefixes(names: set[str]) -> tuple[str, ...]:
    return tuple({".".join(name.split(".")[:2]) + "." for name in names})


@pytest.mark.parametrize("vision", ["frozen", "trained"])
def test_gradient_checkpointing_and_bfloat16_compute_the_same(folder: Path, vision: str) -> None:
    algo, plain = load_algo("drgrpo"), learner_of(folder, vision)
    batch = batch_of(plain)
    logprobs, norm = plain.logprobs(batch), plain.update(batch, algo)["loss/grad_norm"]
    for changes, tolerance in (({}, 1e-5), ({"autocast": True}, 0.05)):
        learner = learner_of(folder, vision, gradient_checkpointing=True, **changes)
        assert torch.allclose(learner.logprobs(batch), logprobs, atol=tolerance)
        assert learner.update(batch, algo)["loss/grad_norm"] == pytest.approx(norm, rel=tolerance)


def test_an_exported_model_sees_the_same(folder: Path, tmp_path: Path) -> None:
    learner = learner_of(folder, "trained")
    moved(learner)
    vision: Any = learner.setup.vision
    export_model(learner, vision.tokenizer, tmp_path / "model", torch.float32, World(), vision)
    again = learner_of(tmp_path / "model", "frozen")
    weights = dict(again.weights())
    assert all(torch.equal(weight, weights.pop(name)) for name, weight in learner.weights()) and not weights
    batch = batch_of(learner)
    assert torch.equal(learner.logprobs(batch), again.logprobs(batch))


TABLE = {  # model.vision, learner -> None or the error
    ("frozen", "torch"): None,
    ("frozen", "lora"): None,
    ("trained", "torch"): None,
    ("trained", "lora"): "model.vision=trained: learner=lora trains adapters alone; take lora or frozen",
    ("trained", "deepspeed_lora"): "model.vision=trained: learner=lora trains adapters alone; take lora or frozen",
    ("lora", "lora"): None,
    ("lora", "torch"): "model.vision=lora: learner=lora is what adapters come with; take trained or frozen",
    ("thawed", "torch"): "model.vision=thawed: must be frozen, trained or lora",
}


@pytest.mark.parametrize(("vision", "learner"), TABLE)
def test_settings_that_belong_together(vision: str, learner: str) -> None:
    overrides = [f"model.vision={vision}", f"learner={learner}"]
    error = TABLE[vision, learner]
    if error is None:
        assert check("train", overrides)["model"]["vision"] == vision
        return
    with pytest.raises(InputError) as caught:
        check("train", overrides)
    assert str(caught.value) == error


def test_a_text_model_has_nothing_to_freeze() -> None:
    assert check("train", [])["model"]["vision"] == "frozen"
    model, _, _ = load_model(check("train", [])["model"])
    assert vision_parameters(model) == set() and all(p.requires_grad for p in model.parameters())
