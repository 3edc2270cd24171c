"""Pretraining: learns, repeats itself bit for bit however often it is stopped, continues any causal model on files and
question sets, and refuses bad input in one line."""

from __future__ import annotations

import io
import json
import logging
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.warm import Process
from zero.config import check as configs
from zero.errors import Broken, InputError, Preempted
from zero.pretrain import __main__ as pretraining
from zero.pretrain import model as models
from zero.pretrain.__main__ import run
from zero.pretrain.data import Batches, Document, Place, Stage, Texts, encode, question_documents, read_documents
from zero.questions import QuestionSet, Rows
from zero.records import Question

ROOT = Path(__file__).parents[2]
TINY = ["length=64", "sequences=4", "micro_sequences=4", "log_every=5", "optimizer.warmup=5"]
NEW = [
    *TINY,
    "corpus.stages.skills.tokens=3840",  # 15 steps
    "corpus.stages.habits.tokens=1280",  # 5 steps
    "model.new.hidden_size=32",
    "model.new.intermediate_size=64",
    "tokenizer.documents=300",
]


QA = [*TINY, "corpus=questions", "questions=nano_math", "questions.rows.train=96", "questions.rows.heldout=16"]


def pretrain(*overrides: str) -> dict[str, Any]:
    return run(configs.check("pretrain", list(overrides)))


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pretrain.jsonl").read_text().splitlines()]


def lasting(folder: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """What must not depend on how often a run was stopped: its weights, and its log without the clock."""
    entries = [{k: v for k, v in entry.items() if k != "seconds"} for entry in log(folder)]
    return (folder / "model.safetensors").read_bytes(), entries


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrain") / "a"
    pretrain(*NEW, f"out={out}")
    return out


def test_twenty_steps_from_nothing_lower_the_loss(pretrained: Path) -> None:
    entries = log(pretrained)
    assert [e["step"] for e in entries] == [5, 10, 15, 20]
    assert entries[-1]["tokens"] == 20 * 4 * 64
    assert entries[-1]["loss"] < entries[0]["loss"] - 0.5
    assert entries[0]["lr"] == 5e-3  # after the warm-up
    assert 0 < entries[-1]["lr"] < 0.1 * 5e-3


def test_the_folder_is_a_standard_one(pretrained: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(pretrained)
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    assert model.dtype == torch.bfloat16
    assert (model.config.model_type, model.config.vocab_size) == ("qwen2", len(tokenizer))
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model(torch.tensor([tokenizer.encode("Start with 1")])).logits.isfinite().all()


def test_long_documents_need_not_be_many_for_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A book of one document would be read 20,000 times."""
    monkeypatch.setattr(models, "TOKENIZER_CHARACTERS", 5000)
    documents_read = list[Document]()

    def source(seed: int) -> Iterator[Document]:
        for document in Texts([" word" * 200], seed):
            documents_read.append(document)
            yield document

    _, tokenizer = models.create(configs.check("pretrain", [*NEW, "out=x"]), {"text": source})
    assert len(documents_read) == 5 and len(tokenizer.encode(" word")) == 1


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (1000, "step 8  tokens 1000 of 4000  loss 5.5000  13 s, 39 s to go\n"),
        # the last batch may hold more than is left
        (4096, "step 8  tokens 4096 of 4000  loss 5.5000  13 s, 0 s to go\n"),
    ],
)
def test_a_line_shows_the_progress(seen: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    training: Any = SimpleNamespace(
        step=8,
        losses=[5.0, 6.0],
        seconds=13.0,
        budgets=[4000],
        optimizers=[optimizer],
        batches=SimpleNamespace(seen=seen, share=seen / 4000),
    )
    pretraining.write_line(training, io.StringIO())
    assert capsys.readouterr().out == line


def test_a_document_beyond_the_context_gives_no_warning(pretrained: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Documents are packed into sequences; transformers' warning of an indexing error would be wrong."""
    tokenizer, logger = AutoTokenizer.from_pretrained(pretrained), logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.WARNING, "transformers"):
            assert len(encode([("1 " * 2000, True)], tokenizer)) > 2000
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.records == []


def test_the_same_config_gives_the_same_bits(pretrained: Path, tmp_path: Path) -> None:
    pretrain(*NEW, f"out={tmp_path / 'b'}")
    pretrain(*NEW, "seed=1", f"out={tmp_path / 'c'}")
    first, again, other = (load_file(p / "model.safetensors") for p in (pretrained, tmp_path / "b", tmp_path / "c"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert (pretrained / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


def test_smaller_micro_batches_change_nothing(pretrained: Path, tmp_path: Path) -> None:
    pretrain(*NEW, "micro_sequences=1", f"out={tmp_path / 'b'}")
    assert log(tmp_path / "b")[-1]["loss"] == pytest.approx(log(pretrained)[-1]["loss"], abs=1e-3)


@pytest.fixture(scope="module")
def llama(pretrained: Path) -> Path:
    """A tiny random Llama with the tokenizer of `pretrained`."""
    folder = pretrained.parent / "llama"
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_pretraining_of_another_model_goes_on(llama: Path, tmp_path: Path, kind: str) -> None:
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
        "optimizer.lr=3e-3",
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


def ids_of(documents: list[tuple[str, bool]], tokenizer: Any) -> list[int]:
    return [i for text, end in documents for i in [*tokenizer.encode(text), *[tokenizer.eos_token_id] * end]]


def test_every_token_is_predicted_once(pretrained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    documents = [("Start with 1.", True), ("Use 2, 3 to make 5.\n\n", False), ("x", True)] * 40
    unread = [("never read, the first stage left enough", True)] * 600
    stages = [Stage("a", documents, 40, None), Stage("b", unread, 30, None)]
    batches = list(Batches(stages, [40, 30], tokenizer, length=10, sequences=2))
    assert [share for share, *_ in batches] == [0, 20 / 70, 40 / 70, 60 / 70]
    expected = ids_of(documents, tokenizer)
    inputs = [i for _, ids, _ in batches for row in ids for i in row[:-1].tolist()]
    targets = [i for _, ids, _ in batches for row in ids for i in row[1:].tolist()]
    assert inputs == expected[:80]
    assert targets == expected[1:81]


def test_passes_are_exact_and_can_be_left_at_any_batch(pretrained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    first, second = (Texts([f"{word} {n}." for n in range(700)], seed=3) for word in ("Start with", "Take"))
    stages = [Stage("a", first, None, 2), Stage("b", second, None, 1)]
    expected = ids_of([*first.passes(2), *second.passes(1)], tokenizer)
    assert sorted(first.passes(2)) == sorted([(text, True) for text in first.texts] * 2)
    budgets = [len(ids_of(list(stage.stream()), tokenizer)) for stage in stages]
    whole = [ids.tolist() for _, ids, _ in Batches(stages, budgets, tokenizer, 50, 4)]
    assert [i for batch in whole for row in batch for i in row[:-1]] == expected[: (len(expected) - 1) // 50 * 50]
    assert [len(batch) for batch in whole[:-1]] == [4] * (len(whole) - 1) and 1 <= len(whole[-1]) <= 4
    parts, place = list[Any](), Place()
    while len(parts) < len(whole):  # a new object for each batch
        batches = Batches(stages, budgets, tokenizer, 50, 4, place)
        parts.append(next(iter(batches))[1].tolist())
        place = batches.place
    assert parts == whole
    assert list(Batches(stages, budgets, tokenizer, 50, 4, place)) == []


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on the signal arrives within this step of each run."""
    update = pretraining.update
    left = [step]

    def update_and_signal(*arguments: Any) -> float:
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGUSR1)
        return update(*arguments)

    monkeypatch.setattr(pretraining, "update", update_and_signal)
    return lambda: left.__setitem__(0, step)


@pytest.fixture(scope="module")
def gpt2(pretrained: Path) -> Path:
    """A tiny random model with dropout, so that the state of the random numbers matters."""
    folder = pretrained.parent / "gpt2"
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["muon, two stages", "dropout, passes over questions"])
def test_a_run_that_is_stopped_again_and_again_ends_with_the_same_bits(
    pretrained: Path,
    gpt2: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings, whole = [*NEW, "log_every=5"], pretrained
    if kind.startswith("dropout"):
        settings = [*QA, "corpus.epochs=2", f"model.path={gpt2}", "optimizer=adamw", "log_every=7", "dtype=float32"]
        whole = tmp_path / "whole"
        pretrain(*settings, f"out={whole}")
    steps = log(whole)[-1]["step"]
    again = stop_at(3, monkeypatch)
    for done in range(3, steps + 1, 3):
        again()
        with pytest.raises(Preempted, match=rf"^SIGUSR1 after step {done} \(\d+% of the tokens\): saved; the same"):
            pretrain(*settings, f"out={tmp_path / 'out'}")
        assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == [f"step_{done:06d}"]
    again()
    last = pretrain(*settings, f"out={tmp_path / 'out'}")
    assert lasting(tmp_path / "out") == lasting(whole)
    assert last["step"] == steps >= 15
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert f"continuing after step {steps // 3 * 3}" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_anywhere_the_same_command_ends_with_the_same_bits(llama: Path, tmp_path: Path) -> None:
    """kill -9 wherever it is after the log's 15th step, then SIGTERM ten steps later; this process brings it to its end."""
    out = tmp_path / "out"
    settings = [*QA, "corpus.epochs=5", f"model.path={llama}", "dtype=float32", "checkpoint.every=7"]

    def start_and_send(number: int, steps: int) -> tuple[int, str]:
        process = Process("zero.pretrain", *settings, f"out={out}", errors=True)
        limit = time.monotonic() + 120
        while process.poll() is None and steps_logged(out) < steps and time.monotonic() < limit:
            time.sleep(0.001)
        process.send_signal(number)
        _, errors = process.communicate()
        return process.wait(), errors

    assert start_and_send(signal.SIGKILL, 15)[0] == -signal.SIGKILL
    code, output = start_and_send(signal.SIGTERM, steps_logged(out) + 10)
    assert code == 75 and output.splitlines()[-1].startswith("SIGTERM after step ")
    last = pretrain(*settings, f"out={out}")
    pretrain(*settings, f"out={tmp_path / 'whole'}")
    assert lasting(out) == lasting(tmp_path / "whole")
    assert last["step"] > 60


def steps_logged(out: Path) -> int:
    path = out / "pretrain.jsonl"
    return 5 * path.read_text().count("\n") if path.exists() else 0  # log_every=5


def test_a_folder_belongs_to_its_settings_and_its_corpus(
    tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "corpus.txt", tmp_path / "out"
    file.write_text("\n\n".join(f"What is {n}+{n}?\n{2 * n}" for n in range(50)))
    settings = [*TINY, "corpus=text", f"corpus.path={file}", "corpus.tokens=2560", f"model.path={llama}", f"out={out}"]
    stop_at(2, monkeypatch)
    with pytest.raises(Preempted):
        pretrain(*settings)
    with pytest.raises(InputError, match=r"^out=.*other settings \(seed: 0 -> 1\); choose another out or"):
        pretrain(*settings, "seed=1")
    contents = file.read_text()
    file.write_text(contents.replace("What", "How much"))
    with pytest.raises(InputError, match=r"^corpus.stages.text=.*documents have changed since"):
        pretrain(*settings)
    file.write_text(contents)
    assert pretrain(*settings, "checkpoint.every=1")["step"] == 10  # checkpoint settings are not part of the identity


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*NEW, "checkpoint.every=4", f"out={tmp_path / 'out'}"]
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "STATE", "/dev/full")
        with pytest.raises(InputError, match=r"^out=.*/out: no space left for the checkpoint of step 4; free some"):
            pretrain(*settings)
    pretrain(*settings)
    assert lasting(tmp_path / "out") == lasting(pretrained)


def test_question_answer_text(pretrained: Path, tmp_path: Path) -> None:
    """Training rows only, question then solution, each with an end-of-text token, exactly as often as asked."""
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    pretrain(*QA, "corpus.epochs=2", f"model.path={pretrained}", f"out={tmp_path / 'out'}")
    config = configs.check("pretrain", [*QA, "corpus.epochs=2", "out=x"])
    rows: Rows = configs.instantiate(config["questions"]).rows
    assert len(rows.train) == 96 and len(rows.heldout) == 16
    source = configs.instantiate(config["corpus"]["stages"]["questions"]["documents"])
    texts = source(seed=0).texts
    assert texts == [f"{row.text}\n{row.solution}" for row in rows.train]
    tokens = 2 * len(ids_of([(text, True) for text in texts], tokenizer))
    assert log(tmp_path / "out")[-1]["tokens"] == (tokens - 1) // 64 * 64


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("corpus/*")) + sorted((ROOT / "conf").glob("optimizer/*")))
def test_every_option_composes(path: Path) -> None:
    extra = {"text": ["corpus.path=x"], "questions": ["questions.path=x"]}.get(path.stem, [])
    config = configs.check("pretrain", [f"{path.parent.name}={path.stem}", "out=x", *extra])
    assert all(set(stage) <= {"documents", "tokens", "epochs"} for stage in config["corpus"]["stages"].values())


def test_the_recipe_of_numinaqa(tmp_path: Path) -> None:
    """Two passes over every question and solution, whatever the answer, in the columns of NuminaMath-1.5."""
    file = tmp_path / "numina.jsonl"
    rows = [{"problem": f"Show {n} > 0.", "solution": f"{n} is positive.", "answer": "proof"} for n in range(1, 41)]
    file.write_text("\n".join(json.dumps(row | {"source": "olympiads", "synthetic": False}) for row in rows))
    config = configs.check("pretrain", ["corpus=numina_qa", f"questions.path={file}", "optimizer=adamw", "out=x"])
    (stage,) = config["corpus"]["stages"].values()
    assert (stage["tokens"], stage["epochs"]) == (None, 2)
    texts = configs.instantiate(stage["documents"])(seed=0).texts
    assert texts == [f"{row['problem']}\n{row['solution']}" for row in rows]
    assert (config["optimizer"]["lr"], config["optimizer"]["weight_decay"]) == (2e-5, 0.1)


ROWS = [Question("What is 1+1?", ("2", "two"), "a", "It is {answer}."), Question("1-1?", ("0",), "b", "None left.")]


@pytest.mark.parametrize(
    ("form", "first"),
    [
        ("{question}\n{solution}", "What is 1+1?\nIt is {answer}."),  # braces in a row are not filled in
        ("Q: {question} A: \\boxed{{answer}}", "Q: What is 1+1? A: \\boxed{2}"),
        ("{solution}{question} \\text{or}", "It is {answer}.What is 1+1? \\text{or}"),
        ("no field", None),
        ("{question} {solutoin}", None),
        ("{problem}", None),
    ],
)
def test_the_form_of_a_document(form: str, first: str | None) -> None:
    questions = QuestionSet("mine", Rows(ROWS, []), lambda answer, question: True)
    if first is None:
        with pytest.raises(
            InputError, match=r"^corpus.form=.*must be a text with \{question\}, \{solution\}, \{answer\}"
        ):
            question_documents(questions, form, 0)
    else:
        assert question_documents(questions, form, 0).texts[0] == first


def test_questions_without_a_solution() -> None:
    """A few of many are left out and counted; more are an error, unless the form does without."""
    bare = Question("Why?", ("so",), "c")

    def texts(solved: int, form: str = "{question}\n{solution}") -> Texts:
        questions = QuestionSet("mine", Rows([bare, *[ROWS[1]] * solved], []), lambda answer, question: True)
        return question_documents(questions, form, 0)

    assert texts(99).texts == ["1-1?\nNone left."] * 99
    assert texts(99).notes == ["questions mine: left out 1 without a solution"]
    with pytest.raises(InputError, match=r"^questions=mine: 1 of 99 questions have no solution, the first is c; name"):
        texts(98)
    assert texts(1, "{question} {answer}").texts[0] == "Why? so"
    with pytest.raises(InputError, match=r"^questions=mine: holds no question to train on"):
        question_documents(QuestionSet("mine", Rows([], [bare]), lambda answer, question: True), "{answer}", 0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["corpus=text", "corpus.path=nowhere.txt"], "corpus.path=nowhere.txt: no such file"),
        (["corpus=text", "corpus.path=README.md"], "must end in .jsonl or .txt"),
        (["corpus=text"], "corpus.path"),
        (["lenght=3"], "length"),
        (["model.path=./nowhere"], "model.path=./nowhere: no such folder"),
        (["corpus=questions"], "questions.path=null: is required"),
        (["corpus=questions", "questions=nano_math", "corpus.tokens=9"], "epochs=both: give one of the two"),
        (["corpus=questions", "questions=nano_math", "corpus.epochs=0"], "epochs=0: must be a whole number above 0"),
        (["corpus=questions", "questions=nano_math", "corpus.form=x"], "corpus.form=x: must be a text with"),
        (["corpus=text", "corpus.path=latin.txt"], "is not UTF-8"),
        (["questions=nano_math"], "questions=nano_math: no such setting"),
    ],
)
def test_bad_input_is_one_line(
    overrides: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words.replace(".", r"\.")) as caught:
        pretrain(*overrides, f"out={tmp_path / 'out'}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["null", "NaN", "Infinity", '["a", "b"]', '{"a": 1}', "true"])
def test_rows_that_hold_no_text_are_left_out_or_refused(tmp_path: Path, value: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('\ufeff{"text": "x", "more": 5}\n' * 200 + f'{{"text": {value}, "more": 5}}\n')
    if value in ("null", "NaN"):
        corpus = read_documents(str(file), "text+more", 0)
        assert set(corpus.texts) == {"x\n5"}
        assert corpus.notes == (f"corpus {file}: left out 1 rows without text in text+more: {file}:201",)
        file.write_text(f'{{"text": "x"}}\n{{"text": {value}}}\n')
        with pytest.raises(InputError, match=r"corpus\.fields=text: 1 of 2 rows hold no text there, the first is .*:2"):
            read_documents(str(file), "text", 0)
    else:
        with pytest.raises(InputError, match=r"corpus\.fields=text: .*a\.jsonl:201: its text is .*, no text"):
            read_documents(str(file), "text+more", 0)


def test_a_step_that_is_not_finite_is_not_saved(gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("one two\n\nthree four\n\n" * 40)
    text = [*TINY, "corpus=text", f"corpus.path={tmp_path / 'a.txt'}", f"model.path={gpt2}", f"out={tmp_path / 'out'}"]
    rates = ["optimizer=adamw", "optimizer.lr=1e30", "optimizer.warmup=1", "log_every=1"]
    with pytest.raises(Broken, match=r"step 2: loss .*: not finite; nothing of it is kept; lower optimizer\.lr"):
        pretrain(*text, *rates, "checkpoint.every=1", "corpus.tokens=7680")
    assert "tokens=7680: " not in capsys.readouterr().err  # read once or less: nothing to note
    assert not (tmp_path / "out" / "config.json").exists()
    assert all(math.isfinite(entry["loss"]) for entry in log(tmp_path / "out"))


def test_a_missing_field_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"txt": "y"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl:2: not an object with text"):
        read_documents(str(tmp_path / "a.jsonl"), "text", 0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["length=128"], "length=128: the model's context has 64 tokens"),
        (["length=64", "corpus.tokens=64"], "length=64: the corpus has only 64 tokens"),
    ],
)
def test_impossible_lengths_are_refused(gpt2: Path, tmp_path: Path, overrides: list[str], words: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    text = [*TINY, "corpus=text", f"corpus.path={tmp_path / 'a.txt'}", f"model.path={gpt2}", f"out={tmp_path / 'out'}"]
    with pytest.raises(InputError, match=words):
        pretrain(*text, *overrides)


def test_documents_without_end_have_no_passes(tmp_path: Path) -> None:
    config = configs.check("pretrain", [*NEW, f"out={tmp_path / 'out'}"])
    config["corpus"]["stages"]["skills"] |= {"tokens": None, "epochs": 2}
    with pytest.raises(InputError, match=r"skills\.epochs=2: these documents have no end; give tokens instead"):
        run(config)


def test_the_same_command_after_the_end_says_so(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = lasting(pretrained)
    assert pretrain(*NEW, f"out={pretrained}") == log(pretrained)[-1]
    assert f"finished: {pretrained}" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"other settings \(optimizer.clip: 1.0 -> 2.0\)"):
        pretrain(*NEW, "optimizer.clip=2.0", f"out={pretrained}")
    assert lasting(pretrained) == before


@pytest.mark.parametrize("name", ["config.json", "checkpoints"])
def test_a_folder_with_other_files_is_not_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="already holds a model or another run"):
        pretrain(*NEW, f"out={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_command_line_answers_without_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "zero.pretrain", "out=o", "corpus=tex"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "corpus=tex: no such option; did you mean text?" in done.stderr
    assert "| torch\n" not in done.stderr


def test_a_log_loses_its_torn_last_line_and_refuses_a_damaged_one(tmp_path: Path) -> None:
    log = tmp_path / "pretrain.jsonl"
    log.write_text('{"step": 5}\n{"step": 10}\n{"step": 15}\n{"st')
    pretraining.rewind(log, 10)
    assert log.read_text() == '{"step": 5}\n{"step": 10}\n'
    log.write_text('{"step": 5}\n{"st\n{"step": 10}\n')
    with pytest.raises(InputError, match=r"^out=.*: line 2 of pretrain.jsonl is damaged; repair or remove it$"):
        pretraining.rewind(log, 10)
    assert pretraining.last_entry(tmp_path) == {"step": 10}
