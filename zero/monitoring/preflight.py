"""A printed check before a run: one prompt as the model sees it, what ends a response, and warnings.

Most silent failures of zero-RL are here: a chat format in tokens that the tokenizer does not know, a second BOS, a response
that nothing ends. `doubts` finds those that show in the prompt, the stops and the tokenizer, `settings_doubts` those of
learning rates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zero.config import recipes
from zero.records import Prompt, Sampling

SHOWN = (360, 240)  # characters of a long prompt's beginning and end; one hardly longer is shown whole
TOO_LOW = 20  # factor below the usual learning rate
ENDS = 3  # tokens shown at either end

# Tokens that end a turn in the chat formats of Qwen, Llama 3, Phi, Gemma and DeepSeek
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<\uff5cend\u2581of\u2581sentence\uff5c>")
_CONTROL = re.compile(r"<(?:\|[A-Za-z0-9_]{1,40}\||\uff5c[^\uff5c<>\s]{1,40}\uff5c|(?:start|end)_of_turn)>")
_TWICE = re.compile(r"<think>[^<]{0,100}<think>\s*\Z")


def preflight(prompt: Prompt, sampling: Sampling, tokenizer: Any) -> str:
    """A few lines of ASCII: the prompt, its tokens, its stops, and a `warning` line for each of `doubts`."""
    strings = ", ".join(_quoted(stop) for stop in sampling.stop) or "none"
    stops = ", ".join(_token(i, tokenizer) for i in sampling.stop_ids) or "none"
    eos = tokenizer.eos_token_id
    lines = [
        f"prompt   {_quoted(_without_middle(prompt.text))}",
        f"tokens   {len(prompt.ids)}: {_ends(prompt.ids, tokenizer)}",
        f"stops    texts: {strings}; tokens: {stops}; EOS is {'not set' if eos is None else _token(eos, tokenizer)}",
    ]
    return "\n".join(lines + [f"warning  {doubt}" for doubt in doubts(prompt, sampling, tokenizer)])


def doubts(prompt: Prompt, sampling: Sampling, tokenizer: Any) -> list[str]:
    """Warnings about the prompt and its stops, one sentence of ASCII each."""
    vocabulary = tokenizer.get_vocab()
    return [
        *_of_tokens(prompt, tokenizer, vocabulary),
        *_of_text(prompt.text),
        *_of_stop_tokens(prompt.text, sampling, tokenizer, vocabulary),
        *_of_stop_texts(prompt.text, sampling, tokenizer),
    ]


def settings_doubts(config: Mapping[str, Any], parameters: float) -> list[str]:
    """Warnings about settings that are known to ruin a model of this many parameters, or to change it hardly at all."""
    fitting, learner, optimizer = recipes.recipe_for_size(parameters), config["learner"], config["optimizer"]
    key, where = ("lora_lr", "the adapters of a model") if "lora" in learner else ("lr", "a model")
    usual, most, size = fitting[key], fitting[f"{key}_max"], f"{where} of {parameters / 1e6:,.4g} M parameters"
    samples = "form" not in config["rollout"]  # supervised learning takes higher rates
    doubts = []
    if samples and optimizer["lr"] > most:
        doubts.append(
            f"optimizer.lr={optimizer['lr']:g} is known to ruin {size}: {usual:g} is usual, above {most:g} it collapses"
        )
    elif optimizer["lr"] < usual / TOO_LOW:
        doubts.append(f"optimizer.lr={optimizer['lr']:g} moves {size} hardly at all: {usual:g} is usual")
    updates = config["steps"] * config["updates"] * config["epochs"]
    if optimizer["warmup"] >= updates:
        doubts.append(
            f"optimizer.warmup={optimizer['warmup']} lasts for all {updates} optimizer steps: optimizer.lr is never reached"
        )
    critic = config["algo"]["critic"]
    if critic and "optimizer" in critic and (rate := critic["optimizer"]["lr"]) > fitting["critic_lr"] * TOO_LOW:
        doubts.append(f"algo.critic.optimizer.lr={rate:g} is far above the usual {fitting['critic_lr']:g} for {size}")
    assumed = config["model"].get("recipe") or fitting
    if assumed["name"] != fitting["name"]:
        doubts.append(
            f"the defaults suit models of the size {assumed['name']}, and this is {size}: model/recipe={fitting['name']} fits it"
        )
    return doubts


def _of_tokens(prompt: Prompt, tokenizer: Any, vocabulary: Mapping[str, int]) -> list[str]:
    doubts, ids = list[str](), prompt.ids
    eos, bos, unknown = tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id
    if not ids:
        doubts.append("the prompt has no tokens: the model has nothing to go on from")
    elif ids[-1] == eos:
        doubts.append(f"the prompt ends with EOS ({_token(eos, tokenizer)}): the model has nothing to say after it")
    if bos is not None and ids[:2] == (bos, bos):
        doubts.append(f"the prompt begins with two BOS ({_token(bos, tokenizer)}): take one out of the template")
    if unknown is not None and unknown in ids:
        doubts.append(f"the tokenizer does not know {ids.count(unknown)} of the prompt's tokens")
    for text in dict.fromkeys(_CONTROL.findall(prompt.text)):
        pieces = tokenizer.encode(text, add_special_tokens=False)
        if vocabulary.get(text) not in pieces:
            spelling = f"no token of this model but {len(pieces)} pieces of text"
            doubts.append(f"{_ascii(text)} is {spelling}: is the template another family's format?")
    return doubts


def _of_text(text: str) -> list[str]:
    doubts = []
    if text.endswith((" ", "\t")):
        doubts.append("the prompt ends with a space, which most tokenizers would put into the word that follows")
    if _TWICE.search(text):
        doubts.append("<think> is opened twice: the model's chat format opens it too; empty template.prefill")
    return doubts


def _of_stop_tokens(text: str, sampling: Sampling, tokenizer: Any, vocabulary: Mapping[str, int]) -> list[str]:
    if not sampling.stop and not sampling.stop_ids:
        return ["nothing ends a response: each runs to its token budget; name a token in model.stop"]
    doubts, eos = list[str](), tokenizer.eos_token_id
    if eos is not None and eos not in sampling.stop_ids:
        doubts.append(f"EOS, {_token(eos, tokenizer)}, does not end a response: add it to model.stop")
    for turn in TURN_ENDS:
        if turn in text and turn in vocabulary and vocabulary[turn] not in (*sampling.stop_ids, eos):
            doubts.append(f"turns end with {_ascii(turn)}, which does not end a response: add it to model.stop")
    return doubts


def _of_stop_texts(text: str, sampling: Sampling, tokenizer: Any) -> list[str]:
    doubts = []
    shown = [name for name in map(tokenizer.convert_ids_to_tokens, sampling.stop_ids) if name and name in text]
    closed = any("</answer>" in stop or stop in "</answer>" for stop in sampling.stop)
    if "</answer>" in text and not closed and not shown:
        doubts.append(
            "the prompt asks for </answer>, no stop string ends a response there, and the prompt shows no stop token: "
            "a base model may go on after it; template.stop='[\"</answer>\"]' ends it"
        )
    if text.rstrip().endswith("<think>"):
        silent = {tokenizer.pad_token_id, tokenizer.bos_token_id} - {tokenizer.eos_token_id}  # no model ends with these
        if not sampling.stop and sampling.stop_ids and silent.issuperset(sampling.stop_ids):
            doubts.append("the prompt opens <think>, and only padding or BOS ends a response: no stop will ever come")
        if any(stop in "</think>" for stop in sampling.stop):
            doubts.append("the prompt opens <think>, and a response is stopped at </think>, before its answer")
    doubts += [
        f"the stop string {_quoted(s)} is white space: it may end any response" for s in sampling.stop if s.isspace()
    ]
    return doubts


def _ends(ids: Sequence[int], tokenizer: Any) -> str:
    """The texts of the first and last tokens, each in quotes."""
    shown = [*ids[:ENDS], *ids[-ENDS:]] if len(ids) > 2 * ENDS else ids
    names = [_quoted(tokenizer.decode([i], clean_up_tokenization_spaces=False)) for i in shown]
    return " ".join([*names[:ENDS], "...", *names[ENDS:]] if len(ids) > 2 * ENDS else names)


def _token(i: int, tokenizer: Any) -> str:
    return f"{_ascii(str(tokenizer.convert_ids_to_tokens(i)))} ({i})"


def _without_middle(text: str) -> str:
    first, last = SHOWN
    left_out = len(text) - first - last
    return text if left_out <= 120 else f"{text[:first]} [... {left_out} characters ...] {text[-last:]}"


def _ascii(text: str) -> str:
    r"""The text with all but visible ASCII escaped (a newline is `\n`), so that it cannot hold terminal control codes."""
    return text.encode("unicode_escape").decode("ascii")


def _quoted(text: str) -> str:
    return f'"{_ascii(text)}"'
