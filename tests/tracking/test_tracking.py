"""The journal is exact and survives a kill; MLflow (the real one) gets each step once and never stops a run."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import ROOT
from tests.synthetic import answer, empty_store, end_run, follower_settings, metrics, start_run
from zero.errors import InputError
from zero.files import write_json
from zero.rollout.http import Client, ServerError
from zero.tracking import DeliveryError, delivered, folder, follower, waiting
from zero.tracking import journal as journals
from zero.tracking.follower import follow
from zero.tracking.glossary import COMBINED_BY, GLOSSARY, combine, describe, markdown
from zero.tracking.journal import Journal
from zero.tracking.mlflow import LINK, MlflowTracker, why
from zero.tracking.provenance import package_versions, start
from zero.tracking.store import absolute, dashboard_command, default_store, without_password
from zero.tracking.trackers import Trackers, deliver, open_trackers

STEPS = 20


@pytest.fixture(autouse=True)
def no_server_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An embedded store that the tests of this file share."""
    return empty_store(tmp_path_factory.mktemp("a store"))


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def run_of(uri: str, run_dir: Path) -> Any:
    return client_of(uri).get_run(json.loads((run_dir / "mlflow.json").read_text())["run_id"])


Points = list[tuple[str, int, float]]


def points_of(uri: str, run_id: str) -> Points:
    """Every point of every metric in MLflow, duplicates included."""
    client = client_of(uri)
    names = client.get_run(run_id).data.metrics
    return clocks_apart([(name, p.step, p.value) for name in names for p in client.get_metric_history(run_id, name)])


def points_in(run_dir: Path) -> Points:
    """Every point of the journal."""
    lines = journals.read(run_dir)
    return clocks_apart(
        [(n, line["step"], v) for line in lines for n, v in line.items() if n != "step" and v is not None]
    )


def clocks_apart(points: Points) -> Points:
    """A step computed twice may have the time of one computation in the journal and that of the other in MLflow."""
    return sorted((name, step, 0.0 if name == "time/unix" else value) for name, step, value in points)


CONFIG = {"seed": 3, "optimizer": {"lr": 1e-6}, "long": "x" * 7000, "odd key!": ""}


def record(run_dir: Path, uri: str, steps: int = STEPS, start: int = 0, patience: float = 90.0) -> Trackers:
    """Trackers that have seen the steps after `start`, not closed yet."""
    start_run(run_dir, CONFIG, {"algo": "drgrpo"})
    trackers = open_trackers({"tracker": follower_settings(uri, patience=patience)}, run_dir, run_dir.name)
    trackers.rewind(start if start else -1)
    for step in range(start + 1 if start else 0, steps + 1):
        values = metrics("drgrpo", 0, step, STEPS)
        # A resumed run has a later clock
        trackers.metrics(values | {"time/unix": values["time/unix"] + 1000 * start}, step)
    return trackers


def deliver_steps(run_dir: Path, uri: str, steps: range, status: str = "finished") -> None:
    """A run that has made these steps and ended, delivered by this process and not by a follower."""
    start_run(run_dir, CONFIG, {"algo": "drgrpo"})
    written = Journal(run_dir)
    for step in steps:
        written.append(metrics("drgrpo", 0, step, STEPS), step)
    write_json(run_dir / "result.json", {"status": status})
    MlflowTracker(run_dir, run_dir.name, uri).deliver(status)


# --- glossary ---


def test_metrics_of_several_optimizer_steps_become_those_of_the_step() -> None:
    assert set(COMBINED_BY) <= set(GLOSSARY)
    updates = [
        {"loss/policy": 1.0, "mismatch/logprob_gap_max": 0.5},
        {"loss/policy": 2.0, "mismatch/logprob_gap_max": 0.25, "loss/skipped_updates": 1.0},
        {"loss/policy": 6.0, "mismatch/logprob_gap_max": 0.125, "loss/skipped_updates": 1.0, "critic/loss": 4.0},
    ]
    expected = {"loss/policy": 3.0, "mismatch/logprob_gap_max": 0.5, "loss/skipped_updates": 2.0, "critic/loss": 4.0}
    assert combine(updates) == expected


def test_glossary_describes_every_name_and_no_other() -> None:
    for name, (unit, meaning) in GLOSSARY.items():
        assert describe(name.replace("NAME", "nano-math 2")) == (unit, meaning)
        assert unit
        assert len(meaning) > 10
        row = next(row for row in markdown().splitlines() if row.startswith(f"| `{name}` | "))
        assert row.replace(r"\|", "|") == f"| `{name}` | {unit} | {meaning} |"
        assert len(re.findall(r"(?<!\\)\|", row)) == 4, row
    for wrong in (
        "train/rewards",
        "reward",
        "eval/NAME/accuracy",
        "eval/x/y/z/accuracy",
        "eval/accuracy",
        "eval/x/speed",
        "",
    ):
        with pytest.raises(KeyError, match="glossary"):
            describe(wrong)


def test_every_metric_that_the_sources_name_is_in_the_glossary() -> None:
    families = "|".join({name.split("/")[0] for name in GLOSSARY} - {"eval"})
    named = re.compile(rf'"((?:{families})/[a-z_]+)"')
    sources = [path for path in (ROOT / "zero").rglob("*.py") if path.name != "glossary.py"]
    names = {name for path in sources for name in named.findall(path.read_text())}
    assert len(names) > 20
    for name in names:
        describe(name)


def test_the_glossary_prints_itself() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "zero.tracking"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == markdown()


# --- journal ---


def test_a_line_reads_back_exactly_in_glossary_order(tmp_path: Path) -> None:
    values = {
        "loss/kl": math.nan,
        "eval/b/length": math.inf,
        "eval/a/length": 3,
        "train/reward": 0.1 + 0.2,
        "loss/grad_norm": 5e-324,
        "loss/learning_rate": 1e-6,
    }
    journal = Journal(tmp_path)
    journal.append(values, 0)
    journal.append({"train/reward": -0.0}, 7)
    (line, second) = journals.read(tmp_path)
    assert list(line) == [
        "step",
        "train/reward",
        "loss/kl",
        "loss/grad_norm",
        "loss/learning_rate",
        "eval/a/length",
        "eval/b/length",
    ]
    assert line["loss/kl"] is None
    assert line["eval/b/length"] is None
    assert (line["train/reward"], line["loss/grad_norm"]) == (0.30000000000000004, 5e-324)
    assert math.copysign(1, second["train/reward"]) == -1
    assert journals.series([line, second], "loss/kl") == ([], [])
    assert journals.series([line, second], "train/reward") == ([0, 7], [0.30000000000000004, -0.0])


def test_the_journal_refuses_unknown_names_and_steps_out_of_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append({"train/reward": 1.0}, 3)
    before = journal.path.read_bytes()
    with pytest.raises(KeyError, match="train/rewrad, x: no such metric"):
        journal.append({"train/rewrad": 1.0, "train/reward": 1.0, "x": 0.0}, 4)
    for step in (3, 2):
        with pytest.raises(ValueError, match="in order"):
            journal.append({"train/reward": 1.0}, step)
    reopened = Journal(tmp_path)
    with pytest.raises(ValueError, match="in order"):
        reopened.append({"train/reward": 1.0}, 3)
    assert journal.path.read_bytes() == before


def test_rewind_keeps_whole_lines_up_to_the_step(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(6):
        journal.append({"train/reward": step / 3}, step)
    whole = journal.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for torn in (b"", lines[5][:1], lines[5][:-1], b"\x00\x00"):
        for step in range(-1, 7):
            journal.path.write_bytes(whole + torn)
            again = Journal(tmp_path)
            again.rewind(step)
            assert journal.path.read_bytes() == b"".join(lines[: step + 1])
            again.append({"train/reward": 0.5}, 9)
            assert [line["step"] for line in journals.read(tmp_path)] == [*range(min(step, 5) + 1), 9]
    assert list(tmp_path.iterdir()) == [journal.path]


def test_damage_inside_the_journal_is_named_not_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"line 2 of metrics\.jsonl is damaged"):
        Journal(tmp_path).rewind(2)


def test_a_full_disk_raises_and_leaves_whole_lines(tmp_path: Path) -> None:
    code = f"""
        import resource
        from pathlib import Path
        from zero.tracking.journal import Journal
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        journal = Journal(Path({str(tmp_path)!r}))
        try:
            for step in range(100):
                journal.append({{"train/reward": step / 7}}, step)
        except OSError as error:
            print(step, error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    failed = int(done.stdout.split()[0])
    assert 10 < failed < 100
    assert [line["step"] for line in journals.read(tmp_path)] == list(range(failed))
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"}\n")


# --- fan-out and tags ---


class Broken:
    """A view and follower that fails in everything."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} is broken")


def test_only_the_journal_can_stop_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trackers = Trackers(Journal(tmp_path), view=Broken(), follower=Broken())  # type: ignore[arg-type]
    trackers.rewind(-1)
    trackers.evaluation(0, [])
    trackers.metrics({"train/reward": 1.0}, 1)
    with pytest.raises(KeyError):
        trackers.metrics({"nonsense": 1.0}, 2)
    trackers.close("finished")
    assert journals.read(tmp_path) == [{"step": 1, "train/reward": 1.0}]
    assert capsys.readouterr().err.count("\n") == 1


def test_a_tracker_that_cannot_be_made_costs_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trackers = open_trackers({"tracker": {"_target_": "zero.nowhere.Tracker", "_partial_": True}}, tmp_path, "r")
    trackers.rewind(-1)
    trackers.metrics({"train/reward": 1.0}, 1)
    trackers.close("finished")
    assert "zero.nowhere.Tracker" in (errors := capsys.readouterr().err) and errors.count("\n") == 1
    assert len(journals.read(tmp_path)) == 1
    open_trackers({"tracker": {}}, tmp_path, "r").close("finished")  # the journal alone
    assert not capsys.readouterr().err


def test_the_folder_tells_axes_settings_and_versions(tmp_path: Path) -> None:
    choices = {"algo": "drgrpo", "template": "r1", "questions": "nano_math", "model": "nano", "optimizer": "adamw"}
    config = {"seed": 3, "steps": 9, "algo": {"beta": 0.0}, "model": {"path": None}, "tracker": {"uri": "http://x"}}
    line = start(choices, "cpu", 2)
    start_run(tmp_path, config, **line)
    tags = folder.tags(tmp_path)
    assert [tags[key] for key in ("algo", "template", "seed", "kind")] == ["drgrpo", "r1", "3", "train"]
    assert tags["version.torch"] == package_versions()["torch"]
    assert (tags["device"], tags["ranks"], tags["host"]) == ("cpu", "2", platform.node())
    assert (folder.commit(tmp_path), folder.user(tmp_path)) == (line["commit"], line["user"])
    assert folder.params(tmp_path) == {
        "algo": "drgrpo",
        "template": "r1",
        "questions": "nano_math",
        "model": "nano",
        "seed": "3",
        "steps": "9",
        "algo.beta": "0.0",
        "model.path": "null",
    }


def test_a_run_has_ended_once_its_result_is_another_than_before(tmp_path: Path) -> None:
    assert folder.ending(tmp_path, folder.result_time(tmp_path)) is None
    (tmp_path / "result.json").write_text('{"status": "preempted"}')
    before = folder.result_time(tmp_path)
    assert (folder.ending(tmp_path, 0), folder.ending(tmp_path, before)) == ("preempted", None)
    (tmp_path / "result.json").write_text('{"status": "finished"}')
    os.utime(tmp_path / "result.json", ns=(before + 1, before + 1))
    assert folder.ending(tmp_path, before) == "finished"


class Store:
    """A tracker of a few lines: its store is a file that holds what was delivered."""

    patience = 9.0

    def __init__(self, run_dir: Path, run_name: str, failures: int = 0) -> None:
        self.link, self.failures = run_dir / "store.json", failures
        self.link.write_text(json.dumps({"delivered": -1, "status": "running", "calls": 0}))

    def deliver(self, status: str | None = None) -> None:
        record = json.loads(self.link.read_text())
        record["calls"] += 1
        if record["calls"] > self.failures:
            record |= {"delivered": journals.read(self.link.parent)[-1]["step"], "status": status or "running"}
        self.link.write_text(json.dumps(record))
        if record["calls"] <= self.failures:
            raise DeliveryError("the store is full", hopeless=self.failures > 2)


@pytest.mark.parametrize(("failures", "complete", "calls"), [(0, True, 1), (1, True, 2), (9, False, 1)])
def test_another_tracker_needs_no_more_than_to_deliver(
    tmp_path: Path,
    failures: int,
    complete: bool,
    calls: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower, "FIRST_PAUSE", 0.01)
    Journal(tmp_path).append({"train/reward": 1.0}, 4)
    tracker = Store(tmp_path, "r", failures)
    assert waiting(tracker.link) == 1
    assert follow(tracker, lambda: "finished") is complete
    assert json.loads(tracker.link.read_text())["calls"] == calls
    assert (waiting(tracker.link), delivered(tracker.link)) == ((0, True) if complete else (1, False))
    expected = "store: cannot deliver (the store is full); the run goes on, metrics.jsonl holds everything\n"
    assert capsys.readouterr().err == (expected if failures else "")


def test_the_place_of_the_store(tmp_path: Path) -> None:
    assert default_store(tmp_path / "runs" / "sweep" / "a") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert default_store(tmp_path / "elsewhere" / "a") == f"sqlite:///{tmp_path}/elsewhere/mlflow.db"
    assert absolute("sqlite:///x/y.db") == f"sqlite:///{Path.cwd()}/x/y.db"
    assert absolute("sqlite:////x/y.db") == "sqlite:////x/y.db"
    assert without_password("http://me:secret@host:1/x") == "http://host:1/x"
    assert without_password("postgresql+psycopg://me:s@cret@host/db?a=b@c") == "postgresql+psycopg://host/db?a=b@c"
    assert without_password("sqlite:////me@home/mlflow.db") == "sqlite:////me@home/mlflow.db"


# --- MLflow, embedded ---


def test_mlflow_holds_what_the_journal_holds(tmp_path: Path, store: str) -> None:
    run_dir = tmp_path / "a run"
    trackers = record(run_dir, store)
    (run_dir / "completions").mkdir()
    rows = run_dir / "completions" / "step_000010.jsonl"
    rows.write_text("".join(json.dumps(answer(i, True)) + "\n" for i in range(3)))
    (run_dir / "images").mkdir()
    image = f"images/{'ab' * 32}.png"
    (run_dir / image).write_bytes(b"pixels")
    seeing = run_dir / "completions" / "step_000020.jsonl"
    seeing.write_text("".join(json.dumps(answer(i, True) | {"images": [image]}) + "\n" for i in range(2)))
    end_run(trackers, run_dir)

    run = run_of(store, run_dir)
    assert points_of(store, run.info.run_id) == points_in(run_dir)
    assert len(points_in(run_dir)) > 20 * STEPS
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a run"
    assert (run.data.tags["algo"], run.data.tags["kind"]) == ("drgrpo", "train")
    settings = {"seed": "3", "optimizer.lr": "1e-06", "long": "x" * 6000, "odd key_": ""}
    assert run.data.params == {"algo": "drgrpo"} | settings
    history = client_of(store).get_metric_history(run.info.run_id, "train/reward")
    stamps = {line["step"]: round(1000 * line["time/unix"]) for line in journals.read(run_dir)}
    assert all(abs(p.timestamp - stamps[p.step]) <= 1 for p in history)
    assert (waiting(run_dir / LINK), delivered(run_dir / LINK)) == (0, True)

    artifacts = Path(run.info.artifact_uri.removeprefix("file://").replace("%20", " "))
    assert artifacts.is_relative_to(Path(store.removeprefix("sqlite:///")).parent / "mlartifacts")
    table = json.loads((artifacts / "completions" / "step_000010.json").read_text())
    assert table["columns"][:3] == ["question", "response", "reference"]
    assert [row[0] for row in table["data"]] == [f"What is {i} + {2 * i}?" for i in range(3)]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": f"completions/step_{step}.json", "type": "table"} for step in ("000020", "000010")
    ]
    assert (artifacts / image).read_bytes() == b"pixels"
    table = json.loads((artifacts / "completions" / "step_000020.json").read_text())
    assert table["columns"][:3] == ["question", "response", "image"]
    assert table["data"][0][2] == {"type": "image", "filepath": image, "compressed_filepath": image}
    for name in ("config.yaml", "result.json"):
        assert (artifacts / name).read_text() == (run_dir / name).read_text()


@pytest.mark.slow
def test_runs_one_after_another_in_one_process(tmp_path: Path, store: str) -> None:
    for name in ("first", "second"):
        end_run(record(tmp_path / name, store), tmp_path / name, "preempted")
    ids = {run_of(store, tmp_path / name).info.run_id for name in ("first", "second")}
    assert len(ids) == 2
    for name in ("first", "second"):
        run = run_of(store, tmp_path / name)
        assert run.info.status == "KILLED"
        assert points_of(store, run.info.run_id) == points_in(tmp_path / name)


@pytest.mark.slow
def test_a_resumed_run_stays_one_run_and_one_point_a_step(tmp_path: Path, store: str) -> None:
    run_dir = tmp_path / "resumed"
    end_run(record(run_dir, store, steps=12), run_dir, "failed")
    first = run_of(store, run_dir).info
    trackers = record(run_dir, store, start=8)
    deadline = time.monotonic() + 60
    while (status := run_of(store, run_dir).info.status) != "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (first.status, status) == ("FAILED", "RUNNING")
    end_run(trackers, run_dir)
    assert run_of(store, run_dir).info.run_id == first.run_id
    assert points_of(store, first.run_id) == points_in(run_dir)


@pytest.mark.slow
def test_a_deleted_run_is_replaced_by_a_whole_one(tmp_path: Path, store: str) -> None:
    run_dir = tmp_path / "deleted"
    deliver_steps(run_dir, store, range(11), "preempted")
    first = run_of(store, run_dir).info.run_id
    client_of(store).delete_run(first)
    deliver_steps(run_dir, store, range(11, STEPS + 1))
    second = run_of(store, run_dir).info.run_id
    assert second != first
    assert points_of(store, second) == points_in(run_dir)
    link = json.loads((run_dir / "mlflow.json").read_text())
    (run_dir / "mlflow.json").write_text(json.dumps(link | {"run_id": "0" * 32}))  # an id that this store never had
    deliver_steps(run_dir, store, range(0))
    assert run_of(store, run_dir).info.run_id == second  # found by its token
    (run_dir / "mlflow.json").unlink()
    # all was forgotten, and nothing is sent twice
    deliver({"tracker": follower_settings(store)}, run_dir, run_dir.name)
    assert run_of(store, run_dir).info.run_id == second
    assert points_of(store, second) == points_in(run_dir)


LIFE = """
    import os, signal, sys, time
    from pathlib import Path
    from tests.synthetic import end_run, follower_settings, metrics, start_run
    from zero.tracking import follower, journal
    from zero.tracking.trackers import open_trackers

    run_dir, uri, moment, steps, code = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
    follower.COMMAND = (sys.executable, "-c", code, moment)
    start_run(run_dir, {"seed": 0}, {"algo": "drgrpo"})
    trackers = open_trackers({"tracker": follower_settings(uri)}, run_dir, "victim")
    last = max((line["step"] for line in journal.read(run_dir)), default=-1)
    start = last // 2  # the "checkpoint": much of what is computed again was delivered before
    trackers.rewind(start if last >= 0 else -1)
    for step in range(start + 1 if last >= 0 else 0, steps + 1):
        trackers.metrics(metrics("drgrpo", 0, step, 100) | {"time/unix": time.time()}, step)
        if moment == "after a line" and step == start + 15: os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
    if moment != "never":
        time.sleep(60)  # the follower has its own death to meet
        print("survived", flush=True)
    end_run(trackers, run_dir)
"""

DEATH = """
    import os, signal, sys
    from zero.tracking.store import import_mlflow
    import_mlflow()
    import sqlalchemy
    from mlflow import MlflowClient

    moment = sys.argv[1]
    def die():
        for process in (os.getppid(), os.getpid()):
            os.kill(process, signal.SIGKILL)
    if moment == "while the schema is made":
        statements = iter(range(1, 300))
        sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", lambda *_: next(statements, None) or die())
    original = {"create_run": MlflowClient.create_run, "log_batch": MlflowClient.log_batch}
    calls = 0
    def patched(name, when):
        def call(*args, **kwargs):
            global calls
            if name == "log_batch" and not kwargs.get("metrics"):
                return original[name](*args, **kwargs)
            calls += 1
            if when == "before" and calls == 2: die()
            result = original[name](*args, **kwargs)
            if when == "after" and calls == 2 or name == "create_run": die()
            return result
        return call
    if moment == "after the run is created": MlflowClient.create_run = patched("create_run", "after")
    if moment == "before a delivery": MlflowClient.log_batch = patched("log_batch", "before")
    if moment == "after a delivery": MlflowClient.log_batch = patched("log_batch", "after")

    from zero.tracking import follower
    follower.EVERY = 0.05
    follower.main()
"""


def live(run_dir: Path, uri: str, moment: str, steps: int) -> int:
    return subprocess.run(life(run_dir, uri, moment, steps), cwd=ROOT, timeout=120, check=False).returncode


def life(run_dir: Path, uri: str, moment: str, steps: int) -> list[str]:
    code = [textwrap.dedent(text) for text in (LIFE, DEATH)]
    return [sys.executable, "-c", code[0], str(run_dir), uri, moment, str(steps), code[1]]


@pytest.mark.slow
def test_killed_at_any_moment_mlflow_has_each_step_once(tmp_path: Path) -> None:
    run_dir, uri = tmp_path / "victim", f"sqlite:///{tmp_path}/mlflow.db"
    run_dir.mkdir()
    moments = [
        "while the schema is made",
        "after the run is created",
        "before a delivery",
        "after a line",
        "after a delivery",
    ]
    for i, moment in enumerate(moments):
        assert live(run_dir, uri, moment, 20 * (i + 1)) == -signal.SIGKILL, moment
        assert waiting(run_dir / LINK) > 0 or moment == "after a delivery"
        assert not delivered(run_dir / LINK)
    assert live(run_dir, uri, "never", 110) == 0
    run = run_of(uri, run_dir)
    points = points_of(uri, run.info.run_id)
    assert points == points_in(run_dir)
    assert [line["step"] for line in journals.read(run_dir)] == list(range(111))
    client = client_of(uri)
    assert len(client.search_runs([e.experiment_id for e in client.search_experiments()])) == 1
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_processes_that_start_together_on_a_fresh_store_all_succeed(tmp_path: Path) -> None:
    uri, count = f"sqlite:///{tmp_path}/fresh/mlflow.db", 4
    for i in range(count):
        (tmp_path / f"run{i}").mkdir()
    lives = [subprocess.Popen(life(tmp_path / f"run{i}", uri, "never", 120), cwd=ROOT) for i in range(count)]
    assert [life.wait(200) for life in lives] == [0] * count
    for i in range(count):
        run = run_of(uri, tmp_path / f"run{i}")
        assert points_of(uri, run.info.run_id) == points_in(tmp_path / f"run{i}")
    assert len({run_of(uri, tmp_path / f"run{i}").info.run_id for i in range(count)}) == count


@pytest.mark.slow
def test_an_experiment_in_the_trash_is_reported_at_once(
    tmp_path: Path, store: str, capfd: pytest.CaptureFixture[str]
) -> None:
    start_run(run_dir := tmp_path / "trashed", CONFIG, {})
    client = client_of(store)
    client.delete_experiment(client.create_experiment("trashed"))
    settings = follower_settings(store, experiment="trashed", patience=60.0)
    trackers = open_trackers({"tracker": settings}, run_dir, "r")
    trackers.rewind(-1)
    trackers.metrics(metrics("drgrpo", 0, 0, 3), 0)
    began = time.monotonic()
    end_run(trackers, run_dir)
    assert time.monotonic() - began < 50  # not the whole patience
    errors = capfd.readouterr().err
    assert "experiment trashed is in MLflow's trash; restore it (" in errors
    assert "mlflow experiments restore -x" in errors and "or set another tracker.experiment" in errors
    assert "1 steps wait in" in errors


SLOW = """
    import json, sys, time
    from pathlib import Path

    path = Path(json.loads(sys.argv[-1])["run_dir"]) / "mlflow.json"
    while not path.with_name("result.json").exists():
        time.sleep(0.05)
    for step in range(10):  # what a slow server is seen by: a little more each time
        time.sleep(0.5)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"delivered": step}))
"""


@pytest.mark.parametrize("status", ["finished", "preempted"])
def test_a_finished_run_waits_as_long_as_something_arrives(
    tmp_path: Path, status: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(follower, "COMMAND", (sys.executable, "-c", textwrap.dedent(SLOW)))
    end_run(record(tmp_path, f"sqlite:///{tmp_path}/x.db", patience=3.0), tmp_path, status)
    errors = capfd.readouterr().err  # five seconds in all: longer than the patience, which a pre-empted run has at most
    assert ("(tracker.patience=3 s passed)" in errors) is (status == "preempted"), errors


def test_what_to_type_to_see_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dashboard_command(f"sqlite:///{tmp_path}/runs/mlflow.db") == "python -m launch.dashboard"  # no Makefile
    monkeypatch.chdir(ROOT)
    assert dashboard_command(f"sqlite:///{ROOT}/runs/mlflow.db") == "make dashboard"
    assert dashboard_command(f"sqlite:///{tmp_path}/x/mlflow.db") == f"python -m launch.dashboard --runs {tmp_path}/x"
    assert "launch.dashboard --uri http://lab:5000" in dashboard_command("http://lab:5000")
    assert "not in MLflow" in dashboard_command(None)


# --- MLflow, out of reach ---


def test_a_server_that_never_answers_costs_the_loop_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        began = time.monotonic()
        trackers = record(tmp_path / "run", f"http://127.0.0.1:{silent.getsockname()[1]}", patience=1.0)
        looped = time.monotonic() - began
        silent.settimeout(60)
        with silent.accept()[0]:  # the follower runs and waits
            began = time.monotonic()
            end_run(trackers, tmp_path / "run")
            closed = time.monotonic() - began
    assert looped < 1.0
    assert 0.9 < closed < 2.5
    errors = capfd.readouterr().err
    assert f"{STEPS + 1} steps wait in {tmp_path}/run/metrics.jsonl (tracker.patience=1 s passed); running" in errors
    link = tmp_path / "run" / LINK
    assert (waiting(link), delivered(link)) == (STEPS + 1, False)


@pytest.mark.slow
def test_signals_of_a_job_do_not_end_the_follower_and_its_death_is_reported(
    tmp_path: Path, store: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, name in ((signal.SIGTERM, "ended"), (signal.SIGKILL, "killed")):
        run_dir = tmp_path / name
        trackers = record(run_dir, store)
        os.kill(follower_of(trackers), number)
        end_run(trackers, run_dir)
        assert delivered(run_dir / LINK) is (name == "ended")
    assert capfd.readouterr().err.count("steps wait in") == 1


RUN = """
    import sys, time
    from pathlib import Path
    from tests.synthetic import follower_settings
    from zero.tracking.follower import Follower

    follower = Follower(follower_settings(sys.argv[2], patience=1.0), Path(sys.argv[1]), "r")
    follower.start()
    print(follower.pid, flush=True)
    time.sleep(60)
"""


def test_a_follower_ends_at_once_with_a_run_that_was_killed(tmp_path: Path) -> None:
    """Even in the middle of a call: here the server has accepted it, and never answers."""
    start_run(tmp_path, CONFIG, {})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = [
            sys.executable,
            "-c",
            textwrap.dedent(RUN),
            str(tmp_path),
            f"http://127.0.0.1:{silent.getsockname()[1]}",
        ]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout
            pid = int(run.stdout.readline())
            silent.settimeout(60)
            with silent.accept()[0]:
                run.kill()
                deadline = time.monotonic() + 10
                while alive(pid) and time.monotonic() < deadline:
                    time.sleep(0.05)
                assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether it is a process that is not over."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def follower_of(trackers: Trackers) -> int:
    """Process id."""
    assert trackers._follower and trackers._follower.pid
    return trackers._follower.pid


def test_a_dead_address_is_named_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(requests.ConnectionError) as caught:
        requests.get(uri, timeout=5)
    assert why(caught.value, uri) == f"nothing answers at {uri}: start MLflow there, or give another tracker.uri"
    assert why(ValueError("a\nb"), uri) == "ValueError: a"
    with pytest.raises(
        ServerError, match=f"{uri}: nothing answers there .*refused.*; start the server, or mend the url"
    ):
        Client(uri, timeout=5, pool_size=1).get("/models")


@pytest.mark.slow
def test_a_server_that_comes_back_gets_what_it_missed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    run_dir, uri = tmp_path / "run", f"http://127.0.0.1:{port}"
    end_run(record(run_dir, uri, patience=25.0), run_dir)
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "cannot deliver" in errors[0]
    assert f"{STEPS + 1} steps wait" in errors[1]

    store = empty_store(tmp_path / "server")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        store,
        "--port",
        str(port),
        "--workers",
        "1",
        "--artifacts-destination",
        str(tmp_path / "files"),
    ]
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
    try:
        # the same command again: nothing left to train
        deliver({"tracker": follower_settings(uri)}, run_dir, run_dir.name)
        run = run_of(uri, run_dir)
        assert points_of(uri, run.info.run_id) == points_in(run_dir)
        assert [info.path for info in client_of(uri).list_artifacts(run.info.run_id)] == ["config.yaml", "result.json"]
        assert (waiting(run_dir / LINK), delivered(run_dir / LINK)) == (0, True)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
