"""Find and load a model: a folder, or a repository of the Hugging Face hub at a revision.

`find` checks within seconds that a repository is available, in the cache or at the hub, by one request with a time limit;
transformers itself would retry for a minute and end with a page of text. `load_model` then loads it.

Memory of training all parameters, beside activations and logits, in bytes for each:

    18  float32 weights 4, gradients 4, AdamW's two moments 8, and the copies of the weights that autocast makes for products
        in bfloat16 2 (beside embeddings and norms, which it does not round, exact ones stand, 4); or bfloat16 weights 2,
        float32 gradients 4, float32 weights 4 and moments 8, as DeepSpeed keeps them. Without bfloat16 16. Source:
        Rajbhandari et al. 2020, arXiv 1910.02054, section 3.1, with gradients in float32. On a GPU the torch learner's AdamW
        steps in one kernel without temporaries; DeepSpeed's takes 4 more, for a moment, of what its rank steps, and each
        bucket of its gradients holds up to 5e8 numbers
   + 4  the native rollout engine's own float32 weights
   + 4  the initial policy, where the algorithm compares with it, but not beside adapters (learner=lora)

and of a token in the cache of keys and values 2 x layers x key-value heads x head size x 2 bytes. The second line of each
conf/model/*.yaml is this arithmetic, in GB of 10^9 bytes, with the smallest card that leaves a fifth for the rest.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from logging import CRITICAL, ERROR, getLogger
from pathlib import Path
from typing import Any

from zero.config.check import model_folder
from zero.errors import Broken, InputError
from zero.models.generation import ends_of, make_storable
from zero.models.vocabulary import check_tokenizer
from zero.paths import CONF

Config = Mapping[str, Any]
PATIENCE = 5.0  # seconds for the hub's answer; HF_HUB_ETAG_TIMEOUT, where it is set, says otherwise
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
COMMIT = "[0-9a-f]{40}"
FROZEN = "frozen"  # of model.vision
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class Source:
    """What transformers loads: a folder, or a hub id and its revision."""

    path: str
    revision: str | None = None


@dataclass(frozen=True)
class Refusal:
    """Why the hub does not give a model, and the remedy."""

    reason: str
    remedy: str
    key: str = "model.path"


def find(config: Config) -> Source:
    """The model that a config (`path` and maybe `revision`) names, on this machine or at the hub; a complete copy in the cache
    is used if the hub does not give it. InputError says what is missing, with a remedy.
    """
    path, revision = str(config["path"]), config.get("revision")
    folder = model_folder(path)
    if Path(folder).is_dir():
        if revision is not None:
            remedy = f"belongs to a hub id, and model.path={path} is a folder; set model.revision=null"
            raise InputError("model.revision", revision, remedy)
        return Source(folder)
    if revision is not None and not (isinstance(revision, str) and revision):
        raise InputError("model.revision", revision, "must be text; put it in quotes: model.revision=\"'...'\"")
    return _at_hub(path, revision)


@cache  # one request for all runs of a process; a refusal raises and is not cached
def _at_hub(path: str, revision: str | None) -> Source:
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(path)
    except HFValidationError:
        raise InputError("model.path", path, "is neither a folder nor a hub id (OWNER/NAME)") from None
    copy = cached(path, revision)
    if copy and re.fullmatch(COMMIT, revision or ""):
        return Source(copy)  # a commit never changes
    offline = Refusal("HF_HUB_OFFLINE is set", _how_to_download(path, revision))
    refusal = offline if is_offline_mode() else ask(path, revision)
    if refusal is None:
        return Source(path, revision)
    if copy is None:
        value = path if refusal.key == "model.path" else revision
        remedy = f"{refusal.reason}, and the cache of this machine has no copy; {refusal.remedy}"
        raise InputError(refusal.key, value, remedy)
    if refusal is not offline:
        print(f"model {path}: {refusal.reason}; the copy in the cache of this machine is taken", file=sys.stderr)
    return Source(copy)  # not the id, with which transformers would ask the hub all the same


def cached(path: str, revision: str | None) -> str | None:
    """The folder of the hub's cache if it holds a complete model: config, tokenizer and every file of weights; else None."""
    folder = snapshot(path, revision)

    def has(name: str) -> bool:
        return folder is not None and (Path(folder) / name).is_file()

    complete = any(map(has, TOKENIZERS)) and any(has(name) and _complete(Path(folder or "") / name) for name in WEIGHTS)
    return folder if complete else None


def snapshot(path: str, revision: str | None) -> str | None:
    """The folder of a revision in the hub's cache, named after its commit, if it holds at least the config."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(path, "config.json", revision=revision)
    return str(Path(config).parent) if isinstance(config, str) else None


def _complete(weights: Path) -> bool:
    """Whether all files that an index of weights names are there; a single file of weights is complete."""
    if not weights.name.endswith(".index.json"):
        return True
    try:
        return all(
            (weights.parent / name).is_file() for name in set(json.loads(weights.read_text())["weight_map"].values())
        )
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return False  # a damaged index: download it again


def ask(path: str, revision: str | None) -> Refusal | None:
    """Ask the hub for the metadata of config.json: None if it is available, else why not."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub import errors as hub

    limit = float(constants.HF_HUB_ETAG_TIMEOUT) if os.environ.get("HF_HUB_ETAG_TIMEOUT") else PATIENCE
    home = constants.ENDPOINT
    licence = f"accept its licence at {home}/{path}, then log in: hf auth login, or set HF_TOKEN"
    try:
        get_hf_file_metadata(hf_hub_url(path, "config.json", revision=revision), timeout=limit)
    except hub.RevisionNotFoundError:
        remedy = f"take a branch, tag or commit of {home}/{path}/commits/main, or null for the newest"
        return Refusal(f"{path} has no such revision", remedy, key="model.revision")
    except hub.EntryNotFoundError:
        return Refusal("it has no config.json", "choose a model that transformers can load")
    except hub.GatedRepoError:
        return Refusal(f"{home} gives it only to those who agreed to its licence", licence)
    except hub.RepositoryNotFoundError:
        remedy = f"{_nearest(path)}if it is private, log in: hf auth login, or set HF_TOKEN"
        return Refusal(f"{home} shows no such model", remedy)
    except hub.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            return Refusal(f"{home} refuses it (status {status})", licence)
        if status == 404:
            return Refusal(f"{home} has no such model", f"{_nearest(path)}or give model.path=FOLDER")
        return Refusal(f"{home} answers with status {status}", _how_to_download(path, revision))
    except Exception as error:  # of the HTTP client of this version of huggingface_hub
        return Refusal(f"{home} cannot be reached ({type(error).__name__})", _how_to_download(path, revision))
    return None


def _how_to_download(path: str, revision: str | None) -> str:
    flag = f" --revision {revision}" if revision else ""
    return (
        f"where there is a network: hf download {path}{flag}; then here, with that cache (HF_HOME), HF_HUB_OFFLINE=1; "
        "or give model.path=FOLDER"
    )


def _nearest(path: str) -> str:
    """'did you mean ...? ' with the closest hub id in conf/model, else 'correct it, '."""
    files = sorted((CONF / "model").glob("*.yaml"))
    known = {match[1]: file.stem for file in files if (match := re.search(r"^path: (\S+)", file.read_text(), re.M))}
    close = difflib.get_close_matches(path, list(known), n=1, cutoff=0.75)
    return f"did you mean {close[0]} (model={known[close[0]]})? " if close else "correct it, "


def load_model(config: Config, weights: bool = True) -> tuple[Any, Any, int]:
    """The model in float32 (a causal language model, or a vision-language model of a family in zero.models.vision), its
    tokenizer, and the context length in tokens. Imports torch.

    Without `weights` the model has shapes alone: for an engine that brings its own. What turns pixels into features needs no
    gradient if `vision` of the config is frozen.
    """
    source = find(config)

    import torch
    import transformers.utils

    # Else transformers imports scikit-learn and scipy (seconds), for assisted decoding and image boxes, unused here.
    transformers.utils.is_sklearn_available = transformers.utils.is_scipy_available = lambda: False
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    from zero.models.vision import vision_parameters

    logging.set_verbosity(CRITICAL)  # it prints a table of mismatches; our own errors name them
    getLogger("huggingface_hub").setLevel(ERROR)  # it logs every retry; our own errors say what failed
    logging.disable_progress_bar()
    options = {"revision": source.revision or "main", "trust_remote_code": False}  # never run a repository's code
    model: Any
    loaded: Mapping[str, Any] = {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, **options)
        shape = AutoConfig.from_pretrained(source.path, **options)
        auto = auto_class(shape.model_type, config["path"])
        if weights:
            model, loaded = auto.from_pretrained(source.path, dtype=torch.float32, output_loading_info=True, **options)
        else:
            with torch.device("meta"):
                model = auto.from_config(shape)
        fetch_processor(source, shape.model_type)
    except (MemoryError, InputError):
        raise
    except Exception as error:  # transformers and its libraries raise many kinds for bad files
        if "can't start new thread" in str(error):  # of Python's own, which transformers loads weights with
            remedy = "run less at once, lower threads, or raise the limit of processes (ulimit -u)"
            raise Broken(f"loading the model: {error}; {remedy}") from error
        raise InputError("model.path", config["path"], _broken(error)) from error
    check_tokenizer(tokenizer, model.config, config["path"])
    if weights:
        _check_weights(model, loaded, config["path"])
        make_storable(model)
    if config.get("vision") == FROZEN:
        for name in vision_parameters(model):
            model.get_parameter(name).requires_grad_(False)
    if revision := commit(config):
        print(f"model {config['path']}: commit {revision}", file=sys.stderr)
    return model, tokenizer, context_of(config["context"], model.config)


def auto_class(model_type: str, path: str) -> Any:
    """The class of transformers that loads models of this type. InputError for a family with images that is not read."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto import modeling_auto as known

    from zero.models.vision import FAMILIES, KNOWN

    if model_type in FAMILIES:
        return AutoModelForImageTextToText
    unread = known.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys() - known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if model_type in unread | {"mllama"}:  # Llama 3.2 Vision's language model would be loaded without what it sees with
        raise InputError("model.path", path, f"of models with images {KNOWN} are read, not {model_type}")
    return AutoModelForCausalLM


def fetch_processor(source: Source, model_type: str) -> None:
    """Put the files of a model's image processor into the hub's cache, as far as the hub has them."""
    from transformers.utils import cached_file

    from zero.models.vision import FAMILIES, FILES

    if model_type not in FAMILIES or Path(source.path).is_dir():
        return
    for name in FILES:
        cached_file(source.path, name, revision=source.revision or "main", _raise_exceptions_for_missing_entries=False)


def context_of(requested: int | None, config: Any) -> int:
    """The context length in tokens: `requested` if it is within the limit of the model's config, by default that limit."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    limit = limit if isinstance(limit, int) and limit > 0 else None  # -1 for models without one
    if requested is None and limit is None:
        remedy = "the model's config names no limit; give one: model.context=2048"
        raise InputError("model.context", "null", remedy)
    if requested is not None and limit is not None and requested > limit:
        raise InputError("model.context", requested, f"the model's own limit is {limit} tokens; set it within that")
    return requested or int(limit or 0)


def _broken(error: Exception) -> str:
    """What is wrong with a model's files, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines[0] += f" {lines[1].strip()}"
    elif isinstance(error, TypeError | AttributeError | AssertionError | ArithmeticError):
        lines[0] = f"{type(error).__name__}: {lines[0]}"
    if "ignore_mismatched_sizes" in lines[0]:
        return "its weights have other shapes than its config.json says; the files of two models are mixed"
    if type(error).__name__ in ("SafetensorError", "UnpicklingError"):
        return f"a file of its weights is damaged or cut short ({lines[0][:120]}); copy or download it again"
    return f"transformers cannot load it ({lines[0][:200]})"


def _check_weights(model: Any, loaded: Mapping[str, Any], path: str) -> None:
    """InputError for weights that are quantized, missing (transformers would fill in random numbers), NaN or infinite."""
    import torch

    if quantized := getattr(model.config, "quantization_config", None):
        kind = getattr(quantized, "quant_method", "") or "integers of few bits"
        raise InputError(
            "model.path", path, f"its weights are quantized ({kind}) and cannot be trained; take the original"
        )
    if missing := sorted(loaded["missing_keys"]):
        remedy = f"its files lack {len(missing)} weights ({missing[0]}, ...); copy or download all of them again"
        raise InputError("model.path", path, remedy)
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():  # the sum is one pass without copies
            raise InputError(
                "model.path", path, f"its weight {name} holds NaN or infinite numbers; take an earlier copy"
            )


def commit(config: Config) -> str | None:
    """The commit of a hub model that has been loaded: as model.revision it always names these weights."""
    path = config["path"]
    folder = None if Path(model_folder(path)).is_dir() else snapshot(path, config.get("revision"))
    return Path(folder).name if folder else None


def configured_ends(config: Config) -> set[int]:
    """The end tokens that the model's files name. Call it once the model has been loaded."""
    return ends_of(local_path(config))


def local_path(config: Config) -> str:
    """The folder on this machine of a model that has been loaded."""
    path = model_folder(config["path"])
    return path if Path(path).is_dir() else snapshot(path, config.get("revision")) or path
