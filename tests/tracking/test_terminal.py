"""What a user sees: a live panel on a real terminal, plain lines elsewhere; a model's text cannot break either."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from tests.conftest import ROOT
from tests.synthetic import answer, metrics, write_run
from zero.tracking import terminal as progress
from zero.tracking.journal import Journal
from zero.tracking.tables import evaluation_table, sample_answers
from zero.tracking.terminal import Progress, report, sparkline
from zero.tracking.trackers import Trackers

STEPS = 40

WATCHED = """
    import sys, time
    from pathlib import Path
    from types import SimpleNamespace
    from tests.synthetic import metrics
    from zero.tracking.terminal import Progress
    from zero.tracking.journal import Journal
    from zero.tracking.trackers import Trackers

    run_dir, steps = Path(sys.argv[1]), 40
    trackers = Trackers(Journal(run_dir), view=Progress(run_dir, "a-run", steps))
    trackers.rewind(-1)
    for step in range(steps + 1):
        values = metrics("drgrpo", 0, step, steps)
        if step % 10 == 0:
            evaluated = {n: v for n, v in values.items() if n.startswith("eval/")}
            trackers.evaluation(step, [SimpleNamespace(name="nano_math", metrics=lambda e=evaluated: e)])
        trackers.metrics(values, step)
        time.sleep(0.05)
    trackers.close(sys.argv[2])
"""


def watch(run_dir: Path, status: str, terminal: bool, **environment: str) -> str:
    """All that a run prints, on a pseudo-terminal or into a pipe."""
    command = [sys.executable, "-c", textwrap.dedent(WATCHED), str(run_dir), status]
    env = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "CI")
    }
    env |= environment
    if not terminal:
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=True).stdout.decode()
    leader, follower = pty.openpty()
    child = subprocess.Popen(command, cwd=ROOT, env=env, stdout=follower, stderr=follower, stdin=follower)
    os.close(follower)
    printed = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        printed += chunk
    os.close(leader)
    assert child.wait(30) == 0, printed.decode()
    return printed.decode()


def plain_console(encoding: str = "utf-8") -> tuple[Console, io.TextIOWrapper]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(file=file, width=110, highlight=False), file


def printed_by(file: io.TextIOWrapper) -> str:
    file.flush()
    return file.buffer.getvalue().decode(file.encoding)  # type: ignore[attr-defined]


def test_a_terminal_shows_one_panel_that_moves(tmp_path: Path) -> None:
    printed = watch(tmp_path, "finished", terminal=True, TERM="xterm-256color", LANG="C.UTF-8")
    assert "\x1b[2K" in printed  # lines are redrawn in place
    panel = printed[printed.rindex("a-run") :]
    for word in (
        "step 40/40",
        "100%",
        "reward",
        "accuracy",
        "(correct",
        "incorrect",
        "evaluation after step 40: nano_math",
    ):
        assert word in panel
    assert any(bar in panel for bar in progress.BARS)
    assert "\x1b[?25h" in panel  # the cursor is back
    assert printed.count("a-run") < 15  # at most a few drawings a second, not one a step
    assert "after 40 steps" in panel


def test_a_dumb_terminal_and_a_pipe_get_lines(tmp_path: Path) -> None:
    for i, environment in enumerate(({"TERM": "dumb"}, {"TERM": "xterm", "PYTHONIOENCODING": "ascii"})):
        run_dir = tmp_path / str(i)
        run_dir.mkdir()
        printed = watch(run_dir, "finished", terminal=i == 0, **environment)
        assert "\x1b[2K" not in printed
        lines = [line for line in printed.splitlines() if line.startswith("step ")]
        assert 10 <= len(lines) <= 13  # every tenth of the run
        assert lines[-1].startswith("step 40/40  reward ")
        assert "s/step" in lines[5]
        assert "left" in lines[5]
        assert "evaluation after step 20: nano_math accuracy" in printed
        assert printed.count("held-out nano_math") == 2  # the table before, and the one with before and after
        assert i == 0 or printed.isascii()


def test_a_line_has_the_accuracy_of_each_kind_and_not_of_each_level(tmp_path: Path) -> None:
    console, file = plain_console()
    view = Progress(tmp_path, "mixed", 1, console)
    shares = {"train/cards/accuracy": 0.25, "train/chains/accuracy": 1.0, "train/cards/level_2/accuracy": 0.5}
    view.metrics({"train/accuracy": 0.75, **shares, "length/mean": 9.0}, 1)
    assert printed_by(file).startswith("step 1/1  accuracy 0.750  (cards 0.250, chains 1.000)  length 9.0")


def test_lines_come_by_time_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    console, file = plain_console()
    view = Progress(tmp_path, "slow", 10_000, console)
    for step in range(31):
        view.metrics({"train/reward": 0.5}, step)
        clock[0] += 4.0
    steps = [int(line.split()[1].split("/")[0]) for line in printed_by(file).splitlines()]
    assert steps == list(range(1, 31, 3))
    assert "4.00 s/step, 11:04:48 left" in printed_by(file)


def test_a_step_costs_the_loop_little(tmp_path: Path) -> None:
    view = Progress(tmp_path, "fast", 2000, Console(file=io.StringIO(), force_terminal=True, width=100))
    values = [metrics("drgrpo", 0, step, 2000) for step in range(2001)]
    began = time.perf_counter()
    for step, line in enumerate(values):
        view.metrics(line, step)
    spent = time.perf_counter() - began
    view.close("preempted")
    assert spent / 2000 < 0.001


def test_a_resumed_run_shows_its_past(tmp_path: Path) -> None:
    write_run(tmp_path / "run", steps=STEPS, done=20)
    console, file = plain_console()
    view = Progress(tmp_path / "run", "run", STEPS, console)
    trackers = Trackers(Journal(tmp_path / "run"), view=view)
    trackers.rewind(20)
    trackers.metrics({"train/reward": 1.0}, 21)
    panel = Console(file=io.StringIO(), width=110)
    panel.print(view._panel())
    output = panel.file.getvalue()  # type: ignore[attr-defined]
    assert "evaluation after step 20: nano_math" in output
    assert sparkline([*[line["train/reward"] for line in view._lines[1:]]], 32) in output  # type: ignore[index]
    trackers.close("failed")
    assert "run: failed after step 21 of 40" in printed_by(file)


def test_the_report_compares_before_and_after(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", steps=STEPS)
    console, file = plain_console()
    report(run_dir, console)
    printed = printed_by(file)
    first, last = metrics("drgrpo", 0, 0, STEPS), metrics("drgrpo", 0, STEPS, STEPS)
    cells = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in printed.splitlines()]
    assert ["accuracy", *(f"{100 * m['eval/nano_math/accuracy']:.1f} %" for m in (first, last))] in cells
    ends = [[100 * m[f"eval/nano_math/accuracy_{side}"] for side in ("low", "high")] for m in (first, last)]
    assert ["95 % interval", *(f"{low:.1f} to {high:.1f} %" for low, high in ends)] in cells
    assert "after 40 steps" in printed
    for i in range(3):
        assert f"What is {i} + {2 * i}?" in printed
        assert f"-> wrong: answer {3 * i + 1}, 24 tokens" in printed
        assert f"-> correct: answer {3 * i}, 24 tokens" in printed
    assert "What is 3 + 6?" not in printed


def test_a_report_without_evaluations_or_after_matches_is_short(tmp_path: Path) -> None:
    console, file = plain_console()
    report(tmp_path, console)
    assert printed_by(file) == ""
    report(write_run(tmp_path / "started", steps=STEPS, done=0), console)
    assert "before" in printed_by(file)


def test_hostile_answers_cannot_move_the_cursor_or_end_the_run(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", steps=STEPS)
    hostile = "\x1b[2J\x1b]0;title\x07[bold]x[/nope] \ud83d\ude00 \u200f" + "y" * 500 + " the end"
    path = run_dir / "completions" / f"eval_nano_math_{STEPS:06d}.jsonl"
    path.write_text(json.dumps(answer(0, True) | {"response": hostile, "answer": None}) + "\n")
    for encoding in ("utf-8", "ascii"):
        console, file = plain_console(encoding)
        report(run_dir, console)
        printed = printed_by(file)
        assert "\x1b" not in printed
        assert "\x07" not in printed
        assert "[bold]x[/nope]" in printed
        assert "the end" in printed
        assert "[..." in printed


def test_evaluations_show_nothing_for_no_benchmarks(tmp_path: Path) -> None:
    console, file = plain_console()
    view = Progress(tmp_path, "run", 3, console)
    view.evaluation(0, [])
    view.evaluation(1, [])
    view.evaluation(1, [SimpleNamespace(name="x", metrics=lambda: {"eval/x/accuracy": 0.5})])
    assert printed_by(file) == "evaluation after step 1: x accuracy 50.0 % (-)\n"


def test_sparkline() -> None:
    assert sparkline([], 5) == ""
    assert sparkline([1.0], 5, plain=True) == "-"
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8, plain=True) == progress.ASCII_BARS
    assert sparkline([0, 0, 0, 7, 7, 7], 2, plain=True) == "_#"
    assert len(sparkline(list(range(1000)), 32)) == 32


def test_an_episode_is_shown_by_its_turns_and_what_they_earned() -> None:
    console, file = plain_console()
    turns = [{"text": " NE", "reward": 1.0}, {"text": "stop", "reward": -0.5}]
    row = {"question": "q", "reference": "NE", "response": "all prompts again", "reason": "wrong", "answer": "stop"}
    row |= {"tokens": 4, "correct": False, "turns": turns, "ending": "done"}
    console.print(sample_answers([row], [row], 1, "utf-8"))
    printed = printed_by(file)
    assert "NE (1) | stop (-0.5)" in printed
    assert "wrong: done after 2 turns, 4 tokens" in printed
    assert "all prompts again" not in printed


def test_the_images_of_a_question_are_named_by_their_files() -> None:
    console, file = plain_console()
    row = {"question": "Which colour?", "reference": "red", "response": "red", "reason": "correct", "answer": "red"}
    row |= {"tokens": 1, "correct": True}
    before = [row | {"images": [f"images/{colour}.png"]} for colour in ("aa", "bb")]
    after = [one | {"response": f"seen {one['images'][0]}"} for one in before]
    console.print(sample_answers(before, after, 3, "utf-8", folder=Path("run")))
    printed = printed_by(file)
    assert "the first 2 held-out questions" in printed  # the same words about two images are two questions
    for colour in ("aa", "bb"):
        assert re.search(rf"image +run/images/{colour}.png", printed)
        assert f"seen images/{colour}.png" in printed


def test_only_episodes_have_turns_and_a_reward_in_the_table() -> None:
    console, file = plain_console()
    answers = {"eval/cards/accuracy": 0.5, "eval/cards/length": 9.0}
    console.print(evaluation_table([("before", answers)]))
    assert "turns" not in printed_by(file)
    console.print(evaluation_table([("before", answers | {"eval/cards/turns": 2.5, "eval/cards/reward": 0.125})]))
    lines = [line.split() for line in printed_by(file).splitlines()]
    assert any("turns" in line and "2.5" in line for line in lines)
    assert any("reward" in line and "0.12" in line for line in lines)
