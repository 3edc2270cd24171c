"""A process group of the learner and a server's workers, separate from torch.distributed's global state."""

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
POLL_SECONDS = 0.003
Weights = Iterable[tuple[str, Tensor]]


class Link:
    """A process group of the learner and a server's workers, separate from the groups that either side has. `endpoint` is
    the host and port of its store; no wait is longer than `limit` seconds."""

    def __init__(
        self, endpoint: tuple[str, int], store: TCPStore, group: Any, device: torch.device, limit: float
    ) -> None:
        self.endpoint, self.store, self.group, self.device, self.limit = endpoint, store, group, device, limit

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
        """The learner's end, for the server at `url`. `ask(host, port)` has its workers join; an early reply is an error."""
        address = own_address(urlsplit(url).hostname or "")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, 0), family=family) as listener:
            port = listener.getsockname()[1]
            store = TCPStore(
                address,
                port,
                is_master=True,
                timeout=timedelta(seconds=limit),
                wait_for_workers=False,
                master_listen_fd=listener.detach(),
            )
        reply = ask(address, port)
        workers = [f"here/{rank}" for rank in range(1, size)]
        silence = ServerError(url, "its workers did not come to take weights")
        wait_until(lambda: store.check(workers), reply, limit, silence)
        return cls((address, port), store, _group(store, address, LEARNER, size, device, limit), device, limit)

    def send(self, weights: Weights, serial: int, dtype: torch.dtype, reply: Future[Any]) -> None:
        """Broadcast all weights as transfer number `serial`. The store holds a header with name, shape and dtype for each,
        and one for the end."""
        i, complete = 0, False
        try:
            for name, tensor in weights:
                refuse_early(reply)
                sent = tensor.detach().to(self.device, dtype).contiguous()
                header = {"name": name, "shape": list(sent.shape), "dtype": str(dtype).removeprefix("torch.")}
                self.store.set(f"{serial}/{i}", json.dumps(header))
                self._broadcast(sent)
                i += 1
            complete = True
        finally:
            self.store.set(f"{serial}/{i}", json.dumps({"end": complete}))

    def receive(self, serial: int) -> Iterator[tuple[str, Tensor]]:
        """The weights that `send` sends as transfer number `serial`."""
        i = 0
        while True:
            key = f"{serial}/{i}"
            header = json.loads(self.store.get(key))  # waits for the store's timeout at most
            if "end" in header:
                if not header["end"]:
                    raise RuntimeError("the learner gave up")
                return
            tensor = torch.empty(header["shape"], dtype=getattr(torch, header["dtype"]), device=self.device)
            self._broadcast(tensor)
            yield header["name"], tensor
            i += 1

    def forget(self, serial: int) -> None:
        """Delete the headers of a past transfer from the store."""
        i = 0
        while self.store.delete_key(f"{serial}/{i}"):
            i += 1

    def _broadcast(self, tensor: Tensor) -> None:
        options = BroadcastOptions()
        options.rootRank = LEARNER
        self.group.broadcast([tensor], options).wait(timedelta(seconds=self.limit))
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)  # the learner's next tensor may reuse this one's memory


def _group(store: TCPStore, address: str, rank: int, size: int, device: torch.device, limit: float) -> Any:
    """A group outside torch.distributed's global state, where the server and the learner have groups of their own."""
    timeout = timedelta(seconds=limit)
    group: Any
    if device.type == "cuda":
        from torch.distributed import ProcessGroupNCCL

        settings = ProcessGroupNCCL.Options()
        settings._timeout = timeout
        group = ProcessGroupNCCL(store, rank, size, settings)
    else:
        from torch.distributed import ProcessGroupGloo

        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._timeout = timeout
        options._devices = [ProcessGroupGloo.create_device(hostname=address)]
        group = ProcessGroupGloo(store, rank, size, options)
    group._set_sequence_number_for_group()
    return group


def own_address(toward: str) -> str:
    """This machine's address on the route to host `toward`. Nothing is sent."""
    family, kind, _, _, address = socket.getaddrinfo(toward, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def wait_until(condition: Callable[[], bool], reply: Future[Any], limit: float, silence: ServerError) -> None:
    """Wait for `condition`, `limit` seconds at most, then raise `silence`. An early reply of the server is an error."""
    since = time.monotonic()
    while not condition():
        refuse_early(reply)
        if time.monotonic() - since > limit:
            raise silence
        time.sleep(POLL_SECONDS)


def refuse_early(reply: Future[Any]) -> None:
    """If the server has replied before the transfer ended: raise its error, or RuntimeError."""
    if reply.done():
        reply.result()
        raise RuntimeError("the server says that it has all weights before they were sent")
