"""The report: one complete and safe page for any set of runs."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from analysis.reader.runs import read
from analysis.report import page as report_page
from analysis.report import samples as report_samples
from analysis.report import sections as report_parts
from analysis.report.__main__ import main
from analysis.report.sections import collapsed
from analysis.style import figure
from tests.synthetic import metrics, write_run
from zero import images
from zero.image_rows import save_images

HOSTILE = '</pre></script><script>alert(1)</script><img src=x onerror="alert(1)"> double-check \ud800\x00\u202e &amp;'
VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """What a browser would see: tags, attributes, text, and whether tags are closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.crossed: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.crossed.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path, *arguments: str) -> Page:
    """The page of a folder, after the checks that every page must pass."""
    assert main([str(folder), *arguments]) == 0
    path = folder / "report.html"
    assert path.stat().st_size < 10_000_000
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert not page.open and not page.crossed
    assert "script" not in {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href"):
            assert re.match("#|data:|$", attributes.get(name) or ""), (tag, attributes)
    assert "could not be made" not in page.text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    return page


def folder_of(home: Path, seeds: int = 2, steps: int = 20) -> Path:
    """Two algorithms with settings and results, as on a disk."""
    for algo in ("grpo", "drgrpo"):
        for seed in range(seeds):
            run = write_run(home / f"{algo}-s{seed}", algo, seed, steps)
            settings = {"algo": algo, "template": "none", "seed": seed, "steps": steps, "threads": 2}
            (run / "config.yaml").write_text(yaml.safe_dump(settings))
            (run / "result.json").write_text(json.dumps({"status": "finished", "steps": steps, "signature": "abc"}))
    return home


def first_row(run: Path, **changes: object) -> None:
    """Change the first saved response of step 0."""
    path = run / "completions" / "eval_nano_math_000000.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= changes
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_page_has_every_section_and_is_the_same_each_time(tmp_path: Path) -> None:
    home = folder_of(tmp_path)
    page = page_of(home)
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    results = ["results", "claims", "warnings", "curves", "lengths", "comparisons"]
    assert sections == [*results, "health", "samples", "varied", "costs", "environment"]
    assert sum(tag == "svg" for tag, _ in page.tags) >= 4
    for text in ("drgrpo (2)", "4 finished", "(n = 2)", "step 20: correct", "verifier:", "% ", "not recorded"):
        assert text in page.text
    before = (home / "report.html").read_bytes()
    page_of(home)
    assert (home / "report.html").read_bytes() == before


def test_kinds_and_levels_have_sections_where_runs_know_them(tmp_path: Path) -> None:
    home = folder_of(tmp_path, seeds=1)
    more = {
        "train/cards/accuracy": 0.5,
        "reward/cards/mean": 0.25,
        "train/cards/level_2/accuracy": 0.125,
        "curriculum/rows/band": 1,
    }
    for path in home.glob("*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(line | more) + "\n" for line in lines))
    page = page_of(home)
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections[4:7] == ["lengths", "kinds", "difficulty"]
    commands = [line for line in page.text.splitlines() if "analysis.curves" in line]
    assert any("train/cards/accuracy,reward/cards/mean" in line for line in commands)
    assert any("train/cards/level_2/accuracy,curriculum/rows/band" in line for line in commands)


def test_what_a_model_wrote_stays_text(tmp_path: Path) -> None:
    home = folder_of(tmp_path, seeds=1)
    for name in ("grpo-s0", "drgrpo-s0"):
        everything = dict.fromkeys(("response", "question", "prompt", "reference", "answer", "reason"), HOSTILE)
        first_row(home / name, **everything, id="<b>")
    page = page_of(home)
    assert "<script>alert(1)</script>" in page.text
    assert "\u202e" not in page.text and "\x00" not in page.text
    assert "double-check" in re.findall("<mark>(.*?)</mark>", (home / "report.html").read_text())
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")


def test_the_images_of_questions_and_turns_stand_beside_the_responses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder_of(tmp_path / "runs", seeds=1)
    run = home / "grpo-s0"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    red, blue, gone = (
        images.run_path(images.put(np.full((400, 600, 3), colour, np.uint8)))
        for colour in ((255, 0, 0), (0, 0, 255), 7)
    )
    save_images(run, [{"images": [red], "turns": [{"images": [blue]}]}])
    lie = run / images.RUN_FOLDER / f"{'a' * 64}.png"
    lie.write_bytes((run / red).read_bytes())  # other pixels than its name says
    (run / "secret.png").write_bytes((run / red).read_bytes())
    shutil.rmtree(tmp_path / "cache")  # a run folder is read without it
    hostile = ["../secret.png", "secret.png", '"><script>', 7, None]
    first_row(run, images=[red, gone, f"images/{lie.name}", *hostile], turns=[{"images": [blue]}, {"text": "x"}, None])
    page = page_of(home)
    shown = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    colours = [Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))) for source in shown]
    assert [(image.size, image.getpixel((0, 0))) for image in colours] == [
        ((256, 171), (255, 0, 0)),
        ((256, 171), (0, 0, 255)),
    ]
    assert page.text.count("is not in the run folder") == 2  # the one that was not copied, and the lie


def test_settings_names_and_metrics_are_text_too(tmp_path: Path) -> None:
    run = write_run(tmp_path / "<img src=x onerror=1>", "grpo", 0, 12)
    (run / "config.yaml").write_text(yaml.safe_dump({"algo": "<script>x</script>", "seed": 0, "extra": HOSTILE[:40]}))
    page = page_of(tmp_path)
    assert "<script>x</script>" in page.text


def test_damaged_unfinished_and_uneven_runs_are_named(tmp_path: Path) -> None:
    home = folder_of(tmp_path)
    journal = home / "grpo-s1" / "metrics.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()][:9]
    lines[4] |= {"train/reward": None, "loss/grad_norm": float("nan")}
    lines[5] |= {"train/failed": 0.25}
    del lines[3]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9, "tr')
    (home / "drgrpo-s1" / "result.json").write_text("{")
    (home / "empty").mkdir()
    (home / "empty" / "config.yaml").write_text(yaml.safe_dump({"algo": "grpo", "seed": 5, "steps": 20}))
    text = page_of(home).text
    for fact in (
        "of 20 steps",
        "result.json is damaged",
        "answers on which the checker failed, up to 25.00%",
        "different numbers of steps",
        "has no run of seed",
    ):
        assert fact in text
    assert "Warnings" in text and "None: every run" not in text


def test_missing_cells_of_a_sweep_are_warned_of_and_its_commit_is_shown(tmp_path: Path) -> None:
    home = folder_of(tmp_path)
    cells = {name: {"name": name, "wanted": True} for name in ("grpo-s0", "grpo-s9")}
    (home / "sweep.json").write_text(json.dumps({"cells": cells, "code": {"digest": "of the newest copy"}}))
    for run in home.glob("*-s*"):
        start = {
            "commit": "feed" * 10,
            "code": "d2" if run.name == "grpo-s1" else "d1",
            "device": "NVIDIA H200",
            "ranks": 4,
            "host": "node7",
            "versions": {"torch": "2.13"},
        }
        (run / "starts.jsonl").write_text(f"{json.dumps(start | {'ranks': 8})}\n{json.dumps(start)}\n")
    runs = read(home)
    parts = (report_parts.warnings(runs), report_parts.environment(runs), report_parts.costs(runs))
    text = Page("".join(map(str, parts))).text
    assert "grpo-s9: is a cell of the sweep that has no folder yet" in text
    assert "of the newest copy" not in text  # a run's code is the commit that its own start names
    for fact in ("feed" * 10, "d1 (3 of 4 runs), d2 (1 of 4 runs)", "NVIDIA H200", "node7", "2.13"):
        assert fact in text
    hours = sum(metrics("grpo", 0, s, 20).get("time/step", 0.0) for s in range(21)) + 5 * 2.5
    assert f"{2 * 4 * hours / 3600:.4g} GPU" in text  # two seeds of an algorithm, four GPUs each


def test_groups_of_one_have_no_signal_to_miss(tmp_path: Path) -> None:
    for size, text in ((8, True), (1, False)):
        run = write_run(tmp_path / f"g{size}", "grpo", 0, 20)
        (run / "config.yaml").write_text(yaml.safe_dump({"algo": "grpo", "seed": 0, "steps": 20, "group_size": size}))
        lines = [
            json.loads(line) | {"groups/zero_advantage": 1.0}
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert ("almost no signal at its end" in str(report_parts.warnings(read(run)))) == text


def test_one_run_has_no_interval_over_seeds(tmp_path: Path) -> None:
    run = write_run(tmp_path / "only", "grpo", 0, 20)
    text = page_of(run).text
    assert "one seed everywhere" in text and "The run" in text and "All 1 runs" not in text
    assert "questions" in text
    assert "none" in text


def test_evaluations_alone_make_a_page(tmp_path: Path) -> None:
    for template in ("none", "r1"):
        run = tmp_path / template
        run.mkdir()
        settings = {"benchmarks": {"sets": {}}, "n": 1, "template": template, "model": {"path": "m"}}
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        measured = {"accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75, "formatted": 1.0}
        (run / "result.json").write_text(json.dumps({"status": "finished", "evaluation": {"x": measured}}))
        row = {"id": "q", "question": "1+1?", "response": f"two, by {template}", "correct": True, "reason": "correct"}
        (run / "completions_x.jsonl").write_text(json.dumps(row) + "\n")
    text = page_of(tmp_path).text
    assert "25.0 to 75.0 %, questions" in text
    assert "two, by r1" in text and "two, by none" in text


def test_claims_stand_on_the_page_with_their_verdicts(tmp_path: Path) -> None:
    home = folder_of(tmp_path, seeds=5, steps=40)
    statistic = {"metric": "length/incorrect", "axis": "algo", "values": ["drgrpo", "grpo"], "when": "last 5"}
    entry = {"text": "shorter <b>", "statistic": statistic, "direction": "less", "smallest": 10}
    (home / "claims.yaml").write_text(
        yaml.safe_dump({"claims": [entry, entry | {"direction": "greater", "text": "longer"}]})
    )
    page = page_of(home)
    verdicts = [a["class"] for t, a in page.tags if t == "span" and (a.get("class") or "").startswith("verdict")]
    assert verdicts == ["verdict shown", "verdict not-shown"]
    assert "shorter <b>" in page.text and "first start of these runs" in page.text


def test_the_summary_names_what_varied_and_benchmarks_once() -> None:
    axes = ["algo", "benchmarks.sets.x.name", "benchmarks.sets.x.rows.kind", "steps"]
    run = SimpleNamespace(status="finished", axes={"seed": "0"})
    runs: Any = SimpleNamespace(runs=[run], evaluated=[], varying=lambda: axes)
    assert "Varied: algo, benchmarks, steps; 1 seed." in report_parts.lead(runs)


def test_samples_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = folder_of(tmp_path, seeds=1)
    first_row(home / "grpo-s0", response="<" * 1_000_000 + "recheck", question="?" * 100_000)
    page_of(home)
    assert (home / "report.html").stat().st_size < 1_000_000
    monkeypatch.setattr(report_samples, "BUDGET", 5000)
    assert "More questions would make this page too large" in str(report_samples.samples(read(home)))


def test_samples_are_drawn_at_random_and_the_page_says_so(tmp_path: Path) -> None:
    """Of 200 questions one in ten changes its verdict and reflects; the dozen shown has no more of them than chance gives."""
    home = folder_of(tmp_path, seeds=1)
    for run in home.glob("*-s0"):
        for step in (0, 20):
            rows = []
            for i in range(200):
                telling = i % 10 == 0
                answer = {"id": f"q{i}", "question": f"{i}?", "response": "wait, recheck" if telling else "two"}
                rows.append(answer | {"correct": telling and step > 0, "reason": ""})
            path = run / "completions" / f"eval_nano_math_{step:06d}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = report_samples.samples(read(home))
    assert html is not None and "12 of 200 questions, drawn at random (seed 0)" in html
    kinds = [a["class"] or "" for t, a in Page(html).tags if t == "details" and "question" in (a.get("class") or "")]
    dozen, more = [k for k in kinds if "more" not in k], [k for k in kinds if "more" in k]
    assert len(dozen) == 12 and sum("changing" in kind for kind in dozen) <= 5
    assert more and all("changing" in kind for kind in more)
    assert html == report_samples.samples(read(home))
    shuffled = [{"id": f"q{i}", "step": 0} for i in np.random.default_rng(1).permutation(200)]
    chosen: dict[str, report_samples.Followed] = {}
    for row in shuffled:
        report_samples.add(chosen, "a", row)
    other: dict[str, report_samples.Followed] = {}
    for row in sorted(shuffled, key=str):
        report_samples.add(other, "a", row)
    assert chosen.keys() == other.keys() and len(chosen) == report_samples.KNOWN


def test_health_is_not_called_good_without_data(tmp_path: Path) -> None:
    short = folder_of(tmp_path / "short", seeds=2, steps=6)
    text = str(report_parts.warnings(read(short)))
    assert "none collapsed" not in text and "collapse is judged from 10 steps on" in text
    long = folder_of(tmp_path / "long", seeds=2, steps=12)
    assert "none collapsed" in str(report_parts.warnings(read(long)))


def test_a_heavy_drawing_becomes_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = figure()
    heavy.axes[0].plot([0, 1], [0, 1])
    assert [tag for tag, _ in Page(report_page.drawing(heavy, "a line")).tags].count("svg") == 1
    monkeypatch.setattr(report_page, "LARGEST_SVG", 100)
    tags = [tag for tag, _ in Page(report_page.drawing(heavy, "a line")).tags]
    assert "svg" not in tags and tags.count("img") == 1


def test_a_question_is_followed_across_checkpoints(tmp_path: Path) -> None:
    home = folder_of(tmp_path, seeds=1)
    html = report_samples.samples(read(home))
    assert html is not None
    page = Page(html)
    cells = [a["class"] for t, a in page.tags if t == "div" and (a.get("class") or "").startswith("cell")]
    assert cells[:4] == ["cell", "cell right"] * 2  # both algorithms, steps 0 and 20
    assert "question changing" in (next(a["class"] for t, a in page.tags if t == "details") or "")


@pytest.mark.parametrize(
    ("shape", "falls"),
    [
        (lambda t: 0.2 + 0.6 * t, False),
        (lambda t: 0.5 + 0 * t, False),
        (lambda t: 0.8 - 0.2 * t, False),
        (lambda t: np.where(t < 0.6, 0.2 + t, 0.05), True),
        (lambda t: 0.6 * (1 - t), True),
        (lambda t: np.where(t < 0.6, t - 1.0, -1.0), True),
        (lambda t: 0.02 + 0 * t, False),
    ],
)
def test_a_collapse_is_a_fall_below_half_of_the_best(shape: Callable[[np.ndarray], np.ndarray], falls: bool) -> None:
    noise = 0.03 * np.random.default_rng(0).standard_normal(200)
    assert bool(collapsed(shape(np.linspace(0, 1, 200)) + noise)) == falls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such folder"),
        ([".", "--claims", "none.yaml"], "--claims"),
        ([".", "--window", "2"], "--window"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and error.startswith("error: ")
    assert not (tmp_path / "report.html").exists()


def test_help_is_quick() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "analysis.report", "--help"], capture_output=True, text=True, check=True
    )
    assert "FOLDER" in done.stdout
    loaded = "import sys, analysis.report, analysis.stats.claims; print({'pandas', 'matplotlib', 'torch'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", loaded], text=True).strip() == "set()"
