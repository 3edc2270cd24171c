"""How a vLLM worker takes over the learner's weights. vLLM mixes this class into its worker (worker_extension_cls).

What vLLM 0.32's own reload_weights leaves to its caller: a weight that never came only gives a warning, and the layer keeps
whatever it had; the vocabulary must fit; on a CPU the output embedding keeps a packed copy that a reload of the input
embedding tied to it does not renew. The prefix cache must be reset by whoever asks for `take_over`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from torch import Tensor

# Tensors of an attention layer that have a pool of their own, or that every reload makes anew (process_weights_after_loading).
RENEWED = ("kv_cache", "_k_scale_cpu", "_v_scale_cpu")
Shapes = dict[str, tuple[int, ...]]


class WeightReceiver:
    """Mixed into vLLM's worker, so it has no constructor and no names that the worker has; see its `take_over`."""

    def take_over(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights by those that the learner's `named_parameters` would give: Hugging Face's names, tied ones once.

        Lazy: a weight is asked for once the one before it is copied, and all are asked for whatever happens, because other
        ranks may have to take part in the making of each. Any floating dtype, any device. Rows of the vocabulary beyond the
        engine's are cut. RuntimeError names weights that came and are none of the model's, and those that never came. After
        an error, the sender's own included, the engine's weights are worth nothing, and the next `take_over` mends them.
        """
        worker: Any = self
        config = _config(worker.model_config.model)
        known, needed = _shapes(worker.model_config.model)
        vocabulary = config.get_text_config().vocab_size
        came: set[str] = set()
        wrong: list[str] = []
        broken: list[Exception] = []

        def fitting() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in _until_broken(weights, broken):
                if name not in known:
                    wrong.append(f"{name} is none of the model's")
                elif name in needed and name not in came:
                    rows = vocabulary if needed[name][0] == vocabulary else len(tensor)
                    if tuple(tensor[:rows].shape) == needed[name]:
                        came.add(name)
                        # a copy: vLLM holds the parts of a layer until it is whole, the learner may free them sooner
                        yield name, tensor[:rows].detach().clone()
                    else:
                        wrong.append(f"{name} has shape {tuple(tensor.shape)}, not {needed[name]}")

        stream = fitting()
        try:
            lost = _reload(worker, stream)
        finally:
            for _ in stream:
                pass
        if broken:
            raise broken[0]
        wrong += [f"{name} never came" for name in needed if name not in came]
        wrong += [f"{name} of the engine was not loaded" for name in lost]
        if wrong:
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise RuntimeError(f"vLLM cannot take over the weights: {', '.join(wrong[:5])}{more}")

    def loose_tensors(self) -> list[str]:
        """Tensors of the model that are neither parameters nor buffers, such as ALiBi's slopes. vLLM's sleep of level 2 loses
        them: it keeps the buffers, and `take_over` brings the parameters."""
        worker: Any = self
        tensors = []
        for name, module in worker.get_model().named_modules():
            for owner in (module, getattr(module, "impl", None)):
                held = vars(owner) if hasattr(owner, "__dict__") else {}
                tensors += [
                    f"{name}.{key}" for key, value in held.items() if isinstance(value, Tensor) and key not in RENEWED
                ]
        return tensors


def _until_broken(weights: Iterable[tuple[str, Tensor]], broken: list[Exception]) -> Iterator[tuple[str, Tensor]]:
    """The weights up to an error in their making, which goes to `broken`: vLLM left in the middle could not reload again."""
    try:
        yield from weights
    except Exception as error:
        broken.append(error)


def _reload(worker: Any, weights: Iterator[tuple[str, Tensor]]) -> list[str]:
    """vLLM's reload; the parameters of its model that it says it did not load."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    model = worker.get_model()
    own = [name for name, _ in model.named_parameters()]
    load, loaded = model.load_weights, set(own)

    def load_and_tell(weights: Iterator[tuple[str, Tensor]]) -> Any:
        names = load(weights)
        if names is not None:  # a few models do not say
            loaded.intersection_update(names)
        return names

    model.load_weights = load_and_tell  # reload_weights keeps the answer to itself
    try:
        worker.reload_weights(weights_iterator=weights)
    finally:
        del model.load_weights
    if worker.device.type == "cpu":
        for layer in model.modules():
            if isinstance(layer, VocabParallelEmbedding) and hasattr(layer, "cpu_linear"):
                layer.quant_method.process_weights_after_loading(layer)
        runner = worker.model_runner
        if runner.intermediate_tensors is None and hasattr(model, "make_empty_intermediate_tensors"):
            # what comes from the stage before, if there is one; a CPU's worker makes room for it only where it compiles
            runner.intermediate_tensors = model.make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=worker.device
            )
    return [name for name in own if name not in loaded]


def _config(folder: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


@lru_cache(maxsize=2)
def _shapes(folder: str) -> tuple[Shapes, Shapes]:
    """Name -> shape of the parameters of the model in `folder`: all, tied ones under each of their names, and each once."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_config(folder))
    model.tie_weights()
    every = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    return every, {name: tuple(p.shape) for name, p in model.named_parameters()}
