"""python -m benchmarks.side NAME FOLDER: one side on one workload, in a process of its own; prints a line of JSON.

    ours       a whole step of zero.loop
    episode    the same in an environment of one turn, which checks the answer in place of the grader
    trl        TRL's GRPOTrainer at its best settings on a CPU: no gradient checkpointing, sdpa, no reference, micro-batches
    loop       a step in plain torch and transformers, as one would write it first
    generate   transformers.generate alone

CPU seconds of the process, one thread, after a first step that does not count: {"tokens": generated, "cpu": whole steps,
"generation": ..., "training": ..., "wall": seconds by the clock, "memory": peak in bytes, "mean": tokens of a response, "asked":
hash of the prompts}. `ours` under torchrun is one run of several processes; the first of them reports.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

from benchmarks.workloads import END, Workload, read, reward


@dataclass
class Spent:
    """CPU seconds by stage and responses, of the steps that count."""

    cpu: float = 0.0
    wall: float = 0.0
    generation: float = 0.0
    training: float = 0.0
    lengths: list[int] = field(default_factory=list)
    prompts: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def on(self, stage: str) -> Iterator[None]:
        began, clock = time.process_time(), time.perf_counter()
        yield
        setattr(self, stage, getattr(self, stage) + time.process_time() - began)
        if stage == "cpu":
            self.wall += time.perf_counter() - clock

    def forget(self) -> None:
        """What was spent so far does not count."""
        self.cpu = self.wall = self.generation = self.training = 0.0
        self.lengths.clear()
        self.prompts.clear()

    def report(self) -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        tokens = sum(self.lengths)
        return {
            "tokens": tokens,
            "cpu": self.cpu,
            "wall": self.wall,
            "generation": self.generation,
            "training": self.training,
            "memory": peak,
            "mean": tokens / max(1, len(self.lengths)),
            "asked": sha256("\0".join(sorted(self.prompts)).encode()).hexdigest(),
        }


def has_bfloat16() -> bool:
    """Whether every side takes bfloat16 here, or float32."""
    import torch

    from zero import runtime

    return runtime.has_bfloat16(torch.device("cpu"))


def ours(folder: Path, workload: Workload, prompts: list[str], *more: str) -> Spent:
    """zero.loop.step as zero.train runs it, on the prompts in the order of the file; no evaluation, no tracker. `more`:
    settings of the run."""
    from tempfile import TemporaryDirectory

    from zero.build import build
    from zero.config.check import LIGHT, check, instantiate
    from zero.distributed import World
    from zero.loop import step
    from zero.question_sets import load_questions
    from zero.questions import QuestionSet, Rows
    from zero.questions.curriculum import Uniform
    from zero.questions.sampler import QuestionSampler
    from zero.tracking import provenance

    class InOrder(Uniform):
        def choose(self, source: Any, places: Any, history: Any, moment: Any) -> list[Any]:
            return [source.rows[place] for place in places]

    world = World.join()
    precision = "bfloat16" if has_bfloat16() else "float32"
    with TemporaryDirectory() as home:
        config = check(
            "train",
            [
                "model=hf",
                f"model.path={folder}",
                "questions=file",
                f"questions.path={folder / 'prompts.jsonl'}",
                "questions.question=prompt",
                "questions.answer=answer",
                "questions.check._target_=zero.grading.check_equal",
                "template=none",
                "algo=drgrpo",
                f"prompts={workload.prompts}",
                f"group_size={workload.group}",
                f"sampling.max_tokens={workload.tokens}",
                f"optimizer.lr={workload.lr}",
                "optimizer.warmup=0",
                f"learner.precision={precision}",
                "reward.terms.parity.function=benchmarks.side.parity_reward",
                "reward.terms.correct.weight=0",
                f"steps={workload.steps + 1}",
                "evaluation.every=0",
                "sync_check.every=0",
                "tracker=jsonl",
                f"run_dir={home}",
                *more,
            ],
        )
        light = {key: instantiate(config[key]) for key in LIGHT}
        place = Path(home)
        run = build(
            config,
            place,
            "peer",
            load_questions(config, place),
            provenance.start({}, "cpu", world.size),
            **light,
            world=world,
        )
        loaded = {q.text: q for rows in (run.questions.rows.train, run.questions.rows.heldout) for q in rows}
        questions = QuestionSet("prompts", Rows([loaded[p] for p in prompts], ()), run.questions.check)
        run = replace(run, questions=questions, sampler=QuestionSampler(questions, InOrder(), run.prompts, run.seed))
        run.engine.sync(run.learner.weights(), version=0)
        spent = Spent()
        run.engine.generate = _timed(run.engine.generate, spent, "generation")  # type: ignore[method-assign]
        run.learner.update = _timed(run.learner.update, spent, "training")  # type: ignore[method-assign]
        for t in range(workload.steps + 1):
            with spent.on("cpu"):
                groups, _ = step(run, t)
            if t == 0:
                spent.forget()
            else:
                spent.lengths += [len(completion.ids) for group in groups for completion in group.completions]
                spent.prompts |= {group.prompt.text for group in groups}
        world.shutdown()
    return spent


class OneAnswer:
    """An environment of one turn: the answer that the template finds is right, or it is not."""

    def reset(self, row: Any, seed: int) -> str:
        self.row = row
        return str(row.text)

    def step(self, text: str) -> Any:
        from zero.environments import Step
        from zero.grading import check_equal
        from zero.template import last_boxed

        answer = last_boxed(text)
        right = answer is not None and check_equal(answer, self.row)
        return Step("", float(right), done=True, success=right)


def episode(folder: Path, workload: Workload, prompts: list[str]) -> Spent:
    """`ours` in an environment of one turn: the same samples and the same updates."""
    world = [
        "environment=own",
        "reward=accuracy",
        "environment.make._target_=benchmarks.side.OneAnswer",
        "environment.isolated=false",
    ]
    return ours(folder, workload, prompts, *world, "environment.turns=1")


def parity_reward(response: Any) -> float:
    """A reward term of ours: the workloads' reward."""
    return reward(response.text)


def _timed(call: Callable[..., Any], spent: Spent, stage: str) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        with spent.on(stage):
            return call(*args, **kwargs)

    return timed


def trl(folder: Path, workload: Workload, prompts: list[str]) -> Spent:
    """GRPOTrainer.train: generation is `_generate`, training the rest but scoring and rewards."""
    from tempfile import TemporaryDirectory

    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    rows = workload.prompts * workload.group
    micro = min(workload.micro, rows)
    spent = Spent()

    class Steps(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            now = time.process_time()
            if state.global_step == 1:
                spent.forget()
            else:
                spent.cpu += now - self.began
            self.began = now

    with TemporaryDirectory() as home:
        config = trl.GRPOConfig(
            output_dir=home,
            use_cpu=True,
            bf16=has_bfloat16(),
            report_to="none",
            gradient_checkpointing=False,
            save_strategy="no",
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=rows // micro,
            num_generations=workload.group,
            max_completion_length=workload.tokens,
            temperature=1.0,
            beta=0.0,
            loss_type="dr_grpo",
            scale_rewards="none",
            learning_rate=workload.lr,
            lr_scheduler_type="constant",
            max_steps=workload.steps + 1,
            logging_strategy="no",
            shuffle_dataset=False,
            disable_tqdm=True,
            max_grad_norm=1.0,
            adam_beta2=0.95,
            top_k=0,
        )
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [reward(text) for text in completions],
            args=config,
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[Steps()],
        )
        inner = trainer._generate

        def generate(*args: Any, **kwargs: Any) -> Any:
            with spent.on("generation"):
                output = inner(*args, **kwargs)
            spent.lengths += [len(completion) for completion in output[1]]
            spent.prompts |= set(args[0])
            return output

        trainer._generate = generate
        trainer.train()
    spent.training = spent.cpu - spent.generation
    return spent


def loop(folder: Path, workload: Workload, prompts: list[str]) -> Spent:
    """Dr. GRPO in forty lines: transformers.generate, pad, one backward pass a micro-batch, AdamW."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    optimizer = torch.optim.AdamW(model.parameters(), lr=workload.lr, betas=(0.9, 0.95), weight_decay=0.0)
    spent = Spent()
    for t in range(workload.steps + 1):
        with spent.on("cpu"):
            batch = prompts[t * workload.prompts : (t + 1) * workload.prompts]
            inputs = tokenizer(batch, return_tensors="pt", padding=True)
            with spent.on("generation"):
                whole = _sampled(model, inputs, workload, tokenizer.pad_token_id)
            width = inputs["input_ids"].shape[1]
            sampled = whole[:, width:]
            ended = (sampled == END).int()
            mask = (ended.cumsum(1) - ended == 0).float()
            texts = tokenizer.batch_decode(sampled, skip_special_tokens=True)
            rewards = torch.tensor([reward(text) for text in texts]).view(workload.prompts, workload.group)
            advantage = (rewards - rewards.mean(1, keepdim=True)).flatten()
            attention = torch.cat([inputs["attention_mask"].repeat_interleave(workload.group, 0), mask.long()], 1)
            with spent.on("training"):
                for rows in torch.arange(len(whole)).split(workload.micro):
                    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
                        logits = model(whole[rows], attention_mask=attention[rows], use_cache=False).logits[
                            :, width - 1 : -1
                        ]
                    logp = logits.float().log_softmax(-1).gather(2, sampled[rows][..., None])[..., 0]
                    loss = -(advantage[rows, None] * (logp - logp.detach()).exp() * mask[rows]).sum()
                    (loss / (workload.prompts * workload.group * workload.tokens)).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        if t == 0:
            spent.forget()
        else:
            spent.lengths += mask.sum(1).int().tolist()
            spent.prompts |= set(batch)
    return spent


def generate(folder: Path, workload: Workload, prompts: list[str]) -> Spent:
    """transformers.generate alone: whole vocabulary, temperature 1."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    spent = Spent()
    for t in range(workload.steps + 1):
        batch = prompts[t * workload.prompts : (t + 1) * workload.prompts]
        inputs = tokenizer(batch, return_tensors="pt", padding=True)
        with spent.on("cpu"), spent.on("generation"):
            whole = _sampled(model, inputs, workload, tokenizer.pad_token_id)
        sampled = whole[:, inputs["input_ids"].shape[1] :]
        ended = (sampled == END).int()
        if t == 0:
            spent.forget()
        else:
            spent.lengths += (ended.cumsum(1) - ended == 0).sum(1).tolist()
            spent.prompts |= set(batch)
    return spent


def _sampled(model: Any, inputs: Any, workload: Workload, pad: int) -> Any:
    import torch

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        return model.generate(
            **inputs,
            do_sample=True,
            top_k=0,
            temperature=1.0,
            num_return_sequences=workload.group,
            max_new_tokens=workload.tokens,
            eos_token_id=END,
            pad_token_id=pad,
        )


SIDES = {"ours": ours, "episode": episode, "trl": trl, "loop": loop, "generate": generate}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    import torch

    torch.set_num_threads(1)
    spent = SIDES[name](folder, *read(folder))
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(spent.report()), flush=True)


if __name__ == "__main__":
    main()
