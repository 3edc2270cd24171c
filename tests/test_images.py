"""Image files of every format, kind and fault: one set of pixels under one digest, or one reason."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import sys
import zlib
from ast import literal_eval
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.conftest import ROOT
from zero import images
from zero.errors import Broken
from zero.images import ImageRefused, add, decode, digest_of, load, serve, size
from zero.worker_process import OneWorker


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return images._folder()


def drawn(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    image = Image.new("RGB", size, "navy")
    draw = ImageDraw.Draw(image)
    draw.rectangle((3, 4, 20, 12), fill="red")
    draw.ellipse((18, 8, 36, 26), fill="yellow")
    return image.convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *others: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(others) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("PNG", {"compress_level": 0, "dpi": (300, 300)})],
)
def test_the_same_pixels_have_one_digest_in_every_lossless_file(kind: str, options: dict[str, Any]) -> None:
    digest = add(encoded(drawn(), kind, **options))
    assert digest == digest_of(drawn()) == add(encoded(drawn()))
    assert load(digest).tobytes() == drawn().tobytes()


def test_drawn_pixels_are_the_image_of_their_file() -> None:
    digest = images.put(np.asarray(drawn()))
    assert digest == images.put(np.asarray(drawn())) == add(encoded(drawn()))
    assert load(digest).tobytes() == drawn().tobytes()


def test_lossy_files_are_other_images_that_look_the_same() -> None:
    for kind in ("JPEG", "WEBP"):
        image = load(add(encoded(drawn(), kind, quality=95)))
        assert image.size == (40, 30)
        assert np.abs(np.asarray(image, int) - np.asarray(drawn(), int)).mean() < 12
    assert digest_of(drawn(size=(40, 31))) != digest_of(drawn())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA"])
def test_modes_become_rgb(mode: str) -> None:
    assert decode(encoded(drawn(mode))).tobytes() == drawn(mode).convert("RGB").tobytes()
    assert decode(encoded(drawn(mode).convert("P"), "GIF")).size == (40, 30)


def test_cmyk_and_a_colour_profile() -> None:
    image = decode(encoded(drawn("CMYK"), "JPEG", icc_profile=b"not a profile" * 20))
    assert (image.mode, image.size, image.info) == ("RGB", (40, 30), {})
    assert np.asarray(image)[8, 10].tolist() == pytest.approx([254, 0, 0], abs=30)


def test_transparent_pixels_lie_on_white() -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 128)])
    assert np.asarray(decode(encoded(image)))[0].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]
    palette = drawn("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert decode(encoded(palette, "GIF")).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_lose_their_lower_byte() -> None:
    grey = b"\0" + struct.pack(">3H", 0x0000, 0x80FF, 0xFFFF)
    assert np.asarray(decode(png(3, 1, 16, 0, grey)))[0, :, 0].tolist() == [0, 0x80, 0xFF]
    transparent = chunk(b"tRNS", struct.pack(">H", 0x80FF))
    assert np.asarray(decode(png(3, 1, 16, 0, grey, transparent)))[0, :, 0].tolist() == [0, 0xFF, 0xFF]
    colour = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0, 0)
    assert np.asarray(decode(png(2, 1, 16, 2, colour)))[0].tolist() == [[0x12, 0x56, 0x9A], [0xFF, 0, 0]]
    transparent = chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    assert np.asarray(decode(png(2, 1, 16, 2, colour, transparent)))[0].tolist() == [[255, 255, 255], [255, 0, 0]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int, kind: str) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # the corner at the top on the left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, quality=100))
    assert np.abs(np.asarray(image, int) - upright).mean() < 3


def animation(kind: str) -> bytes:
    return encoded(drawn(), kind, save_all=True, append_images=[drawn().rotate(90)], duration=100)


def scans(count: int) -> bytes:
    data = encoded(drawn(), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + data[-2:]


def compressed_bmp() -> bytes:
    header = struct.pack("<IIIHHIIIIII", 40, 8, 4, 1, 8, 1, 4, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 2000, 0, 0, 14 + 40 + 1024) + header + bytes(1024) + b"\x20\x01\0\1"


REFUSED = {
    "empty": (b"", "is empty"),
    "text": (b"a picture of a cat", "is no image; PNG, JPEG, WebP, GIF and BMP are read"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "is SVG, which is not read"),
    "tiff": (encoded(drawn(), "TIFF"), "is TIFF, which is not read; save it as PNG"),
    "ico": (encoded(drawn(), "ICO"), "is ICO"),
    "pdf": (encoded(drawn(), "PDF"), "is PDF"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(20), "is HEIC"),
    "avif": (b"\0\0\0\x1cftypavif" + bytes(20), "is AVIF"),
    "animated gif": (animation("GIF"), "is animated"),
    "animated png": (animation("PNG"), "is animated"),
    "animated webp": (animation("WEBP"), "is animated"),
    "several": (encoded(drawn(), "MPO", save_all=True, append_images=[drawn()]), "holds several pictures"),
    "pixels": (
        encoded(drawn(size=(41, 30))),
        "has 41 x 30 = 1230 pixels, more than questions.max_pixels=1200; shrink it",
    ),
    "bomb": (png(60000, 60000, 8, 0, b""), "pixels"),
    "bomb of webp": (b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" * 2 + bytes(4), "more pixels than"),
    "scans": (scans(101), "has more than 100 scans"),
    "compressed bmp": (compressed_bmp(), "is a compressed BMP"),
    "header": (encoded(drawn())[:20], "is a PNG file that is broken or cut short"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_reason(name: str, store: Path) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(ImageRefused, match=reason) as caught:
        add(data, max_pixels=1200)
    assert "\n" not in str(caught.value)
    assert not store.exists()


def test_a_file_of_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 1 << 20)
    with pytest.raises(ImageRefused, match="has more than 1 MiB; shrink it"):
        add(bytes((1 << 20) + 1))


@pytest.mark.parametrize("kind", images.FORMATS)
def test_files_that_are_cut_short(kind: str) -> None:
    data = encoded(drawn(size=(200, 150)), kind)
    for length in (len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(ImageRefused, match=f"is a {kind} file that is broken or cut short"):
            decode(data[:length])


def test_a_thousand_mutated_files_are_images_or_reasons() -> None:
    command = [sys.executable, "-m", "tests.mutated_images", "0", "1000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment)
    assert process.returncode == 0, process.stdout + process.stderr
    assert (process.stdout.count("image"), process.stdout.count("raised")) == (1, 0)
    assert all(count > 100 for count in literal_eval(process.stdout).values())


def crashing(stream: Any) -> None:
    """A decoder with a defect: it ends its process for the words in place of pixels."""
    sound = images.decode
    ends: dict[bytes, Callable[[], object]] = {
        b"segfault": lambda: ctypes.string_at(0),
        b"killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        b"exit": lambda: os._exit(3),
        b"memory": lambda: bytes(3 << 30),
        b"forever": lambda: [None for _ in iter(int, 1)],
    }

    def decode(data: bytes, max_pixels: int) -> Image.Image:
        ends.get(data[8:], lambda: None)()
        return sound(data, max_pixels)

    images.decode, images.CPU_S = decode, 0.2
    serve(stream)


def test_a_file_that_ends_its_decoder_is_refused_and_the_next_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = OneWorker("tests.test_images.crashing", ["tests.test_images"])
    monkeypatch.setattr(images, "_DECODER", decoder)
    reasons = {
        b"segfault": r"crashes the decoder \(Segmentation fault\); save it anew",
        b"exit": r"crashes the decoder \(exit code 3\)",
        b"killed": "ended its decoder, which the kernel killed, as it does for memory; shrink it",
        b"memory": "takes over 2 GiB of memory to decode; shrink it",
        b"forever": "takes over 60 s to decode; save it anew",  # the kernel's timer of CPU seconds
    }
    for i, (word, reason) in enumerate(reasons.items()):
        with pytest.raises(ImageRefused, match=reason):
            add(b"\x89PNG\r\n\x1a\n" + word)
        image = drawn(size=(40 + i, 30))
        assert load(add(encoded(image))).tobytes() == image.tobytes()
    assert decoder._warm
    os.kill(decoder._warm.pid, signal.SIGKILL)  # and all its workers with it
    assert add(encoded(drawn(size=(70, 30))))


def test_a_store_that_cannot_be_written_is_told_by_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="Not a directory"):
        add(encoded(drawn()))


def test_a_file_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(drawn(), "JPEG")
    digest = add(data)
    monkeypatch.setattr(images, "_DECODER", None)
    assert add(data) == digest
    with pytest.raises(ImageRefused, match=r"max_pixels=1000;"):  # the limit holds for known files, too
        add(data, max_pixels=1000)


def test_damaged_files_of_the_store_are_noticed_and_made_anew(store: Path) -> None:
    data = encoded(drawn())
    digest = add(data)
    (memo,) = (store / "files").iterdir()
    memo.write_text("nonsense")
    assert add(data) == digest
    file = store / digest[:2] / f"{digest}.png"
    for content in (b"", file.read_bytes()[:60], encoded(drawn().rotate(180))):
        file.write_bytes(content)
        with pytest.raises(Broken, match=rf"image {digest[:12]} is damaged; the same command reads"):
            load(digest)
        file.write_bytes(content[:20])
        with pytest.raises(Broken, match=rf"image {digest[:12]} is damaged; the same command reads"):
            size(digest)
        assert add(data) == digest
        assert load(digest).tobytes() == drawn().tobytes()
    file.unlink()
    for read in (load, size):
        with pytest.raises(Broken, match="No such file"):
            read(digest)


def test_the_size_of_an_image_needs_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {shape: add(encoded(drawn(size=shape))) for shape in ((1, 1), (40, 30), (300, 7))}
    monkeypatch.setattr(images, "load", None)
    assert all(size(digest) == shape for shape, digest in digests.items())


def test_two_processes_write_one_store(tmp_path: Path, store: Path) -> None:
    code = (
        "import sys; from io import BytesIO; from PIL import Image; from zero import images\n"
        "for i in range(40):\n"
        "    file = BytesIO(); Image.new('RGB', (60, 60), (i, 0, 0)).save(file, 'PNG')\n"
        "    print(images.add(file.getvalue())); images.load(images.add(file.getvalue()))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=60)[0].split() for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert first == second
    assert len(set(first)) == 40
    assert sorted(path.stem for path in store.rglob("*.png")) == sorted(first)
    assert not [path for path in store.rglob("*") if path.name.startswith(".")]
