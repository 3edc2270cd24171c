"""A language model as a judge of texts, through any server that speaks OpenAI's /chat/completions.

What it answers is believed in one respect only: a digit in the place where it was asked for. Everything else (silence, words,
a cut answer, a refusal, something that is no JSON) leaves the text unjudged, and is counted. Answers are kept on disk by the hash
of what was asked, so a run that was killed asks only for the rest, and equal texts are asked about once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zero.errors import Broken, InputError
from zero.files import json_lines, read_regular

if TYPE_CHECKING:  # zero.rollout brings torch, which keywords alone do not need
    from zero.rollout.http import Client

LONGEST_REPLY = 20_000  # characters; more than any max_tokens here can say
PATIENT_WITH = 20  # refusals without a single answer after which a server is given up
PART = 1000  # texts that are asked about before the next ones are put into words
FIELDS = ("question", "reference", "response")
_SLOT = re.compile(rf"\{{({'|'.join(FIELDS)})\}}")


@dataclass(frozen=True)
class Reply:
    """A judge's reply. `whole` is False for an answer that its token budget cut, or that is absurdly long; `refused` holds
    the server's words if it would not answer this one."""

    text: str
    whole: bool = True
    refused: str = ""


Reader = Callable[[Reply], int | None]
"""reply -> the label that it holds; None: it holds none."""


@dataclass(frozen=True)
class Instruction:
    """What a judge is asked of each response, and how its reply is read. `prompt` holds `{response}` and what else of
    FIELDS it needs; "@FILE" takes it from a file. Raises InputError."""

    name: str
    prompt: str
    max_tokens: int
    temperature: float
    read: Reader

    def __post_init__(self) -> None:
        key = f"instructions.{self.name}.prompt"
        if self.prompt.startswith("@"):
            try:
                object.__setattr__(self, "prompt", Path(self.prompt[1:]).expanduser().read_text(encoding="utf-8"))
            except (OSError, UnicodeError) as error:
                raise InputError(key, self.prompt, f"cannot be read ({error})") from None
        if "{response}" not in self.prompt:
            raise InputError(key, self.prompt, "must hold {response}, where the text to be judged goes")
        if self.max_tokens < 1:
            raise InputError(f"instructions.{self.name}.max_tokens", self.max_tokens, "must be above 0")

    def filled_in(self, texts: Mapping[str, str], longest: int) -> str:
        """The prompt for one response. Filled in at one go: braces in a text are text."""
        return _SLOT.sub(lambda slot: shortened(texts.get(slot[1], ""), longest), self.prompt)


def shortened(text: str, longest: int) -> str:
    """The text, or its beginning and its end if it has more than `longest` characters. Lone surrogates become `?`."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= longest:
        return text
    head = longest // 2
    left_out = len(text) - longest
    return f"{text[:head]}\n[... {left_out} characters left out ...]\n{text[len(text) - (longest - head) :]}"


def category(reply: Reply) -> int | None:
    """0 to 3 out of the last three characters; a 2 among them counts before all others, as in the paper's code."""
    tail = reply.text.rstrip()[-3:] if reply.whole else ""
    digits = [int(c) for c in tail if c in "0123"]
    return 2 if 2 in digits else digits[-1] if digits else None


def yes_or_no(reply: Reply) -> int | None:
    """0 or 1, with which the reply must begin. A reply whose end was cut has its beginning."""
    digits = re.match(r"[0-9]+", reply.text.lstrip())
    return int(digits[0]) if digits and digits[0] in ("0", "1") else None


def last_digit(reply: Reply) -> int | None:
    """0 to 4 as the last number of the reply, with at most punctuation behind it."""
    end = re.search(r"(?<![0-9.,])([0-4])[^0-9A-Za-z]{0,8}$", reply.text[-40:]) if reply.whole else None
    return int(end[1]) if end else None


class Cache:
    """Replies by key, in a file of JSON Lines to which each is added as soon as it is known. Damaged lines are passed over."""

    def __init__(self, path: Path) -> None:
        self.known: dict[str, Reply] = {}
        self._lock = threading.Lock()
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = read_regular(path) if path.exists() else b""
            self._file = path.open("ab", buffering=0)  # each reply is one write: a kill leaves whole lines
        except OSError as error:
            raise InputError("judge.cache", path, f"cannot be written ({error.strerror}); choose another") from None
        for _, row in json_lines(raw):
            text, whole = (row or {}).get("text"), (row or {}).get("whole")
            if row and "key" in row and isinstance(text, str) and isinstance(whole, bool):
                self.known[str(row["key"])] = Reply(text, whole)
        if raw and not raw.endswith(b"\n"):
            self._file.write(b"\n")

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; a refused one is worth another try next time, and is not kept."""
        if reply.refused:
            return
        row = {"key": key, **asdict(reply)}
        del row["refused"]
        with self._lock:
            self.known[key] = reply
            try:
                self._file.write(json.dumps(row).encode() + b"\n")
            except OSError as error:
                raise Broken(f"judge: {self._path} cannot be written ({error.strerror})") from None


def connect(url: str | None, **settings: Any) -> Judge | None:
    """The judge at an address; None without one. InputError as `Judge`."""
    return Judge(url, **settings) if url else None


class Judge:
    """Asks many things at once, each at most once. The settings are those of conf/reflection.yaml. Raises InputError."""

    def __init__(
        self,
        url: str,
        model: str | None,
        key_env: str,
        timeout: float,
        retries: int,
        concurrency: int,
        most: int,
        longest: int,
        extra: Mapping[str, Any],
        cache: str,
    ) -> None:
        from zero.rollout.http import LONGEST_PAUSE, Client, RetryPolicy, address
        from zero.rollout.openai import BUSY

        for key, value, least in (
            ("timeout", timeout, 0.001),
            ("retries", retries, 0),
            ("concurrency", concurrency, 1),
            ("most", most, 0),
            ("longest", longest, 100),
        ):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
                raise InputError(f"judge.{key}", value, f"must be a number of at least {least}")
        try:
            self.client: Client = Client(
                address(url, "/v1"), timeout, concurrency, os.environ.get(key_env, "").strip(), proxies=True
            )
        except InputError as error:
            raise InputError("judge.url", url, error.remedy) from None
        self.model, self.key_env, self.extra, self.longest = model, key_env, dict(extra), longest
        self.timeout, self.concurrency, self.left = timeout, concurrency, most
        self.patience = RetryPolicy(tuple(min(2.0**i, LONGEST_PAUSE) for i in range(retries)), BUSY, silence=True)
        self.cache = Cache(Path(cache).expanduser())
        self._refusals = 0
        self._answered = False

    def label(self, instruction: Instruction, texts: Sequence[Mapping[str, str]]) -> list[int | None]:
        """The label of each of `texts` (mappings of FIELDS), in order; None where the reply holds none. Each different one is
        asked about once, or not at all if the cache knows it.

        Raises InputError (url, key, model, or more requests than `most`) and Broken if the server fails for good; what was
        answered until then is kept.
        """
        from zero.rollout.http import CONNECT_SECONDS, LONGEST_PAUSE, ServerError, in_parallel

        if not texts:
            return []
        self._find_model()
        keys = [_hash(self._body(instruction, text)) for text in texts]
        todo = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.cache.known}
        if len(todo) > self.left:
            remedy = (
                f"{len(todo)} more requests are needed; raise it if that may be paid for, or ask about fewer answers"
            )
            raise InputError("judge.most", self.left, remedy)
        self.left -= len(todo)
        longest = (self.timeout + CONNECT_SECONDS + LONGEST_PAUSE) * (len(self.patience.pauses) + 1)
        fresh: dict[str, Reply] = {}
        try:
            while len(fresh) < len(todo):  # in parts, so that not all prompts are held at once
                batch = list(islice(todo.items(), len(fresh), len(fresh) + PART))
                replies = in_parallel(
                    lambda item: self._stored(item[0], self._body(instruction, item[1])),
                    batch,
                    self.concurrency,
                    limit=longest,
                    silence=lambda: ServerError(self.client.url, "says nothing"),
                )
                fresh |= zip((key for key, _ in batch), replies, strict=True)
                if len(todo) > PART:
                    print(f"judge, {instruction.name}: {len(fresh)} of {len(todo)} asked", file=sys.stderr, flush=True)
        except ServerError as error:
            stored = f"{len(self.cache.known)} answers are kept, and the same command asks for the rest"
            raise Broken(f"judge {self.client.url}: {error.what}; {stored}") from None
        return [instruction.read(fresh[key] if key in fresh else self.cache.known[key]) for key in keys]

    def _stored(self, key: str, body: dict[str, Any]) -> Reply:
        reply = self._reply(body)
        self.cache.put(key, reply)
        return reply

    def _reply(self, body: dict[str, Any]) -> Reply:
        from zero.rollout.http import HttpError

        try:
            reply = self.client.post("/chat/completions", body, self.patience)
        except HttpError as error:
            self._refuse(error)
            self._refusals += 1
            if self._refusals >= PATIENT_WITH and not self._answered:
                remedy = f"the server refused the first {self._refusals} requests: {error.text[:120]}"
                raise InputError("judge.model", self.model, remedy) from None
            return Reply("", False, str(error)[:200])
        try:
            choice = reply["choices"][0]
            text, cut = choice["message"]["content"], choice.get("finish_reason") == "length"
        except (LookupError, TypeError, AttributeError):
            text, cut = None, False
        if not isinstance(text, str):
            return Reply("", False, f"no text but {str(reply)[:160]}")
        self._answered = True
        text = text.encode("utf-8", "replace").decode("utf-8")
        return Reply(text[:LONGEST_REPLY], not cut and len(text) <= LONGEST_REPLY)

    def _body(self, instruction: Instruction, texts: Mapping[str, str]) -> dict[str, Any]:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": instruction.filled_in(texts, self.longest)}],
            "temperature": instruction.temperature,
            "max_tokens": instruction.max_tokens,
        } | self.extra
        return {key: value for key, value in body.items() if value is not None}

    def _find_model(self) -> None:
        """Learn the model's name if it was not given: the only one that the server has."""
        if self.model is not None:
            return
        from zero.rollout.http import HttpError, ServerError
        from zero.rollout.openai import FIRST

        names: list[str] = []
        try:
            names = [str(entry["id"]) for entry in self.client.get("/models", FIRST)["data"]]
        except ServerError as error:
            raise InputError("judge.url", self.client.url, f"{error.what}; correct it, or start the server") from None
        except HttpError as error:
            if error.status != 404:  # many servers do not list their models
                self._refuse(error)
        except (LookupError, TypeError, AttributeError):
            pass
        if len(names) != 1:
            remedy = f"name one of the server's models: {', '.join(names[:8])}" if names else "name the server's model"
            raise InputError("judge.model", "null", remedy)
        self.model = names[0]

    def _refuse(self, error: Any) -> None:
        """InputError for a refusal that all requests will meet."""
        if error.status in (401, 403):
            remedy = f"the server wants a key that this variable does not hold ({error.text[:80]}); set it"
            raise InputError("judge.key_env", self.key_env, remedy) from None
        if error.status == 404:
            remedy = f"it knows no model {self.model}, or has another path ({error.text[:80]}); urls often end in /v1"
            raise InputError("judge.url", self.client.url, remedy) from None


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
