"""A vLLM server on devices of its own, started by `python -m launch.serve`: token ids go there and come back with their
log-probabilities, the learner's weights go there after every step.

Each (prompt, sample) is a request of its own with the seed that the in-process engine would give it. The server writes the name of
the weights beside every token it makes; a completion that was not made by exactly this engine's last weights is an error,
so a server that was started again, or that another run sends its weights to, cannot pass unseen.
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
from zero.rollout.http import CONNECT_SECONDS, Client, HttpError, RetryPolicy, ServerError, address, in_parallel
from zero.rollout.vllm import COLDEST, Drawn, completions_of, parameters, rooms_of, seed_of
from zero.rollout.weight_sync import Exchange, Server, plain

# A completion does not change by being asked for twice. What takes longer than this is no hiccup
AGAIN = RetryPolicy(pauses=(0.5, 1.0), statuses=frozenset({429, 502, 503, 504}), silence=False)
GENERATE = "/inference/v1/generate"
# A text on which two tokenizers rarely agree
TOKENIZER_CHECK = "What is 7 x (1.5 + 2/3)? \\boxed{8}\n\tSo: <think> caf\u00e9 \u4e2d </think>"
REMEDY = "start it with python -m launch.serve MODEL"


class ServerEngine:
    """A RolloutEngine over HTTP.

    config, tokenizer, context, device    as for any engine; `config` is a PretrainedConfig
    url           of the server, or its endpoint file
    transport     how weights get there: file or group, see zero.rollout.weight_sync
    folder        for transport=file: one that the server sees too
    timeout       seconds without any answer after which the server counts as dead
    concurrency   requests at once of this rank
    staleness     1: a step's samples are drawn beside the update ahead of it
    """

    apart = True

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        context: int,
        dtype: torch.dtype,
        device: torch.device,
        url: str,
        transport: str,
        folder: str,
        timeout: float,
        concurrency: int,
        staleness: int = 0,
    ) -> None:
        self.config, self.tokenizer, self.context, self.staleness = config, tokenizer, context, staleness
        self.timeout, self.concurrency, self.world = timeout, concurrency, World.join()
        self.client = Client(address(url), timeout, concurrency + 2)
        self.exchange = Exchange(self.client, transport, folder, device, timeout)
        self.server: Server | None = None  # once rank 0 has looked at it
        self.version, self.label = -1, ""  # of the weights, and their name at the server
        self._doing, self._lock = "", threading.Lock()

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Rank 0 sends; all ranks take part in the making of each weight, and go on once the server has all of them.

        RuntimeError while `generate` runs: a completion would be of two weights.
        """
        with self._alone("sync"):
            self.version, self.label = -1, ""  # until it has worked
            stream, label, fault = iter(weights), f"{uuid4().hex}/{version}", None
            if self.world.is_main:
                try:
                    self.server = self.server or self._looked_at()
                    self.exchange.send(stream, self.server)
                    self._named(label)
                except Exception as error:
                    fault = error
            for _ in stream:  # after a fault, too: the other ranks wait in each
                pass
            self.label = self._agreed(label, fault)
            self.version = version

    @property
    def dtype(self) -> torch.dtype | None:
        return self.server.dtype if self.server else None

    @contextmanager
    def awake(self, last: bool = False) -> Iterator[None]:
        yield

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        """May run in another thread while the learner updates, but not beside `sync`."""
        if not prompts:
            return []
        if 0 < sampling.temperature < COLDEST:
            raise InputError("sampling.temperature", sampling.temperature, f"vLLM wants 0 or at least {COLDEST}")
        with self._alone("generate"):
            if self.version < 0:
                raise RuntimeError("the server has no weights of this run: sync comes first")
            version, label = self.version, self.label
            bodies = [
                {"token_ids": list(prompt.ids), "sampling_params": parameters(sampling, room, seed_of(prompt.key, i))}
                for prompt, room in zip(prompts, rooms_of(prompts, sampling, self.context), strict=True)
                for i in range(n)
            ]
            drawn = in_parallel(
                lambda body: self._drawn(self._asked(body), body, label), bodies, self.concurrency,
                limit=self.timeout + 2 * CONNECT_SECONDS, silence=lambda: ServerError(self.client.url, "says nothing"),
            )  # fmt: skip
        completions = completions_of(self.tokenizer, drawn, sampling, version)
        return [completions[i : i + n] for i in range(0, len(completions), n)]

    def _asked(self, body: dict[str, Any]) -> Any:
        try:
            return self.client.post(GENERATE, body, AGAIN)
        except HttpError as error:
            raise ServerError(self.client.url, str(error)) from None

    def _drawn(self, answer: Any, body: dict[str, Any], label: str) -> Drawn:
        """The completion in an answer. ServerError if it is none, was given up, or is of other weights."""
        try:
            choice = answer["choices"][0]
            ids, reason = list(choice["token_ids"]), choice["finish_reason"]
            logprobs = [float(at["logprob"]) for at in choice["logprobs"]["content"]]
            made_by = [span["version"] for span in choice["weight_versions"]]
        except (LookupError, TypeError, ValueError) as error:
            raise ServerError(self.client.url, f"its answer lacks {error}") from None
        most = body["sampling_params"]["max_tokens"]
        if reason not in ("stop", "length") or len(ids) != len(logprobs) or not 0 < len(ids) <= most:
            problem = f"ended a response as {reason!r} with {len(ids)} tokens of at most {most}, {len(logprobs)} of them known"
            raise ServerError(self.client.url, problem)
        if made_by != [label]:
            what = "other weights: it was started again, or another run sends its own"
            raise ServerError(self.client.url, f"answered with {what} ({made_by[:3]}, not {label})")
        return ids, logprobs, reason == "stop"

    def _looked_at(self) -> Server:
        """What the server says of itself. InputError if this engine cannot use it."""
        url = self.client.url
        try:
            results = self.client.post("/collective_rpc", {"method": "describe_model"}, AGAIN)["results"]
            about = results[0]
            server = Server(about["config"], about["context"], getattr(torch, about["dtype"]), about["device"],
                            about["logprobs"], len(results))  # fmt: skip
            theirs = self.client.post("/tokenize", {"prompt": TOKENIZER_CHECK, "add_special_tokens": False}, AGAIN)[
                "tokens"
            ]
            first = self.tokenizer.encode(TOKENIZER_CHECK, add_special_tokens=False)[:1]
            once = {"token_ids": first, "sampling_params": parameters(Sampling(1), 1, 0)}
            label = self.client.get("/weight_info", AGAIN)["weight_version"]
            self._drawn(self.client.post(GENERATE, once, AGAIN), once, label)
        except ServerError as error:
            raise InputError("rollout.url", url, f"{error.what}; {REMEDY}") from error
        except (HttpError, LookupError, TypeError, AttributeError) as error:
            remedy = f"it is not a server that takes weights ({str(error)[:120]}); {REMEDY}"
            raise InputError("rollout.url", url, remedy) from error
        self._refuse_others(server, theirs)
        return server

    def _refuse_others(self, server: Server, theirs: Any) -> None:
        """InputError if the server's model is not the learner's."""
        ours = plain(self.config) | {"vocab_size": vocabulary_size(self.tokenizer, self.config)}
        for key in sorted(ours.keys() & server.config.keys()):
            if ours[key] != server.config[key]:
                what = f"serves another model: {key} is {server.config[key]} there and {ours[key]} here"
                raise InputError("rollout.url", self.client.url, f"{what}; start it with this run's model")
        if theirs != self.tokenizer.encode(TOKENIZER_CHECK, add_special_tokens=False):
            remedy = "serves a model with another tokenizer; start it with this run's model"
            raise InputError("rollout.url", self.client.url, remedy)
        if server.context < self.context:
            remedy = f"serves {server.context} tokens at most; set model.context to that, or start it with --context {self.context}"
            raise InputError("model.context", self.context, remedy)
        if "processed" not in server.logprobs:
            remedy = f"reports log-probabilities before temperature; {REMEDY}"
            raise InputError("rollout.url", self.client.url, remedy)

    def _named(self, label: str) -> None:
        """Tell the server what its weights are called, and to forget what the old ones made of prompts."""
        try:
            if not self.client.post("/reset_prefix_cache", None)["success"]:
                raise ServerError(self.client.url, "keeps its prefix cache: someone else has requests running there")
            self.client.post("/update_weight_version", {"new_version": label})
        except HttpError as error:
            raise ServerError(self.client.url, str(error)) from None

    def _agreed(self, label: str, fault: Exception | None) -> str:
        """Rank 0's label, on every rank; or its fault."""
        outcome: tuple[Any, ...] = ("label", label)
        if isinstance(fault, InputError):
            outcome = ("input", fault.key, fault.value, fault.remedy)
        elif fault is not None:
            outcome = ("fault", str(fault))
        kind, *details = self.world.all_gather([outcome])[0]
        if fault is not None:
            raise fault
        if kind == "input":
            raise InputError(*details)
        if kind == "fault":
            raise RuntimeError(f"rank 0: {details[0]}")
        return str(details[0])

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        with self._lock:
            if self._doing:
                raise RuntimeError(f"{what} while {self._doing} runs: wait for it to end")
            self._doing = what
        try:
            yield
        finally:
            self._doing = ""
