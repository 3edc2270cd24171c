"""Opens the dashboard in a real browser and checks its pages: make check-browser. Installs Chromium on Debian if it is missing.

Without --runs it makes a store of its own: GRPO and Dr. GRPO, three seeds each, written through MlflowTracker.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # this file is run as a script, too

ALGOS, SEEDS, STEPS = ("grpo", "drgrpo"), (0, 1, 2), 100
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --window-size=1700,1500"
).split()
# MLflow opens an assistant over the charts on the first visit.
NO_ASSISTANT = """
    localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
    localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
"""
PATIENCE = 180  # seconds for a page on a busy machine


def main() -> int:
    """Exit code 0 if everything expected was on the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, help="a folder of real runs instead of the store made here")
    parser.add_argument("--out", type=Path, default=Path("runs/browser"), help="folder for the screenshots")
    options = parser.parse_args()
    install()
    with tempfile.TemporaryDirectory() as scratch:
        runs = options.runs or make_store(Path(scratch) / "runs")
        options.out.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        server, links = start_dashboard(runs, port)
        browser = open_browser(Path(scratch) / "profile")
        try:
            check_pages(browser, runs, links, options.out)
        finally:
            browser.quit()
            server.send_signal(signal.SIGINT)
            code = server.wait(60)
        expect(code == 0, f"the dashboard ends cleanly (exit code {code})")
        with socket.socket() as probe:
            expect(probe.connect_ex(("127.0.0.1", port)) != 0, "nothing listens on its port any more")
    print(f"all seen; screenshots in {options.out}")
    return 0


def install() -> None:
    """Chromium and its driver from Debian, selenium from the package's browser extra."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            sys.exit(
                "error: needs chromium and chromedriver on PATH (Debian: apt-get install chromium chromium-driver)"
            )
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "chromium", "chromium-driver"], check=True)
    if importlib.util.find_spec("selenium") is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "selenium==4.51.0"], check=True)


def make_store(runs: Path) -> Path:
    """Six finished runs in MLflow, as zero.train would leave them."""
    from tests.synthetic import end_run, follower_settings, metrics, start_run, write_run
    from zero.tracking.trackers import open_trackers

    for algo in ALGOS:
        for seed in SEEDS:
            name = f"{algo}-qwen_math-nano_math-nano-s{seed}"
            run_dir = write_run(runs / name, algo, seed, STEPS)
            (run_dir / "metrics.jsonl").unlink()
            choices = {"algo": algo, "template": "qwen_math", "questions": "nano_math", "model": "nano"}
            start_run(run_dir, {"seed": seed, "steps": STEPS}, choices)
            trackers = open_trackers({"tracker": follower_settings()}, run_dir, name)
            trackers.rewind(-1)
            for step in range(STEPS + 1):
                trackers.metrics(metrics(algo, seed, step, STEPS), step)
            end_run(trackers, run_dir)
            print(f"made {name}")
    return runs


def start_dashboard(runs: Path, port: int) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """The dashboard as a user starts it, and the links that it printed."""
    command = [sys.executable, "-m", "launch.dashboard", "--runs", str(runs.absolute()), "--port", str(port)]
    began = time.monotonic()
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    printed: list[str] = []
    for line in server.stdout:
        printed.append(line.strip())
        if line.startswith("Ctrl-C"):
            break
    expect(len(printed) > 2, "the dashboard prints links: " + " | ".join(printed))
    print(f"served after {time.monotonic() - began:.0f} s")
    texts = [line.rstrip(":") for line in printed[:-1:2]]
    return server, dict(zip(texts, printed[1::2], strict=False))


def open_browser(profile: Path) -> Any:
    """Headless Chromium that connects to the dashboard alone."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chrome = webdriver.ChromeOptions()
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        chrome.add_argument(flag)
    chrome.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options=chrome, service=Service(str(shutil.which("chromedriver"))))
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": NO_ASSISTANT})
    return browser


def check_pages(browser: Any, runs: Path, links: dict[str, str], out: Path) -> None:
    """Open every link; the charts are there, named and drawn, with a line for each group or run."""
    import urllib.request

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs.absolute() / 'mlflow.db'}")
    stored_runs = [client.get_run(json.loads(path.read_text())["run_id"]) for path in runs.glob("**/mlflow.json")]
    names = sorted(str(run.info.run_name) for run in stored_runs)
    algos = sorted({run.data.params["algo"] for run in stored_runs})
    for i, (text, link) in enumerate(links.items()):
        print(f"{text}\n  {link}")
        urllib.request.urlopen(link.split("#")[0], timeout=60).read()
        browser.get("about:blank")  # in a new tab: going from a shared view to another of its pages MLflow may hang
        browser.get(link)
        if text.startswith("answers"):
            missing = wait_for_texts(browser, ["question", "response", "completions/"])
            browser.save_screenshot(str(out / f"view{i}.png"))
            expect(not missing, f"answers side by side{f'; MISSING {missing}' if missing else ''}")
            continue
        lines = algos if text.startswith("by algo,") else names if text.startswith("all") else []
        titles = ["train/reward", "length/mean", "length/incorrect"]
        missing = wait_for_texts(browser, [*titles, *lines])
        line_counts = wait_for_lines(browser, max(len(lines), 1))
        time.sleep(3)  # colours and bands follow the lines
        browser.save_screenshot(str(out / f"view{i}.png"))
        (out / f"view{i}.txt").write_text(browser.execute_script("return document.body.innerText"))
        expect(
            not missing, f"on the page: {', '.join([*titles, *lines])}" + (f"; MISSING {missing}" if missing else "")
        )
        expect(len(line_counts) >= 4, f"{len(line_counts)} charts are drawn, with {sorted(set(line_counts))} lines")
    outside = requests_outside(browser)
    expect(not outside, f"the pages asked nobody else{': ' + str(outside) if outside else ''}")


def wait_for_texts(browser: Any, texts: list[str]) -> list[str]:
    """The texts that did not appear in time."""
    deadline = time.monotonic() + PATIENCE
    while True:
        body = browser.execute_script("return document.body.innerText + document.body.innerHTML")
        missing = [text for text in texts if text not in body]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(1)


def wait_for_lines(browser: Any, count: int) -> list[int]:
    """Number of drawn lines in each chart that has at least `count` of them, once there are four such charts."""
    deadline = time.monotonic() + PATIENCE
    script = "return [...document.querySelectorAll('.js-plotly-plot')].map(p => p.querySelectorAll('.js-line').length)"
    while True:
        line_counts = [lines for lines in browser.execute_script(script) if lines >= count]
        if len(line_counts) >= 4 or time.monotonic() > deadline:
            return line_counts
        time.sleep(1)


def requests_outside(browser: Any) -> list[str]:
    """Addresses other than the dashboard's that a page asked for."""
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    return sorted({url for url in urls if url.startswith("http") and "127.0.0.1" not in url})


def expect(fact: bool, text: str) -> None:
    """Print what was seen, or stop."""
    print(("seen: " if fact else "FAILED: ") + text, flush=True)
    if not fact:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
