"""Vectors that the page draws: curves as it draws them, vertices in the order of the path, open paths as strokes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.labelstudio.shapes import SHAPES, outlined
from backend.labelstudio.tags import Role
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from prompts.geometry import Size
from prompts.kinds import PolygonPrompt, ScribblePrompt
from tests.backend.pictures import disc, square

SIZE = Size(200, 200)
CIRCLE = 4 / 3 * (np.sqrt(2) - 1)
"""How far, in radii, the control points of a cubic lie from the ends of a quarter of a circle."""


def path(*vertices: dict[str, Any], closed: bool = True) -> dict[str, Any]:
    return {"vertices": list(vertices), "closed": closed}


def corner(name: str, x: float, y: float, before: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": name, "x": x, "y": y, "prevPointId": before, "isBezier": False, **more}


def quarter(name: str, angle: int, before: str | None) -> dict[str, Any]:
    """A vertex of a circle of 40 percent around the middle, with control points along its tangent."""
    out = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])[angle]
    along = np.array([-out[1], out[0]])
    (x, y), *controls = ((50 + 40 * (out + step * along)).tolist() for step in (0, -CIRCLE, CIRCLE))
    pulls = {f"controlPoint{place}": dict(zip("xy", control, strict=True)) for place, control in enumerate(controls, 1)}
    return corner(name, x, y, before, **{**pulls, "isBezier": True})


def test_four_curves_are_a_circle() -> None:
    value = path(*(quarter(f"p{angle}", angle, f"p{angle - 1}" if angle else None) for angle in range(4)))
    mask, true = outlined.read_vector(value, SIZE), disc(200, 200, 100, 100, 80)
    assert (mask & true).sum() / (mask | true).sum() > 0.99


def test_control_points_of_a_straight_vertex_mean_nothing() -> None:
    bent = [corner("a", 10, 10, controlPoint2={"x": 50, "y": 90}), corner("b", 60, 10, "a"), corner("c", 60, 60, "b")]
    straight = [corner("a", 10, 10), corner("b", 60, 10, "a"), corner("c", 60, 60, "b")]
    assert np.array_equal(outlined.read_vector(path(*bent), SIZE), outlined.read_vector(path(*straight), SIZE))


def test_vertices_follow_the_path_and_not_the_list() -> None:
    """A vertex that is put between two others may come last in the list."""
    square_path = [corner("a", 10, 10), corner("b", 60, 10, "a"), corner("d", 10, 60, "c"), corner("c", 60, 60, "b")]
    assert np.array_equal(outlined.read_vector(path(*square_path), SIZE), square(200, 200, 20, 20, 100))


@pytest.mark.parametrize("before", [{}, {"d": "gone"}, {"a": "d"}])
def test_vertices_that_name_no_single_path_count_as_they_come(before: dict[str, str]) -> None:
    names = {"a": None, "b": None, "c": None, "d": None, **before}
    corners = {"a": (10, 10), "b": (60, 10), "c": (60, 60), "d": (10, 60)}
    value = path(*(corner(name, *corners[name], names[name]) for name in corners))
    assert np.array_equal(outlined.read_vector(value, SIZE), square(200, 200, 20, 20, 100))


def test_an_open_path_covers_nothing_and_prompts_as_a_stroke() -> None:
    value = path(corner("a", 10, 50), corner("b", 90, 50, "a"), corner("c", 90, 90, "b"), closed=False)
    assert not outlined.read_vector(value, SIZE).any()
    prompt = SHAPES["vector"].prompt(value, SIZE, Role.FOR)
    assert isinstance(prompt, ScribblePrompt)
    assert prompt.mask[100, 20:180].all()
    assert prompt.mask[100:180, 180].all()
    assert not prompt.mask[140, 100], "the way back from the last vertex to the first is not drawn"


def test_a_closed_path_around_the_object_is_its_outline() -> None:
    value = path(corner("a", 10, 10), corner("b", 60, 10, "a"), corner("c", 60, 60, "b"))
    prompt = SHAPES["vector"].prompt(value, SIZE, Role.FOR)
    assert isinstance(prompt, PolygonPrompt)
    assert np.asarray(prompt.points).tolist() == [[20, 20], [120, 20], [120, 120]]


def test_each_vertex_that_is_written_names_the_one_before_it() -> None:
    (shape,) = outlined.write_vector(RunLengths.of(square(200, 200, 20, 20, 100)))
    vertices = shape.value["vertices"]
    assert shape.value["closed"] is True
    assert [vertex["prevPointId"] for vertex in vertices] == [None, *(vertex["id"] for vertex in vertices[:-1])]
    assert len({vertex["id"] for vertex in vertices}) == len(vertices) == 4


@pytest.mark.parametrize("value", [{}, path(), path({"id": "a", "x": 5}), {"vertices": [{"x": 1, "y": 2}] * 10_001}])
def test_a_path_that_is_none_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        outlined.read_vector(value, SIZE)
