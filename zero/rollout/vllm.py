"""The vLLM engine, in the learner's process.

Each (prompt, sample) is a request of its own, seeded by a hash of the prompt's key and the sample: but for rounding, a completion
does not depend on what else is asked for. Nothing is read from disk but config and tokenizer, from a folder written here.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from itertools import chain
from logging import ERROR, getLogger
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from zero.errors import InputError
from zero.models.vocabulary import write_model
from zero.paths import pip_install
from zero.records import Completion, Prompt, Sampling
from zero.rollout import refuse_infinite
from zero.runtime import has_bfloat16

COLDEST = 0.01  # vLLM raises a temperature below this one to it
BLOCK = 32  # tokens that share a prefix at the least, on a CPU: vLLM's own 128 are more than most prompts have
GIB = 2**30
LEFT_ALONE = ("LD_PRELOAD", "LD_LIBRARY_PATH", "LOCAL_WORLD_SIZE")  # vLLM or its imports change them

Ask = tuple[list[Prompt], int, Sampling]  # the arguments of `generate`


class VllmEngine:
    """A RolloutEngine around vllm.LLM.

    config, tokenizer, context, dtype, device    as for any engine; `config` is a PretrainedConfig
    max_rows          requests decoded at once
    batched_tokens    tokens of one forward pass at most, prompts included
    memory            share of the GPU's memory that vLLM may use
    cache_gib         key-value cache on a CPU, in GiB
    tensor_parallel   consecutive ranks that form one engine; each has its prompts, together they generate all of them
    prefix_caching    whether the samples of a prompt share its keys and values
    eager             no CUDA graphs, no compilation
    sleep             free the GPU's memory outside `awake`; on a CPU it does nothing
    precision         float32, bfloat16, or auto: bfloat16 on a GPU that has it; None: dtype's; staleness: see RolloutEngine
    """

    apart = False

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        context: int,
        dtype: torch.dtype,
        device: torch.device,
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
        self.tokenizer, self.context, self.staleness, self.version = tokenizer, context, staleness, -1
        precision = ("bfloat16" if has_bfloat16(device) else "float32") if precision == "auto" else precision
        self.dtype = getattr(torch, precision) if precision else dtype
        self.ranks = engine_ranks(tensor_parallel, device)
        self.sleeps = sleep and device.type == "cuda"
        self.asleep, self.dropped = set[str](), False  # dropped: the weights are lost until the next sync
        self.folder = TemporaryDirectory(prefix="vllm-model-")
        write_model(Path(self.folder.name), config, tokenizer)
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
            generation_config="vllm",  # sampling is the caller's alone
            logprobs_mode="processed_logprobs",
            worker_extension_cls="zero.rollout.vllm_worker.WeightReceiver",
        )
        if device.type == "cpu":
            # a prompt cut in two crashes a request with a seed ("CPU Generator does not use offset")
            settings |= dict(kv_cache_memory_bytes=int(cache_gib * GIB), block_size=BLOCK, enable_chunked_prefill=False)
        else:
            settings |= dict(gpu_memory_utilization=memory, enable_sleep_mode=self.sleeps)
        if self.ranks.world > 1:
            settings["distributed_executor_backend"] = "external_launcher"
            os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
        self.llm = start(settings, device)
        self.loose = list[str](self.llm.collective_rpc("loose_tensors")[0])  # a sleep of level 2 loses them
        self.go_to_sleep(keep=False)

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self._wake("weights")
        with undisturbed():
            self.llm.collective_rpc("take_over", args=(weights,))
            if not self.llm.reset_prefix_cache():
                raise RuntimeError("vLLM keeps keys and values of the old weights: a request still runs")
        self.version, self.dropped = version, False

    @contextmanager
    def awake(self, last: bool = False) -> Iterator[None]:
        if self.dropped:
            raise RuntimeError("vLLM has dropped its weights: sync before awake()")
        self._wake("weights", "kv_cache")
        try:
            yield
        finally:
            self.go_to_sleep(keep=not last)

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        asks, place = self.ranks.gathered((list(prompts), n, sampling))
        if not any(asked for asked, *_ in asks):
            return []
        if self.asleep:
            raise RuntimeError("vLLM sleeps: generate inside awake()")
        requests = [_requests(*ask, self.context) for ask in asks]
        texts, parameters = zip(*chain(*requests), strict=True)
        with undisturbed():
            outputs = self.llm.generate(texts, parameters, use_tqdm=False)
        start = sum(map(len, requests[:place]))
        own_outputs = [output.outputs[0] for output in outputs[start : start + len(requests[place])]]
        drawn = [_drawn(output, prompts[i // n]) for i, output in enumerate(own_outputs)]
        completions = completions_of(self.tokenizer, drawn, sampling, self.version)
        return [completions[i : i + n] for i in range(0, len(completions), n)]

    def _wake(self, *parts: str) -> None:
        if tags := set(parts) & self.asleep:
            self.llm.wake_up(tags=sorted(tags, reverse=True))
            self.asleep -= tags

    def go_to_sleep(self, keep: bool) -> None:
        """Free the GPU's memory; to keep the weights takes as much of the host's, and a copy there and back."""
        if self.sleeps:
            self.dropped = not keep and not self.loose
            self.llm.sleep(level=2 if self.dropped else 1)
            self.asleep = {"weights", "kv_cache"}


class Ranks:
    """The ranks that form one engine: `size` consecutive ones of a world."""

    def __init__(self, size: int, world: int) -> None:
        self.size, self.world = size, world

    def gathered(self, ask: Ask) -> tuple[list[Ask], int]:
        """What each rank of the engine asks for, and this rank's place among them. Every rank of it must come here."""
        if self.size == 1:
            return [ask], 0
        from vllm.distributed.parallel_state import get_tp_group

        group = get_tp_group()
        asks: list[Any] = [None] * self.size
        distributed.all_gather_object(asks, ask, group=group.cpu_group)
        return asks, group.rank_in_group


def engine_ranks(size: int, device: torch.device) -> Ranks:
    """The ranks of an engine of `size` of them. InputError if the world has too few, or they do not divide it."""
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    if size > world or world % size:
        remedy = f"it must divide the number of processes, {world}; start more (torchrun --nproc_per_node) or lower it"
        raise InputError("rollout.tensor_parallel", size, remedy)
    if device.type == "cuda" and size > torch.cuda.device_count():
        remedy = f"this machine has {torch.cuda.device_count()} GPUs; an engine must fit into one machine"
        raise InputError("rollout.tensor_parallel", size, remedy)
    return Ranks(size, world)


def start(settings: dict[str, Any], device: torch.device) -> Any:
    """vllm.LLM with these settings. What it changes for the whole process is put back. InputError if vLLM is missing, or
    refuses the model or the settings."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    getLogger("torch._library.triton").setLevel(ERROR)  # says at every start that a CPU has no triton
    environment = {key: os.environ.get(key) for key in LEFT_ALONE}
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    try:
        with warnings.catch_warnings(), undisturbed():
            warnings.simplefilter("ignore", FutureWarning)
            from vllm import LLM

            llm = LLM(**settings)
            # when an engine is collected, vLLM ends the process groups of the whole process, the learner's among them
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
    """The line of a (pydantic) error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("Value error, ")), [*lines, type(error).__name__][0])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put back the random states of the process, which vLLM reseeds and draws from, and the default dtype. On a CPU nothing is
    compiled inside: the first token would wait for a C++ compiler for half a minute."""
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
    """63 bits that belong to a sample of a prompt, the same on every machine."""
    name = ",".join(map(str, key)) + f";{sample}"
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def rooms_of(prompts: Sequence[Prompt], sampling: Sampling, context: int) -> list[int]:
    """The most tokens that each prompt's completions may have. InputError if one has none."""
    longest = max((len(prompt.ids) for prompt in prompts), default=0)
    if longest >= context:
        remedy = f"a prompt of {longest} tokens leaves no room for an answer; drop that question"
        raise InputError("model.context", context, remedy)
    return [min(sampling.max_tokens, context - len(prompt.ids)) for prompt in prompts]


Drawn = tuple[list[int], list[float], bool]  # ids, log-probabilities, whether something else than the budget ended it


def completions_of(tokenizer: Any, drawn: Sequence[Drawn], sampling: Sampling, version: int) -> list[Completion]:
    """What a server of tokens returned, as completions. A stop string ends a response with the token that completes it.
    An incremental detokenizer finds one late if it holds back half a character behind it; so ids after it are cut here.
    """

    def text(ids: Sequence[int]) -> str:
        spoken = ids[:-1] if ids and ids[-1] in sampling.stop_ids else ids
        return tokenizer.decode(spoken, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def stopped(ids: Sequence[int]) -> bool:
        end = text(ids)
        return any(stop in end for stop in sampling.stop)

    completions = []
    for ids, logprobs, ended in drawn:
        refuse_infinite(logprobs, version)
        if sampling.stop and stopped(ids):
            early = stopped(ids[:-1])  # text and ids are looked at apart: the text may have ended before its last id
            end = next(size for size in range(1, len(ids) + 1) if stopped(ids[:size])) if early else len(ids)
            ids, logprobs, ended = ids[:end], logprobs[:end], True
        done = ended or ids[-1] in sampling.stop_ids
        completions.append(Completion(tuple(ids), tuple(logprobs), text(ids), done, version=version))
    return completions


def _requests(prompts: Sequence[Prompt], n: int, sampling: Sampling, context: int) -> list[tuple[dict[str, Any], Any]]:
    """What vLLM is asked: the n samples of the first prompt, of the second, and so on."""
    from vllm import SamplingParams

    if 0 < sampling.temperature < COLDEST:
        raise InputError("sampling.temperature", sampling.temperature, f"vLLM wants 0 (greedy) or at least {COLDEST}")
    return [
        (
            {"prompt_token_ids": list(prompt.ids)},
            SamplingParams(**parameters(sampling, room, seed_of(prompt.key, sample))),
        )
        for prompt, room in zip(prompts, rooms_of(prompts, sampling, context), strict=True)
        for sample in range(n)
    ]


def parameters(sampling: Sampling, room: int, seed: int) -> dict[str, Any]:
    """vLLM's SamplingParams of one request."""
    return {
        "n": 1,
        "max_tokens": room,
        "seed": seed,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_ids),
        "ignore_eos": True,  # which ids end a response is the caller's to say
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "detokenize": bool(sampling.stop),
        "logprobs": 0,  # of the drawn token alone
    }


def _drawn(output: Any, prompt: Prompt) -> Drawn:
    """One of vLLM's completions. RuntimeError if vLLM gave it up."""
    if output.finish_reason not in ("stop", "length") or not output.token_ids:
        raise RuntimeError(f"vLLM ended the response to prompt {prompt.key} as {output.finish_reason!r}")
    ids = list(output.token_ids)
    logprobs = [at[token].logprob for at, token in zip(output.logprobs, ids, strict=True)]
    return ids, logprobs, output.finish_reason == "stop"
