"""THE list of metric names: what a number is called, its unit, what it means. A name that is not here is refused.

Order is the order of a journal line and of the table that `python -m zero.tracking` prints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean

from zero.records import Ending, Metrics

ENDINGS = [ending.replace(" ", "_") for ending in Ending]
# "step" is one policy iteration: sample, grade, update. "Response" is what the model wrote after the prompt.
# A benchmark named "macro" is the plain mean over benchmarks.
GLOSSARY: dict[str, tuple[str, str]] = {
    "train/reward": ("reward", "mean reward of the step's responses"),
    "train/accuracy": ("share", "responses whose answer, in the form that the template asks for, is right"),
    "train/accuracy_lenient": ("share", "responses whose answer is right in whatever form it was found"),
    "train/formatted": ("share", "responses in which the template found an answer"),
    "train/unparsed": ("share", "responses with an answer that the checker cannot read"),
    "train/timed_out": ("share", "responses with an answer on which the checker hit its limit of time or memory"),
    "train/failed": ("share", "responses with an answer on which the checker failed: a defect of the checker"),
    "train/recognition": (
        "share",
        "responses that name all that their image shows, such as its cards, right answer or not; absent where a set does not say "
        "what is to be named",
    ),
    "train/KIND/accuracy": (
        "share",
        "right answers to the questions of KIND: a source of a mixture or a kind that the set names, a level (level_2), or a "
        "level of a kind (nano_gsm/level_2); absent in a step without any",
    ),
    "reward/KIND/mean": ("reward", "mean reward of the responses to the questions of KIND; see train/KIND/accuracy"),
    "reward/TERM": ("reward", "mean contribution of the reward's term TERM, weight included; the terms add up"),
    "program/OUTCOME": (
        "share",
        "responses whose program ended so: passed, failed, hardcoded (it passes every test that the question shows and none "
        "that it hides), timed_out, out_of_memory, crashed, exited_early, too_much_output, broken_test, too_long, "
        "forbidden_network, _files, _processes, _privileges, and forbidden, their sum; absent where no answer is a program",
    ),
    "alarm/reward_hack": ("0 or 1", "1 if the reward has been rising while accuracy has not"),
    "length/mean": ("tokens", "mean length of a response, its stop token counted"),
    "length/correct": ("tokens", "mean length of correct responses; absent in a step that has none"),
    "length/incorrect": ("tokens", "mean length of incorrect responses; absent in a step that has none"),
    "length/KIND/mean": ("tokens", "mean length of the responses to the questions of KIND; see train/KIND/accuracy"),
    "length/truncated": ("share", "responses cut off by the token budget"),
    "tries/solved": ("share", "responses whose last try is right, in environment=tries; accuracy is the first try's"),
    "tries/mean": ("tries", "mean number of tries of a response, in environment=tries"),
    "episode/turns": (
        "turns",
        "mean number of turns of an episode; as all below to turn/K/length only in an environment",
    ),
    "episode/observed": ("tokens", "mean number of the environment's tokens in an episode, without the first prompt"),
    "episode/ENDING": (
        "share",
        "episodes that ended so: done (the environment said so), out_of_turns, out_of_tokens, out_of_context (no room for the "
        "next observation), failed (the environment raised, hung or returned nonsense)",
    ),
    "turns/KIND": (
        "share",
        "turns that the environment calls KIND, such as invalid_action; absent in a step without any; all but the 20 most "
        "frequent of a step are `other`",
    ),
    "turn/K/alive": ("share", "episodes that have a turn K, counted from 1, to 10"),
    "turn/K/reward": ("reward", "mean reward of the episodes' turn K"),
    "turn/K/positive": ("share", "of the episodes' turns K, those that earned more than 0"),
    "turn/K/length": ("tokens", "mean length of the episodes' turn K"),
    "reflection/share": ("share", "responses that contain a self-reflection, such as 'wait' or 'let me check'"),
    "groups/zero_advantage": (
        "share",
        "groups whose rewards are all equal, with `algo.turn_advantage` also those of their turns: they teach nothing",
    ),
    "tokens/zero_advantage": ("share", "response tokens in such groups: spent without a gradient"),
    "curriculum/drawn/POOL": (
        "share",
        "questions of the step that a curriculum took from POOL: rows by pass rate (below, band, above; hard, normal, easy), "
        "unseen ones, or rows of a level",
    ),
    "curriculum/rows/POOL": ("share", "training rows that are in POOL after the step; see curriculum/drawn/POOL"),
    "loss/policy": ("loss", "policy loss: a weighted sum over the tokens of an update; its size means little"),
    "loss/entropy": ("nats/token", "mean entropy of the policy's next-token distribution over response tokens"),
    "loss/kl": ("nats/token", "mean estimated KL divergence from the reference policy; absent without a reference"),
    "loss/clip_fraction": ("share", "response tokens whose probability ratio is clipped"),
    "loss/grad_norm": ("norm", "L2 norm of the gradient before clipping"),
    "loss/skipped_updates": (
        "updates",
        "optimizer steps that moved nothing, as the norm of the gradient was not finite; absent in a step without any",
    ),
    "loss/learning_rate": ("1/update", "learning rate of the optimizer"),
    "critic/loss": ("reward^2", "mean loss of a learned critic over response tokens: half the squared error, clipped"),
    "critic/value": ("reward", "mean value that a learned critic gave the states of the step's responses"),
    "critic/explained_variance": (
        "share",
        "variance of returns that a learned critic explained; below 0: worse than none",
    ),
    "critic/grad_norm": ("norm", "L2 norm of the critic's gradient before clipping"),
    "critic/skipped_updates": (
        "updates",
        "optimizer steps that moved nothing of the critic, as its gradient was not finite; absent in a step without any",
    ),
    "critic/learning_rate": ("1/update", "learning rate of the critic's optimizer"),
    "critic/tokens": ("tokens", "tokens sampled to estimate values, beyond the step's own responses"),
    "mismatch/correction": (
        "factor",
        "mean factor of the importance correction over response tokens; absent without one",
    ),
    "mismatch/canary": (
        "nats",
        "mean |sampler - learner| log-probability of a few tokens drawn after the weight sync, in the steps of the sync check",
    ),
    "mismatch/staleness": (
        "steps",
        "by which the weights that drew the responses lag behind those updated, mean over their tokens",
    ),
    "mismatch/k3": (
        "nats",
        "k3 estimate of KL(sampler || learner) a response token: exp(d) - 1 - d, d = learner - sampler",
    ),
    "mismatch/beyond_2x": (
        "share",
        "of response tokens that sampler and learner find apart by more than a factor of 2",
    ),
    "mismatch/logprob_gap": ("nats", "mean |sampler - learner| log-probability over response tokens"),
    "mismatch/logprob_gap_max": ("nats", "largest |sampler - learner| log-probability of a response token"),
    "lens/ALGO/cosine": (
        "cosine",
        "of ALGO's gradient on the step's responses with that of the run's algorithm, on a probe; absent if one is zero",
    ),
    "lens/ALGO/correct_short": (
        "share",
        "of ALGO's token weights on correct answers of at most the step's median length",
    ),
    "lens/ALGO/correct_long": ("share", "of ALGO's token weights on correct answers above the step's median length"),
    "lens/ALGO/incorrect_short": ("share", "of ALGO's token weights on incorrect answers of at most the median length"),
    "lens/ALGO/incorrect_long": ("share", "of ALGO's token weights on incorrect answers above the median length"),
    "lens/ALGO/length_bias": (
        "ratio",
        "ALGO's weight per token of long over short incorrect answers to the same question with the same reward; 1: no bias",
    ),
    "lens/ALGO/difficulty_bias": (
        "ratio",
        "what a unit of reward difference weighs for ALGO in groups at least 3/4 right or wrong over others; 1: no bias",
    ),
    "tokens/generated": ("tokens", "response tokens of the step: sampled, or with rollout=gold the solutions'"),
    "tokens/prompt": ("tokens", "prompt tokens of the step, each prompt counted once"),
    "tokens/image": (
        "tokens",
        "those of tokens/prompt that stand for parts of images; absent in a step without images",
    ),
    "cost/flops": (
        "FLOPs",
        "floating-point operations of the step's sampling and training, 2 N a token forward and 4 N backward with N parameters in "
        "matrix products; without evaluation, and without attention's quadratic term, under 10 % up to 3,000 tokens; what "
        "counts and what does not: zero/flops.py",
    ),
    "cost/tokens_trained": (
        "tokens",
        "tokens that the step's updates learned from, prompts and the environment's included, once in each epoch: 6 N of "
        "cost/flops each, 4 N with LoRA; not those of responses without a gradient",
    ),
    "cost/tokens_sampled": (
        "tokens",
        "tokens that were sampled, or read to sample: groups that dynamic sampling threw away and a critic's samples too, a prompt "
        "once for its group; 2 N of cost/flops each; 0 with rollout=gold",
    ),
    "eval/NAME/accuracy": ("share", "benchmark NAME: strict accuracy, mean over n answers to each question: avg@n"),
    "eval/NAME/accuracy_low": ("share", "lower end of its 95 % interval over questions (Wilson)"),
    "eval/NAME/accuracy_high": ("share", "upper end of its 95 % interval over questions (Wilson)"),
    "eval/NAME/chance": (
        "share",
        "benchmark NAME: accuracy of guessing, by random expressions of the given numbers (Countdown, cards) or random choices; "
        "absent for other questions",
    ),
    "eval/NAME/chance_p": (
        "probability",
        "benchmark NAME: that guessing gives at least as many right answers, at most 0.025: better than guessing",
    ),
    "eval/NAME/accuracy_lenient": ("share", "benchmark NAME: accuracy of answers in whatever form they were found"),
    "eval/NAME/recognition": (
        "share",
        "benchmark NAME: responses that name all that their image shows; see train/recognition",
    ),
    "eval/NAME/solved": ("share", "benchmark NAME: answers right in one of a response's tries, in environment=tries"),
    "eval/NAME/tries": ("tries", "benchmark NAME: mean number of tries of a response, in environment=tries"),
    "eval/NAME/turns": ("turns", "benchmark NAME: mean number of turns of an episode; only in an environment"),
    "eval/NAME/reward": ("reward", "benchmark NAME: mean reward of an episode; only in an environment"),
    "eval/NAME/pass@K": ("share", "benchmark NAME: chance that one of K answers to a question is right"),
    "eval/NAME/maj@K": ("share", "benchmark NAME: chance that the majority of K answers to a question is right"),
    "eval/NAME/formatted": ("share", "benchmark NAME: responses in which the template found an answer"),
    "eval/NAME/unparsed": ("share", "benchmark NAME: responses with an answer that the checker cannot read"),
    "eval/NAME/timed_out": ("share", "benchmark NAME: responses with an answer on which the checker hit its limit"),
    "eval/NAME/failed": ("share", "benchmark NAME: responses with an answer on which the checker failed"),
    "eval/NAME/program/OUTCOME": ("share", "benchmark NAME: responses whose program ended so; see program/OUTCOME"),
    "eval/NAME/length": ("tokens", "benchmark NAME: mean length of a response"),
    "eval/NAME/length_correct": ("tokens", "benchmark NAME: mean length of correct responses; absent without any"),
    "eval/NAME/length_incorrect": ("tokens", "benchmark NAME: mean length of incorrect responses; absent without any"),
    "eval/NAME/KIND/accuracy": (
        "share",
        "benchmark NAME: accuracy on its questions of KIND: a source, a kind, a level (level_2), or a level of a kind",
    ),
    "eval/NAME/KIND/length": ("tokens", "benchmark NAME: mean length of a response to its questions of KIND"),
    "eval/NAME/truncated": ("share", "benchmark NAME: responses cut off by the token budget"),
    "eval/NAME/reflection": ("share", "benchmark NAME: responses that contain a self-reflection word"),
    "time/rollout": ("s", "wall time of sampling"),
    "time/grade": ("s", "wall time of grading"),
    "time/lens": ("s", "wall time of the algorithm lens; absent where none is due"),
    "time/update": ("s", "wall time of the learner: log-probabilities, backward passes, optimizer"),
    "time/sync": ("s", "wall time of handing the new weights to the sampler"),
    "time/step": ("s", "wall time of the whole step, without evaluation"),
    "time/evaluate": ("s", "wall time of the evaluation at this step; absent where none is due"),
    "time/unix": ("s", "when the step ended, seconds since 1970-01-01 UTC"),
    "speed/rollout": ("tokens/s", "response tokens sampled per second of time/rollout"),
    "speed/update": ("tokens/s", "prompt and response tokens learned from per second of time/update"),
    "speed/prefix_cached": (
        "share",
        "tokens before the later turns of episodes that the sampler had in its cache and need not read again; absent where it does "
        "not say",
    ),
    "system/memory": ("GB", "peak resident memory of the process so far, in units of 2^30 bytes"),
}

# How the values of a step's optimizer steps become one; of every other metric it is their mean
COMBINED_BY: dict[str, Callable[[Sequence[float]], float]] = {
    "loss/skipped_updates": sum,
    "critic/skipped_updates": sum,
    "mismatch/logprob_gap_max": max,
}


def combine(updates: Sequence[Metrics]) -> Metrics:
    """The metrics of a step from those of its optimizer steps, over those that have the metric."""
    names = dict.fromkeys(name for update in updates for name in update)
    values = {name: [update[name] for update in updates if name in update] for name in names}
    return {name: COMBINED_BY.get(name, fmean)(values[name]) for name in names}


def describe(name: str) -> tuple[str, str]:
    """(unit, meaning) of a metric; "eval/x/length" resolves to "eval/NAME/length", "reward/x" to "reward/TERM".
    KeyError for unknown names."""
    entry = _entry(name)
    if entry is None:
        raise KeyError(f"{name}: no such metric; add its unit and meaning to zero/tracking/glossary.py")
    return GLOSSARY[entry]


def sort_key(name: str) -> tuple[int, str]:
    """Glossary order; benchmarks side by side within an entry. Unknown names come last."""
    entry = _entry(name)
    return (list(GLOSSARY).index(entry) if entry else len(GLOSSARY), name)


def markdown() -> str:
    """The glossary as a Markdown table."""
    escaped = {name: (unit, meaning.replace("|", r"\|")) for name, (unit, meaning) in GLOSSARY.items()}
    rows = [f"| `{name}` | {unit} | {meaning} |" for name, (unit, meaning) in escaped.items()]
    return "\n".join(["| metric | unit | meaning |", "| --- | --- | --- |", *rows])


@cache
def _entry(name: str) -> str | None:
    if name in GLOSSARY:
        return None if "NAME" in name.split("/") else name
    pattern = re.sub(r"^eval/[^/]+/", "eval/NAME/", name)
    pattern = re.sub(r"^lens/[^/]+/", "lens/ALGO/", pattern)
    pattern = re.sub(
        r"^(eval/NAME|train|length|reward)/[^/]+(?:/level_[^/]+)?/(accuracy|length|mean)$", r"\1/KIND/\2", pattern
    )
    pattern = re.sub(r"^curriculum/(drawn|rows)/[^/]+$", r"curriculum/\1/POOL", pattern)
    pattern = re.sub(r"@[0-9]+$", "@K", pattern)
    pattern = re.sub(r"^turn/[0-9]+/", "turn/K/", pattern)
    pattern = re.sub(rf"^episode/({'|'.join(ENDINGS)})$", "episode/ENDING", pattern)
    pattern = re.sub(r"^turns/[\w.+-]+$", "turns/KIND", pattern)
    pattern = re.sub(r"^reward/[^\W\d]\w*$", "reward/TERM", pattern)
    pattern = re.sub(r"^(eval/NAME/|)program/[a-z_]+$", r"\1program/OUTCOME", pattern)
    return pattern if pattern in GLOSSARY else None
