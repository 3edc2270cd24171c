"""Columns of images in tables: every form of a cell, every kind of table, and every fault named before a model is loaded."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.test_images import encoded
from zero import images
from zero.benchmark import _saved_rows, rows
from zero.config.check import check
from zero.errors import InputError
from zero.images import load
from zero.question_sets import load_benchmarks, load_questions, manifest
from zero.questions import without_tested
from zero.questions.files import table
from zero.questions.mixture import _first
from zero.questions.splits import fingerprint
from zero.records import Completion, Group, Outcome, Prompt, Verdict

COLOURS = ("red", "green", "blue")
RED, GREEN, BLUE = PICTURES = tuple(encoded(Image.new("RGB", (8, 6), colour)) for colour in COLOURS)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files red.png, green.png and blue.png in pictures/."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    (folder / "pictures").mkdir(parents=True)
    for colour, content in zip(COLOURS, PICTURES, strict=True):
        (folder / "pictures" / f"{colour}.png").write_bytes(content)
    return folder


def write(folder: Path, *cells: Any, text: str = "Which colour?") -> str:
    lines = [json.dumps({"problem": text, "answer": "x", "image": cell}) + "\n" for cell in cells]
    (folder / "metadata.jsonl").write_text("".join(lines))
    return str(folder / "metadata.jsonl")


def url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def colours(digests: tuple[str, ...]) -> list[tuple[int, ...]]:
    return [load(digest).getpixel((0, 0)) for digest in digests]


@pytest.mark.parametrize("given", ["file", "folder"])
def test_paths_data_urls_and_lists(folder: Path, given: str) -> None:
    cells = ["pictures/red.png", url(GREEN), ["pictures/blue.png", url(RED)], None, {"path": "pictures/blue.png"}]
    path = write(folder, *cells, "", [])
    read = table(path if given == "file" else str(folder), images="image", heldout=0)
    seen = [colours(question.images) for question in read.train]
    assert seen == [[(255, 0, 0)], [(0, 128, 0)], [(0, 0, 255), (255, 0, 0)], [], [(0, 0, 255)]]
    assert all(question.meta == {} for question in read.train)
    assert read.notes == ("left out 2 repeated: line 6 is line 4, line 7 is line 4",)


def test_parquet_with_the_images_of_datasets(folder: Path) -> None:
    cells = [{"bytes": RED, "path": "elsewhere.png"}, {"bytes": None, "path": "pictures/green.png"}, None]
    lists = [[{"bytes": RED, "path": None}, {"bytes": BLUE, "path": None}], [], None]
    columns = {"problem": ["a", "b", "c"], "answer": ["1", "2", "3"], "image": cells, "raw": list(PICTURES)}
    pq.write_table(pa.table(columns | {"images": lists}), folder / "train.parquet")
    path = str(folder / "train.parquet")
    single = table(path, images="image", heldout=0).train
    assert [colours(question.images) for question in single] == [[(255, 0, 0)], [(0, 128, 0)], []]
    several = table(path, images="images", heldout=0).train
    assert [colours(question.images) for question in several] == [[(255, 0, 0), (0, 0, 255)], [], []]
    raw = table(path, images="raw", heldout=0).train
    assert raw[0].images == single[0].images
    assert raw[2].images == several[0].images[1:]


def test_csv_has_paths(folder: Path) -> None:
    (folder / "rows.csv").write_text("problem,answer,image\na,1,pictures/red.png\nb,2,\n")
    questions = table(str(folder / "rows.csv"), images="image", heldout=0).train
    assert [colours(question.images) for question in questions] == [[(255, 0, 0)], []]


def test_a_saved_data_set(folder: Path, tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        problem=datasets.Value("string"), answer=datasets.Value("string"), image=datasets.Image()
    )
    paths = [str(folder / "pictures" / f"{colour}.png") for colour in COLOURS]
    columns = {"problem": ["a"] * 3, "answer": ["1"] * 3, "image": [{"bytes": RED, "path": None}, *paths[1:]]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder / "saved"))
    questions = table(str(folder / "saved"), images="image", heldout=0, limit=1).train
    assert [colours(question.images) for question in questions] == [[(255, 0, 0)]]


def test_a_data_set_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    from zero.questions import sources

    features = datasets.Features(q=datasets.Value("string"), answer=datasets.Value("string"), image=datasets.Image())
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(folder))
    cells = [{"bytes": RED, "path": None}, str(folder / "pictures" / "green.png"), {"bytes": BLUE, "path": "b.png"}]
    columns = {"q": ["a"] * 3, "answer": ["1"] * 3, "image": cells}
    data = datasets.Dataset.from_dict(columns, features=features)
    monkeypatch.setattr(sources, "_hub_answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: data)
    hub = {"id": "o/n", "columns": {"q": "problem"}}
    questions = table(hub=hub, images="image", heldout=0).train
    assert [colours(question.images)[0] for question in questions] == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe.png")
    return "pipe.png"


def link(folder: Path) -> str:
    (folder.parent / "secret.png").write_bytes(RED)
    (folder / "link.png").symlink_to("../secret.png")
    return "link.png"


def circle(folder: Path) -> str:
    (folder / "circle.png").symlink_to("circle.png")
    return "circle.png"


def outside(folder: Path) -> str:
    link(folder)
    return "../secret.png"


REFUSED = [
    ("pictures/pink.png", "'pictures/pink.png' does not exist in "),
    (outside, "'../secret.png' leads out of "),
    (link, "'link.png' leads out of "),
    (circle, "'circle.png' "),
    (pipe, "'pipe.png' cannot be read (is no ordinary file)"),
    ("/etc/passwd", "'/etc/passwd' leads out of "),
    ("pictures", "'pictures' cannot be read"),
    ("a\0b.png", "cannot be read (embedded null byte)"),
    ("x" * 5000, f"'{'x' * 60}...' cannot be read (File name too long)"),
    ("metadata.jsonl", "'metadata.jsonl' is no image; PNG, JPEG, WebP, GIF and BMP are read"),
    ("https://example.com/cat.png", "'https://example.com/cat.png' is a URL, and nothing is fetched; download"),
    ("file:///etc/passwd", "is a URL, and nothing is fetched"),
    (7, "its image is no image; give a path, bytes"),
    ({"url": "cat.png"}, "its image is no image; give a path"),
    ({"bytes": "iVBORw0KGgo=", "path": "a.png"}, "'a.png' holds bytes as a text; give a data URL instead"),
    ([["pictures/red.png"]], "its image is no image; give a path"),
    ("data:image/png,abc", "the data URL 'data:image/png,abc'... must begin with data:image/png;base64,"),
    ("data:image/png;base64,ab*d", "is no base64 ("),
    ("data:image/png;base64,", "is empty"),
    (url(b"<svg xmlns='x'></svg>"), "is SVG, which is not read"),
    (url(RED[:-30]), "is a PNG file that is broken or cut short"),
    ("data:" + ";" * 100_000, "must begin with data:image/png;base64,"),
]


@pytest.mark.parametrize(("cell", "reason"), REFUSED)
def test_a_cell_that_is_refused(folder: Path, cell: Any, reason: str) -> None:
    path = write(folder, "pictures/red.png", cell(folder) if callable(cell) else cell)
    with pytest.raises(InputError) as caught:
        table(path, images="image")
    message = str(caught.value)
    assert message.startswith("questions.images=image: line 2: ")
    assert reason in message
    assert len(message) < 500 and "\n" not in message


def test_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder, "pictures/red.png")
    with pytest.raises(
        InputError, match=r"8 x 6 = 48 pixels, more than questions.max_pixels=47; shrink it or allow more"
    ):
        table(path, images="image", max_pixels=47)
    for value in (0, -1, True, 1 << 40, "many"):
        with pytest.raises(InputError, match=r"questions.max_pixels=.*: must be from 1 to 67108864"):
            table(path, images="image", max_pixels=value)
    with pytest.raises(InputError, match=r"questions.images=picture: no such column in line 1 of .*; its columns are"):
        table(path, images="picture")
    monkeypatch.setattr(images, "MAX_BYTES", 64)
    with pytest.raises(InputError, match=r"line 1: 'pictures/red.png' "):
        table(path, images="image")
    with pytest.raises(InputError, match=r"line 1: the data URL .* has more than"):
        table(write(folder, url(bytes(200))), images="image")


def test_a_store_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))
    with pytest.raises(
        InputError, match=r"cannot be written \(Not a directory\); name another folder: XDG_CACHE_HOME=FOLDER"
    ):
        table(write(folder, "pictures/red.png"), images="image")


def test_images_are_part_of_what_a_question_is(folder: Path) -> None:
    cells = [f"pictures/{colour}.png" for colour in COLOURS]
    again = encoded(Image.new("RGB", (8, 6), "red"), "BMP")  # the same picture in another file
    read = table(write(folder, *cells, url(again)), images="image", heldout=1)
    assert read.notes == ("left out 1 repeated: line 4 is line 1",)
    assert len({question.id for question in (*read.train, *read.heldout)}) == 3
    other = table(write(folder, *cells[:2], "pictures/blue.png"), images="image", heldout=1)
    assert [q.id for q in other.heldout] == [q.id for q in read.heldout]
    assert other.digest == read.digest
    Image.new("RGB", (8, 6), "navy").save(folder / "pictures" / "blue.png")
    changed = table(str(folder / "metadata.jsonl"), images="image", heldout=1)
    assert changed.digest != read.digest  # the table is as it was
    text = table(str(folder / "metadata.jsonl"), heldout=0)
    assert text.train[0].id == fingerprint("Which colour?") not in {q.id for q in read.train}
    assert text.train[0].meta == {"image": "pictures/red.png"}


def test_a_tested_picture_is_not_trained_on(folder: Path) -> None:
    cells = [f"pictures/{colour}.png" for colour in COLOURS]
    read = table(write(folder, *cells), images="image", heldout=0)
    tested = table(write(folder, url(encoded(Image.new("RGB", (8, 6), "green"), "BMP"))), images="image", heldout=1.0)
    left = without_tested(read, {"seen": tested.heldout})
    assert [colours(question.images) for question in left.train] == [[(255, 0, 0)], [(0, 0, 255)]]
    text = table(write(folder, None), images="image", heldout=1.0)
    assert without_tested(read, {"text": text.heldout}) is read


def test_a_limit_of_a_source_does_not_depend_on_the_order_of_rows_that_differ_in_images(folder: Path) -> None:
    read = table(write(folder, *(f"pictures/{colour}.png" for colour in COLOURS)), images="image", heldout=0).train
    assert {q.id for q in _first(read, 2)} == {q.id for q in _first(read[::-1], 2)}


def test_completions_name_the_images_of_their_question(folder: Path, tmp_path: Path) -> None:
    seeing, text = table(write(folder, "pictures/red.png", None), images="image", heldout=0).train
    verdict = Verdict(0.0, Outcome.WRONG, Outcome.WRONG, "1", "wrong")
    prompts = [Prompt(question, "Q", (1,), (0, i)) for i, question in enumerate((seeing, text))]
    table_rows = rows([Group(prompt, (Completion((1,), (0.0,), "1", True),), (verdict,)) for prompt in prompts])
    assert [row.get("images") for row in table_rows] == [[f"images/{seeing.images[0]}.png"], None]
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table_rows))
    assert _saved_rows(path, prompts, 1, 1) == table_rows
    with pytest.raises(InputError, match="holds answers to other questions"):
        _saved_rows(path, [prompts[1], prompts[1]], 1, 1)


def test_a_model_of_text_refuses_before_it_is_loaded(folder: Path, tmp_path: Path) -> None:
    path = write(folder, *(f"pictures/{colour}.png" for colour in COLOURS))
    settings = ["questions=file", f"questions.path={path}", "questions.images=image", "questions.heldout=1"]
    reason = r"questions=file: its rows have images \(questions.images\), and model .+ reads text alone; take other"
    with pytest.raises(InputError, match=reason):
        load_questions(check("train", settings), tmp_path)
    with pytest.raises(InputError, match=reason):
        load_benchmarks(check("evaluate", [*settings, "benchmarks=heldout"]))
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"problem": "1 + 1?", "answer": "2"}) + "\n")
    without = load_questions(check("train", [*settings[:2], settings[3]]), tmp_path)
    assert manifest(without)["training"]["train"] == 1
