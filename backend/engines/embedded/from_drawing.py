"""What was drawn as masks: what one drawing may mean, the reading that is trusted, and the outline that its colours have.

The outline is the edge step: colours inside and outside are told apart as in GrabCut (Rother et al. 2004), by histograms of
colours instead of mixtures of Gaussians, and a guided filter (He et al. 2013) stands in for its graph cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import assert_never

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.engines.embedded import network
from backend.engines.embedded.network import STRETCHED
from backend.engines.embedded.views import (
    SIDE,
    Answer,
    Canvas,
    Reader,
    Seen,
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
from prompts.kinds import BoxPrompt, DrawnPrompt, Image, MaskPrompt, PointPrompt, PolygonPrompt, PromptSet, ScribblePrompt

MARGIN = 1.4
SLACK = 0.03
"""How far an object may reach beyond its box, as a share of the box."""
LEAST_WINDOW = 32
LIKELY = 0.95
"""The chance of what a mask covers that clicks correct."""
SCALES = (1.0, 0.5, 0.25)
"""Without a box nothing says how large the object is: these shares of the image's long side are tried, of a panorama those of
twice its short side.
"""


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
        for channel, soft in ((network.PREVIOUS, self.previous), (network.SAID, self.said)):
            if soft is not None:
                maps[channel] = look(soft, window, network.MAP_SIDE, outside=0)
        return maps


def draw_on(
    canvas: Canvas, prompts: PromptSet, previous: NDArray[np.float32] | None, said: NDArray[np.float32] | None
) -> Drawing:
    """An object's prompts, given in image pixels, on the canvas. A mask with clicks is an answer that they correct; one alone
    is a rough drawing.
    """
    moved = tuple(_scaled(prompt, canvas) for prompt in prompts.drawn)
    masks = PromptSet(tuple(prompt for prompt in moved if isinstance(prompt, MaskPrompt)))
    if len(masks) and len(prompts.of(PointPrompt)):
        moved = tuple(prompt for prompt in moved if not isinstance(prompt, MaskPrompt))
        before = np.asarray(masks.region(canvas.size) * (2 * LIKELY - 1) + (1 - LIKELY), np.float32)
        previous = before if previous is None else previous
    drawn = PromptSet(moved)
    return Drawing(drawn, drawn_shapes(drawn, canvas.size), previous, said)


def decode_object(reader: Reader, canvas: Canvas, drawing: Drawing) -> Answer | None:
    """The mask of one object; None when nothing positive was said about it."""
    return next(readings(reader, canvas, drawing), None)


def readings(reader: Reader, canvas: Canvas, drawing: Drawing) -> Iterator[Answer]:
    """What a drawing may mean, the likeliest first: one mask where it tells how large the object is, else one for each scale
    that was tried, each looked at again in a window that fits it; none when nothing positive was said.
    """
    windows = first_windows(canvas, drawing)
    if not windows:
        return
    answers = decode_views(reader, canvas, windows, np.stack([drawing.maps(window) for window in windows]))
    for answer in sorted(answers, key=lambda answer: -answer.quality):
        settled = look_again(reader, canvas, drawing, answer) if len(windows) > 1 else answer
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


def look_again(reader: Reader, canvas: Canvas, drawing: Drawing, found: Answer) -> Answer:
    """An answer refined in a window that fits it; one that finds nothing there stays as it was."""
    box = found.box()
    if box is None:
        return found
    window = around(_with_points(box, drawing), MARGIN)
    closer = replace(drawing, previous=chance_of(found.logits)).maps(window)
    (refined,) = decode_views(reader, canvas, [window], closer[None])
    return refined if (refined.logits > 0).any() else found


def first_windows(canvas: Canvas, drawing: Drawing) -> list[Window]:
    """Where to look first: around what is known of the object's extent, else around the clicks at several scales."""
    known = extent_of(drawing)
    if known is not None:
        return [around(_with_points(known, drawing), MARGIN)]
    marks = _positive_marks(drawing)
    if marks is None:
        return [whole(canvas.size)] if drawing.said is not None else []
    short, long = sorted((canvas.size.height, canvas.size.width))
    longest = max(min(long, STRETCHED * short), LEAST_WINDOW)
    extent = max(marks[2] - marks[0], marks[3] - marks[1])
    lengths = [round(longest * scale) for scale in SCALES if longest * scale >= max(1.2 * extent, LEAST_WINDOW)] or [longest]
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


OUTLINE_MARGIN = 1.3
FINE_SIDE = 192
"""Pixels of the view that an outline is found in, at most: a larger thing is looked at closer than the decoder sees it."""
SURE = 2.9
"""Logits beyond this, a chance of 0.95, are not put to the question."""
MARK = 8.0
"""The logit of places that were marked."""
BINS = 20
"""Bins of a colour histogram along each axis of Lab, from the least to the most that the window holds."""
COLOUR = 2.0
"""How much the colour of a place counts beside its logit."""
MOST_ODDS, RARE = 3.0, 1e-4
"""The most that a colour tells, as log odds, and the share of pixels below which it tells little."""
REACH, EVEN = 5, 3e-4
"""How far the guided filter sees, in pixels, and the variance of colours (0..1) that is no edge to it."""
AGREES = 0.5
"""The least IoU with the answer that was given: where colour says something else altogether, it is not heard."""
FITS = 0.8
"""The least IoU of the box around the outcome with the box that was drawn."""
MARKED = 0.6
FAR, STEEP = -8.0, 4.0
FEWEST = 10


def sharpen(answer: Answer, canvas: Canvas, drawing: Drawing) -> Answer:
    """An answer with its edge where colours change, or as it is where they do not tell; marks of the drawing hold."""
    found = answer.box()
    if found is None:
        return answer
    window = around(found, OUTLINE_MARGIN)
    side = min(max(window.length, SIDE), FINE_SIDE)
    logits = np.asarray(look(answer.logits, window, side, outside=FAR), np.float32)
    marks = drawing.maps(window)[[network.POSITIVE, network.NEGATIVE]] > MARKED
    settled = _settled(np.asarray(look(canvas.pixels, window, side), np.uint8), logits, marks)
    if settled is None or _iou(settled, logits > 0) < AGREES:
        return answer
    soft = cv2.GaussianBlur(settled.astype(np.float32), (0, 0), 1.0) * 2 - 1
    sharp = Answer(Seen(np.asarray(soft * STEEP, np.float32), window, canvas.size, FAR), answer.quality)
    return sharp if _fits(sharp, drawing.prompts.boxes) else answer


def _fits(answer: Answer, boxes: NDArray[np.float64]) -> bool:
    """Whether the box around an answer is about the one that was drawn."""
    found = answer.box()
    if found is None or len(boxes) != 1:
        return found is not None
    low, high = np.maximum(boxes[0, :2], found[:2]), np.minimum(boxes[0, 2:], found[2:])
    both = float(np.prod((high - low).clip(min=0)))
    either = float(np.prod(boxes[0, 2:] - boxes[0, :2])) + (found[2] - found[0]) * (found[3] - found[1]) - both
    return both >= FITS * either


def _settled(image: Image, logits: NDArray[np.float32], marks: BoolArray) -> BoolArray | None:
    """The mask ``(S, S)`` that logits, colours and marks for and against ``(2, h, w)`` make; None where one side has too few
    pixels to tell its colours.
    """
    logits = logits.copy()
    wanted, refused = (cv2.resize(mark.astype(np.uint8), logits.shape, interpolation=cv2.INTER_NEAREST) > 0 for mark in marks)
    logits[wanted], logits[refused] = MARK, -MARK
    inside = int((logits > 0).sum())
    if min(inside, logits.size - inside) < FEWEST:
        return None
    unsure = np.abs(logits) < SURE
    logits[unsure] += COLOUR * _colour_odds(image, chance_of(logits))[unsure]
    settled = guided(chance_of(logits), np.asarray(image / np.float32(255), np.float32)) > 0.5
    return np.asarray((settled | wanted) & ~refused)


def _colour_odds(image: Image, chance: NDArray[np.float32]) -> NDArray[np.float32]:
    """The log odds ``(H, W)`` that a pixel of its colour is inside, where ``chance (H, W)`` says what is."""
    place = np.zeros(chance.shape, np.intp)
    for channel in cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB)):
        least, most = np.float32(channel.min()), np.float32(channel.max())
        bins = (np.arange(256, dtype=np.float32) - least) * ((BINS - 0.01) / (most - least + 1))
        place = place * BINS + bins.astype(np.intp)[channel]
    within, beyond = (_histogram(place, weight) for weight in (chance, 1 - chance))
    odds = np.log((within + RARE) / (beyond + RARE)).clip(-MOST_ODDS, MOST_ODDS)
    return np.asarray(odds[place], np.float32)


def _histogram(place: NDArray[np.intp], weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """The share of weight in every bin of colour ``(bins³,)``, each bin mixed with its neighbours."""
    counts = np.asarray(np.bincount(place.ravel(), weight.ravel(), BINS**3), np.float64).reshape((BINS,) * 3)
    for axis in range(3):
        wide = np.pad(counts, [(1, 1) if each == axis else (0, 0) for each in range(3)])
        counts = counts / 2 + (wide.take(range(BINS), axis) + wide.take(range(2, BINS + 2), axis)) / 4
    return counts.ravel() / max(float(counts.sum()), 1e-6)


def guided(soft: NDArray[np.float32], guide: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map ``(H, W)`` that follows the edges of a colour image ``(H, W, 3)``: the guided filter (He et al. 2013, 3.5)."""
    colours, value = [np.asarray(each, np.float32) for each in cv2.split(guide)], _mean(soft)
    means = [_mean(each) for each in colours]
    pairs = [(k, j) for k in range(3) for j in range(k, 3)]
    spread = [_mean(colours[k] * colours[j]) - means[k] * means[j] + EVEN * np.float32(k == j) for k, j in pairs]
    along = [_mean(each * soft) - middle * value for each, middle in zip(colours, means, strict=True)]
    slopes = solved(np.stack(spread), np.stack(along))
    level = value - sum(slope * middle for slope, middle in zip(slopes, means, strict=True))
    followed = [_mean(slope) * each for slope, each in zip(slopes, colours, strict=True)]
    return np.asarray(sum(followed, _mean(level)), np.float32)


def solved(upper: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float32]:
    """What symmetric 3 x 3 matrices, row by row from their diagonals on, ``(6, ...)``, take to ``wanted (3, ...)``, by Cramer's
    rule, which is quicker than a solver.
    """
    (a, b, c, d, e, f), (x, y, z) = upper, wanted
    aa, ab, ac = d * f - e * e, c * e - b * f, b * e - c * d
    bb, bc, cc = a * f - c * c, b * c - a * e, a * d - b * b
    found = np.stack([aa * x + ab * y + ac * z, ab * x + bb * y + bc * z, ac * x + bc * y + cc * z])
    return np.asarray(found / (a * aa + b * ab + c * ac), np.float32)


def _mean(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.blur(array, (2 * REACH + 1,) * 2), np.float32)


def _iou(a: BoolArray, b: BoolArray) -> float:
    return float((a & b).sum() / max(int((a | b).sum()), 1))
