"""The dashboard prepares comparisons of real runs, serves them, and ends without leaving a process behind."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import pytest

from launch import dashboard
from launch.serving import mlflow_server
from tests.conftest import ROOT
from tests.synthetic import empty_store, metrics, start_run
from zero.errors import InputError
from zero.tracking.journal import Journal
from zero.tracking.mlflow import MlflowTracker

AXES = {"template": "qwen_math", "questions": "nano_math", "model": "nano"}


def record(runs: Path, algo: str, seed: int, **axes: str) -> None:
    """A finished run of three steps in the store of `runs`."""
    choices = {"algo": algo} | AXES | axes
    run_dir = runs / f"{algo}-{choices['template']}-s{seed}"
    start_run(run_dir, {"seed": seed, "steps": 3}, choices)
    journal = Journal(run_dir)
    for step in range(4):
        journal.append(metrics(algo, seed, step, 3), step)
    MlflowTracker(run_dir, run_dir.name).deliver("finished")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dashboard") / "runs"
    empty_store(folder)
    for algo in ("grpo", "drgrpo"):
        for seed in (0, 1):
            record(folder, algo, seed)
    return folder


def client_of(runs: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")


def states_of(runs: Path) -> dict[str, Any]:
    """Shared views, decoded as MLflow's page decodes them."""
    tags = client_of(runs).get_experiment_by_name("zero").tags
    views = {}
    for name, value in tags.items():
        if name.startswith("mlflow.sharedViewState."):
            assert len(value) < 5000, "MLflow cuts longer tags"
            views[name.rsplit(".", 1)[1]] = json.loads(
                zlib.decompress(base64.b64decode(value.removeprefix("deflate;")))
            )
    return views


@pytest.mark.slow
def test_links_lead_to_views_that_exist(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dashboard.main(["--runs", str(runs), "--port", "5123", "--print-link"]) == 0
    printed = capsys.readouterr().out
    links = re.findall(
        r"http://127\.0\.0\.1:5123/#/experiments/1/runs\?compareRunsMode=CHART&viewStateShareKey=(\S+)", printed
    )
    assert links == ["by-algo", "all-runs"]
    states = states_of(runs)
    assert set(states) == set(links)
    assert states["by-algo"]["groupBy"]["groupByKeys"] == [{"mode": "param", "groupByData": "algo"}]
    assert states["all-runs"]["groupBy"] is None
    for state in states.values():
        charts = [chart["metricKey"] for chart in state["compareRunCharts"]]
        assert charts[:3] == ["train/reward", "eval/nano_math/accuracy", "length/mean"]
        assert {"length/incorrect", "length/correct"} < set(charts)
        visible = [section["uuid"] for section in state["compareRunSections"] if section["display"]]
        assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == set(visible)


@pytest.mark.slow
def test_runs_get_a_hue_for_each_algorithm_unless_a_user_chose_one(runs: Path) -> None:
    client = client_of(runs)
    chosen = client.search_runs(["1"])[0].info.run_id
    client.set_tag(chosen, dashboard.COLOUR, "#123456")
    dashboard.main(["--runs", str(runs), "--print-link"])
    colours = {run.info.run_id: run.data.tags[dashboard.COLOUR] for run in client.search_runs(["1"])}
    assert colours.pop(chosen) == "#123456"
    assert len(set(colours.values())) == 3
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours.values())


@pytest.mark.slow
def test_every_axis_that_varies_has_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    empty_store(folder)
    record(folder, "grpo", 0)
    record(folder, "drgrpo", 0, template="r1")
    assert dashboard.main(["--runs", str(folder), "--print-link"]) == 0
    assert re.findall(r"ShareKey=(\S+)", capsys.readouterr().out) == [
        "by-algo",
        "by-template",
        "by-algo-template",
        "all-runs",
    ]
    keys = states_of(folder)["by-algo-template"]["groupBy"]["groupByKeys"]
    assert [key["groupByData"] for key in keys] == ["algo", "template"]


@pytest.mark.slow
def test_impossible_settings_are_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for arguments, words in (
            (["--runs", str(tmp_path / "none")], "holds no mlflow.db; train first"),
            (["--runs", str(runs), "--port", str(port)], f"--port={port}: cannot be used (Address already in use)"),
            (["--uri", f"http://127.0.0.1:{free_port()}"], "does not take it"),
            (["--uri", "runs"], "must be http://HOST:PORT of an MLflow server"),
            (["--runs", str(runs), "--experiment", "other"], "no training runs; there are the experiments zero"),
        ):
            extra = [] if "--port" in arguments else ["--print-link"]
            assert dashboard.main([*arguments, *extra]) == 2
            error_output = capsys.readouterr().err
            assert words in error_output
            assert error_output.count("\n") == 1
    assert not (tmp_path / "none").exists()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 70000, "--port=70000: must be a number up to 65535"),
        ("no such host", 5000, "--host=no such host: is no address of this machine"),
    ],
)
def test_an_impossible_address_is_refused(host: str, port: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mlflow_server.refuse_taken_port(host, port)


def test_an_ipv6_address_is_accepted() -> None:
    assert mlflow_server.shown_name("::1") == "[::1]" and mlflow_server.shown_name("127.0.0.1") == "127.0.0.1"
    assert "[fd00::2]" in mlflow_server.names_of_this_machine("fd00::2", [])
    with socket.socket(socket.AF_INET6) as other:
        try:
            other.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"--port={port}: cannot be used"):
            mlflow_server.refuse_taken_port("::1", port)
    mlflow_server.refuse_taken_port("::1", port)


@pytest.mark.slow
def test_every_page_of_runs_is_prepared(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "PAGE", 3)
    client = client_of(runs)
    assert len(dashboard.all_runs(client, client.get_experiment_by_name("zero").experiment_id)) == 4


def session_of(pid: int) -> list[int]:
    """Live processes in the sessions of the process and its children."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,sid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    children = {row[0] for row in rows if row[1] == str(pid)}
    return [int(row[0]) for row in rows if row[2] in children and not row[3].startswith("Z")]


def served(runs: Path, *more: str, **environment: str) -> tuple[subprocess.Popen[str], int, list[str]]:
    """A dashboard that serves, its port, and what it printed."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "launch.dashboard", "--runs", str(runs), "--port", str(port), *more]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    assert server.stdout is not None
    lines = []
    for line in server.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            break
    if not lines or not lines[-1].startswith("Ctrl-C"):
        server.kill()
        raise AssertionError(lines)
    return server, port, lines


def search_runs(port: int, password: str | None = None, name: str = "") -> tuple[int, int]:
    """The status of a search for runs, and how many there are; `name`: the host name that a browser sends."""
    query = json.dumps({"experiment_ids": ["1"], "max_results": 10}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search", query, {"Content-Type": "application/json"}
    )
    if name:
        request.add_header("Host", f"{name}:{port}")
        request.add_header("Origin", f"http://{name}:{port}")
    if password is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"admin:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, len(json.load(answer)["runs"])
    except urllib.error.HTTPError as error:
        return error.code, 0


@pytest.mark.slow
def test_without_a_password_nothing_is_shown(runs: Path) -> None:
    password = "correct horse battery"
    open_to_all = ["--host", "0.0.0.0", "--allow", "lab.example.org"]
    server, port, lines = served(runs, "--login", *open_to_all, MLFLOW_AUTH_ADMIN_PASSWORD=password)
    try:
        assert f"http://{socket.getfqdn()}:{port}/#/experiments" in "".join(lines)
        for name in (socket.gethostname(), socket.getfqdn(), "lab.example.org", "10.1.2.3"):
            assert search_runs(port, password, name) == (200, 4), name
        assert search_runs(port, password, "elsewhere.example.com")[0] == 403
        assert lines[0].startswith("user admin; ") and password not in "".join(lines)
        assert [search_runs(port), search_runs(port, "wrong"), search_runs(port, password)] == [
            (401, 0),
            (401, 0),
            (200, 4),
        ]
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(90) == 0
    assert password not in (runs / "mlflow-users.ini").read_text()


@pytest.mark.slow
def test_a_login_needs_its_app_and_an_open_address_is_warned_of(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "serve", lambda *arguments: 0)
    assert dashboard.main(["--runs", str(runs), "--port", "0", "--host", "0.0.0.0"]) == 0
    assert "--login asks who they are" in capsys.readouterr().err
    assert dashboard.main(["--runs", str(runs), "--port", "0"]) == 0 and not capsys.readouterr().err
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    (runs / "mlflow-users.db").unlink(missing_ok=True)  # another test may have logged in
    password = mlflow_server.login_environment(dashboard.find_store(runs))["MLFLOW_AUTH_ADMIN_PASSWORD"]
    assert len(password) >= 12 and f"user admin, password {password};" in capsys.readouterr().out
    monkeypatch.setattr(mlflow_server, "find_spec", lambda name: None)
    assert dashboard.main(["--runs", str(runs), "--port", "0", "--login"]) == 2
    assert "pip install -e '.[auth]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_leaves_nothing_behind(
    runs: Path, sent: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    server, port, _ = served(runs)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
            assert b"MLflow" in page.read()
        assert search_runs(port) == (200, 4)
        assert dashboard.main(["--uri", f"http://127.0.0.1:{port}/"]) == 0
        assert f"http://127.0.0.1:{port}/#/experiments" in capsys.readouterr().out
        family = session_of(server.pid)
        assert len(family) >= 2
        server.send_signal(sent)
        assert server.wait(90) == 0
        deadline = time.monotonic() + 10
        while any(_alive(pid) for pid in family) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not [pid for pid in family if _alive(pid)]
    finally:
        server.kill()
    assert not [path for path in ROOT.iterdir() if path.name in ("mlruns", "mlartifacts", "mlflow.db")]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
