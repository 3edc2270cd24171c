"""The list of models, and how one of them is found, loaded and stored."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma3Config,
    LlamaConfig,
    LlavaConfig,
    Qwen2_5_VLConfig,
    Qwen3Config,
    Qwen3VLConfig,
    SmolVLMConfig,
)

from launch.cost.shapes import SHAPES
from tests.conftest import BASE, ROOT
from tests.gpu.shapes import qwen2_shape
from tests.hub import COMMIT, serving
from zero.errors import Broken, InputError
from zero.models.export import export_dtype, store_as
from zero.models.load import cached, configured_ends, find, load_model
from zero.models.vision import vision_parameters

FILES = sorted((ROOT / "conf" / "model").glob("*.yaml"))
OWN = (
    "hf",
    "nano",
    "nano_plain",
    "nano_domain",
    "nano_search",
    "nano_code",
    "nano_rules",
    "nano_vl",
)  # a model of the user's, and the embedded ones
DEEPSEEK = "<\uff5cend\u2581of\u2581sentence\uff5c>"  # U+FF5C and U+2581
ENDS = {  # how the option's name begins -> the tokens that may end a response
    "deepseek": {DEEPSEEK},
    "r1_distill": {DEEPSEEK},
    "llama": {"<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"},
    "oat_zero_3b": {"<|end_of_text|>", "<|eot_id|>"},
    "mistral": {"</s>"},
    "rho": {"</s>"},
    "pythia": {"<|endoftext|>"},
    "smolvlm": {"<end_of_utterance>", "<|im_end|>"},
    "gemma3": {"<end_of_turn>", "<eos>"},
    "llava": {"</s>"},
    "": {"<|endoftext|>", "<|im_end|>"},
}


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, Any]]:
    """Each option as its file has it."""
    return {file.stem: yaml.safe_load(file.read_text()) for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_option_is_complete(file: Path, models: dict[str, dict[str, Any]]) -> None:
    name, text, model = file.stem, file.read_text(), models[file.stem]
    keys = [key for key in model if key != "recipe"]  # which some files change in a place
    assert keys == ["defaults", "path", "revision", "dtype", "context", "stop", "stop_text"]
    [recipe, itself] = model["defaults"]
    assert itself == "_self_" and (ROOT / f"conf/model/recipe/{recipe['recipe']}.yaml").is_file()
    assert text.isascii() and text.startswith("# ")
    assert all("#" in line or line.startswith("path:") for line in text.splitlines() if name not in OWN)
    assert model["revision"] is None and model["dtype"] in ("float32", "bfloat16", *([None] if name == "hf" else []))
    if name == "hf":
        assert model["path"] == "???" and model["stop"] == [] and model["context"] is None
        return
    ends = next(ends for begin, ends in ENDS.items() if name.startswith(begin))
    assert set(model["stop"]) <= ends and len(set(model["stop"])) == len(model["stop"]) > 0
    if name.endswith("_instruct"):
        assert model["stop"][0] in ("<|im_end|>", "<|eot_id|>")  # a chat model ends its turn
    if name in SHAPES:
        assert text.splitlines()[1] == SHAPES[name].hint
        assert 512 <= model["context"] <= SHAPES[name].most
    else:
        assert name in (*OWN, "pythia_14m")


def test_hub_ids_are_well_formed_and_unique(models: dict[str, dict[str, Any]]) -> None:
    ids = [model["path"] for name, model in models.items() if name not in OWN]
    assert all(re.fullmatch(r"[\w-]+/[\w.-]+", path) and len(path) <= 96 for path in ids)
    assert len(set(ids)) == len(ids) >= 40 and set(SHAPES) <= set(models)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("qwen2_5_0_5b", lambda: qwen2_shape("0.5b")),
        ("qwen2_5_1_5b", lambda: qwen2_shape("1.5b")),
        ("llama3_2_1b", lambda: LlamaConfig(
            hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64,
            intermediate_size=8192, vocab_size=128256, tie_word_embeddings=True)),
        ("qwen3_0_6b_base", lambda: Qwen3Config(
            hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
            intermediate_size=3072, vocab_size=151936, tie_word_embeddings=True)),
    ],
)  # fmt: skip
def test_parameters_are_counted_as_transformers_builds_them(name: str, config: Any) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config())
    assert SHAPES[name].parameters == sum(parameter.numel() for parameter in model.parameters())


def qwen_vl(kind: Any, text: dict[str, Any], vision: dict[str, Any]) -> Any:
    tied = text["tie_word_embeddings"]
    return kind(text_config=text, vision_config=vision, tie_word_embeddings=tied)


def clip_or_siglip(inner: int, width: int, layers: int, side: int, patch: int, **more: Any) -> dict[str, Any]:
    sizes = dict(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, image_size=side, patch_size=patch
    )
    return sizes | {"num_attention_heads": 16} | more


SEEING: dict[str, Callable[[dict[str, Any]], Any]] = {
    "qwen2_5_vl_3b": lambda text: qwen_vl(Qwen2_5_VLConfig, text, dict(
        depth=32, hidden_size=1280, intermediate_size=3420, out_hidden_size=2048, num_heads=16)),
    "qwen3_vl_8b": lambda text: qwen_vl(Qwen3VLConfig, text, dict(
        depth=27, hidden_size=1152, intermediate_size=4304, out_hidden_size=4096, num_heads=16, num_position_embeddings=2304,
        deepstack_visual_indexes=[8, 16, 24])),
    "smolvlm_256m": lambda text: SmolVLMConfig(text_config=text | {"model_type": "llama"}, scale_factor=4,
        tie_word_embeddings=False, vision_config=clip_or_siglip(3072, 768, 12, 512, 16)),
    "llava_1_5_7b": lambda text: LlavaConfig(text_config=text | {"model_type": "llama"},
        tie_word_embeddings=False, vision_config=clip_or_siglip(4096, 1024, 24, 336, 14, model_type="clip_vision_model")),
    "gemma3_4b": lambda text: Gemma3Config(text_config=text,
        vision_config=clip_or_siglip(4304, 1152, 27, 896, 14, vision_use_head=False)),  # as in its config.json
}  # fmt: skip


@pytest.mark.parametrize("name", SEEING)
def test_what_sees_is_counted_as_transformers_builds_it(name: str) -> None:
    shape = SHAPES[name]
    text = dict(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv,
        head_dim=shape.size,
        intermediate_size=shape.inner,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(SEEING[name](text))
    seeing = vision_parameters(model)
    counts = {key: parameter.numel() for key, parameter in model.named_parameters()}
    assert shape.parameters == sum(counts.values())
    assert shape.tower and shape.tower.parameters == sum(counts[key] for key in seeing)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (
            {"path": "zero/nano/base", "revision": "main"},
            r"model\.revision=main: belongs to a hub id, and model\.path=zero/nano/base is a folder; .*=null",
        ),
        ({"path": "a/b/c"}, r"model\.path=a/b/c: is neither a folder nor a hub id"),
        ({"path": "owner/two words"}, r"model\.path=owner/two words: is neither a folder nor a hub id"),
        ({"path": "owner/name", "revision": 1234567}, r"model\.revision=1234567: must be text; put it in quotes"),
        ({"path": "owner/name", "revision": ""}, r"model\.revision=: must be text"),
    ],
)
def test_what_cannot_be_a_model_is_refused_without_a_request(config: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError, match=error):
        find(config)


# Run in its own process, as the client reads its settings once: each line a model, then the result.
ASK = """
import sys, time
from zero.errors import InputError
from zero.models.load import find
for name in sys.argv[1:]:
    path, _, revision = name.partition("@")
    began = time.perf_counter()
    try:
        said = f"{find({'path': path, 'revision': revision or None})}"
    except InputError as error:
        said = str(error)
    print(f"{time.perf_counter() - began:.2f} {said}")
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
LOAD = """
import sys
from zero.models.load import configured_ends, load_model
config = {"path": sys.argv[1], "revision": None, "context": 100}
model, tokenizer, context = load_model(config)
print(sum(p.double().abs().sum().item() for p in model.parameters()), len(tokenizer), context, configured_ends(config))
assert not {"sklearn", "scipy"} & set(sys.modules)  # seconds of importing that no run needs
"""


def alone(code: str, *arguments: str, home: Path, endpoint: str, **more: str) -> tuple[list[str], str]:
    """The lines that a Python process with this cache and hub prints, and its stderr."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environment = (
        inherited | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "PYTHONPATH": str(ROOT), "no_proxy": "*"} | more
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def closed() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_each_way_not_to_get_a_model_is_one_line_in_seconds(tmp_path: Path) -> None:
    expected = {
        "gated/a": "model.path=gated/a: .* gives it only to those who agreed to its licence.*/gated/a.*hf auth login",
        "forbidden/a": "model.path=forbidden/a: .* refuses it .status 403.*licence.*hf auth login",
        "private/a": "model.path=private/a: .* refuses it .status 401.*hf auth login",
        "Qwem/Qwen2.5-0.5B": r"model.path=.* shows no such model.*did you mean Qwen/Qwen2.5-0.5B \(model=qwen2_5_0_5b\)\?",
        "mirror/a": "model.path=mirror/a: .* has no such model.*correct it, or give model.path=FOLDER",
        "empty/a": "model.path=empty/a: it has no config.json",
        "busy/a@v1": "model.path=busy/a: .* answers with status 503.*hf download busy/a --revision v1",
        "good/nano@lost": "model.revision=lost: good/nano has no such revision.*null for the newest",
        "hang/a": r"model.path=hang/a: .* cannot be reached \(\w*Timeout\).*hf download hang/a.*HF_HUB_OFFLINE=1",
    }
    with serving(BASE) as (endpoint, _):
        lines, _ = alone(ASK, *expected, home=tmp_path, endpoint=endpoint, HF_HUB_ETAG_TIMEOUT="2")
    assert len(lines) == len(expected)
    for (name, pattern), line in zip(expected.items(), lines, strict=True):
        seconds, _, message = line.partition(" ")
        assert re.fullmatch(f"{pattern}.*", message), (name, message)
        assert float(seconds) < 15, line
    (line,), _ = alone(ASK, "owner/name", home=tmp_path, endpoint=closed())
    assert re.search(
        r"cannot be reached \(ConnectError\).*no copy; where there is a network: hf download owner/name;", line
    )
    assert float(line.split()[0]) < 15
    (line,), _ = alone(ASK, "owner/name", home=tmp_path, endpoint=closed(), HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set, and the cache of this machine has no copy; where there is a network:" in line


@pytest.mark.slow
def test_a_model_comes_from_the_hub_then_from_the_cache(tmp_path: Path) -> None:
    model, tokenizer, _ = load_model({"path": str(BASE), "context": None})
    mass = sum(p.double().abs().sum().item() for p in model.parameters())
    expected = [f"{mass} {len(tokenizer)} 100 {configured_ends({'path': str(BASE)})}"]
    with serving(BASE) as (endpoint, requested_paths):
        got, errors = alone(LOAD, "good/nano", home=tmp_path, endpoint=endpoint)
        assert got == expected and "/good/nano/resolve/main/model.safetensors" in requested_paths
        assert f"model good/nano: commit {COMMIT}" in errors
        requested_paths.clear()
        pinned, _ = alone(ASK, f"good/nano@{COMMIT}", home=tmp_path, endpoint=endpoint)
        assert COMMIT in pinned[0] and "snapshots" in pinned[0] and requested_paths == []  # a commit never changes
    got, errors = alone(LOAD, "good/nano", home=tmp_path, endpoint=closed())
    note = "cannot be reached (ConnectError); the copy in the cache of this machine is taken"
    assert got == expected and errors.count(note) == 1 and "Retry" not in errors
    (line,), errors = alone(ASK, "good/nano", home=tmp_path, endpoint=closed(), HF_HUB_OFFLINE="1")
    assert COMMIT in line and "snapshots" in line and errors == ""


def test_an_incomplete_copy_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder = tmp_path / "snapshots" / COMMIT
    shutil.copytree(BASE, folder)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: str(folder / "config.json"))
    assert cached("owner/name", None) == str(folder)
    weights = folder / "model.safetensors"
    weights.rename(folder / "model-00001-of-00002.safetensors")
    assert cached("owner/name", None) is None
    index = folder / "model.safetensors.index.json"
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for text, whole in ((json.dumps({"weight_map": parts}), False), ("[]", False), ("{", False)):
        index.write_text(text)
        assert (cached("owner/name", None) is not None) == whole
    index.write_text(json.dumps({"weight_map": {"a": parts["a"]}}))
    assert cached("owner/name", None) == str(folder)
    (folder / "tokenizer.json").unlink()
    assert cached("owner/name", None) is None


def test_an_export_is_stored_in_the_models_dtype(tmp_path: Path) -> None:
    assert export_dtype({"path": "zero/nano/base", "dtype": "float32"}) == torch.float32
    assert export_dtype({"path": str(BASE), "dtype": None}) == torch.bfloat16  # the dtype of its config
    plain = tmp_path / "plain"
    plain.mkdir()
    config = json.loads((BASE / "config.json").read_text())
    del config["dtype"]
    (plain / "config.json").write_text(json.dumps(config))
    assert export_dtype({"path": str(plain)}) == torch.float32
    with pytest.raises(InputError, match=r"model\.dtype=int8: must be float32, bfloat16, float16, or null"):
        export_dtype({"path": str(plain), "dtype": "int8"})


def test_storing_in_another_dtype_rounds_each_weight_once(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0001)  # bits that bfloat16 does not have
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter.safetensors").write_bytes(b"not looked at")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert len([name for name in before if name.endswith(".safetensors")]) > 1
    store_as(tmp_path, torch.float32)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    store_as(tmp_path, torch.bfloat16)
    assert AutoConfig.from_pretrained(tmp_path).dtype == torch.bfloat16
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    for (name, ours), theirs in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert theirs.dtype == torch.bfloat16 and torch.equal(ours.to(torch.bfloat16), theirs), name
    size = sum(tensor.numel() * 2 for tensor in loaded.parameters())
    assert json.loads((tmp_path / "model.safetensors.index.json").read_text())["metadata"]["total_size"] == size
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) < 1.1 * size + 4096


def test_a_machine_without_threads_is_no_fault_of_the_models_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # in CPython's words, for a limit of processes

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(Broken, match=r"can.t start new thread; .*\(ulimit -u\)"):
        load_model({"path": str(BASE), "revision": None, "dtype": None, "context": None})
