"""Names of other libraries and typing errors: the error names the setting meant, and the table holds no dead entry."""

from __future__ import annotations

import pytest

from zero.config.aliases import NEEDS, REMARKS, TARGETS
from zero.config.compose import ROOTS, defaults, groups_of, no_such
from zero.config.identity import flatten
from zero.config.overrides import options_of
from zero.config.suggest import section_names

WORDS = {  # command -> what is typed -> what the answer holds
    "train": """
        learning_rate=1e-5 optimizer.lr? | num_generations=8 group_size? | per_device_train_batch_size=8 prompts?
        max_completion_length=9 sampling.max_tokens? | beta=0.1 algo.beta? | kl_coef=0.1 algo.beta? | output_dir=x run_dir?
        report_to=wandb tracker? | num_train_epochs=2 epochs? | max_steps=9 steps? | save_steps=9 checkpoint.every?
        eval_steps=9 evaluation.every? | bf16=true learner.precision=bfloat16? | gradient_accumulation_steps=4 updates?
        temperature=1 sampling.temperature? | tensor_parallel_size=2 rollout.tensor_parallel (with rollout=vllm)?
        gpu_memory_utilization=0.5 rollout.memory (with rollout=vllm)? | dataset=gsm8k questions=gsm8k
        path=x questions.path (with questions=file)? | logging_steps=9 every step is | device=cuda CUDA_VISIBLE_DEVICES
        gpus=2 torchrun | loss_type=dr_grpo algo=drgrpo? | lora_r=8 learner.lora.rank (with learner=lora)?
        +reward.term.mine=a.f reward.terms.mine? | actor_rollout_ref.actor.optim.lr=1 mean optimizer.lr?
        data.train_batch_size=8 prompts? | trainer.logger=wandb tracker? | custom_reward_function.path=x reward?
        algorithm.gamma=1 algo.estimator.gamma (with algo=ppo)? | actor_rollout_ref.model.path=x mean model.path?
        samplng.temperature=1 mean sampling.temperature? | tracker.url=x mean tracker.uri? | algo.betas=1 mean algo.beta?
        stepz=9 mean steps? | step=9 mean steps? | out=x run_dir? | sync_ref_model=true algo.beta? | n=8 group_size
        log_every=1 every step is | load_in_4bit=true --help lists all | foo=1 --help lists all
        """,
    "evaluate": """
        num_generations=8 mean n? | max_new_tokens=9 sampling.max_tokens? | lr=1 zero.train has optimizer.lr
        algo.beta=1 zero.train has it | output_dir=x run_dir? | optimizer.lr=1 zero.train has it
        """,
    "pretrain": """
        lr=1 optimizer.lr? | max_grad_norm=1 mean optimizer.clip? | num_epochs=2 corpus.epochs (with corpus=text)?
        output_dir=x mean out? | steps=9 corpus.tokens | batch_size=8 sequences? | n=8 zero.train has group_size
        """,
}


@pytest.mark.parametrize("name", WORDS)
def test_a_name_of_another_library_gets_ours_as_the_suggestion(name: str) -> None:
    base = defaults(name)
    for entry in WORDS[name].replace("\n", "|").split("|"):
        typed, _, suggestion = entry.strip().partition(" ")
        if typed:
            key, _, value = typed.partition("=")
            answer = no_such(name, key.lstrip("+"), value, base)
            assert suggestion in answer and "\n" not in answer, (typed, answer)


def test_every_target_of_the_table_exists_under_the_choice_that_it_names() -> None:
    extra = {"train": ["learner=lora", "algo=ppo", "questions=hub", "rollout=vllm", "template=chat"]}
    known: set[str] = set()
    for name in ROOTS:
        for choices in ([], extra.get(name, []), ["rollout=vllm_server"] if name == "train" else ["corpus=text"]):
            if "corpus=text" in choices and name != "pretrain":
                continue
            settings = flatten(defaults(name, choices))
            known |= {*settings, *section_names(list(settings)), *groups_of(name)}
    for word, targets in TARGETS.items():
        for target in targets:
            key, equals, value = target.partition("=")
            assert key in known, (word, target)
            assert not equals or value in options_of(key) or key in ("learner.precision", "dtype", "algo.kl_in"), target
    assert not REMARKS.keys() & TARGETS.keys()
    for choice in NEEDS.values():
        group, _, option = choice.partition("=")
        assert option in options_of(group)
