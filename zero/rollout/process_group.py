"""A process group of the learner and the workers of a server, made and used apart from torch.distributed's global state."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torch.distributed import BroadcastOptions, TCPStore

from zero.rollout.http import ServerError

LEARNER = 0  # its rank in the group; the server's workers follow
GLANCE = 0.003  # seconds between two looks
Weights = Iterable[tuple[str, Tensor]]


class Link:
    """A process group of the learner and the workers of a server, apart from the groups that either side has."""

    def __init__(self, place: tuple[str, int], store: TCPStore, group: Any, device: torch.device, limit: float) -> None:
        self.place, self.store, self.group, self.device, self.limit = place, store, group, device, limit

    @classmethod
    def join(cls, host: str, port: int, rank: int, size: int, device: torch.device, limit: float) -> Link:
        """A worker's end."""
        store = TCPStore(host, port, None, False, timeout=timedelta(seconds=limit), wait_for_workers=False)
        store.set(f"here/{rank}", "")
        return cls((host, port), store, _group(store, own_address(host), rank, size, device, limit), device, limit)

    @classmethod
    def open(
        cls, url: str, size: int, device: torch.device, limit: float, ask: Callable[[str, int], Future[Any]]
    ) -> Link:
        """The learner's end, for the server at `url`; `ask` tells its workers where to come and is watched meanwhile."""
        address = own_address(urlsplit(url).hostname or "")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, 0), family=family) as listener:
            port = listener.getsockname()[1]
            store = TCPStore(address, port, None, True, timeout=timedelta(seconds=limit), wait_for_workers=False,
                             master_listen_fd=listener.detach())  # fmt: skip
        reply = ask(address, port)
        workers = [f"here/{rank}" for rank in range(1, size)]
        until(lambda: store.check(workers), reply, limit, ServerError(url, "its workers did not come to take weights"))
        return cls((address, port), store, _group(store, address, LEARNER, size, device, limit), device, limit)

    def send(self, weights: Weights, serial: int, dtype: torch.dtype, reply: Future[Any]) -> None:
        """All weights, by broadcast; the store says name, shape and dtype of each, and where they end."""
        i, whole = 0, False
        try:
            for name, tensor in weights:
                refuse_early(reply)
                sent = tensor.detach().to(self.device, dtype).contiguous()
                about = {"name": name, "shape": list(sent.shape), "dtype": str(dtype).removeprefix("torch.")}
                self.store.set(f"{serial}/{i}", json.dumps(about))
                self._broadcast(sent)
                i += 1
            whole = True
        finally:
            self.store.set(f"{serial}/{i}", json.dumps({"end": whole}))

    def received(self, serial: int) -> Iterator[tuple[str, Tensor]]:
        """What `send` sends."""
        i = 0
        while True:
            key = f"{serial}/{i}"
            about = json.loads(self.store.get(key))  # waits, at most as long as the store's timeout
            if "end" in about:
                if not about["end"]:
                    raise RuntimeError("the learner gave up")
                return
            tensor = torch.empty(about["shape"], dtype=getattr(torch, about["dtype"]), device=self.device)
            self._broadcast(tensor)
            yield about["name"], tensor
            i += 1

    def forget(self, serial: int) -> None:
        """Drop what the store still says of a past transfer."""
        i = 0
        while self.store.delete_key(f"{serial}/{i}"):
            i += 1

    def _broadcast(self, tensor: Tensor) -> None:
        options = BroadcastOptions()
        options.rootRank = LEARNER
        self.group.broadcast([tensor], options).wait(timedelta(seconds=self.limit))
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)  # the learner's next tensor may take this one's place


def _group(store: TCPStore, address: str, rank: int, size: int, device: torch.device, limit: float) -> Any:
    """A group that torch.distributed's global state knows nothing of: the server and the learner have their own there."""
    patience = timedelta(seconds=limit)
    group: Any
    if device.type == "cuda":
        from torch.distributed import ProcessGroupNCCL

        settings = ProcessGroupNCCL.Options()
        settings._timeout = patience
        group = ProcessGroupNCCL(store, rank, size, settings)
    else:
        from torch.distributed import ProcessGroupGloo

        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = patience
        options._devices = [ProcessGroupGloo.create_device(hostname=address)]
        group = ProcessGroupGloo(store, rank, size, options)
    group._set_sequence_number_for_group()
    return group


def own_address(toward: str) -> str:
    """The address of this machine that `toward` sees. Nothing is sent."""
    family, kind, _, _, place = socket.getaddrinfo(toward, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(place)
        return str(probe.getsockname()[0])


def until(fact: Callable[[], bool], reply: Future[Any], limit: float, silence: ServerError) -> None:
    """Wait for it, while the server has not answered: it answers at the end, or because it failed."""
    since = time.monotonic()
    while not fact():
        refuse_early(reply)
        if time.monotonic() - since > limit:
            raise silence
        time.sleep(GLANCE)


def refuse_early(reply: Future[Any]) -> None:
    """Raise what the call raised, or RuntimeError if the server has answered: nothing is due yet."""
    if reply.done():
        reply.result()
        raise RuntimeError("the server says that it has all weights before they were sent")
