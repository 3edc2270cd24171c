"""The table of a sweep. Rows are cells, those that need attention first."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launch.sweep import states
from launch.sweep.files import Cell, Sweep
from launch.sweep.states import Status

Statuses = Mapping[str, Status]  # by name of the cell
COLOURS = {
    states.RUNNING: "green",
    states.FINISHED: "blue",
    states.FAILED: "red",
    states.LOST: "red",
    states.CANCELLED: "magenta",
    states.STOPPED: "magenta",
    states.PREEMPTED: "yellow",
}
ROW_ORDER = (states.FAILED, states.LOST, *states.STATES)
NOTE_WIDTH = 60  # letters of an error line that fit beside the numbers; `launch.status logs` shows all
OTHER_LINES = 9  # lines of a terminal that are not rows


def varying_axes(cells: Sequence[Cell]) -> list[str]:
    """The axes in which these cells differ; a row is named by them."""
    names = dict.fromkeys(axis for cell in cells for axis in cell.axes)
    return [axis for axis in names if len({cell.axes.get(axis) for cell in cells}) > 1]


def table(sweep: Sweep, statuses: Statuses, names: Sequence[str], rows: int | None = None) -> Table:
    """The cells `names`, at most `rows` of them."""
    cells = [sweep.cells[name] for name in names]
    axes = varying_axes(cells)
    ordered = sorted(names, key=lambda name: ROW_ORDER.index(statuses[name].state))
    result = Table(caption=states.summarize(statuses, names), caption_justify="left", pad_edge=False)
    for heading in [*(axes or ["cell"]), "state"]:
        result.add_column(heading, min_width=min(len(heading), 8), overflow="fold")
    for heading in ("step", "reward", "length", "ETA", "tries"):
        result.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    result.add_column("node", no_wrap=True)
    # the last error, or what the cell waits for
    result.add_column("note", overflow="ellipsis", no_wrap=True, max_width=NOTE_WIDTH)
    for name in ordered if rows is None else ordered[:rows]:
        result.add_row(*row(sweep.cells[name], statuses[name], axes))
    if rows is not None and len(ordered) > rows:
        result.add_row(*(["..."] + [""] * (len(result.columns) - 2) + [f"and {len(ordered) - rows} more cells"]))
    return result


def row(cell: Cell, status: Status, axes: Sequence[str]) -> list[Text]:
    """The row of one cell. As Text, not markup: an error line may hold brackets."""
    names = [cell.axes.get(axis, "") for axis in axes] or [cell.name]
    step = "" if status.step is None else f"{status.step}/{cell.steps}" if cell.steps else str(status.step)
    numbers = [step, format_number(status.reward, ".3f"), format_number(status.length, ".0f")]
    plain = [format_duration(status.eta), str(status.attempts or ""), status.node, shorten_error(status.line)]
    state = status.state if cell.wanted else f"{status.state}, not wanted"
    return [*map(Text, names), Text(state, style=COLOURS.get(status.state, "")), *map(Text, numbers + plain)]


def shorten_error(line: str) -> str:
    """An error line that does not fit, without its value, so that the cause is seen: error: KEY=VALUE: CAUSE -> KEY: CAUSE."""
    match = re.match(r"(?:error: )?([\w./-]+)=\S*?: (.*)", line)
    return f"{match[1]}: {match[2]}" if match and len(line) > NOTE_WIDTH else line


def format_number(value: float | None, spec: str) -> str:
    """A number; "" for None."""
    return "" if value is None else format(value, spec)


def format_duration(seconds: float | None) -> str:
    """45s, 12m, 3h05, 2d04h."""
    if not seconds:
        return ""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


@contextmanager
def live_display(sweep: Sweep) -> Iterator[Callable[[Statuses], None]]:
    """A function that shows the wanted cells: as a table that stays in place; without a terminal, as a line for each change."""
    console = Console()
    names = [name for name, cell in sweep.cells.items() if cell.wanted]
    printed = ""

    def print_change(statuses: Statuses) -> None:
        nonlocal printed
        if (summary := states.summarize(statuses, names)) != printed:
            print(f"{time.strftime('%H:%M:%S')} {summary}", flush=True)
            printed = summary

    if not console.is_terminal:
        yield print_change
        return
    rows = max(3, console.height - OTHER_LINES)
    with Live(console=console, auto_refresh=False) as live:
        yield lambda statuses: live.update(table(sweep, statuses, names, rows), refresh=True)


def follow(
    sweep: Sweep,
    poll: Callable[[Statuses], Statuses],
    poll_s: float,
    is_over: Callable[[Statuses], bool],
) -> Statuses:
    """Show the cells until `is_over`, and return their last statuses. `poll` is given the statuses that it returned last."""
    statuses: Statuses = {}
    with live_display(sweep) as show:
        while True:
            statuses = poll(statuses)
            show(statuses)
            if is_over(statuses):
                return statuses
            time.sleep(poll_s)


def to_records(sweep: Sweep, statuses: Statuses, names: Sequence[str]) -> list[dict[str, Any]]:
    """One record a cell, for scripts: its axes, then its status."""
    fields = ("state", "attempts", "job", "node", "line", "step", "reward", "length", "eta", "seconds")
    records = []
    for name in names:
        cell, status = sweep.cells[name], statuses[name]
        record = {"cell": name, "wanted": cell.wanted, **cell.axes}
        records.append(record | {field: getattr(status, field) for field in fields})
    return records
