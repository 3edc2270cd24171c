"""The native engine: batched sampling on plain torch, in the learner's process.

A completion depends on the weights, its prompt and (seed, step, prompt, sample) alone: each sample has a counter-based
random stream of its own, and its position t uses number t of that stream, whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from zero.cpu import decoder
from zero.cpu.decoder import Past
from zero.errors import InputError
from zero.models.vocabulary import check_ids, vocabulary_size
from zero.records import Completion, Prompt, Sampling
from zero.rollout import ModelSpec, NotFinite
from zero.rollout.decoder import Decoder, make_decoder
from zero.vision import Images

# Drop finished rows once fewer than this share still run: copying the cache costs less than computing idle rows
COMPACT_BELOW = 0.9


class NativeEngine:
    """A RolloutEngine for any causal model of transformers; `max_rows` is the most sequences decoded at once."""

    own_devices, sees = False, True

    def __init__(self, spec: ModelSpec, max_rows: int, staleness: int = 0) -> None:
        self.tokenizer, self.context, self.dtype, self.device = spec.tokenizer, spec.context, spec.dtype, spec.device
        self.max_rows, self.staleness = max_rows, staleness
        self.vocabulary = vocabulary_size(spec.tokenizer, spec.config)
        self.decoder: Decoder = make_decoder(spec.config, self.vocabulary, spec.dtype, spec.device, spec.vision)
        self.stop_tokens = lru_cache(maxsize=4)(self._stop_tokens)
        self.version = -1
        # Of the decoder's last batch, by images and ids of prompt and answer, if turns may follow
        self.rows: dict[tuple[Images, tuple[int, ...]], int] = {}

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self._forget()
        self.decoder.load(weights)
        self.version = version

    @contextmanager
    def awake(self, last: bool = False) -> Iterator[None]:
        try:
            yield
        finally:
            self._forget()

    def _forget(self) -> None:
        self.rows.clear()
        self.decoder.forget()

    def generate(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> list[list[Completion]]:
        if not prompts:
            return []
        own = [prompt.sampling(sampling) for prompt in prompts]
        budgets = [min(s.max_tokens, self.context - len(prompt.ids)) for s, prompt in zip(own, prompts, strict=True)]
        if min(budgets) < 1:
            longest = max(len(prompt.ids) for prompt in prompts)
            remedy = f"a prompt of {longest} tokens leaves no room for an answer; drop that question"
            raise InputError("model.context", self.context, remedy)
        for prompt in prompts:
            check_ids(prompt.ids, self.vocabulary, self.tokenizer)
        at_once = max(1, self.max_rows // n)
        chunks: list[list[int]] = []
        for stop in dict.fromkeys(s.stop for s in own):  # nearly always one: the run's
            indices = [p for p, s in enumerate(own) if s.stop == stop]
            indices.sort(key=lambda p: budgets[p], reverse=True)
            chunks += [indices[start : start + at_once] for start in range(0, len(indices), at_once)]
        groups: dict[int, list[Completion]] = {}
        # With more rows than are decoded at once, every turn is read whole
        in_episodes = len(chunks) == 1 and prompts[0].seen is not None and self.decoder.goes_on
        for chunk in chunks:
            alike, budgets_P = replace(sampling, stop=own[chunk[0]].stop), [budgets[p] for p in chunk]
            completions = self._batch([prompts[p] for p in chunk], n, budgets_P, alike, in_episodes)
            groups |= {p: completions[i * n : i * n + n] for i, p in enumerate(chunk)}
        return [groups[p] for p in range(len(prompts))]

    @torch.inference_mode()
    def _batch(
        self, prompts: Sequence[Prompt], n: int, budgets: Sequence[int], sampling: Sampling, in_episodes: bool
    ) -> list[Completion]:
        """n completions for each prompt, within its budget. In episodes they go on from the rows of the batch before."""
        width = max(len(prompt.ids) for prompt in prompts)
        ids_PW = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask_PW = torch.zeros_like(ids_PW)
        for p, prompt in enumerate(prompts):
            ids_PW[p, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
            mask_PW[p, width - len(prompt.ids) :] = 1
        count, budget = len(prompts) * n, max(budgets)
        uniform_TN = _uniforms(prompts, n, budget).T.contiguous().to(self.device)
        ids_NT = torch.zeros(count, budget, dtype=torch.int64, device=self.device)
        logprob_NT, log_normalizer_NT = torch.zeros(2, count, budget, device=self.device)
        length_N = torch.tensor(budgets).repeat_interleave(n)
        budget_N, finished_N = length_N.to(self.device), torch.zeros(count, dtype=torch.bool)
        stop_ids = torch.tensor(sampling.stop_ids, dtype=torch.int64, device=self.device)
        rows = torch.arange(count, device=self.device)  # rows[i]: the sample in row i of the decoder
        running = torch.ones(count, dtype=torch.bool, device=self.device)  # for each row of the decoder
        past = self._past(prompts, n) if in_episodes else None
        shown = [prompt.images for prompt in prompts] if any(prompt.images for prompt in prompts) else None
        logits = self.decoder.prefill(ids_PW.to(self.device), mask_PW.to(self.device), n, budget, past, shown)
        for t in range(budget):
            token, logprob = draw(logits, uniform_TN[t, rows], sampling)
            ids_NT[rows, t], logprob_NT[rows, t] = token, logprob
            if truncates(sampling):
                log_normalizer_NT[rows, t] = log_normalizer(logits, token, logprob, sampling.temperature)
            stopped = torch.isin(token, stop_ids)
            if sampling.stop:
                stopped |= self._string_stops(token, ids_NT, rows, t, sampling.stop)
            stopped &= running
            some_cut = t + 1 in budgets  # such rows must not go on: behind the budget the context may be full
            if stopped.any() or some_cut:
                ended = rows[stopped].cpu()
                length_N[ended], finished_N[ended] = t + 1, True
                running &= ~stopped & (budget_N[rows] > t + 1)
                left = int(running.sum())
                if left == 0:
                    break
                if left < COMPACT_BELOW * len(rows) or some_cut:
                    unfinished = running.nonzero()[:, 0]
                    self.decoder.keep(unfinished)
                    rows, token, running = rows[unfinished], token[unfinished], running[unfinished]
            logits = self.decoder.step(token)
        if not truncates(sampling):
            log_normalizer_NT = log_normalizer_NT[:, :0]
        completions = self._completions(ids_NT, logprob_NT, log_normalizer_NT, length_N, finished_N, sampling)
        self.rows.clear()
        if past is None:
            return completions
        for i, completion in enumerate(completions):
            self.rows[prompts[i // n].images, prompts[i // n].ids + completion.ids] = i
        cached = past.length_P.repeat_interleave(n).tolist()
        return [replace(completion, cached=tokens) for completion, tokens in zip(completions, cached, strict=True)]

    def _past(self, prompts: Sequence[Prompt], n: int) -> Past:
        """What the prompts can take from the rows of the batch before, but for a row's last token, which was never fed."""
        rows = [self._row_before(prompt) if prompt.seen and n == 1 else None for prompt in prompts]
        lengths = [0 if row is None else (prompt.seen or 0) - 1 for row, prompt in zip(rows, prompts, strict=True)]
        return Past(*(torch.tensor(x, device=self.device) for x in ([row or 0 for row in rows], lengths)))

    def _row_before(self, prompt: Prompt) -> int | None:
        """The row of the turn before, which saw the first of the prompt's images."""
        ids = prompt.ids[: prompt.seen]
        rows = (self.rows.get((prompt.images[:k], ids)) for k in range(len(prompt.images) + 1))
        return next((row for row in rows if row is not None), None)

    def _completions(
        self,
        ids_NT: Tensor,
        logprob_NT: Tensor,
        log_normalizer_NT: Tensor,
        length_N: Tensor,
        finished_N: Tensor,
        sampling: Sampling,
    ) -> list[Completion]:
        if not bool(logprob_NT.isfinite().all()):
            raise NotFinite(self.version)
        lengths = length_N.tolist()
        ids = [row[:length] for row, length in zip(ids_NT.tolist(), lengths, strict=True)]
        logprobs, normalizers = (
            [row[:length] for row, length in zip(values_NT.tolist(), lengths, strict=True)]
            for values_NT in (logprob_NT, log_normalizer_NT)
        )
        without_stop = [row[:-1] if row[-1] in sampling.stop_ids else row for row in ids]
        texts = self.tokenizer.batch_decode(without_stop, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return [
            Completion(tuple(i), tuple(lp), text, done, version=self.version, log_normalizers=tuple(ln), cached=0)
            for i, lp, ln, text, done in zip(ids, logprobs, normalizers, texts, finished_N.tolist(), strict=True)
        ]

    def _string_stops(self, token: Tensor, ids_NT: Tensor, rows: Tensor, t: int, stops: tuple[str, ...]) -> Tensor:
        """Bool for each row of the decoder: this token completes a stop string. Only rows whose token may are decoded."""
        candidates = self.stop_tokens(stops)[token]
        window = max(len(stop.encode()) for stop in stops) + 8  # a token carries at least one byte of the stop string
        for i in candidates.nonzero()[:, 0].tolist():
            ids = ids_NT[rows[i], max(0, t + 1 - window) : t + 1]
            tail = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            candidates[i] = any(stop in tail for stop in stops)
        return candidates

    def _stop_tokens(self, stops: tuple[str, ...]) -> Tensor:
        """Bool [V]: tokens that may complete one of the stop strings: they contain it, or begin with an end of it."""
        anchor = self.tokenizer.encode("a", add_special_tokens=False)
        before = self.tokenizer.decode(anchor, skip_special_tokens=False)
        # Decoded after an anchor, so that a leading space survives
        texts = self.tokenizer.batch_decode(
            [[*anchor, i] for i in range(self.vocabulary)],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        ends = tuple(stop[i:] for stop in stops for i in range(len(stop)))
        pieces = [text[len(before) :] for text in texts]
        hits = [piece.startswith(ends) or any(s in piece for s in stops) or "\ufffd" in piece for piece in pieces]
        return torch.tensor(hits, device=self.device)


def _uniforms(prompts: Sequence[Prompt], n: int, budget: int) -> Tensor:
    """[P * n, budget] float32 numbers in [0, 1): row by row the stream of (prompt.key, sample).

    They are multiples of 2^-23, so that number x total < total holds in float32 for any total in `draw`.
    """
    streams = [
        np.random.Generator(np.random.Philox(np.random.SeedSequence([*prompt.key, sample])))
        for prompt in prompts
        for sample in range(n)
    ]
    bits = np.stack([stream.integers(0, 2**23, size=budget, dtype=np.int32) for stream in streams])
    return torch.from_numpy(bits).float() * 2.0**-23


def draw(logits_NV: Tensor, uniform_N: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """One token per row by inverting the cumulative distribution, and its log-probability under the distribution sampled
    from (after temperature, top-k and top-p).

    [N, V], [N] -> [N], [N]. Greedy (temperature 0) takes the arg-max and reports its log-probability at temperature 1.
    """
    logits_NV = logits_NV.float()
    if sampling.temperature == 0:
        token_N = logits_NV.argmax(dim=-1)
        return token_N, logits_NV.log_softmax(dim=-1).gather(1, token_N[:, None])[:, 0]
    if sampling.top_k <= 0 and sampling.top_p >= 1 and decoder.can_draw(logits_NV):
        return decoder.draw(logits_NV, uniform_N, sampling.temperature)
    if sampling.temperature != 1:
        logits_NV = logits_NV / sampling.temperature
    if truncates(sampling):
        logits_NV = truncate(logits_NV, sampling.top_k, sampling.top_p)
    logprob_NV = logits_NV.log_softmax(dim=-1)
    cdf_NV = logprob_NV.exp().cumsum(dim=-1)
    token_N = torch.searchsorted(cdf_NV, uniform_N[:, None] * cdf_NV[:, -1:], right=True)
    # With NaN logits the search ends beyond the last token, whose log-probability is then NaN too.
    token_N = token_N.clamp(max=logits_NV.shape[1] - 1)
    return token_N[:, 0], logprob_NV.gather(1, token_N)[:, 0]


def truncates(sampling: Sampling) -> bool:
    """Whether top-k or top-p leave out tokens."""
    return sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1)


def log_normalizer(logits_NV: Tensor, token_N: Tensor, logprob_N: Tensor, temperature: float) -> Tensor:
    """Log [N] of the probability that top-k and top-p kept: a kept token's log-probability in the full distribution minus
    `logprob_N`, that in the truncated one."""
    full_NV = (logits_NV.float() / temperature).log_softmax(dim=-1)
    return full_NV.gather(1, token_N[:, None])[:, 0] - logprob_N


def truncate(logits_NV: Tensor, top_k: int, top_p: float) -> Tensor:
    """-inf outside the top_k most likely tokens and outside the smallest set of probability >= top_p.

    Source: Holtzman et al. 2020, arXiv 1904.09751, section 3.1.
    """
    ordered_NV, order_NV = logits_NV.sort(dim=-1, descending=True, stable=True)
    if top_k > 0:
        ordered_NV[:, top_k:] = float("-inf")
    probability_NV = ordered_NV.softmax(dim=-1)
    before_NV = probability_NV.cumsum(dim=-1) - probability_NV
    ordered_NV = ordered_NV.masked_fill(before_NV >= top_p, float("-inf"))
    ordered_NV[:, 0] = logits_NV.gather(1, order_NV[:, :1])[:, 0]  # the most likely token always stays
    return torch.empty_like(logits_NV).scatter_(1, order_NV, ordered_NV)
