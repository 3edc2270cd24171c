"""The table of a sweep: what a person watches. Rows are cells, those that need attention first."""

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

from launch.sweep import states as state
from launch.sweep.files import Cell, Sweep
from launch.sweep.states import STATES, Status

COLOURS = {
    state.RUNNING: "green", state.FINISHED: "blue", state.FAILED: "red", state.LOST: "red", state.CANCELLED: "magenta",
    state.STOPPED: "magenta", state.PREEMPTED: "yellow",
}  # fmt: skip
FIRST = (state.FAILED, state.LOST, *STATES)  # order of rows
ERROR = 60  # letters of an error line that fit beside the numbers; `logs` has all
SPARE = 9  # lines of a terminal that are not rows


def varying(cells: Sequence[Cell]) -> list[str]:
    """The axes in which these cells differ: what names a row."""
    names = dict.fromkeys(axis for cell in cells for axis in cell.axes)
    return [axis for axis in names if len({cell.axes.get(axis) for cell in cells}) > 1]


def table(sweep: Sweep, of: Mapping[str, Status], names: Sequence[str], rows: int | None = None) -> Table:
    """The cells `names`, at most `rows` of them."""
    cells = [sweep.cells[name] for name in names]
    axes = varying(cells)
    ordered = sorted(names, key=lambda name: FIRST.index(of[name].state))
    made = Table(caption=state.counted({name: of[name] for name in names}), caption_justify="left", pad_edge=False)
    for heading in [*(axes or ["cell"]), "state"]:
        made.add_column(heading, min_width=min(len(heading), 8), overflow="fold")
    for heading in ("step", "reward", "length", "ETA", "tries"):
        made.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    made.add_column("node", no_wrap=True)
    made.add_column("note", overflow="ellipsis", no_wrap=True, max_width=ERROR)  # last error, or what it waits for
    for name in ordered if rows is None else ordered[:rows]:
        made.add_row(*row(sweep.cells[name], of[name], axes))
    if rows is not None and len(ordered) > rows:
        made.add_row(*(["..."] + [""] * (len(made.columns) - 2) + [f"and {len(ordered) - rows} more cells"]))
    return made


def row(cell: Cell, status: Status, axes: Sequence[str]) -> list[Text]:
    """One line. Text, never markup: an error line may hold brackets."""
    names = [cell.axes.get(axis, "") for axis in axes] or [cell.name]
    step = "" if status.step is None else f"{status.step}/{cell.steps}" if cell.steps else str(status.step)
    plain = [
        step, shown(status.reward, ".3f"), shown(status.length, ".0f"), duration(status.eta),
        str(status.attempts or ""), status.node, brief(status.line),
    ]  # fmt: skip
    word = status.state if cell.wanted else f"{status.state}, not wanted"
    return [*map(Text, names), Text(word, style=COLOURS.get(status.state, "")), *map(Text, plain)]


def brief(line: str) -> str:
    """An error line with its cause in sight: error: KEY=VALUE: CAUSE -> KEY: CAUSE where both do not fit."""
    found = re.match(r"(?:error: )?([\w./-]+)=\S*?: (.*)", line)
    return f"{found[1]}: {found[2]}" if found and len(line) > ERROR else line


def shown(value: float | None, how: str) -> str:
    """A number, or nothing."""
    return "" if value is None else format(value, how)


def duration(seconds: float | None) -> str:
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
def shown_as(sweep: Sweep) -> Iterator[Callable[[Mapping[str, Status]], None]]:
    """A function that shows the wanted cells: a table that stays in place; without a terminal, a line for each change."""
    console = Console()
    names = [name for name, cell in sweep.cells.items() if cell.wanted]
    said = ""

    def say(of: Mapping[str, Status]) -> None:
        nonlocal said
        if (now := state.counted({name: of[name] for name in names})) != said:
            print(f"{time.strftime('%H:%M:%S')} {now}", flush=True)
            said = now

    if not console.is_terminal:
        yield say
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda of: live.update(table(sweep, of, names, rows=max(3, console.height - SPARE)), refresh=True)


Look = Callable[[Mapping[str, Status]], Mapping[str, Status]]


def follow(
    sweep: Sweep, look: Look, every: float, ended: Callable[[Mapping[str, Status]], bool]
) -> Mapping[str, Status]:
    """Show the cells until `ended`, looking anew `every` so many seconds. `look` is given what it found last."""
    of: Mapping[str, Status] = {}
    with shown_as(sweep) as show:
        while True:
            of = look(of)
            show(of)
            if ended(of):
                return of
            time.sleep(every)


def tidy(sweep: Sweep, of: Mapping[str, Status], names: Sequence[str]) -> list[dict[str, Any]]:
    """One record a cell, for scripts: its axes, then what is known of it."""
    kept = ("state", "attempts", "job", "node", "line", "step", "reward", "length", "eta", "seconds")
    return [
        {
            "cell": name,
            "wanted": sweep.cells[name].wanted,
            **sweep.cells[name].axes,
            **{key: getattr(of[name], key) for key in kept},
        }
        for name in names
    ]
