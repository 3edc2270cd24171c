"""Yaml files of a user's own beside those of conf/: one run, a sweep, what is frozen, and folders that are refused."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from launch import plan as plan_command
from launch import serve, submit
from launch.sweep.cells import plan
from launch.sweep.freeze import freeze
from zero.config import cli, experiments, search_path
from zero.config.check import check, options
from zero.config.help import help_text
from zero.config.overrides import options_of
from zero.errors import InputError
from zero.paths import ROOT, USER_CONF
from zero.tracking import provenance

ALGO = """# Mine
defaults: [_base, _self_]
advantage: {_target_: zero.objective.group_mean, _partial_: true}
weight: {_target_: zero.objective.token_mean, _partial_: true}
surrogate: {_target_: zero.objective.clipped, _partial_: true, low: 0.1, high: 0.3}
min_group: 2   # siblings are compared
"""
EXPERIMENT = "title: of mine\ncells: [[algo=mine, 'seed=0,1']]\n"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "my conf"
    for name, text in (("algo/mine.yaml", ALGO), ("experiment/my_two.yaml", EXPERIMENT)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    yield folder
    search_path.use([])


def test_an_option_of_ones_own_is_like_any_other(own: Path) -> None:
    for words in (["--config-dir", str(own)], [f"-cd={own}"], [f"hydra.searchpath=['file://{own}']"]):
        search_path.use([])
        assert search_path.take([*words, "algo=mine", "-m"]) == ["algo=mine", "-m"] and [own] == USER_CONF
        config = check("train", ["algo=mine", "algo.surrogate.low=0.15"])
        assert config["algo"]["surrogate"] == {
            "_target_": "zero.objective.clipped",
            "_partial_": True,
            "low": 0.15,
            "high": 0.3,
        }
    assert "mine" in options_of("algo") and options("algo", config)["mine"]["surrogate"]["low"] == 0.1
    output = help_text("train", ["algo=mine"])
    assert "mine" in next(line for line in output.splitlines() if line.startswith("algo: ")).split(": ")[1].split(", ")
    assert "# siblings are compared" in output and "# coefficient of an entropy bonus" in output
    with pytest.raises(InputError, match="did you mean mine"):
        check("train", ["algo=mien"])
    assert "my_two" in experiments.known()
    search_path.use([])
    assert "mine" not in options_of("algo")
    with pytest.raises(InputError, match="algo=mine: no such option"):
        check("train", ["algo=mine"])


def test_a_sweep_plans_with_and_freezes_own_options(own: Path, tmp_path: Path) -> None:
    plain = provenance.digest(ROOT)
    search_path.use([own])
    cells = plan(["algo=mine,grpo", "seed=0,1"]).cells
    assert len(cells) == 4 and len({cell.signature for cell in cells.values()}) == 4
    assert set(plan(["experiment=my_two"]).cells) < set(cells)
    record = freeze(tmp_path / "sweep")
    frozen = tmp_path / "sweep" / "code" / "conf" / "algo"
    assert (frozen / "mine.yaml").read_text() == ALGO and (frozen / "grpo.yaml").is_file()
    assert record["digest"] == provenance.digest(ROOT) == provenance.digest(tmp_path / "sweep" / "code") != plain
    (own / "algo" / "mine.yaml").write_text(ALGO.replace("0.3", "0.4"))
    assert provenance.digest(ROOT) != record["digest"]
    assert provenance.start({"algo": "mine"}, "cpu", 1)["config_dirs"] == [str(own)]


@pytest.mark.parametrize("form", ["--config-dir=DIR", "hydra.searchpath=[file://DIR]"])
@pytest.mark.parametrize("command", [plan_command, submit, serve], ids=lambda module: module.__name__)
def test_every_other_command_with_overrides_takes_such_a_folder(
    command: ModuleType, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each gets as far as a wrong setting in the option of that folder."""
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(
        "defaults: [recipe: 1b, _self_]\npath: mine\ncontext: many\n"
    )
    monkeypatch.chdir(tmp_path)
    try:
        assert command.main([form.replace("DIR", str(tmp_path / "conf")), "model=mine"]) == 2
    finally:
        search_path.use([])
    assert re.fullmatch(r"error: model\.context.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("file", "words", "message"),
    [
        ("algo/grpo.yaml", "--config-dir DIR", r"--config-dir=.*holds algo/grpo\.yaml, and there is one of that name"),
        ("mine.yaml", "--config-dir DIR", r"holds no option; lay it out like conf/"),
        ("algo/x.yaml", "--config-dir DIR/no", r"--config-dir=.*/no: no such folder"),
        ("algo/x.yaml", "hydra.searchpath=[pkg://mine]", r"hydra\.searchpath=pkg://mine: must be \[file://FOLDER\]"),
    ],
)
def test_an_impossible_folder_is_refused(
    file: str,
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(ALGO)
    with pytest.raises(InputError, match=message):
        search_path.take(words.replace("DIR", str(tmp_path)).split())
    assert not USER_CONF
    monkeypatch.setattr(sys, "argv", ["train", *words.replace("DIR", str(tmp_path)).split()])
    with pytest.raises(SystemExit) as end:
        cli.command_line("train", lambda: pytest.fail("it started"))
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1
