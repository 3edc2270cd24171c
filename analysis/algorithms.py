"""Every algorithm of conf/algo under one budget: a sweep that can be resumed, and the page of what it gave.

    python -m analysis.algorithms run     one process per algorithm and seed, into runs/algorithms
    python -m analysis.algorithms page    docs/algorithms.md, algorithms.png and algorithms.json

What an algorithm is comes from its yaml and from docstrings (analysis/algorithm_cards.py); nothing about one is said here
but how its run must differ from the others.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from analysis.reader.folders import read_json
from zero.errors import InputError
from zero.files import read_regular

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs"
OPTIONS = ROOT / "conf" / "algo"
SAME = ("tracker=jsonl", "evaluation.every=10", "checkpoint.keep=1")  # of every cell; the rest are the defaults
# What a run needs that its algorithm cannot say itself, and why. The responses of a step stay 128.
OWN: dict[str, tuple[tuple[str, ...], str]] = {
    "sft": (
        ("rollout=gold", "group_size=1", "prompts=128"),
        "it learns from one reference solution of each question: 128 questions a step instead of 16 x 8 samples",
    ),
}
BUDGET = (  # settings that must be the same in all runs of a page
    "steps", "sampling", "evaluation", "optim", "updates", "epochs", "model", "questions", "template", "benchmarks",
)  # fmt: skip
CURVES = ("accuracy", "length", "length_incorrect")  # of the held-out questions, under eval/NAME/
EXIT_FINISHED, EXIT_FAILED, EXIT_INPUT, EXIT_PREEMPTED = 0, 1, 2, 75  # as in zero/train.py
POLL = 0.1  # seconds between two looks at the running cells


@dataclass(frozen=True)
class Cell:
    """One run of the sweep."""

    algo: str
    seed: int
    dir: Path
    overrides: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether its folder holds a finished run."""
        return read_json(self.dir / "result.json").get("status") == "finished"


# -------------------------------------------------------------------------------------------------------------- the sweep


def algorithms(only: str | None = None) -> list[str]:
    """The options of conf/algo, or those that a comma-separated list names. InputError for a name that is none."""
    known = sorted(path.stem for path in OPTIONS.glob("*.yaml"))
    names = [name.strip() for name in only.split(",")] if only else known
    for name in names:
        if name not in known:
            raise InputError("only", name, f"conf/algo has no such option; there are {', '.join(known)}")
    return names


def cells(names: Sequence[str], seeds: int, steps: int, runs: Path, extra: Sequence[str] = ()) -> list[Cell]:
    """All runs, one seed of every algorithm after the other, so that a sweep cut short compares all of them."""
    made = []
    for seed in range(seeds):
        for name in names:
            folder = runs.absolute() / f"{name}-s{seed}"
            own = OWN.get(name, ((), ""))[0]
            settings = (f"algo={name}", f"seed={seed}", f"steps={steps}", f"run_dir={folder}", *SAME, *own, *extra)
            made.append(Cell(name, seed, folder, settings))
    return made


def unchanged(todo: Sequence[Cell]) -> Iterator[Cell]:
    """The cells that finished under the very settings they would have now. zero.train itself judges all others."""
    from zero.config.check import check
    from zero.config.identity import signature

    configs: dict[
        str, Mapping[str, Any]
    ] = {}  # composing takes half a second; a cell differs from its first by its seed
    for cell in (cell for cell in todo if cell.finished):
        try:
            config = configs.setdefault(cell.algo, configs.get(cell.algo) or check("train", cell.overrides))
        except InputError:
            continue
        if read_json(cell.dir / "result.json").get("signature") == signature({**config, "seed": cell.seed}):
            yield cell


def sweep(todo: Sequence[Cell], processes: int) -> list[Cell]:
    """Run what is not finished, so many processes at a time. Returns the cells that failed, each named on stderr.

    A process that is told to end ends its cells first: zero.train saves, and the same sweep goes on from there.
    """
    done = {cell.dir for cell in unchanged(todo)}
    waiting = [cell for cell in todo if cell.dir not in done]
    print(f"{len(done)} of {len(todo)} runs are finished, {len(waiting)} to do", flush=True)
    running: dict[Cell, subprocess.Popen[bytes]] = {}
    failed: list[Cell] = []
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                cell = waiting.pop(0)
                running[cell] = start(cell)
            for cell in [cell for cell, child in running.items() if ended(cell, child)]:
                if running.pop(cell).returncode != EXIT_FINISHED:
                    failed.append(cell)
                tell(cell, failed, len(todo) - len(waiting) - len(running), len(todo))
            time.sleep(POLL)
    finally:
        for child in running.values():
            os.kill(child.pid, signal.SIGTERM)  # terminate() may reap it, and its CPU seconds would be lost
        for cell, child in running.items():
            while not ended(cell, child):
                time.sleep(POLL)
    return failed


def start(cell: Cell) -> subprocess.Popen[bytes]:
    """The cell's own process; what it says goes to log.txt in its folder."""
    cell.dir.mkdir(parents=True, exist_ok=True)
    with (cell.dir / "log.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "zero.train", *cell.overrides], stdout=log, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def ended(cell: Cell, child: subprocess.Popen[bytes]) -> bool:
    """Whether the process is over. The CPU seconds of work that is kept are then added to cost.json."""
    pid, status, usage = os.wait4(child.pid, os.WNOHANG)
    if pid == 0:
        return False
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (EXIT_FINISHED, EXIT_PREEMPTED):
        return True
    cost = cell.dir / "cost.json"
    before = read_json(cost).get("cpu_seconds", 0.0)
    cost.write_text(json.dumps({"cpu_seconds": round(before + usage.ru_utime + usage.ru_stime, 2), "cpu": processor()}))
    return True


def processor() -> str:
    """The name of this machine's CPU, or "" if it does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((" ".join(line.partition(":")[2].split()) for line in lines if line.startswith("model name")), "")


def tell(cell: Cell, failed: Sequence[Cell], position: int, total: int) -> None:
    """One line on a cell that is over; its last words if it failed."""
    if cell in failed:
        words = [line.strip() for line in (cell.dir / "log.txt").read_text(errors="replace").splitlines()]
        last = next((line for line in reversed(words) if line), "it said nothing")
        print(f"[{position}/{total}] {cell.algo} seed {cell.seed} failed: {last}", file=sys.stderr, flush=True)
    else:
        cost = json.loads((cell.dir / "cost.json").read_text())["cpu_seconds"]
        print(f"[{position}/{total}] {cell.algo} seed {cell.seed} finished, {cost:.0f} CPU seconds", flush=True)


# ------------------------------------------------------------------------------------------------------------ the numbers


def collect(runs: Path, committed: Mapping[str, Any]) -> dict[str, Any]:
    """What algorithms.json holds: the budget, and of every algorithm its curves over steps with intervals over seeds.

    Finished runs under `runs` replace what is committed about their algorithm. The rest of it stays if it was measured
    under the same budget, else it goes. InputError if the runs themselves differ in their budget.
    """
    import yaml

    known = algorithms()
    found: dict[str, dict[int, Path]] = {}
    budgets: dict[str, Path] = {}
    for result in sorted(runs.glob("*/result.json")):
        if read_json(result).get("status") != "finished" or not (result.parent / "metrics.jsonl").is_file():
            continue
        config = yaml.safe_load(read_regular(result.parent / "config.yaml"))
        name = result.parent.name.rpartition("-s")[0]
        if name not in known:
            continue
        found.setdefault(name, {})[config["seed"]] = result.parent
        budgets.setdefault(json.dumps(budget(config), sort_keys=True), result.parent)
    if len(budgets) > 1:
        one, other = list(budgets.values())[:2]
        raise InputError("runs", runs, f"{one.name} and {other.name} differ in their budget; remove one of them")
    if not found:
        return dict(committed)
    shared = json.loads(next(iter(budgets)))
    kept = committed.get("algorithms", {}) if committed.get("budget") == shared else {}
    measured = {
        name: summary([folders[s] for s in sorted(folders)], sorted(folders)) for name, folders in found.items()
    }
    return {
        "budget": shared,
        "algorithms": {name: entry for name, entry in sorted((kept | measured).items()) if name in known},
    }


def budget(config: Mapping[str, Any]) -> dict[str, Any]:
    """What runs must share to be compared. A response counts the same wherever its prompt comes from."""
    return {"responses": config["prompts"] * config["group_size"], **{key: config[key] for key in BUDGET}}


def summary(folders: Sequence[Path], seeds: Sequence[int]) -> dict[str, Any]:
    """The numbers of one algorithm, of one run folder for each seed. Tokens are those of all steps of a run."""
    from zero.tracking import journal

    journals = [journal.read(folder) for folder in folders]
    bench = journal.benchmarks(journals[0][0])[0]
    out: dict[str, Any] = {"seeds": list(seeds), "steps": journal.series(journals[0], f"eval/{bench}/accuracy")[0]}
    for name in CURVES:
        curves = [dict(zip(*journal.series(lines, f"eval/{bench}/{name}"), strict=True)) for lines in journals]
        points = [interval([curve[step] for curve in curves if step in curve]) for step in out["steps"]]
        out[name] = {key: [point[i] for point in points] for i, key in enumerate(("mean", "low", "high"))}
        out[name]["final"] = [rounded(curve.get(out["steps"][-1])) for curve in curves]
    for key, metric in (("tokens", "tokens/generated"), ("critic_tokens", "critic/tokens")):
        out[key] = round(fmean(sum(journal.series(lines, metric)[1]) for lines in journals))
    costs = [cost for folder in folders if (cost := read_json(folder / "cost.json"))]
    out["cpu_seconds"] = round(fmean(cost["cpu_seconds"] for cost in costs), 1) if costs else None
    out["cpu"] = sorted({cost["cpu"] for cost in costs if cost["cpu"]})
    return out


def interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """(mean, low, high) over seeds, as everywhere in analysis/: analysis/stats/intervals.py. A single value has no interval."""
    from analysis.stats.intervals import over_seeds

    of = over_seeds(values)
    return (rounded(of.mean), rounded(of.low), rounded(of.high)) if of.n else (None, None, None)


def rounded(value: float | None) -> float | None:
    """Four decimals: far below what a seed changes."""
    return None if value is None else round(value, 4)


# ------------------------------------------------------------------------------------------------------- the command line


def page(runs: Path, out: Path) -> None:
    """Write algorithms.json, algorithms.png and algorithms.md into the folder `out`."""
    from analysis.algorithm_cards import cards, draw, markdown

    kept = out / "algorithms.json"
    numbers = collect(runs, json.loads(kept.read_text()) if kept.exists() else {})
    made = cards(algorithms())
    kept.write_text(written(numbers))
    draw(made, numbers, out / "algorithms.png")
    (out / "algorithms.md").write_text(markdown(made, numbers, OWN))


def written(numbers: Mapping[str, Any]) -> str:
    """The text of algorithms.json: a line for each algorithm, so that a change shows whose numbers changed."""
    rows = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in numbers.get("algorithms", {}).items()]
    if not rows:
        return "{}\n"
    return f'{{\n "budget": {json.dumps(numbers["budget"])},\n "algorithms": {{\n' + ",\n".join(rows) + "\n }\n}\n"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. SystemExit(2) for those that do not exist."""
    parser = argparse.ArgumentParser(prog="python -m analysis.algorithms", description=(__doc__ or "").split("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", help="train every algorithm with several seeds; what is finished is not run again")
    run.add_argument("--seeds", type=int, default=5, help="seeds of each algorithm, from 0 on (default 5)")
    run.add_argument("--steps", type=int, default=40, help="steps of a run (default 40)")
    run.add_argument("--processes", type=int, default=2, help="runs at a time, one thread each (default 2)")
    run.add_argument("--only", help="some options of conf/algo, separated by commas (default: all)")
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of zero.train, for every run")
    write = actions.add_parser("page", help="write the page from the runs and from what is committed")
    write.add_argument("--out", type=Path, default=PAGE, help="folder of the page (default: docs)")
    for action in (run, write):
        action.add_argument("--runs", type=Path, default=Path("runs/algorithms"), help="(default runs/algorithms)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if a run failed, 2 for bad input, 75 if it was told to end."""
    options = parse(arguments)
    try:
        if options.action == "run":
            for key in ("seeds", "steps", "processes"):
                if getattr(options, key) < 1:
                    raise InputError(key, getattr(options, key), "must be above 0")
            names = algorithms(options.only)
            failed = sweep(
                cells(names, options.seeds, options.steps, options.runs, options.overrides), options.processes
            )
            return EXIT_FAILED if failed else EXIT_FINISHED
        page(options.runs, options.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        return EXIT_PREEMPTED
    return EXIT_FINISHED


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: running cells save and end first
    sys.exit(main())
