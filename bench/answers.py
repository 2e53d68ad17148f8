"""The answers of every engine that runs without a download to one fixed set of questions: what does a change of code change?

``python -m bench.answers --out before.json`` writes each mask as COCO run lengths; ``--against before.json`` says which answers
differ from them, and fails where one does. The embedded engine sees photos with its weights, the colour engine a drawing; the
engines of foundation models and SEEM have tiny networks with random weights, which always say the same.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from pycocotools import mask as coco

from backend.engines.base import Engine
from backend.engines.catalogue import Placement, find_engine
from backend.segmenter import Segmenter
from backend.values.features import FeatureCache
from backend.values.session import ForEverything, ForNames, ForPrompts, Question, Round
from prompts.geometry import BoolArray, ellipse_outline, polygon_mask, size_of, stroke_mask
from prompts.kinds import (
    BoxPrompt,
    KeyedImage,
    MaskPrompt,
    ObjectMemory,
    PointPrompt,
    PolygonPrompt,
    Prompt,
    PromptSet,
    ReferencePrompt,
    ScribblePrompt,
    TextPrompt,
)
from prompts.phrases import Vocabulary
from tests.backend.engines import tiny_bundles
from tests.backend.engines.seem.conftest import tiny_engine
from tests.backend.pictures import two_red_discs, two_shapes

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Answer = list[dict[str, Any]]
SEEM = ("focaldw_v0", "focaldw_v1", "focaldw_demo", "samvit_v1")
MOST_SIDE = 480
SAME_SCORE = 1e-3


@dataclass(frozen=True)
class Scene:
    """An image ``(H, W, 3)``, another image that references are from, and names of what is on them."""

    image: Pixels
    other: Pixels
    names: tuple[str, str, str]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel at a share of the width and of the height."""
        return x * self.image.shape[1], y * self.image.shape[0]

    def box(self, x0: float, y0: float, x1: float, y1: float) -> BoxPrompt:
        """A box by shares of the width and of the height."""
        return BoxPrompt((*self.at(x0, y0), *self.at(x1, y1)))

    def stroke(self, *path: tuple[float, float]) -> BoolArray:
        """A stroke along such shares, a fortieth of the height wide."""
        path_in_pixels = np.array([self.at(x, y) for x, y in path])
        return stroke_mask(path_in_pixels, self.image.shape[0] / 40, size_of(self.image))


def disc(image: Pixels, share: float) -> BoolArray:
    """An ellipse in the middle of an image that takes a share of both sides."""
    height, width = image.shape[:2]
    return polygon_mask(ellipse_outline(width / 2, height / 2, width * share / 2, height * share / 2, 0), size_of(image))


def questions(scene: Scene) -> dict[str, tuple[Prompt, ...]]:
    """Every kind of prompt, alone and together."""
    click, second, beside = PointPrompt(scene.at(0.5, 0.5)), PointPrompt(scene.at(0.6, 0.4)), scene.at(0.1, 0.1)
    box, small = scene.box(0.25, 0.2, 0.75, 0.85), scene.box(0.05, 0.1, 0.3, 0.5)
    text, other_text = TextPrompt(scene.names[0]), TextPrompt(scene.names[1])
    reference = ReferencePrompt(KeyedImage.of(scene.other), disc(scene.other, 0.5))
    scribble = ScribblePrompt(scene.stroke((0.4, 0.45), (0.55, 0.55), (0.6, 0.5)))
    return {
        "text": (text,),
        "two texts": (text, other_text),
        "text and negative text": (text, TextPrompt(scene.names[1], positive=False)),
        "text and box": (text, box),
        "click": (click,),
        "two clicks": (click, second),
        "clicks of both signs": (click, PointPrompt(beside, positive=False)),
        "box": (box,),
        "two boxes": (box, small),
        "box and click": (box, click),
        "box and negative click": (box, PointPrompt(scene.at(0.7, 0.3), positive=False)),
        "scribble": (scribble,),
        "scribbles of both signs": (scribble, ScribblePrompt(scene.stroke((0.1, 0.1), (0.2, 0.1)), positive=False)),
        "polygon": (PolygonPrompt(np.array([scene.at(*p) for p in ((0.5, 0.2), (0.8, 0.5), (0.5, 0.8), (0.2, 0.5))])),),
        "mask": (MaskPrompt(disc(scene.image, 0.4)),),
        "reference": (reference,),
        "reference and click": (reference, click),
        "text and negative reference": (
            text,
            ReferencePrompt(KeyedImage.of(scene.other), disc(scene.other, 0.5), positive=False),
        ),
        "negative click": (PointPrompt(beside, positive=False),),
    }


def masks_of(segmenter: Segmenter, question: Question) -> tuple[Answer, Any]:
    """The answer as rows of label, score and run lengths, and the memory of its first object."""
    (done,) = segmenter.segment([question])
    if not isinstance(done, Round):
        return [{"error": str(done)}], None
    rows = done.masks
    logits = rows.low_res_logits[0] if len(rows) else None
    return [
        {"label": rows.labels[k], "score": round(float(rows.scores[k]), 6), "rle": run_lengths(rows.masks[k])}
        for k in range(len(rows))
    ], logits


def run_lengths(mask: BoolArray) -> dict[str, Any]:
    """A mask as COCO's compressed run lengths, whose bytes are text."""
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def answers(engine: Engine, scene: Scene) -> Iterator[tuple[str, Answer]]:
    """The answers of an engine to every question about a scene, to its names, to "everything", and to a second round."""
    image, segmenter = KeyedImage.of(scene.image), Segmenter(engine, FeatureCache(1 << 28))
    for kind, prompts in questions(scene).items():
        answer, logits = masks_of(segmenter, ForPrompts(image, PromptSet(prompts)))
        yield kind, answer
        if logits is not None and kind in ("click", "box"):
            more = PromptSet((*prompts, PointPrompt(scene.at(0.45, 0.6))))
            memory = ObjectMemory(logits, engine.version)
            yield f"{kind}, then another click", masks_of(segmenter, ForPrompts(image, more, memory=memory))[0]
    vocabulary = Vocabulary.from_names(list(scene.names))
    yield "names", masks_of(segmenter, ForNames(image, vocabulary))[0]
    yield "everything", masks_of(segmenter, ForEverything(image, vocabulary))[0]
    click = PromptSet((PointPrompt(scene.at(0.5, 0.5)),))
    yield "alternatives of a click", masks_of(segmenter, ForPrompts(image, click, vocabulary, alternatives=3))[0]


def photo(name: str) -> Pixels:
    """A photo of scikit-image, made small."""
    import skimage.data

    picture = Image.fromarray(getattr(skimage.data, name)())
    picture.thumbnail((MOST_SIDE, MOST_SIDE))
    return np.array(picture.convert("RGB"))


def photos() -> dict[str, Scene]:
    """Scenes for the embedded engine."""
    cat, coffee, astronaut = photo("chelsea"), photo("coffee"), photo("astronaut")
    return {
        "cat": Scene(cat, astronaut, ("cat", "person", "cup")),
        "coffee": Scene(coffee, cat, ("cup", "spoon", "cat")),
        "astronaut": Scene(astronaut, cat, ("person", "rocket", "cat")),
    }


def drawings() -> dict[str, Scene]:
    """A scene for the engines that know nothing of photos."""
    return {"drawing": Scene(two_shapes().image, two_red_discs().image, ("blue square", "red disc", "giraffe"))}


def tiny(name: str) -> Engine:
    """An engine of foundation models with tiny random ones."""
    with tempfile.TemporaryDirectory() as folder:
        return find_engine(name).load(tiny_bundles.write_bundle(name, Path(folder)), Placement("cpu", "float32"))


def engines() -> dict[str, tuple[Callable[[], Engine], Callable[[], dict[str, Scene]]]]:
    """How each engine is made, and what it is asked about."""
    found: dict[str, tuple[Callable[[], Engine], Callable[[], dict[str, Scene]]]] = {
        "colour": (lambda: find_engine("colour").load(None), drawings),
        "embedded": (lambda: find_engine("embedded").load(None), photos),
    }
    for name in tiny_bundles.FAMILIES:
        found[name] = (lambda name=name: tiny(name), drawings)  # type: ignore[misc]
    for name in SEEM:
        found[f"seem {name}"] = (lambda name=name: tiny_engine(name), drawings)  # type: ignore[misc]
    return found


def all_answers(names: list[str]) -> dict[str, Answer]:
    """Every answer by engine, scene and kind of question."""
    found = {}
    for name, (make, scenes) in engines().items():
        if names and name not in names:
            continue
        engine = make()
        for scene_name, scene in scenes().items():
            for kind, answer in answers(engine, scene):
                found[f"{name} / {scene_name} / {kind}"] = answer
    return found


def difference(before: Answer, after: Answer) -> str | None:
    """What differs between two answers in words; None when masks and labels are equal and scores nearly so."""
    if any("error" in row for row in (*before, *after)):
        return None if before == after else f"{_short(before)} became {_short(after)}"
    if len(before) != len(after):
        return f"{len(before)} masks became {len(after)}"
    told = []
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if old["label"] != new["label"]:
            told.append(f"{number}: label {old['label']!r} became {new['label']!r}")
        if old["rle"] != new["rle"]:
            told.append(f"{number}: IoU {float(coco.iou([old['rle']], [new['rle']], [0])[0, 0]):.4f}")
        if abs(old["score"] - new["score"]) > SAME_SCORE:
            told.append(f"{number}: score {old['score']:.3f} became {new['score']:.3f}")
    return "; ".join(told) or None


def _short(answer: Answer) -> str:
    return next((row["error"] for row in answer if "error" in row), f"{len(answer)} masks")


def digest(found: dict[str, Answer]) -> str:
    """A short name of all answers, scores left out."""
    shown = {name: [[row.get("label"), row.get("rle"), row.get("error")] for row in rows] for name, rows in found.items()}
    return hashlib.blake2b(json.dumps(shown, sort_keys=True).encode(), digest_size=8).hexdigest()


def main(
    out: Annotated[Path | None, typer.Option(help="Where the answers are written.")] = None,
    against: Annotated[Path | None, typer.Option(help="Answers to compare with.")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="Only this engine; may be given several times.")] = None,
) -> None:
    """Ask every engine, write the answers, compare them."""
    found = all_answers(engine or [])
    masks = sum("rle" in row for rows in found.values() for row in rows)
    print(f"{len(found)} questions, {masks} masks, digest {digest(found)}")
    if out:
        out.write_text(json.dumps(found, indent=0))
    if against is None:
        return
    before = json.loads(against.read_text())
    told = {name: difference(before[name], found[name]) for name in found if name in before}
    for name, words in told.items():
        if words:
            print(f"{name}: {words}")
    missing = [name for name in before if name not in found and (not engine or name.split(" / ")[0] in engine)]
    print(
        f"{sum(words is None for words in told.values())} of {len(told)} equal; not asked again: {', '.join(missing) or 'none'}"
    )
    if missing or any(told.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
