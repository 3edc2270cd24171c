"""A line is a wanted state: what is submitted, what is not, and what is printed beforehand."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from launch import multirun, submit
from launch.places import Limits, queue
from launch.sweep import files, freeze, states
from launch.sweep.files import Cell, Sweep
from launch.sweep.states import Status
from tests.conftest import ROOT
from zero import paths
from zero.config import experiments
from zero.errors import InputError
from zero.files import append_line
from zero.tracking import provenance

LOCAL = {"backend": "launch.places.local.Local"}


@dataclass
class Cluster:
    """A scheduler that accepts everything and remembers what it was given."""

    submissions: list[tuple[list[str], dict[str, str]]] = field(default_factory=list)
    words: dict[str, Any] = field(default_factory=dict)
    refuses: str = ""
    key: str = "launcher.partition"
    room: int = 10_000
    limits: Limits = field(default_factory=Limits)
    available: bool = True
    has_queue: bool = True
    server: ClassVar[str | None] = None

    def check(self, folder: Path, count: int) -> None:
        if self.refuses:
            raise InputError(self.key, "x", self.refuses)

    def submit(self, folder: Path, name: str, cells: Sequence[str], after: Mapping[str, str]) -> list[str]:
        fit = list(cells)[: self.room]
        if fit:
            files.add_job(folder, str(len(self.submissions) + 1), fit, {})
            self.submissions.append((fit, {cell: task for cell, task in after.items() if cell in fit}))
        return fit

    def poll(self, tasks: Iterable[str]) -> Mapping[str, Any]:
        return self.words

    def adopt(self, folder: Path) -> None: ...

    def write_scripts(self, folder: Path, name: str, cells: Sequence[str]) -> list[Path]:
        return []

    def cancel(self, folder: Path, cells: Sequence[str], tasks: Iterable[str]) -> None: ...


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(submit, "backend_of", lambda settings: cluster)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return cluster


def prepared(folder: Path, *overrides: str, **settings: Any) -> submit.Prepared:
    return submit.prepare("train", overrides, LOCAL | {"folder": str(folder)} | settings)


def finish(folder: Path, name: str) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / files.RESULT).write_text('{"status": "finished"}')


def test_the_same_line_again_submits_what_is_missing_and_only_that(tmp_path: Path, cluster: Cluster) -> None:
    folder = tmp_path / "s"
    first = prepared(folder, "seed=0,1,2")
    assert not folder.exists(), "preparing writes nothing"
    submit.submit(first)
    names = list(first.sweep.cells)
    assert cluster.submissions == [(names, {})]
    again = prepared(folder, "seed=0,1,2")
    assert again.missing == [], "they were submitted a moment ago"
    finish(folder, names[0])
    place = folder / names[1]
    number = files.begin_attempt(place, "1_1", 0)
    files.end_attempt(place, number, 1)
    append_line(place / files.ATTEMPTS, {"attempt": 2, "job": "1_1", "restart": 1, "host": "n", "pid": 1, "time": 0})
    cluster.words = {
        "1_1": type("W", (), {"state": "PREEMPTED", "reason": "", "node": ""})(),
        "1_2": type("W", (), {"state": "PENDING", "reason": "", "node": ""})(),
    }
    again = prepared(folder, "seed=0,1,2")
    assert again.missing == [names[1]]
    submit.submit(again)
    assert cluster.submissions[1:] == [([names[1]], {})]


def test_failed_stopped_and_cancelled_cells_are_resumed_only_on_request(tmp_path: Path, cluster: Cluster) -> None:
    folder = tmp_path / "s"
    submit.submit(prepared(folder, "seed=0,1,2"), start=False)
    names = list(files.read_sweep(folder).cells)
    for name, code in zip(names, (1, 75, 75), strict=True):
        files.end_attempt(folder / name, files.begin_attempt(folder / name, "", 0), code)
    files.ask_to_stop(folder / names[1], "asked")
    (folder / names[2] / files.CANCELLED).touch()
    again = prepared(folder, "seed=0,1,2")
    assert [again.statuses[n].state for n in names] == ["failed", "stopped", "cancelled"] and again.missing == []


def test_claims_are_kept_as_they_were_first_written_down(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = tmp_path / "experiment", tmp_path / "s"
    home.mkdir()
    monkeypatch.setattr(paths, "USER_CONF", [tmp_path])
    monkeypatch.setattr(experiments, "USER_CONF", paths.USER_CONF)
    file = home / "mine.yaml"
    claim = {"text": "first", "statistic": {"metric": "train/reward"}, "direction": "greater", "smallest": -0.5}
    file.write_text(f"title: T\ncells: [[algo=grpo, 'seed=0,1']]\nnano: {{}}\nclaims: [{claim}]\n")
    with pytest.raises(InputError, match=r"mine.claims\[0\].smallest=-0.5: must be a number of at least 0"):
        prepared(folder, "experiment=mine")
    assert not folder.exists()
    claim["smallest"] = 0.5
    file.write_text(file.read_text().replace("-0.5", "0.5"))
    first = prepared(folder, "experiment=mine")
    submit.submit(first)
    registered = files.read_sweep(folder).experiments["mine"]
    assert (
        registered["claims"] == [claim]
        and registered["cells"] == list(first.sweep.cells)
        and registered["size"] == "nano"
    )
    file.write_text(file.read_text().replace("first", "as it turned out"))
    again = prepared(folder, "experiment=mine", "seed=0,1,2")
    assert any("the claims of mine were edited" in note for note in again.notes)
    submit.submit(again)
    later = files.read_sweep(folder).experiments["mine"]
    assert (later["claims"], later["registered"]) == (registered["claims"], registered["registered"]) and len(
        later["cells"]
    ) == 3
    submit.submit(prepared(folder, "algo=drgrpo"))
    assert files.read_sweep(folder).experiments["mine"] == later, "another line leaves experiments alone"


def test_a_cell_waits_for_the_one_whose_model_it_takes(tmp_path: Path, cluster: Cluster) -> None:
    folder = tmp_path / "s"
    submit.submit(prepared(folder, "experiment=open_r1", "seed=0"))
    [second] = [cell for cell in files.read_sweep(folder).cells.values() if cell.model_from]
    ready, waiting = cluster.submissions
    assert second.model_from in ready[0] and waiting == (
        [second.name],
        {second.name: f"1_{ready[0].index(second.model_from)}"},
    )
    path = files.read_cell(folder, second.name).config["model"]["path"]  # type: ignore[index]
    assert path == str(folder / second.model_from / "model")


def test_another_line_in_the_same_folder_keeps_its_cells(tmp_path: Path, cluster: Cluster) -> None:
    folder = tmp_path / "s"
    submit.submit(prepared(folder, "seed=0,1"))
    old = list(files.read_sweep(folder).cells)
    submit.submit(prepared(folder, "seed=1,2"))
    cells = files.read_sweep(folder).cells
    assert [cells[name].wanted for name in old] == [False, True] and len(cells) == 3
    assert [cell for cells_, _ in cluster.submissions[1:] for cell in cells_] == [n for n in cells if n not in old]


def test_a_changed_setting_is_another_cell(tmp_path: Path, cluster: Cluster) -> None:
    submit.submit(prepared(tmp_path / "s", "seed=0"))
    (old,) = files.read_sweep(tmp_path / "s").cells
    after = prepared(tmp_path / "s", "seed=0", "optimizer.lr=3e-5")
    assert old not in after.missing and len(after.missing) == 1


def test_a_waiting_cell_is_submitted_with_the_task_it_waits_for(tmp_path: Path, cluster: Cluster) -> None:
    submission = prepared(tmp_path / "s", "seed=0,1", evaluate="benchmarks=nano", smoke=True)
    submit.submit(submission)
    smoke, one, two, of_one, of_two = submission.sweep.cells
    assert cluster.submissions == [
        ([smoke], {}),
        ([one, two], {one: "1_0", two: "1_0"}),
        ([of_one, of_two], {of_one: "2_0", of_two: "2_1"}),
    ]


def test_an_evaluation_waits_for_nobody_once_its_cell_has_finished_and_never_starts_if_it_failed() -> None:
    cells = {"a": Cell("a", "train", (), {}, ""), "b": Cell("b", "evaluate", (), {}, "", after="a")}
    for state_, live, due in (("finished", False, ["b"]), ("failed", False, []), ("running", True, ["b"])):
        statuses = {"a": Status("a", state_, live, 1), "b": Status("b", "waiting", False, 0)}
        assert queue.startable(Sweep("s", cells), statuses, ["b"]) == due


def test_bad_input_is_one_line_and_nothing_is_written(tmp_path: Path, cluster: Cluster) -> None:
    folder = tmp_path / "s"
    with pytest.raises(InputError, match="did you mean drgrpo"):
        prepared(folder, "algo=grpo,drgpo")
    cluster.refuses = "no such partition"
    with pytest.raises(InputError, match="no such partition"):
        prepared(folder, "algo=grpo,drgrpo")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="PYTHONPATH cannot name its code"):
        prepared(tmp_path / "10:30", "algo=grpo")
    with pytest.raises(InputError, match="cannot be written"):
        prepared(tmp_path / "file" / "s", "algo=grpo")
    assert not folder.exists() and cluster.submissions == []


def test_a_dry_run_names_what_would_keep_it_from_being_submitted(tmp_path: Path, cluster: Cluster) -> None:
    def dry() -> submit.Prepared:
        return submit.prepare("train", ["seed=0"], LOCAL | {"folder": str(tmp_path / "s")}, dry=True)

    cluster.refuses, cluster.key = "lies on /tmp", "sweep"
    assert dry().notes[-1] == "a submission would be refused: sweep=x: lies on /tmp"
    with pytest.raises(InputError, match="lies on /tmp"):
        prepared(tmp_path / "s", "seed=0")
    cluster.key = "launcher.partition"
    with pytest.raises(InputError, match="lies on"):
        dry()


def test_one_submission_at_a_time(tmp_path: Path, cluster: Cluster) -> None:
    submission = prepared(tmp_path, "seed=0")
    with (
        queue.submission_lock(tmp_path),
        pytest.raises(InputError, match=r"process \d+ on \S+ submits cells of it now"),
    ):
        submit.submit(submission)
    assert cluster.submissions == []


def test_two_shells_with_the_same_line_submit_it_once(tmp_path: Path, cluster: Cluster) -> None:
    """The second one polled before the first one had submitted; a third one asks for other cells."""
    one, two, other = (prepared(tmp_path, line) for line in ("seed=0,1", "seed=0,1", "seed=1,2"))
    submit.submit(one)
    assert submit.submit(two).missing == []
    submit.submit(other)
    assert [cells for cells, _ in cluster.submissions] == [list(one.sweep.cells), list(other.sweep.cells)[1:]]
    assert [cell.wanted for cell in files.read_sweep(tmp_path).cells.values()] == [True, True, False]


def test_a_follower_polls_again_before_it_submits(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = prepared(tmp_path, "seed=0")
    submit.submit(submission, start=False)  # not yet in the queue when it polls
    (name,) = submission.sweep.cells
    monkeypatch.setattr(multirun, "RESUBMIT_INTERVAL", -1.0)
    real = queue.submission_lock

    @contextmanager
    def other_was_first(folder: Path) -> Iterator[None]:
        if not cluster.submissions:
            cluster.submit(folder, "s", [name], {})
        with real(folder):
            yield
        finish(folder, name)

    monkeypatch.setattr(queue, "submission_lock", other_was_first)
    cluster.limits = Limits(poll_s=0.0)
    assert multirun.follow(submission) == 0
    assert [cells for cells, _ in cluster.submissions] == [[name]]


def test_cells_beyond_the_queues_room_wait_and_are_submitted_as_it_empties(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.room = 2
    submission = prepared(tmp_path, "seed=range(0,5)")
    submit.submit(submission)
    names = list(submission.sweep.cells)
    assert "submitted 2 cells" in (output := capsys.readouterr().out) and "3 more wait for room in the queue" in output
    statuses = queue.poll(tmp_path, submission.sweep, submission.backend)
    assert [statuses[name].state for name in names] == ["pending"] * 2 + ["waiting"] * 3
    monkeypatch.setattr(queue, "backend_of", lambda settings: cluster)
    finish(tmp_path, names[0])
    (tmp_path / names[2] / files.CANCELLED).touch()  # this one is no longer wanted
    assert queue.fill(tmp_path) == 2 and queue.read_unsubmitted(tmp_path) == []
    assert [cells for cells, _ in cluster.submissions] == [names[:2], names[3:]]


def test_no_more_are_queued_than_the_user_wants(tmp_path: Path, cluster: Cluster) -> None:
    cluster.limits = Limits(most_queued=3)
    submission = prepared(tmp_path, "seed=range(0,5)")
    submit.submit(submission)
    assert [len(cells) for cells, _ in cluster.submissions] == [3] and len(queue.read_unsubmitted(tmp_path)) == 2
    submit.submit(submission)
    assert len(cluster.submissions) == 1, "there is no room yet"


def test_a_deleted_folder_is_run_again_by_the_line_and_by_resume(tmp_path: Path, cluster: Cluster) -> None:
    submission = prepared(tmp_path, "seed=0,1", "optimizer.lr=2e-5")
    submit.submit(submission)
    one, two = submission.sweep.cells
    cluster.words = {f"1_{i}": type("W", (), {"state": "COMPLETED", "reason": "", "node": ""})() for i in (0, 1)}
    frozen = files.read_cell(tmp_path, one)
    finish(tmp_path, two)
    shutil.rmtree(tmp_path / one)
    again = prepared(tmp_path, "seed=0,1", "optimizer.lr=2e-5")
    assert (again.statuses[one].state, again.missing) == ("waiting", [one])
    queue.enqueue(tmp_path, again.sweep, again.statuses, [one], again.backend)  # as resume does
    assert files.read_cell(tmp_path, one) == frozen and cluster.submissions[-1][0] == [one]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    submission = prepared(tmp_path, "seed=0")
    with queue.submission_lock(tmp_path), pytest.raises(InputError, match=r"process .* submits cells of it now"):
        submit.submit(submission)
    submit.submit(submission)
    assert len(cluster.submissions) == 1
    with queue.submission_lock(tmp_path):
        ours = (tmp_path / ".submitting.owner").read_text()
    killed = ours.replace(f'"pid": {os.getpid()}', '"pid": 999999999')
    (tmp_path / ".submitting.owner").write_text(killed)
    submit.submit(submission)
    (tmp_path / ".submitting.owner").write_text('{"host": "elsewhere", "pid": 7}')
    with pytest.raises(InputError, match=r"process 7 on elsewhere \(if it is gone: rm "):
        submit.submit(submission)


def test_a_closed_pipe_does_not_stop_the_submission(tmp_path: Path) -> None:
    code = (
        "from launch import submit\nimport sys\nsubmit.print_lines(f'line {i}' for i in range(100_000))\n"
        "submit.print_lines(['more'])\nprint('went on', file=sys.stderr)"
    )
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "$0" | head -1', code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout, done.stderr) == ("line 0\n", "went on\n")


def test_a_dry_run_needs_no_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin" if shutil.which("sbatch") is None else str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert submit.main(["algo=grpo,drgrpo", "seed=0", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "not checked against a controller" in output and "2 to start" in output
    (path,) = (Path(line.partition(": ")[2]) for line in output.splitlines() if line.startswith("sbatch file"))
    assert "#SBATCH --array=0-1" in path.read_text()
    assert submit.main(["algo=grpo,drgrpo", "seed=0"]) == 2 and "no Slurm on this machine" in capsys.readouterr().err


def test_an_edit_changes_nothing_that_was_submitted(tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "s"
    for name in ("zero/a.py", "conf/b.yaml", "launch/__pycache__/c.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1")
    folder.mkdir()
    first = freeze.freeze(folder, root)
    assert not (folder / "code/launch").exists() and first["digest"] == provenance.digest(root)
    (root / "zero/a.py").write_text("2")
    assert freeze.freeze(folder, root) == first and (folder / "code/zero/a.py").read_text() == "1"
    assert provenance.digest(root) != first["digest"]
    assert freeze.freeze(folder, root, replace=True)["digest"] == provenance.digest(root)
    assert (folder / "code/zero/a.py").read_text() == "2"
    assert sorted(p.name for p in folder.iterdir()) == ["code"]


def test_code_is_not_replaced_under_a_running_cell(tmp_path: Path, cluster: Cluster) -> None:
    submit.submit(prepared(tmp_path / "s", "seed=0"))
    with pytest.raises(InputError, match="--refreeze"):
        submit.submit(prepared(tmp_path / "s", "seed=0"), refreeze=True)


@pytest.mark.parametrize(
    ("typed", "variable", "expected"),
    [
        ([], None, None),
        (["tracker=jsonl"], "http://127.0.0.1:9", "http://127.0.0.1:9"),
        (["tracker.uri=sqlite:///x.db"], None, "sqlite:///x.db"),
        ([], "http://127.0.0.1:9", "http://127.0.0.1:9"),  # nothing listens there
    ],
)
def test_compute_nodes_open_no_store_of_their_own(
    tmp_path: Path,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    typed: list[str],
    variable: str | None,
    expected: str | None,
) -> None:
    if variable:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    submission = prepared(tmp_path / "s", "seed=0", *typed)
    assert submission.sweep.settings["store"] == expected
    (cell,) = submission.sweep.cells.values()
    assert cell.config and cell.config["tracker"] == {}


@pytest.mark.parametrize("typed", [[], ["tracker=jsonl"]])
def test_no_password_of_the_environment_is_written_down(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, typed: list[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s@cret@127.0.0.1:9")
    with pytest.raises(
        InputError, match=r"MLFLOW_TRACKING_URI=http://\.\.\.@127.0.0.1:9: names a user with a password"
    ):
        prepared(tmp_path / "s", "seed=0", *typed)


def test_a_dry_run_prints_the_plan_and_submits_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "s"
    code = submit.main(["algo=grpo,drgrpo", "launcher=local", "seed=0", "--dry-run", "--folder", str(folder)])
    output = capsys.readouterr().out
    assert code == 0 and "2 cells, 0 finished, 2 to start" in output and "nothing was submitted" in output
    assert output.count("to start  ") == 2 and "disk: up to" in output and not folder.exists()


def test_estimates_come_from_finished_cells(tmp_path: Path, cluster: Cluster) -> None:
    from launch.cost.estimate import estimate, parameters

    folder = tmp_path / "s"
    submit.submit(prepared(folder, "seed=0,1,2", "steps=10"), start=False)
    names = list(files.read_sweep(folder).cells)
    finish(folder, names[0])
    submission = prepared(folder, "seed=0,1,2", "steps=10")
    statuses = dict(submission.statuses) | {names[0]: Status(names[0], states.FINISHED, False, 1, seconds=3600.0)}
    limited = Limits(attempt_s=1200.0, warning_s=200.0)
    cost = estimate(folder, submission.sweep, statuses, limited)
    assert cost.attempts == 4, "of 1,000 s each"
    slow = Status(names[1], states.RUNNING, True, 2, step=5, seconds=360.0)
    going = dict(submission.statuses) | {names[0]: Status(names[0], states.FAILED, False, 1), names[1]: slow}
    paced = estimate(folder, submission.sweep, going, Limits())
    assert (paced.cells, paced.measured, paced.running) == (2, 1, 1), "a failed cell is not left to do"
    assert paced.gpu_hours == pytest.approx((5 + 10) * 72 / 3600)
    cost = estimate(folder, submission.sweep, statuses, Limits())
    assert (cost.cells, cost.measured, cost.hours, cost.gpu_hours, cost.finish) == (2, 1, 1.0, 2.0, 3600.0)
    assert parameters("Qwen/Qwen2.5-Math-1.5B-Instruct") == 1.5e9 and parameters("mistral") is None


def test_a_thousand_cells_are_submitted_in_half_a_minute_with_one_call(tmp_path: Path, cluster: Cluster) -> None:
    began = time.process_time()  # of this process alone: the machine may be busy
    submit.submit(prepared(tmp_path / "s", "seed=range(0,1000)"))
    assert [len(cells) for cells, _ in cluster.submissions] == [1000]
    assert time.process_time() - began < 20
    assert len(list((tmp_path / "s").glob("*/cell.yaml"))) == 1000


def test_a_follower_submits_again_what_was_pre_empted_for_good(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "s"
    submission = prepared(folder, "seed=0", requeues=3)
    submit.submit(submission)
    (name,) = submission.sweep.cells
    files.end_attempt(folder / name, files.begin_attempt(folder / name, "1_0", 0), 75)

    def poll(tasks: Iterable[str]) -> Mapping[str, Any]:
        if len(cluster.submissions) > 1:
            finish(folder, name)
        return {"1_0": type("W", (), {"state": "PREEMPTED", "reason": "", "node": ""})()}

    monkeypatch.setattr(cluster, "poll", poll)
    monkeypatch.setattr(multirun, "RESUBMIT_INTERVAL", -1.0)
    cluster.limits = Limits(poll_s=0.0)
    assert multirun.follow(submission) == 0
    assert [cells for cells, _ in cluster.submissions] == [[name], [name]]
