"""The images of saved completions: their columns, their files in a run folder, and the metrics of questions with images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

from zero import images
from zero.files import read_regular, write_atomically
from zero.grading.recognition import recognized
from zero.records import Completion, Group, Metrics, Question

OF_TABLE = 300  # images of one table of completions that are copied, the first ones
OF_RUN = 1000  # images of a run folder
BYTES = 1 << 28  # of all of them


def image_row(question: Question, completion: Completion) -> dict[str, Any]:
    """The columns of a completion whose question has images, or something that is to be recognised; none of other ones."""
    columns: dict[str, Any] = {}
    if question.images:
        columns["images"] = [images.run_path(digest) for digest in question.images]
    verdict = recognized(question, "\n".join(turn.text for turn in completion.turns) or completion.text)
    return columns if verdict is None else columns | {"recognized": verdict}


def image_metrics(table: Sequence[Mapping[str, Any]]) -> Metrics:
    """`recognition` of rows that have something to be recognised; {} of other ones."""
    verdicts = [row["recognized"] for row in table if "recognized" in row]
    return {"recognition": fmean(verdicts)} if verdicts else {}


def image_tokens(groups: Sequence[Group]) -> Metrics:
    """The tokens of images in the prompts of a step; {} without images."""
    seeing = [group.prompt.image_tokens for group in groups if group.prompt.images]
    return {"tokens/image": float(sum(seeing))} if seeing else {}


def save_images(folder: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Copy the images of rows to folder/images, as far as they are not there and the bounds allow. An image that the store lacks,
    as of an environment on another machine, is left out. OSError if one cannot be written."""
    names = dict.fromkeys(name for row in table for name in _names(row))
    if not names:
        return
    place = folder / images.RUN_FOLDER
    place.mkdir(parents=True, exist_ok=True)
    sizes = {path.name: path.stat().st_size for path in place.glob("*.png")}
    total = sum(sizes.values())
    for path in [folder / name for name in list(names)[:OF_TABLE]]:
        if path.name in sizes:
            continue
        with suppress(FileNotFoundError):
            content = read_regular(images.stored(path.stem), images.MAX_STORED)
            if len(sizes) >= OF_RUN or total + len(content) > BYTES:
                return
            write_atomically(path, content, sync=False)
            sizes[path.name] = len(content)
            total += len(content)


def _names(row: Mapping[str, Any]) -> list[str]:
    turns = row.get("turns", ())
    return [*row.get("images", ()), *(name for turn in turns for name in turn.get("images", ()))]
