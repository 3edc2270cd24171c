"""One of two ranks with a ServerEngine: python -m tests.rollout.server_ranks URL FOLDER. Prints what it saw, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed import all_reduce

from tests.conftest import BASE, tiny_config
from zero.distributed import World
from zero.records import Prompt, Question, Sampling
from zero.rollout import ModelSpec
from zero.rollout.server import ServerEngine
from zero.runtime import prepare

VERSION = 3


def main(url: str, folder: str) -> None:
    from transformers import AutoTokenizer

    device, world, tokenizer = prepare(threads=1), World.join(), AutoTokenizer.from_pretrained(BASE)
    engine = ServerEngine(
        ModelSpec(tiny_config("qwen2", len(tokenizer) + 8), tokenizer, 64, torch.float32, device),
        url=url,
        transport="file",
        folder=folder,
        timeout=20.0,
        concurrency=4,
    )
    seen = 0

    def gathered(kind: str) -> Iterator[tuple[str, Tensor]]:
        nonlocal seen
        for i in range(12):
            tensor = torch.ones(4)
            all_reduce(tensor)  # hangs unless the other rank comes here, too
            seen += 1
            yield f"{kind}.{i}", tensor

    result: dict[str, object] = {}
    try:
        engine.sync(gathered("bad"), VERSION)
    except RuntimeError as error:
        result["fault"] = str(error)
    engine.sync(gathered("good"), VERSION)
    prompts = [Prompt(Question("x", ("1",), str(i)), "x", (5, 6), (0, 0, 0, i)) for i in range(3)]
    samples = [c for group in engine.generate(world.shard(prompts), 2, Sampling(1)) for c in group]
    result |= {"versions": sorted({c.version for c in samples}), "rows": len(samples)}
    print(json.dumps(result | {"weights": seen}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
