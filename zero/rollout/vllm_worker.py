"""How a vLLM worker takes over the learner's weights. vLLM mixes this class into its worker (worker_extension_cls).

Added to vLLM 0.32's own reload_weights: a missing weight is an error (vLLM only warns, and the layer keeps its old one); the
vocabulary is cut to size; on a CPU the packed copy of the output embedding is renewed when the input embedding tied to it
is reloaded. The caller of `take_over` must reset the prefix cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from torch import Tensor

# Tensors of an attention layer that have a pool of their own, or that every reload recomputes (process_weights_after_loading)
RECOMPUTED = ("kv_cache", "_k_scale_cpu", "_v_scale_cpu")
Shapes = dict[str, tuple[int, ...]]


class WeightReceiver:
    """A mixin for vLLM's worker: it has no constructor, and no names that the worker has. See `take_over`."""

    def take_over(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights by those of the learner's `named_parameters`: Hugging Face's names, tied ones once.

        A weight is taken from the iterator once the one before it is copied, and the iterator is exhausted whatever happens,
        because its weights may be collective. Any floating dtype, any device. Rows of the vocabulary beyond the engine's
        are cut. RuntimeError names weights that are not the model's, and those that are missing. After an error, the
        sender's included, the engine's weights are undefined until the next `take_over`.
        """
        worker: Any = self
        config = _config(worker.model_config.model)
        known, needed = _shapes(worker.model_config.model)
        vocabulary = config.get_text_config().vocab_size
        nested = hasattr(getattr(worker.get_model(), "vision_tower", None), "vision_model")
        received: set[str] = set()
        problems: list[str] = []
        errors: list[Exception] = []

        def usable() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in _until_error(weights, errors):
                if name not in known:
                    problems.append(f"{name} is none of the model's")
                elif name in needed and name not in received:
                    rows = vocabulary if needed[name][0] == vocabulary else len(tensor)
                    if tuple(tensor[:rows].shape) == needed[name]:
                        received.add(name)
                        # A copy: vLLM holds the weights of a layer until it has all, the learner may free them sooner
                        yield _vllm_name(name, nested), tensor[:rows].detach().clone()
                    else:
                        problems.append(f"{name} has shape {tuple(tensor.shape)}, not {needed[name]}")

        stream = usable()
        try:
            not_loaded = _reload(worker, stream)
        finally:
            for _ in stream:
                pass
        if errors:
            raise errors[0]
        problems += [f"{name} never came" for name in needed if name not in received]
        problems += [f"{name} of the engine was not loaded" for name in not_loaded]
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise RuntimeError(f"vLLM cannot take over the weights: {', '.join(problems[:5])}{more}")

    def loose_tensors(self) -> list[str]:
        """Names of the model's tensors that are neither parameters nor buffers, such as ALiBi's slopes. A sleep of level 2
        loses them: vLLM keeps the buffers, and `take_over` brings the parameters."""
        worker: Any = self
        tensors = []
        for name, module in worker.get_model().named_modules():
            for owner in (module, getattr(module, "impl", None)):
                attributes = vars(owner) if hasattr(owner, "__dict__") else {}
                tensors += [
                    f"{name}.{key}"
                    for key, value in attributes.items()
                    if isinstance(value, Tensor) and key not in RECOMPUTED
                ]
        return tensors


def _vllm_name(name: str, nested: bool) -> str:
    """A weight's name in the files that vLLM reads. The towers of CLIP and SigLIP are `nested` there a level deeper than in
    transformers' models."""
    tower = "model.vision_tower."
    return name.replace(tower, f"{tower}vision_model.") if nested and name.startswith(tower) else name


def _until_error(weights: Iterable[tuple[str, Tensor]], errors: list[Exception]) -> Iterator[tuple[str, Tensor]]:
    """The weights up to an error of their iterator, which is added to `errors`: an error within vLLM's reload would leave it
    unable to reload again."""
    try:
        yield from weights
    except Exception as error:
        errors.append(error)


def _reload(worker: Any, weights: Iterator[tuple[str, Tensor]]) -> list[str]:
    """Run vLLM's reload_weights; returns the names of the model's parameters that it did not load."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    model = worker.get_model()
    parameters = [name for name, _ in model.named_parameters()]
    load, loaded = model.load_weights, set(parameters)

    def load_and_record(weights: Iterator[tuple[str, Tensor]]) -> Any:
        names = load(weights)
        if names is not None:  # None from a few models
            loaded.intersection_update(names)
        return names

    model.load_weights = load_and_record  # reload_weights does not return the names
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
            # Inputs from the previous pipeline stage, which a CPU worker allocates only if it compiles
            runner.intermediate_tensors = model.make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=worker.device
            )
    return [name for name in parameters if name not in loaded]


def _config(folder: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


@lru_cache(maxsize=2)
def _shapes(folder: str) -> tuple[Shapes, Shapes]:
    """Name -> shape of the parameters of the model in `folder`: with tied ones under each of their names, and with each once."""
    import torch

    from zero.models.load import auto_class

    config = _config(folder)
    with torch.device("meta"):
        model = auto_class(config.model_type, folder).from_config(config)
    model.tie_weights()
    all_names = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    return all_names, {name: tuple(p.shape) for name, p in model.named_parameters()}
