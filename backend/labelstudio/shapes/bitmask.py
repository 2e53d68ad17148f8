"""Bitmasks: a PNG whose opaque pixels are the mask."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from PIL import Image

from backend.labelstudio.shapes.base import Json, Role, ShapeValue, area_prompt
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from prompts.geometry import BoolArray, Size
from prompts.kinds import Prompt

LARGEST = 4
"""A bitmask may be stretched to its image; one of more pixels than so many times the image's is not decoded."""
_HEAD = "data:image/png;base64,"


def write(runs: RunLengths) -> list[ShapeValue]:
    """A mask ``(H, W)`` as a PNG with one bit a pixel, 0 transparent and 1 opaque; nothing for an empty mask.

    The page reads alpha alone; this is the smallest form that it draws.
    """
    mask = runs.decode()
    if not mask.any():
        return []
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette([0, 0, 0, 255, 255, 255])
    out = io.BytesIO()
    picture.save(out, "PNG", bits=1, transparency=0)
    return [ShapeValue({"imageDataURL": _HEAD + base64.b64encode(out.getvalue()).decode()})]


def read(value: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of a bitmask: where its PNG, stretched to the image, is not transparent.

    Raises:
        RequestError: it is no PNG, or one that is far larger than the image.
    """
    _, _, body = str(value.get("imageDataURL")).partition("base64,")
    try:
        opened = Image.open(io.BytesIO(base64.b64decode(body, validate=True)), formats=("PNG",))
        if opened.width * opened.height > LARGEST * size.pixels:
            raise RequestError(
                f"a bitmask has {opened.width} x {opened.height} pixels, too many for an image of {size.width} x {size.height}"
            )
        picture = opened.convert("RGBA")
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RequestError(f"a bitmask is no PNG: {error}") from error
    alpha = picture.resize((size.width, size.height), Image.Resampling.NEAREST).getchannel("A")
    mask: BoolArray = np.asarray(alpha) > 0
    return mask


def prompt(value: Json, size: Size, role: Role) -> Prompt | None:
    """What it covers is, is not, or roughly is the object."""
    return area_prompt(read(value, size), role)
