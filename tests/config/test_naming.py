"""Names of runs: short, informative, and never the same for two runs."""

from __future__ import annotations

import pytest

from zero.config.check import canonical, check
from zero.config.identity import signature
from zero.config.naming import LONGEST, check_name, run_name
from zero.errors import InputError

CHOICES = {"algo": "drgrpo", "template": "none", "questions": "nano_math", "model": "nano", "tracker": "mlflow"}
FILE = CHOICES | {"questions": "file"}
START = "drgrpo-none-nano_math-nano-s"


def named(*overrides: str, choices: dict[str, str] = CHOICES) -> str:
    return run_name("train", choices, canonical("train", overrides))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ((), START + "0"),
        (
            ("algo=drgrpo", "seed=3", "tracker=jsonl", "steps=5", "optimizer.lr=1e-4"),
            START + "3-optimizer.lr=0.0001-steps=5",
        ),
        (("steps=100", "optimizer.clip=1", "optimizer=adamw", "checkpoint.every=3", "name=x"), START + "0"),
        (("optimizer.betas=[0.9,0.99]",), START + "0-optimizer.betas=0.9+0.99"),
        (("algo.advantage_clip=2", "learner=lora"), START + "0-algo.advantage_clip=2-learner=lora"),
    ],
)
def test_a_name_holds_what_differs_from_the_default(overrides: tuple[str, ...], name: str) -> None:
    assert named(*overrides) == name


def test_paths_and_structures_are_shortened() -> None:
    file = named("questions=file", "questions.path=/home/someone/q.jsonl", "questions.answer=answer", choices=FILE)
    assert file.startswith("drgrpo-none-file-nano-s0-questions.path=q-")
    assert (
        named("reward.terms.mine.function=my_module.gentle") == f"{START}0-reward.terms.mine.function=my_module.gentle"
    )
    correction = "algo.correction={_target_:zero.objective.token_correction,_partial_:true,cap:2.0}"
    assert "algo.correction=token_correction-" in named(correction)


def test_shortened_names_still_differ() -> None:
    long = [
        f"template.text={'x' * 300}",
        f"tracker.sweep={'y' * 50}",
        f"model.stop=[{'z' * 90}]",
        "optimizer.weight_decay=0.125",
    ]
    one, two = named(*long, "steps=7"), named(*long, "steps=8")
    assert "steps=7" in one and "steps=8" in two and "weight_decay=0.125" in one and max(len(one), len(two)) <= LONGEST
    both = named(*long, "samples.every=5", "evaluation.every=3")
    assert "samples.every=5" in both and "evaluation.every=3" in both and "-weight_decay=" in both
    many = "steps=1 prompts=4 group_size=4 evaluation.every=0 sampling.max_tokens=24 benchmarks.limit=4 samples.every=0"
    name = named(*many.split(), "questions=file", "questions.path=/a/q.jsonl", "questions.question=text", choices=FILE)
    assert name.count("=") == 9 and "-steps=1-" in name and "-prompts=4-" in name and len(name) <= LONGEST, name


def test_different_settings_never_share_a_name() -> None:
    lines = [
        [], ["steps=5"], ["sampling.max_tokens=64"], ["sampling.max_tokens=64", "evaluation.max_tokens=128"],
        ["evaluation.max_tokens=64"], ["template.text='a b {question}'"], ["template.text='a_b {question}'"],
        ["template.stop=[a]"], ["template.stop=[b]"], ["template.stop=['a+b']"], ["template.stop=[a,b]"],
        ["+reward.terms.mine=a.f"], ["+reward.terms.mine=b.f"], ["+reward.terms.mine=a.f", "+reward.terms.mine.weight=0.5"],
        ["algo.correction={_target_:zero.objective.token_correction,_partial_:true,cap:2.0}"],
        ["algo.correction={_target_:zero.objective.token_correction,_partial_:true,cap:3.0}"],
        [f"template.text={'x' * 300}1"], [f"template.text={'x' * 300}2"], ["optimizer.lr=1e-4"], ["optimizer.lr=1e-5"],
        ["model.path=zero/nano/base"], ["model.path=zero/nano/plain"], ["template.text='steps=5'"], ["template.text=''"],
    ]  # fmt: skip
    configs = [signature(check("train", line)) for line in lines]
    names = [named(*line) for line in lines]
    assert {(a, b) for a, x in enumerate(names) for b, y in enumerate(names) if x == y} == {
        (a, b) for a, x in enumerate(configs) for b, y in enumerate(configs) if x == y
    }


def test_a_name_of_ones_own_is_no_part_of_the_identity() -> None:
    assert signature(check("train", ["name=mine"])) == signature(check("train", []))
    check_name("mine-2")
    for wrong in ("../x", "a/b", "", ".hidden", "x" * (LONGEST + 1)):
        with pytest.raises(InputError, match="name="):
            check_name(wrong)
