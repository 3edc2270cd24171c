"""The command line: every bad input is one line naming key, value and remedy, with exit code 2, before torch."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.conftest import ROOT
from zero.config.check import cells, check, check_imitation
from zero.errors import InputError

ALGOS, TEMPLATES = ("grpo", "drgrpo"), ("none", "qwen_math", "r1")
QUESTIONS = ("nano_math", "nano_gsm", "nano_asdiv", "nano_countdown")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=abc", "seed=abc: must be a whole number"),
        ("seed=-1", "seed=-1: must be 0 or more"),
        ("steps=1.5", "steps=1.5: must be a whole number"),
        ("steps=0", "steps=0: must be above 0"),
        ("sampling.temperature=-1", "sampling.temperature=-1: must be 0 or more"),
        ("sampling.temperature=0", "sampling.temperature=0: training samples must differ"),
        ("sampling.top_p=0", "sampling.top_p=0: must be above 0"),
        ("optimizer.lr=nan", "optimizer.lr=nan: must be a number"),
        ("optimizer.lr=1e400", "optimizer.lr=1e400: must be a finite number"),
        ("reward.terms.correct.weight=inf", "weight=inf: must be a finite number"),
        ("seed=100000000000000000000", "seed=100000000000000000000: is too large"),
        ("optimizer.schedule=cos", "optimizer.schedule=cos: must be constant, linear, cosine or wsd"),
        ("group_size=1", "group_size=1: this algorithm compares siblings; it must be at least 2"),
        ("updates=3", "updates=3: must divide the 128 responses"),
        ("algo=drgpo", "algo=drgpo: no such option; did you mean drgrpo"),
        ("promts=3", "promts=3: no such setting; did you mean prompts?"),
        ("optimizer.lrr=1", "optimizer.lrr=1: no such setting; did you mean optimizer.lr"),
        ("+foo=3", "foo=3: no such setting"),
        ("model=hf", r"model.path=\?\?\?: is required"),
        ("model.path=pyproject.toml", "model.path=pyproject.toml: is a file; give a Hugging Face model folder"),
        ("questions=file", "questions.path=null: is required"),
        ("learner.gradient_checkpointing=3", "must be true or false"),
        ("tracker.uri=http://bob:secret@lab:5000", "tracker.uri=http://...@lab:5000: names a user with a password"),
        ("seed=1=2", "seed=1=2: must be a whole number"),
    ],
)
def test_bad_input_is_one_clear_line(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        for cell in cells([override]):
            check("train", cell)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["algo=sft"],
            "rollout=native: this algorithm imitates every response, right or wrong: add rollout=gold",
        ),
        (["rollout=gold"], "rollout=gold: reference solutions all earn the same, .*learns nothing"),
        (["algo=reinforce_pp", "rollout=gold"], "learns nothing"),
        (["algo=ppo", "rollout=gold"], "has a critic to predict that learns nothing"),
        (["algo=sft", "rollout=gold", "sampling.temperature=0.5"], "sampling.temperature=0.5: .*at temperature 1"),
        (["algo=sft", "rollout=gold", "evaluation.temperature=0.5"], None),
        (["algo=rft"], None),
    ],
)
def test_algorithms_that_imitate_need_solutions_and_others_refuse_them(
    overrides: list[str], message: str | None
) -> None:
    config = check("train", overrides)
    if message is None:
        check_imitation(config)
        return
    with pytest.raises(InputError, match=message):
        check_imitation(config)


def test_lists_may_have_any_length_but_not_other_types() -> None:
    assert (
        check("train", ["questions=countdown", "questions.rows.counts=[2,2,2,3]"])["questions"]["rows"]["counts"][3]
        == 3
    )
    assert check("evaluate", ["n=8", "k=[1,4,8]"])["k"] == [1, 4, 8]
    with pytest.raises(InputError, match=r"k.1=x: must be a whole number"):
        check("evaluate", ["n=8", "k=[1,x]"])
    with pytest.raises(InputError, match=r"k=9: pass@k needs 1 <= k <= n"):
        check("evaluate", ["n=8", "k=[1,9]"])


@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"], ["seed=abc"], ["algo=nope"], ["-m", "seed=0,x"]])
def test_help_and_errors_answer_without_torch(flags: list[str], tmp_path: Path) -> None:
    """`-X importtime` lists every module that is imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "zero.train", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == (0 if flags[0].startswith("--") else 2)
    for module in ("torch", "transformers", "mlflow", "numpy", "matplotlib"):
        assert f" {module}\n" not in done.stderr, module
    if done.returncode == 2:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        assert len(lines) == 1 and lines[0].startswith("error: ")


@pytest.mark.parametrize(("algo", "template", "questions"), list(product(ALGOS, TEMPLATES, QUESTIONS)))
def test_every_cell_of_the_four_axes_composes(algo: str, template: str, questions: str) -> None:
    config = check("train", [f"algo={algo}", f"template={template}", f"questions={questions}", "seed=7"])
    assert config["questions"]["name"] == questions and config["template"]["name"] == template
    assert config["benchmarks"]["sets"]["heldout"] == config["questions"]


@pytest.mark.parametrize(
    "path",
    sorted(
        p
        for p in (ROOT / "conf").glob("*/*.yaml")
        # model: tests/models
        if p.parent.name not in ("corpus", "experiment", "model") and not p.stem.startswith("_")
    ),
    ids=str,
)
def test_every_option_composes(path: Path) -> None:
    option = f"{path.parent.name}={path.stem}"
    if path.parent.name == "sampling" and path.stem == "greedy":  # training refuses it: samples must differ
        assert check("evaluate", ["sampling=greedy"])["sampling"]["temperature"] == 0
        return
    root = "evaluate" if option == "rollout=openai" else "train"  # it has no weights to be sent
    extra = {
        "questions=file": ["questions.path=x.jsonl"],
        "questions=code": ["questions.path=x.jsonl"],
        "questions=gym": ["questions.gym.name=dice"],
        "questions=hub": ["questions.hub.id=a/b"],
        "curriculum=levels": ["curriculum.schedule={0: [1]}"],
        "environment=own": ["environment.make._target_=zero.environments.maze.Maze"],
        "reward=environment": ["environment=maze"],
        "rollout=vllm_server": ["rollout.url=http://localhost:1"],
        "rollout=openai": ["rollout.url=http://localhost:1", "rollout.model=x"],
    }
    if path.parent.name == "critic":
        config = check("train", ["algo=ppo", f"critic@algo.critic={path.stem}"])["algo"]
    else:
        config = check(root, [option, *extra.get(option, [])])
    if path.parent.name in ("debug", "size"):  # an overlay over the whole config
        return
    written = {line.partition(":")[0] for line in path.read_text().splitlines() if line[:1].isalpha()} - {"defaults"}
    assert written <= set(config[path.parent.name])


def test_grpo_and_drgrpo_differ_in_two_lines() -> None:
    lines = [
        [x for x in (ROOT / "conf/algo" / f"{name}.yaml").read_text().splitlines() if not x.startswith("#")]
        for name in ALGOS
    ]
    assert sum(a != b for a, b in zip(*lines, strict=True)) == 2


def test_a_multirun_is_every_combination() -> None:
    assert cells(["algo=grpo,drgrpo", "seed=0,1,2", "hydra/launcher=basic"]) == [
        [f"algo={algo}", f"seed={seed}"] for algo in ALGOS for seed in (0, 1, 2)
    ]


@pytest.mark.parametrize("truncation", ["sampling.top_p=0.9", "sampling.top_k=20"])
def test_an_engine_that_does_not_report_its_truncation_refuses_to_train_with_one(truncation: str) -> None:
    server = ["rollout=vllm_server", "rollout.url=http://localhost:1"]
    with pytest.raises(InputError, match=truncation + r".*: this engine does not say"):
        check("train", [*server, truncation])
    check("train", server)
    check("train", [truncation])
    check("evaluate", [*server, truncation])
