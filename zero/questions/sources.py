"""Read rows of question sets: JSON Lines, JSON, CSV, Parquet, folders of these, save_to_disk folders, the hub.

All are yielded as (place, row): the row as a plain dict, and its place in words for messages ("line 7"). pyarrow and
datasets are imported where they are needed: both are slow to import, and a JSON Lines file needs neither.
"""

from __future__ import annotations

import csv
import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from zero.errors import InputError

Row = dict[str, Any]
Placed = Iterator[tuple[str, Row]]

# Kinds of files to search a folder and its subfolders for: the first kind that is found is read
KINDS = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
UNREAD = tuple(".xlsx .xls .zip .xz .bz2 .zst .tar .7z .arrow .feather .pkl .npz .yaml .yml .pdf".split())
NARROW = {"halffloat": "float16", "float": "float32"}  # Arrow's names of short floats -> numpy's
BATCH = 256  # rows in memory at once, which may hold images
HUB_TIMEOUT = 3.0  # seconds to wait for the hub's first answer; without this probe `datasets` retries for half a minute


def rows_of(path: str | None, hub: Mapping[str, Any] | None, split: str | None) -> Placed:
    """(place, row) of a local file or folder, or, without a path, of a data set on the hub.

    path    .jsonl (or any other ending: JSON Lines), .json (one array, or JSON Lines), .csv and .tsv (the first line names
            the columns), each of them also with .gz, .parquet; a folder of these; a folder written by `datasets.save_to_disk`
    hub     {id, config, split, revision, columns}; columns renames the hub's columns: {question: problem}
    split   which split of a DatasetDict folder, or which files of a folder: SPLIT.* and SPLIT-*

    Raises InputError, also while it is iterated.
    """
    if path is not None:
        return _from_path(str(path), Path(path).expanduser(), split)
    if hub is None or not hub.get("id"):
        raise InputError("questions.path", path, "is required; give questions.path=FILE or questions.hub.id=OWNER/NAME")
    return _from_hub(hub)


def folder_of(path: str | None) -> Path:
    """The folder of the files that rows name: that of the table; without a path that of the hub's client, which keeps its
    downloads there."""
    if path is not None:
        given = Path(path).expanduser()
        return given if given.is_dir() else given.parent
    from huggingface_hub import constants

    return Path(constants.HF_HOME)


def _from_path(given: str, path: Path, split: str | None) -> Placed:
    if path.is_dir():
        if (path / "dataset_dict.json").is_file():
            path = path / _choose(given, _splits(given, path), split)
        if (path / "state.json").is_file():
            return _saved(given, path)
        return _folder(given, path, split)
    if not path.is_file():
        raise InputError("questions.path", given, f"no such file or folder; give one of {', '.join(KINDS)} or a folder")
    return _file(given, path)


def _file(given: str, path: Path, suffix: str = "") -> Placed:
    """Rows of one file; the suffix is added to places, for folders of several files."""
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if path.suffix == ".parquet":
        return _parquet(given, path, suffix)
    if kind in UNREAD:
        raise InputError("questions.path", given, f"{kind} is not read; save the rows as one of {', '.join(KINDS)}")
    if kind in (".csv", ".tsv"):
        return _delimited(given, path, suffix, "," if kind == ".csv" else "\t")
    return _json(given, path, suffix, kind)


def _folder(given: str, path: Path, split: str | None) -> Placed:
    files: list[Path] = []
    for pattern in (f"{depth}{kind}" for depth in ("*", "*/*") for kind in KINDS):
        matches = sorted(file for file in path.glob(pattern) if not file.name.startswith("."))
        files = [f for f in matches if split is None or re.match(rf"{re.escape(split)}[.-]", f.name)]
        if files:
            break
    else:
        missing = f"no file {split}.parquet, .jsonl, .json or .csv"
        if split is None:
            missing = "no .parquet, .jsonl, .json, .csv or .tsv file"
        raise InputError("questions.path", given, f"the folder holds {missing}; give a file")
    for file in files:
        yield from _file(given, file, f" of {file.name}" if len(files) > 1 else "")


@contextmanager
def _opened(given: str, path: Path) -> Iterator[Any]:
    """The bytes of a file, decompressed if its name ends in .gz. InputError if they cannot be read."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError("questions.path", given, f"cannot be read ({reason})") from error


def _delimited(given: str, path: Path, suffix: str, delimiter: str) -> Placed:
    """Rows of a table whose first line names the columns; every value is a text. A field may hold line breaks."""
    with _opened(given, path) as file:
        reader = csv.reader(_text_lines(given, file, suffix), delimiter=delimiter, strict=True)
        try:
            columns = next(reader, [])
            if len(set(columns)) < len(columns) or not all(columns):
                raise InputError("questions.path", given, "the first line must name every column, each once")
            for values in reader:
                place = f"line {reader.line_num}{suffix}"
                if not values:
                    continue
                if len(values) != len(columns):
                    remedy = f"{place} has {len(values)} fields, the first line names {len(columns)} columns; quote the commas"
                    raise InputError("questions.path", given, remedy)
                yield place, dict(zip(columns, values, strict=True))
        except csv.Error as error:
            raise InputError("questions.path", given, f"line {reader.line_num}{suffix}: {error}") from error


def _text_lines(given: str, file: Any, suffix: str) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        yield _decoded(given, line, f"line {number}{suffix}").lstrip("\ufeff" if number == 1 else "")


def _decoded(given: str, line: bytes, place: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        kind = " (it looks like UTF-16)" if line[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        remedy = f"{place} is not UTF-8{kind}; convert the file: iconv -f ENCODING -t UTF-8"
        raise InputError("questions.path", given, remedy) from error


def _json(given: str, path: Path, suffix: str, kind: str) -> Placed:
    try:
        with _opened(given, path) as lines:
            if kind == ".json" and lines.peek(64).decode("utf-8-sig", "replace").lstrip()[:1] == "[":
                yield from _array(given, lines.read(), suffix)
                return
            for number, line in enumerate(lines, 1):
                if line.strip() and (row := _object(given, line, f"line {number}{suffix}")) is not None:
                    yield f"line {number}{suffix}", row
    except MemoryError as error:
        raise InputError("questions.path", given, "does not fit into memory; split it, or save it as .jsonl") from error


def _object(given: str, line: bytes, place: str) -> Row | None:
    """The object of one line; None if it holds only a byte-order mark."""
    try:
        row = json.loads(_decoded(given, line, place).lstrip("\ufeff").strip() or "null")
    except (ValueError, RecursionError) as error:  # ValueError: broken JSON, or a number of thousands of digits
        raise InputError("questions.path", given, f"{place} is not JSON ({error}){_hint(line.strip())}") from error
    if row is not None and not isinstance(row, dict):
        raise InputError("questions.path", given, f"{place} is no JSON object; write one object a line")
    return row


def _hint(line: bytes) -> str:
    """A guess at what a line that is not JSON is instead."""
    if line[:1] == b"[":
        return "; it looks like one JSON array: name the file .json"
    if line in (b"{", b"}", b"") or line.endswith((b"{", b",")):
        return "; it looks like one object over several lines: write each object on a line of its own"
    if line[:2] == b"\x1f\x8b":
        return "; it is compressed: let its name end in .gz"
    return "; other tables need their ending: .csv, .tsv, .parquet"


def _array(given: str, content: bytes, suffix: str) -> Placed:
    """Items of one JSON array. An item that is a list becomes a row with columns "0", "1", as `datasets` has it."""
    try:
        items = json.loads(_decoded(given, content, "the file").lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise InputError("questions.path", given, f"is not JSON ({error})") from error
    for number, item in enumerate(items, 1):
        if isinstance(item, list):
            item = {str(i): column for i, column in enumerate(item)}
        if not isinstance(item, dict):
            raise InputError("questions.path", given, f"item {number}{suffix} is no JSON object")
        yield f"item {number}{suffix}", item


def _parquet(given: str, path: Path, suffix: str) -> Placed:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        yield from _batches(parquet.ParquetFile(path).iter_batches(BATCH), suffix)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            "questions.path", given, f"{path.name} is no readable Parquet file ({_line(error)})"
        ) from error


def _saved(given: str, path: Path) -> Placed:
    """A folder of `Dataset.save_to_disk`: state.json names Arrow files in the streaming format."""
    import pyarrow as pa

    try:
        state = json.loads((path / "state.json").read_text("utf-8"))
        files = [path / Path(entry["filename"]).name for entry in state["_data_files"]]
        for file in files:
            with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
                yield from _batches(stream, f" of {file.name}" if len(files) > 1 else "")
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        remedy = f"is no readable save_to_disk folder ({_line(error)}); save it again"
        raise InputError("questions.path", given, remedy) from error


def _batches(batches: Any, suffix: str) -> Placed:
    """Rows of Arrow record batches, one batch in memory at a time."""
    number = 0
    for batch in batches:
        for row in _rows(batch):
            number += 1
            yield f"row {number}{suffix}", row


def _rows(table: Any) -> Iterator[Row]:
    """Rows of an Arrow table or batch. Floats of 16 and 32 bits become the shortest decimal that means the same number: 0.2,
    stored as 0.200000003, is 0.2 again."""
    narrow = [(field.name, field.type) for field in table.schema if _has_narrow(field.type)]
    for row in table.to_pylist():
        yield row | {name: _shortest(row[name], kind) for name, kind in narrow}


def _has_narrow(kind: Any) -> bool:
    """Whether an Arrow type is, or holds, floats of fewer than 64 bits."""
    return str(kind) in NARROW or any(_has_narrow(kind.field(i).type) for i in range(kind.num_fields))


def _shortest(value: Any, kind: Any) -> Any:
    import numpy as np

    if str(kind) in NARROW and isinstance(value, float):
        return float(str(getattr(np, NARROW[str(kind)])(value)))
    if isinstance(value, list) and kind.num_fields == 1:
        return [_shortest(item, kind.field(0).type) for item in value]
    if isinstance(value, dict):
        types = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return {name: _shortest(item, types[name]) for name, item in value.items()}
    return value


def _splits(given: str, path: Path) -> list[str]:
    try:
        return [str(name) for name in json.loads((path / "dataset_dict.json").read_text("utf-8"))["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("questions.path", given, "dataset_dict.json is broken; save the data set again") from error


def _choose(given: str, splits: Sequence[str], split: str | None) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if split is None or split not in splits:
        listing = f"{given} holds {', '.join(splits)}"
        raise InputError("questions.split", split, f"{listing}; choose one: questions.split={splits[0]}")
    return split


def _from_hub(hub: Mapping[str, Any]) -> Placed:
    name, split = str(hub["id"]), hub.get("split") or "train"
    local = "give a local file: questions.path=FILE"
    import datasets

    datasets.disable_progress_bars()
    for logger in ("datasets", "huggingface_hub"):
        logging.getLogger(logger).setLevel(logging.ERROR)  # they warn of caches and retries; our error says what failed
    reachable = _hub_answers()
    try:
        with _offline(not reachable):
            data = datasets.load_dataset(name, hub.get("config"), split=split, revision=hub.get("revision"))
    except Exception as error:  # the hub's client raises from a dozen families, those of its HTTP library among them
        if not reachable:
            remedy = f"cannot reach the hub for {name} (no network?) and it is not in the cache; {local}"
            raise InputError("questions.path", "null", remedy) from error
        raise InputError("questions.hub.id", name, f"datasets cannot load it ({_line(error)}); {local}") from error
    revision = str(hub.get("revision") or "")
    cached = {folder for file in data.cache_files for folder in Path(file["filename"]).parts}  # a folder is a commit
    if not reachable and not any(folder.startswith(revision) for folder in cached):
        remedy = f"cannot reach the hub for it, and the cache may hold another version of {name}; {local}"
        raise InputError("questions.hub.revision", revision, remedy)  # offline, datasets takes any version in the cache
    renamed = dict(hub.get("columns") or {})
    for place, row in _batches(data.with_format("arrow").iter(BATCH), ""):
        yield place, {renamed.get(column, column): value for column, value in row.items()}


def _hub_answers() -> bool:
    """Whether the hub answers within HUB_TIMEOUT, with the client's own settings (HF_ENDPOINT, proxies).

    Asked in a thread that may be abandoned: a DNS look-up has no time limit of its own.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    responses: list[object] = []

    def ask() -> None:
        try:
            responses.append(get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT))
        except Exception:  # the HTTP library raises many kinds; all mean that there is no answer
            return

    if constants.is_offline_mode():
        return False
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    return bool(responses)


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """If `offline`, act as under HF_HUB_OFFLINE inside, with the cache alone: both libraries read the variable at import."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if offline:
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
