"""Pretraining: learns, repeats itself bit for bit, continues any causal model, and refuses bad input in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from zero import config as configs
from zero.errors import InputError
from zero.pretrain import make_batches, read_documents, run

ROOT = Path(__file__).parents[1]
TINY = ["length=64", "sequences=4", "micro_sequences=4", "log_every=5", "warmup=5"]
NEW = [
    *TINY,
    "corpus.stages.skills.tokens=3840",  # 15 steps
    "corpus.stages.habits.tokens=1280",  # 5 steps
    "model.new.hidden_size=32",
    "model.new.intermediate_size=64",
    "tokenizer.documents=300",
]


def pretrain(*overrides: str) -> dict[str, Any]:
    return run(configs.check("pretrain", list(overrides)))


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pretrain.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrain") / "a"
    pretrain(*NEW, f"out={out}")
    return out


def test_twenty_steps_from_nothing_lower_the_loss(made: Path) -> None:
    entries = log(made)
    assert [e["step"] for e in entries] == [5, 10, 15, 20]
    assert entries[-1]["tokens"] == 20 * 4 * 64
    assert entries[-1]["loss"] < entries[0]["loss"] - 0.5
    assert entries[0]["lr"] == 5e-3  # after the warm-up
    assert 0 < entries[-1]["lr"] < 0.1 * 5e-3


def test_the_folder_is_a_standard_one(made: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(made)
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert model.dtype == torch.bfloat16
    assert (model.config.model_type, model.config.vocab_size) == ("qwen2", len(tokenizer))
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model(torch.tensor([tokenizer.encode("Start with 1")])).logits.isfinite().all()


def test_the_same_config_gives_the_same_bits(made: Path, tmp_path: Path) -> None:
    pretrain(*NEW, f"out={tmp_path / 'b'}")
    pretrain(*NEW, "seed=1", f"out={tmp_path / 'c'}")
    first, again, other = (load_file(p / "model.safetensors") for p in (made, tmp_path / "b", tmp_path / "c"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert (made / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


def test_smaller_micro_batches_change_nothing(made: Path, tmp_path: Path) -> None:
    pretrain(*NEW, "micro_sequences=1", f"out={tmp_path / 'b'}")
    assert log(tmp_path / "b")[-1]["loss"] == pytest.approx(log(made)[-1]["loss"], abs=1e-3)


@pytest.fixture(scope="module")
def llama(made: Path) -> Path:
    """A tiny random Llama with the tokenizer of `made`."""
    folder = made.parent / "llama"
    tokenizer = AutoTokenizer.from_pretrained(made)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_more_pretraining_of_another_model(llama: Path, tmp_path: Path, kind: str) -> None:
    rows = [{"question": f"What is {n}+{n}?", "answer": str(2 * n)} for n in range(50)]
    file = tmp_path / f"corpus.{kind}"
    if kind == "txt":
        file.write_text("\n\n".join(f"{r['question']}\n{r['answer']}" for r in rows))
    else:
        file.write_text("\n".join(map(json.dumps, rows)))
    pretrain(
        *TINY,
        "corpus=text",
        "optimizer=adamw",
        "optimizer.matrices.lr=3e-3",
        "optimizer.rest.lr=3e-3",
        "dtype=float32",
        f"corpus.path={file}",
        "corpus.fields=question+answer",
        "corpus.stages.text.tokens=7680",
        f"model.path={llama}",
        f"out={tmp_path / 'out'}",
    )
    entries = log(tmp_path / "out")
    assert entries[-1]["loss"] < entries[0]["loss"] - 0.5
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (model.config.model_type, model.dtype) == ("llama", torch.float32)
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (llama, tmp_path / "out"))
    assert before.get_vocab() == after.get_vocab()


def test_both_readers_give_the_same_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n")
    (tmp_path / "a.jsonl").write_text('{"q": "one", "a": "two"}\n\n{"q": "three", "a": ""}\n')
    first = list(islice(read_documents(str(tmp_path / "a.txt"), "text", 0), 4))
    assert sorted(first[:2]) == sorted(first[2:]) == [("one\ntwo", True), ("three", True)]
    second = list(islice(read_documents(str(tmp_path / "a.jsonl"), "q+a", 0), 2))
    assert sorted(second) == [("one\ntwo", True), ("three\n", True)]


def test_every_token_is_predicted_once(made: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made)
    documents = [("Start with 1.", True), ("Use 2, 3 to make 5.\n\n", False), ("x", True)] * 40
    stages = {"a": {"tokens": 40}, "b": {"tokens": 30}}
    streams = {"a": iter(documents), "b": iter([("never read, the first stage left enough", True)] * 600)}
    batches = list(make_batches(streams, stages, tokenizer, length=10, sequences=2))
    assert [share for share, _ in batches] == [0, 20 / 70, 40 / 70, 60 / 70]
    wanted = [i for text, end in documents for i in [*tokenizer.encode(text), *[tokenizer.eos_token_id] * end]]
    inputs = [i for _, ids in batches for row in ids for i in row[:-1].tolist()]
    targets = [i for _, ids in batches for row in ids for i in row[1:].tolist()]
    assert inputs == wanted[:80]
    assert targets == wanted[1:81]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["corpus=text", "corpus.path=nowhere.txt"], "corpus.path=nowhere.txt: no such file"),
        (["corpus=text", "corpus.path=README.md"], "must end in .jsonl or .txt"),
        (["corpus=text"], "corpus.path"),
        (["lenght=3"], "length"),
        (["model.path=./nowhere"], "model.path=./nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_line(
    overrides: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words.replace(".", r"\.")) as caught:
        pretrain(*overrides, f"out={tmp_path / 'out'}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_field_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"txt": "y"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl:2: not an object with text"):
        read_documents(str(tmp_path / "a.jsonl"), "text", 0)


def test_a_finished_model_is_not_overwritten(made: Path) -> None:
    with pytest.raises(InputError, match="already holds a model"):
        pretrain(*NEW, f"out={made}")


def test_the_command_line_answers_without_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "zero.pretrain", "out=o", "corpus=tex"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "corpus=tex: no such option; did you mean text?" in done.stderr
    assert "| torch\n" not in done.stderr
