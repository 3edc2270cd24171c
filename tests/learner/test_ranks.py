"""Two processes that share the rows of a step do what one process does, and end with the same bits as each other."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
import torch

from tests.learner.ranks import Ended, cases, play
from tests.warm import Process
from zero.distributed import World

CASES = cases()
LIMIT = 300  # seconds


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Ended]]]:
    """Every case, as each of two real processes has seen it."""
    folder = tmp_path_factory.mktemp("ranks")
    local = {"GLOO_SOCKET_IFNAME": "lo"} if "lo" in (name for _, name in socket.if_nameindex()) else {}
    children = [
        Process("tests.learner.ranks", str(rank), "2", str(folder), env=os.environ | local, errors=True)
        for rank in range(2)
    ]
    try:
        for child in children:
            _, errors = child.communicate(timeout=LIMIT)
            assert child.returncode == 0, errors
        yield [
            {name: Ended(**fields) for name, fields in torch.load(folder / f"rank_{rank}.pt").items()}
            for rank in range(2)
        ]
    finally:
        for child in children:
            child.kill()
            child.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_are_one_process(name: str, ranks: list[dict[str, Ended]]) -> None:
    alone, (first, second) = play(CASES[name], World()), (rank[name] for rank in ranks)
    assert first.metrics == second.metrics
    assert all(torch.equal(w, second.weights[k]) for k, w in first.weights.items())
    assert all(torch.equal(a, b) for a, b in zip(first.logprobs, second.logprobs, strict=True))
    assert [len(m) for m in alone.metrics] == [len(m) for m in first.metrics]
    for expected, metrics in zip(alone.metrics, first.metrics, strict=True):
        assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    for a, b in zip(alone.logprobs, first.logprobs, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)
    assert alone.weights.keys() == first.weights.keys()
    differences = {k: first.weights[k] - w for k, w in alone.weights.items()}
    for owner in {k.split()[0] for k in differences}:  # the policy and maybe a critic: 10 times what was measured
        moved = torch.cat(
            [(w - alone.start[k]).flatten() for k, w in alone.weights.items() if k.startswith(owner)]
        ).norm()
        assert torch.cat([o.flatten() for k, o in differences.items() if k.startswith(owner)]).norm() <= 1e-4 * moved, (
            owner
        )
    # where a gradient is next to nothing AdamW divides rounding by rounding: a hundredth of a step
    assert max(float(o.abs().max()) for o in differences.values()) < 1e-5


@pytest.mark.slow
def test_the_cases_are_what_they_are_called(ranks: list[dict[str, Ended]]) -> None:
    first, second = ranks
    assert all(
        any(a) and not any(b)
        for a, b in zip(
            first["drgrpo, one rank learns"].learning, second["drgrpo, one rank learns"].learning, strict=True
        )
    )
    assert first["reinforce, one row"].learning == [[True]] * 2 and second["reinforce, one row"].learning == [[]] * 2
    for name in ("drgrpo, nobody learns after a step", "nobody may learn after a step"):
        ended = first[name]
        assert any(ended.learning[0]) and not any(ended.learning[1] + second[name].learning[1])
        assert ended.metrics[0]["loss/grad_norm"] > 0 == ended.metrics[1]["loss/grad_norm"]
    assert any(m["loss/clip_fraction"] > 0 for name in first for m in first[name].metrics)
    assert first["ppo, 4 rows"].metrics[1]["critic/loss"] > 0


@pytest.mark.parametrize("name", ["gspo, 12 rows", "ppo, 1 rows", "lora, 1 rows", "sft, one row"])
def test_a_case_moves_the_weights(name: str) -> None:
    ended = play(CASES[name], World())
    assert max(float((w - ended.start[k]).abs().max()) for k, w in ended.weights.items()) > 1e-4
