"""The checks of every engine, on the native one: so that they say what the contract is and not what vLLM does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.engines.contract import CHECKS, CONTEXT, KINDS, Subject, model_of
from tests.engines.episodes import EPISODES
from zero.rollout import ModelSpec
from zero.rollout.native import NativeEngine

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module", params=KINDS)
def subject(request: pytest.FixtureRequest, tokenizer: Any) -> Subject:
    model = model_of(request.param, tokenizer)
    engine = NativeEngine(ModelSpec(model.config, tokenizer, CONTEXT, torch.float32, torch.device("cpu")), 32)
    return Subject(engine, model, tokenizer, bound=2e-5, block=1)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_native_engine(subject: Subject, check: Callable[[Subject], None]) -> None:
    if subject.model.config.vocab_size == subject.vocabulary and "beyond" in check.__name__:
        pytest.skip("no padding rows")
    check(subject)


@pytest.mark.parametrize("check", EPISODES, ids=lambda check: check.__name__)
def test_episodes(subject: Subject, check: Callable[[Subject], None]) -> None:
    check(subject)
