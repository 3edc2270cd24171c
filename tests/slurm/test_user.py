"""What a user types, on a real Slurm: the command lines of README's "Sweeps", with their output, files and cost.

The scenarios (tests/slurm/users.py) run side by side, the short refusals beside them, the measurements alone at the end.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from launch.sweep import files
from tests.integration.runs import reproducible, weights
from tests.slurm.sweeps import all_logs, straight
from tests.slurm.users import (
    HOLD,
    MULTIRUN,
    REFUSED,
    SCENARIOS,
    STATUS,
    STEADY,
    SUBMIT,
    cell,
    launcher_settings,
    queued,
    typed,
)
from zero.errors import EXIT_INPUT

pytestmark = pytest.mark.slurm
CLUSTER = {"ACCT": "db", "NODES": "3", "CPUS": "16", "MEM": "16384", "GRACE": "30"}
Happened = dict[str, Future[Any]]


@pytest.fixture(scope="module")
def undisturbed(lab: Path) -> Path:
    """A cell of the sweep whose submitting process is killed, run undisturbed and without Slurm."""
    return straight(lab / "straight", STEADY)


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line_before_anything_is_done(name: str, lab: Path, happened: Happened) -> None:
    words, changes, line = REFUSED[name]
    settings = dict(changes)
    folder = Path(str(settings.pop("folder", lab / "refused" / name.replace(" ", "-"))))
    path = {"PATH": str(lab / "nothing")} if name == "no Slurm" else {}
    before = queued(folder.name)
    done = typed(*MULTIRUN, *cell(*words), *launcher_settings(folder, **settings), **path)
    assert done.code == EXIT_INPUT and not done.out, done
    (only,) = done.err.splitlines()
    assert re.fullmatch(line, only), only
    assert not folder.exists()
    assert queued(folder.name) == before == []


def test_a_multirun_is_followed_to_its_end(lab: Path, happened: Happened) -> None:
    seen, folder = happened["multirun"].result(), lab / "multirun"
    done = seen["first"]
    assert done.code == 0, f"{done}{all_logs(folder)}"
    assert "sweep multirun: 5 cells, 0 finished, 5 to start" in done.out and str(folder) in done.out, done
    assert "time: unknown until a cell has made steps; an attempt has 0.17 h" in done.out, done
    assert "disk: up to" in done.out, done
    assert "5 finished; python -m launch.status multirun" in done.out and done.err == "", done
    (smoke,), trained, evaluated = seen["jobs"]
    assert smoke.startswith("smoke-") and len(trained) == len(evaluated) == 2
    ran = {name: attempt for name in (smoke, *trained, *evaluated) for attempt in files.read_attempts(folder / name)}
    assert all(ran[name]["time"] >= ran[smoke]["ended"] for name in trained)
    for name, before in zip(evaluated, trained, strict=True):
        assert ran[name]["time"] >= ran[before]["ended"] and ran[name]["exit"] == 0
        result = json.loads((folder / name / files.RESULT).read_text())
        assert result["status"] == "finished" and result["evaluation"], result
        assert before in name


def test_the_same_line_again_submits_what_is_missing(lab: Path, happened: Happened) -> None:
    seen, folder = happened["multirun"].result(), lab / "multirun"
    again = seen["again"]
    assert again.code == 0 and "5 cells, 5 finished, 0 to start" in again.out, again
    assert seen["jobs again"] == seen["jobs"], again
    more = seen["more"]
    assert more.code == 0 and "7 cells, 5 finished, 2 to start" in more.out, f"{more}{all_logs(folder)}"
    assert "from 3 finished cells" in more.out, more
    *old, (trained,), (evaluated,) = seen["jobs more"]
    assert old == seen["jobs"] and "-s2-" in trained and evaluated.startswith(f"{trained}-eval-")
    assert all(len(files.read_attempts(folder / name)) == 1 for array in seen["jobs more"] for name in array)


def test_another_setting_makes_other_cells_and_leaves_the_old_ones(happened: Happened) -> None:
    seen = happened["multirun"].result()
    assert seen["edited"].code == 0 and "7 cells, 0 finished, 7 to start" in seen["edited"].out, seen["edited"]
    old = {name for array in seen["jobs more"] for name in array}
    new = [name for array in seen["jobs edited"][len(seen["jobs more"]) :] for name in array]
    assert len(new) == len(set(new)) == 7 and not old & set(new)
    assert len(seen["held"]) == 7, seen["held"]
    assert seen["cancel"].code == 0 and seen["cancel"].out.startswith("cancelled 7 cells"), seen["cancel"]
    assert seen["old after"] == seen["old"] and len(seen["old"]) >= 3 * 7
    assert {seen["states"][name] for name in old} == {"finished"}
    assert {seen["states"].get(name) for name in new} == {"cancelled"}


def test_a_failed_cell_is_named_and_can_be_run_again(lab: Path, happened: Happened) -> None:
    seen, folder = happened["failing"].result(), lab / "failing"
    bad, good, bad_after, good_after = seen["names"]
    done = seen["run"]
    assert done.code == 1, f"{done}{all_logs(folder)}"
    lines = done.err.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"failed: {bad}: FileExistsError: "), done
    assert lines[1] == f"waiting: {bad_after}: for {bad} failed", done
    assert seen["states"] == {bad: "failed", good: "finished", bad_after: "waiting", good_after: "finished"}
    assert [a["exit"] for a in seen["attempts"][bad]] == [1] and seen["attempts"][bad_after] == []
    assert "0 to start" in seen["again"].out and "1 failed before" in seen["again"].out, seen["again"]
    assert "Traceback" in seen["logs"].out and "FileExistsError" in seen["logs"].out, seen["logs"]
    assert seen["unsure"].code == 2 and "say --failed" in seen["unsure"].err, seen["unsure"]
    assert seen["retry"].code == 0 and seen["retry"].out.startswith("submitted 2 cells"), seen["retry"]
    assert seen["follow"].code == 0 and set(seen["states after"].values()) == {"finished"}, all_logs(folder)
    assert seen["kept after"] == seen["kept"] != {}, "what had finished is left alone"


def test_cells_outlive_the_process_that_submitted_them(lab: Path, happened: Happened) -> None:
    seen = happened["abandoned"].result()
    first, second, third = seen["names"]
    assert seen["before"] == {first: "running", second: "pending", third: "pending"}, all_logs(lab / "abandoned")
    assert seen["cancel"].out.startswith("cancelled 2 cells, of which 2 ran or waited"), seen["cancel"]
    expected = {first: "cancelled", second: "cancelled", third: "running"}
    assert seen["cancelled"] == expected
    # with a controller that forgets and no accounting; a cell that was slow to report its end may still be running
    assert seen["blind"] == expected | ({first: "running"} if seen["silent"] else {}) and seen["asked"]
    table = seen["table"]
    assert table.code == 0 and "2 cancelled" in table.out and "samples.groups" in table.out, table


def test_a_cancelled_cell_stays_cancelled_until_resumed(lab: Path, happened: Happened, undisturbed: Path) -> None:
    seen, folder = happened["abandoned"].result(), lab / "abandoned"
    first, second, third = seen["names"]
    assert "3 cells, 0 finished, 0 to start" in seen["again"].out, seen["again"]
    assert seen["end"].code == 0 and "1 finished, 2 cancelled" in seen["end"].out, seen["end"]
    assert seen["still"] == {first: "cancelled", second: "cancelled", third: "finished"}
    assert {line.split()[1] for line in seen["tasks"]} == {"CANCELLED", "COMPLETED"}, seen["tasks"]
    assert seen["resume"].out.startswith("submitted 2 cells"), seen["resume"]
    assert seen["follow"].code == 0 and set(seen["resumed"].values()) == {"finished"}, all_logs(folder)
    attempts_of_cells = [files.read_attempts(folder / name) for name in seen["names"]]
    assert [len(attempts) for attempts in attempts_of_cells] == [2, 1, 1] and all(
        attempts[-1]["exit"] == 0 for attempts in attempts_of_cells
    ), all_logs(folder)
    for name in seen["names"]:
        assert reproducible(folder / name) == reproducible(undisturbed), all_logs(folder / name)
        assert weights(folder / name) == weights(undisturbed)


def test_logs_and_one_table_of_all(happened: Happened) -> None:
    seen = happened["abandoned"].result()
    done = seen["logs"]
    assert done.code == 0 and f"{seen['names'][1]}/log/1.out" in done.out and "step 40/40" in done.out, done
    assert seen["collect"].code == 0 and "3 cells" in seen["collect"].out, seen["collect"]
    rows = seen["rows"]
    assert [row["cell"] for row in rows] == seen["names"] and [row["samples.groups"] for row in rows] == ["2", "3", "4"]
    assert {row["state"] for row in rows} == {"finished"} and {row["step"] for row in rows} == {"40"}
    scores = [key for key in rows[0] if key.endswith("/accuracy")]
    assert scores and all(0 <= float(row[key]) <= 1 for row in rows for key in scores)


def test_a_dry_run_estimates_what_a_published_size_takes(lab: Path) -> None:
    line = [
        "experiment=table4_recipe",
        "size=paper",
        *launcher_settings(lab / "published", gpus_per_node=2),
        "--dry-run",
    ]
    done = typed(*SUBMIT, *line)
    assert done.code == 0, done
    assert "on paper, 2 GPUs a cell" in done.out and "sbatch file: " in done.out, done
    heads = next(row for row in done.out.splitlines() if "A100-40G" in row).split()
    assert {"A100-40G", "A100-80G", "H100", "H200"} <= set(heads)
    assert re.search(r"qwen2_5_math_7b.* no .*\d h, \d+ s/step", done.out), done


def test_a_thousand_cells_are_planned_submitted_and_shown(
    lab: Path, happened: Happened, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lab / "thousand"
    for scenario in SCENARIOS:
        happened[scenario.__name__].exception()  # a thousand jobs would slow the scheduler for the others
    line = [*cell("optimizer.lr=1e-5,2e-5,3e-5,4e-5"), *launcher_settings(folder, array_parallelism=60, **HOLD)]
    few = typed(*SUBMIT, "seed=range(0,10)", *cell(), *launcher_settings(lab / "ten"), "--dry-run")
    plan = typed(*SUBMIT, "seed=range(0,250)", *line, "--dry-run")
    submitted = typed(*SUBMIT, "seed=range(0,250)", *line)
    waiting = queued("thousand", "PENDING")
    status = typed(*STATUS, folder)
    again = typed(*SUBMIT, "seed=range(0,250)", *line)
    cancelled = typed(*STATUS, folder, "cancel", "--yes")
    with capsys.disabled():
        for name, done in {
            "10 planned": few,
            "1,000 planned": plan,
            "submitted": submitted,
            "status": status,
            "the same line again": again,
            "cancelled": cancelled,
        }.items():
            print(f"\n{name}: {done.seconds:.2f} s, {done.cpu:.2f} s of CPU, {done.mib:.0f} MiB", end="")
    assert plan.code == 0 and "1000 cells, 0 finished, 1000 to start" in plan.out, plan.err
    assert plan.out.count("\n  to start") == 1000
    assert submitted.code == 0 and "submitted 1000 cells" in submitted.out and len(waiting) == 1000, submitted.err
    assert status.code == 0 and "1000 pending" in status.out, status.err
    assert "1000 cells, 0 finished, 0 to start" in again.out, again.err
    assert cancelled.out.startswith("cancelled 1000 cells") and queued("thousand", "PENDING,RUNNING") == []
    assert plan.mib < few.mib + 32, "memory does not grow with the configs of a thousand cells"
