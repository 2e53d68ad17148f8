"""Masks that were written as regions are read back, whatever shape they were written as."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from backend.labelstudio.shapes import SHAPES, painted, read_regions
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from tests.backend.pictures import disc, square

DISC, SQUARE = disc(60, 80, 40, 30, 20), square(60, 80, 20, 10, 30)


def region(kind: str, value: dict[str, Any], **others: Any) -> dict[str, Any]:
    head = {"id": "a", "type": f"{kind}labels", "original_width": 80, "original_height": 60, "score": 0.5}
    return {**head, "value": {**value, f"{kind}labels": ["Cat"]}, **others}


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    return float((mask & other).sum() / (mask | other).sum())


@pytest.mark.parametrize(
    ("kind", "mask", "least"),
    [
        ("brush", DISC, 1.0),
        ("bitmask", DISC, 1.0),
        ("polygon", DISC, 0.93),
        ("rectangle", SQUARE, 1.0),
        ("ellipse", DISC, 0.97),
    ],
)
def test_every_shape_is_read_as_the_mask_that_it_was_written_from(kind: str, mask: np.ndarray, least: float) -> None:
    (shape,) = SHAPES[kind].write(RunLengths.of(mask))
    (found,) = read_regions([region(kind, shape.value)])
    assert (found.label, found.score) == ("Cat", 0.5)
    assert iou(found.mask, mask) >= least


def png(pixels: np.ndarray) -> dict[str, Any]:
    """A bitmask's value with these pixels ``(H, W, 4)``."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return {"imageDataURL": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()}


def test_of_a_bitmask_alpha_alone_counts_and_it_is_stretched_to_the_image() -> None:
    white_outside = np.full((60, 80, 4), 255)
    white_outside[..., 3] = 0
    white_outside[DISC] = (0, 0, 0, 1)
    (found,) = read_regions([region("bitmask", png(white_outside))])
    assert np.array_equal(found.mask, DISC)
    (stretched,) = read_regions([region("bitmask", png(white_outside[::2, ::2]))])
    assert iou(stretched.mask, DISC) > 0.9


@pytest.mark.parametrize("transparency", [0, bytes([0, 255]), bytes([0])])
def test_a_bitmask_with_a_palette_is_opaque_where_its_palette_is(transparency: int | bytes) -> None:
    picture, buffer = Image.fromarray(DISC.astype(np.uint8)), io.BytesIO()
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.save(buffer, "PNG", bits=1, transparency=transparency)
    value = {"imageDataURL": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()}
    (found,) = read_regions([region("bitmask", value)])
    assert np.array_equal(found.mask, DISC)


def test_a_bitmask_without_transparency_covers_its_image_as_the_page_shows_it() -> None:
    buffer = io.BytesIO()
    Image.fromarray(DISC.astype(np.uint8)).save(buffer, "PNG")
    value = {"imageDataURL": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()}
    (found,) = read_regions([region("bitmask", value)])
    assert found.mask.all()


def test_a_bitmask_that_is_far_larger_than_its_image_is_not_decoded() -> None:
    with pytest.raises(RequestError, match="500 x 500 pixels, too many for an image of 80 x 60"):
        read_regions([region("bitmask", png(np.zeros((500, 500, 4))))])


@given(arrays(np.bool_, (60, 80)))
def test_any_brush_mask_survives(mask: np.ndarray) -> None:
    found = read_regions([region("brush", shape.value) for shape in painted.write_brush(RunLengths.of(mask))])
    assert len(found) == mask.any()
    assert all(np.array_equal(each.mask, mask) for each in found)


def test_a_shape_and_its_label_under_one_id_are_one_region() -> None:
    (shape,) = painted.write_brush(RunLengths.of(DISC))
    head = {"id": "a", "original_width": 80, "original_height": 60}
    twins = [
        {**head, "type": "brush", "value": shape.value},
        {**head, "type": "labels", "value": {**shape.value, "labels": ["Dog"]}},
    ]
    (found,) = read_regions(twins)
    assert (found.label, found.score) == ("Dog", 1.0)


def test_points_texts_and_regions_without_a_label_are_left_out() -> None:
    (shape,) = painted.write_brush(RunLengths.of(DISC))
    others = [
        region("keypoint", {"x": 1, "y": 2, "width": 1}),
        {"id": "t", "type": "textarea", "value": {"text": ["cat"]}},
        {"id": "r", "type": "relation"},
        {"id": "b", "type": "brush", "original_width": 80, "original_height": 60, "value": shape.value},
    ]
    assert read_regions(others) == []


@given(st.dictionaries(st.sampled_from(["points", "rle", "imageDataURL", "x", "format"]), st.none() | st.text(max_size=5)))
def test_what_cannot_be_read_is_said(value: dict[str, Any]) -> None:
    for kind in ("brush", "polygon", "rectangle", "ellipse", "bitmask"):
        with pytest.raises(RequestError):
            read_regions([region(kind, value)])
