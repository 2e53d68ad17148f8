"""One drawn object to one mask: where to look, at which scale, and a second look at what was found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import assert_never

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.engines.embedded import prompt_features
from backend.engines.embedded.network import ViewDecoder
from backend.engines.embedded.views import (
    Answer,
    Canvas,
    Window,
    around,
    chance_of,
    decode_views,
    drawn_shapes,
    look,
    near,
    prompt_maps,
    whole,
)
from prompts.geometry import BoolArray, Size, box_mask, clip_box, mask_box, size_of
from prompts.kinds import BoxPrompt, DrawnPrompt, MaskPrompt, PointPrompt, PolygonPrompt, PromptSet, ScribblePrompt

MARGIN = 1.4
SLACK = 0.03
"""How far an object may reach beyond its box, as a share of the box."""
SCALES = (1.0, 0.5, 0.25)
"""Without a box nothing says how large the object is: these shares of the image's long side are tried."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What is known about one object on the canvas: the prompts, the areas they cover, and two soft maps ``(H, W)`` in 0..1:
    the previous answer, and how much each place looks like what was said. Either may be None.
    """

    prompts: PromptSet
    shapes: dict[str, BoolArray]
    previous: NDArray[np.float32] | None
    said: NDArray[np.float32] | None

    def maps(self, window: Window) -> NDArray[np.float32]:
        """All prompt maps ``(6, 48, 48)`` of a window."""
        maps = prompt_maps(self.prompts, self.shapes, window)
        for channel, soft in ((prompt_features.PREVIOUS, self.previous), (prompt_features.SAID, self.said)):
            if soft is not None:
                maps[channel] = look(soft, window, prompt_features.MAP_SIDE, outside=0)
        return maps


def draw_on(
    canvas: Canvas, prompts: PromptSet, previous: NDArray[np.float32] | None, said: NDArray[np.float32] | None
) -> Drawing:
    """An object's prompts, given in image pixels, on the canvas."""
    moved = PromptSet(tuple(_scaled(prompt, canvas) for prompt in prompts.drawn))
    return Drawing(moved, drawn_shapes(moved, canvas.size), previous, said)


def decode_object(decoder: ViewDecoder, canvas: Canvas, drawing: Drawing) -> Answer | None:
    """The mask of one object; None when nothing positive was said about it."""
    return next(readings(decoder, canvas, drawing), None)


def readings(decoder: ViewDecoder, canvas: Canvas, drawing: Drawing) -> Iterator[Answer]:
    """What a drawing may mean, the likeliest first: one mask where it tells how large the object is, else one for each scale
    that was tried, each looked at again in a window that fits it; none when nothing positive was said.
    """
    windows = first_windows(canvas, drawing)
    if not windows:
        return
    answers = decode_views(decoder, canvas, windows, np.stack([drawing.maps(window) for window in windows]))
    for answer in sorted(answers, key=lambda answer: -answer.quality):
        settled = look_again(decoder, canvas, drawing, answer) if len(windows) > 1 else answer
        yield _kept_inside(settled, drawing) if len(drawing.prompts.boxes) else settled


def _kept_inside(answer: Answer, drawing: Drawing) -> Answer:
    """The answer without what lies outside the drawn boxes, each a little grown, and outside what else was drawn."""
    size = size_of(answer.logits)
    allowed = np.zeros(answer.logits.shape, np.bool_)
    for x0, y0, x1, y1 in drawing.prompts.boxes.tolist():
        across, down = SLACK * (x1 - x0) + 1, SLACK * (y1 - y0) + 1
        allowed |= box_mask((x0 - across, y0 - down, x1 + across, y1 + down), size)
    for x, y in drawing.prompts.point_coords[drawing.prompts.point_labels == 1].tolist():
        if not allowed[clip_box((x, y, x, y), size)[1], clip_box((x, y, x, y), size)[0]]:
            return answer
    outside = ~(allowed | drawing.shapes.get("positive", allowed) | drawing.shapes.get("rough", allowed))
    return Answer(np.where(outside, np.minimum(answer.logits, -4), answer.logits).astype(np.float32), answer.quality)


def look_again(decoder: ViewDecoder, canvas: Canvas, drawing: Drawing, found: Answer) -> Answer:
    """An answer refined in a window that fits it; one that finds nothing there stays as it was."""
    box = found.box()
    if box is None:
        return found
    window = around(_with_points(box, drawing), MARGIN)
    closer = replace(drawing, previous=chance_of(found.logits)).maps(window)
    (refined,) = decode_views(decoder, canvas, [window], closer[None])
    return refined if (refined.logits > 0).any() else found


def first_windows(canvas: Canvas, drawing: Drawing) -> list[Window]:
    """Where to look first: around what is known of the object's extent, else around the clicks at several scales."""
    known = extent_of(drawing)
    if known is not None:
        return [around(_with_points(known, drawing), MARGIN)]
    marks = _positive_marks(drawing)
    if marks is None:
        return [whole(canvas.size)] if drawing.said is not None else []
    longest = max(canvas.size.height, canvas.size.width)
    extent = max(marks[2] - marks[0], marks[3] - marks[1])
    lengths = [round(longest * scale) for scale in SCALES if longest * scale >= max(1.2 * extent, 32)] or [longest]
    middle = ((marks[0] + marks[2]) / 2, (marks[1] + marks[3]) / 2)
    return [near(middle, length, canvas.size) for length in lengths]


def extent_of(drawing: Drawing) -> tuple[float, float, float, float] | None:
    """The box around everything that tells how large the object is; None when only marks do not."""
    if drawing.previous is not None:
        before = mask_box(drawing.previous > 0.5)
        if before is not None:
            return before
    boxes = [tuple(box) for box in drawing.prompts.boxes]
    if "rough" in drawing.shapes:
        rough = mask_box(drawing.shapes["rough"])
        boxes += [rough] if rough is not None else []
    return _union(boxes) if boxes else None


def _with_points(box: tuple[float, float, float, float], drawing: Drawing) -> tuple[float, float, float, float]:
    marks = _positive_marks(drawing)
    return box if marks is None else _union([box, marks])


def _positive_marks(drawing: Drawing) -> tuple[float, float, float, float] | None:
    """The box around positive clicks and strokes."""
    points = drawing.prompts.point_coords[drawing.prompts.point_labels == 1]
    boxes = [(x, y, x, y) for x, y in points.tolist()]
    if "positive" in drawing.shapes:
        stroke = mask_box(drawing.shapes["positive"])
        boxes += [stroke] if stroke is not None else []
    return _union(boxes) if boxes else None


def _union(boxes: list[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    corners = np.array(boxes, np.float64)
    low, high = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _scaled(prompt: DrawnPrompt, canvas: Canvas) -> DrawnPrompt:
    """A drawn prompt in canvas pixels."""
    across, down = canvas.scale
    match prompt:
        case PointPrompt(xy=(x, y)):
            return PointPrompt((x * across, y * down), prompt.positive)
        case BoxPrompt(xyxy=(x0, y0, x1, y1)):
            return BoxPrompt((x0 * across, y0 * down, x1 * across, y1 * down))
        case PolygonPrompt():
            return PolygonPrompt(prompt.points * (across, down))
        case ScribblePrompt():
            return ScribblePrompt(_resized(prompt.mask, canvas.size), prompt.positive)
        case MaskPrompt():
            return MaskPrompt(_resized(prompt.mask, canvas.size))
        case _:
            assert_never(prompt)


def _resized(mask: BoolArray, size: Size) -> BoolArray:
    if mask.shape == (size.height, size.width):
        return mask
    resized: BoolArray = cv2.resize(mask.astype(np.float32), (size.width, size.height), interpolation=cv2.INTER_AREA) > 0.3
    return resized
