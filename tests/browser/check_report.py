"""Opens the report in a real browser, at a phone's and a desktop's width, and checks it: python tests/browser/check_report.py.

Without --runs it writes synthetic runs: two algorithms, three seeds, one run half done, hostile responses among the samples.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # this file is run as a script, too

from tests.browser.check_dashboard import expect, install  # noqa: E402  after the path

WIDTHS = {"phone": (390, 844), "desktop": (1440, 1000), "print": (794, 1123)}
TALL, TALLEST = 2_000, 16_000  # pixels of a screenshot, and of all
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()
HOSTILE = "</pre></script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
WIDER = """
    const seen = document.documentElement.clientWidth;
    return [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > seen + 1
        && !e.closest('.scroll, .grid')).map(e => e.tagName + '.' + e.className).slice(0, 5);
"""


def main() -> int:
    """Exit code 0 if everything expected was on the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=Path, help="a folder of real runs instead of those made here")
    parser.add_argument("--out", type=Path, default=Path("runs/browser"), help="folder for the screenshots")
    options = parser.parse_args()
    install()
    from analysis.report.__main__ import main as report

    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        runs = options.runs or make_runs(Path(scratch) / "runs")
        page = Path(scratch) / "report.html"
        expect(report([str(runs), "--out", str(page)]) == 0, "the report is written")
        expect(page.stat().st_size < 10_000_000, f"it has {page.stat().st_size / 1e6:.1f} MB")
        browser = open_browser(Path(scratch) / "profile")
        try:
            for name, size in WIDTHS.items():
                look(browser, page, name, size, options.out)
        finally:
            browser.quit()
        shutil.copy(page, options.out / "report.html")
    print(f"all seen; screenshots in {options.out}")
    return 0


def make_runs(folder: Path) -> Path:
    """Synthetic runs with configs, claims, and a response that tries to get out of its box."""
    import yaml

    from tests.synthetic import write_run
    from zero.config.check import check

    for algo in ("grpo", "drgrpo"):
        config = check("train", [f"algo={algo}", "steps=60"])
        for seed in range(3):
            run = write_run(folder / f"{algo}-s{seed}", algo, seed, 60, done=20 if (algo, seed) == ("grpo", 2) else 60)
            (run / "config.yaml").write_text(yaml.safe_dump(config | {"seed": seed}))
            (run / "starts.jsonl").write_text(json.dumps({"choices": {"algo": algo, "reward": "accuracy"}}) + "\n")
            (run / "result.json").write_text(json.dumps({"status": "finished", "steps": 60}))
            path = run / "completions" / "eval_nano_math_000000.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            rows[0] |= {"response": f"{HOSTILE} Let me double-check. " + "x" * 400, "question": HOSTILE}
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    claim = {
        "text": "Dr. GRPO's incorrect answers are shorter than GRPO's",
        "direction": "less",
        "smallest": 10,
        "fewest": 2,
        "statistic": {"metric": "length/incorrect", "axis": "algo", "values": ["drgrpo", "grpo"], "when": "last 10"},
    }
    (folder / "claims.yaml").write_text(yaml.safe_dump({"claims": [claim]}))
    return folder


def open_browser(profile: Path) -> Any:
    """Headless Chromium without a network: it resolves no host."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chrome = webdriver.ChromeOptions()
    for flag in [*FLAGS, f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"]:
        chrome.add_argument(flag)
    chrome.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options=chrome, service=Service(str(shutil.which("chromedriver"))))


def look(browser: Any, page: Path, name: str, size: tuple[int, int], out: Path) -> None:
    """At one width: nothing wider than the page, all figures drawn, no request, no script; screenshots of it."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": name == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print" if name == "print" else "screen"})
    browser.get(page.as_uri())
    time.sleep(1)
    width, seen, height = browser.execute_script(
        "const r = document.documentElement; return [r.scrollWidth, r.clientWidth, r.scrollHeight]"
    )
    wider = browser.execute_script(WIDER)
    expect(
        width <= seen, f"{name}: the page is {width} wide in a window of {seen}{f'; wider: {wider}' if wider else ''}"
    )
    sections = browser.execute_script("return [...document.querySelectorAll('section')].map(s => s.id)")
    expect({"warnings", "varied", "curves", "costs", "environment"} <= set(sections), f"{name}: {', '.join(sections)}")
    heights = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().height)"
    )
    expect(
        len(heights) >= 2 and min(heights) > 150,
        f"{name}: {len(heights)} figures, {min(heights, default=0):.0f} high at least",
    )
    expect(browser.title.startswith("Report"), f"{name}: nothing of a response was run")
    shot(browser, out / f"report_{name}.png", size[0], min(int(height), TALLEST))
    outside = [url for url in requests(browser) if url.startswith(("http", "ws", "ftp"))]
    expect(not outside, f"{name}: the page asked nobody{': ' + str(outside) if outside else ''}")
    messages = [entry["message"][:200] for entry in browser.get_log("browser")]
    expect(not messages, f"{name}: nothing in the browser's log{': ' + str(messages) if messages else ''}")


def shot(browser: Any, path: Path, width: int, height: int) -> None:
    """The page from its top down, in pictures of TALL pixels: NAME_1.png and so on."""
    import base64

    for i, top in enumerate(range(0, height, TALL), 1):
        clip = {"x": 0, "y": top, "width": width, "height": min(TALL, height - top), "scale": 1}
        screenshot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.with_name(f"{path.stem}_{i}.png").write_bytes(base64.b64decode(screenshot["data"]))


def requests(browser: Any) -> list[str]:
    """Addresses that the page asked for."""
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]


if __name__ == "__main__":
    sys.exit(main())
