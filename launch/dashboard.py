"""python -m launch.dashboard: MLflow's pages over the runs of this folder, with prepared comparisons.

Serves the embedded store (runs/mlflow.db) to this machine, until Ctrl-C. Training may go on meanwhile. With --uri it prepares the
same comparisons on an MLflow server that runs already, and prints their links.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.serving.mlflow_server import LOOPBACK, login_environment, print_links, refuse_taken_port, serve, shown_name
from zero.errors import ArgumentParser, InputError, one_line_errors
from zero.tracking.folder import AXES
from zero.tracking.glossary import GLOSSARY
from zero.tracking.journal import ACCURACY
from zero.tracking.mlflow import TABLES
from zero.tracking.palette import line_style
from zero.tracking.store import SQLITE, import_mlflow, without_password

MAIN = "comparison"  # the section of charts that is open; those of other metrics are closed
SYSTEM = "System metrics"  # MLflow's own name for the family system/
CHARTS = ("train/reward", "length/mean", "length/incorrect", "length/correct", "loss/entropy", "loss/grad_norm")
COLOUR = "mlflow.runColor"  # the tag in which MLflow stores the colour chosen for a run
PAGE = 1000  # runs of one request to MLflow


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM. Returns the exit code: 2 for bad input."""
    options = parse(arguments)
    if options.uri:
        print_links(prepare(options.uri, options.experiment))
        return 0
    store = find_store(options.runs)
    if not options.print_link:
        refuse_taken_port(options.host, options.port)
    links = seed_views(store, options.experiment, f"http://{shown_name(options.host)}:{options.port}")
    if options.print_link:
        print_links(links)
        return 0
    login = login_environment(store) if options.login else {}
    if not login and options.host not in LOOPBACK:
        note = "whoever reaches this address may read and change the runs; --login asks who they are"
        print(f"note: {note}", file=sys.stderr)
    return serve(store, options.host, options.port, links, login, options.allow)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser("python -m launch.dashboard", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--runs", type=Path, default=Path("runs"), help="folder that holds the runs (default: runs)")
    add("--host", default="127.0.0.1", help="address to serve on; without --login whoever can reach it can use it")
    add("--port", type=int, default=5000)
    add("--allow", action="append", default=[], metavar="NAME", help="another name by which others reach this machine")
    add("--uri", help="http://HOST:PORT of an MLflow server: prepare its pages and print their links; start nothing")
    add("--login", action="store_true", help="ask for a name and a password: MLflow's basic-auth app, user admin")
    add("--experiment", default="zero", help="name that the runs were tracked under (default: zero)")
    add("--print-link", action="store_true", help="prepare the views and print their links; start nothing")
    return parser.parse_args(arguments)


def prepare(uri: str, experiment: str) -> list[tuple[str, str]]:
    """The links of `seed_views` on a running server. InputError if it does not answer."""
    import_mlflow()
    from mlflow.exceptions import MlflowException

    if not uri.startswith(("http://", "https://")):
        raise InputError("--uri", uri, "must be http://HOST:PORT of an MLflow server; --runs FOLDER serves a folder")
    try:
        return seed_views(uri, experiment, without_password(uri).rstrip("/"))
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0][:160]
        remedy = f"does not take it ({reason}); start the server, or set MLFLOW_TRACKING_USERNAME and _PASSWORD"
        raise InputError("--uri", without_password(uri), remedy) from error


def find_store(runs: Path) -> str:
    """The uri of the embedded store of a runs folder, or an InputError with the remedy."""
    file = runs.absolute() / "mlflow.db"
    if not file.exists():
        remedy = "train first (python -m zero.train), or give the folder that holds the runs"
        raise InputError("--runs", runs, f"holds no mlflow.db; {remedy}")
    return f"{SQLITE}{file}"


def seed_views(store: str, experiment_name: str, address: str) -> list[tuple[str, str]]:
    """Store a shared view for each comparison of the experiment's runs; returns (what it shows, link)."""
    import_mlflow()
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(experiment_name)
    runs = all_runs(client, experiment.experiment_id) if experiment else []
    if not experiment or not runs:
        names = ", ".join(e.name for e in client.search_experiments()) or "none"
        raise InputError("--experiment", experiment_name, f"has no training runs; there are the experiments {names}")
    measured = sorted({name for run in runs for name in run.data.metrics})
    varying = [axis for axis in AXES if len({run.data.params.get(axis) for run in runs}) > 1]
    colour_runs(client, runs, "algo" if "algo" in varying or not varying else varying[0])
    groups = [[axis] for axis in varying or ["algo"]] + ([varying] if len(varying) > 1 else [])
    page = f"{address}/#/experiments/{experiment.experiment_id}/runs"
    links = []
    for axes in [*groups, []]:
        key = "by-" + "-".join(axes) if axes else "all-runs"
        packed = base64.b64encode(zlib.compress(json.dumps(view_state(axes, measured)).encode())).decode()
        client.set_experiment_tag(experiment.experiment_id, f"mlflow.sharedViewState.{key}", f"deflate;{packed}")
        text = f"by {' and '.join(axes)}, mean over all else" if axes else f"all {len(runs)} runs, a line each"
        links.append((text, f"{page}?compareRunsMode=CHART&viewStateShareKey={key}"))
    if any(TABLES in run.data.tags for run in runs):
        links.append(("answers of the runs, side by side", f"{page}?compareRunsMode=ARTIFACT"))
    return links


def all_runs(client: Any, experiment_id: str) -> list[Any]:
    """Every training run of an experiment, a page at a time."""
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], "tags.kind = 'train'", max_results=PAGE, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def colour_runs(client: Any, runs: Sequence[Any], axis: str) -> None:
    """Give the runs of each value of an axis one hue in several shades; MLflow's own colours are random. Runs that have a colour
    keep it."""
    values = sorted({run.data.params.get(axis, "") for run in runs})
    for value in values:
        hue = line_style(values.index(value)).colour.removeprefix("#")
        for i, run in enumerate(run for run in runs if run.data.params.get(axis, "") == value):
            if COLOUR not in run.data.tags:
                paler = 0.22 * (i % 3)
                mixed = (round(int(hue[k : k + 2], 16) * (1 - paler) + 255 * paler) for k in (0, 2, 4))
                client.set_tag(run.info.run_id, COLOUR, "#" + "".join(f"{channel:02x}" for channel in mixed))


def view_state(axes: Sequence[str], measured: Sequence[str]) -> dict[str, Any]:
    """What MLflow's chart page restores from a share key: the grouping, and the charts, the most important first."""
    held_out = [name for name in measured if ACCURACY.fullmatch(name)]
    charts = [CHARTS[0], *held_out, *CHARTS[1:]]
    known = [name.split("/") for name in [*GLOSSARY, *measured]]
    families = dict.fromkeys("/".join(words[:-1]) for words in known if not {"NAME", "KIND"} & set(words))
    sections = [MAIN, *sorted(families)]  # MLflow puts charts of other metrics into sections of these names
    sections = [SYSTEM if name == "system" else name for name in sections]
    keys = [{"mode": "param", "groupByData": axis} for axis in axes]
    return {
        "searchFilter": "tags.kind = 'train'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys} if keys else None,
        "runsHiddenMode": "SHOW_ALL",  # the default shows ten
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0 if keys else 40,
            "selectedXAxisMetricKey": "",
        },
        "compareRunSections": [
            {"uuid": f"section-{name}", "name": name, "display": name == MAIN, "isReordered": False, "deleted": False}
            for name in sections
        ],
        "compareRunCharts": [_chart(name) for name in charts if name in measured],
    }


def _chart(metric: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "uuid": f"chart-{metric}",
        "metricSectionId": f"section-{MAIN}",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "displayName": metric,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
        "lineSmoothness": 0,
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": not metric.startswith("eval/"),  # few points: smoothed, they would be wrong
    }


if __name__ == "__main__":
    sys.exit(main())
