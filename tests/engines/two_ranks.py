"""Two processes, each with prompts of its own: `torchrun --nproc_per_node=2 -m tests.engines.two_ranks OUT TENSOR_PARALLEL`.

Rank 0 writes what all ranks drew, as JSON: one list of [ids, logprobs] for each prompt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from tests.engines.contract import LONG, TEXTS, model_of, prompts_of, shaken
from tests.engines.test_vllm import SAMPLING, engine_of
from zero.distributed import World
from zero.records import Sampling
from zero.runtime import prepare

KIND = "tied"
COUNTS = (5, 1)  # prompts of all ranks together: uneven, and none at all for rank 0


def main(out: Path, tensor_parallel: int) -> None:
    from transformers import AutoTokenizer

    from tests.conftest import BASE

    prepare(threads=1)
    world = World.join()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = model_of(KIND, tokenizer)
    state = torch.get_rng_state()
    engine = engine_of(model, tokenizer, tensor_parallel=tensor_parallel)
    assert torch.equal(state, torch.get_rng_state())
    samples = []
    for version, count in enumerate(COUNTS):
        engine.sync((model if version == 0 else shaken(model, 1)).named_parameters(), version)
        prompts = world.shard(prompts_of(tokenizer, [*TEXTS, LONG][:count]))
        with engine.awake():
            groups = world.all_gather(engine.generate(prompts, 4, SAMPLING))
            own = engine.generate(prompts, 1, Sampling(3 + world.rank))  # what ranks ask for may differ
            assert {len(group[0].ids) for group in own} <= {3 + world.rank}
        samples.append([[[c.ids, c.logprobs] for c in group] for group in groups])
    if world.is_main:
        out.write_text(json.dumps(samples))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
