"""The house rules that a test can check: imports point down, and no code branches on the name of an axis value."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT, part

# A folder, or a file at the top, may import what stands in the rows above its own, wherever the import is written.
LAYERS = [
    "paths errors files process objective records reflection prose rounds distributed runtime signals statistics vision",
    "prompt_text",
    "config algorithm checkpoint lock published template sandbox",
    "worker_process",
    "images",
    "batching questions episode_metrics",
    "cpu grading nano",
    "learner tracking environments image_rows",
    "models run_folder",
    "rollout pretrain question_sets",
    "critic benchmark monitoring failures",
    "asking context flops scores subjects",
    "loop",
    "build memory_probe",
    "evaluate train",
    "launch.sweep analysis.reader analysis.style",
    "launch.places analysis.cli analysis.stats",
    "launch.cost launch.serving analysis.sentences analysis.template_figure",
    "launch analysis",
]
FOLDERS = {
    name if name.partition(".")[0] in ("launch", "analysis") else f"zero.{name}": level
    for level, row in enumerate(LAYERS)
    for name in row.split()
}
# Heavy or special libraries, and the only files that may name them.
COMPOSING = {
    "zero.config.check",
    "zero.config.cli",
    "zero.config.compose",
    "zero.config.help",
    "zero.config.overrides",
    "zero.config.search_path",
    "zero.build",
    "zero.train",
    "zero.evaluate",
    "zero.pretrain",
    "zero.run_folder",
    "zero.scores",
    "zero.subjects",
    "launch.sweep.compose",
}
CONFINED = {
    **dict.fromkeys(("hydra", "omegaconf"), COMPOSING),
    "mlflow": {"zero.tracking", "launch", "analysis.reader.mlflow"},
    "vllm": {"zero.rollout"},
    "deepspeed": {"zero.learner"},
    "requests": {"zero.rollout.http"},
    "submitit": {"launch"},
    "peft": {"zero.learner"},
    "sympy": {"zero.grading.maths.understand_r1_zero", "zero.grading.gym_expression", "zero.grading.gym_scorer"},
    "reasoning_gym": {"zero.questions.gym_generator", "zero.grading.gym_scorer"},
    "math_verify": {"zero.grading.maths.understand_r1_zero"},
    "pylatexenc": {"zero.grading.maths.understand_r1_zero"},
    "mpmath": {"zero.grading.maths.formula", "zero.grading.maths.values", "zero.grading.maths.symbolic"},
    "textarena": {"zero.environments.textarena"},
    "verifiers": {"zero.environments.verifiers"},
    "datasets": {"zero.questions.sources"},
    "PIL": {"zero.images"},
    "pyarrow": {"zero.questions.sources", "analysis.reader.journals"},
    "matplotlib": {"zero.tracking.curves_png", "analysis"},
}
SOURCES = sorted(p for top in ("zero", "launch", "analysis") for p in (ROOT / top).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def folder_of(module: str) -> str | None:
    matches = [name for name in FOLDERS if module == name or module.startswith(name + ".")]
    return max(matches, key=len) if matches else None


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {m for m in modules if (ROOT / Path(*m.split("."))).with_suffix(".py").exists()} or {
                str(node.module)
            }
    return names


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    own = folder_of(module_of(path))
    if own is None:
        assert module_of(path) == "zero", "no folder: give it a row in this test"
        return
    for target in imports_of(path):
        other = folder_of(target)
        assert other in (None, own) or FOLDERS[str(other)] < FOLDERS[own], f"{own} imports {target}: not below it"


def test_the_files_of_a_folder_import_each_other_in_one_direction() -> None:
    graph = {module_of(path): imports_of(path) for path in SOURCES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above[above.index(module) :], module))
        if module not in done:
            for target in graph[module] & graph.keys():
                visit(target, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_libraries_stay_where_they_belong(path: Path) -> None:
    module = module_of(path)
    for target in imports_of(path):
        allowed = CONFINED.get(target.split(".")[0])
        assert allowed is None or any(module == a or module.startswith(a + ".") for a in allowed), f"{module}: {target}"


def test_no_code_compares_with_the_name_of_an_axis_value() -> None:
    names = {
        p.stem for axis in ("algo", "template", "questions", "model") for p in (ROOT / "conf" / axis).glob("[!_]*.yaml")
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
    assert len(path.read_text().splitlines()) <= (150 if path.name in ("train.py", "evaluate.py") else 350)


# words that say nothing of a value; the noun for it does
RIDDLES = {"of", "said", "found", "made", "rest", "told", "begun", "part", "kept"}


def test_variables_and_parameters_are_nouns() -> None:
    riddles = []
    for folder in ("zero", "launch", "analysis", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                name = node.arg if isinstance(node, ast.arg) else node.id if isinstance(node, ast.Name) else None
                if name in RIDDLES:
                    riddles.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
    assert not riddles


def test_parts_of_the_tests_are_all_of_them_once() -> None:
    items = [SimpleNamespace(path=Path(name), number=i) for i, name in enumerate("bacabdcae")]
    parts = [part(items, f"{k}/3") for k in (1, 2, 3)]
    assert sorted(item.number for chosen in parts for item in chosen) == list(range(len(items)))
    assert [{item.path.name for item in chosen} for chosen in parts] == [{"a", "d"}, {"b", "e"}, {"c"}]
    assert part(items, "1/1") == items
