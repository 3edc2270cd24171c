"""Programs with flags of their own: a wrong command line is one line with exit code 2."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.conftest import ROOT

PARSING = [
    path
    for folder in ("launch", "analysis", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "ArgumentParser(" in path.read_text()
]


def test_every_program_takes_the_parser_whose_errors_are_one_line() -> None:
    assert len(PARSING) > 15
    assert [path.name for path in PARSING if "argparse.ArgumentParser(" in path.read_text()] == []


@pytest.mark.parametrize(
    ("program", "arguments", "words"),
    [
        ("launch.submit", ["--nosuch"], "unrecognized arguments: --nosuch"),
        ("launch.status", ["--nosuch"], "unrecognized arguments: --nosuch"),
        ("launch.status", ["sweep", "a", "b"], "unknown command"),
        ("launch.sync", [], "the following arguments are required: sweep"),
        ("launch.serve", [], "the following arguments are required"),
        ("launch.plan", ["--mean", "abc"], "argument --mean: invalid float value: 'abc'"),
        ("launch.dashboard", ["--port", "x"], "argument --port: invalid int value: 'x'"),
        ("analysis.experiments", [], "the following arguments are required: FOLDER"),
    ],
)
def test_a_wrong_command_line_is_one_line(
    program: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        importlib.import_module(program).main(arguments)
    output = capsys.readouterr()
    assert end.value.code == 2 and output.out == ""
    assert re.fullmatch(rf"error: .*{re.escape(words)}.*; python -m {program} --help lists all arguments\n", output.err)


@pytest.mark.parametrize("mean", ["-5", "0", "nan", "inf"])
def test_a_mean_length_that_is_none_is_refused(mean: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert importlib.import_module("launch.plan").main(["algo=grpo", "--mean", mean]) == 2
    assert capsys.readouterr().err.startswith("error: --mean=")


def test_the_name_of_an_experiment_is_checked_before_the_runs_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    for program in ("experiments", "curves"):
        main = importlib.import_module(f"analysis.{program}").main
        assert main(["no/such/folder", "--experiment", "nosuch"]) == 2  # which reading would complain of
        assert capsys.readouterr().err == "error: --experiment=nosuch: is none of these sweeps; there are none\n"
