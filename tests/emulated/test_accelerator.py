"""The emulated accelerator refuses what CUDA refuses and allows what CUDA allows."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from tests.emulated.accelerator import DEVICE, EMU, installed


def on_device(*shape: int) -> Tensor:
    return torch.arange(1.0, 1 + int(np.prod(shape))).view(*shape).to(EMU)


def on_host(*shape: int) -> Tensor:
    return on_device(*shape).cpu()


ROWS = torch.tensor([0, 1])
CPU_GENERATOR = torch.Generator()
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a sum": (lambda: on_device(3) + on_host(3), RuntimeError, "same device"),
    "a sum, the other way": (lambda: on_host(3) + on_device(3), RuntimeError, "same device"),
    "in place": (lambda: on_host(3).add_(on_device(3)), RuntimeError, "same device"),
    "a product": (lambda: linear(on_device(2, 3), on_host(2, 3)), RuntimeError, "same device"),
    "a number of the device in a tensor here": (lambda: on_host(3) * on_device(1)[0], RuntimeError, "same device"),
    "cat": (lambda: torch.cat([on_device(2), on_host(2)]), RuntimeError, "same device"),
    "where": (lambda: torch.where(on_device(3) > 1, on_device(3), on_host(3)), RuntimeError, "same device"),
    "masked_scatter": (lambda: on_device(3).masked_scatter(on_device(3) > 1, on_host(3)), RuntimeError, "same device"),
    "masked_fill": (lambda: on_device(3).masked_fill(on_host(3) > 1, 0), RuntimeError, "same device"),
    "gather": (lambda: on_device(3).gather(0, ROWS), RuntimeError, "same device"),
    "index_select": (lambda: on_device(3).index_select(0, ROWS), RuntimeError, "same device"),
    "isin": (lambda: torch.isin(on_device(3), on_host(3)), RuntimeError, "same device"),
    "an index there into a tensor here": (lambda: on_host(3)[ROWS.to(EMU)], RuntimeError, "indices should be"),
    "a mask there over a tensor here": (lambda: on_host(3)[on_device(3) > 1], RuntimeError, "indices should be"),
    "values there into rows here": (lambda: on_host(3).__setitem__(ROWS, on_device(2)), RuntimeError, "same device"),
    "values here into rows there": (lambda: on_device(3).__setitem__(ROWS, on_host(2)), RuntimeError, "same device"),
    "a gradient here": (lambda: setattr(on_device(3).requires_grad_(), "grad", on_host(3)), RuntimeError, "device"),
    "data here": (lambda: setattr(on_device(3), "data", on_host(3)), RuntimeError, "cannot become"),
    "numpy": (lambda: on_device(3).numpy(), TypeError, "to numpy"),
    "asarray": (lambda: np.asarray(on_device(3)), TypeError, "to numpy"),
    "from_dlpack": (lambda: np.from_dlpack(on_device(3)), TypeError, "to numpy"),
    "data_ptr": (lambda: on_device(3).data_ptr(), RuntimeError, "address"),
    "the storage's data_ptr": (lambda: on_device(3).untyped_storage().data_ptr(), RuntimeError, "address"),
    "pin_memory": (lambda: on_device(3).pin_memory(), RuntimeError, "pinned"),
    "pinned from the start": (lambda: torch.empty(3, device=EMU, pin_memory=True), RuntimeError, "pinned"),
    "a generator of the CPU": (lambda: on_device(3).normal_(generator=CPU_GENERATOR), RuntimeError, "for generator"),
    "randn with one": (lambda: torch.randn(3, device=EMU, generator=CPU_GENERATOR), RuntimeError, "for generator"),
    "multinomial with one": (
        lambda: on_device(3).multinomial(2, generator=CPU_GENERATOR),
        RuntimeError,
        "for generator",
    ),
    "a product of integers": (lambda: on_device(3, 3).long() @ on_device(3, 3).long(), RuntimeError, "not implemented"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses(name: str) -> None:
    action, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        action()


def test_it_allows_what_cuda_allows() -> None:
    x = on_device(3)
    assert (x * torch.tensor(2.0)).tolist() == [2, 4, 6]  # a number of no dimension
    assert x[ROWS].tolist() == [1, 2]  # indices of the CPU
    x[ROWS] = torch.tensor(9.0)
    x[2:] = on_host(1)  # a copy
    assert x.tolist() == [9, 9, 1] and float(x.sum()) == 19 and bool((x == 9).any())
    on_cpu = on_host(3)
    on_cpu[:2] = x[:2]
    assert on_cpu.tolist() == [9, 9, 3]
    for tensor in (
        torch.zeros(2, device=EMU),
        torch.tensor([1, 2], device="emu"),
        torch.arange(3, device=EMU),
        x.new_ones(2),
    ):
        assert tensor.device == EMU
    assert x.to(EMU) is x and x.cpu().device.type == "cpu" and x.to("cpu", copy=True).tolist() == x.tolist()


def test_its_random_numbers_are_its_own() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    sample = torch.rand(4, device=EMU)
    torch.nn.functional.dropout(on_device(4), 0.5)
    assert torch.equal(before, torch.get_rng_state())  # the CPU's stream has not moved
    torch.manual_seed(3)
    assert torch.equal(torch.rand(4, device=EMU).cpu(), sample.cpu())
    state = DEVICE.get_rng_state()
    first = torch.rand(2, device=EMU).cpu()
    DEVICE.set_rng_state(state)
    assert torch.equal(torch.rand(2, device=EMU).cpu(), first)


def test_a_module_moves_learns_and_comes_back() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.GELU(), torch.nn.LayerNorm(6), torch.nn.Linear(6, 1))
    with installed():
        moved = copy.deepcopy(plain).to(EMU)
        parameters = list(moved.parameters())
        for _ in range(2):
            for model, x in ((plain, on_host(2, 4)), (moved, on_device(2, 4))):
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                model(x).square().sum().backward()
        again = copy.deepcopy(moved)
        assert all(p.device == EMU and isinstance(p, torch.nn.Parameter) for p in again.parameters())
    for p, q, r in zip(plain.parameters(), moved.parameters(), again.parameters(), strict=True):
        assert q.grad is not None and q.grad.device == EMU and p.grad is not None
        torch.testing.assert_close(q.grad.cpu(), p.grad)
        torch.testing.assert_close(r.detach().cpu(), p.detach())
    assert [id(p) for p in parameters] == [id(p) for p in moved.parameters()]
    buffer = io.BytesIO()
    torch.save(moved.state_dict(), buffer)
    buffer.seek(0)
    assert torch.load(buffer, map_location="cpu", weights_only=True)["0.weight"].device.type == "cpu"


def test_data_is_swapped_in_place() -> None:
    parameter = torch.nn.Parameter(on_device(3))
    parameter.data = on_device(3) * 2
    assert (parameter + 0).tolist() == [2, 4, 6]


def test_autocast_takes_the_lists_of_cuda() -> None:
    x = on_device(2, 3)
    with torch.autocast(EMU.type, torch.bfloat16):
        low = [x @ x.T, linear(x, x), torch.addmm(x[:, :2], x, x.T), scaled_dot_product_attention(*[x[None, None]] * 3)]
        assert {y.dtype for y in low} == {torch.bfloat16}
        half = low[0]
        exact = [
            half.softmax(-1),
            half.log_softmax(-1),
            half.sum(),
            half.exp(),
            half.square().mean().rsqrt(),
            half.cumsum(0),
        ]
        assert {y.dtype for y in exact} == {torch.float32}
        assert (half * 2).dtype == torch.bfloat16 and (x * 2).dtype == torch.float32
    with torch.autocast(EMU.type, torch.bfloat16, enabled=False):
        assert (x @ x.T).dtype == torch.float32
