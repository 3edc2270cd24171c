"""One training step, told as a story: read `step` first, then `train`.

All functions take and return the records of zero/records.py. No config object reaches this file, only built components.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from zero import checkpoint
from zero.algorithm import Algorithm
from zero.batching import has_signal, make_batch, mini_batches, rewards, turn_rewards
from zero.benchmark import Benchmark, Result, evaluate, macro, rows, summarize
from zero.critic import Critic
from zero.distributed import World
from zero.errors import InputError, Preempted
from zero.failures import check_finite
from zero.files import write_atomically
from zero.flops import FlopCounter
from zero.grading import Grader
from zero.image_rows import save_images
from zero.learner import Learner
from zero.monitoring.algorithm_lens import AlgorithmLens, compare
from zero.monitoring.reward_hacking import RewardHackAlarm
from zero.monitoring.sync_check import SyncCheck
from zero.questions import QuestionSet
from zero.questions.sampler import QuestionSampler
from zero.records import TRAINING, Batch, Completion, Group, Metrics, Prompt, Sampling
from zero.rollout import RolloutEngine
from zero.rollout.episodes import without_environment
from zero.rollout.prefetch import Prefetch
from zero.signals import StopSignal
from zero.template import AnyTemplate
from zero.tracking import journal
from zero.tracking.glossary import combine
from zero.tracking.trackers import Trackers
from zero.vision import Vision


@dataclass(frozen=True)
class Run:
    """The components and settings of a run, built once by zero/build.py."""

    dir: Path
    template: AnyTemplate
    questions: QuestionSet
    sampler: QuestionSampler  # draws each step's questions
    algo: Algorithm
    sampling: Sampling
    tokenizer: Any
    grader: Grader
    engine: RolloutEngine
    learner: Learner
    critic: Critic | None
    flops: FlopCounter  # what a step costs
    lens: AlgorithmLens | None  # compares the run's algorithm with others
    sync_check: SyncCheck  # compares engine and learner
    prefetch: Prefetch  # completions of the next step, sampled ahead
    benchmarks: Sequence[Benchmark]
    trackers: Trackers
    world: World
    seed: int
    steps: int
    prompts: int
    group_size: int
    updates: int
    epochs: int
    evaluate_every: int
    save_every: int
    keep: int
    sample_every: int
    sample_groups: int
    vision: Vision | None = None  # of a model that sees
    weights_fingerprint: str = ""  # of the weights that the run started from
    # Called once with the number of steps done before; -1: a new run, not evaluated yet
    on_start: Callable[[int], None] = lambda done: None

    def save(self, path: Path) -> None:
        """Write all state that changes from step to step into the existing folder `path`. Called by every rank."""
        self.learner.save(path)
        if self.critic:
            self.critic.save(path)
        self.prefetch.save(path)
        if self.world.is_main:
            self.sampler.save(path)

    def load(self, path: Path, step: int) -> None:
        """Restore the state that `save` wrote after `step` steps."""
        self.learner.load(path)
        if self.critic:
            self.critic.load(path)
        self.prefetch.load(path)
        self.sampler.load(path, step)


def step(run: Run, t: int) -> tuple[list[Group], Metrics]:
    """Step t, counted from 0: questions -> prompts -> completions -> verdicts -> batch -> updates -> new weights.

    With several ranks each samples and grades its shard of the prompts; from there on all have the whole step.
    """
    timer = StageTimer()
    groups, sampled = rollout_and_grade(run, t, timer)
    request_next(run, t + 1, timer)
    with timer("update"):
        batch = score_batch(run, groups)
    comparison = compare_algorithms(run, t, batch, groups, timer)
    with timer("update"):
        batches = make_mini_batches(run, batch, t)
        updates = [update(run, mini_batch) for mini_batch in batches]
    sync(run, t + 1, timer)
    metrics = summarize(sampled, [has_signal(group, run.algo) for group in sampled])
    metrics |= run.sampler.metrics() | combine(updates) | staleness(groups, t)
    metrics |= run.flops.metrics(sampled, batch, batches, run.algo, run.critic) | comparison | timer.metrics()
    return groups, metrics | speeds(metrics, learned=int(batch.length_N.sum()) * run.epochs)


def rollout_and_grade(run: Run, t: int, timer: StageTimer) -> tuple[list[Group], list[Group]]:
    """The step's groups, and all groups that were sampled: more, if the algorithm replaces groups without a signal."""
    sampled: list[Group] = []
    for r in range(1 + run.algo.resample_rounds):
        prompts = run.world.shard(make_prompts(run, t, r))
        with timer("rollout"):
            prefetched = run.prefetch.pop(t)
            completions_PG = generate(run, prompts) if prefetched is None else prefetched
        with timer("grade"):
            graded = run.world.all_gather(run.grader.grade(prompts, completions_PG, run.sampling.max_tokens))
        run.sampler.record(graded, t, r)
        sampled += graded
        if sum(has_signal(group, run.algo) for group in sampled) >= run.prompts:
            break
    run.sampler.end(t, r + 1)
    if not run.algo.resample_rounds:
        return sampled, sampled
    return sorted(sampled, key=lambda group: has_signal(group, run.algo), reverse=True)[: run.prompts], sampled


def request_next(run: Run, t: int, timer: StageTimer) -> None:
    """If the engine samples one step ahead, start sampling the completions of step t, the next one."""
    if run.engine.staleness and t < run.steps:
        prompts = run.world.shard(make_prompts(run, t, 0))
        with timer("rollout"):
            run.prefetch.request(t, partial(generate, run, prompts), in_thread=run.engine.own_devices)


def compare_algorithms(run: Run, t: int, batch: Batch, groups: Sequence[Group], timer: StageTimer) -> Metrics:
    """The lens' comparison of this step with other algorithms, every `lens.every` steps."""
    if run.lens is None or not due(t + 1, run.lens.every, run.steps):
        return {}
    with timer("lens"):
        return compare(run.lens, run.algo, batch, groups, run.learner)


def sync(run: Run, version: int, timer: StageTimer) -> None:
    """Send the new weights to the engine, once it samples nothing with the old ones any more."""
    with timer("rollout"):
        run.prefetch.wait()
    with timer("sync"):
        run.engine.sync(check_finite(run.learner.weights()), version=version)


def speeds(metrics: Metrics, learned: int) -> Metrics:
    """Tokens per second of a step's rollout and updates; `learned` counts every token once per epoch."""
    return {
        "speed/rollout": metrics["tokens/generated"] / metrics["time/rollout"],
        "speed/update": learned / metrics["time/update"],
    }


def make_prompts(run: Run, t: int, r: int) -> list[Prompt]:
    """The prompts of round r of step t: they depend on the seed, r, t and what was asked before."""
    questions = run.sampler.draw(t, r)
    keys = [(TRAINING, run.seed, t, r * run.prompts + i) for i in range(run.prompts)]
    return [run.template.prompt(q, run.tokenizer, key) for q, key in zip(questions, keys, strict=True)]


def generate(run: Run, prompts: Sequence[Prompt]) -> list[list[Completion]]:
    """A group of completions for each prompt, with the engine's current weights."""
    # Nothing else is sampled before the next sync, unless for new groups, a critic, or the step ahead.
    last = not (run.algo.resample_rounds or run.critic or run.engine.staleness)
    with run.engine.awake(last):
        return run.engine.generate(prompts, run.group_size, run.sampling)


def score_batch(run: Run, groups: Sequence[Group]) -> Batch:
    """The step's responses as tensors, with advantages and what the algorithm needs for them: log-probabilities of the old
    policy and of the reference, values of a critic."""
    batch = make_batch(groups, run.algo, run.tokenizer.pad_token_id or 0)
    if run.algo.needs_reference:
        batch = replace(batch, reference_NT=run.learner.logprobs(batch, reference=True))
    if run.algo.needs_old:
        batch = replace(batch, old_NT=run.learner.logprobs(batch))
    values = run.critic.values(groups, batch) if run.critic else None
    return run.algo.with_advantages(batch, rewards(groups), values, turn_rewards(groups))


def make_mini_batches(run: Run, batch: Batch, t: int) -> list[Batch]:
    """The batches of the step's optimizer steps. The first update starts from the policy that made the samples: its ratios
    are 1. Later ones carry that policy's log-probabilities, computed on the update's own micro-batches, so that a ratio
    shows what the updates changed and no rounding of other micro-batches."""
    first, *others = mini_batches(batch, run.algo, run.updates, run.epochs, key=(run.seed, t))
    learner, algo = run.learner, run.algo
    return [replace(first, old_NT=None)] + [replace(b, old_NT=learner.logprobs(b, as_updated=algo)) for b in others]


def update(run: Run, mini_batch: Batch) -> Metrics:
    """One optimizer step of the policy, and of the critic if it learns."""
    metrics = run.learner.update(mini_batch, run.algo)
    return metrics | run.critic.update(mini_batch) if run.critic else metrics


def train(run: Run, stop: StopSignal) -> list[Result]:
    """All steps from the newest checkpoint on, with their evaluations. Returns the last evaluation.

    The journal line of a step is written before its checkpoint: a resumed run drops the lines after its checkpoint and
    computes the same numbers again.
    """
    done_before = resume(run)
    start, stop.started = max(done_before, 0), True
    hack = RewardHackAlarm.from_journal(journal.read(run.dir) if run.world.is_main else ())
    results: list[Result] = []
    run.engine.sync(check_finite(run.learner.weights()), version=start)
    refuse_coarser_dtype(run.engine, run.learner)
    if run.sync_check.every:
        check_sync(run, make_prompts(run, start, 0), start)
    if done_before < 0:
        metrics, results = run_benchmarks(run, 0)
        record(run, stop, 0, metrics)
    for t in range(start, run.steps):
        began, done = time.perf_counter(), t + 1
        groups, metrics = step(run, t)
        if run.sync_check.every and due(done, run.sync_check.every, run.steps):
            metrics["mismatch/canary"] = check_sync(run, [group.prompt for group in groups], done)
        metrics["time/step"] = time.perf_counter() - began
        metrics["alarm/reward_hack"] = hack.update(metrics)
        if due(done, run.evaluate_every, run.steps):
            evaluated, results = run_benchmarks(run, done)
            metrics |= evaluated
        if due(done, run.sample_every, run.steps):
            save_completions(run, f"step_{done:06d}", rows(groups[: run.sample_groups]))
        record(run, stop, done, metrics)
    return results or run_benchmarks(run, run.steps)[1]


def record(run: Run, stop: StopSignal, done: int, metrics: Metrics) -> None:
    """Write the step's journal line, and its checkpoint if one is due or a stop was requested; then raise Preempted if it was."""
    # Read once, so that a later signal is for the next step; and before anything is written, since this raises LeaseLost if
    # another process has taken the run over.
    stopping = run.world.any_rank(bool(stop))
    run.trackers.metrics(metrics | _clock(), step=done)
    if stopping or (done and due(done, run.save_every, run.steps)):
        checkpoint.save(run.dir / "checkpoints", done, run.save, run.keep, run.world)
    if stopping and done < run.steps:
        raise Preempted(
            f"{stop.received or 'a signal'} after step {done} of {run.steps}: saved; the same command continues"
        )


def resume(run: Run) -> int:
    """Load the newest sound checkpoint, rewind the journal to it, and return its number of steps; -1 without a checkpoint."""
    newest = checkpoint.newest_of_rank_0(run.dir / "checkpoints", lambda text: print(text, file=sys.stderr), run.world)
    done = -1
    if newest:
        done, path = newest
        if done > run.steps:
            raise InputError(
                "steps", run.steps, f"the run has taken {done} steps already; give that number or a higher one"
            )
        run.load(path, done)
    run.on_start(done)
    run.trackers.rewind(done)
    return done


def refuse_coarser_dtype(engine: RolloutEngine, learner: Learner) -> None:
    """InputError if the engine's dtype is coarser than the learner's: a small update would change only the learner."""
    if engine.dtype is not None and engine.dtype.itemsize < learner.dtype.itemsize:
        coarse, fine = (str(dtype).removeprefix("torch.") for dtype in (engine.dtype, learner.dtype))
        remedy = f"the engine holds weights in {coarse}, which rounds most of a small update away; set it to {coarse}"
        raise InputError("learner.precision", fine, f"{remedy}, or rollout.precision (launch.serve --dtype) to {fine}")


def check_sync(run: Run, prompts: Sequence[Prompt], version: int) -> float:
    """How far the engine is from the learner right after a weight sync, in nats; raises SyncMismatch if it is too far."""
    pad, engine = run.tokenizer.pad_token_id or 0, without_environment(run.engine)
    return run.sync_check.check(engine, run.learner, run.algo, prompts, run.sampling, pad, run.world, version)


def staleness(groups: Sequence[Group], t: int) -> Metrics:
    """How many steps the weights that sampled step t's responses lag behind, as a mean over tokens."""
    versions = [(c.length, t - c.version) for group in groups for c in group.completions if c.version >= 0]
    tokens = sum(length for length, _ in versions)
    return {"mismatch/staleness": sum(n * steps for n, steps in versions) / tokens} if tokens else {}


def run_benchmarks(run: Run, done: int) -> tuple[Metrics, list[Result]]:
    """Evaluate every benchmark after `done` steps; completions go to the run folder."""
    start = time.perf_counter()
    results = [evaluate(bench, run.template, run.tokenizer, run.engine, world=run.world) for bench in run.benchmarks]
    metrics = {name: value for result in results for name, value in result.metrics().items()}
    metrics |= macro(results) if len(results) > 1 else {}
    for result in results:
        save_completions(run, f"eval_{result.name}_{done:06d}", result.rows)
    run.trackers.evaluation(done, results)
    return metrics | {"time/evaluate": time.perf_counter() - start}, results


def save_completions(run: Run, name: str, table: Sequence[dict[str, Any]]) -> None:
    """Write completions as JSON Lines to run_dir/completions."""
    if not run.world.is_main:
        return
    path = run.dir / "completions" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    save_images(run.dir, table)
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in table), sync=False)


def due(done: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps (0: never) and after the last one happens after `done` steps."""
    return done == last or (every > 0 and done % every == 0)


@dataclass
class StageTimer:
    """Wall seconds of each stage of a step; a stage may be entered more than once."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def metrics(self) -> Metrics:
        return {f"time/{stage}": seconds for stage, seconds in self.seconds.items()}


def _clock() -> Metrics:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    return {"time/unix": time.time(), "system/memory": peak}
