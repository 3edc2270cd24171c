"""A vLLM server on devices of its own, started by `python -m launch.serve`. It takes token ids, returns token ids with
log-probabilities, and gets the learner's weights after every step.

Each (prompt, sample) is a request of its own, with the seed that the in-process engine would give it. The server returns the
name of the weights with every token; a completion that other weights than this engine's last ones made is an error, so
that a restarted server, or one that another run sends its weights to, is noticed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from zero.distributed import World
from zero.errors import InputError
from zero.models.vocabulary import vocabulary_size
from zero.records import Completion, Prompt, Sampling
from zero.rollout import ModelSpec
from zero.rollout.http import CONNECT_SECONDS, Client, HttpError, RetryPolicy, ServerError, address, in_parallel
from zero.rollout.vllm import MIN_TEMPERATURE, Sample, completion_of, parameters, samplings, seed_of
from zero.rollout.weight_sync import Server, WeightSender, model_fields

# Repeating a request does not change its completion
RETRY = RetryPolicy(pauses=(0.5, 1.0), statuses=frozenset({429, 502, 503, 504}), silence=False)
GENERATE = "/inference/v1/generate"
# A text on which two tokenizers rarely agree
TOKENIZER_CHECK = "What is 7 x (1.5 + 2/3)? \\boxed{8}\n\tSo: <think> caf\u00e9 \u4e2d </think>"
REMEDY = "start it with python -m launch.serve MODEL"


class ServerEngine:
    """A RolloutEngine over HTTP.

    url           of the server, or its endpoint file
    transport     of weights: file or group, see zero.rollout.weight_sync
    folder        for transport=file: one that the server sees too
    timeout       seconds without any answer after which the server counts as dead
    concurrency   requests at once of this rank
    staleness     1: a step's samples are generated during the previous step's update
    """

    own_devices, sees = True, False

    def __init__(
        self,
        spec: ModelSpec,
        url: str,
        transport: str,
        folder: str,
        timeout: float,
        concurrency: int,
        staleness: int = 0,
    ) -> None:
        self.config, self.tokenizer, self.context, self.staleness = spec.config, spec.tokenizer, spec.context, staleness
        self.timeout, self.concurrency, self.world = timeout, concurrency, World.join()
        self.client = Client(address(url), timeout, concurrency + 2)
        self.sender = WeightSender(self.client, transport, folder, spec.device, timeout)
        self.server: Server | None = None  # set by rank 0's first sync
        self.version, self.label = -1, ""  # of the weights, and their name at the server
        self._running, self._lock = "", threading.Lock()

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Rank 0 sends; all ranks iterate over the weights, which may be collective, and return once the server has them.

        RuntimeError while `generate` runs: completions would mix two versions.
        """
        with self._exclusive("sync"):
            self.version, self.label = -1, ""  # until the sync has succeeded
            stream, label, failure = iter(weights), f"{uuid4().hex}/{version}", None
            if self.world.is_main:
                try:
                    self.server = self.server or self._describe_server()
                    self.sender.send(stream, self.server)
                    self._label_weights(label)
                except Exception as error:
                    failure = error
            for _ in stream:  # after a failure too: the other ranks take part in each weight
                pass
            self.label = self._label_of_rank_0(label, failure)
            self.version = version

    @property
    def dtype(self) -> torch.dtype | None:
        return self.server.dtype if self.server else None

    @contextmanager
    def awake(self, last: bool = False) -> Iterator[None]:
        yield

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        """May run in another thread while the learner updates, but not during `sync`."""
        if not prompts:
            return []
        if 0 < sampling.temperature < MIN_TEMPERATURE:
            raise InputError(
                "sampling.temperature", sampling.temperature, f"vLLM wants 0 or at least {MIN_TEMPERATURE}"
            )
        with self._exclusive("generate"):
            if self.version < 0:
                raise RuntimeError("the server has no weights of this run: sync comes first")
            version, label = self.version, self.label
            bodies = [
                {"token_ids": list(prompt.ids), "sampling_params": parameters(own, seed_of(prompt.key, i))}
                for prompt, own in zip(prompts, samplings(prompts, sampling, self.context), strict=True)
                for i in range(n)
            ]
            samples = in_parallel(
                lambda body: self._sample(self._post(body), body, label),
                bodies,
                self.concurrency,
                limit=self.timeout + 2 * CONNECT_SECONDS,
                silence=lambda: ServerError(self.client.url, "says nothing"),
            )
        completions = [
            completion_of(self.tokenizer, sample, prompts[i // n].sampling(sampling), version)
            for i, sample in enumerate(samples)
        ]
        return [completions[i : i + n] for i in range(0, len(completions), n)]

    def _post(self, body: dict[str, Any]) -> Any:
        try:
            return self.client.post(GENERATE, body, RETRY)
        except HttpError as error:
            raise ServerError(self.client.url, str(error)) from None

    def _sample(self, answer: Any, body: dict[str, Any], label: str) -> Sample:
        """The sample in an answer. ServerError if there is none, if it was aborted, or if other weights made it."""
        try:
            choice = answer["choices"][0]
            ids, reason = list(choice["token_ids"]), choice["finish_reason"]
            logprobs = [float(at["logprob"]) for at in choice["logprobs"]["content"]]
            made_by = [span["version"] for span in choice["weight_versions"]]
            details = (answer.get("usage") or {}).get("prompt_tokens_details") or {"cached_tokens": -1}
            cached = int(details["cached_tokens"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(self.client.url, f"its answer lacks {error}") from None
        limit = body["sampling_params"]["max_tokens"]
        if reason not in ("stop", "length") or len(ids) != len(logprobs) or not 0 < len(ids) <= limit:
            problem = f"ended a response as {reason!r} with {len(ids)} tokens of at most {limit}, {len(logprobs)} of them known"
            raise ServerError(self.client.url, problem)
        if made_by != [label]:
            cause = "other weights: it was started again, or another run sends its own"
            raise ServerError(self.client.url, f"answered with {cause} ({made_by[:3]}, not {label})")
        return Sample(ids, logprobs, reason == "stop", cached)

    def _describe_server(self) -> Server:
        """The server's model and settings, after one trial request. InputError if this engine cannot use it."""
        url = self.client.url
        try:
            results = self.client.post("/collective_rpc", {"method": "describe_model"}, RETRY)["results"]
            model = results[0]
            server = Server(
                config=model["config"],
                context=model["context"],
                dtype=getattr(torch, model["dtype"]),
                device=model["device"],
                logprobs=model["logprobs"],
                workers=len(results),
            )
            tokenize = {"prompt": TOKENIZER_CHECK, "add_special_tokens": False}
            server_ids = self.client.post("/tokenize", tokenize, RETRY)["tokens"]
            first = self.tokenizer.encode(TOKENIZER_CHECK, add_special_tokens=False)[:1]
            request = {"token_ids": first, "sampling_params": parameters(Sampling(1), 0)}
            label = self.client.get("/weight_info", RETRY)["weight_version"]
            self._sample(self.client.post(GENERATE, request, RETRY), request, label)
        except ServerError as error:
            raise InputError("rollout.url", url, f"{error.what}; {REMEDY}") from error
        except (HttpError, LookupError, TypeError, AttributeError) as error:
            remedy = f"it is not a server that takes weights ({str(error)[:120]}); {REMEDY}"
            raise InputError("rollout.url", url, remedy) from error
        self._refuse_other_models(server, server_ids)
        return server

    def _refuse_other_models(self, server: Server, server_ids: Any) -> None:
        """InputError if the server's model is not the learner's. `server_ids`: TOKENIZER_CHECK by its tokenizer."""
        own_fields = model_fields(self.config) | {"vocab_size": vocabulary_size(self.tokenizer, self.config)}
        for key in sorted(own_fields.keys() & server.config.keys()):
            if own_fields[key] != server.config[key]:
                difference = f"serves another model: {key} is {server.config[key]} there and {own_fields[key]} here"
                raise InputError("rollout.url", self.client.url, f"{difference}; start it with this run's model")
        if server_ids != self.tokenizer.encode(TOKENIZER_CHECK, add_special_tokens=False):
            remedy = "serves a model with another tokenizer; start it with this run's model"
            raise InputError("rollout.url", self.client.url, remedy)
        if server.context < self.context:
            remedy = f"serves {server.context} tokens at most; set model.context to that, or start it with --context {self.context}"
            raise InputError("model.context", self.context, remedy)
        if "processed" not in server.logprobs:
            remedy = f"reports log-probabilities before temperature; {REMEDY}"
            raise InputError("rollout.url", self.client.url, remedy)

    def _label_weights(self, label: str) -> None:
        """Name the server's new weights, and drop its prefix cache of the old ones."""
        try:
            if not self.client.post("/reset_prefix_cache", None)["success"]:
                raise ServerError(self.client.url, "keeps its prefix cache: someone else has requests running there")
            self.client.post("/update_weight_version", {"new_version": label})
        except HttpError as error:
            raise ServerError(self.client.url, str(error)) from None

    def _label_of_rank_0(self, label: str, failure: Exception | None) -> str:
        """Rank 0's label, on every rank; raises rank 0's failure on every rank."""
        outcome: tuple[Any, ...] = ("label", label)
        if isinstance(failure, InputError):
            outcome = ("input", failure.key, failure.value, failure.remedy)
        elif failure is not None:
            outcome = ("failure", str(failure))
        kind, *details = self.world.all_gather([outcome])[0]
        if failure is not None:
            raise failure
        if kind == "input":
            raise InputError(*details)
        if kind == "failure":
            raise RuntimeError(f"rank 0: {details[0]}")
        return str(details[0])

    @contextmanager
    def _exclusive(self, method: str) -> Iterator[None]:
        with self._lock:
            if self._running:
                raise RuntimeError(f"{method} while {self._running} runs: wait for it to end")
            self._running = method
        try:
            yield
        finally:
            self._running = ""
