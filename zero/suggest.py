"""The names that a mistyped or foreign name of a setting may stand for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

MOST = 3  # names that an error proposes
CLOSE = 0.6  # similarity from which a spelling is close

# What other libraries and papers call our settings; of several targets those that the command has are proposed.
ALIASES: dict[str, tuple[str, ...]] = {
    word: tuple(targets.split())
    for targets, words in {
        "questions": "dataset data dataset_name train_dataset train_data task env environment problems prompts_data",
        "questions.path": "data_path dataset_path train_file train_files data_files file",
        "benchmarks": "eval_dataset val_dataset test_dataset eval_data test_data val_files test_set eval_set",
        "benchmarks.limit": "max_eval_samples eval_samples",
        "prompts sequences": "batch_size train_batch_size per_device_train_batch_size rollout_batch_size num_prompts "
        "global_batch_size prompts_per_step batch bs",
        "group_size n": "num_generations n_samples num_samples samples_per_prompt n_samples_per_prompt rollout_n "
        "generations num_return_sequences num_rollouts group num_completions",
        "optim.lr optimizer.matrices.lr": "lr learning_rate actor_lr",
        "optim.weight_decay": "weight_decay wd",
        "optim.warmup warmup": "warmup_steps warmup_ratio lr_warmup_steps num_warmup_steps",
        "optim.schedule": "lr_scheduler lr_scheduler_type scheduler lr_schedule",
        "optim.clip clip": "max_grad_norm grad_clip clip_grad gradient_clipping grad_norm clip_grad_norm",
        "optim.betas": "adam_betas adam_beta1 adam_beta2 adam_beta",
        "optim optimizer": "optimizer optimiser optim",
        "model.path": "model_name model_name_or_path model_path pretrained pretrained_model base_model hf_model policy "
        "actor_model",
        "model.dtype dtype": "torch_dtype model_dtype dtype",
        "model.context length": "max_model_len max_prompt_length context_length max_seq_len max_seq_length block_size",
        "sampling.max_tokens length": "max_length max_new_tokens max_tokens max_completion_length max_response_length "
        "response_length generate_max_len max_gen_len max_len completion_length",
        "sampling.temperature": "temperature temp",
        "sampling.top_p": "top_p",
        "sampling.top_k": "top_k",
        "template.stop": "stop stop_strings stop_sequences stop_words",
        "algo.beta": "beta kl_coef kl_coeff init_kl_coef kl_loss_coef kl_beta kl_weight kl_penalty kl",
        "algo.entropy": "entropy_coef entropy_coeff ent_coef entropy_bonus entropy_loss_coef",
        "algo.surrogate.low algo.surrogate.high": "epsilon eps clip_range cliprange clip_eps clip_ratio clip_epsilon "
        "eps_clip cliprange_low clip_ratio_low epsilon_low",
        "algo.surrogate.high": "epsilon_high clip_ratio_high cliprange_high clip_high",
        "algo": "algorithm loss_type loss advantage_estimator adv_estimator method trainer objective",
        "algo.credit.gamma": "gamma discount",
        "algo.credit.lam": "lam lambda gae_lambda lmbda",
        "updates": "mini_batch_size ppo_mini_batch_size gradient_accumulation_steps num_minibatches grad_accum "
        "num_mini_batches",
        "learner.micro_tokens micro_sequences": "micro_batch_size micro_train_batch_size ppo_micro_batch_size "
        "micro_batch ppo_max_token_len_per_gpu max_tokens_per_batch",
        "epochs corpus.epochs": "num_epochs ppo_epochs num_iterations num_ppo_epochs mu max_epochs num_train_epochs "
        "total_epochs inner_epochs",
        "steps": "max_steps num_steps total_steps train_steps iterations num_train_steps training_steps "
        "total_training_steps n_steps total_episodes",
        "rollout": "engine backend sampler inference use_vllm vllm generator rollout_engine",
        "rollout.tensor_parallel": "tensor_parallel_size tp tp_size vllm_tensor_parallel_size",
        "rollout.memory": "gpu_memory_utilization vllm_gpu_memory_utilization",
        "learner": "use_peft peft lora use_lora strategy deepspeed fsdp",
        "learner.lora.rank": "lora_rank lora_r peft_r",
        "learner.lora.alpha": "lora_alpha peft_alpha",
        "learner.gradient_checkpointing": "gradient_checkpointing activation_checkpointing",
        "learner.precision": "precision bf16 fp16 mixed_precision",
        "template": "prompt_template chat_template prompt prompt_type apply_chat_template prompt_style",
        "template.system": "system_prompt system",
        "reward": "reward_fn reward_func reward_funcs reward_function verifier grader scorer rewards reward_model",
        "run_dir out": "output_dir save_dir exp_dir out_dir log_dir ckpt_dir save_path output logdir workdir outdir",
        "resume_with": "resume_from_checkpoint resume_from auto_resume resume_mode",
        "name": "run_name exp_name experiment_name wandb_name",
        "evaluation.every": "eval_steps eval_every eval_interval test_freq eval_freq eval_strategy",
        "checkpoint.every": "save_steps save_freq save_every save_interval checkpoint_interval checkpoint_every",
        "checkpoint.keep": "save_total_limit max_ckpt_to_keep keep_checkpoints max_checkpoints",
        "tracker": "logging logger report_to wandb use_wandb mlflow tensorboard log_with",
        "seed": "random_seed rng_seed data_seed",
        "threads": "num_threads num_workers cpus n_threads",
        "tracker.uri": "tracking_uri mlflow_uri mlflow_tracking_uri",
        "corpus": "text_data",
        "corpus.path": "text text_path text_file",
        "model": "model_config",
        "run": "ckpt checkpoint_path run_folder resume load_path checkpoint",
        "hydra/launcher": "launcher",
    }.items()
    for word in words.split()
}


def suggestion(key: str, value: str, known: Sequence[str], groups: Mapping[str, Sequence[str]]) -> str:
    """'; did you mean ...' for a name that is none, or ''. `known`: the settings that there are; `groups`: the options of
    each group, which come first."""
    word = key.strip("+~ ").replace("-", "_").lower()
    last = word.rpartition(".")[2].rpartition("/")[2]
    names = [*groups, *known]
    exists = {*names, *(name.rpartition(".")[0] for name in known)}
    known = [name for name in known if not name.rpartition(".")[2].startswith("_")]
    found = [target for target in ALIASES.get(word, ()) if target in exists]
    holding = [group for group, options in groups.items() if value in options and "/" not in group]
    if "." not in word and not found:
        close = near(word, list(groups))
        found += [group for group in close if group in holding] + close
    if value and len(holding) <= 2:
        found += holding
    found += [target for target in ALIASES.get(last, ()) if target in exists]
    if not found or word not in ALIASES:
        found += _spelled(word, last, known)
    best = list(dict.fromkeys(found))[:MOST]
    shown = [f"{name}={value}" if value in groups.get(name, ()) else name for name in best]
    return f"; did you mean {' or '.join(shown)}?" if shown else ""


def _spelled(word: str, last: str, known: Sequence[str]) -> list[str]:
    """Settings of a close spelling, of the whole name or of its last word."""
    found = difflib.get_close_matches(word, known, n=MOST, cutoff=CLOSE)
    leaves: dict[str, str] = {}
    for name in known:
        leaves.setdefault(
            name.rpartition(".")[2], name
        )  # the first: those of the command itself come before deeper ones
    return found + [leaves[leaf] for leaf in near(last, list(leaves))]


def near(word: str, names: Sequence[str]) -> list[str]:
    """Names of a close spelling, then those that begin with the word or hold it, or that it holds."""
    close = difflib.get_close_matches(word, names, n=MOST, cutoff=CLOSE)
    if len(word) > 2:
        close += sorted(
            (name for name in names if name.startswith(word) or word in name or (len(name) > 3 and name in word)),
            key=len,
        )
    return list(dict.fromkeys(close))[:MOST]


def nearest(word: str, names: Sequence[str]) -> str:
    """'; did you mean ...' among plain names."""
    found = near(word.lower(), names)
    return f"; did you mean {' or '.join(found)}?" if found else ""
