"""The table of shapes: for each tag that draws on images how it is read, how it is written, and what it says as a prompt.

A tag's shape is its functions, in the module of its kind (painted, outlined, marks), and one row of ``SHAPES``; nothing else
knows which tags there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from backend.labelstudio.shapes import marks, outlined, painted
from backend.labelstudio.shapes.base import (
    Json,
    ShapeValue,
    label_of,
    mappings,
    read_number,
    read_value,
    region_id,
    region_kind,
)
from backend.labelstudio.tags import Role
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from prompts.geometry import BoolArray, FloatArray, Size, outline_runs
from prompts.kinds import MaskPrompt, Prompt, PromptError, PromptSet, ScribblePrompt


@dataclass(frozen=True, slots=True)
class Shape:
    """What one tag draws.

    ``read`` makes the mask ``(H, W)`` of a stored region's ``value``; ``write`` the values of a mask, none for an empty one;
    ``says`` what a drawn region means for the object at hand: a prompt, or the area that counts; without it that is what the
    region covers. A shape that ``covers`` nothing is a spot. The ``outline (N, 2)`` in pixels surrounds the mask of ``read``,
    which then need not be drawn, and ``stored`` tells the mask of a value that holds it as runs or as good as that. All raise
    RequestError for what cannot be read. What smart tools send besides is read in ``marks``.
    """

    read: Callable[[Json, Size], BoolArray]
    write: Callable[[RunLengths], list[ShapeValue]]
    says: Callable[[Json, Size, Role], Prompt | BoolArray | None] | None = None
    covers: bool = True
    within: Callable[[RunLengths, int], list[ShapeValue]] | None = None
    outline: Callable[[Json, Size], FloatArray] | None = None
    stored: Callable[[Json, Size], RunLengths | None] | None = None

    def write_with(self, runs: RunLengths, most_points: int) -> list[ShapeValue]:
        """The values of a mask, with so many points at most where the shape has points; 0 for the usual number."""
        return self.within(runs, most_points) if self.within is not None and most_points else self.write(runs)

    def prompt(self, value: Json, size: Size, role: Role) -> Prompt | None:
        """What a drawn region means for the object at hand; None when it covers nothing."""
        said = self.read(value, size) if self.says is None else self.says(value, size, role)
        return area_prompt(said, role) if isinstance(said, np.ndarray) else said


SHAPES: Mapping[str, Shape] = {
    "brush": Shape(painted.read_brush, painted.write_brush, stored=painted.kept_runs),
    "polygon": Shape(
        outlined.read_polygon,
        outlined.write_polygon,
        outlined.prompt_polygon,
        within=outlined.write_polygon,
        outline=outlined.outline_polygon,
    ),
    "bitmask": Shape(painted.read_bitmask, painted.write_bitmask, stored=painted.packed_runs),
    "vector": Shape(
        outlined.read_vector,
        outlined.write_vector,
        outlined.prompt_vector,
        within=outlined.write_vector,
        outline=outlined.outline_area,
    ),
    "ellipse": Shape(outlined.read_ellipse, outlined.write_ellipse, outlined.prompt_ellipse, outline=outlined.outline_ellipse),
    "rectangle": Shape(marks.read_rectangle, marks.write_rectangle, marks.prompt_rectangle, outline=marks.outline_rectangle),
    "keypoint": Shape(marks.read_keypoint, marks.write_keypoint, marks.prompt_keypoint, covers=False),
}
"""Each shape under its name, in the order of ``SHAPE_NAMES``."""


@dataclass(frozen=True, slots=True, eq=False)
class DrawnRegion:
    """One region: its mask ``(H, W)``, its label, and the score of a prediction (1 for what a person drew)."""

    id: str
    mask: BoolArray
    label: str
    score: float


def read_regions(result: Sequence[Json]) -> list[DrawnRegion]:
    """The regions of one annotation or prediction that cover pixels and have a label; points, texts and relations do not.

    Parts of a region that share an id (a shape and its ``labels`` twin) are one. Raises RequestError for a region that
    cannot be read.
    """
    labels = {str(item.get("id")): label for item in mappings(list(result)) if (label := label_of(item))}
    seen: set[str] = set()
    return [region for item in mappings(list(result)) for region in _read(item, labels, seen)]


def _read(item: Json, labels: Mapping[str, str], seen: set[str]) -> Iterator[DrawnRegion]:
    name = str(item.get("id"))
    if not covers_pixels(item) or name not in labels or name in seen:
        return
    seen.add(name)
    mask, score = mask_of(item, size_of_item(item)), item.get("score")
    if mask.any():
        yield DrawnRegion(name, mask, labels[name], float(score) if isinstance(score, int | float) else 1.0)


def size_of_item(item: Json) -> Size:
    """The size of the image that a region was drawn on. Raises RequestError when the region does not tell."""
    if item.get("original_height") is None and item.get("original_width") is None:
        raise RequestError(
            "it does not say how large its image is: Label Studio leaves that out of a region that lies on no image"
        )
    height, width = (round(read_number(item, f"original_{side}")) for side in ("height", "width"))
    if height < 1 or width < 1:
        raise RequestError(f"expected a region on an image of at least 1 x 1 pixel, got {width} x {height}")
    return Size(height, width)


def shape_of(item: Json) -> Shape | None:
    """The shape of a result; None for one that draws nothing (a text, a relation, the ``labels`` twin of a shape)."""
    return SHAPES.get(region_kind(item))


def covers_pixels(item: Json) -> bool:
    """Whether a result is a region with an area."""
    shape = shape_of(item)
    return shape is not None and shape.covers


def mask_of(item: Json, size: Size) -> BoolArray:
    """The mask ``(H, W)`` of a region. Raises RequestError when it cannot be read or is of another size."""
    return SHAPES[region_kind(item)].read(read_value(item), size)


def runs_of(item: Json, size: Size) -> RunLengths:
    """The mask of a region as runs. Raises RequestError when it cannot be read or is of another size."""
    shape, value = SHAPES[region_kind(item)], read_value(item)
    edges = None if shape.outline is None else outline_runs(shape.outline(value, size), size)
    if edges is not None:
        return RunLengths(size, edges.astype(np.uint32))
    stored = None if shape.stored is None else shape.stored(value, size)
    return RunLengths.of(shape.read(value, size)) if stored is None else stored


def area_prompt(mask: BoolArray, role: Role) -> Prompt | None:
    """What a covered area ``(H, W)`` says about the object; None when it covers nothing."""
    if not mask.any():
        return None
    return MaskPrompt(mask) if role is Role.REFINE else ScribblePrompt(mask, role is not Role.AGAINST)


LONGEST_ID = 40


@dataclass(frozen=True, slots=True)
class RegionMark:
    """A region with a role; ``label`` is the class that it says, if any. Equal marks have the same role, label and shape."""

    role: Role
    label: str | None
    digest: str
    item: Json = field(compare=False, repr=False)

    @classmethod
    def of(cls, item: Json, role: Role, label: str | None) -> RegionMark:
        """A region as what its role makes of it; ``label`` is its class."""
        said = json.dumps([item.get("type"), read_value(item)], sort_keys=True, default=str)
        return cls(role, label, hashlib.blake2b(said.encode(errors="surrogatepass"), digest_size=8).hexdigest(), item)

    @property
    def id(self) -> str:
        return region_id(self.item)

    @property
    def short_id(self) -> str:
        """The id or, where it is longer than those of Label Studio itself, a hash of it: imported ids may have any length."""
        digest = hashlib.blake2b(self.id.encode(errors="surrogatepass"), digest_size=LONGEST_ID // 2)
        return self.id if len(self.id) <= LONGEST_ID else digest.hexdigest()

    def prompt(self, size: Size) -> Prompt | None:
        """What it says about the object, in pixels; None for a region that covers no pixel.

        Raises:
            RequestError: the region cannot be read, or lies outside the image.
        """
        kind = region_kind(self.item)
        try:
            said = SHAPES[kind].prompt(read_value(self.item), size, self.role)
            PromptSet((said,) if said is not None else ()).check_against(size)
        except PromptError as error:
            raise RequestError(f"a {kind} region lies outside the image of {size.width} x {size.height} pixels") from error
        return said

    def runs(self, size: Size) -> RunLengths:
        """What it covers. Raises RequestError when the region cannot be read."""
        return runs_of(self.item, size)
