"""The kinds of prompt, as values: a closed union; every match over it ends in ``assert_never``, so that whoever forgets a kind
does not type-check."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

import numpy as np
from numpy.typing import NDArray

from prompts.geometry import BoolArray, FloatArray, Size, box_mask, polygon_mask, size_of

Image = NDArray[np.uint8]
"""An upright RGB image, ``(H, W, 3)``."""


@dataclass(frozen=True, slots=True)
class KeyedImage:
    """The ``pixels (H, W, 3)`` of an upright RGB image, which nobody may change, and the ``key`` of their content.

    Whoever reads a file has a digest of it at hand, so that nobody needs to hash pixels.
    """

    pixels: Image = field(compare=False, repr=False)
    key: str

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(f"expected uint8 pixels (H, W, 3), got {self.pixels.dtype} of shape {self.pixels.shape}")

    @classmethod
    def of(cls, pixels: Image) -> KeyedImage:
        """An image that comes without a key: its pixels are hashed, 72 MB of them for 24 megapixels."""
        digest = hashlib.sha256(np.ascontiguousarray(pixels).data, usedforsecurity=False)  # processors have instructions for it
        digest.update(repr(pixels.shape).encode())
        view = pixels.view()
        view.setflags(write=False)
        return cls(view, digest.hexdigest()[:32])

    @property
    def size(self) -> Size:
        return size_of(self.pixels)


class PromptError(ValueError):
    """A prompt that cannot mean anything; the message says what was expected and what came."""


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A noun phrase; a negative one says what the answer must not be."""

    phrase: str
    positive: bool = True

    def __post_init__(self) -> None:
        if not self.phrase.strip():
            raise PromptError("expected a phrase, got an empty text")


@dataclass(frozen=True, slots=True)
class PointPrompt:
    """A click at ``xy`` pixels."""

    xy: tuple[float, float]
    positive: bool = True

    def __post_init__(self) -> None:
        if not np.isfinite(self.xy).all():
            raise PromptError(f"expected a point of finite pixels, got {self.xy}")


@dataclass(frozen=True, slots=True)
class BoxPrompt:
    """An upright box ``(x0, y0, x1, y1)`` in pixels around one object."""

    xyxy: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.xyxy
        if not np.isfinite(self.xyxy).all() or x1 < x0 or y1 < y0:
            raise PromptError(f"expected a box (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, got {self.xyxy}")


@dataclass(frozen=True, slots=True, eq=False)
class ScribblePrompt:
    """Brush strokes, rendered: ``mask (H, W)``."""

    mask: BoolArray
    positive: bool = True

    def __post_init__(self) -> None:
        _check_mask(self.mask)


@dataclass(frozen=True, slots=True, eq=False)
class PolygonPrompt:
    """A rough outline ``points (N, 2)`` in pixels around one object."""

    points: FloatArray

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 2 or len(self.points) < 3:
            raise PromptError(f"expected at least 3 points (N, 2), got an array of shape {self.points.shape}")
        if not np.isfinite(self.points).all():
            raise PromptError("expected a polygon of finite pixels, got one with infinite or missing coordinates")


@dataclass(frozen=True, slots=True, eq=False)
class MaskPrompt:
    """A mask ``(H, W)`` of the object to refine."""

    mask: BoolArray

    def __post_init__(self) -> None:
        _check_mask(self.mask)


@dataclass(frozen=True, slots=True, eq=False)
class ReferencePrompt:
    """A region ``mask (H, W)`` of an ``image``, another one or the same: "like this one there"."""

    image: KeyedImage
    mask: BoolArray
    positive: bool = True

    def __post_init__(self) -> None:
        _check_mask(self.mask)
        if self.image.size != size_of(self.mask):
            raise PromptError(f"expected a mask as large as its image {self.image.pixels.shape[:2]}, got {self.mask.shape}")


DrawnPrompt = PointPrompt | BoxPrompt | ScribblePrompt | PolygonPrompt | MaskPrompt
"""What lies on the image that is asked about."""
Prompt = TextPrompt | ReferencePrompt | DrawnPrompt
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Everything that was said about one image in one question."""

    prompts: tuple[Prompt, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def of(self, kind: type[_Kind]) -> tuple[_Kind, ...]:
        """The prompts of one kind, in the order in which they were given."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, kind))

    @property
    def phrases(self) -> tuple[str, ...]:
        """The positive phrases."""
        return tuple(prompt.phrase for prompt in self.of(TextPrompt) if prompt.positive)

    @property
    def point_coords(self) -> FloatArray:
        """Every click ``(N, 2)``, in pixels."""
        return np.array([prompt.xy for prompt in self.of(PointPrompt)], np.float64).reshape(-1, 2)

    @property
    def point_labels(self) -> NDArray[np.int64]:
        """1 for a positive click and 0 for a negative one, ``(N,)``."""
        return np.array([int(prompt.positive) for prompt in self.of(PointPrompt)], np.int64)

    @property
    def boxes(self) -> FloatArray:
        """Every box ``(N, 4)`` as ``(x0, y0, x1, y1)`` pixels."""
        return np.array([prompt.xyxy for prompt in self.of(BoxPrompt)], np.float64).reshape(-1, 4)

    @property
    def drawn(self) -> tuple[DrawnPrompt, ...]:
        """What was drawn on this image: everything but text and references."""
        return tuple(prompt for prompt in self.prompts if not isinstance(prompt, TextPrompt | ReferencePrompt))

    @property
    def said(self) -> tuple[Prompt, ...]:
        """What was not drawn on this image: text and references."""
        return self.of(TextPrompt) + self.of(ReferencePrompt)

    def region(self, size: Size, *, positive: bool = True) -> BoolArray:
        """Every pixel ``(H, W)`` that the drawn prompts of one sign cover; boxes count as filled."""
        region = np.zeros((size.height, size.width), np.bool_)
        for prompt in self.drawn:
            if _is_positive(prompt) == positive:
                region |= _cover(prompt, size)
        return region

    def objects(self) -> Iterator[PromptSet]:
        """One prompt set for each object that is drawn: every box is an object, and so is everything drawn outside all
        boxes. Clicks and scribbles inside a box refine that box's object; with one box or none there is one object.
        Text and references go along with each.
        """
        boxes = self.of(BoxPrompt)
        if len(boxes) < 2:
            if self.drawn:
                yield self
            return
        owners: list[list[Prompt]] = [[box] for box in boxes]
        loose: list[Prompt] = []
        for prompt in self.drawn:
            if not isinstance(prompt, BoxPrompt):
                owner = next((k for k, box in enumerate(boxes) if _touches(prompt, box)), None)
                (loose if owner is None else owners[owner]).append(prompt)
        if any(_is_positive(prompt) for prompt in loose):
            owners.append(loose)
        for group in owners:
            yield PromptSet((*group, *self.said))

    def check_against(self, size: Size) -> None:
        """Raise PromptError when something drawn does not lie on an image of this size."""
        for prompt in self.drawn:
            if isinstance(prompt, ScribblePrompt | MaskPrompt):
                if size_of(prompt.mask) != size:
                    raise PromptError(f"expected a mask of {size.height} x {size.width} pixels, got {prompt.mask.shape}")
            elif not _cover_lies_inside(prompt, size):
                raise PromptError(f"{_in_words(prompt)} lies outside the image of {size.width} x {size.height} pixels")


@dataclass(frozen=True, slots=True)
class ObjectMemory:
    """The answer of the previous round about the same object.

    ``low_res_logits (h, w)`` are the previous mask in the decoder's own resolution; ``space`` is the version of the engine
    that made them, because another engine must not read them.
    """

    low_res_logits: NDArray[np.float16]
    space: str


def _in_words(prompt: DrawnPrompt) -> str:
    """What was drawn and where, in pixels, as a person would say it."""
    x, y = _anchor(prompt).min(axis=0).tolist()
    return f"the {type(prompt).__name__.removesuffix('Prompt').lower()} at ({x:g}, {y:g})"


def _check_mask(mask: BoolArray) -> None:
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise PromptError(f"expected a bool mask (H, W), got {mask.dtype} of shape {mask.shape}")


def _is_positive(prompt: Prompt) -> bool:
    match prompt:
        case TextPrompt() | PointPrompt() | ScribblePrompt() | ReferencePrompt():
            return prompt.positive
        case BoxPrompt() | PolygonPrompt() | MaskPrompt():
            return True
        case _:
            assert_never(prompt)


def _cover(prompt: DrawnPrompt, size: Size) -> BoolArray:
    match prompt:
        case PointPrompt(xy=(x, y)):
            return box_mask((x, y, x, y), size)
        case BoxPrompt():
            return box_mask(prompt.xyxy, size)
        case ScribblePrompt() | MaskPrompt():
            return prompt.mask
        case PolygonPrompt():
            return polygon_mask(prompt.points, size)
        case _:
            assert_never(prompt)


def _anchor(prompt: DrawnPrompt) -> FloatArray:
    """Where a drawn prompt lies: points ``(N, 2)`` in pixels."""
    match prompt:
        case PointPrompt():
            return np.array([prompt.xy], np.float64)
        case BoxPrompt(xyxy=(x0, y0, x1, y1)):
            return np.array([[x0, y0], [x1, y1]], np.float64)
        case PolygonPrompt():
            return prompt.points
        case ScribblePrompt() | MaskPrompt():
            return np.argwhere(prompt.mask)[:, ::-1].astype(np.float64) + 0.5
        case _:
            assert_never(prompt)


def _touches(prompt: DrawnPrompt, box: BoxPrompt) -> bool:
    x0, y0, x1, y1 = box.xyxy
    points = _anchor(prompt)
    inside = (points[:, 0] >= x0) & (points[:, 0] <= x1) & (points[:, 1] >= y0) & (points[:, 1] <= y1)
    return bool(inside.any())


def _cover_lies_inside(prompt: DrawnPrompt, size: Size) -> bool:
    """Whether the prompt's box meets the image; the far edge counts as inside, as the editor rounds to it."""
    points = _anchor(prompt)
    low, high = points.min(axis=0), points.max(axis=0)
    return bool((high >= 0).all() and low[0] <= size.width and low[1] <= size.height)


_NEGATION = re.compile(r"^\s*(?:not|no|without|except|-|!)\s+(?:an?\s+|the\s+)?(?P<phrase>\S.*)$", re.IGNORECASE)
_SEPARATOR = re.compile(r"\s*[,;\n]\s*|\.\s+|\.\s*$")


def read_phrases(text: str) -> tuple[TextPrompt, ...]:
    """A typed line as text prompts: phrases are separated by commas, semicolons, full stops or lines, and one that
    begins with "not", "no", "without" or "except" is negative ("cup, not the saucer").
    """
    prompts = []
    for part in split_phrases(text):
        negation = _NEGATION.match(part)
        prompts.append(TextPrompt(negation["phrase"], positive=False) if negation else TextPrompt(part))
    return tuple(dict.fromkeys(prompts))


def split_phrases(text: str) -> list[str]:
    """The parts of a typed line between commas, semicolons, full stops and lines."""
    return list(filter(None, map(str.strip, _SEPARATOR.split(text))))
