"""The images of a table's rows: a cell holds a path, bytes, {"bytes", "path"} as `datasets` has it, a data URL, or a list.

A path is relative to the table's folder and may not lead out of it. No URL of the network is fetched.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zero import images
from zero.errors import InputError
from zero.files import read_regular

KEY = "questions.images"
SHOWN = 60  # characters of a cell that a message shows
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DATA = re.compile(r"data:[^,;]{0,100}(?:;[^,;]{0,100}){0,4};base64,", re.IGNORECASE)


@dataclass(frozen=True)
class ImageColumn:
    """The column of a table that holds images, and what they may be."""

    name: str
    folder: Path  # of the files that paths name
    max_pixels: int = images.MAX_PIXELS

    def __post_init__(self) -> None:
        most = images.MOST_PIXELS
        if isinstance(self.max_pixels, bool) or not (isinstance(self.max_pixels, int) and 1 <= self.max_pixels <= most):
            raise InputError("questions.max_pixels", self.max_pixels, f"must be from 1 to {most}")

    def digests(self, cell: Any, place: str) -> tuple[str, ...]:
        """The digests of a cell's images, which zero.images.load takes then; () for an empty cell. Raises InputError."""
        cells = cell if isinstance(cell, list | tuple) else [cell]
        return tuple(self._digest(one, place) for one in cells if one is not None and one != "")

    def _digest(self, cell: Any, place: str) -> str:
        name = _name(cell)
        try:
            return images.add(self._bytes(cell), self.max_pixels)
        except images.ImageRefused as error:
            raise InputError(KEY, self.name, f"{place}: {name} {error}") from error
        except OSError as error:
            remedy = f"the store of images in the cache folder cannot be written ({error.strerror or error}); "
            raise InputError(KEY, self.name, f"{remedy}name another folder: XDG_CACHE_HOME=FOLDER") from error

    def _bytes(self, cell: Any) -> bytes:
        """Raises ImageRefused."""
        if isinstance(cell, Mapping) and cell.keys() <= {"bytes", "path"}:
            content = cell.get("bytes")
            if isinstance(content, str):
                raise images.ImageRefused("holds bytes as a text; give a data URL instead")
            cell = cell.get("path") if content is None else content
        if isinstance(cell, bytes | bytearray):
            return bytes(cell)
        if not isinstance(cell, str):
            raise images.ImageRefused(
                'is no image; give a path, bytes, {"bytes", "path"}, a data URL or a list of these'
            )
        if cell[:5].lower() == "data:":
            return _decoded(cell)
        if _URL.match(cell):
            raise images.ImageRefused("is a URL, and nothing is fetched; download the file and give its path")
        return self._file(cell)

    def _file(self, name: str) -> bytes:
        try:
            folder = self.folder.resolve()
            path = (folder / name).resolve()
            if not path.is_relative_to(folder):
                raise images.ImageRefused(f"leads out of {folder}; copy the file into that folder")
            return read_regular(path, images.MAX_BYTES)
        except FileNotFoundError as error:
            raise images.ImageRefused(f"does not exist in {self.folder}; paths are relative to that folder") from error
        except images.ImageRefused:
            raise
        except (OSError, ValueError, RuntimeError) as error:  # ValueError: a zero byte; RuntimeError: links in a circle
            raise images.ImageRefused(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _decoded(url: str) -> bytes:
    """The bytes of a data URL. Raises ImageRefused."""
    head = _DATA.match(url)
    if head is None:
        raise images.ImageRefused("must begin with data:image/png;base64, or the like")
    if len(url) > 2 * images.MAX_BYTES:  # base64 takes 4 characters for 3 bytes
        raise images.ImageRefused(f"has more than {images.MAX_BYTES >> 20} MiB; shrink it")
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except ValueError as error:
        raise images.ImageRefused(f"is no base64 ({error}); mend the row") from error


def _name(cell: Any) -> str:
    """What a message calls an image."""
    if isinstance(cell, Mapping) and isinstance(cell.get("path"), str):
        cell = cell["path"]
    if not isinstance(cell, str):
        return "its image"
    if cell[:5].lower() == "data:":
        return f"the data URL {cell[:30]!r}..."
    return repr(cell if len(cell) <= SHOWN else f"{cell[:SHOWN]}...")
