"""python -m zero.pretrain out=FOLDER: next-token training, of a new nano base or of any causal language model.

Documents -> ids -> one stream cut into sequences -> cross-entropy (zero/pretrain/data.py). The stages of the corpus share
one learning-rate schedule. The same config on the same machine gives the same weights, however often the run was stopped,
killed and continued by the same command:

out/pretrain.yaml    its settings, once training has started
    pretrain.jsonl   its log
    checkpoints/     while it trains: weights, optimizer states, random state, place in the stream; gone once it has finished
    config.json ...  the model; config.json comes last, so a folder with one is whole and the run has finished
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from zero import run_folder
from zero.config import check as configs
from zero.config import identity
from zero.config.cli import command_line, errors_reported
from zero.errors import Broken, InputError, Preempted
from zero.files import json_lines, read_json_lines, write_atomically
from zero.lock import owned
from zero.paths import CONF
from zero.pretrain.data import Batches, Place, Source, Stage, budget, make_stage
from zero.pretrain.model import ImageInput, create, image_input, load, save_processor
from zero.pretrain.tower import learn_words
from zero.pretrain.update import update
from zero.signals import StopSignal

if TYPE_CHECKING:
    from zero.learner.optimizer import Optimizer

SETTINGS, LOG, CHECKPOINTS, MODEL = "pretrain.yaml", "pretrain.jsonl", "checkpoints", "config.json"
WEIGHTS, STATE = "weights.safetensors", "state.pt"  # of a checkpoint


def run(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train one checked config to its end, from its newest checkpoint if there is one; returns the last log entry.

    Raises InputError and Preempted.
    """
    out = Path(config["out"]).expanduser()
    with _about_out(out):
        if finished(out, config):
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # a kill may have left them after the export
            print(f"finished: {out}")
            return last_entry(out)
        settings = config["corpus"]["stages"]
        sources = {
            name: configs.instantiate(stage["documents"], f"corpus.stages.{name}.documents")
            for name, stage in settings.items()
        }
        stages = [make_stage(name, settings[name], source, config["seed"]) for name, source in sources.items()]
        for note in (note for stage in stages for note in stage.notes):
            print(note, file=sys.stderr)
        configs.writable_folder(out)

        with owned(out), StopSignal().listening() as stop:
            return _train(config, out, stages, sources, stop)


def finished(out: Path, config: Mapping[str, Any]) -> bool:
    """Whether this run has finished in the folder. InputError if the folder holds anything else."""
    stored = out / SETTINGS
    if stored.exists():
        identity.refuse_if_different(run_folder.read_yaml(stored), own_settings(config), out)
    elif (out / MODEL).exists() or (out / CHECKPOINTS).exists():
        raise InputError("out", out, "already holds a model or another run; choose another folder or remove it")
    return (out / MODEL).exists()


def own_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that identify a run: all but its folder, which may be moved."""
    return {key: value for key, value in config.items() if key != "out"}


def _train(
    config: Mapping[str, Any], out: Path, stages: Sequence[Stage], sources: Mapping[str, Source], stop: StopSignal
) -> dict[str, Any]:
    """Build the model and optimizers, load the newest checkpoint, train and export the model."""
    import torch
    from transformers.utils import logging

    from zero import checkpoint
    from zero.learner.optimizer import is_matrix_of
    from zero.runtime import has_bfloat16, prepare

    logging.disable_progress_bar()
    device = prepare(config["threads"])
    torch.manual_seed(config["seed"])
    model, tokenizer = load(config) if config["model"]["path"] else create(config, sources)
    model, images = image_input(model, tokenizer, config, sources)
    model.to(device).train()
    is_matrix, optimizer = is_matrix_of(model), configs.instantiate(config["optimizer"], "optimizer")
    matrices = [p for p in model.parameters() if is_matrix(p)]
    optimizers = optimizer.build(matrices, others=[p for p in model.parameters() if not is_matrix(p)])
    training = Training(model, optimizers, stages, images)
    newest = checkpoint.newest(out / CHECKPOINTS, warn=lambda text: print(text, file=sys.stderr))
    place = training.load(newest[1]) if newest else None

    def pause() -> None:
        if stop:
            raise Preempted(f"{stop.received} before the first step: the same command begins anew")

    if not newest:
        training.budgets = [budget(stage, tokenizer, pause) for stage in stages]
        if images and images.new:
            first = iter(next(iter(sources.values()))(seed=config["seed"]))
            loss = learn_words(model, tokenizer, images, first, **config["model"]["words"], pause=pause)
            print(f"the vision tower has learned words, loss {loss:.4f}", flush=True)
    length = config["length"]
    if sum(training.budgets) <= length:
        raise InputError("length", length, f"the corpus has only {sum(training.budgets)} tokens; lower it")
    shown = images.tokens if images else None
    training.batches = Batches(stages, training.budgets, tokenizer, length, config["sequences"], place, shown)
    configs.keep(own_settings(config), out / SETTINGS)  # from here on the folder belongs to these settings
    rewind(out / LOG, training.step - len(training.losses))
    stop.started = True
    try:
        with (out / LOG).open("a") as log:
            train(training, config, optimizer, has_bfloat16(device), log, out / CHECKPOINTS, stop)
        export(model.to(getattr(torch, config["dtype"])), tokenizer, out, images)
        print(f"written to {out}: python -m zero.train model=hf model.path={out} trains it further", flush=True)
    except Exception as error:
        if checkpoint.disk_is_full(error) and not isinstance(error, InputError):
            raise checkpoint.no_space(out, "its files") from error
        raise
    return last_entry(out)


@dataclass
class Training:
    """All state that changes from step to step: the content of a checkpoint."""

    model: Any
    optimizers: Sequence[Any]
    stages: Sequence[Stage]
    images: ImageInput | None = None
    budgets: Sequence[int] = ()  # tokens of each stage
    batches: Batches = field(init=False)
    step: int = 0
    losses: list[float] = field(default_factory=list)  # since the last line of the log
    seconds: float = 0.0  # spent so far

    def save(self, path: Path) -> None:
        """Write the state after a step to a folder."""
        import torch
        from safetensors.torch import save_file

        save_file({name: p.detach().contiguous() for name, p in self.model.named_parameters()}, path / WEIGHTS)
        place = self.batches.place
        state = {
            "step": self.step,
            "losses": self.losses,
            "seconds": self.seconds,
            "budgets": list(self.budgets),
            "digests": [stage.digest for stage in self.stages],
            "place": {"stage": place.stage, "drawn": place.drawn, "seen": place.seen},
            "ids": torch.tensor(place.ids, dtype=torch.int32),
            "images": [torch.from_numpy(image) for image in place.images],
            "random": torch.get_rng_state(),  # for models with dropout
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with (path / STATE).open("wb") as file:  # with a path, torch would not report a full disk
            torch.save(state, file)

    def load(self, path: Path) -> Place:
        """Load a checkpoint. InputError if the corpus has changed."""
        import torch
        from safetensors.torch import load_file

        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
        for stage, digest in zip(self.stages, state["digests"], strict=True):
            if stage.digest != digest:
                remedy = "its documents have changed since the run began; restore them or choose another out"
                raise InputError(f"corpus.stages.{stage.name}", digest, remedy)
        stored = load_file(path / WEIGHTS)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(stored[name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random_cuda"])
        self.step, self.losses, self.seconds = state["step"], state["losses"], state["seconds"]
        self.budgets = state["budgets"]
        print(f"continuing after step {self.step}", flush=True)
        return Place(ids=state["ids"].tolist(), images=[i.numpy() for i in state["images"]], **state["place"])


def train(
    training: Training,
    config: Mapping[str, Any],
    optimizer: Optimizer,
    autocast: bool,
    log: Any,
    checkpoints: Path,
    stop: StopSignal,
) -> None:
    """Minimize the mean cross-entropy (nats a token); one line to `log` and to the screen every log_every steps and at the
    end. Raises Preempted once the state is saved."""
    from zero import checkpoint
    from zero.learner.optimizer import parameter_groups

    every, began = config["checkpoint"]["every"], time.perf_counter() - training.seconds
    for seen, ids, shown in training.batches:
        warm = min(1.0, (training.step + 1) / max(1, optimizer.warmup))
        for group in parameter_groups(training.optimizers):
            group["lr"] = group["initial_lr"] * (warm * optimizer.share(seen))
        try:
            loss = update(training.model, ids, training.optimizers, config, autocast, training.images, shown)
            training.losses.append(loss)
        except FloatingPointError as error:
            remedy = "lower optimizer.lr and optimizer.others.lr, or raise optimizer.warmup, in another out"
            raise Broken(f"step {training.step + 1}: {error}: not finite; nothing of it is kept; {remedy}") from error
        training.step += 1
        training.seconds = time.perf_counter() - began
        if training.step % config["log_every"] == 0:
            write_line(training, log)
        stopping = stop.received  # read once, so that a later signal is for the next step
        if stopping or (every and training.step % every == 0):
            os.fsync(log.fileno())  # after a power cut the checkpoint must not know more than the log
            checkpoint.save(checkpoints, training.step, training.save, config["checkpoint"]["keep"])
        if stopping:
            done = f"{stopping} after step {training.step} ({training.batches.share:.0%} of the tokens)"
            raise Preempted(f"{done}: saved; the same command continues")
    if training.losses:
        write_line(training, log)


def write_line(training: Training, log: Any) -> None:
    """Log the mean loss since the last line, and start a new mean."""
    losses = training.losses
    entry = {"step": training.step, "tokens": training.batches.seen, "loss": sum(losses) / len(losses)}
    entry |= {"lr": training.optimizers[0].param_groups[0]["lr"], "seconds": round(training.seconds, 1)}
    losses.clear()
    print(json.dumps(entry), file=log, flush=True)
    share = training.batches.share
    left = training.seconds * max(0.0, 1 - share) / share if share else 0.0  # the last batch may exceed the tokens
    line = "step {step}  tokens {tokens} of {total}  loss {loss:.4f}  {seconds:.0f} s, {left:.0f} s to go"
    print(line.format(**entry, total=sum(training.budgets), left=left), flush=True)


def rewind(log: Path, step: int) -> None:
    """Drop the lines after `step` and a torn last one; the file is replaced atomically."""
    content = log.read_bytes() if log.exists() else b""
    whole = b"".join(line for line, entry in _entries(log, content) if entry["step"] <= step)
    if whole != content:
        write_atomically(log, whole)


def last_entry(out: Path) -> dict[str, Any]:
    """The last line of the log; empty if there is none."""
    entries = read_json_lines(out / LOG)
    return entries[-1] if entries else {}


def _entries(log: Path, content: bytes) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The whole lines of the log and their objects. InputError for damage that a kill cannot cause."""
    for i, (line, entry) in enumerate(json_lines(content)):
        if not line.endswith(b"\n"):
            return  # the last one, torn by a kill
        if entry is None or not isinstance(entry.get("step"), int):
            raise InputError("out", log.parent, f"line {i + 1} of {log.name} is damaged; repair or remove it")
        yield line, entry


def export(model: Any, tokenizer: Any, out: Path, images: ImageInput | None = None) -> None:
    """Write the model as a Hugging Face folder, then delete the checkpoints."""
    partial = out / ".model_partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    if images:
        save_processor(tokenizer, images.processor, model.config, partial)
    # config.json last: it marks the model as complete
    for path in sorted(partial.iterdir(), key=lambda path: path.name == MODEL):
        if (out / path.name).is_dir():
            shutil.rmtree(out / path.name)  # of an export that was killed
        path.replace(out / path.name)
    partial.rmdir()
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


@contextmanager
def _about_out(out: Path) -> Iterator[None]:
    """Errors of checkpoints and identities name run_dir; here the key is out."""
    try:
        yield
    except InputError as error:
        if error.key != "run_dir":
            raise
        raise InputError("out", out, error.remedy.replace("name or run_dir", "out")) from error


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="pretrain")
def task(config: DictConfig) -> None:
    """One Hydra job."""
    with errors_reported():
        run(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]


def main() -> None:
    """The console entry point."""
    command_line("pretrain", task)


if __name__ == "__main__":
    main()
