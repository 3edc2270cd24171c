"""Names of our settings in other libraries and papers: the vocabulary behind "did you mean".

A target is a group, a setting, or a setting with a value; of several targets those that the command has are proposed. Some
words have no setting here: REMARKS says what to do instead.
"""

from __future__ import annotations

from collections.abc import Mapping


def _by_word(table: Mapping[str, str]) -> dict[str, str]:
    return {word: target for target, words in table.items() for word in words.split()}


TARGETS: dict[str, tuple[str, ...]] = {
    word: tuple(targets.split())
    for word, targets in _by_word(
        {
            "questions": "dataset data dataset_name train_dataset train_data task env environment problems prompts_data "
            "data_source datasets prompt_data tasks",
            "questions.path": "data_path dataset_path train_file train_files data_files data_dir dataset_dir",
            "model.path questions.path corpus.path": "path file",
            "questions.split": "split dataset_split dataset_train_split train_split",
            "questions.hub.config": "subset dataset_config dataset_config_name",
            "questions.question": "prompt_key input_key question_column prompt_column question_key input_column",
            "questions.answer": "answer_key label_key answer_column ground_truth target_column solution_key label_column",
            "questions.images": "image_key images_key image_column images_column image",
            "benchmarks": "eval_dataset val_dataset test_dataset eval_data test_data val_files test_set eval_set benchmark "
            "val_file eval_files val_data",
            "benchmarks.limit": "max_eval_samples eval_samples limit num_eval_samples val_max_samples max_samples",
            "questions.limit": "train_max_samples max_train_samples",
            "prompts sequences": "batch_size train_batch_size per_device_train_batch_size rollout_batch_size num_prompts "
            "global_batch_size prompts_per_step batch bs gen_batch_size num_prompts_per_step train_bs",
            "group_size n": "num_generations n_samples num_samples samples_per_prompt n_samples_per_prompt rollout_n "
            "generations num_return_sequences num_rollouts group num_completions rollouts_per_example "
            "num_generations_per_prompt groupsize best_of",
            "group_size evaluation.n": "n",
            "evaluation.n": "val_n eval_n num_generations_eval n_eval",
            "evaluation.temperature": "eval_temperature val_temperature",
            "optimizer.lr": "lr learning_rate actor_lr actor_learning_rate",
            "algo.critic.optimizer.lr": "critic_lr value_lr critic_learning_rate vf_lr value_learning_rate critic.optim.lr",
            "optimizer.weight_decay": "weight_decay wd",
            "optimizer.warmup": "warmup_steps warmup_ratio lr_warmup_steps num_warmup_steps lr_warmup "
            "lr_warmup_ratio lr_warmup_steps_ratio warmup_proportion",
            "optimizer.schedule": "lr_scheduler lr_scheduler_type scheduler lr_schedule warmup_style lr_decay",
            "optimizer.clip": "max_grad_norm grad_clip clip_grad gradient_clipping grad_norm clip_grad_norm "
            "max_norm clip_gradients",
            "optimizer.betas": "betas adam_betas adam_beta1 adam_beta2 adam_beta beta1 beta2",
            "optimizer": "optimiser optim",
            "model.path": "model_name model_name_or_path model_path pretrained pretrained_model base_model hf_model policy "
            "actor_model pretrain pretrained_model_name_or_path actor_model_path model_id policy_model",
            "model.revision": "revision model_revision",
            "model.vision": "freeze_vision_tower freeze_vision_modules freeze_vision vision_tower freeze_vit freeze_visual_encoder",
            "model.dtype dtype": "torch_dtype model_dtype dtype",
            "model.context length": "max_model_len max_prompt_length context_length max_seq_len max_seq_length block_size "
            "prompt_max_len max_position_embeddings seq_len sequence_length seq_length max_context_length prompt_length",
            "sampling.max_tokens length": "max_length max_new_tokens max_tokens max_completion_length max_response_length "
            "response_length generate_max_len max_gen_len max_len completion_length max_output_len max_output_tokens "
            "generate_max_length max_generation_length",
            "sampling.temperature": "temperature temp train_temperature rollout_temperature",
            "sampling.top_p": "top_p",
            "sampling.top_k": "top_k",
            "template.stop": "stop stop_strings stop_sequences stop_words stop_token_ids",
            "algo.beta": "beta kl_coef kl_coeff init_kl_coef kl_loss_coef kl_beta kl_weight kl_penalty kl use_kl_loss "
            "use_kl kl_ctrl ref_model reference_model ref_policy sync_ref_model ref_model_mixup_alpha",
            "algo.kl_in=reward": "use_kl_in_reward kl_in_reward",
            "algo.kl": "kl_estimator kl_loss_type kl_type use_kl_estimator_k3 kl_penalty_type",
            "algo.entropy": "entropy_coef entropy_coeff ent_coef entropy_bonus entropy_loss_coef entropy_weight",
            "algo.surrogate.low algo.surrogate.high": "epsilon eps clip_range cliprange clip_eps clip_ratio clip_epsilon "
            "eps_clip cliprange_low clip_ratio_low epsilon_low eps_clip_low",
            "algo.surrogate.high": "epsilon_high clip_ratio_high cliprange_high clip_high eps_clip_high",
            "algo": "algorithm loss_type loss advantage_estimator adv_estimator method trainer objective loss_agg_mode "
            "algo_name algos rl_algo advantage_mode",
            "algo=drgrpo": "scale_rewards norm_adv_by_std_in_grpo std_normalization normalize_std norm_by_std "
            "normalize_advantage_std use_std length_norm length_normalization",
            "algo.whiten": "whiten whiten_advantages whiten_rewards normalize_advantages norm_adv advantage_normalization",
            "algo.correction": "importance_sampling tis tis_imp_ratio_cap importance_sampling_correction "
            "vllm_importance_sampling_correction vllm_importance_sampling_cap use_tis rollout_is",
            "algo=dapo": "dynamic_sampling filter_groups dynamic_filtering use_dynamic_sampling",
            "algo.mask_truncated": "mask_truncated_completions overlong_filtering filter_overlong mask_truncated",
            "reward=dapo_overlong": "overlong_penalty overlong_buffer soft_overlong_punishment",
            "algo.estimator.gamma": "gamma discount discount_factor",
            "algo.estimator.lam": "lam lambda gae_lambda lmbda",
            "updates": "mini_batch_size ppo_mini_batch_size gradient_accumulation_steps num_minibatches grad_accum "
            "num_mini_batches steps_per_generation minibatch_size",
            "learner.micro_tokens micro_sequences": "micro_batch_size micro_train_batch_size ppo_micro_batch_size "
            "micro_batch ppo_max_token_len_per_gpu max_tokens_per_batch ppo_micro_batch_size_per_gpu micro_bs "
            "micro_rollout_batch_size",
            "epochs corpus.epochs": "num_epochs ppo_epochs num_iterations num_ppo_epochs mu max_epochs num_train_epochs "
            "total_epochs inner_epochs epoch n_epochs epochs",
            "steps corpus.tokens": "max_steps num_steps total_steps train_steps iterations num_train_steps training_steps "
            "total_training_steps n_steps total_episodes iters num_iters max_iters n_iters steps",
            "rollout": "engine backend sampler inference use_vllm vllm generator rollout_engine sglang",
            "rollout=vllm": "vllm_mode colocate",
            "rollout.url": "vllm_server_host vllm_server_base_url vllm_server_port vllm_server server_url host base_url url port",
            "rollout.tensor_parallel": "tensor_parallel_size tp tp_size vllm_tensor_parallel_size "
            "tensor_model_parallel_size tensor_parallel",
            "rollout.memory": "gpu_memory_utilization vllm_gpu_memory_utilization mem_fraction_static gpu_memory",
            "rollout.eager": "enforce_eager",
            "rollout.prefix_caching": "enable_prefix_caching",
            "rollout.sleep": "enable_sleep_mode vllm_enable_sleep sleep_mode free_cache_engine",
            "rollout.max_rows": "max_num_seqs eval_batch_size per_device_eval_batch_size val_batch_size",
            "rollout.batched_tokens": "max_num_batched_tokens",
            "rollout.staleness": "staleness async async_training max_off_policy async_level max_async_level async_steps",
            "learner": "strategy fsdp training_backend zero_stage",
            "learner=lora": "use_peft peft lora use_lora peft_config qlora",
            "learner=deepspeed": "deepspeed zero",
            "learner.lora.rank": "lora_rank lora_r peft_r lora_dim",
            "learner.lora.alpha": "lora_alpha peft_alpha",
            "learner.lora.targets": "lora_target_modules target_modules lora_targets",
            "learner.gradient_checkpointing": "gradient_checkpointing activation_checkpointing "
            "enable_gradient_checkpointing grad_checkpointing",
            "learner.precision dtype": "precision mixed_precision",
            "learner.precision=bfloat16 dtype=bfloat16": "bf16 amp autocast",
            "learner.precision": "fp16",
            "learner.reference_offload": "param_offload ref_offload offload cpu_offload",
            "algo.critic": "value_model value_function critic_model",
            "template": "prompt_template chat_template prompt prompt_type apply_chat_template prompt_style prompt_format",
            "template.system": "system_prompt system system_message",
            "reward": "reward_fn reward_func reward_funcs reward_function verifier grader scorer rewards reward_model "
            "rm custom_reward_function rubric reward_manager",
            "reward.terms": "reward_weights reward_parts format_reward format_weight accuracy_reward",
            "run_dir out": "output_dir save_dir exp_dir out_dir log_dir ckpt_dir save_path output logdir workdir outdir "
            "logging_dir default_local_dir checkpoint_dir results_dir dir folder work_dir default_root_dir local_dir out",
            "resume_with": "resume_from_checkpoint resume_from auto_resume resume_mode",
            "name": "run_name exp_name experiment_name wandb_name wandb_run_name job_name run_id",
            "evaluation.every": "eval_steps eval_every eval_interval test_freq eval_freq eval_strategy test_every "
            "evaluation_strategy val_freq val_check_interval eval_step validation_interval",
            "checkpoint.every": "save_steps save_freq save_every save_interval checkpoint_interval checkpoint_every "
            "save_strategy checkpoint_steps ckpt_every ckpt_freq",
            "checkpoint.keep": "save_total_limit max_ckpt_to_keep keep_checkpoints max_checkpoints keep "
            "max_actor_ckpt_to_keep",
            "samples.every": "log_completions save_samples log_samples",
            "samples.groups": "num_completions_to_print log_val_generations",
            "tracker": "logging logger report_to wandb use_wandb mlflow tensorboard log_with tracking loggers",
            "tracker.experiment": "wandb_project project project_name wandb_group mlflow_experiment",
            "seed": "random_seed rng_seed data_seed",
            "threads": "num_threads num_workers cpus n_threads num_cpus omp_num_threads",
            "tracker.uri": "tracking_uri mlflow_uri mlflow_tracking_uri",
            "corpus": "text_data",
            "corpus.path": "text text_path text_file",
            "model": "model_config",
            "run": "ckpt checkpoint_path run_folder resume load_path checkpoint",
            "hydra/launcher": "launcher",
        }
    ).items()
}

# Words without a setting here, with what to do instead
REMARKS = _by_word(
    {
        "a GPU is taken if there is one; CUDA_VISIBLE_DEVICES says which, and an empty one hides them all": "device cuda "
        "gpu cpu use_cpu no_cuda mps device_map gpu_ids gpu_id visible_devices devices accelerator use_cuda cuda_devices "
        "use_gpu",
        "torchrun --standalone --nproc_per_node=N -m ... starts N processes": "world_size nnodes n_gpus gpus num_gpus "
        "num_processes nproc_per_node n_gpus_per_node num_nodes n_nodes ngpus gpus_per_node num_gpus_per_node",
        "every step is in metrics.jsonl": "logging_steps log_every logging_strategy log_interval log_freq log_steps "
        "logging_first_step log_every_n_steps logging_interval",
        "the run's folder model/ is what `hf upload` takes": "push_to_hub hub_model_id",
        "no code of a repository is ever run": "trust_remote_code",
        "accuracy before the first step is always measured; benchmarks.limit=N makes that short": "val_before_train "
        "eval_on_start eval_before_train",
        "HF_HOME says where the hub's files are kept": "cache_dir hf_home hf_cache model_cache_dir",
    }
)

# The option that must be chosen for a setting, or for settings with a prefix, to exist
NEEDS = {
    "questions.path": "questions=file",
    "questions.split": "questions=file",
    "questions.question": "questions=file",
    "questions.answer": "questions=file",
    "questions.images": "questions=file",
    "questions.limit": "questions=file",
    "questions.hub.": "questions=hub",
    "rollout.url": "rollout=vllm_server",
    "rollout.": "rollout=vllm",
    "learner.lora.": "learner=lora",
    "algo.estimator.": "algo=ppo",
    "algo.critic.": "algo=ppo",
    "template.system": "template=chat",
    "corpus.": "corpus=text",
}

# The same for settings of launchers (hydra.launcher.KEY), as sbatch, submitit, joblib and others call them
LAUNCHER: dict[str, tuple[str, ...]] = {
    word: tuple(targets.split())
    for word, targets in _by_word(
        {
            "timeout_min": "time t time_min time_limit timelimit timeout walltime max_time hours minutes",
            "mem_gb": "mem memory ram mem_per_node mem_per_cpu mem_per_gpu memory_gb gb",
            "cpus_per_task": "cpus c cpu ncpus num_cpus cpus_per_gpu cores threads cpus_per_node",
            "gpus_per_node devices": "gpus g gpu ngpus num_gpus gres gpus_per_task n_gpus gpus_per_job devices "
            "gpus_per_node cuda_visible_devices",
            "tasks_per_node": "ntasks n tasks ntasks_per_node num_tasks ntasks_per_gpu ranks world_size",
            "nodes": "nnodes num_nodes n_nodes min_nodes nodes_per_job",
            "partition": "p queue partitions",
            "account": "a project bank allocation",
            "qos": "q priority quality_of_service",
            "constraint": "constraints features feature prefer",
            "nodelist": "w hosts hostlist node",
            "exclude": "x bad_nodes",
            "array_parallelism at_once": "array at_once max_parallel max_concurrent n_jobs jobs max_jobs max_workers "
            "parallel concurrency array_parallelism",
            "most_queued": "max_queued max_submit queue_size",
            "signal_delay_s": "signal signal_delay grace grace_time",
            "setup": "modules module conda env_setup init prolog pre_run setup_commands env",
            "srun_args": "container container_image srun",
            "requeues": "requeue retries max_requeue max_num_timeout max_requeues restarts",
            "additional_parameters": "sbatch sbatch_args extra extra_args slurm_additional_parameters",
            "folder": "submitit_folder output log_dir chdir",
            "name": "job_name j",
            "python": "interpreter executable slurm_python",
        }
    ).items()
}
