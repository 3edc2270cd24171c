"""python -m tests.mutated_images FIRST COUNT: mutated image files through zero.images.add, each an image or a reason.

A seed is one file; `python -m tests.mutated_images SEED 1` repeats what is printed about it.
"""

from __future__ import annotations

import random
import re
import resource
import struct
import sys
import time
from collections import Counter
from functools import cache

from zero import images
from zero.images import ImageRefused

MEMORY = 1 << 30  # bytes of address space of each process
SLOWEST = 2.0  # wall seconds of a file, on a busy machine too
MAX_PIXELS = 1 << 20
DIED = re.compile(r"crashes the decoder|ended its decoder|takes over|\n")


@cache
def sources() -> tuple[bytes, ...]:
    """Small files of every format and mode, with what else may stand in one."""
    from PIL import Image

    from tests.test_images import animation, chunk, compressed_bmp, drawn, encoded, png, scans

    exif = Image.Exif()
    files = [compressed_bmp(), scans(8), *map(animation, ("GIF", "PNG", "WEBP"))]
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        files.append(encoded(drawn(), ("PNG", "JPEG", "WEBP")[orientation % 3], exif=exif))
    files += [encoded(drawn(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    files += [encoded(drawn(mode), "JPEG", progressive=p) for mode in ("L", "RGB", "CMYK") for p in (False, True)]
    files += [encoded(drawn(mode), "WEBP", lossless=lossless) for mode in ("RGB", "RGBA") for lossless in (False, True)]
    files += [encoded(drawn(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")]
    files += [encoded(drawn("P"), kind, transparency=0) for kind in ("GIF", "PNG")]
    files += [encoded(drawn(), "PNG", icc_profile=b"none" * 40), encoded(drawn("L"), "GIF", interlace=1)]
    rows = (b"\0" + struct.pack(">12H", *range(0, 60000, 5000))) * 3
    for colour, transparent in ((0, b"\x13\x88"), (2, b"\0\0\x13\x88\x27\x10")):
        width = 12 if colour == 0 else 4
        files.append(png(width, 3, 16, colour, rows, chunk(b"tRNS", transparent)))
    return tuple(files)


def mutated(seed: int) -> bytes:
    """The file of a seed."""
    rng = random.Random(seed)
    data = bytearray(sources()[seed % len(sources())])
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        most = min(len(data), rng.choice((32, 256, 1 << 20)))  # most of what can go wrong stands in the head
        place = rng.randrange(most)
        match rng.randrange(6):
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                data[place] = rng.randrange(256)
            case 2:  # sizes, offsets and counts
                width = rng.choice((2, 4))
                value = rng.choice((0, 1, 0x7F, 0xFF, 1 << 15, (1 << 16) - 1, 1 << 31, (1 << 32) - 1)) % (
                    1 << 8 * width
                )
                data[place : place + width] = value.to_bytes(width, rng.choice(("big", "little")))
            case 3:
                del data[place : place + rng.randrange(1, 40)]
            case 4:
                data[place:place] = data[place : place + rng.randrange(1, 40)]
            case _:  # a piece of another file
                other = rng.choice(sources())
                start = rng.randrange(len(other))
                data[place : place + rng.randrange(60)] = other[start : start + rng.randrange(1, 200)]
        data = data or bytearray(b"\0")
    return bytes(data[: rng.randrange(1, len(data) + 1)] if rng.random() < 0.1 else data)


def main() -> int:
    first, count = map(int, sys.argv[1:])
    sources()  # drawn before memory is short
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    outcomes: Counter[str] = Counter()
    for seed in range(first, first + count):
        data, start = mutated(seed), time.perf_counter()
        try:
            image = images.load(images.add(data, MAX_PIXELS))
            outcome = "image"
            problem = (
                "" if image.mode == "RGB" and image.width * image.height <= MAX_PIXELS else f"{image.mode} {image.size}"
            )
        except ImageRefused as error:
            outcome = "refused"
            problem = str(error) if DIED.search(str(error)) else ""
        except Exception as error:
            outcome, problem = "raised", repr(error)
        seconds = time.perf_counter() - start
        problem = problem or f"took {seconds:.1f} s" * (
            seconds > SLOWEST and seed > first
        )  # the first starts the decoder
        if problem:
            print(f"seed {seed}: {problem}", flush=True)
            return 1
        outcomes[outcome] += 1
    print(dict(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
