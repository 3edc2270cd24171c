"""Crossings as images: the streets that meet there, and the landmark beside them, seen from above with the walker's way upwards.

A landmark's name is its shape, "Red Ring", "ring", or has one in SIGNS. Without a colour it has the one that its city gives to its
shape: in harbor each shape another one, in desert all the same. So whoever has learnt colours in place of shapes is lost in desert.
A pixel has the colour that its centre has, in whole numbers: the images are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from zero import images
from zero.errors import InputError

if TYPE_CHECKING:  # --help does not need it
    from numpy import ndarray

RGB = tuple[int, int, int]
Scene = tuple[tuple[int, ...], str, str]  # arms, landmark and side, as `draw` takes them

CELLS = 48  # of the plan: its side; lengths below are in cells
ROAD, LANE = 4, 3  # half the width of the road ahead and of another arm
PLACE, REACH = 14, 9  # of a landmark: how far its middle lies to the side and ahead, and half its width
SMALLEST, LARGEST = 16, 1024  # pixels

COLOURS: dict[str, RGB] = {
    "red": (220, 40, 40),
    "blue": (40, 80, 230),
    "yellow": (240, 210, 40),
    "purple": (140, 50, 170),
    "orange": (245, 140, 30),
    "pink": (250, 130, 190),
    "brown": (125, 75, 35),
    "black": (25, 25, 30),
    "white": (250, 250, 250),
    "cyan": (30, 190, 200),
}
# Whether a point is of the shape: x to the right and y downwards, from -r to r
SHAPES: dict[str, Callable[[Any, Any, int], Any]] = {
    "circle": lambda x, y, r: x * x + y * y <= r * r,
    "square": lambda x, y, r: abs(x) < 2 * r,
    "triangle": lambda x, y, r: 2 * abs(x) <= y + r,
    "diamond": lambda x, y, r: abs(x) + abs(y) <= r,
    "plus": lambda x, y, r: (3 * abs(x) <= r) | (3 * abs(y) <= r),
    "ring": lambda x, y, r: (x * x + y * y <= r * r) & (4 * (x * x + y * y) > r * r),
    "moon": lambda x, y, r: (x * x + y * y <= r * r) & (4 * x * x + (2 * y + r) ** 2 > 3 * r * r),
    "arch": lambda x, y, r: (2 * abs(x) > r) | (2 * y < -r),
    "hourglass": lambda x, y, r: abs(x) <= abs(y),
    "stairs": lambda x, y, r: (3 * y > r) | ((3 * y > -r) & (3 * x < r)) | (3 * x < -r),
}
# The landmarks of the embedded tokenizer, whose words say nothing of a shape -> what stands there
SIGNS = {
    "apples": "circle",
    "Sam": "square",
    "Tom": "triangle",
    "Ann": "diamond",
    "Lily": "plus",
    "coins": "ring",
    "shells": "moon",
    "Ben": "arch",
    "Mia": "hourglass",
    "books": "stairs",
}
# Eighths of a turn clockwise from straight ahead -> the way that an arm takes
_WAYS = ((0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1))
BEHIND = 4
_SIDES = {"left": (-1, -1), "right": (1, -1), "left behind": (-1, 1), "right behind": (1, 1)}


@dataclass(frozen=True)
class City:
    """Colours of a city; `shapes` has the one of each shape, in the order of SHAPES."""

    ground: RGB
    road: RGB
    shapes: tuple[str, ...]


CITIES = {
    "harbor": City((190, 220, 190), (110, 115, 120), tuple(COLOURS)),
    "desert": City((120, 100, 80), (205, 190, 160), ("white",) * len(SHAPES)),
}


@dataclass(frozen=True)
class Views:
    """How crossings are seen. InputError for an unknown city or a size that cannot be drawn, with keys of `questions.rows`."""

    city: str
    pixels: int = CELLS  # of a side
    digests: dict[Scene, str] = field(default_factory=dict, compare=False, repr=False)  # of what was seen so far

    def __post_init__(self) -> None:
        if self.city not in CITIES:
            raise InputError("questions.rows.city", self.city, f"must be one of {', '.join(CITIES)}, or null for texts")
        if type(self.pixels) is not int or not SMALLEST <= self.pixels <= LARGEST:
            remedy = f"must be a whole number from {SMALLEST} to {LARGEST}"
            raise InputError("questions.rows.pixels", self.pixels, remedy)

    def digest(self, scene: Scene) -> str:
        """The digest of what is seen; zero.images has it then. InputError if it cannot be written."""
        try:
            if scene not in self.digests:
                self.digests[scene] = images.put(draw(CITIES[self.city], self.pixels, *scene))
            return self.digests[scene]
        except OSError as error:
            remedy = f"the store of images in the cache folder cannot be written ({error.strerror or error}); "
            raise InputError("questions", "views", f"{remedy}name another folder: XDG_CACHE_HOME=FOLDER") from error


def can_draw(landmark: str) -> bool:
    """Whether a landmark's name says how it looks."""
    colour, shape = _look(landmark)
    return shape in SHAPES and (not colour or colour in COLOURS)


def _look(landmark: str) -> tuple[str, str]:
    """Colour and shape of a landmark; "" for the city's colour."""
    colour, _, shape = SIGNS.get(landmark, landmark.lower()).rpartition(" ")
    return colour, shape


def draw(city: City, pixels: int, arms: tuple[int, ...], landmark: str, side: str) -> ndarray:
    """The view, uint8 [pixels, pixels, 3].

    arms      the streets of a crossing, in eighths of a turn clockwise from straight ahead; (): a road that goes straight on
    landmark  its name; "" if there is none
    side      where it is, of the walker: left, right, left behind, right behind; "" without a landmark
    """
    canvas = _streets(city, pixels, arms).copy()
    if landmark:
        colour, shape = _look(landmark)
        right, down = _SIDES[side]
        rows, y = _around(pixels, down * PLACE)
        columns, x = _around(pixels, right * PLACE)
        inside = SHAPES[shape](*_grid(x, y), REACH * 2 * pixels)
        canvas[rows, columns][inside] = COLOURS[colour or city.shapes[list(SHAPES).index(shape)]]
    return canvas


@lru_cache(maxsize=128)
def _streets(city: City, pixels: int, arms: tuple[int, ...]) -> ndarray:
    import numpy as np

    cell = 2 * pixels
    x, y = _grid(_centres(pixels), _centres(pixels))
    canvas = np.empty((pixels, pixels, 3), np.uint8)
    canvas[:] = city.ground
    for arm in arms or (0, BEHIND):
        right, down = _WAYS[arm]
        half = (ROAD if arm in (0, BEHIND) else LANE) * cell
        # a diagonal way is longer by the square root of two, and so is what is measured along and across it
        across = right * y - down * x
        canvas[(right * x + down * y >= 0) & (across * across <= half * half * (1 + arm % 2))] = city.road
    if arms:
        canvas[x * x + y * y <= (2 * LANE * cell) ** 2] = city.road
    return canvas


def _centres(pixels: int) -> ndarray:
    """Where the middles of the pixels of a row are, from the middle of the view. A cell is 2 x `pixels` units: all are whole."""
    import numpy as np

    return CELLS * (2 * np.arange(pixels, dtype=np.int64) + 1 - pixels)


def _around(pixels: int, middle: int) -> tuple[slice, ndarray]:
    """The pixels of a row that lie within REACH of a cell, and where they are from it."""
    import numpy as np

    places = _centres(pixels) - middle * 2 * pixels
    first, end = np.searchsorted(places, (-REACH * 2 * pixels, REACH * 2 * pixels + 1))
    return slice(int(first), int(end)), places[first:end]


def _grid(x: ndarray, y: ndarray) -> tuple[ndarray, ndarray]:
    import numpy as np

    return tuple(np.meshgrid(x, y))
