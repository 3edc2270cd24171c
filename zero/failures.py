"""Failures with a known cause: numbers that are not finite, no memory, no disk space. Each becomes one line that says what
to change so that the run can continue."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zero.checkpoint import disk_is_full, no_space
from zero.errors import Broken, InputError
from zero.files import step_folders
from zero.rollout import NotFinite
from zero.tracking import journal

MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "bad_alloc")


def check_finite(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yields the same weights; FloatingPointError at the first one that holds a value which is not finite."""
    for name, tensor in weights:
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            raise FloatingPointError(f"the weights are not finite ({name})")
        yield name, tensor


@contextmanager
def explain_failures(run_dir: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Turns errors of known cause inside into InputError or Broken, with a remedy."""
    try:
        yield
    except NotFinite as error:
        if not _last_line(run_dir).get("step"):
            raise  # no update yet: it is the model's weights, not the learning rate
        raise Broken(f"{error}; {_lower_rate(run_dir, config, first_bad=error.version)}") from error
    except (InputError, Broken):
        raise
    except Exception as error:
        if disk_is_full(error):
            raise no_space(run_dir, "its files") from error
        if isinstance(error, FloatingPointError):
            setting = "algo.critic.optimizer" if "algo.critic.optimizer" in str(error) else "optimizer"
            remedy = _lower_rate(run_dir, config, setting, _first_bad_step(run_dir))
            raise Broken(f"{_where(run_dir)}: {error}; {remedy}") from error
        if is_memory(error):
            cause = f"out of memory ({_first_sentence(error)})"
            raise Broken(f"{_where(run_dir)}: {cause}; {_less_memory(error, config)}") from error
        raise


def is_memory(error: BaseException) -> bool:
    """Whether an error means that there is no memory left, on a device or on the host."""
    words = str(error).lower()
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or (isinstance(error, RuntimeError | OSError) and any(text in words for text in MEMORY))


def steps_done(run_dir: Path) -> int:
    """The last step that the journal holds; 0 before the first."""
    return int(_last_line(run_dir).get("step", 0))


def _last_line(run_dir: Path) -> dict[str, Any]:
    with suppress(InputError, OSError, ValueError):
        return (journal.read(run_dir) or [{}])[-1]
    return {}


def _where(run_dir: Path) -> str:
    done = _last_line(run_dir).get("step")
    return "before the first step" if done is None else f"step {done + 1}"


def _first_bad_step(run_dir: Path) -> float:
    """The step whose update broke the weights: the last before the skipped updates at the journal's end; else infinity."""
    step = math.inf
    with suppress(InputError, OSError, ValueError):
        for line in reversed(journal.read(run_dir)):
            if not line.get("loss/skipped_updates") and not line.get("critic/skipped_updates"):
                break
            step = line["step"] - 1
    return step


def _lower_rate(
    run_dir: Path, config: Mapping[str, Any], setting: str = "optimizer", first_bad: float = math.inf
) -> str:
    """The remedy for diverged weights: a lower learning rate, without the checkpoints from step `first_bad` on.
    `setting` is the config key of the optimizer."""
    optimizer = config["algo"]["critic"]["optimizer"] if setting != "optimizer" else config["optimizer"]
    last, rate = _last_line(run_dir), optimizer["lr"]
    norm, last_rate = last.get("loss/grad_norm"), last.get("loss/learning_rate")
    state = ""
    if last.get("step"):
        values = f"gradient norm {'not finite' if norm is None else f'{norm:.3g}'}, learning rate {last_rate or 0:.3g}"
        state = f"in step {last['step']}: {values}; "
    saved = step_folders(run_dir / "checkpoints")
    bad = [path for step, path in saved.items() if step >= first_bad]
    good = [path.name for step, path in saved.items() if step < first_bad]
    origin = f"from checkpoint {good[-1]}" if good else "from the start"
    remove = f"remove {' '.join(map(str, bad))}, whose weights are lost already, and " if bad else ""
    change = f"{remove}add resume_with='{setting}.lr={rate / 10:.3g}': it goes on {origin}"
    return f"{state}the same command would meet it again: {change}"


def _less_memory(error: BaseException, config: Mapping[str, Any]) -> str:
    """The remedy for running out of memory: smaller settings of the stage that failed."""
    files = [Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__)]
    rollout, learner = config["rollout"], config["learner"]
    rows = rollout.get("max_rows") or (rollout.get("engine") or {}).get("max_rows")
    key = "rollout.max_rows" if rollout.get("max_rows") else "rollout.engine.max_rows"
    sampling = [f"{key}={max(1, rows // 2)}"] if rows else []
    training = [f"learner.micro_tokens={max(1, learner['micro_tokens'] // 2)}"] if "micro_tokens" in learner else []
    if learner.get("gradient_checkpointing") is False:
        training.append("learner.gradient_checkpointing=true")
    changes = sampling if any("rollout" in parts for parts in files) and sampling else training or sampling
    return f"the same command with resume_with='{' '.join(changes)}' goes on with less; debug=probe measures the longest step"


def _first_sentence(error: BaseException) -> str:
    """An error's first sentence."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0][:160]
