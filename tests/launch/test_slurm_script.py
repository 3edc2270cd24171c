"""What a sweep requests from Slurm: checked settings, the batch script as text, arrays, and Slurm's tables. No cluster."""

from __future__ import annotations

import ast
import os
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from launch.places import SWEEP_KEYS, local, slurm_checks, slurm_jobs, slurm_nodes, submitit_executor
from launch.places.slurm_checks import count_gpus, private_file_system
from launch.places.slurm_jobs import assume_requeue, dependent_arrays, exit_code, first_number
from launch.places.slurm_script import Settings
from launch.sweep.compose import launcher_settings
from launch.sweep.states import Task
from zero.errors import InputError

BAD = {
    "unknown": ({"partion": "gpu"}, r"hydra.launcher.partion=gpu: no such setting; did you mean partition"),
    **{
        f"sbatch's {word}": ({word: 1}, f"hydra.launcher.{word}=1: no such setting; did you mean {ours}")
        for word, ours in {
            "time": "timeout_min",
            "mem": "mem_gb",
            "cpus-per-gpu": "cpus_per_task",
            "gpus": "gpus_per_node",
            "ntasks": "tasks_per_node",
            "queue": "partition",
            "slurm_partition": "partition",
            "job_name": "name",
            "max_num_timeout": "requeues",
        }.items()
    },
    "hours": ({"timeout_min": "1:00:00"}, "hydra.launcher.timeout_min=1:00:00: must be a number of minutes"),
    "too few": ({"nodes": 0}, "hydra.launcher.nodes=0: must be at least 1"),
    "half a node": ({"nodes": 1.5}, "hydra.launcher.nodes=1.5: must be a whole number"),
    "no number": ({"mem_gb": "much"}, "hydra.launcher.mem_gb=much: must be a number"),
    "not finite": ({"mem_gb": float("nan")}, "hydra.launcher.mem_gb=nan: must be a number"),
    "no list": ({"setup": "module load cuda"}, "hydra.launcher.setup=module load cuda: must be a list"),
    "two lines": ({"account": "a\nb"}, r"hydra.launcher.account=a\\nb: must be one line"),
    "no time to save": ({"timeout_min": 2, "signal_delay_s": 120}, "must be less than the time limit"),
    "neither": ({"fail_fast": "maybe"}, "must be true or false"),
    "no flags": ({"additional_parameters": ["x"]}, "must be FLAG: VALUE pairs"),
}


@pytest.mark.parametrize("name", BAD)
def test_impossible_settings_are_refused(name: str) -> None:
    settings, words = BAD[name]
    with pytest.raises(InputError, match=words) as error:
        Settings.parse(settings)
    assert "\n" not in str(error.value)


def flags(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {line.partition("=")[0]: line.partition("=")[2] for line in lines}


def test_the_batch_script_holds_what_was_asked_for(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "partition": "gpu",
        "timeout_min": 90,
        "nodes": 2,
        "gpus_per_node": 4,
        "cpus_per_task": 3,
        "mem_gb": 1.5,
        "account": "lab",
        "qos": "high",
        "constraint": "a100|h100",
        "array_parallelism": 7,
        "setup": ["module load cuda"],
        "teardown": ["echo bye"],
        "srun_args": ["--container-image=/x y.sqsh"],
        "python": "singularity exec i.sif python",
        "additional_parameters": {"reservation": "r", "exclusive": True, "mail_user": "a@b", "requeue": False},
    }
    order = slurm_jobs.job_request(tmp_path / "a sweep", "job", 12, Settings.parse(settings), "0" * 12, "aftercorr:7")
    text = submitit_executor.batch_file(order)
    options = flags(text)
    expected = {
        "partition": "gpu",
        "time": "90",
        "nodes": "2",
        "gpus-per-node": "4",
        "ntasks-per-node": "4",
        "cpus-per-task": "3",
        "mem": "1536MB",
        "account": "lab",
        "qos": "high",
        "constraint": "'a100|h100'",
        "array": "0-11%7",
        "reservation": "r",
        "exclusive": "",
        "mail-user": "a@b",
        "signal": "B:USR2@120",
        "open-mode": "append",
        "dependency": "aftercorr:7",
    }
    assert expected.items() <= options.items() and "requeue" not in options and options["wckey"] == "''"
    assert "\nmodule load cuda\n" in text and "teardown() {\necho bye\n}" in text
    assert "'--container-image=/x y.sqsh'" in text and "python=(singularity exec i.sif python)" in text
    assert f". '{tmp_path}/a sweep/code/launch/places/cell.sh' '{tmp_path}/a sweep' " in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_what_is_not_asked_for_is_left_to_slurm(tmp_path: Path) -> None:
    options = flags(submitit_executor.batch_file(slurm_jobs.job_request(tmp_path, "job", 1, Settings(), "0" * 12)))
    assert options["array"] == "0-0" and options["ntasks-per-node"] == "1"  # an array of one, too: its task has a name
    assert not options.keys() & {"partition", "account", "qos", "mem", "gpus-per-node", "dependency"}


def test_percent_signs_in_the_name_of_a_folder_are_literal(tmp_path: Path) -> None:
    options = flags(
        submitit_executor.batch_file(slurm_jobs.job_request(tmp_path / "100%A", "job", 1, Settings(), "0" * 12))
    )
    assert options["output"] == f"{tmp_path}/100%%A/slurm/%A_%a.out"


def test_the_batch_file_comes_from_submitit_without_a_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves nothing behind: neither files nor variables."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin" if not slurm_checks.installed() else str(tmp_path / "nothing"))
    before = dict(os.environ)
    text = submitit_executor.batch_file(
        slurm_jobs.job_request(tmp_path / "s", "grpo-drgrpo-0123abcd", 3, Settings(), "0" * 12)
    )
    assert "-m submitit.core._submit" in text.splitlines()[-1] and flags(text)["array"] == "0-2"
    assert flags(text)["job-name"] == "0123abcd-grpo-drgrpo", "squeue shows the first eight letters"
    assert list(tmp_path.iterdir()) == [] and dict(os.environ) == before


def test_no_private_name_of_submitit_is_used() -> None:
    tree = ast.parse(Path(submitit_executor.__file__).read_text())
    names = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert "map_array" in names and not [name for name in names if name.startswith("_")]


def test_the_defaults_of_settings_are_those_of_the_yaml() -> None:
    ours = {
        key: value
        for key, value in launcher_settings(["hydra/launcher=slurm"], "slurm").items()
        if key not in SWEEP_KEYS
    }
    assert (
        replace(Settings.parse(ours), additional_parameters=None) == Settings()
        and ours.keys() == asdict(Settings()).keys()
    )
    ours = {
        key: value
        for key, value in launcher_settings(["hydra/launcher=local"], "local").items()
        if key not in SWEEP_KEYS
    }
    assert local.parse_settings(ours) == local.DEFAULTS and ours.keys() == local.DEFAULTS.keys()


def test_the_users_variables_of_sbatch_are_obeyed_and_another_jobs_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {
        "SBATCH_ACCOUNT": "lab",
        "SBATCH_PARTITION": "slow",
        "SBATCH_ARRAY_INX": "0-9",
        "SBATCH_WAIT": "1",
        "SLURM_CLUSTERS": "big",
        "SLURM_JWT": "x",
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "8",
        "SQUEUE_USERS": "bob",
        "SBATCH_TIMELIMIT": "5",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    passed_on = {"SBATCH_ACCOUNT", "SBATCH_PARTITION", "SLURM_CLUSTERS", "SLURM_JWT"}
    order = slurm_jobs.job_request(tmp_path, "job", 1, Settings(), "0" * 12)
    assert (
        environment.keys() & submitit_executor.users_environment(submitit_executor.settled_options(order)) == passed_on
    )
    typed = slurm_jobs.job_request(tmp_path, "job", 1, Settings(partition="gpu"), "0" * 12)
    assert environment.keys() & submitit_executor.users_environment(
        submitit_executor.settled_options(typed)
    ) == passed_on - {"SBATCH_PARTITION"}


QUEUES = {
    # lines of squeue -O ArrayJobID|ArrayTaskID|State|..., of sacct, and the states of 7_0 to 7_3
    "an array that was cancelled before it started": (["7|N/A|CANCELLED|0|N/A|0||None"], [], ["CANCELLED"] * 4),
    "half of it had started": (
        ["7|N/A|CANCELLED|0|N/A|0||None", "7|1|RUNNING|0|N/A|0|n1|None"],
        [],
        ["CANCELLED", "RUNNING", "CANCELLED", "CANCELLED"],
    ),
    "accounting, one record": ([], ["7|CANCELLED by 0|0:0"], ["CANCELLED"] * 4),
    "accounting, ranges": (
        [],
        ["7_0|COMPLETED|0:0", "7_[1,2-3%1]|CANCELLED by 0|0:0"],
        ["COMPLETED"] + ["CANCELLED"] * 3,
    ),
    "accounting, a list cut short": ([], ["7_[0,1,...]|CANCELLED by 0|0:0"], ["CANCELLED"] * 4),
}


@pytest.mark.parametrize("name", QUEUES)
def test_a_record_without_an_index_is_of_every_task_without_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, accounts, expected = QUEUES[name]

    def call(*words: str, **_: Any) -> str:
        if words[0] == "squeue":
            return "".join(f"{line}|\n" for line in queue)
        return "".join(f"{line}|2026-01-01T00:00:00|None assigned\n" for line in accounts)

    monkeypatch.setattr(slurm_jobs, "call", call)
    tasks = slurm_jobs.snapshot(f"7_{i}" for i in range(4))
    assert [tasks[f"7_{i}"].state for i in range(4)] == expected


def test_what_does_not_fit_into_the_queue_is_cut_until_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room, jobs = 10, list[list[str]]()

    def submit(order: submitit_executor.JobRequest, cells: Any) -> str:
        if sum(map(len, jobs)) + len(cells) > room:
            raise submitit_executor.SubmissionRefused("sbatch: error: AssocMaxSubmitJobLimit")
        jobs.append([name for _, name in cells])
        return str(len(jobs))

    monkeypatch.setattr(slurm_jobs, "call", lambda *words, **_: "MaxArraySize = 8\n")
    monkeypatch.setattr(submitit_executor, "submit", submit)
    names = [f"c{i}" for i in range(30)]
    assert slurm_jobs.submit(tmp_path, "s", names, Settings(mem_gb=1)) == names[:10]
    assert [name for job in jobs for name in job] == names[:10]
    assert list(slurm_jobs.files.task_ids(slurm_jobs.files.read_jobs(tmp_path))) == names[:10], "and each is noted"


def test_a_small_cell_gets_enough_memory_where_the_default_is_less(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "DefMemPerCPU=512": 2,
        "DefMemPerNode=1024": 2,
        "DefMemPerCPU=4096": None,
        "DefMemPerNode=UNLIMITED": None,
    }
    for answer, expected in answers.items():
        text = f"PartitionName=other\n Default=NO DefMemPerCPU=9\nPartitionName=gpu\n Default=YES {answer} X=1\n"
        monkeypatch.setattr(slurm_nodes, "call", lambda *words, text=text, **_: text)
        assert slurm_nodes.with_enough_memory(Settings()).mem_gb == expected, answer
        assert slurm_nodes.with_enough_memory(Settings(mem_gb=0.5)).mem_gb == 0.5
    monkeypatch.setenv("SBATCH_MEM_PER_CPU", "100")
    assert slurm_nodes.with_enough_memory(Settings()).mem_gb is None, "the user has said it elsewhere"


def test_a_follower_is_bound_to_its_own_task() -> None:
    assert dependent_arrays(["a", "b"], ["7_0", "7_1"], 9) == [(["a", "b"], "aftercorr:7")]
    assert dependent_arrays(["b", "a"], ["7_1", "7_0"], 9) == [(["a", "b"], "aftercorr:7")]
    assert dependent_arrays(["b", "c"], ["7_1", "8_0"], 9) == [(["b"], "afterok:7_1"), (["c"], "aftercorr:8")]
    assert dependent_arrays(list("abc"), ["7_2"] * 3, 2) == [(["a", "b"], "afterok:7_2"), (["c"], "afterok:7_2")]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("gpu:a100:8(S:0-1)", 8),
        ("gpu:2", 2),
        ("(null)", 0),
        ("gpu:a100:4,gpu:h100:2,shard:64", 6),
        ("craynetwork:3", 0),
    ],
)
def test_gpus_of_a_node(text: str, count: int) -> None:
    assert count_gpus(text) == count


def test_numbers_and_exit_codes_of_slurm() -> None:
    assert (first_number("128+"), first_number("(null)")) == (128, 0)
    assert (exit_code(256), exit_code(0), exit_code(9), exit_code(75 << 8)) == (1, 0, 137, 75)
    now = time.time()
    assert assume_requeue(Task("NODE_FAIL", ended=now - 3)).state == "REQUEUED"  # a moment later it is queued again
    assert assume_requeue(Task("NODE_FAIL", ended=now - 300)).state == "NODE_FAIL"
    assert assume_requeue(Task("FAILED", ended=now)).state == "FAILED"


def test_one_query_for_all_tasks_and_no_reply_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    programs: list[str] = []

    def call(*words: str, **_: Any) -> str:
        programs.append(words[0])
        if words[0] == "squeue":
            return "".join(f"7 |{i} |RUNNING |0 |N/A |0 |n{i} |None |\n" for i in range(5000))
        ends = ["8_0|COMPLETED|0:0", "8_1|NODE_FAIL|1:0", "8_1|FAILED|3:0"]
        return "".join(f"{line}|2026-01-01T00:00:00|n1\n" for line in ends)

    monkeypatch.setattr(slurm_jobs, "call", call)
    snapshot = slurm_jobs.snapshot([f"7_{i}" for i in range(5000)] + ["8_0", "8_1", "9_0"])
    assert programs == ["squeue", "sacct"] and len(snapshot) == 5002
    assert (snapshot["8_1"].state, snapshot["8_1"].exit, snapshot["8_1"].restarts) == ("FAILED", 3, 1)

    def silent(*words: str, **_: Any) -> str:
        raise slurm_jobs.Unreachable("Unable to contact slurm controller")

    monkeypatch.setattr(slurm_jobs, "call", silent)
    assert slurm_jobs.snapshot(["7_0"]) is None


def test_no_slurm_here_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="hydra/launcher=slurm: no Slurm on this machine"):
        slurm_checks.check(Settings(), tmp_path / "sweep", 1)


def test_folders_that_nodes_cannot_see_are_recognised() -> None:
    assert private_file_system(Path("/tmp/x")) == "/tmp" and private_file_system(Path("/dev/shm/x")) == "/dev"
    assert private_file_system(Path("/tmpfiles")) == ""
