"""Turns the bytes of one image file into an RGB picture, or says why it can't be done.

What comes out equals what timm's evaluation sees (Pillow's `convert("RGB")`: an alpha channel is
dropped, the EXIF orientation is not applied), except for 16-bit grey images, which Pillow clips
and which are scaled to 8 bits here.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgevit.errors import DataError

# Pillow knows more formats; some of them start other programs (EPS) or are not photographs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
)
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 200_000_000

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow's readers raise on damaged files; broken PNG chunks are a SyntaxError."""


def damaged_image_error(why: str) -> DataError:
    """Return the error for one image that can't be used (EV132)."""
    return DataError("EV132", "An image can't be used.", why=why, try_next="Replace the image.")


def image_from_bytes(data: bytes) -> Image.Image:
    """Decode one image file completely; of an animation, the first frame.

    Args:
        data: The file's bytes, in one of `FORMATS`.

    Returns:
        A Pillow image of mode ``RGB``.

    Raises:
        DataError: The file is damaged, truncated, too large or no picture (EV132).
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise damaged_image_error(
                    f"{width} x {height} pixels are more than {MAX_PIXELS:,}."
                )
            image.load()
            return rgb_from_image(image)
    except UnidentifiedImageError as error:
        raise damaged_image_error(f"It is in none of the formats {', '.join(FORMATS)}.") from error
    except DAMAGE as error:
        raise damaged_image_error(f"{type(error).__name__}: {error}") from error


def rgb_from_image(image: Image.Image) -> Image.Image:
    """Return the image as 8-bit RGB.

    Grey is repeated, a palette is looked up, CMYK is inverted as Pillow does it (no colour
    profile), alpha is dropped and 16-bit grey is divided by 257.

    Raises:
        DataError: The pixels are floating point, whose range nobody knows (EV132).
    """
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise damaged_image_error("Its pixels are floating point, so their range is unknown.")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _rgb_from_grey16(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # same colours, and no warning about the palette's alpha
    return image.convert("RGB")


def _rgb_from_grey16(image: Image.Image) -> Image.Image:
    grey16 = np.clip(np.asarray(image).astype(np.int64), 0, 65535)  # [H, W]
    grey = ((grey16 + 128) // 257).astype(np.uint8)  # [H, W], rounded to nearest
    return Image.fromarray(grey).convert("RGB")
