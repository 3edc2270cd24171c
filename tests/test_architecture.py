"""The house rules that a machine can see: arrows point down, and nobody asks an axis for its name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

# A module may import its own layer's package and any lower layer. The longest matching prefix counts.
LAYERS = {
    "zero.objective": 0, "zero.errors": 0, "zero.statistics": 0, "zero.reflection": 0, "zero.monitoring.reward_hacking": 0,
    "zero.cpu.kernels": 0, "zero.tracking.text_table": 0, "zero.files": 0, "zero.prose": 0,
    "zero.records": 1, "zero.runtime": 1, "zero.cpu.architectures": 1, "zero.tracking.provenance": 1, "zero.signals": 1, "zero.lock": 1,
    "zero.algorithm": 2, "zero.template": 2, "zero.config.identity": 2, "zero.monitoring.preflight": 2, "zero.published": 2,
    "zero.questions": 3,
    "zero.nano": 4, "zero.grading": 4, "zero.batching": 4, "zero.rollout": 4, "zero.learner": 4,
    "zero.learner.optim": 5, "zero.learner.gradient_probe": 5, "zero.monitoring.algorithm_lens": 6, "zero.critic": 5,
    "zero.critic.value_model": 6, "zero.critic.monte_carlo": 6, "zero.rollout.prefetch": 5, "zero.monitoring.sync_check": 5,
    "zero.rollout.decoder": 5, "zero.rollout.native": 5, "zero.rollout.solutions": 5, "zero.rollout.auto": 6,
    "zero.learner.torch": 5, "zero.learner.policy": 5, "zero.cpu.packing": 5, "zero.learner.deepspeed": 5,
    "zero.benchmark": 5, "zero.tracking": 5, "zero.checkpoint": 5, "zero.rounds": 4, "zero.failures": 6,
    "zero.loop": 7, "zero.tracking.curves_png": 7, "zero.tracking.terminal": 7,
    "zero.config.limits": 2, "zero.config.recipes": 1, "zero.config.experiments": 2, "zero.models.load": 8, "zero.models.weights": 8, "zero.memory_probe": 8,
    "zero.config.aliases": 0, "zero.config.suggest": 1, "zero.config.overrides": 2, "zero.config.compose": 8, "zero.config.naming": 8, "zero.config.help": 8,
    "zero.config.check": 8, "zero.config.cli": 8, "zero.build": 8, "zero.train": 8, "zero.evaluate": 8, "zero.pretrain": 8,
    "zero.pretrain.data": 8, "zero.run_folder": 8, "zero.question_sets": 8, "zero.pretrain.model": 8, "zero.models.vocabulary": 1,
    "zero.models.generation": 1,
    "launch": 9, "analysis": 9,
}  # fmt: skip
# Heavy or special libraries, and the only files that may name them.
COMPOSING = {
    "zero.config.check",
    "zero.config.cli",
    "zero.config.compose",
    "zero.config.help",
    "zero.config.overrides",
    "zero.build",
    "zero.train",
    "zero.evaluate",
    "zero.pretrain",
    "zero.run_folder",
    "launch.sweep.cells",
}
CONFINED = {
    **dict.fromkeys(("hydra", "omegaconf"), COMPOSING),
    "mlflow": {"zero.tracking", "launch", "analysis.reader.mlflow"},
    "vllm": {"zero.rollout"},
    "deepspeed": {"zero.learner"},
    "requests": {"zero.rollout.http"},
    "submitit": {"launch"},
    "peft": {"zero.learner"},
    "sympy": {"zero.grading.maths.understand_r1_zero"},
    "math_verify": {"zero.grading.maths.understand_r1_zero"},
    "mpmath": {"zero.grading.maths.formula", "zero.grading.maths.values", "zero.grading.maths.symbolic"},
    "datasets": {"zero.questions.sources"},
    "pyarrow": {"zero.questions.sources", "analysis.reader.journals"},
    "matplotlib": {"zero.tracking.curves_png", "analysis"},
}
SOURCES = sorted(p for top in ("zero", "launch", "analysis") for p in (ROOT / top).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer_of(module: str) -> int | None:
    matches = [name for name in LAYERS if module == name or module.startswith(name + ".")]
    return LAYERS[max(matches, key=len)] if matches else None


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {m for m in modules if (ROOT / Path(*m.split("."))).with_suffix(".py").exists()} or {
                str(node.module)
            }
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    own = layer_of(module)
    assert own is not None or module == "zero", f"{module} has no layer: give it one in this test"
    for target in imports_of(path):
        level = layer_of(target)
        if level is None or own is None:
            continue
        # within a folder, its own files and subfolders are one layer
        room = ".".join(module.split(".")[: 2 if module.startswith("zero.") else 1])
        sibling = (ROOT / Path(*room.split("."))).is_dir() and (target == room or target.startswith(room + "."))
        assert level < own or sibling or level == own == 8, f"{module} imports {target}: upward"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_libraries_stay_where_they_belong(path: Path) -> None:
    module = module_of(path)
    for target in imports_of(path):
        allowed = CONFINED.get(target.split(".")[0])
        assert allowed is None or any(module == a or module.startswith(a + ".") for a in allowed), f"{module}: {target}"


def test_no_one_compares_with_the_name_of_an_axis_value() -> None:
    names = {
        p.stem for axis in ("algo", "template", "questions", "model") for p in (ROOT / "conf" / axis).glob("*.yaml")
    }
    guilty = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare | ast.Match):
                constants = {
                    c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)
                }
                guilty += [f"{path}:{node.lineno} {sorted(constants & names)}" for _ in constants & names]
    assert not guilty


def test_the_objective_needs_torch_alone() -> None:
    assert {i.split(".")[0] for i in imports_of(ROOT / "zero" / "objective.py")} <= {"torch", "__future__"}


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_files_can_be_read_in_a_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350
