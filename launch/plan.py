"""python -m launch.plan experiment=fig6_length size=paper --node 8xA100-40G: does a cell fit, and how long will it take?

Takes what zero.train -m takes. Nothing runs and nothing is downloaded: the numbers are formulas (launch/cost/formulas.py) over the
architectures of launch/cost/shapes.py, good to a factor of about two. What a node really does, debug=probe measures.
`--scale` shows each cell on 1 to 64 of the cards: with their number grows the share of a step that is tail and links.

Exit code: 0 if every cell fits, 1 if not, 2 for bad input.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from launch.cost.formulas import CARDS, PROMPT, Card, CellCost, cell_cost, episode, parse_node
from launch.cost.shapes import SHAPES, Shape
from launch.sweep import files
from zero.errors import ArgumentParser, InputError, one_line_errors
from zero.monitoring.preflight import settings_doubts
from zero.tracking.text_table import as_text

SCALE = (1, 2, 4, 8, 16, 32, 64)
LEGEND = """\
update GB: the most that a GPU holds in an update; beside engine GB: what it holds while the engine samples;
host GB: CPU memory of a node; tail: the longest responses alone; links: between GPUs; hours: without evaluation"""
EPISODES = """\
{name}: episodes of {turns} turns, all of them taken, in which the policy says up to {budget} tokens;
before each turn {prompt} tokens are read, and in each of {turns} rounds all wait for the longest turn"""
UNKNOWN = (
    "the shape of this model is not known: plan with an option of conf/model of its size, such as model=qwen2_5_1_5b"
)
Cells = list[tuple[str, Mapping[str, Any], Shape | None]]  # name, config, shape of the model


def distinct_cells(cells: Iterable[files.Cell]) -> Cells:
    """The training cells; those with the same name and cost, such as seeds, are one."""
    distinct: dict[Any, tuple[str, Mapping[str, Any], Shape | None]] = {}
    for cell in cells:
        if cell.root != "train" or cell.config is None:
            continue
        name = " ".join(cell.choices[axis] for axis in ("algo", "template", "questions", "model"))
        shape = SHAPES.get(cell.choices["model"].partition("+")[0])
        key = (name, cell_cost(cell.config, shape, 1, CARDS["H200"]) if shape else None)
        distinct.setdefault(key, (name, cell.config, shape))
    return list(distinct.values())


def scale_rows(cells: Cells, card: Card, mean: float | None = None) -> list[dict[str, Any]]:
    """A row for each cell and number of GPUs. Efficiency: of the GPUs' time, relative to the fewest on which the cell fits."""
    rows = []
    for name, config, shape in cells:
        costs = [(gpus, cell_cost(config, shape, gpus, card, mean)) for gpus in SCALE] if shape else []
        smallest = next(((gpus, cost) for gpus, cost in costs if not cost.misfit), None)
        for gpus, cost in costs:
            share = None
            if smallest and not cost.misfit:
                share = smallest[0] * smallest[1].seconds / (gpus * cost.seconds)
            row = {"cell": name, "GPUs": str(gpus)} | step_columns(cost)
            rows.append(row | {"efficiency": f"{share:.0%}" if share else "-", "fits": cost.misfit or "yes"})
    return rows


def plan_rows(plans: Sequence[tuple[str, CellCost | str]]) -> list[dict[str, Any]]:
    """A row for each cell."""
    rows = []
    for name, cost in plans:
        if isinstance(cost, str):
            rows.append({"cell": name, "fits": cost})
            continue
        memory = {"update GB": f"{cost.update:.0f}", "beside engine GB": f"{cost.state + cost.engine:.0f}"}
        total = {"host GB": f"{cost.host:.0f}", "hours": f"{cost.hours:.1f}", "fits": cost.misfit or "yes"}
        rows.append({"cell": name} | memory | step_columns(cost) | total)
    return rows


def step_columns(cost: CellCost) -> dict[str, str]:
    """Seconds of a step and of its stages."""
    return {
        "s/step": f"{cost.seconds:.0f}",
        "sampling": f"{cost.sampling:.0f}",
        "tail": f"{cost.tail:.0f}",
        "update": f"{cost.training:.0f}",
        "links": f"{cost.links:.1f}",
    }


def cost_lines(cells: Iterable[files.Cell], gpus: int) -> list[str]:
    """Lines for a sweep's dry run: on which cards each cell fits, and for how long; none for models of unknown shape."""
    table = []
    for name, config, shape in distinct_cells(cells):
        if shape:
            costs = {card: cell_cost(config, shape, gpus, CARDS[card]) for card in CARDS}
            table.append(
                {"cell": name}
                | {
                    card: "no" if cost.misfit else f"{cost.hours:.1f} h, {cost.seconds:.0f} s/step"
                    for card, cost in costs.items()
                }
            )
    if not table:
        return []
    head = f"on paper, {gpus} GPUs a cell, without evaluation (python -m launch.plan says more):"
    return [head, *as_text(table).splitlines()]


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code."""
    from zero.config import search_path

    parser = ArgumentParser("python -m launch.plan", description=(__doc__ or "").split("\n")[0])
    cards = ", ".join(CARDS)
    parser.add_argument("overrides", nargs="*", help="as for python -m zero.train -m")
    parser.add_argument("--node", default="8xA100-40G", help=f"COUNTxCARD (default 8xA100-40G); cards: {cards}")
    parser.add_argument("--mean", type=float, help="tokens of a mean response (default: a third of the budget)")
    parser.add_argument("--config-dir", metavar="DIR", help="yaml files of your own: DIR/algo/mine.yaml is algo=mine")
    parser.add_argument("--scale", action="store_true", help=f"on {', '.join(map(str, SCALE))} of the node's cards")
    options = parser.parse_intermixed_args(search_path.take(sys.argv[1:] if arguments is None else arguments))
    from launch.sweep.cells import plan

    if options.mean is not None and not 0 < options.mean < math.inf:
        raise InputError("--mean", options.mean, "must be a number of tokens above 0")
    gpus, card = parse_node(options.node)
    cells = distinct_cells(plan(options.overrides).cells.values())
    if not cells:
        raise InputError("command line", " ".join(options.overrides), "holds no training cell")
    for name, config, shape in cells:
        turns, budget = episode(config)
        if turns > 1:
            print(EPISODES.format(name=name, turns=turns, budget=budget, prompt=PROMPT))
        for doubt in settings_doubts(config, shape.parameters) if shape else ():
            print(f"warning  {name}: {doubt}", file=sys.stderr)
    if options.scale and (rows := scale_rows(cells, card, options.mean)):
        print(as_text(rows))
        return int(all(row["fits"] != "yes" for row in rows))
    plans = [
        (name, cell_cost(config, shape, gpus, card, options.mean) if shape else UNKNOWN)
        for name, config, shape in cells
    ]
    print(as_text(plan_rows(plans)))
    print(LEGEND)
    return int(any(isinstance(cost, str) or bool(cost.misfit) for _, cost in plans))


if __name__ == "__main__":
    sys.exit(main())
