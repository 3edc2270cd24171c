"""What a person sees of a run: a live panel on a terminal, plain lines elsewhere, then before and after side by side.

Nothing here computes a result: everything shown stands in the run folder, and `report(run_dir)` shows the end again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from zero.files import read_json_lines
from zero.records import Metrics
from zero.tracking import journal
from zero.tracking.tables import box_style, evaluation_line, evaluation_table, sample_answers

LINE_SECONDS, LINE_SHARE = 10.0, 0.1  # without a terminal: a line after this time, or after this share of the steps
REFRESH_PER_SECOND = 2.0  # the panel is drawn by a thread of its own; a step costs one assignment
SPARK_WIDTH = 32
BARS, ASCII_BARS = "".join(chr(0x2581 + i) for i in range(8)), "_.:-=+*#"
SHARES = {"formatted": "train/formatted", "truncated": "length/truncated", "reflection": "reflection/share"}


class Progress:
    """The view of one run. `steps` is the number of steps the run will have when it is done."""

    def __init__(self, run_dir: Path, name: str, steps: int, console: Console | None = None) -> None:
        self._dir, self._name, self._steps = run_dir, name, steps
        self._console = console or make_console()
        self._ascii = self._console.options.ascii_only
        self._lines: list[dict[str, Any]] | None = None  # None until the first metrics: a resumed run has a past
        self._ends: deque[tuple[float, int]] = deque(maxlen=21)  # (clock, step), for the time a step takes
        self._began = time.monotonic()
        self._printed_at, self._printed_step = float("-inf"), 0
        self._live: Live | None = None

    def metrics(self, values: Metrics, step: int) -> None:
        """Show a step that the journal already holds."""
        if self._lines is None:
            self._lines = [line for line in journal.read(self._dir) if line["step"] < step]
        self._lines.append({"step": step, **values})
        self._ends.append((time.monotonic(), step))
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            if self._live is None:
                self._live = Live(
                    console=self._console, get_renderable=self._panel, refresh_per_second=REFRESH_PER_SECOND
                )
                self._live.start()
        elif step > 0 and self._line_is_due(step):  # the table has said what there is before training
            self._print(self._line(step))

    def evaluation(self, step: int, results: Sequence[Any]) -> None:
        """Show benchmark results (zero.benchmark.Result); a table before the first step, lines later."""
        values = {name: value for result in results for name, value in result.metrics().items()}
        if step == 0 and values:
            self._print(evaluation_table([("before", values)], self._ascii))
        elif self._live is None:  # the panel has a place for them
            for name in journal.benchmarks(values):
                self._print(Text(f"evaluation after step {step}: {evaluation_line(name, values)}"))

    def close(self, status: str) -> None:
        """Restore the terminal; after a finished run, print its report."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if status == "finished":
            report(self._dir, self._console)
        else:
            done = self._lines[-1]["step"] if self._lines else 0
            self._print(Text(f"{self._name}: {status} after step {done} of {self._steps}"))

    def _line_is_due(self, step: int) -> bool:
        now = time.monotonic()
        due = (
            now - self._printed_at >= LINE_SECONDS
            or step - self._printed_step >= LINE_SHARE * self._steps
            or step == self._steps
        )
        if due:
            self._printed_at, self._printed_step = now, step
        return due

    def _line(self, step: int) -> Text:
        last = self._newest()
        parts = [f"step {step}/{self._steps}"]
        parts += [f"{name} {last[f'train/{name}']:.3f}" for name in ("reward", "accuracy") if f"train/{name}" in last]
        if of_kinds := _kinds(last):
            parts.append(of_kinds)
        if "length/mean" in last:
            parts.append(f"length {last['length/mean']:.1f}{_split(last)}")
        seconds = self._seconds_per_step()
        if seconds and step < self._steps:
            parts.append(f"{seconds:.2f} s/step, {_clock((self._steps - step) * seconds)} left")
        return Text("  ".join(parts))

    def _panel(self) -> Panel:
        lines = list(self._lines or [])  # a copy: the drawing thread must not see a list that grows
        last = self._newest()
        step, seconds = int(last.get("step", 0)), self._seconds_per_step()
        head = Table.grid(padding=(0, 2))
        left = f"{_clock((self._steps - step) * seconds)} left" if seconds and step < self._steps else ""
        spent = f"{_clock(time.monotonic() - self._began)} spent"
        bar = ProgressBar(total=max(self._steps, 1), completed=step, width=SPARK_WIDTH)
        head.add_row(f"step {step}/{self._steps}", bar, f"{step / max(self._steps, 1):4.0%}", spent, left)
        body = Table.grid(padding=(0, 2))
        for label, name, form in (
            ("reward", "train/reward", "{:.3f}"),
            ("accuracy", "train/accuracy", "{:.3f}"),
            ("length", "length/mean", "{:.1f}"),
        ):
            if name in last:
                drawn = sparkline(journal.series(lines, name)[1], SPARK_WIDTH, self._ascii)
                split = _split(last) if label == "length" else ""
                body.add_row(label, form.format(last[name]), Text(drawn, "cyan"), split)
        shares = [(label, last[name]) for label, name in SHARES.items() if name in last]
        rows: list[Any] = [head, body]
        if of_kinds := _kinds(last):
            rows.append(Text(of_kinds, "dim"))
        if shares:
            rows.append(Text("  ".join(f"{label} {value:.0%}" for label, value in shares), "dim"))
        evaluated = next((line for line in reversed(lines) if journal.benchmarks(line)), None)
        if evaluated:
            where = f"after step {evaluated['step']}" if evaluated["step"] else "before training"
            for name in journal.benchmarks(evaluated):
                rows.append(Text(f"evaluation {where}: {evaluation_line(name, evaluated)}", "green"))
        return Panel(Group(*rows), title=Text(self._name), box=box_style(self._ascii), expand=False)

    def _newest(self) -> dict[str, Any]:
        return {name: value for name, value in self._lines[-1].items() if value is not None} if self._lines else {}

    def _seconds_per_step(self) -> float:
        if len(self._ends) < 2 or self._ends[-1][1] == self._ends[0][1]:
            return 0.0
        (began, first), (ended, last) = self._ends[0], self._ends[-1]
        return (ended - began) / (last - first)

    def _print(self, what: Any) -> None:
        self._console.print(what, soft_wrap=isinstance(what, Text))
        self._console.file.flush()


def report(run_dir: Path, console: Console | None = None) -> None:
    """Print a run's end: its evaluations before and after, and the answers to its first three held-out questions."""
    console = console or make_console()
    plain = console.options.ascii_only
    lines = [line for line in journal.read(run_dir) if journal.benchmarks(line)]
    if not lines:
        return
    moments = [("before", lines[0])] if lines[0]["step"] == 0 else []
    if lines[-1]["step"] > 0:
        moments.append((f"after {lines[-1]['step']} steps", lines[-1]))
    console.print(evaluation_table(moments, plain))
    name = journal.benchmarks(lines[-1])[0]
    paths = sorted((run_dir / "completions").glob(f"eval_{name}_*.jsonl"))
    if len(paths) >= 2:
        before, after = read_json_lines(paths[0]), read_json_lines(paths[-1])
        console.print(sample_answers(before, after, 3, console.encoding, plain, run_dir))
    console.file.flush()


def sparkline(values: Sequence[float], width: int, plain: bool = False) -> str:
    """At most `width` characters: means of equal stretches of the series, from its lowest to its highest."""
    if not values:
        return ""
    bins = min(width, len(values))
    edges = [round(i * len(values) / bins) for i in range(bins + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    bars = ASCII_BARS if plain else BARS
    top = len(bars) - 1
    return "".join(bars[round(top * (mean - low) / (high - low)) if high > low else top // 2] for mean in means)


def make_console() -> Console:
    """Standard output; wide enough for our tables where nobody watches."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=110)


def _kinds(last: Mapping[str, Any]) -> str:
    """The accuracy of each kind of question, without levels: (nano_gsm 0.412, nano_math 0.300)."""
    shares = [f"{kind} {last[f'train/{kind}/accuracy']:.3f}" for kind in journal.kinds(last) if "level_" not in kind]
    return f"({', '.join(shares)})" if shares else ""


def _split(last: Mapping[str, Any]) -> str:
    """The lengths of correct and of incorrect responses: what a length bias drives apart."""
    parts = [f"{k} {last[f'length/{k}']:.1f}" for k in ("correct", "incorrect") if f"length/{k}" in last]
    return f" ({', '.join(parts)})" if parts else ""


def _clock(seconds: float) -> str:
    minutes, seconds_left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds_left:02d}" if hours else f"{minutes}:{seconds_left:02d}"
