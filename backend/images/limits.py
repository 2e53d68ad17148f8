"""The two refusals of what is too large: files by their bytes, images by their pixels."""

from __future__ import annotations

from backend.images.options import BYTES_SETTING, PIXELS_SETTING
from backend.values.errors import ImageError


def too_large(most_bytes: int) -> ImageError:
    """The refusal of a file above the limit."""
    return ImageError(f"it is larger than the limit of {most_bytes:,} bytes; raise {BYTES_SETTING} if it is meant to be read")


def check_pixels(width: int, height: int, most_pixels: int) -> None:
    """Raise ImageError when an image has more than ``most_pixels``."""
    if width * height > most_pixels:
        raise ImageError(
            f"it has {width} x {height} pixels, more than the limit of {most_pixels:,}; "
            f"raise {PIXELS_SETTING} if it is meant to be read"
        )
