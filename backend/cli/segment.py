"""``maskloom segment``: one photo without Label Studio, prompts as words and numbers, masks as files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cv2
import numpy as np
import typer
from PIL import Image as PillowImage

from backend.cli.terminal import say, say_progress, settings_with_engine
from backend.images.limits import overview
from backend.pictures import PALETTE, paint_masks, write_name
from backend.values.errors import MaskloomError, RequestError
from backend.values.masks import MaskSet, RunLengths
from backend.values.session import ForPrompts
from prompts.geometry import BoolArray, FloatArray, Size
from prompts.kinds import (
    BoxPrompt,
    Image,
    KeyedImage,
    MaskPrompt,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptError,
    PromptSet,
    ReferencePrompt,
    ScribblePrompt,
    read_phrases,
)

if TYPE_CHECKING:
    from backend.segmenter import Segmenter

LoadImage = Callable[[Path], KeyedImage]
STROKE_PIXELS = 3
"""A typed stroke is at least so wide."""


def segment(
    photo: Annotated[Path, typer.Argument(help="An image file.")],
    text: Annotated[list[str] | None, typer.Option(help='What to find: "cat, dog, not the toy".')] = None,
    point: Annotated[list[str] | None, typer.Option(help="A click x,y in pixels.")] = None,
    negative_point: Annotated[list[str] | None, typer.Option(help="A click x,y on what does not belong.")] = None,
    box: Annotated[list[str] | None, typer.Option(help="A box x0,y0,x1,y1 in pixels.")] = None,
    polygon: Annotated[list[str] | None, typer.Option(help="A rough outline x,y,x,y,...")] = None,
    stroke: Annotated[list[str] | None, typer.Option(help="A stroke over the object x,y,x,y,...")] = None,
    mask: Annotated[Path | None, typer.Option(help="A mask image of the object to refine.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Another image that shows such a thing ...")] = None,
    reference_mask: Annotated[Path | None, typer.Option(help="... and a mask image of where.")] = None,
    out: Annotated[Path, typer.Option(help="The picture with the masks over it.")] = Path("masks.png"),
    json_file: Annotated[Path | None, typer.Option("--json", help="The masks as COCO RLE with labels and scores.")] = None,
) -> None:
    """Segment one photo and write the masks, without Label Studio."""
    settings = settings_with_engine()
    if not photo.expanduser().exists():
        raise RequestError(f"there is no file {photo}")
    from backend.assemble import engine_handle, image_files

    say_progress()
    prompts = PhotoPrompts(
        texts=tuple(text or ()),
        points=tuple(point or ()),
        negative_points=tuple(negative_point or ()),
        boxes=tuple(box or ()),
        polygons=tuple(polygon or ()),
        strokes=tuple(stroke or ()),
        mask=mask,
        reference=reference,
        reference_mask=reference_mask,
    )
    segmenter = engine_handle(settings).segmenter()
    answer = segment_photo(photo, prompts, image_files(settings), segmenter)
    answer.write_overlay(out)
    if json_file is not None:
        answer.write_json(json_file)
    for region in answer.masks:
        print(f"{region.label or 'object'}  score {region.score:.2f}  {region.runs.area} pixels")
    if not len(answer.masks):
        print("nothing found")
    say(f"wrote {out}" + (f" and {json_file}" if json_file else ""))


@dataclass(frozen=True, slots=True)
class PhotoPrompts:
    """Prompts as a person types them; numbers are pixels, separated by commas."""

    texts: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    negative_points: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    polygons: tuple[str, ...] = ()
    strokes: tuple[str, ...] = ()
    mask: Path | None = None
    reference: Path | None = None
    reference_mask: Path | None = None

    def read(self, size: Size, load: LoadImage) -> PromptSet:
        """The prompt set for an image of this size. Raises RequestError for what cannot be read, and when nothing is asked."""
        try:
            prompts = PromptSet(tuple(self._read(size, load)))
        except PromptError as error:
            raise RequestError(str(error)) from error
        if not len(prompts):
            known = "--text, --point, --box, --polygon, --stroke, --mask, --reference"
            raise RequestError(f"nothing was asked: give at least one of {known}")
        return prompts

    def _read(self, size: Size, load: LoadImage) -> list[Prompt]:
        found: list[Prompt] = [prompt for text in self.texts for prompt in read_phrases(text)]
        found += [PointPrompt(_pair(text, "--point")) for text in self.points]
        found += [PointPrompt(_pair(text, "--negative-point"), positive=False) for text in self.negative_points]
        found += [BoxPrompt(_four(text, "--box")) for text in self.boxes]
        found += [PolygonPrompt(_pairs(text, "--polygon")) for text in self.polygons]
        found += [ScribblePrompt(_stroke(_pairs(text, "--stroke"), size)) for text in self.strokes]
        if self.mask is not None:
            found.append(MaskPrompt(_mask(load(self.mask), size)))
        if self.reference is not None:
            found.append(self._read_reference(self.reference, load))
        return found

    def _read_reference(self, path: Path, load: LoadImage) -> ReferencePrompt:
        if self.reference_mask is None:
            raise RequestError("--reference shows an image; say with --reference-mask which region of it is meant")
        image = load(path)
        return ReferencePrompt(image, _mask(load(self.reference_mask), image.size))


@dataclass(frozen=True, slots=True)
class PhotoAnswer:
    """The masks of one photo; of one too large to be held, ``shown`` are its masks on the shrunk ``image``."""

    image: Image
    masks: MaskSet
    shown: MaskSet | None = None

    def overlay(self) -> Image:
        """The photo ``(H, W, 3)`` with each mask in a colour of its own and its name beside it."""
        shown = self.masks if self.shown is None else self.shown
        picture = paint_masks(self.image, shown.masks)
        for row, region in enumerate(shown):
            write_name(picture, region.mask, f"{region.label or 'object'} {region.score:.2f}", PALETTE[row % len(PALETTE)])
        return picture

    def write_overlay(self, path: Path) -> None:
        """Write the overlay in the format of the file's ending. Raises RequestError when that cannot be done."""
        try:
            PillowImage.fromarray(self.overlay()).save(path)
        except (OSError, ValueError) as error:
            raise RequestError(f"cannot write the picture {path}: {error}") from error

    def write_json(self, path: Path) -> None:
        """Write size, and for each mask its label, score, box ``[x, y, width, height]``, area and COCO RLE."""
        try:
            path.write_text(json.dumps(self.as_json(), indent=1), encoding="utf-8")
        except OSError as error:
            raise RequestError(f"cannot write {path}: {error.strerror}") from error

    def as_json(self) -> dict[str, object]:
        """The masks as plain values, COCO style."""
        return {
            "size": [self.masks.size.height, self.masks.size.width],
            "masks": [
                {
                    "label": region.label,
                    "score": round(region.score, 4),
                    "bbox": _coco_box(region.runs),
                    "area": region.runs.area,
                    "segmentation": {
                        "size": [self.masks.size.height, self.masks.size.width],
                        "counts": region.runs.coco_counts(),
                    },
                }
                for region in self.masks
            ],
        }


def segment_photo(path: Path, prompts: PhotoPrompts, load: LoadImage, segmenter: Segmenter) -> PhotoAnswer:
    """The masks that prompts ask for on one photo. Raises RequestError for prompts and images that cannot be used."""
    image = load(path)
    (done,) = segmenter.segment([ForPrompts(image, prompts.read(image.size, load))])
    if isinstance(done, MaskloomError):
        raise done
    picture, shown = overview(image, done.masks)
    return PhotoAnswer(picture, done.masks, shown)


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError as error:
        raise RequestError(f"{option} expects numbers separated by commas, got {text!r}") from error


def _pairs(text: str, option: str) -> FloatArray:
    numbers = _numbers(text, option)
    if len(numbers) % 2:
        raise RequestError(f"{option} expects pairs x,y, got the {len(numbers)} numbers {text!r}")
    return np.array(numbers).reshape(-1, 2)


def _pair(text: str, option: str) -> tuple[float, float]:
    numbers = _numbers(text, option)
    if len(numbers) != 2:
        raise RequestError(f"{option} expects x,y in pixels, got {text!r}")
    return numbers[0], numbers[1]


def _four(text: str, option: str) -> tuple[float, float, float, float]:
    numbers = _numbers(text, option)
    if len(numbers) != 4:
        raise RequestError(f"{option} expects x0,y0,x1,y1 in pixels, got {text!r}")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _stroke(path: FloatArray, size: Size) -> BoolArray:
    """A line through points ``(N, 2)`` in pixels, a hundredth of the shorter side wide."""
    canvas = np.zeros((size.height, size.width), np.uint8)
    width = max(STROKE_PIXELS, round(min(size.height, size.width) / 100))
    cv2.polylines(canvas, [np.round(path).astype(np.int32)], False, 1, width)
    return canvas.astype(np.bool_)


def _mask(picture: KeyedImage, size: Size) -> BoolArray:
    """A picture as a mask: every pixel that is not black."""
    if picture.size != size:
        raise RequestError(
            f"expected a mask of {size.width} x {size.height} pixels, got {picture.size.width} x {picture.size.height}"
        )
    mask: BoolArray = np.any(picture.pixels, axis=2)
    return mask


def _coco_box(runs: RunLengths) -> list[int]:
    box = runs.box
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]] if box else [0, 0, 0, 0]
