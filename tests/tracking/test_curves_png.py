"""curves.png is drawn for any run, shows every series that the journal has, and opens no window."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.synthetic import write_run
from zero.tracking import curves_png, palette
from zero.tracking.curves_png import draw
from zero.tracking.journal import Journal


def size_of(png: Path) -> tuple[int, int]:
    data = png.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.mark.parametrize("done", [None, 0, 1, 2, 100])
def test_any_number_of_steps_is_drawn(tmp_path: Path, done: int | None) -> None:
    run_dir = tmp_path / "run"
    if done is None:
        run_dir.mkdir()
    else:
        write_run(run_dir, steps=100, done=done)
    assert draw(run_dir) == run_dir / "curves.png"
    width, height = size_of(run_dir / "curves.png")
    assert width > 1000
    assert height > 600
    assert not list(run_dir.glob("*partial*"))


def test_what_is_not_finite_or_absent_leaves_a_gap(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append({"train/reward": float("nan"), "eval/b/accuracy": 0.5}, 0)
    journal.append({"train/reward": 0.5, "loss/clip_fraction": 0.0}, 1)
    journal.append({"loss/grad_norm": float("inf")}, 2)
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 3, "train/re')  # the run is still writing
    assert size_of(draw(tmp_path))[0] > 1000


def test_the_picture_holds_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    draw(write_run(tmp_path / "grpo-r1-nano-s0", algo="grpo", steps=12))
    (figure,) = figures
    assert figure.get_suptitle() == "grpo-r1-nano-s0"
    axes = {axis.get_title(): axis for axis in figure.axes}
    assert set(axes) >= {
        "reward and accuracy",
        "response length",
        "shares of responses",
        "entropy",
        "gradient",
        "speed",
    }
    lines = {line.get_label(): line for axis in figure.axes for line in axis.get_lines()}
    for label in (
        "training accuracy = reward",
        "all",
        "correct",
        "incorrect",
        "truncated",
        "formatted",
        "reflection",
        "entropy",
        "gradient norm",
        "clipped",
        "sampling",
    ):
        assert list(lines[label].get_xdata()) == list(range(1, 13)), label
    (bars,) = axes["reward and accuracy"].containers
    assert list(bars.lines[0].get_xdata()) == [0, 3, 6, 9, 12]
    for axis in figure.axes:
        assert axis.get_ylabel()


def test_importing_loads_no_matplotlib() -> None:
    code = "import sys, zero.tracking.curves_png; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_labels_of_two_scales_have_the_colours_of_their_lines() -> None:
    from matplotlib.figure import Figure

    drawn = Figure()
    lines = [{"step": step, "loss/grad_norm": 1.0, "loss/clip_fraction": 0.1} for step in range(1, 4)]
    curves_png._gradient(drawn.subplots(), lines)
    norm, clipped = drawn.axes
    for axis in (norm, clipped):
        assert axis.yaxis.label.get_color() == axis.lines[0].get_color() in palette.COLOURS
    assert norm.lines[0].get_color() != clipped.lines[0].get_color()


def test_guessing_is_a_line_under_the_accuracy_of_its_benchmark() -> None:
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    lines = [{"step": step, "eval/a/accuracy": 0.2, "eval/a/chance": 0.0625, "eval/b/accuracy": 0.1} for step in (0, 5)]
    curves_png._reward(axis, lines)
    assert "guessing, a (6.2%)" in (names := axis.get_legend_handles_labels()[1])
    assert not any("guessing, b" in name for name in names)
