"""Sending the learner's weights to a vLLM server: through files that both can see, or through a process group.

The server's side is `ServerReceiver`, the worker extension that `python -m launch.serve` gives to vLLM; its methods are
called by name, with JSON, and answer with JSON. The learner's side is `WeightSender`. Weights are sent in the server's
dtype, one after another, so that only a few of them exist twice. Every wait has a limit; when one side fails, the other
notices at its next wait.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

from zero.errors import InputError
from zero.files import replacing, write_atomically
from zero.rollout.http import Client, HttpError, ServerError, in_background
from zero.rollout.process_group import POLL_SECONDS, Link, Weights, wait_until
from zero.rollout.vllm_worker import WeightReceiver

EXTENSION = "zero.rollout.weight_sync.ServerReceiver"
SHARD = 256 * 2**20  # bytes of weights in a file; a larger weight has a file of its own
MAX_UNREAD = 2  # files that the server has not read yet


@dataclass(frozen=True)
class Server:
    """A server's description of itself."""

    config: Mapping[str, Any]  # of its model, with the vocabulary cut to the tokenizer's
    context: int
    dtype: torch.dtype
    device: str  # cpu or cuda
    logprobs: str  # vLLM's logprobs_mode
    workers: int  # processes, each with a shard of the model


class ServerReceiver(WeightReceiver):
    """vLLM's worker extension; see WeightReceiver for the weights that it takes. Every method is called in all workers of the
    server at once and returns a dict, with `error` if it failed; the weights are then undefined until the next transfer."""

    def describe_model(self) -> dict[str, Any]:
        """The fields of `Server`, without the number of workers."""
        from transformers import AutoConfig

        worker: Any = self
        model_config = worker.model_config
        return {
            "config": model_fields(AutoConfig.from_pretrained(model_config.model)),
            "context": model_config.max_model_len,
            "dtype": str(model_config.dtype).removeprefix("torch."),
            "device": worker.device.type,
            "logprobs": str(model_config.logprobs_mode),
        }

    def take_checkpoint(self, folder: str) -> dict[str, Any]:
        """Take the weights of a Hugging Face folder."""
        return _reply(lambda: self.take_over(_read(Path(folder))))

    def take_files(self, folder: str, limit: float) -> dict[str, Any]:
        """Take the weights of 000000.safetensors, 000001.safetensors and so on, as they appear, until `end` holds their number.
        This worker marks each file that it has read with a file .taken-RANK."""
        worker: Any = self
        return _reply(lambda: self.take_over(_read_appearing(Path(folder), int(worker.rank), limit)))

    def take_group(self, host: str, port: int, size: int, serial: int, limit: float) -> dict[str, Any]:
        """Take the weights that the learner broadcasts, with headers in the store at host:port; the group is kept for next time."""
        worker: Any = self

        def take() -> None:
            link = getattr(worker, "_learner", None)
            if link is None or link.endpoint != (host, port):
                link = worker._learner = Link.join(host, port, int(worker.rank) + 1, size, worker.device, limit)
            self.take_over(link.receive(serial))

        return _reply(take)


def model_fields(config: Any) -> dict[str, Any]:
    """The fields of a PretrainedConfig's text model that decide what it computes, as JSON values."""
    fields = config.get_text_config().to_dict()
    ignored = ("transformers_version", "dtype", "torch_dtype", "architectures", "use_cache", "max_position_embeddings")
    fields_used = {
        k: v for k, v in fields.items() if k not in ignored and not k.startswith("_") and not k.endswith("token_id")
    }
    as_json: dict[str, Any] = json.loads(json.dumps(fields_used, default=str, sort_keys=True))
    return as_json


def _reply(take: Callable[[], None]) -> dict[str, Any]:
    try:
        take()
    except Exception as error:  # vLLM's own report would not hold the message
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


def _read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.safetensors")
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (a file, not a mapping)
                yield name, file.get_tensor(name)


def _read_appearing(folder: Path, rank: int, limit: float) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} here")
    i, since = 0, time.monotonic()
    while True:
        path, end = folder / f"{i:06d}.safetensors", folder / "end"
        if path.exists():
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    yield name, file.get_tensor(name)
            path.with_suffix(f".taken-{rank}").touch()
            i, since = i + 1, time.monotonic()
        elif end.exists() and i == int(end.read_text()):
            return
        elif not folder.is_dir() or time.monotonic() - since > limit:
            raise TimeoutError(
                "the learner gave up" if not folder.is_dir() else f"no weight came for {limit:g} seconds"
            )
        else:
            time.sleep(POLL_SECONDS)


class WeightSender:
    """The learner's side.

    transport  file: safetensors in `folder`, which the server must see; group: broadcast without files
    limit      longest wait for the other side, in seconds
    """

    def __init__(self, client: Client, transport: str, folder: str, device: torch.device, limit: float) -> None:
        transports = {"file": self._by_file, "group": self._by_group}
        if transport not in transports:
            raise InputError("rollout.transport", transport, f"must be one of {', '.join(transports)}")
        self.client, self.transport, self.folder, self.limit = client, transports[transport], folder, limit
        self.device, self.serial = device, 0
        self.link: Link | None = None

    def send(self, weights: Weights, server: Server) -> None:
        """Send all weights and wait until the server has them. ServerError if it fails, InputError if the transport cannot
        work here."""
        try:
            self.transport(weights, server)
        except BaseException:
            self.link = None  # its state is unknown
            raise

    def _call(self, method: str, *args: Any) -> Future[Any]:
        def ask() -> Any:
            try:
                reply = self.client.post("/collective_rpc", {"method": method, "args": list(args)}, limit=None)
                return reply["results"]
            except (HttpError, LookupError, TypeError) as error:
                raise ServerError(self.client.url, f"did not take over the weights ({error})") from None

        return in_background(lambda: _refuse_errors(self.client.url, ask()))

    def _wait(self, reply: Future[Any]) -> None:
        try:
            reply.result(self.limit)
        except TimeoutError:
            raise self._silence() from None

    def _silence(self) -> ServerError:
        return ServerError(self.client.url, f"did not take the weights within {self.limit:g} seconds")

    def _by_file(self, weights: Weights, server: Server) -> None:
        from safetensors.torch import save_file

        try:
            folder = Path(mkdtemp(prefix="zero-weights-", dir=self.folder))
        except OSError as error:
            raise InputError("rollout.folder", self.folder, f"cannot be written ({error.strerror})") from error
        try:
            reply = self._call("take_files", str(folder), self.limit)
            count = 0
            for shard in shards(weights, server.dtype):
                try:
                    with replacing(folder / f"{count:06d}.safetensors") as partial:
                        save_file(shard, partial)
                except Exception as error:  # safetensors has errors of its own for a full disk
                    if not isinstance(error, OSError) and "os error" not in str(error).lower():
                        raise
                    remedy = f"cannot hold the weights ({error}); choose a larger folder, or rollout.transport=group"
                    raise InputError("rollout.folder", self.folder, remedy) from error
                count += 1
                wait_until(lambda: _unread(folder, server.workers) < MAX_UNREAD, reply, self.limit, self._silence())
            write_atomically(folder / "end", str(count), sync=False)
            self._wait(reply)
        except ServerError as error:
            if "no folder" in str(error):
                remedy = "the server does not see it: choose one on a file system of both, or rollout.transport=group"
                raise InputError("rollout.folder", self.folder, remedy) from error
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _by_group(self, weights: Weights, server: Server) -> None:
        if server.device != self.device.type:
            remedy = f"the learner is on {self.device.type}, the server on {server.device}; choose transport=file"
            raise InputError("rollout.transport", "group", remedy)
        self.serial += 1
        size, futures = server.workers + 1, list[Future[Any]]()

        def ask(host: str, port: int) -> Future[Any]:
            futures.append(self._call("take_group", host, port, size, self.serial, self.limit))
            return futures[0]

        if self.link is None:
            self.link = Link.open(self.client.url, size, self.device, self.limit, ask)
        else:
            ask(*self.link.endpoint)
        try:
            self.link.send(weights, self.serial, server.dtype, futures[0])
        except RuntimeError as error:  # gloo's, when the other side is gone
            if isinstance(error, ServerError):
                raise
            raise ServerError(self.client.url, f"lost while it took the weights ({error})") from error
        self._wait(futures[0])
        self.link.forget(self.serial)


def shards(weights: Weights, dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    """Copies on the CPU, at most SHARD bytes at a time or one larger weight. A weight is copied before the next is taken from
    the iterator."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in weights:
        copy = tensor.detach().to("cpu", dtype, copy=True).contiguous()
        if shard and size + copy.nbytes > SHARD:
            yield shard
            shard, size = {}, 0
        shard[name], size = copy, size + copy.nbytes
    if shard:
        yield shard


def _unread(folder: Path, workers: int) -> int:
    """The number of files that some worker has not read yet; removes the others."""
    unread = 0
    for path in folder.glob("*.safetensors"):
        marks = list(folder.glob(f"{path.stem}.taken-*"))
        if len(marks) < workers:
            unread += 1
        else:
            for file in (path, *marks):
                file.unlink()
    return unread


def _refuse_errors(url: str, results: Any) -> list[dict[str, Any]]:
    """The workers' replies. ServerError if one of them failed."""
    replies = [r if isinstance(r, dict) else {"error": f"answered {str(r)[:100]}"} for r in results]
    for worker in replies:
        if "error" in worker:
            raise ServerError(url, f"did not take over the weights: {worker['error']}")
    return replies
