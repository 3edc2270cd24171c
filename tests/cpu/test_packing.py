"""The packed forward pass: transformers' numbers, with each distinct prompt computed once and no padding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.conftest import tiny_config
from zero.cpu import layers as compiled
from zero.cpu import packing as packed
from zero.cpu.kernels import library
from zero.learner.lora import Lora
from zero.learner.policy import Policy
from zero.objective import logprob_and_entropy

FAMILIES = ("qwen2", "llama", "wide")


@pytest.fixture(params=[True, False], ids=["compiled", "torch"], autouse=True)
def compiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Every test with the kernels and without."""
    if request.param and library() is None:
        pytest.skip("no C++ compiler")
    if not request.param:
        monkeypatch.setattr(compiled, "can_compile", lambda _: False)
    return request.param


def rows_of(shapes: list[tuple[int, int]], prompts: list[list[int]], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, mask, length) of rows that are (which prompt, own tokens)."""
    generator = torch.Generator().manual_seed(seed)
    own = [torch.randint(8, 400, (count,), generator=generator).tolist() for _, count in shapes]
    whole = [prompts[p] + tokens for (p, _), tokens in zip(shapes, own, strict=True)]
    width = max(map(len, whole))
    ids_NT, mask_NT = torch.full((len(whole), width), 7), torch.zeros(len(whole), width)
    for n, ((p, count), tokens) in enumerate(zip(shapes, whole, strict=True)):
        ids_NT[n, : len(tokens)] = torch.tensor(tokens)
        mask_NT[n, len(prompts[p]) : len(prompts[p]) + count] = 1
    return ids_NT, mask_NT, torch.tensor([len(tokens) for tokens in whole])


PROMPTS = [[11, 12, 13, 14, 15], [11, 12, 13], [20], [11, 12, 13, 14, 16, 17, 18, 19]]
SHAPES = [(0, 4), (1, 9), (0, 1), (2, 3), (0, 12), (3, 2), (1, 9), (2, 1), (3, 7)]


def model_of(family: str) -> Any:
    """`wide`: biases, two query heads a key head and whole panels, so that the kernels take it on every processor."""
    torch.manual_seed(1)
    config = tiny_config("qwen2" if family == "wide" else family, 500)
    if family == "wide":
        config.update(
            dict(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=32)
        )
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "norm.weight")):  # initially they are 0 or 1
                parameter.add_(torch.rand(parameter.shape))
    return model


def outputs_and_gradients(policy: Policy, ids_NT: Tensor, mask_NT: Tensor) -> list[Tensor]:
    """Log-probabilities, entropies and the gradients of a sum in which every token has its own weight."""
    policy.zero_grad()
    logprob_NT, entropy_NT = policy(ids_NT, mask_NT, True)
    weight_NT = torch.rand(mask_NT.shape, generator=torch.Generator().manual_seed(2))
    (weight_NT * (logprob_NT + entropy_NT)).sum().backward()
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in policy.parameters()]
    return [logprob_NT.detach(), entropy_NT.detach(), *grads]


def unpacked(policy: Policy) -> Policy:
    """Use transformers' own forward pass from now on."""
    vars(policy)["packs"] = lambda device: False
    return policy


def check(model: Any, ids_NT: Tensor, mask_NT: Tensor) -> None:
    policy = Policy(model, 0.8, 500, autocast=False)
    assert policy.packs(ids_NT.device)
    ours = outputs_and_gradients(policy, ids_NT, mask_NT)
    for one, other in zip(ours, outputs_and_gradients(unpacked(policy), ids_NT, mask_NT), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_values_and_gradients_are_those_of_transformers(family: str, checkpointing: bool) -> None:
    model = model_of(family)
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    check(model, *rows_of(SHAPES, PROMPTS)[:2])


def test_rows_without_a_token_and_tokens_of_an_environment() -> None:
    ids_NT, mask_NT, _ = rows_of(SHAPES, PROMPTS)
    mask_NT[3] = 0  # cut, and masked as a whole
    mask_NT[4, 8:11] = 0  # a message of the environment between two attempts
    check(model_of("wide"), ids_NT, mask_NT)
    nothing = Policy(model_of("wide"), 0.8, 500, autocast=False)(ids_NT, mask_NT * 0)
    assert all(not output.any() for output in nothing)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), min_size=1, max_size=12), st.integers(0, 99))
def test_any_mix_of_rows(shapes: list[tuple[int, int]], seed: int) -> None:
    model = model_of("wide")
    policy = Policy(model, 1.0, 500, autocast=False)
    ids_NT, mask_NT, length_N = rows_of(shapes, PROMPTS, seed)
    with torch.no_grad():
        whole = policy(ids_NT, mask_NT)
        for tokens in (1, 20, 1000):
            micro_batches = cut_into_micro_batches(ids_NT, mask_NT, length_N, tokens)
            assert sorted(n for rows in micro_batches for n in rows.tolist()) == list(range(len(shapes)))
            for rows in micro_batches:
                width = int(length_N[rows].max())
                again = policy(ids_NT[rows, :width], mask_NT[rows, :width])
                for one, other in zip(again, whole, strict=True):
                    torch.testing.assert_close(one, other[rows, :width], rtol=1e-4, atol=2e-5)
        for one, other in zip(unpacked(policy)(ids_NT, mask_NT), whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


def cut_into_micro_batches(ids_NT: Tensor, mask_NT: Tensor, length_N: Tensor, tokens: int) -> list[Tensor]:
    return packed.packed_micro_batches(ids_NT, mask_NT, length_N, torch.arange(len(length_N)), tokens)


def test_a_micro_batch_holds_at_most_its_tokens_and_whole_groups_where_they_fit() -> None:
    shapes = [(p, 5) for p in (0, 1, 3) for _ in range(4)]  # 25, 23 and 28 distinct tokens
    ids_NT, mask_NT, length_N = rows_of(shapes, PROMPTS)
    micro_batches = cut_into_micro_batches(ids_NT, mask_NT, length_N, 30)
    assert [sorted(rows.tolist()) for rows in micro_batches] == [[8, 9, 10, 11], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(cut_into_micro_batches(ids_NT, mask_NT, length_N, 200)) == 1
    for tokens in (14, 20):  # too few for a group: it is cut, and each piece brings the prompt again
        for rows in cut_into_micro_batches(ids_NT, mask_NT, length_N, tokens):
            layout = packed.layout(ids_NT[rows], mask_NT[rows])
            assert len(layout.ids_M) <= tokens
    assert [len(rows) for rows in cut_into_micro_batches(ids_NT, mask_NT, length_N, 1)] == [1] * len(shapes)


def test_nothing_is_computed_twice_and_no_padding() -> None:
    shapes = [(0, 3), (0, 9), (1, 1), (0, 9), (1, 30)]
    ids_NT, mask_NT, _ = rows_of(shapes, PROMPTS)
    layout = packed.layout(ids_NT, mask_NT)
    own = sum(count - 1 for _, count in shapes)  # the last token predicts nothing
    assert len(layout.ids_M) == len(PROMPTS[0]) + len(PROMPTS[1]) + own
    assert len(layout.predicts) == int(mask_NT.sum())
    blocks = packed.padded(layout, torch.float32).blocks
    assert [len(block.visible) for block in blocks] == [1, 2, 1], "the block of 30, of 9 and 9, of 3"


def test_unknown_layers_use_their_own_forward_pass() -> None:
    for family in ("biased", "gpt2"):
        model = AutoModelForCausalLM.from_config(tiny_config(family, 500)).eval()
        policy = Policy(model, 0.8, 500, autocast=False)
        assert not policy.packs(torch.device("cpu"))
        ids_NT, mask_NT, _ = rows_of(SHAPES, PROMPTS)
        assert policy(ids_NT, mask_NT)[0].shape == mask_NT.shape


def test_the_device_of_the_tokens_decides_not_that_of_the_model() -> None:
    """A policy is built around a model on the CPU, and its engine may move that to a GPU afterwards."""
    policy = Policy(model_of("wide"), 0.8, 500, autocast=False)
    assert policy.packs(torch.device("cpu"))
    for elsewhere in ("cuda", "meta"):
        assert not policy.packs(torch.device(elsewhere))
    assert not compiled.can_compile(model_of("wide").to("meta").model)


def test_only_what_the_kernels_know_goes_to_them(compiles: bool) -> None:
    model = model_of("wide")
    assert compiled.can_compile(model.model) == compiles
    if not compiles:
        return
    assert not compiled.can_compile(model_of("qwen2").model), "heads of 8 fill no panel"
    with torch.autocast("cpu", torch.bfloat16):
        assert not compiled.can_compile(model.model)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert not compiled.can_compile(model.model)
    finally:
        torch.set_num_threads(threads)
    assert not compiled.can_compile(model_of("wide").bfloat16().model)
    Lora(rank=2, alpha=4, targets="all-linear").register_adapters(model, 0)
    assert not compiled.can_compile(model.base_model)


def test_long_rows_agree_with_exact_arithmetic() -> None:
    """Several blocks of queries, panels and depth; compared with float64 on transformers' own pass."""
    prompts = [list(range(8, 8 + 70)), list(range(100, 117))]
    ids_NT, mask_NT, _ = rows_of([(0, 90), (0, 33), (1, 120), (1, 2), (0, 25)] * 3, prompts)
    model = model_of("wide")
    policy = Policy(model, 0.8, 500, autocast=False)
    ours = outputs_and_gradients(policy, ids_NT, mask_NT)
    exact = unpacked(Policy(copy.deepcopy(model).double(), 0.8, 500, autocast=False))
    for one, other in zip(ours, outputs_and_gradients(exact, ids_NT, mask_NT), strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(one.double() / scale, other.double() / scale, rtol=0, atol=2e-5)


def test_frozen_weights_get_no_gradient() -> None:
    ids_NT, mask_NT, _ = rows_of(SHAPES, PROMPTS)
    model = model_of("wide")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.1" in name and "norm" not in name)
    policy = Policy(model, 0.8, 500, autocast=False)
    policy(ids_NT, mask_NT)[0].sum().backward()
    moved = {
        name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("vocabulary", [5, 64, 501])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_head_is_that_of_the_objective(vocabulary: int, temperature: float, compiles: bool) -> None:
    if not compiles:
        pytest.skip("the head of the kernels")
    generator = torch.Generator().manual_seed(vocabulary)
    hidden, weight = (torch.randn(n, 48, generator=generator, requires_grad=True) for n in (37, vocabulary + 3))
    ids = torch.randint(vocabulary, (37,), generator=generator)
    a, b = torch.randn(2, 37, generator=generator)
    picked, entropy = compiled.head(hidden, weight, ids, temperature, vocabulary)
    grads = torch.autograd.grad((a * picked + b * entropy).sum(), (hidden, weight))
    logits = (hidden.double() @ weight.double().T)[:, :vocabulary]
    exact_p = (logits / temperature).log_softmax(-1)
    exact = [exact_p.gather(1, ids[:, None])[:, 0], -(exact_p.exp() * exact_p).sum(-1)]
    expected = torch.autograd.grad((a * exact[0] + b * exact[1]).sum(), (hidden, weight))
    for one, other in zip((picked, entropy, *grads), (*exact, *expected), strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-4, atol=1e-4)
    for one, other in zip((picked, entropy), logprob_and_entropy(logits.float(), ids, temperature), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [40.0, -40.0], ids=["gates far up", "gates far down"])
def test_gates_of_any_size(scale: float) -> None:
    """Beyond -89 the exponential of a gate is no float32 any more; silu is then 0, not the gate."""
    model = model_of("wide")
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight.mul_(scale)
    gates: list[Tensor] = []
    handle = model.model.layers[1].mlp.gate_proj.register_forward_hook(lambda _, __, out: gates.append(out.detach()))
    ids_NT, mask_NT, _ = rows_of(SHAPES, PROMPTS)
    with torch.no_grad():
        model(ids_NT)
    handle.remove()
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight.mul_(200 / float(gates[0].abs().max()))
        model.model.layers[1].mlp.down_proj.weight.mul_(0.1)  # or all else would drown in its output
    check(model, ids_NT, mask_NT)


@pytest.mark.parametrize(
    "layer", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "norm", "embed_tokens"]
)
def test_nan_and_inf_stay_as_they_are(layer: str) -> None:
    model = model_of("wide")
    ids_NT, mask_NT, _ = rows_of(SHAPES, PROMPTS)
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if layer in name).view(-1)[: 12 * 64] = float("nan")
        logprob_NT, entropy_NT = Policy(model, 1.0, 500, autocast=False)(ids_NT, mask_NT)
    assert logprob_NT[mask_NT.bool()].isnan().any() and entropy_NT[mask_NT.bool()].isnan().any()


@pytest.mark.parametrize(
    "targets", [["lm_head"], r".*layers\.1\..*q_proj", r".*layers\.[01]\.mlp\.down_proj", ["v_proj"]]
)
def test_adapters_anywhere_are_part_of_the_policy(targets: Any) -> None:
    model = model_of("wide")
    if targets == ["lm_head"]:
        model.config.tie_word_embeddings = False
        model.lm_head = torch.nn.Linear(64, 500, bias=False)
    before = Policy(copy.deepcopy(model), 1.0, 500, autocast=False)
    adapters = Lora(4, 8, targets).register_adapters(model, 0)
    with torch.no_grad():
        for layer in adapters.layers.values():
            layer.lora_B["default"].weight.normal_(std=0.5)
    ids_NT, mask_NT, _ = rows_of(SHAPES, PROMPTS)
    with torch.no_grad():
        assert not torch.allclose(
            before(ids_NT, mask_NT)[0], Policy(model, 1.0, 500, autocast=False)(ids_NT, mask_NT)[0]
        )
    check(model, ids_NT, mask_NT)
    trained = {
        p
        for layer in adapters.layers.values()
        for p in (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    }
    assert all(p.grad is not None and p.grad.any() for p in trained)


def test_the_head_is_nan_for_nan_and_finite_for_what_is_impossible(compiles: bool) -> None:
    if not compiles:
        pytest.skip("the head of the kernels")
    hidden, weight = torch.eye(64), torch.randn(70, 64, generator=torch.Generator().manual_seed(0))
    weight[3, 0], weight[4, 1], weight[5, 2] = float("nan"), -torch.inf, torch.inf
    hidden[:3] = 0
    hidden[0, 0], hidden[1, 1], hidden[2, 2] = 1, 1, 1
    logits = torch.where(hidden[:, None] == 0, 0.0, hidden[:, None] * weight).sum(-1)
    logits, ids = torch.where(logits.isnan() & ~weight[:, :1].T.isnan(), 0.0, logits), torch.full((64,), 9)
    picked, entropy = logprob_and_entropy(logits, ids, 1.0)
    assert picked[:3].isfinite().tolist() == [False, True, False]
    for row in range(3):
        one = torch.zeros(1, 1), logits[row, :, None].clone().requires_grad_()
        ours = compiled.head(one[0] + 1, one[1], ids[:1], 1.0, 70)
        assert torch.allclose(
            torch.stack(ours).flatten(), torch.stack([picked[row], entropy[row]]), equal_nan=True, atol=1e-5
        )
        (slope,) = torch.autograd.grad(ours[0].sum(), one[1])
        assert bool(slope.isfinite().all()) == (row == 1)
