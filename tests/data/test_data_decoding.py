"""Every kind of picture becomes RGB, every kind of damage becomes one error."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgevit.data import decoding, image_from_bytes, rgb_from_image
from edgevit.errors import DataError


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ramp() -> Image.Image:
    values = np.arange(20 * 30 * 3, dtype=np.int64) % 256
    return Image.fromarray(values.astype(np.uint8).reshape(20, 30, 3))


JPEG = encoded(ramp(), "JPEG")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_colours_are_those_of_pillow(mode: str) -> None:
    image = ramp().convert(mode)
    got = rgb_from_image(image)
    assert got.mode == "RGB"
    assert np.array_equal(np.asarray(got), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_formats(kind: str) -> None:
    got = image_from_bytes(encoded(ramp(), kind))
    assert got.mode == "RGB"
    assert got.size == (30, 20)


def test_transparent_palette_gives_no_warning_and_the_palette_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    got = image_from_bytes(encoded(image, "PNG", transparency=bytes([0, 128])))
    assert np.asarray(got).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    levels = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    got = image_from_bytes(encoded(Image.fromarray(levels), "PNG"))
    expected = np.round(levels / 257).astype(np.uint8)
    assert np.array_equal(np.asarray(got)[..., 1], expected)


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(DataError, match="floating point"):
        image_from_bytes(encoded(Image.new("F", (4, 4)), "TIFF"))


def test_exif_orientation_is_left_alone_as_timm_does() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert image_from_bytes(encoded(ramp(), "JPEG", exif=exif.tobytes())).size == (30, 20)


@pytest.mark.parametrize("data", [b"", b"text", JPEG[: len(JPEG) // 2], JPEG[:20], b"%!PS-Adobe"])
def test_damaged_files(data: bytes) -> None:
    with pytest.raises(DataError) as caught:
        image_from_bytes(data)
    assert caught.value.code == "EV132"
    assert caught.value.why


def test_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data)
    with pytest.raises(DataError):
        image_from_bytes(bomb)


def test_pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 599)
    with pytest.raises(DataError, match="30 x 20 pixels"):
        image_from_bytes(JPEG)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of odd metadata, then reads
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_escapes_as_another_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"]))
    raw = bytearray(encoded(ramp(), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    with contextlib.suppress(DataError):
        assert image_from_bytes(bytes(raw)).mode == "RGB"
