"""Images beside saved completions: which files a run folder gets, and what is measured of questions with images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_benchmark import Teller, bench, in_parts, printed
from zero import image_rows, images
from zero.benchmark import result_from_rows, rows, summarize
from zero.errors import InputError
from zero.image_rows import save_images
from zero.questions import Rows
from zero.records import Completion, Ending, Group, Outcome, Prompt, Question, Turn, Verdict
from zero.tracking.glossary import describe
from zero.tracking.tables import benchmark_tables


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def image(value: int) -> str:
    return images.put(np.full((20, 30, 3), value, np.uint8))


def group(question: Question, *texts: str, image_tokens: int = 0, turns: tuple[Turn, ...] = ()) -> Group:
    prompt = Prompt(question, "Q", (1,) * 9, (0,), images=question.images, image_tokens=image_tokens)
    ending = Ending.DONE if turns else None
    completions = tuple(Completion((1,), (0.0,), text, True, turns=turns, ending=ending) for text in texts)
    verdict = Verdict(0.0, Outcome.WRONG, Outcome.WRONG, "1", "wrong")
    return Group(prompt, completions, (verdict,) * len(texts))


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / images.RUN_FOLDER).glob("*")}


def test_a_run_folder_has_the_images_of_its_rows_once(tmp_path: Path) -> None:
    red, blue = image(1), image(2)
    shown = Turn("go", 0, 1, images=(blue,))
    table = rows([group(Question("q", ("1",), "1", images=(red,)), "a", "b", turns=(Turn("go", 0, 1), shown))])
    assert [row["images"] for row in table] == [[f"images/{red}.png"]] * 2
    assert [turn.get("images") for turn in table[0]["turns"]] == [None, [f"images/{blue}.png"]]
    save_images(tmp_path, table)
    assert names(tmp_path) == {f"{red}.png", f"{blue}.png"}
    assert (tmp_path / table[0]["images"][0]).read_bytes() == images.stored(red).read_bytes()
    before = [path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()]
    save_images(tmp_path, table)
    assert [path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()] == before
    images.stored(red).unlink()
    save_images(tmp_path / "other", table)  # of an environment that ran elsewhere
    assert names(tmp_path / "other") == {f"{blue}.png"}


def test_text_alone_leaves_no_folder(tmp_path: Path) -> None:
    save_images(tmp_path, rows([group(Question("q", ("1",), "1"), "a")]))
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize(("bound", "value", "count"), [("OF_TABLE", 2, 2), ("OF_RUN", 3, 3), ("BYTES", 100, 1)])
def test_the_images_of_a_run_folder_are_bounded(
    bound: str, value: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_rows, bound, value)
    table: list[dict[str, Any]] = [{"images": [images.run_path(image(i))]} for i in range(5)]
    assert 50 < images.stored(image(0)).stat().st_size < 100
    save_images(tmp_path, table)
    assert names(tmp_path) == {Path(row["images"][0]).name for row in table[:count]}
    save_images(tmp_path, table)
    assert len(names(tmp_path)) == count


def test_recognition_and_the_tokens_of_images_have_curves() -> None:
    asked = {"recognize": {"form": "line", "name": "Cards", "items": ["A", "7"], "ordered": False}}
    seeing = Question("q", ("1",), "1", meta=asked, images=(image(1),))
    both = [group(seeing, "Cards 7, A.", "Cards 7, 7.", image_tokens=4), group(Question("q", ("1",), "2"), "no", "no")]
    table = rows(both)
    assert [row.get("recognized") for row in table] == [True, False, None, None]
    metrics = summarize(both)
    assert (metrics["train/recognition"], metrics["tokens/image"], metrics["tokens/prompt"]) == (0.5, 4, 18)
    result = result_from_rows("cards", 2, table)
    assert result.metrics()["eval/cards/recognition"] == 0.5
    assert not {"train/recognition", "tokens/image"} & summarize(both[1:]).keys()
    for name in ("train/recognition", "tokens/image", "eval/cards/recognition"):
        assert describe(name)
    tables = printed(benchmark_tables(result.metrics(), 2, (), {}))
    assert "recognised" in tables and "50.0 %" in tables


class Shown:
    """A template that shows images without a model that sees."""

    def prompt(self, question: Question, tokenizer: Any, key: tuple[int, ...]) -> Prompt:
        return Prompt(question, question.text, (1,), key, images=question.images)


def test_an_evaluation_has_images_beside_its_answers_and_goes_on_with_them(tmp_path: Path) -> None:
    plain = bench()
    shown = [replace(question, images=(image(i),)) for i, question in enumerate(plain.subset())]
    seeing = replace(plain, questions=replace(plain.questions, rows=Rows([], shown)), template=Shown())
    path = tmp_path / "completions_b.jsonl"
    whole = in_parts(path, Teller(), seeing)
    assert names(tmp_path) == {f"{question.images[0]}.png" for question in shown}
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    again = in_parts(path, Teller(), seeing)
    assert (path.read_bytes(), again.rows) == (content, whole.rows)
    other = [replace(question, images=(image(99),)) for question in shown]
    with pytest.raises(InputError, match=r"holds answers to other questions \(line 1\)"):
        in_parts(path, Teller(), replace(seeing, questions=replace(plain.questions, rows=Rows([], other))))
