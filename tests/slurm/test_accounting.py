"""A cluster with accounting, which warns of a pre-emption by SIGTERM: what only sacct knows, and dependencies."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from launch.places import slurm_jobs
from launch.places.slurm_checks import check
from launch.sweep import files
from launch.sweep.states import Task
from tests.integration.runs import reproducible, weights
from tests.slurm.sweeps import LONG, all_logs, attempts, ended, make, reached, settings, state, submit, until
from zero.errors import InputError

pytestmark = pytest.mark.slurm
CLUSTER = {"ACCT": "db", "NODES": "2", "CPUS": "16", "MEM": "16384", "SEND_USER_SIGNAL": "0", "GRACE": "30"}
Happened = dict[str, Future[Any]]


def preempted_by_sigterm(folder: Path) -> tuple[Path, str]:
    (name,) = make(folder, [LONG])
    (task,) = submit(folder, [name], partition="preempt", nodelist="n1")
    reached(folder / name, 3)
    subprocess.run(
        ["sbatch", "-p", "gpu", "-w", "n1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5"], check=True
    )
    return folder / name, ended(task, folder)


def followed(folder: Path) -> tuple[Path, list[str], list[str]]:
    """Two cells of which one raises, and one that waits for each."""
    small = [*LONG, "steps=2"]
    names = make(folder, [small, [*small, "seed=1"], [*small, "seed=2"], [*small, "seed=3"]])
    (folder / names[1] / "completions").write_text("no folder")
    for waiting, before in ((names[2], names[0]), (names[3], names[1])):
        path = folder / waiting / files.CELL
        path.write_text(json.dumps(json.loads(path.read_text()) | {"after": before}))
    first = submit(folder, names[:2], nodelist="n2")
    slurm_jobs.submit(folder, "after", names[2:], settings(nodelist="n2"), first)
    tasks = [files.task_ids(files.read_jobs(folder))[name][-1] for name in names]
    return folder, names, [ended(task, folder) for task in tasks]


SCENARIOS = [preempted_by_sigterm, followed]


def test_a_cell_asked_to_end_by_sigterm_goes_on_to_the_same_bits(happened: Happened, undisturbed: Path) -> None:
    cell, word = happened["preempted_by_sigterm"].result()
    assert word == "COMPLETED" and [a.get("exit") for a in attempts(cell)] == [75, 0], all_logs(cell)
    assert reproducible(cell) == reproducible(undisturbed) and weights(cell) == weights(undisturbed)


def test_what_follows_a_cell_starts_only_after_its_success(happened: Happened) -> None:
    folder, names, words = happened["followed"].result()
    assert words == ["COMPLETED", "FAILED", "COMPLETED", "CANCELLED"], all_logs(folder)
    assert files.finished(folder / names[2]) and not attempts(folder / names[3])
    assert attempts(folder / names[2])[0]["time"] >= attempts(folder / names[0])[0]["ended"]


def test_accounting_knows_what_the_controller_has_forgotten(lab: Path, happened: Happened) -> None:
    folder, names, _ = happened["followed"].result()
    tasks = files.task_ids(files.read_jobs(folder))
    good, bad = (tasks[name][-1] for name in names[:2])
    until(lambda: slurm_jobs.accounts([good.split("_")[0]]).get(bad, Task("")).state == "FAILED")
    past = slurm_jobs.accounts([good.split("_")[0]])
    assert (past[good].state, past[good].exit, past[bad].exit) == ("COMPLETED", 0, 1)
    assert past[good].node == "n2" and past[good].ended is not None
    snapshot = slurm_jobs.snapshot([good, "987654_0"])  # one that does not exist
    assert snapshot is not None and snapshot.keys() == {good}


def test_an_array_that_was_not_recorded_is_found_again(lab: Path) -> None:
    folder = lab / "orphan"
    slurm_jobs.submit(folder, "orphan", ["a", "b"], settings(additional_parameters={"hold": True}))
    jobs = [job.job for job in files.read_jobs(folder)]
    (folder / files.JOBS).unlink()  # as if the submitting process had been killed a moment earlier
    assert slurm_jobs.adopt(folder) == jobs and slurm_jobs.adopt(folder) == []
    assert files.task_ids(files.read_jobs(folder)) == {"a": [f"{jobs[0]}_0"], "b": [f"{jobs[0]}_1"]}
    slurm_jobs.cancel([f"{jobs[0]}_0", f"{jobs[0]}_1"])
    assert state(f"{jobs[0]}_0") in ("CANCELLED", "")


def test_an_array_that_was_cancelled_before_it_started_is_cancelled_to_the_last_task(lab: Path) -> None:
    folder = lab / "cancelled"
    slurm_jobs.submit(folder, "cancelled", list("abcd"), settings(additional_parameters={"hold": True}))
    tasks = [each[0] for each in files.task_ids(files.read_jobs(folder)).values()]
    subprocess.run(["scancel", tasks[0].split("_")[0]], check=True)
    until(lambda: all(state(task) == "CANCELLED" for task in tasks), 30)
    until(lambda: len(slurm_jobs.accounts([tasks[0].split("_")[0]])) >= 1, 30)
    past = slurm_jobs.accounts([tasks[0].split("_")[0]])
    assert [task.state for task in slurm_jobs.find_tasks(past, tasks).values()] == ["CANCELLED"] * len(tasks)


def test_the_users_own_variables_of_sbatch_count(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "preempt")
    monkeypatch.setenv("SBATCH_ARRAY_INX", "0-9")  # of another submission
    for folder, typed_settings, partition in (
        (lab / "theirs", {}, "preempt"),
        (lab / "typed", {"partition": "gpu"}, "gpu"),
    ):
        slurm_jobs.submit(folder, folder.name, ["a"], settings(additional_parameters={"hold": True}, **typed_settings))
        (job,) = files.read_jobs(folder)
        words = ["squeue", "-h", "-r", "-j", job.job, "-o", "%K %P"]
        assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.split() == ["0", partition]
        slurm_jobs.cancel([f"{job.job}_0"])


BAD = {
    "partition": ({"partition": "gpus"}, r"hydra.launcher.partition=gpus: no such partition; did you mean gpu\?"),
    "GPUs": ({"gpus_per_node": 9}, "hydra.launcher.gpus_per_node=9: a node here has at most 2 GPUs"),
    "CPUs": ({"cpus_per_task": 40}, "hydra.launcher.cpus_per_task=40: 1 tasks of a node need 40 CPUs"),
    "nodes": ({"nodes": 3, "partition": "gpu"}, "hydra.launcher.nodes=3: there are 2 nodes of partition gpu"),
    "flag": ({"additional_parameters": {"nonsense": 1}}, "sbatch refuses it: .*nonsense"),
    "not shared": ({"shared": False}, "lies on /tmp, which nodes do not see"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_the_cluster_cannot_do_is_one_line_and_nothing_is_submitted(name: str, lab: Path) -> None:
    changes, words = BAD[name]
    with pytest.raises(InputError, match=words) as error:
        check(settings(**changes), lab / "refused" / name, 3)
    assert "\n" not in str(error.value) and not (lab / "refused").exists()


def test_what_the_cluster_can_do_is_accepted(lab: Path) -> None:
    check(
        settings(gpus_per_node=2, nodes=2, partition="gpu,preempt", additional_parameters={"exclusive": True}),
        lab / "good",
        3,
    )
    assert not (lab / "good").exists()
