"""Attributes of the labelling config that say how masks are drawn: points, smoothing, what is too small."""

from __future__ import annotations

import numpy as np
import pytest

from backend.labelstudio.answer import write_prediction
from backend.labelstudio.config import read_config
from backend.labelstudio.drawing import Drawing, read_drawing
from backend.labelstudio.request.request import read_predict
from backend.labelstudio.shapes import mask_of
from backend.labelstudio.shapes.outlined import write_polygon
from backend.values.errors import ConfigError
from backend.values.masks import Masks, MaskSet, RunLengths
from backend.values.morphology import smooth
from prompts.geometry import Size
from tests.backend.pictures import disc, square

SIZE = Size(200, 300)


def answered(attributes: str, mask: np.ndarray, label: str = "") -> list[dict]:
    config = (
        f'<View><Image name="image" value="$image"/><PolygonLabels name="outline" toName="image" {attributes}>'
        f'<Label value="cup" {label}/></PolygonLabels></View>'
    )
    (task,) = read_predict({"label_config": config, "tasks": [{"id": 1, "data": {"image": "/a.png"}}]})
    one = MaskSet(
        Masks.of([mask], SIZE), np.ones(1, np.float32), ("cup",), np.zeros((1, 1, 1), np.float16), np.zeros((1, 1), np.float32)
    )
    return list(write_prediction(task, one, "v1")["result"])  # type: ignore[arg-type]


def test_a_budget_of_points_is_kept_and_the_label_goes_before_its_tag() -> None:
    mask = disc(200, 300, 150, 100, 80)
    counts = {}
    for name, attributes, label in (
        ("none", "", ""),
        ("tag", 'maskloom-points="12"', ""),
        ("label", 'maskloom-points="12"', 'maskloom-points="6"'),
    ):
        (region,) = answered(attributes, mask, label)
        counts[name] = len(region["value"]["points"])
    assert counts["label"] <= 6 < counts["tag"] <= 12 < counts["none"] <= 100


@pytest.mark.parametrize("points", [3, 4, 8, 20])
def test_a_mask_with_many_holes_keeps_its_budget_by_filling_the_smallest(points: int) -> None:
    mask = square(200, 300, 50, 10, 180)
    for row in range(4):
        for column in range(4):
            mask &= ~square(200, 300, 62 + 44 * column, 22 + 44 * row, 24)
    (shape,) = write_polygon(RunLengths.of(mask), points)
    assert len(shape.value["points"]) <= max(points, 4)


def test_small_suggestions_are_left_out_and_rough_ones_are_smoothed() -> None:
    assert answered('maskloom-min-area="400"', square(200, 300, 20, 20, 19)) == []
    assert len(answered('maskloom-min-area="400"', square(200, 300, 20, 20, 20))) == 1
    rough = square(200, 300, 0, 40, 80)
    rough[80, 80:140] = True
    (region,) = answered('maskloom-smooth="3"', rough)
    assert not mask_of(region, SIZE)[80, 90:].any()


@pytest.mark.parametrize("mask", [square(200, 300, 0, 0, 60), square(200, 300, 100, 50, 90) & ~disc(200, 300, 140, 90, 12)])
def test_smoothing_a_window_is_smoothing_the_image(mask: np.ndarray) -> None:
    refined = Drawing(smooth=4).refined(RunLengths.of(mask)).decode()
    assert np.array_equal(refined, smooth(mask, 4))


@pytest.mark.parametrize(
    "attribute",
    ['maskloom-points="2"', 'maskloom-points="x"', 'maskloom-smooth="-1"', 'maskloom-min-area="1e3"', 'maskloom-output="x"'],
)
def test_a_value_that_cannot_be_is_told_when_the_config_is_read(attribute: str) -> None:
    name = attribute.partition("=")[0]
    with pytest.raises(ConfigError, match=name):
        read_drawing({name: attribute.partition("=")[2].strip('"')})
    label = f'<Label value="a" {attribute}/>'
    with pytest.raises(ConfigError, match=name):
        read_config(f'<View><Image name="i" value="$i"/><BrushLabels name="b" toName="i">{label}</BrushLabels></View>')
