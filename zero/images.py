"""Images as 8-bit RGB pixels under their digests: `add` takes the bytes of a file, `put` pixels that were drawn, `load` gives
the pixels.

A digest is of the pixels that a model sees, not of the file. So two encodings of one picture are one image, metadata changes
nothing, and a run whose decoder gives other pixels than before has other digests, which it refuses to resume with. A
picture that was scaled or compressed anew is another image.

A foreign file is decoded once, by one decoder of FORMATS, in a process of its own: a file that crashes it is refused. The
user's cache folder keeps the pixels as a PNG file of our own, and under the hash of the foreign file their digest, so that
the next run decodes nothing:

images/files/SHA256-VERSION   DIGEST WIDTH HEIGHT
       XX/DIGEST.png          XX: the first two digits

Any file there may be deleted between runs: the next one that needs it writes it again.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import resource
import signal
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zero.errors import Broken
from zero.files import read_regular, replacing, write_atomically
from zero.paths import cache_folder
from zero.records import DIGEST
from zero.worker_process import OneWorker, WorkerDied, send_line

if TYPE_CHECKING:  # a run without images does not import it
    from numpy import ndarray
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_BYTES = 1 << 25  # of a file
MAX_PIXELS = 1 << 24  # by default: 4096 x 4096; the processors of models scale larger ones down
MOST_PIXELS = 1 << 26  # that may be allowed: decoding takes up to 12 bytes a pixel
# A progressive JPEG may repeat scans of a few bytes, each of which costs a pass over all pixels; encoders write about ten
MAX_SCANS = 100
MAX_STORED = 1 << 28  # bytes of a file of the store: MOST_PIXELS that cannot be compressed take fewer
CPU_S = 60.0  # CPU seconds for one file: ten times what the largest one takes
MEMORY = 2 << 30  # bytes of address space of the process that decodes
RUN_FOLDER = "images"  # of a run folder: copies of those that its saved completions show
CANONICAL = 1  # of the rules by which pixels become RGB: part of the names of the files that remember digests

# (offset, bytes there, format); formats that are not read are refused by name
SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyp", "HEIC or a video"),
    (4, b"jP  ", "JPEG 2000"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"8BPS", "PSD"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
)
_DECODER = OneWorker("zero.images.serve", ["zero.images"])
_SVG = re.compile(rb"<svg[\s>]")
_ENTRY = re.compile(rb"([0-9a-f]{64}) ([0-9]{1,9}) ([0-9]{1,9})\n")


class ImageRefused(ValueError):
    """Why bytes are not taken as an image, as the end of a sentence about them: "is animated; save ..."."""


def add(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    """The digest of the image in the bytes of a file; the store has it then.

    Raises ImageRefused, and OSError if the store cannot be written.
    """
    if len(data) > MAX_BYTES:
        raise ImageRefused(f"has more than {MAX_BYTES >> 20} MiB; shrink it")
    memo = _folder() / "files" / f"{hashlib.sha256(data).hexdigest()}-{_version()}"
    if entry := _read_entry(memo):
        digest, width, height = entry
        _refuse_size(width, height, max_pixels)
        if stored(digest).is_file():
            return digest
    try:
        reply = json.loads(_DECODER.ask(pickle.dumps((str(_folder()), data, max_pixels)), 5 * CPU_S))
    except WorkerDied as death:
        raise ImageRefused(_cause(death.code)) from death
    if "refused" in reply:
        raise ImageRefused(reply["refused"])
    if "errno" in reply:
        raise OSError(reply["errno"], reply["strerror"])
    digest, width, height = reply["image"]
    memo.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(memo, f"{digest} {width} {height}\n", sync=False)
    return str(digest)


def serve(stream: Any) -> None:
    """Decode files into the store until the stream ends: a worker of zero/worker_process.py. A pickled (folder, bytes, max_pixels)
    in, {"image": [digest, width, height]}, {"refused"} or {"errno", "strerror"} out."""
    for limit, value in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, MEMORY), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))
    while True:
        try:
            folder, data, max_pixels = pickle.load(stream)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, CPU_S)  # CPU seconds: a busy machine refuses no image
        reply: dict[str, Any]
        try:
            image = decode(data, max_pixels)
            reply = {"image": [_store(image, Path(folder)), *image.size]}
        except ImageRefused as error:
            reply = {"refused": str(error)}
        except MemoryError:
            reply = {"refused": f"takes over {MEMORY >> 30} GiB of memory to decode; shrink it"}
        except OSError as error:
            reply = {"errno": error.errno, "strerror": error.strerror}
        signal.setitimer(signal.ITIMER_PROF, 0)
        send_line(stream, json.dumps(reply))


def warm_up() -> None:
    """Import the decoders before workers are forked."""
    from PIL import Image

    Image.preinit()
    Image.init()


def _cause(code: int | None) -> str:
    """Why a file that ended its worker is refused."""
    if code in (None, -signal.SIGPROF):
        return f"takes over {CPU_S:g} s to decode; save it anew"
    if code == -signal.SIGKILL:
        return "ended its decoder, which the kernel killed, as it does for memory; shrink it"
    return f"crashes the decoder ({signal.strsignal(-code) if code < 0 else f'exit code {code}'}); save it anew"


def put(pixels: ndarray) -> str:
    """The digest of an image that was drawn, uint8 [height, width, 3]; the store has it then. OSError if it cannot be written."""
    from PIL import Image

    return _store(Image.fromarray(pixels), _folder())


def _store(image: Image, folder: Path) -> str:
    digest = digest_of(image)
    path = folder / digest[:2] / f"{digest}.png"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            image.save(partial, "PNG", compress_level=1)
    return digest


def load(digest: str) -> Image:
    """The RGB image of a digest, its pixels verified. Broken if the store does not have it, or not as it was written."""
    from PIL import Image

    path, again = stored(digest), "the same command reads the question files again"
    try:
        content = read_regular(path, MAX_STORED)
    except OSError as error:
        raise Broken(f"image {digest[:12]} cannot be read ({error.strerror}); {again}") from error
    with suppress(OSError, SyntaxError, ValueError):  # the decoder's, for a damaged file
        with Image.open(BytesIO(content), formats=["PNG"]) as file:
            image = file.convert("RGB")
        if digest_of(image) == digest:
            return image
    with suppress(OSError):
        path.unlink()  # else the next run would take it as it is
    raise Broken(f"image {digest[:12]} is damaged; {again}")


def size(digest: str) -> tuple[int, int]:
    """(width, height) of a digest's image in pixels, from the first bytes of its file; if these are damaged as `load`."""
    try:
        with stored(digest).open("rb") as file:
            header = file.read(24)
    except OSError:
        header = b""
    if len(header) < 24 or header[12:16] != b"IHDR":
        return load(digest).size
    return int.from_bytes(header[16:20]), int.from_bytes(header[20:])


def digest_of(image: Image) -> str:
    """64 hex digits: SHA-256 of the size and the pixels of an RGB image."""
    hashed = hashlib.sha256(b"RGB %d %d\n" % image.size)
    hashed.update(image.tobytes())
    return hashed.hexdigest()


def thumbnail(data: bytes, digest: str, side: int) -> bytes:
    """A PNG file of at most `side` pixels a side of the image in a file. ImageRefused if the image is not the one of the digest."""
    image = decode(data)
    if digest_of(image) != digest:
        raise ImageRefused("is another image than its name says")
    image.thumbnail((side, side))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image:
    """The image in the bytes of a file as 8-bit RGB, turned as its EXIF says and laid on white where it is transparent; of 16 bits
    the higher eight, colour profiles ignored. Raises ImageRefused."""
    kind = _format_of(data)
    if kind == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS:
        raise ImageRefused(f"has more than {MAX_SCANS} scans; save it anew")
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=[kind]) as image:
                _refuse_size(*image.size, max_pixels)
                if getattr(image, "is_animated", False):
                    raise ImageRefused("is animated or holds several pictures; save the one that is meant by itself")
                if image.info.get("compression") in (1, 2) and kind == "BMP":  # its decoder is slow Python
                    raise ImageRefused("is a compressed BMP; save it as PNG")
                image.load()
                rgb = _rgb(_upright(image))
    except (ImageRefused, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageRefused(f"has more pixels than questions.max_pixels={max_pixels}; shrink it") from error
    except Exception as error:  # decoders raise a dozen families of errors for broken files
        reason = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({str(error)[:80]})"
        raise ImageRefused(f"is a {kind} file that is broken or cut short{reason}; mend it or drop the row") from error
    rgb.info.clear()  # else a colour profile would be written again
    return rgb


def _format_of(data: bytes) -> str:
    """Its format by the first bytes, whatever a name says. ImageRefused if it is none of FORMATS."""
    if not data:
        raise ImageRefused("is empty; mend it or drop the row")
    kinds = (kind for offset, signature, kind in SIGNATURES if data.startswith(signature, offset))
    kind = next(kinds, "SVG" if _SVG.search(data, 0, 4096) else None)
    if kind is None:
        raise ImageRefused("is no image; PNG, JPEG, WebP, GIF and BMP are read")
    if kind not in FORMATS:
        raise ImageRefused(f"is {kind}, which is not read; save it as PNG")
    return kind


def _refuse_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        size = f"{width} x {height} = {width * height} pixels"
        raise ImageRefused(f"has {size}, more than questions.max_pixels={max_pixels}; shrink it or allow more")


def _upright(image: Image) -> Image:
    """The image turned and mirrored as its EXIF says that it is meant to be seen."""
    from PIL.Image import Transpose as T

    methods = {
        2: T.FLIP_LEFT_RIGHT,
        3: T.ROTATE_180,
        4: T.FLIP_TOP_BOTTOM,
        5: T.TRANSPOSE,
        6: T.ROTATE_270,
        7: T.TRANSVERSE,
        8: T.ROTATE_90,
    }
    method = methods.get(image.getexif().get(0x0112, 1))
    return image if method is None else image.transpose(method)


def _rgb(image: Image) -> Image:
    from PIL import Image as pillow

    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):
        image = _high_byte(image, transparent)
    elif isinstance(transparent, tuple) and max(transparent) > 255:  # of a file of 16 bits, which is read as one of 8
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if image.has_transparency_data:
        white = pillow.new("RGBA", image.size, "white")
        image = pillow.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _high_byte(image: Image, transparent: Any) -> Image:
    """A grey image of 16 bits as one of 8, with the alpha of the one value that is transparent, if there is one."""
    import numpy as np
    from PIL import Image as pillow

    values = np.asarray(image)
    grey = pillow.fromarray((values >> 8).astype(np.uint8))
    if transparent is not None:
        grey.putalpha(pillow.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _folder() -> Path:
    try:
        return cache_folder() / "images"
    except RuntimeError as error:
        raise OSError("this account has no home") from error


def run_path(digest: str) -> str:
    """The file of an image in a run folder, relative to that: zero.image_rows copies it there."""
    return f"{RUN_FOLDER}/{digest}.png"


def stored(digest: str) -> Path:
    """The file of an image in the store. OSError for an account without a home, ValueError for a name that is no digest."""
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"{digest[:80]!r} is no digest")
    return _folder() / digest[:2] / f"{digest}.png"


def _version() -> str:
    """What the pixels of a file depend on: another decoder may round those of a JPEG differently."""
    import PIL

    return f"{CANONICAL}-{PIL.__version__}"


def _read_entry(path: Path) -> tuple[str, int, int] | None:
    """(digest, width, height) of a file that was decoded before."""
    try:
        entry = _ENTRY.fullmatch(read_regular(path, 200))
    except OSError:
        return None
    return (entry[1].decode(), int(entry[2]), int(entry[3])) if entry else None
