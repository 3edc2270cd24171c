"""The vLLM engine, in the learner's process.

Each (prompt, sample) is a request of its own, seeded by a hash of the prompt's key and the sample: but for rounding, a
completion does not depend on the rest of the batch. vLLM reads only config and tokenizer from disk, from a folder written
here.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from hashlib import blake2b
from itertools import chain
from logging import ERROR, getLogger
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed

from zero.errors import InputError
from zero.models.vocabulary import write_model
from zero.paths import pip_install
from zero.records import Completion, Prompt, Sampling
from zero.rollout import ModelSpec, refuse_infinite, vllm_images
from zero.runtime import has_bfloat16

MIN_TEMPERATURE = 0.01  # vLLM raises lower ones to it
BLOCK = 32  # tokens of a cache block on a CPU, the shortest shared prefix: vLLM's 128 are more than most prompts have
GIB = 2**30
RESTORED = ("LD_PRELOAD", "LD_LIBRARY_PATH", "LOCAL_WORLD_SIZE")  # variables that vLLM or its imports change

Request = tuple[list[Prompt], int, Sampling]  # the arguments of `generate`


class VllmEngine:
    """A RolloutEngine around vllm.LLM.

    max_rows          requests decoded at once
    batched_tokens    most tokens of one forward pass, prompts included
    memory            share of the GPU's memory that vLLM may use
    cache_gib         key-value cache on a CPU, in GiB
    tensor_parallel   number of consecutive ranks that form one engine; together they generate for the prompts of each
    prefix_caching    whether the samples of a prompt share its keys and values, and the turns of an episode
    eager             no CUDA graphs, no compilation
    sleep             free the GPU's memory outside `awake`; no effect on a CPU
    precision         float32, bfloat16, or auto: bfloat16 on a GPU that supports it; None: `dtype`
    staleness         see RolloutEngine
    """

    own_devices, sees = False, True

    def __init__(
        self,
        spec: ModelSpec,
        max_rows: int,
        batched_tokens: int,
        memory: float,
        cache_gib: float,
        tensor_parallel: int,
        prefix_caching: bool,
        eager: bool,
        sleep: bool,
        precision: str | None = None,
        staleness: int = 0,
    ) -> None:
        context, device = spec.context, spec.device
        self.tokenizer, self.context, self.staleness, self.version = spec.tokenizer, context, staleness, -1
        self.vision = spec.vision
        precision = ("bfloat16" if has_bfloat16(device) else "float32") if precision == "auto" else precision
        self.dtype = getattr(torch, precision) if precision else spec.dtype
        self.ranks = engine_ranks(tensor_parallel, device)
        self.sleeps = sleep and device.type == "cuda"
        self.asleep, self.dropped = set[str](), False  # dropped: the weights were discarded, until the next sync
        self.folder = TemporaryDirectory(prefix="vllm-model-")
        write_model(Path(self.folder.name), spec.config, spec.tokenizer, spec.vision)
        settings = dict(
            model=self.folder.name,
            load_format="dummy",
            dtype=str(self.dtype).removeprefix("torch."),
            max_model_len=context,
            max_num_seqs=max_rows,
            max_num_batched_tokens=max(batched_tokens, context),
            tensor_parallel_size=tensor_parallel,
            enable_prefix_caching=prefix_caching,
            enforce_eager=eager or device.type == "cpu",
            generation_config="vllm",  # no sampling defaults of the model
            logprobs_mode="processed_logprobs",
            worker_extension_cls="zero.rollout.vllm_worker.WeightReceiver",
        )
        if device.type == "cpu":
            # Chunked prefill crashes a request with a seed ("CPU Generator does not use offset")
            settings |= dict(kv_cache_memory_bytes=int(cache_gib * GIB), block_size=BLOCK, enable_chunked_prefill=False)
        else:
            settings |= dict(gpu_memory_utilization=memory, enable_sleep_mode=self.sleeps)
        if spec.vision:
            settings |= vllm_images.SETTINGS
        if self.ranks.world > 1:
            settings["distributed_executor_backend"] = "external_launcher"
            os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
        self.llm = start(settings, device, sees=spec.vision is not None)
        self.loose = list[str](self.llm.collective_rpc("loose_tensors")[0])  # lost in a sleep of level 2
        self.go_to_sleep(keep_weights=False)

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self._wake("weights")
        with restored_random_state():
            self.llm.collective_rpc("take_over", args=(weights,))
            if not self.llm.reset_prefix_cache():
                raise RuntimeError("vLLM keeps keys and values of the old weights: a request still runs")
            self.llm.llm_engine.reset_encoder_cache()  # of the features of images
        self.version, self.dropped = version, False

    @contextmanager
    def awake(self, last: bool = False) -> Iterator[None]:
        if self.dropped:
            raise RuntimeError("vLLM has dropped its weights: sync before awake()")
        self._wake("weights", "kv_cache")
        try:
            yield
        finally:
            self.go_to_sleep(keep_weights=not last)

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        by_rank, rank = self.ranks.all_gather((list(prompts), n, sampling))
        if not any(prompts_of_rank for prompts_of_rank, *_ in by_rank):
            return []
        if self.asleep:
            raise RuntimeError("vLLM sleeps: generate inside awake()")
        requests = [self._requests(*request) for request in by_rank]
        with restored_random_state():
            outputs = vllm_images.run(self.llm, list(chain(*requests)))
        start = sum(map(len, requests[:rank]))
        outputs_of_rank = outputs[start : start + len(requests[rank])]
        completions = [
            completion_of(self.tokenizer, _sample(output, prompt), prompt.sampling(sampling), self.version)
            for output, prompt in zip(outputs_of_rank, (p for p in prompts for _ in range(n)), strict=True)
        ]
        return [completions[i : i + n] for i in range(0, len(completions), n)]

    def _requests(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[tuple[Any, Any]]:
        """vLLM's requests: n for the first prompt, n for the second, and so on."""
        from vllm import SamplingParams

        if 0 < sampling.temperature < MIN_TEMPERATURE:
            raise InputError(
                "sampling.temperature", sampling.temperature, f"vLLM wants 0 (greedy) or at least {MIN_TEMPERATURE}"
            )
        own = zip(prompts, samplings(prompts, sampling, self.context), strict=True)
        inputs = [(prompt, vllm_images.engine_input(prompt, self.vision, self.dtype), each) for prompt, each in own]
        return [
            (tokens, SamplingParams(**parameters(each, seed_of(prompt.key, sample))))
            for prompt, tokens, each in inputs
            for sample in range(n)
        ]

    def _wake(self, *memory: str) -> None:
        if tags := set(memory) & self.asleep:
            self.llm.wake_up(tags=sorted(tags, reverse=True))
            self.asleep -= tags

    def go_to_sleep(self, keep_weights: bool) -> None:
        """Free the GPU's memory. Keeping the weights takes as much host memory, and a copy there and back."""
        if self.sleeps:
            self.dropped = not keep_weights and not self.loose
            self.llm.sleep(level=2 if self.dropped else 1)
            self.asleep = {"weights", "kv_cache"}


class Ranks:
    """The ranks that form one engine: `size` consecutive ones of `world`."""

    def __init__(self, size: int, world: int) -> None:
        self.size, self.world = size, world

    def all_gather(self, request: Request) -> tuple[list[Request], int]:
        """The requests of all ranks of the engine, and this rank's number among them. Called by every rank of the engine."""
        if self.size == 1:
            return [request], 0
        from vllm.distributed.parallel_state import get_tp_group

        group = get_tp_group()
        requests: list[Any] = [None] * self.size
        distributed.all_gather_object(requests, request, group=group.cpu_group)
        return requests, group.rank_in_group


def engine_ranks(size: int, device: torch.device) -> Ranks:
    """The ranks of an engine of `size` ranks. InputError if the world has too few, or is no multiple of `size`."""
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    if size > world or world % size:
        remedy = f"it must divide the number of processes, {world}; start more (torchrun --nproc_per_node) or lower it"
        raise InputError("rollout.tensor_parallel", size, remedy)
    if device.type == "cuda" and size > torch.cuda.device_count():
        remedy = f"this machine has {torch.cuda.device_count()} GPUs; an engine must fit into one machine"
        raise InputError("rollout.tensor_parallel", size, remedy)
    return Ranks(size, world)


def start(settings: dict[str, Any], device: torch.device, sees: bool = False) -> Any:
    """vllm.LLM with these settings. Restores what it changes for the whole process. InputError if vLLM is missing, or refuses
    the model or the settings."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    getLogger("torch._library.triton").setLevel(ERROR)  # warns at every start that a CPU has no triton
    environment = {key: os.environ.get(key) for key in RESTORED}
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    try:
        with warnings.catch_warnings(), restored_random_state():
            warnings.simplefilter("ignore", FutureWarning)
            from vllm import LLM

            if sees:
                vllm_images.register(settings["model"], device)
            llm = LLM(**settings)
            # When an engine is garbage-collected, vLLM destroys all process groups of the process, the learner's among them
            llm.llm_engine.engine_core._finalizer.detach()
            return llm
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        remedy = f"vLLM is not installed; {pip_install('vllm')}"
        raise InputError("rollout", "vllm", remedy) from error
    except ValueError as error:
        raise InputError("rollout", "vllm", f"vLLM refuses the model or the settings: {_reason(error)}") from error
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        for key, value in environment.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def _reason(error: ValueError) -> str:
    """The line of a (pydantic) error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("Value error, ")), [*lines, type(error).__name__][0])


@contextmanager
def restored_random_state() -> Iterator[None]:
    """Restore the random states of the process, which vLLM reseeds and uses, and the default dtype. On a CPU nothing is
    compiled inside: the first token would wait half a minute for a C++ compiler."""
    python, numbers, dtype = random.getstate(), np.random.get_state(), torch.get_default_dtype()
    cuda = torch.cuda.is_available()
    try:
        with (
            torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []),
            nullcontext() if cuda else torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_default_dtype(dtype)


def seed_of(key: Sequence[int], sample: int) -> int:
    """The seed of a sample of a prompt, 63 bits, the same on every machine."""
    name = ",".join(map(str, key)) + f";{sample}"
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def samplings(prompts: Sequence[Prompt], sampling: Sampling, context: int) -> list[Sampling]:
    """How each prompt's completions are drawn, its budget within the context. InputError for a prompt that fills the context."""
    longest = max((len(prompt.ids) for prompt in prompts), default=0)
    if longest >= context:
        remedy = f"a prompt of {longest} tokens leaves no room for an answer; drop that question"
        raise InputError("model.context", context, remedy)
    own = [prompt.sampling(sampling) for prompt in prompts]
    return [
        replace(each, max_tokens=min(each.max_tokens, context - len(prompt.ids)))
        for each, prompt in zip(own, prompts, strict=True)
    ]


class Sample(NamedTuple):
    """What an engine returned for one request."""

    ids: list[int]
    logprobs: list[float]
    ended: bool  # before the budget
    cached: int = -1  # tokens of the prompt that were in the prefix cache; -1: unknown


def completion_of(tokenizer: Any, sample: Sample, sampling: Sampling, version: int) -> Completion:
    """A sample of token ids as a completion. A stop string ends a response with the token that completes it; later ids are cut,
    since an incremental detokenizer that holds back half a character finds the stop string late.
    """
    ids, logprobs, ended, cached = sample

    def text(ids: Sequence[int]) -> str:
        without_stop = ids[:-1] if ids and ids[-1] in sampling.stop_ids else ids
        return tokenizer.decode(without_stop, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def stopped(ids: Sequence[int]) -> bool:
        end = text(ids)
        return any(stop in end for stop in sampling.stop)

    refuse_infinite(logprobs, version)
    if sampling.stop and stopped(ids):
        early = stopped(ids[:-1])
        end = next(size for size in range(1, len(ids) + 1) if stopped(ids[:size])) if early else len(ids)
        ids, logprobs, ended = ids[:end], logprobs[:end], True
    done = ended or ids[-1] in sampling.stop_ids
    return Completion(tuple(ids), tuple(logprobs), text(ids), done, version=version, cached=cached)


def parameters(sampling: Sampling, seed: int) -> dict[str, Any]:
    """vLLM's SamplingParams of one request."""
    return {
        "n": 1,
        "max_tokens": sampling.max_tokens,
        "seed": seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_ids),
        "ignore_eos": True,  # stop_token_ids alone end a response
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "detokenize": bool(sampling.stop),
        "logprobs": 0,  # of the sampled token alone
    }


def _sample(output: Any, prompt: Prompt) -> Sample:
    """The sample in one of vLLM's RequestOutputs. RuntimeError if vLLM aborted it."""
    [sample] = output.outputs
    if sample.finish_reason not in ("stop", "length") or not sample.token_ids:
        raise RuntimeError(f"vLLM ended the response to prompt {prompt.key} as {sample.finish_reason!r}")
    ids = list(sample.token_ids)
    logprobs = [at[token].logprob for at, token in zip(sample.logprobs, ids, strict=True)]
    cached = -1 if output.num_cached_tokens is None else output.num_cached_tokens
    return Sample(ids, logprobs, sample.finish_reason == "stop", cached)
