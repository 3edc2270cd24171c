"""The same three rows in every container that a table may come in, and the hub: reachable, cached, silent, absent."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zero.errors import InputError
from zero.questions import sources
from zero.questions.sources import rows_of

ROWS: list[dict[str, Any]] = [{"problem": f"q{i}", "answer": [str(i), "x"], "level": i} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
HUB = {"id": "someone/questions", "config": "main", "split": "train", "columns": {"question": "problem"}}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(rows), path)


def saved(rows: list[dict[str, Any]]) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.Dataset.from_list(rows)


def build(kind: str, folder: Path) -> tuple[Path, str | None]:
    """A container of ROWS, and the split to ask for."""
    if kind == "jsonl":
        (path := folder / "a.jsonl").write_text(LINES)
    elif kind == "json lines":
        (path := folder / "a.json").write_text(LINES)
    elif kind == "array":
        (path := folder / "a.json").write_text("\ufeff \n" + json.dumps(ROWS, indent=1), "utf-8")
    elif kind == "parquet":
        write_parquet(path := folder / "a.parquet", ROWS)
    elif kind == "folder":
        (path := folder / "b" / "data").mkdir(parents=True)
        write_parquet(path / "train-00000-of-00002.parquet", ROWS[:1])
        write_parquet(path / "train-00001-of-00002.parquet", ROWS[1:])
        (path / "README.md").write_text("no table")
        (path / "infos.json").write_text("{}")  # Parquet goes first
        path = path.parent
    elif kind == "split of a folder":
        (folder / "trainer.jsonl").write_text("not asked for")
        (folder / "test.jsonl").write_text("not asked for")
        (folder / "train.jsonl").write_text(LINES)
        return folder, "train"
    elif kind == "save_to_disk":
        saved([*ROWS[::-1], {"problem": "z", "answer": [], "level": 9}]).select([2, 1, 0]).save_to_disk(
            path := folder / "d"
        )
    elif kind == "shards":
        saved(ROWS).save_to_disk(path := folder / "d", num_shards=2)
    else:
        import datasets

        datasets.DatasetDict({"test": saved(ROWS[:1]), "train": saved(ROWS)}).save_to_disk(path := folder / "d")
        return path, "train"
    return path, None


@pytest.mark.parametrize(
    "kind",
    ["jsonl", "json lines", "array", "parquet", "folder", "split of a folder", "save_to_disk", "shards", "DatasetDict"],
)
def test_every_container_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    path, split = build(kind, tmp_path)
    placed = list(rows_of(str(path), None, split))
    assert [row for _, row in placed] == ROWS
    assert len({place for place, _ in placed}) == 3  # rows are named in messages and notes


def test_lists_become_columns(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[[{"value": "q"}, {"value": "a"}]]')
    assert list(rows_of(str(tmp_path / "a.json"), None, None)) == [
        ("item 1", {"0": {"value": "q"}, "1": {"value": "a"}})
    ]


def broken(folder: Path, kind: str) -> Path:
    path = folder / f"a.{kind}"
    if kind == "saved":
        saved(ROWS).save_to_disk(path)
        next(path.glob("*.arrow")).write_bytes(b"torn")
    elif kind == "unsaved":
        path.mkdir()
        (path / "state.json").write_text("{}")
    elif kind == "empty":
        path.mkdir()
    elif kind == "json":
        path.write_text('[{"problem": "q"}, 5]')
    else:
        path.write_bytes(b"[torn")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("json", "item 2 is no JSON object"),
        ("parquet", "a.parquet is no readable Parquet file"),
        ("saved", "is no readable save_to_disk folder"),
        ("unsaved", "is no readable save_to_disk folder"),
        ("empty", "holds no .parquet, .jsonl, .json, .csv or .tsv file"),
    ],
)
def test_broken_containers_are_one_line(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        list(rows_of(str(broken(tmp_path, kind)), None, None))
    assert error.value.key == "questions.path" and "\n" not in str(error.value)


def test_a_split_must_be_chosen_and_be_there(tmp_path: Path) -> None:
    path, _ = build("DatasetDict", tmp_path)
    for split in (None, "dev"):
        with pytest.raises(InputError, match=rf"questions.split={split}: .* holds test, train; choose one"):
            list(rows_of(str(path), None, split))
    with pytest.raises(InputError, match=r"no file dev.parquet, .jsonl, .json or .csv"):
        list(rows_of(str(tmp_path), None, "dev"))


@pytest.mark.parametrize(
    ("path", "hub"), [("nowhere.jsonl", None), ("nowhere", HUB), (None, None), (None, {"id": None})]
)
def test_a_missing_file_and_no_file(path: str | None, hub: dict[str, Any] | None) -> None:
    with pytest.raises(InputError, match=r"questions\.path=(nowhere.*: no such file|None: is required)"):
        list(rows_of(path, hub, None))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of `datasets`, so that the user's own is not read."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def hub_at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_columns_of_the_hub_are_renamed(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    import datasets

    calls = []

    def load(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return saved([{"question": "q", "answer": "a"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(sources, "_hub_answers", lambda: True)
    assert list(rows_of(None, HUB, None)) == [("row 1", {"problem": "q", "answer": "a"})]
    assert calls == [(("someone/questions", "main"), {"split": "train", "revision": None})]


def test_what_the_hub_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    import datasets

    def load(*_: Any, **__: Any) -> Any:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'x' doesn't exist\non the hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(sources, "_hub_answers", lambda: True)
    with pytest.raises(
        InputError, match=r"hub\.id=someone/questions: datasets cannot load it .Dataset 'x' doesn't exist."
    ):
        list(rows_of(None, HUB, None))


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_no_network_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch, cache: Path, silent: str) -> None:
    import datasets

    monkeypatch.setattr(sources, "HUB_TIMEOUT", 0.5)
    for endpoint in ("http://127.0.0.1:9", silent):  # nothing listens on the first
        hub_at(monkeypatch, endpoint)
        began = time.monotonic()
        with pytest.raises(InputError) as error:
            list(rows_of(None, HUB, None))
        assert time.monotonic() - began < 15  # without the probe: half a minute of retries
        assert str(error.value) == (
            "questions.path=null: cannot reach the hub for someone/questions (no network?) and it is not in the cache; "
            "give a local file: questions.path=FILE"
        )
        assert not datasets.config.HF_HUB_OFFLINE  # a later use of the hub may try again


def test_no_network_but_in_the_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """A cache as `datasets` leaves it, and a revision that it does or does not hold."""
    import datasets
    from datasets.arrow_writer import ArrowWriter

    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = cache / "someone___questions" / "main" / "0.0.0" / commit
    folder.mkdir(parents=True)
    data = saved([{"question": "q", "answer": "a"}])
    writer = ArrowWriter(path=str(folder / "questions-train.arrow"), features=data.features)
    writer.write({"question": "q", "answer": "a"})
    size, count = writer.finalize()[::-1]
    splits = datasets.SplitDict.from_split_dict([{"name": "train", "num_bytes": size, "num_examples": count}])
    names = {"builder_name": "questions", "dataset_name": "questions", "config_name": "main", "version": "0.0.0"}
    datasets.DatasetInfo(features=data.features, splits=splits, **names).write_to_directory(str(folder))
    hub_at(monkeypatch, "http://127.0.0.1:9")
    for revision in (None, commit, commit[:8]):
        assert list(rows_of(None, {**HUB, "revision": revision}, None)) == [("row 1", {"problem": "q", "answer": "a"})]
    with pytest.raises(InputError, match=r"questions\.hub\.revision=fedcba: .* another version"):
        list(rows_of(None, {**HUB, "revision": "fedcba"}, None))


TABLE = 'problem,answer\n"a, ""b""\nc",1\n\nd,"2,5"\n'


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "A.csv"])
def test_tables_of_text(tmp_path: Path, name: str) -> None:
    text = "\ufeff" + (TABLE if "csv" in name else 'problem\tanswer\n"a, ""b""\nc"\t1\n\nd\t2,5\n')
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    rows = [{"problem": 'a, "b"\nc', "answer": "1"}, {"problem": "d", "answer": "2,5"}]
    assert list(rows_of(str(tmp_path / name), None, None)) == [("line 3", rows[0]), ("line 5", rows[1])]
    assert [row for _, row in rows_of(str(tmp_path), None, name.split(".")[0])] == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"problem,answer\nq,1,2\n", "line 2 has 3 fields, the first line names 2 columns"),
        ("a.csv", b"problem,problem\n", "must name every column, each once"),
        ("a.csv", b'problem,answer\n"q,1\n', "line 2: unexpected end of data"),
        ("a.csv", b"problem,answer\ncaf\xe9,1\n", "line 2 is not UTF-8"),
        ("a.csv", b"problem,answer\n" + b"9" * 200_000 + b",1\n", "line 2: field larger than field limit"),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-12], "cannot be read"),
        ("a.jsonl.gz", LINES.encode(), "cannot be read .Not a gzipped file"),
        ("a.xlsx", b"PK", ".xlsx is not read; save the rows as one of .parquet, .jsonl, .json, .csv"),
        ("a.zip", b"PK", ".zip is not read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_a_file_that_is_no_table_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        list(rows_of(str(tmp_path / name), None, None))
    assert error.value.key == "questions.path"


def test_compressed_lines(tmp_path: Path) -> None:
    for name, text in (("a.jsonl.gz", LINES), ("b.json.gz", json.dumps(ROWS))):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        assert [row for _, row in rows_of(str(tmp_path / name), None, None)] == ROWS


def test_short_floats_are_the_decimals_that_were_written(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    answers, nested = [0.2, 0.1, 1e-5, 3.0, None], [[0.7], [], None, [0.1, None], [2.5]]
    pair = pa.struct([("x", pa.float32())])
    columns = {
        "half": pa.array(answers, pa.float16()),
        "single": pa.array(answers, pa.float32()),
        "double": pa.array(answers, pa.float64()),
        "list": pa.array(nested, pa.list_(pa.float32())),
        "struct": pa.array([{"x": v} for v in answers], pair),
    }
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = [row for _, row in rows_of(str(tmp_path / "a.parquet"), None, None)]
    for name in ("half", "single", "double"):
        assert [row[name] for row in rows] == answers
    assert [row["list"] for row in rows] == nested
    assert [row["struct"]["x"] for row in rows] == answers
