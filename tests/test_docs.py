"""README and docs/: commands compose or parse, links and paths exist, the example runs, generated parts are fresh."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import shlex
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import pytest
import yaml

from analysis import docs
from tests.analysis.test_runs import make
from tests.conftest import BASE, ROOT
from zero.config import limits
from zero.errors import InputError
from zero.sandbox.code_tests import CodeTests

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(docs.DOCS.glob("*.md"))
EXTEND = docs.DOCS / "extend.md"
# pages of many compositions: a third of a second each
MANY = ("analysis", "claims", "evaluation", "gpus", "models", "sweeps")
BLOCK = re.compile(r"^```(\w*) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
LANGUAGES = {"bash", "python", "yaml", "jsonl", "text"}
PROGRAMS = ("python", "make", "torchrun", "pip", "diff")  # of commands within a sentence
PLACES = ("zero", "conf", "launch", "analysis", "docs", "tests", "benchmarks")
WORDS = {  # what a reader puts in their place
    "FOLDER_OR_HUB_ID": str(BASE),
    "FILE.txt": "file.txt",
    "FILE": "file.jsonl",
    "NEW_FOLDER": "new",
    "FOLDER": str(BASE),
    "OWNER/NAME": "owner/name",
    "SWEEP": "mine",
    "PATTERN": "algo=grpo",
    "FIRST_NODE": "node1",
    "HOST": "localhost",
    "COLUMN": "column",
    "NAME": "mine",
    "DIR": "data",
}


GOOD: set[tuple[str, ...]] = set()  # commands that were accepted


# ---------------------------------------------------------------------------------------------------------- what a page says


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(file that it names or "", text) of every block in a language."""
    return [(name, text) for kind, name, text in BLOCK.findall(page.read_text()) if kind == language]


def spans(page: Path) -> list[str]:
    """Every piece of code within a sentence or a table."""
    return [span.replace("\\|", "|") for span in SPAN.findall(BLOCK.sub("", page.read_text()))]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command of a page, placeholders filled in."""
    lines = [line for _, text in blocks(page, "bash") for line in text.replace("\\\n", " ").splitlines()]
    lines += [span for span in spans(page) if span.split(" ")[0] in PROGRAMS and (" -m " in span or "=" in span)]
    lines += [span for span in spans(page) if re.fullmatch(r"make [a-z-]+|(?:diff|pip install) .* .*", span)]
    variables: dict[str, str] = {}
    for line in lines:
        known = re.sub(r"\$([A-Z]+)\b", lambda name: variables[name[1]], line)
        words = shlex.split(filled(known), comments=True)
        if len(words) == 1 and (assigned := re.fullmatch(r"([A-Z]+)=(.*)", words[0])):
            variables[assigned[1]] = assigned[2]
            continue
        for command_text in " ".join(map(shlex.quote, words)).split(" '&&' "):
            command = shlex.split(command_text)
            while command and re.match(r"[A-Z_]+=", command[0]):  # the command's environment
                del command[0]
            if command:
                yield command


def filled(line: str) -> str:
    for word, value in WORDS.items():
        line = re.sub(rf"(?<![A-Z_]){re.escape(word)}(?![A-Z_])", value, line)
    return line


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the files that the placeholders stand for."""
    (tmp_path / "file.jsonl").write_text('{"problem": "1+2?", "answer": "3"}\n')
    (tmp_path / "file.txt").write_text("some text\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write_files(page: Path, folder: Path) -> None:
    """The files that the blocks of a page contain."""
    for language in ("python", "jsonl", "yaml"):
        for name, text in blocks(page, language):
            if name:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text)


# -------------------------------------------------------------------------------------------------------------- the commands


class Parsed(Exception):
    """The arguments of a command are good; what it would do now is tested elsewhere."""


@contextmanager
def parsing_only() -> Iterator[None]:
    """A command ends as soon as its own parser has taken its arguments."""

    def ending(parse: Callable[..., Any]) -> Callable[..., NoReturn]:
        def parse_and_end(self: argparse.ArgumentParser, *positional: Any, **named: Any) -> NoReturn:
            parse(self, *positional, **named)
            raise Parsed

        return parse_and_end

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed):
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, ending(getattr(argparse.ArgumentParser, name)))
        yield


def entry(module: str) -> Any:
    """The module that `python -m MODULE` runs."""
    spec = find_spec(module)
    assert spec is not None, f"no module {module}"
    return importlib.import_module(f"{module}.__main__" if spec.submodule_search_locations else module)


def check_zero(root: str, words: Sequence[str]) -> None:
    """A line of zero.train, evaluate or pretrain: every cell composes, every setting exists and is possible."""
    from launch.sweep.cells import plan
    from launch.sweep.compose import launcher_settings
    from zero.config.check import check
    from zero.config.cli import argument_parser
    from zero.config.experiments import is_named

    options = argument_parser().parse_intermixed_args(list(words))
    if options.multirun or is_named(options.overrides):
        assert plan(options.overrides, root=root).cells
        launcher_settings(options.overrides, default="local")
    else:
        check(root, options.overrides)


def check_submit(words: Sequence[str]) -> None:
    from launch import submit
    from launch.sweep.cells import plan
    from launch.sweep.compose import launcher_settings

    options = submit.parse(words)
    overrides = [submit.expand_shorthand(text) for text in options.overrides]
    evaluate = None if options.evaluate is None else shlex.split(options.evaluate)
    assert plan(overrides, grid=options.grid, evaluate=evaluate, smoke=options.smoke).cells
    assert not [key for key in launcher_settings(overrides, default="slurm") if key.isupper()]


def check_module(module: str, words: Sequence[str]) -> None:
    """One line of python -m MODULE."""
    match module:
        case "zero.train" | "zero.evaluate" | "zero.pretrain":
            check_zero(module.partition(".")[2], words)
        case "launch.submit":
            check_submit(words)
        case "launch.plan":
            assert entry(module).main(list(words)) in (0, 1)  # 1: it does not fit, and says so
        case "launch.serve":
            from launch import serve

            serve.parse_words(serve.parse(words).words)
        case "analysis.reflection":
            typed = [word for word in words if entry(module).is_setting(word)]
            with TemporaryDirectory() as folder:  # where the judge's replies would be kept
                assert len(typed) < len(words) and entry(module).settings_of(typed, Path(folder))
        case "pytest":
            assert all((ROOT / word).exists() for word in words if not word.startswith("-"))
        case "zero.tracking":
            assert not words
        case _ if words:
            with parsing_only():
                entry(module).main(list(words))
        case _:
            assert callable(entry(module).main)


def check_command(words: Sequence[str]) -> None:
    """A command line. AssertionError, InputError or SystemExit if it would be refused."""
    program, *arguments = words
    match program:
        case "python" | "torchrun":
            at = arguments.index("-m")
            assert all(word.startswith("--") for word in arguments[:at])
            check_module(arguments[at + 1], arguments[at + 2 :])
        case "make":
            makefile = (ROOT / "Makefile").read_text()
            for word in arguments:
                name, equals, _ = word.partition("=")
                assert re.search(rf"\$\({name}\)" if equals else rf"^{name}:", makefile, re.MULTILINE), word
        case "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            bracket = re.search(r"\.\[(.*)\]", " ".join(arguments))
            assert arguments[:2] == ["install", "-e"], "the suite is installed in place"
            assert bracket and set(bracket[1].split(",")) <= set(extras)
            assert "-c" not in arguments or (ROOT / arguments[arguments.index("-c") + 1]).exists()
        case "diff":
            assert all((ROOT / word).exists() for word in arguments)
        case _:
            assert program in ("git", "cd", ".", "hf", "script"), f"nobody checks {program}"


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page.stem in MANY), id=page.name) for page in PAGES]
)
def test_every_command_would_be_accepted(page: Path, workspace: Path) -> None:
    write_files(page, workspace)
    refused = []
    for words in commands(page):
        if tuple(words) in GOOD:  # pages repeat commands
            continue
        try:
            check_command(words)
            GOOD.add(tuple(words))
        except (InputError, SystemExit, AssertionError, ValueError) as error:
            refused.append(f"{shlex.join(words)}\n    {type(error).__name__}: {error}")
    assert not refused, "\n".join(refused)


def test_commands_of_a_page_are_found_and_bad_ones_refused(workspace: Path) -> None:
    page = workspace / "page.md"
    page.write_text("""text `make demo`, `zero.train`\n\n```bash
M="algo=grpo steps=1"   # a comment
python -m zero.train $M \\
    questions=file questions.path=FILE && make test
```
| `python -m zero.train algo=gpro` | `python -m analysis.curves FOLDER --metrik x` | `python -m zero.evaluate k=[8]` |
""")
    parsed = list(commands(page))
    train = ["python", "-m", "zero.train"]
    good = [[*train, "algo=grpo", "steps=1", "questions=file", "questions.path=file.jsonl"], ["make", "test"]]
    assert parsed[:2] == good and parsed[-1] == ["make", "demo"] and len(parsed) == 6
    for words in [*good, parsed[-1]]:
        check_command(words)
    for words in [
        *parsed[2:-1],
        ["make", "nothing"],
        ["python", "-m", "zero.nothing"],
        ["pip", "install", "-e", ".[no]"],
    ]:
        with pytest.raises((InputError, SystemExit, AssertionError)):
            check_command(words)


# ------------------------------------------------------------------------------------------- links, paths, names, messages


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", re.sub(r"`|\[|\]\([^)]*\)", "", heading).strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(line) for line in re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_exist(page: Path) -> None:
    lost = []
    for target in LINK.findall(BLOCK.sub("", page.read_text())):
        if not target.startswith(("https://", "http://")):
            file, _, anchor = target.partition("#")
            path = (page.parent / file).resolve() if file else page
            if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
                lost.append(target)
    for span in spans(page):
        if re.fullmatch(rf"(?:{'|'.join(PLACES)})/[\w./*-]*", span) and "NAME" not in span:
            lost += [] if list(ROOT.glob(span)) else [span]
        elif re.fullmatch(r"(?:zero|launch|analysis)(?:\.\w+)+", span):
            lost += [] if named(span) else [span]
    assert not lost, f"{page.name} names what does not exist: {', '.join(lost)}"


@pytest.mark.parametrize("top", ["zero", "launch", "analysis"])
def test_the_map_names_every_file_and_folder(top: str) -> None:
    page = (docs.DOCS / "developing.md").read_text()
    on_map = set(SPAN.findall(page[page.index("## Where things are") : page.index("## Tests")]))
    paths = (path for path in (ROOT / top).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
    there = {f"{top}/{path.name}" + "/" * path.is_dir() for path in paths} - {f"{top}/__init__.py"}
    assert there - on_map == set()


def named(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, attributes = dotted, list[str]()
    while module and not (find_spec(module.partition(".")[0]) and _is_module(module)):
        module, _, last = module.rpartition(".")
        attributes.insert(0, last)
    thing: Any = importlib.import_module(module) if attributes else None
    for attribute in attributes:
        thing = getattr(thing, attribute, None)
    return not attributes or thing is not None


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def test_the_readme_is_short_and_its_lines_are() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 120] == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached = {(ROOT / target.partition("#")[0]).resolve() for target in LINK.findall((ROOT / "README.md").read_text())}
    assert set(PAGES[1:]) - reached - {ROOT / "CHANGELOG.md"} == set()


def test_every_extra_that_is_named_can_be_installed() -> None:
    """In pages, in comments of conf/ that --help and the pages show, and in messages."""
    known = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    sources = [
        *PAGES,
        *(ROOT / "conf").rglob("*.yaml"),
        *(p for top in ("zero", "launch") for p in (ROOT / top).rglob("*.py")),
    ]
    named = {
        extra
        for path in sources
        for match in re.finditer(r"""\.\[([a-z,]+)\]'|pip_install\("(\w+)"\)""", path.read_text(encoding="utf-8"))
        for extra in (match[1] or match[2]).split(",")
    } | {extra for _, extra in limits.EXTRAS.values()}
    assert named <= known and {"vllm", "deepspeed", "auth", "dev"} <= named


def test_quoted_messages_are_those_of_the_code() -> None:
    sources = [path.read_text() for top in ("zero", "launch") for path in (ROOT / top).rglob("*.py")]
    code = " ".join([*sources, (ROOT / "Makefile").read_text()])
    code = re.sub(r"""["']\s*\+?\s*f?["']""", "", code)  # strings written in pieces
    rows = re.findall(r"^\| ([^|]*`[^|]*) \|", (docs.DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    quoted = [piece for row in rows for span in SPAN.findall(row) for piece in re.split(r"\.\.\.|\(.*\)|\d+", span)]
    unknown = [piece for piece in quoted if len(piece.split()) > 2 and piece.strip(" ;:,") not in code]
    assert len(quoted) > 20
    assert not unknown, f"nothing says: {unknown}"


# ------------------------------------------------------------------------------------------------ blocks, examples, freshness


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_valid_in_their_language(page: Path) -> None:
    assert {kind for kind, _, _ in BLOCK.findall(page.read_text())} <= LANGUAGES
    assert page.read_text().count("```") % 2 == 0 or page.name == "developing.md"
    for _, text in blocks(page, "python"):
        ast.parse(text)
    for _, text in blocks(page, "yaml"):
        assert yaml.safe_load(text)
    for _, text in blocks(page, "jsonl"):
        for row in map(json.loads, text.splitlines()):
            assert {"problem", "answer"} <= row.keys() or (
                row["problem"] and CodeTests.from_text(json.dumps(row["tests"]))
            )


def option(path: str, text: str) -> Any:
    """What the yaml of a block makes, with the files of conf/ that it is made from."""
    from omegaconf import OmegaConf

    from zero.config.check import instantiate

    group, content = Path(path).parent.name, OmegaConf.create(text)
    bases = [name for name in content.pop("defaults", []) if name != "_self_"]
    merged = OmegaConf.merge(*(OmegaConf.load(docs.CONF / group / f"{name}.yaml") for name in bases), content)
    merged.pop("defaults", None)
    whole = OmegaConf.create({"sampling": {"max_tokens": 64}, group: merged})
    OmegaConf.resolve(whole)
    return instantiate(whole[group], group)


def test_the_options_of_extend_can_be_made(workspace: Path) -> None:
    write_files(EXTEND, workspace)
    options = {name: option(name, text) for name, text in blocks(EXTEND, "yaml")}
    assert options["conf/template/brief_box.yaml"].extract("so \\boxed{5}") == "5"
    assert len(options["conf/questions/mine.yaml"].rows.heldout) == 2
    rows = options["conf/questions/sums.yaml"].rows
    assert (len(rows.train), len(rows.heldout)) == (1000, 200) and not {q.id for q in rows.train} & {
        q.id for q in rows.heldout
    }
    assert set(options["conf/reward/brief.yaml"].terms) == {"correct", "brief"}
    assert options["conf/algo/median.yaml"].advantage.__name__ == "group_median"
    shop = options["conf/environment/shop.yaml"]
    assert [tool["function"]["name"] for tool in shop.tools] == ["price", "put"] and shop.checked and shop.spec.isolated


def test_the_claims_of_analysis_can_be_read() -> None:
    from analysis.stats.claims import parse

    ((name, text),) = blocks(docs.DOCS / "analysis.md", "yaml")
    assert len(parse(yaml.safe_load(text)["claims"], name)) == 1


def test_the_question_of_ones_own_is_answered(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(docs.DOCS / "analysis.md", workspace)
    for algo in ("grpo", "drgrpo"):
        make(workspace / "runs" / f"{algo}-0", algo, 0)
    assert entry("my_question").main([str(workspace / "runs")]) == 0
    assert "drgrpo" in capsys.readouterr().out
    assert {path.suffix for path in (workspace / "runs").glob("my_question.*")} == {".svg", ".pdf", ".csv"}


@pytest.mark.slow
def test_the_place_of_ones_own_runs_cells(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from launch import status

    write_files(docs.DOCS / "sweeps.md", workspace)
    line = next(words for words in commands(docs.DOCS / "sweeps.md") if any("my_place" in word for word in words))
    assert entry(line[2]).main([*line[3:], "tracker=jsonl"]) == 0
    deadline = time.monotonic() + 600
    while "2 finished" not in capsys.readouterr().out:
        assert time.monotonic() < deadline
        assert status.main(["behind"]) == 0
        time.sleep(1)


def test_the_tools_of_extend_are_called(workspace: Path) -> None:
    from zero.environments.tools import ToolEnvironment
    from zero.records import Question

    write_files(EXTEND, workspace)
    [episode] = [text for name, text in blocks(EXTEND, "python") if "ToolEnvironment" in text and not name]
    exec(compile(episode, EXTEND.name, "exec"), {})
    make = yaml.safe_load(dict(blocks(EXTEND, "yaml"))["conf/environment/shop.yaml"])["make"]
    assert make.pop("_target_") == f"{ToolEnvironment.__module__}.{ToolEnvironment.__name__}"
    shop = ToolEnvironment(**make)
    shop.reset(Question("?", ("1",), "q"), 0)
    put = '<tool_call>{"name": "put", "arguments": {"item": "pen"}}</tool_call>'
    results = [str(shop.step(put).observation).splitlines()[1] for _ in range(3)]
    assert results == ["pen", "pen, pen", "error: ValueError: the basket is full"]


def test_python_examples_run() -> None:
    for page in (docs.DOCS / "evaluation.md", docs.DOCS / "analysis.md"):
        for _, text in blocks(page, "python"):
            exec(compile(text, page.name, "exec"), {})


def test_the_complete_example_trains(workspace: Path) -> None:
    from zero.config.check import check
    from zero.train import run

    write_files(EXTEND, workspace)
    words = next(words for words in commands(EXTEND) if words[2] == "zero.train")[3:]
    config = check("train", [*words, "tracker=jsonl", f"run_dir={workspace / 'runs' / 'example'}"])
    choices = {"algo": "drgrpo", "template": "none", "questions": "file", "model": "nano"}
    assert run(config, choices, "example")["status"] == "finished"
    lines = [json.loads(line) for line in (workspace / "runs" / "example" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    for line in lines[1:]:
        assert line["reward/correct"] + line["reward/brief"] == pytest.approx(line["train/reward"])


def test_generated_parts_are_fresh() -> None:
    stale = [path.name for path, text in docs.pages().items() if path.read_text() != text]
    assert not stale, "run: python -m analysis.docs"  # the page of algorithms: tests/analysis/test_algorithms.py


def test_a_setting_is_listed_with_its_value_and_comment(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("""# What it is. More of it
defaults: [other, _self_]
_target_: a.B
rate: 1.0e-3   # a step
# Above it
flow: {one: 1, two: "# no comment"}   # both
make: {_target_: c.d, _partial_: true}
block:         # of it
  deep: null
""")
    assert [(s.key, s.value, s.meaning) for s in docs.settings_of(path)] == [
        ("rate", "1.0e-3", "a step"),
        ("flow", "", "both. Above it"),
        ("flow.one", "1", ""),
        ("flow.two", '"# no comment"', ""),
        ("make._target_", "c.d", ""),
        ("block", "", "of it"),
        ("block.deep", "null", ""),
    ]
    assert docs.first_sentence(docs.head(path)) == "What it is"


def test_every_setting_of_a_training_run_is_on_the_page() -> None:
    text = (docs.DOCS / "settings.md").read_text()
    own = yaml.safe_load((docs.CONF / "train.yaml").read_text())
    assert [key for key in own if key not in ("defaults", "hydra") and f"`{key}" not in text] == []
