"""What users type: right values of every kind pass, and every mistake is one line that names the key, with exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from zero.config import cli as command
from zero.config.check import cells, check
from zero.config.compose import ROOTS, canonical, groups_of
from zero.config.overrides import parsed, quoted, tidied
from zero.errors import InputError

WRONG = {  # command line -> what its one line begins with, and a word that it holds
    "train": [
        ("alg=grpo", "alg=grpo: ", "did you mean algo=grpo?"),
        ("question=nano_math", "question=nano_math: ", "did you mean questions=nano_math"),
        ("dataset=nano_math", "dataset=", "questions"), ("batch_size=8", "batch_size=8: ", "prompts"),
        ("num_generations=8", "num_generations=8: ", "group_size"), ("lr=1e-4", "lr=1e-4: ", "optimizer.lr?"),
        ("trainer.max_steps=5", "trainer.max_steps=5: ", "steps"), ("model_name=x", "model_name=x: ", "model.path"),
        ("max_length=9", "max_length=9: ", "sampling.max_tokens"), ("kl_coef=0.1", "kl_coef=0.1: ", "algo.beta?"),
        ("temperature=1", "temperature=1: ", "sampling.temperature"), ("beta=1", "beta=1: ", "algo.beta"),
        ("optimizer=muon learner=deepspeed", "optimizer=muon: ", "needs them whole; optimizer=adamw, or learner=torch"),
        ("optimizer.others.lr=1e-3 learner=deepspeed", "optimizer.others.lr=0.001: ", "share one setting"),
        ("optimizer.others.lr=-1", "optimizer.others.lr=-1: ", "above 0"),
        ("optimizer.others.lrr=1", "optimizer.others.lrr=1: ", "no such setting; did you mean optimizer.others.lr?"),
        ("grpo", "command line=grpo", "algo=grpo?"),
        ("algo=", "algo=: ", "no such option"), ("algo=null", "algo=null: ", "is needed"),
        ("~algo", "algo=null: ", "is needed"), ("benchmarks=[nano,null]", "benchmarks=[nano,null]: ", "no such option"),
        *((f"threads={value}", f"threads={value}: ", "must be 1 to ") for value in ("0", "-1", "1000000")),
        ("algo=5", "algo=5: ", "no such option"), ("algo=[grpo,dapo]", "algo=", "one option"),
        ("+algo=grpo", "algo=", "exists"),
        ("++algo=grpo", "algo=grpo: ", "exists already"), ("debug=null", "debug=null: ", "leave it out"),
        ("template=qwen-math", "template=qwen-math: ", "qwen_math"), ("+corpus=text", "corpus=text: ", "no choice"),
        ("algo.correction=xx", "algo.correction=xx: ", "a function"), ("algo.kl=5", "algo.kl=5: ", "algo.kl._target_"),
        ("seed=", "seed=: ", "whole number"), ("seed=null", "seed=null: ", "whole number"),
        ("seed=true", "seed=true: ", "whole"),
        ("seed=[1]", "seed=[1]: ", "not a list"), ("seed={a:1}", "seed={a:1}: ", "not several settings"),
        ("seed=1" + "0" * 20, "seed=1", "too large"), ("seed=1=2", "seed=1=2: ", "whole number"),
        ("~seed", "~seed=", "needed"),
        ("+seed=1", "seed=1: ", "without +"), ("~foo", "foo=", "no such setting"),
        ("steps=1.5", "steps=1.5: ", "whole number"),
        ("steps.x=3", "steps.x=3: ", "one value"), ("steps=${foo}", "steps=${foo}: ", "names no setting"),
        ("steps=${seed", "steps=${seed: ", "cannot be"), ("steps=-3", "steps=-3: ", "above 0"),
        ("steps=3,", "steps=3,: ", "comma"),
        ("optimizer.lr=inf", "optimizer.lr=inf: ", "finite"), ("optimizer.lr=1e400", "optimizer.lr=1e400: ", "finite"),
        ("optimizer.lr=interval(1,2)", "optimizer.lr=interval(1,2): ", "without values"),
        ("seed=range(5,1)", "seed=", "no values"),
        ("optimizer.betas=[a,b]", "optimizer.betas.0=a: ", "a number"),
        *((f"{optimizer}.betas={value} algo=ppo", f"{optimizer}.betas=", "two numbers")
          for optimizer in ("optimizer", "algo.critic.optimizer")
          for value in ("[0.9]", "[]", "[0.9,0.95,0.99]", "[0.9,1.0]", "[-1,0.9]")),
        ("questions=countdown questions.rows.counts=[]", "questions.rows.counts=", "above 0"),
        ("checkpoint=5", "checkpoint=5: ", "checkpoint.every"),
        ("seed=range(0,9999999)", "command line=", "at most"),
        ("algo=glob(x*)", "algo=glob(x*): ", "matches no option"),
        ("seed=glob(*)", "seed=glob(*): ", "group"), ("run_dir=[a,b]", "run_dir=[a,b]: ", "text"),
        ("run_dir={a:1}", "run_dir={a:1}: ", "text"), ("sync_check.tolerance=x", "sync_check.tolerance=x: ", "a number"),
        ("model.stop=null", "model.stop=null: ", "is a list"), ("model.stop={a:1}", "model.stop={a:1}: ", "is a list"),
        ("sampling.max_tokens=2.5", "sampling.max_tokens=2.5: ", "whole number"),
        ("1a=3", "1a=3: ", "no name of a setting"),
        ("a..b=1", "a..b=1: ", "no name of a setting"), ("+foo=[1", "foo=[1: ", "no such setting"),
        ("model.path=", "model.path=", "empty"),
        ("questions.path=x.jsonl", "questions.path=x.jsonl: ", "questions=file"),
        ("reward=my.f", "reward=my.f: ", "type reward.terms.mine.function=my.f;"),
        ("questions=./q.jsonl", "questions=./q.jsonl: ", "type questions=file questions.path=./q.jsonl;"),
        ("model=Qwen/Qwen2.5-1.5B", "model=", "type model=hf model.path=Qwen/Qwen2.5-1.5B;"),
        ("benchmarks.sets.math500.path=x", "benchmarks.sets.math500.path=x: ", "add benchmarks=math500"),
        ("debug.probe=1", "debug.probe=1: ", "debug=probe has it"),
        ("algo = grpo", "command line=algo: ", "without spaces"), ("algo: grpo", "command line=algo:: ", "without spaces"),
        *((f"+reward.terms.mine={value}", "reward.terms.mine", "MODULE.FUNCTION")
          for value in ("5", "f", "null", "[a.b]", "{}", "", "true")),
        ("+reward.terms.mine._target_=my.f", "reward.terms.mine", "MODULE.FUNCTION"),
        ("+reward.terms.mine.weight=1", "reward.terms.mine", "MODULE.FUNCTION"),
        ("+reward.terms.mine=my.f +reward.terms.mine.weight=abc", "reward.terms.mine.weight=abc: ", "finite number"),
        ("reward.terms.corect.weight=2", "reward.terms.corect.weight=2: ", "did you mean reward.terms.correct.weight?"),
        ("reward.terms=my.f", "reward.terms=my.f: ", "settings of its own"),
    ],
    "evaluate": [
        ("k=[1,x]", "k.1=x: ", "whole number"), ("k=[]", "k=[]: ", "1 or more"), ("k=[0]", "k=[0]: ", "1 or more"),
        ("k=", "k=: ", "is a list"), ("k=null", "k=null: ", "is a list"),
        ("k=2", "k=2: ", "n is 1"), ("algo=grpo", "algo=grpo: ", "no choice"),
        ("num_samples=8", "num_samples=8: ", "mean n?"),
        ("questions=null", "questions=null: ", "leave it out"), ("benchmarks=nan", "benchmarks=nan: ", "nano"),
        ("~k", "~k=: ", "needed"),
    ],
    "pretrain": [
        ("", "out=???: ", "is required"), ("out=null", "out=null: ", "is required"), ("out=", "out=: ", "is required"),
        ("out=x lr=1e-4", "lr=1e-4: ", "optimizer."), ("out=x optimizer=adam", "optimizer=adam: ", "adamw"),
        ("out=x corpus=text", "corpus.path=???: ", "is required"),
        ("out=x corpus=x.txt", "corpus=x.txt: ", "type corpus=text corpus.path=x.txt;"),
        ("out=x output_dir=5", "output_dir=5: ", "out?"), ("out=x algo=grpo", "algo=grpo: ", "no choice"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line_that_names_the_key(name: str) -> None:
    for line, begins, word in WRONG[name]:
        with pytest.raises(InputError) as caught:
            for cell in cells(line.split()):
                check(name, cell)
        text = str(caught.value)
        assert text.startswith(begins) and word in text and "\n" not in text, (line, text)


@pytest.mark.parametrize("name", ROOTS)
def test_no_option_at_all_is_refused_for_every_group(name: str) -> None:
    groups = {group: options for group, options in groups_of(name).items() if not group.startswith("hydra")}
    for group, options in groups.items():
        for nothing in ("[]", "[null]", "null"):
            with pytest.raises(InputError) as caught:
                check(name, canonical(name, [f"{group}={nothing}"]))
            text = str(caught.value)
            assert text.startswith(f"{group}={nothing}: ") and "\n" not in text
            assert "leave it out" in text or text.endswith(f"is needed; there are {', '.join(options)}"), text


RIGHT = [  # command line, setting, value
    ("steps=3e3", "steps", 3000),
    ("steps=1e2", "steps", 100),
    ("optimizer.lr=1", "optimizer.lr", 1.0),
    ("run_dir=5", "run_dir", "5"),
    ("template.text=5", "template.text", "5"),
    ("model.stop=foo", "model.stop", ["foo"]),
    ("run_dir=F/müller", "run_dir", "F/müller"),
    ("run_dir=F/a,b", "run_dir", "F/a,b"),
    ("run_dir=F/a=[(b)]{c}#'d", "run_dir", "F/a=[(b)]{c}#'d"),
    ("run_dir=~/x", "run_dir", os.path.expanduser("~/x")),
    ("tracker.uri=http://h:1/?a=b&c", "tracker.uri", "http://h:1/?a=b&c"),
    (r'template.stop=["\n\n"]', "template.stop", ["\n\n"]),
    (r"template.text={question}\nA:", "template.text", "{question}\nA:"),
    (r"template.text={question}$\nu$", "template.text", r"{question}$\nu$"),
    ("template.text=Lösung:{question}", "template.text", "Lösung:{question}"),
    ("model=hf model.path=zero/nano/base", "model.path", "zero/nano/base"),
    ("questions=file questions.path=x.jsonl", "questions.path", "x.jsonl"),
    ("learner=lora learner.lora.targets=[q_proj]", "learner.lora.targets", ["q_proj"]),
    ("~reward.terms.correct +reward.terms.a=m.f", "seed", 0),
    ("+reward.terms.mine=m.f +reward.terms.mine.weight=0.1", "reward.terms.mine.weight", 0.1),
    ("+reward.terms.mine.weight=0.1 reward.terms.mine=m.f", "reward.terms.mine.weight", 0.1),
    ("reward.terms.mine.function=m.f reward.terms.mine.n=3", "reward.terms.mine", {"function": "m.f", "n": 3}),
]


def test_values_are_read_as_meant() -> None:
    for line, key, expected in RIGHT:
        (cell,) = cells(tidied(line.split(), several=False))
        value = check("train", cell)
        for word in key.split("."):
            value = value[word]
        assert value == expected and type(value) is type(expected), (line, value)
    assert check("evaluate", ["n=8", "k=2"])["k"] == [2]
    corpus = check("pretrain", ["out=x", "corpus=text", "corpus.path=x.txt"])["corpus"]
    assert corpus["stages"]["text"]["documents"]["path"] == "x.txt"
    assert (
        check("pretrain", ["out=x", "corpus=text", "corpus.path=x.txt", "corpus.tokens=2e3"])["corpus"]["tokens"]
        == 2000
    )


@pytest.mark.parametrize(
    "path", ["F/a b", "a=b(c)", "it's", 'say "x"', "{x}", "[x]", "a#b", "ü,ö", "x\\", "$HOME", "a:b", "null", "007"]
)
@pytest.mark.parametrize(
    "key", ["questions.path", "run_dir", "model.path", "corpus.path", "out", "run", "benchmarks.sets.x.path"]
)
def test_a_path_arrives_as_it_is(key: str, path: str, tmp_path: Path) -> None:
    folder = tmp_path / path
    folder.mkdir(parents=True)
    for several in (False, True):  # it exists, so the comma is not a sweep
        text = tidied([f"{key}={folder}"], several)[0]
        assert parsed(text).value() == str(folder) and tidied([text], several) == [text]


def test_a_comma_between_two_paths_is_a_sweep() -> None:
    assert [parsed(*cell).value() for cell in cells(["model.path=F/a=1,F/b=2"])] == ["F/a=1", "F/b=2"]
    assert parsed(quoted("out=F/a,b")).value() == "F/a,b"


def test_glob_is_the_options_that_match() -> None:
    assert cells(["algo=glob(grpo*)", "seed=0,1"])[:2] == [["algo=grpo", "seed=0"], ["algo=grpo", "seed=1"]]


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["algo=grpo,drgrpo"], "algo"), (["seed=range(3)"], "seed"), (["optimizer.lr=1e-3,1e-4"], "optimizer.lr"),
        (["algo=glob(grpo*)"], "algo"), (["model.path=a/b,c/d"], "model.path"),
        (["experiment=fig6_length", "seed=0,1"], "seed"),
        (["hydra/launcher=submitit_slurm"], "hydra/launcher"), (["hydra/launcher=foo", "-m"], "hydra/launcher"),
        (["hydra/sweeper=optuna", "-m"], "hydra/sweeper"), (["hydra.sweep.dir=x"], "hydra.sweep.dir"),
        (["hydra.job.name=x"], "hydra.job.name"), (["hydra.launcher.at_once=2", "-m"], "hydra.launcher.at_once"),
        (["hydra.sweep.dir=x", "hydra/launcher=local", "-m"], "hydra.sweep.dir"), (["--foo"], "command line"),
        (["-sc", "install=bash"], "--shell-completion"), (["name=a/b"], "name"), (["name=x", "seed=0,1", "-m"], "name"),
        (["--help", "algo=nope"], "algo"), (["algo=grpo", "algo=ppo", "-m"], "algo"),
        (["--config-name=x"], "--config-name"), (["--config-path=/tmp"], "--config-path"), (["-cd", "no/such"], "--config-dir"),
        (["--resolve"], "--resolve"), (["-p", "x"], "--package"), (["--run", "-m"], "--run"), (["algo =grpo"], "command line"),
        (["prompts=1000000000000"], "prompts"), (["algo=ppo", "rollout=gold"], "rollout"),
    ],
)  # fmt: skip
def test_a_bad_command_line_exits_with_2_before_anything_starts(
    arguments: list[str], key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit) as end:
        command.command_line("train", lambda: pytest.fail("it started"))
    output = capsys.readouterr()
    assert end.value.code == 2 and output.out == ""
    assert output.err.startswith((f"error: {key}=", f"error: {key}: ")) and output.err.count("\n") == 1
    if key in ("algo", "seed", "optimizer.lr", "model.path") and len(arguments) == 1:
        assert "add -m" in output.err
    if "submitit" in arguments[0]:
        assert "did you mean slurm?" in output.err


@pytest.mark.parametrize("name", ["train", "evaluate", "pretrain"])
def test_several_values_without_the_multirun_flag_are_refused_with_the_flag(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *(["out=x"] if name == "pretrain" else []), "seed=0,1"])
    with pytest.raises(SystemExit):
        command.command_line(name, lambda: pytest.fail("it started"))
    assert "seed=0,1: several values are a sweep; add -m" in capsys.readouterr().err


def test_settings_may_stand_on_both_sides_of_a_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "algo=grpo,drgrpo", "-m", "seed=0,1"])
    started: list[list[str]] = []
    command.command_line("train", lambda: started.append(sys.argv[1:]))
    assert [sorted(arguments) for arguments in started] == [["-m", "algo=grpo,drgrpo", "seed=0,1"]]


def test_the_last_of_two_values_of_a_setting_counts_and_a_note_tells_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "steps=2", "steps=3"])
    started: list[list[str]] = []
    command.command_line("train", lambda: started.append(sys.argv[1:]))
    assert started == [["steps=2", "steps=3"]] and check("train", started[0])["steps"] == 3
    assert capsys.readouterr().err == "steps is given twice, 2 and 3: the last one counts\n"


def test_help_lists_what_the_command_has_and_says_what_settings_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--help", "algo=grpo"])
    command.command_line("train", lambda: None)
    output = capsys.readouterr().out
    lines = {line.split(":")[0].strip(): line for line in output.splitlines()}
    assert "_base" not in next(line for line in output.splitlines() if line.startswith("algo: "))
    assert "# questions of a step" in lines["prompts"] and "# coefficient of an entropy bonus" in lines["entropy"]
    assert not {"corpus", "out"} & {line.partition(":")[0] for line in output.splitlines()}
    monkeypatch.setattr(sys, "argv", ["train", "--version"])
    command.command_line("train", lambda: None)
    assert capsys.readouterr().out.startswith("r1-zero-suite ")


@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"]], ids=lambda flags: flags[0])
def test_a_reader_that_closes_early_ends_the_help_in_silence(flags: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        line = [sys.executable, "-m", "zero.train", *flags]
        done = subprocess.run(line, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bad_cell_of_a_multirun_lets_the_others_run(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a=1.jsonl", "b.jsonl")]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "zero.train",
            "-m",
            "questions=file",
            f"questions.path={files[0]},{files[1]}",
            f"hydra.sweep.dir={tmp_path}/sweep",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "2 runs of this line failed:" in done.stderr
    assert all(f"{file}: no such file" in done.stderr.partition("failed:")[2] for file in files), done.stderr
