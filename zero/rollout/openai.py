"""Any server with OpenAI's /v1/completions API, for evaluation and analysis: it cannot take weights in training.

The prompt is sent as the template's text, and the answer is text; its ids are our tokenizer's. What such servers do not
report is guessed:

- They cut off the stop string that ended a response, and seldom say which. It is put back if the server names it
  (vLLM's `stop_reason`), or else if there is only one, so a response that ended with EOS gets it as well. With several
  stop strings and no `stop_reason` the text stays cut.
- A response that finished without a stop string is taken to end with the first of the model's stop tokens.
- A seed makes samples repeatable only if the server honours it.

vLLM's own server (`python -m launch.serve`) takes and returns token ids, so none of this applies to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from zero.errors import InputError
from zero.models.vocabulary import highest_id
from zero.records import Completion, Prompt, Sampling
from zero.rollout import ModelSpec
from zero.rollout.http import (
    CONNECT_SECONDS,
    LONGEST_PAUSE,
    Client,
    HttpError,
    RetryPolicy,
    ServerError,
    address,
    in_parallel,
)
from zero.rollout.vllm import Sample, completion_of, samplings, seed_of

BUSY = frozenset({408, 429, 500, 502, 503, 504, 529})  # temporary errors
# Of the first request: a wrong url should be reported within seconds
FIRST = RetryPolicy((1.0, 2.0), BUSY, silence=False)


class OpenAIEngine:
    """A RolloutEngine without log-probabilities, whose `sync` changes nothing.

    url          of the API: what comes before /completions, usually ending in /v1; or an endpoint file
    model        the server's name for it; None: the only one it has
    key_env      environment variable that holds the API key; unset: none is sent
    timeout      seconds to wait for one answer
    retries      how often a request is repeated after 429, a 5xx or a timeout, with pauses of 1, 2, 4, ... seconds
    concurrency  requests at once
    seed         whether to send a seed with each request
    extra        further fields for each request
    takes_weights  must be false; the check of a training config reads it
    """

    own_devices, sees, staleness, dtype = True, False, 0, None

    def __init__(
        self,
        spec: ModelSpec,
        url: str,
        model: str | None,
        key_env: str,
        timeout: float,
        retries: int,
        concurrency: int,
        seed: bool,
        extra: Mapping[str, Any],
        takes_weights: bool = False,
    ) -> None:
        if takes_weights:
            raise InputError("rollout.takes_weights", "true", "this API has no way for weights; leave it false")
        self.tokenizer, self.context, self.version = spec.tokenizer, spec.context, -1
        self.highest_id = highest_id(spec.tokenizer)
        self.model, self.key_env, self.seed, self.extra = model, key_env, seed, dict(extra)
        self.concurrency, self.timeout, self.retries = concurrency, timeout, retries
        key = os.environ.get(key_env, "").strip()
        self.client = Client(address(url, "/v1"), timeout, concurrency, key, proxies=True)
        self.retry = RetryPolicy(tuple(min(2.0**i, LONGEST_PAUSE) for i in range(retries)), BUSY, silence=True)
        self.vllm: bool | None = None  # whether it is a vLLM server; None: not asked yet

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Changes nothing: the server has its own weights. Iterates over the given ones, for a wrapper that hashes them."""
        for _ in weights:
            pass
        self.version = version

    @contextmanager
    def awake(self, last: bool = False) -> Iterator[None]:
        yield

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        """n completions of each prompt, a request each. ServerError if the server fails for good."""
        if not prompts:
            return []
        if self.vllm is None:
            self._identify()
        if sampling.top_k and not (self.vllm or "top_k" in self.extra):
            remedy = "this API has no such field; set it to 0, or name it in rollout.extra if the server knows it"
            raise InputError("sampling.top_k", sampling.top_k, remedy)
        requests = [
            (self._body(prompt, i, own), own)
            for prompt, own in zip(prompts, samplings(prompts, sampling, self.context), strict=True)
            for i in range(n)
        ]
        longest = (self.timeout + CONNECT_SECONDS + LONGEST_PAUSE) * (self.retries + 1)  # of one request, in seconds
        completions = in_parallel(
            lambda request: self._completion(self._post(request[0]), request[1]),
            requests,
            self.concurrency,
            limit=longest,
            silence=lambda: ServerError(self.client.url, "says nothing"),
        )
        return [completions[i : i + n] for i in range(0, len(completions), n)]

    def _identify(self) -> None:
        """Find out the model's name and whether the server is vLLM's. A server that lists no models needs `model`."""
        try:
            listed = self.client.get("/models", FIRST)["data"]
            names, owners = [str(entry["id"]) for entry in listed], {entry.get("owned_by") for entry in listed}
        except ServerError as error:
            remedy = f"{error.what}; correct the url, or start the server"
            raise InputError("rollout.url", self.client.url, remedy) from None
        except HttpError as error:
            self._refuse(error)
            names, owners = [], set()
        except (LookupError, TypeError, AttributeError):
            names, owners = [], set()
        if self.model is None and len(names) != 1:
            remedy = f"name one of the server's models: {', '.join(names[:8])}" if names else "name the server's model"
            raise InputError("rollout.model", "null", remedy)
        self.model = self.model or names[0]
        self.vllm = owners == {"vllm"}

    def _body(self, prompt: Prompt, sample: int, sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": prompt.text,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self.seed:
            body["seed"] = seed_of(prompt.key, sample)
        if self.vllm:
            body |= {
                "prompt": list(prompt.ids),
                "return_token_ids": True,
                "stop_token_ids": list(sampling.stop_ids),
                "ignore_eos": True,  # it is among the stop tokens, or not meant to stop
                "skip_special_tokens": False,  # or a stop string would not be seen in them
                "include_stop_str_in_output": True,
                "top_k": sampling.top_k,
            }
        return body | self.extra

    def _post(self, body: dict[str, Any]) -> Any:
        try:
            return self.client.post("/completions", body, self.retry)
        except HttpError as error:
            self._refuse(error)
            raise ServerError(self.client.url, str(error)) from None

    def _refuse(self, error: HttpError) -> None:
        if error.status in (401, 403):
            remedy = f"the server wants a key that this variable does not hold ({error.text[:80]}); set it"
            raise InputError("rollout.key_env", self.key_env, remedy) from None
        if error.status == 404 and self.model:
            remedy = f"it knows no model {self.model}, or has another path ({error.text[:80]}); urls often end in /v1"
            raise InputError("rollout.url", self.client.url, remedy) from None

    def _completion(self, answer: Any, sampling: Sampling) -> Completion:
        """The completion in an answer. ServerError if it holds none, or if the server aborted it."""
        try:
            choice = answer["choices"][0]
            text, reason, stop = choice["text"], choice["finish_reason"], choice.get("stop_reason")
        except (LookupError, TypeError, AttributeError):
            raise ServerError(self.client.url, f"answers with no completion but {str(answer)[:120]}") from None
        if not isinstance(text, str) or reason not in ("stop", "length"):
            raise ServerError(self.client.url, f"ended a response as {str(reason)[:40]} with {type(text).__name__}")
        finished, ids = reason == "stop", choice.get("token_ids") if self.vllm else None
        if isinstance(ids, list) and ids and all(isinstance(i, int) and 0 <= i <= self.highest_id for i in ids):
            return completion_of(self.tokenizer, Sample(ids, [], finished), sampling, self.version)
        return self._from_text(text, finished, stop, sampling)

    def _from_text(self, text: str, finished: bool, stop: Any, sampling: Sampling) -> Completion:
        """A completion from its text alone, with the guesses at the top of this file."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates are no text
        stop_in_text = bool(sampling.stop) and text.endswith(sampling.stop)
        if finished and not stop_in_text:
            candidates = [stop] if stop in sampling.stop else list(sampling.stop) if stop is None else []
            if len(candidates) == 1:
                text, stop_in_text = text + candidates[0], True
        ids = tuple(self.tokenizer.encode(text, add_special_tokens=False))
        if (finished and not stop_in_text and sampling.stop_ids) or not ids:
            ids = (*ids, (*sampling.stop_ids, self.tokenizer.eos_token_id or 0)[0])
        return Completion(ids, (), text, finished, version=self.version)
