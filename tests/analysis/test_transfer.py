"""The transfer matrix: gains at equal tokens, their means by hand, verdicts, and a figure that marks the diagonal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import transfer as module
from analysis.reader.runs import read
from analysis.stats.verdicts import NOT_SHOWN, SHOWN, UNDECIDED
from analysis.transfer import judge, read_matrix, transfer
from tests.analysis.test_runs import make, note_choices
from zero.errors import InputError

KINDS = ("chains", "cards", "code")
GAIN = {  # trained on -> gain on each of KINDS
    "chains": (0.30, 0.02, 0.00), "cards": (0.04, 0.20, 0.00), "code": (0.00, 0.00, 0.10), "all": (0.20, 0.12, 0.08)
}  # fmt: skip
BASE = (0.10, 0.05, 0.02)


def write(folder: Path, questions: str, seed: int, tokens: int = 100, steps: int = 4, algo: str = "grpo") -> None:
    """A run that is evaluated at steps 0, 2 and 4, gains linearly, with a little that differs between seeds."""
    run = make(folder / f"{questions}-{seed}", algo, seed, steps=steps)
    note_choices(run, algo=algo, questions=questions)
    lines = []
    for step in range(steps + 1):
        line: dict[str, float] = {"step": step} | ({"tokens/generated": tokens} if step else {})
        if step % 2 == 0:
            for kind, base, gain in zip(KINDS, BASE, GAIN[questions], strict=True):
                line[f"eval/{kind}/accuracy"] = base + (gain + 0.004 * (seed - 2)) * step / 4
        lines.append(line)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("transfer")
    for questions in GAIN:
        for seed in range(5):
            write(home, questions, seed)
    return home


def test_the_matrix_is_the_mean_gain_over_the_untrained_model(folder: Path) -> None:
    matrix = read_matrix(read(folder))
    assert matrix.rows == ("cards", "chains", "code", "all") and matrix.mixture == "all"
    assert dict(matrix.base) == pytest.approx(dict(zip(KINDS, BASE, strict=True)))
    for trained, gains in GAIN.items():
        for tested, gain in zip(KINDS, gains, strict=True):
            cell = matrix.cell(trained, tested)
            assert (cell.mean, cell.n) == (pytest.approx(gain), 5)
            assert cell.low is not None and cell.high is not None and cell.low < gain < cell.high


def test_claims_are_judged_over_seeds(folder: Path) -> None:
    mixture, others, price = judge(read_matrix(read(folder)))
    off = (0.04 + 0.00 + 0.02 + 0.00 + 0.00 + 0.00) / 6
    assert mixture.measured.mean == pytest.approx((0.20 + 0.12 + 0.08) / 3 - off) and mixture.word == SHOWN
    assert others.measured.mean == pytest.approx(off) and others.word == SHOWN
    assert price.measured.mean == pytest.approx((0.20 + 0.12 + 0.08 - 0.30 - 0.20 - 0.10) / 3) and price.word == SHOWN
    assert (
        mixture.family == 3 and mixture.adjusted is not None and mixture.p is not None and mixture.adjusted >= mixture.p
    )


def test_runs_are_compared_at_equal_tokens(tmp_path: Path) -> None:
    for questions in GAIN:
        for seed in (0, 1):
            write(tmp_path, questions, seed, tokens=200 if questions == "chains" else 100)
    matrix = read_matrix(read(tmp_path))
    assert matrix.budget == 400
    assert matrix.tokens == {"chains": [800.0] * 2, "cards": [400.0] * 2, "code": [400.0] * 2, "all": [400.0] * 2}
    assert matrix.cell("chains", "chains").mean == pytest.approx((0.30 - 0.006) / 2), "half of its steps are within"
    write(tmp_path, "all", 7, tokens=10, algo="sft")
    started = read_matrix(read(tmp_path))
    assert started.budget == 400 and started.cell("all", "code").n == 2, "a supervised start is no row"
    assert started.notes == ("runs left out, 1: by sft, which no specialist was trained by",)
    write(tmp_path, "code", 2, tokens=75)
    matrix = read_matrix(read(tmp_path))
    gain = (GAIN["cards"][1] - 0.004 * 1.5) * 300 / 400
    assert matrix.budget == 300 and matrix.cell("cards", "cards").mean == pytest.approx(gain), "between its evaluations"
    assert matrix.notes[-1] == "3 of 12 cells have no finished run: cards 2, chains 2, all 2"
    result = tmp_path / "code-2" / "result.json"
    result.write_text(json.dumps({"status": "preempted", "steps": 2}))
    matrix = read_matrix(read(tmp_path))
    assert (
        matrix.budget == 400
        and matrix.notes[-1] == "4 of 12 cells have no finished run: cards 2, chains 2, code 2, all 2"
    )
    assert {verdict.word for verdict in judge(matrix)} == {UNDECIDED}, "two seeds decide nothing"


def test_the_command_draws_the_matrix_with_its_diagonal(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert module.main([str(folder), "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "shown: The mixture beats the mean of the specialists off the diagonal: 12.3" in text
    assert (
        "30.0 (" in text
        and ")*" in text
        and "compared at 400 generated tokens; generated in all, mean of runs: cards 400, chains 400" in text
    )
    drawing = (tmp_path / "transfer.svg").read_text()
    assert "+30.0" in drawing and "before 10.0 %" in drawing and "framed" in drawing.replace("\n", " ")
    table = (tmp_path / "transfer.csv").read_text().splitlines()
    assert table[0] == "trained on,tested on,diagonal,base,gain,low,high,n" and len(table) == 1 + 4 * 3
    axis = transfer(read(folder)).figure.axes[0]
    frames = [patch for patch in axis.patches if not patch.get_fill()]
    assert [(round(p.get_x() + 0.46), round(p.get_y() + 0.45)) for p in frames] == [(0, 0), (1, 1), (2, 2)], (
        "as many kinds in both orders"
    )


def test_without_two_kinds_there_is_nothing_to_transfer(tmp_path: Path, folder: Path) -> None:
    write(tmp_path, "chains", 0)
    with pytest.raises(InputError, match="at least two question sets"):
        transfer(read(tmp_path))
    with pytest.raises(InputError, match="--mixture"):
        transfer(read(folder), "none_such")
    for seed in range(5):
        write(tmp_path, "cards", seed)
    verdicts = judge(read_matrix(read(tmp_path)))
    assert "by no specialist trained on: code" in transfer(read(tmp_path)).text
    assert verdicts[0].measured.n == 0 and verdicts[0].word == UNDECIDED and NOT_SHOWN not in {v.word for v in verdicts}
    write(again := tmp_path / "again", "chains", 0)
    with pytest.raises(InputError, match=r"same seed as .*chains-0"):
        transfer(read([folder, again]))
