"""Whole runs: reproducible, resumable to the bit, for every cell of the axes and for any model folder."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from itertools import product
from pathlib import Path

import pytest
import yaml

from tests.integration.runs import SMALL, journal, reproducible, start, texts, train_here, weights
from tests.warm import Process
from zero.errors import InputError
from zero.loop import Run
from zero.tracking.glossary import describe

ALGOS, TEMPLATES = ("grpo", "drgrpo"), ("none", "qwen_math", "r1")
QUESTIONS = ("nano_math", "nano_gsm", "nano_asdiv", "nano_countdown")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train_here(folder, "curves=true")
    return folder


def same(a: Path, b: Path) -> None:
    assert reproducible(a) == reproducible(b)
    assert weights(a) == weights(b)
    assert texts(a) == texts(b)


def test_a_run_folder_holds_what_the_readme_says(straight: Path) -> None:
    for name in (
        "config.yaml",
        "starts.jsonl",
        "metrics.jsonl",
        "result.json",
        "curves.png",
        "model/model.safetensors",
        "model/tokenizer.json",
    ):
        assert (straight / name).is_file(), name
    lines = journal(straight)
    assert [line["step"] for line in lines] == list(range(7))
    promised = """train/reward train/accuracy train/formatted length/mean length/truncated reflection/share loss/entropy
        loss/clip_fraction loss/grad_norm groups/zero_advantage mismatch/logprob_gap time/rollout time/update time/step
        tokens/generated""".split()
    for line in lines[1:]:
        assert set(promised) <= line.keys()
        assert ("length/incorrect" in line) == (line["train/accuracy"] < 1)
        assert ("length/correct" in line) == (line["train/accuracy"] > 0)
        assert line["mismatch/logprob_gap"] < 1e-5  # sampler and learner are the same policy in float32
    assert [line["step"] for line in lines if "eval/nano_math/accuracy" in line] == [0, 3, 6]
    for line in lines:
        for name in line.keys() - {"step"}:
            assert describe(name), name
    result = json.loads((straight / "result.json").read_text())
    assert result["status"] == "finished" and len(result["signature"]) == 12
    assert result["evaluation"]["nano_math"]["eval/nano_math/accuracy"] == lines[-1]["eval/nano_math/accuracy"]
    assert sorted(p.name for p in (straight / "checkpoints").iterdir()) == ["step_000004", "step_000006"]


def test_the_same_command_makes_the_same_numbers(straight: Path, tmp_path: Path) -> None:
    train_here(tmp_path / "again")
    same(straight, tmp_path / "again")
    train_here(tmp_path / "other", "seed=1")
    assert reproducible(straight) != reproducible(tmp_path / "other")


def test_a_finished_run_is_left_alone(straight: Path) -> None:
    before = (straight / "metrics.jsonl").stat().st_mtime_ns
    assert train_here(straight)["status"] == "finished"
    assert (straight / "metrics.jsonl").stat().st_mtime_ns == before


def test_resuming_with_other_science_is_refused(straight: Path) -> None:
    with pytest.raises(InputError, match=r"optimizer.lr: 0.0002 -> 0.001"):
        train_here(straight, "optimizer.lr=0.001")


@pytest.mark.parametrize("crash_at", [0, 1, 2, 5])
def test_a_resumed_run_equals_an_uninterrupted_one(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    """The process dies while step `crash_at` is under way; the journal may even be torn."""
    from zero import loop

    whole_step = loop.step

    def dying(run: Run, t: int) -> object:
        if t == crash_at:
            raise KeyboardInterrupt
        return whole_step(run, t)

    monkeypatch.setattr(loop, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        train_here(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "train/rew')
    monkeypatch.setattr(loop, "step", whole_step)
    assert train_here(tmp_path / "run")["status"] == "finished"
    same(straight, tmp_path / "run")


def test_a_damaged_newest_checkpoint_costs_steps_but_no_numbers(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from zero import loop

    whole_step = loop.step
    monkeypatch.setattr(
        loop, "step", lambda run, t: (_ for _ in ()).throw(KeyboardInterrupt) if t == 5 else whole_step(run, t)
    )
    with pytest.raises(KeyboardInterrupt):
        train_here(tmp_path / "run")
    monkeypatch.setattr(loop, "step", whole_step)
    broken = tmp_path / "run" / "checkpoints" / "step_000004" / "policy.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    train_here(tmp_path / "run")
    assert "damaged" in capfd.readouterr().err
    same(straight, tmp_path / "run")


def test_sigterm_saves_and_exits_75_and_the_same_command_continues(straight: Path, tmp_path: Path) -> None:
    child = start(tmp_path / "run")
    wait_for_step(tmp_path / "run", 1)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 75, child.communicate()[0]
    stopped = journal(tmp_path / "run")[-1]["step"]
    assert stopped < 6 and (tmp_path / "run" / "checkpoints" / f"step_{stopped:06d}").is_dir()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "preempted"
    assert start(tmp_path / "run").wait(120) == 0
    same(straight, tmp_path / "run")


@pytest.mark.slow
def test_kill_nine_at_ten_random_moments_loses_nothing(straight: Path, tmp_path: Path) -> None:
    """SIGKILL and start again, ten times, and as often anew as a run ends in between; each has every bit of the straight run."""
    Process("platform").wait()  # the first one waits for the server's imports
    began = time.monotonic()
    assert start(tmp_path / "run").wait(120) == 0
    whole, moments, kills = time.monotonic() - began, random.Random(0), 0
    while kills < 10:
        if (tmp_path / "run" / "result.json").exists():
            same(straight, tmp_path / "run")
            shutil.rmtree(tmp_path / "run")
        child = start(tmp_path / "run")
        try:
            assert child.wait(moments.uniform(0.05, 0.95) * whole) == 0, child.communicate()[0]
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            kills += 1
    assert start(tmp_path / "run").wait(120) == 0
    same(straight, tmp_path / "run")


def test_curves_are_drawn_only_if_asked_for(straight: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train_here(tmp_path / "run", "steps=1")
    assert not (tmp_path / "run" / "curves.png").exists() and "curves.png" not in capfd.readouterr().out
    train_here(straight, "curves=true")
    assert (straight / "curves.png").exists() and "curves.png" in capfd.readouterr().out


def test_several_updates_and_a_kl_term_run_and_resume(tmp_path: Path) -> None:
    options = ("updates=4", "epochs=2", "algo.beta=0.01", "algo=grpo", "steps=2", "checkpoint.every=1")
    train_here(tmp_path / "a", *options)
    last = journal(tmp_path / "a")[-1]
    assert last["loss/kl"] > 0 and last["loss/clip_fraction"] > 0
    child = start(tmp_path / "b", *options)
    wait_for_step(tmp_path / "b", 1)
    child.kill()
    child.wait()
    train_here(tmp_path / "b", *options)
    same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("algo", "template", "questions"),
    [
        cell
        for i, cell in enumerate(product(ALGOS, TEMPLATES, QUESTIONS))
        if i % 5 == 0 or cell[1:] == ("r1", "nano_countdown")
    ],
)
def test_cells_of_the_axes_run(tmp_path: Path, algo: str, template: str, questions: str) -> None:
    axes = (f"algo={algo}", f"template={template}", f"questions={questions}", "seed=3", "steps=1")
    train_here(tmp_path / "run", *axes)
    assert f"eval/{questions}/accuracy" in journal(tmp_path / "run")[0]


def test_any_causal_model_folder_trains(tiny_folder: Path, tmp_path: Path) -> None:
    train_here(tmp_path / "run", "model=hf", f"model.path={tiny_folder}", "steps=2")
    assert journal(tmp_path / "run")[-1]["mismatch/logprob_gap"] < 1e-4


def test_own_questions_from_a_file(tmp_path: Path) -> None:
    rows = [{"q": f"Start with {i}, add 1. What is the result?", "a": i + 1} for i in range(40)]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from zero.config.check import check
    from zero.train import run

    options = [
        "questions=file",
        f"questions.path={file}",
        "questions.question=q",
        "questions.answer=a",
        "questions.heldout=8",
        "steps=1",
        "prompts=4",
        "group_size=4",
        "sampling.max_tokens=32",
        "tracker=jsonl",
        f"run_dir={tmp_path / 'run'}",
    ]
    run(check("train", options), {"algo": "drgrpo"}, "mine")
    assert "eval/file/accuracy" in journal(tmp_path / "run")[-1]


def sums(path: Path, count: int, extra: str = "") -> str:
    """A file of questions; returns the override that names it."""
    rows = [{"problem": f"Simplify {i} + x + {i}.", "answer": f"x+{2 * i}"} for i in range(count)]
    rows += [{"problem": extra, "answer": "3"}] if extra else []
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"questions.path={path}"


def train_on_file(run_dir: Path, *overrides: str) -> None:
    from zero.config.check import check
    from zero.train import run

    tiny = [
        "questions=file",
        "questions.heldout=8",
        "steps=1",
        "prompts=4",
        "group_size=4",
        "sampling.max_tokens=16",
        "benchmarks.limit=4",
        "curves=false",
        "tracker=jsonl",
        f"run_dir={run_dir}",
    ]
    run(check("train", [*tiny, *overrides]), {"algo": "drgrpo"}, "mine")


def test_a_benchmarks_question_leaves_the_training_rows_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = tmp_path / "bench.jsonl"
    bench.write_text('{"problem": "What is  $1 + 2$?", "answer": 3}\n')
    own_file = sums(tmp_path / "mine.jsonl", 40, extra="what is 1+2?")
    line = (
        "{_target_:zero.questions.files.table_set,name:bench,path:" + str(bench) + ",heldout:1.0,"
        "check:{_target_: zero.grading.check_equal, _partial_: true}}"
    )
    train_on_file(tmp_path / "run", own_file, f"+benchmarks.sets.bench={line}")
    assert "questions file: dropped 1 row that is a question of bench: " in capsys.readouterr().err
    used = yaml.safe_load((tmp_path / "run" / "questions.yaml").read_text())
    entries = [used["training"], *used["tested"]]
    assert [(e["name"], e["train"], e["heldout"]) for e in entries] == [("file", 32, 8), ("bench", 0, 1)]
    assert "eval/bench/accuracy" in journal(tmp_path / "run")[-1]


def test_benchmarks_of_one_name_are_refused_and_a_training_sets_namesake_is_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = (
        "{_target_:zero.questions.files.table_set,name:%s,path:%s,heldout:1.0,"
        "check:{_target_: zero.grading.check_equal, _partial_: true}}"
    )
    bench, own_file = tmp_path / "bench.jsonl", sums(tmp_path / "mine.jsonl", 40, extra="what is 1+2?")
    bench.write_text('{"problem": "What is  $1 + 2$?", "answer": 3}\n')
    other = sums(tmp_path / "other.jsonl", 3).removeprefix("questions.path=")
    twice = [f"+benchmarks.sets.{key}=" + line % ("bench", path) for key, path in (("a", bench), ("b", other))]
    with pytest.raises(InputError, match=r"benchmarks=bench: names a benchmark twice"):
        train_on_file(tmp_path / "refused", own_file, *twice)
    train_on_file(
        tmp_path / "run", own_file, "~benchmarks.sets.heldout", "+benchmarks.sets.a=" + line % ("file", bench)
    )
    assert "questions file: dropped 1 row that is a question of file: " in capsys.readouterr().err


def test_a_question_file_that_changed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row that is too long for the model is left out of training; the file is the same."""
    own_file = sums(tmp_path / "mine.jsonl", 60, extra="x + " * 600)
    for _ in range(2):
        train_on_file(tmp_path / "run", own_file)
        assert "dropped 1 rows whose prompts leave less than 16 tokens" in capsys.readouterr().err
        (tmp_path / "run" / "result.json").unlink()
    sums(tmp_path / "mine.jsonl", 61)
    with pytest.raises(InputError, match=r"run_dir=.*question files have changed since \(file\); restore them"):
        train_on_file(tmp_path / "run", own_file)


@pytest.mark.parametrize(
    ("heldout", "different", "message"),
    [
        ("0", 20, "holds out no question"),
        ("1.0", 20, "no question to train on: 20 held out; give it a lower heldout, or more questions"),
        ("1", 1, "no question to train on: 1 held out; left out 19 repeated: line 2 is line 1, "),
    ],
)
def test_an_empty_split_is_refused(tmp_path: Path, heldout: str, different: int, message: str) -> None:
    file = tmp_path / "mine.jsonl"
    lines = (f'{{"problem": "What is {i % different}?", "answer": {i % different}}}\n' for i in range(20))
    file.write_text("".join(lines))
    from zero.config.check import check
    from zero.train import run

    options = [
        "questions=file",
        f"questions.path={file}",
        f"questions.heldout={heldout}",
        f"run_dir={tmp_path / 'run'}",
    ]
    with pytest.raises(InputError, match=message):
        run(check("train", options), {"algo": "drgrpo"}, "mine")


def test_an_over_long_prompt_is_refused_before_any_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sampling.max_tokens=500: .*context of 512"):
        train_here(tmp_path / "run", "sampling.max_tokens=500")


@pytest.mark.slow
def test_a_full_disk_during_a_checkpoint_is_one_line_and_keeps_the_last_one(tmp_path: Path) -> None:
    """A real small file system; the run goes on once there is space."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk]).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        options = ("checkpoint.every=1", "checkpoint.keep=5", "steps=4")
        done = start(disk / "run", *options, errors=True).completed(120)
        assert done.returncode == 2, done.stdout + done.stderr
        last = done.stderr.splitlines()[-1]
        failed = re.search(r"^error: run_dir=.*no space left for the checkpoint of step (\d)", last)
        assert failed, last
        names = sorted(p.name for p in (disk / "run" / "checkpoints").iterdir())
        assert names == [f"step_{step:06d}" for step in range(1, int(failed[1]))]
        subprocess.run(["mount", "-o", "remount,size=60m", disk], check=True)
        assert start(disk / "run", *options).completed(120).returncode == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_multirun_gives_every_cell_its_own_folder(tmp_path: Path) -> None:
    small = [*SMALL, "steps=1", "tracker=jsonl"]
    words = ["-m", *small, "algo=grpo,drgrpo", f"hydra.sweep.dir={tmp_path}/sweep"]
    done = Process("zero.train", *words, cwd=tmp_path, errors=True).completed(180)
    assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "runs").glob("*-none-*"))
    assert [p.name.split("-")[0] for p in folders] == sorted(ALGOS)
    assert all(json.loads((p / "result.json").read_text())["status"] == "finished" for p in folders)


def wait_for_step(run_dir: Path, step: int) -> None:
    for _ in range(600):
        file = run_dir / "metrics.jsonl"
        if file.exists() and len(file.read_text().splitlines()) > step:
            return
        time.sleep(0.1)
    raise TimeoutError(f"{run_dir} did not reach step {step}")


@pytest.mark.slow
def test_mlflow_follows_the_run_and_an_absent_server_gets_everything_later(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server is down for the whole run; the same command, when it is back (here: a store), delivers every step once."""
    nowhere = ("tracker=mlflow", "tracker.uri=http://127.0.0.1:9", "tracker.patience=1", "steps=2", "curves=true")
    folder = tmp_path / "runs" / "run"
    assert train_here(folder, *nowhere)["status"] == "finished"
    assert "running the same command again delivers them" in capfd.readouterr().err
    store = f"sqlite:///{tmp_path / 'store.db'}"
    train_here(folder, "tracker=mlflow", f"tracker.uri={store}", "tracker.patience=90", "steps=2")
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("zero")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.tags["algo"] == "drgrpo" and run.data.params["steps"] == "2"
    for name in ("train/reward", "length/mean", "time/step"):
        history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        assert history == [(line["step"], line[name]) for line in journal(folder)[1:]]
    assert {"config.yaml", "result.json", "curves.png"} <= {f.path for f in client.list_artifacts(run.info.run_id)}
