"""The embedded engine's decoder and the file of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from backend.engines.embedded.checkpoint import Checkpoint, read_checkpoint
from backend.engines.embedded.evidence import Calibration, Evidence, Least, Taught, are_familiar
from backend.engines.embedded.from_drawing import Drawing, decode_object, draw_on, extent_of, readings, sharpen
from backend.engines.embedded.from_memory import (
    LEAST,
    MOST_REDRAWN,
    Trust,
    alike_as_wholes,
    meanings,
    meant,
    redrawn,
    renamed,
    scores_of,
    what_was_shown,
    worth_of_words,
)
from backend.engines.embedded.from_text import Found, best_of, claims_of, compete, find_all, said_logits
from backend.engines.embedded.network import factor_to, fold_batch_norm
from backend.engines.embedded.places import close_look, encoded_by, find_everything, once_each, resized
from backend.engines.embedded.views import CLASSED, CONTEXT, REGIONS, Answer, Canvas, Reader, chance_of, memory_on, to_masks
from backend.values.errors import SetupError
from backend.values.features import ImageFeatures
from backend.values.masks import MaskSet
from prompts.encoders.embedded import TextTower
from prompts.examples import Examples, likeness
from prompts.geometry import BoolArray, FloatArray, size_of
from prompts.kinds import Image, ObjectMemory, PromptSet
from prompts.memory import Compared, LabelMemory, owner_of
from prompts.space import PromptTokens

SHIPPED = Path(__file__).parents[2] / "weights" / "embedded.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A checkpoint in memory, ready to answer; ``version`` ends with a hash of the file."""

    decoder: EmbeddedDecoder
    tower: TextTower
    calibration: Calibration
    version: str


def read(path: Path) -> Loaded:
    """The checkpoint at ``path``. Raises SetupError where it is missing, broken or made for another network."""
    try:
        found = read_checkpoint(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    except FileNotFoundError as error:
        raise SetupError(f"there are no weights at {path}: give a file that `python -m train` wrote") from error
    except OSError as error:
        raise SetupError(f"the weights {path} cannot be read ({error}): give a file that `python -m train` wrote") from error
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        hint = "give a file that `python -m train` wrote"
        raise SetupError(f"{path} is no checkpoint of the embedded engine ({error}): {hint}") from error
    for network in found.networks.values():
        fold_batch_norm(network)
    decoder = EmbeddedDecoder(found)
    return Loaded(decoder, found.text.eval(), found.calibration, f"embedded-{digest}")


CANVAS_SIDE = 1024
SHOWN = Least(0.15, 0.15, 0.15)
"""The least score of what a reference finds: whoever shows an object expects to find it, so less than a phrase needs."""
TOLD = Least(1e-3, 1e-3, 1e-3)
"""The least score of a region that was weighed already."""
HOPEFUL = 0.4
"""The share of the least score that places foresee if they are grown: of 955 that 20 photos showed for 100 names, 56 % foresaw
less, and none of these grew to what was enough.
"""
NOT_DRAWN = Drawing(PromptSet(()), {}, None, None)
PEAK, OUTSTANDING = 5, 4.0
"""The cells around a peak that are lower, and how far it is above the median of an image, in median deviations."""
FEWEST_SHOWN = 2
"""Images of a label from which on its examples say how far a thing reaches that is drawn."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for: the name that it gets, None for a reference, and the ``least`` score of what is it."""

    label: str | None
    least: Least


class EmbeddedDecoder:
    """A MaskDecoder of about ten million weights, in evaluation mode on one device."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._encoder = checkpoint.encoder
        self._views = reader_of(checkpoint)
        self._calibration = checkpoint.calibration
        self._classifier = checkpoint.classifier
        self.taught = Taught(checkpoint.names, self._classifier.vectors, checkpoint.places, checkpoint.prototypes)
        self.strange_lift = checkpoint.calibration.strange_lift

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image]) -> list[ImageFeatures]:
        """The features of upright RGB images ``(H, W, 3)`` uint8 of any sizes, in order."""
        return [self._encode(image) for image in images]

    def _encode(self, image: Image) -> ImageFeatures:
        (context, grid, regions), (classed,) = encoded_by(self._encoder.backbone, [self._encoder.read, self._classifier], image)
        pixels = torch.from_numpy(_canvas_pixels(image))
        return ImageFeatures(size_of(image), grid, {CONTEXT: context, REGIONS: regions, CLASSED: classed, "pixels": pixels})

    @torch.inference_mode()
    def decode(self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None) -> MaskSet:
        """The masks that the prompts ask for on one image; see MaskDecoder."""
        canvas = Canvas.of(features)
        if not len(prompts) and memory is None:
            return self._decode_everything(canvas)
        previous = chance_of(memory_on(canvas, memory.low_res_logits)) if memory is not None else None
        if prompts.drawn or (previous is not None and not prompts.phrases):
            return self.decode_drawn(canvas, prompts, self._said(tokens, features) if prompts.said else None, previous)
        logits = self._said(tokens, features)
        vectors = torch.cat([tokens.text, what_was_shown(tokens)]).to(logits)
        spoken = self._calibration.least(len(tokens.phrases))
        wanted = [*(Wanted(phrase, spoken) for phrase in tokens.phrases), Wanted(None, SHOWN)][: len(logits)]
        return self._decode_said(canvas, wanted, logits, vectors)

    def _said(self, tokens: PromptTokens, features: ImageFeatures) -> Tensor:
        return said_logits(tokens, features.grid.float(), self._calibration, self.taught)

    @torch.inference_mode()
    def outstanding(self, features: ImageFeatures, tokens: PromptTokens) -> FloatArray:
        """Where the likeness to a phrase or reference is a peak far above what is usual on the image; see SeesAtAGlance."""
        grid, asked = features.grid.float(), torch.cat([self.taught.places_of(tokens.text), tokens.reference])
        if not len(asked):
            return np.zeros((0, 2))
        alike = torch.einsum("nd,dhw->nhw", asked.to(grid), grid)
        middle = alike.flatten(1).median(dim=1).values[:, None, None]
        spread = (alike - middle).abs().flatten(1).median(dim=1).values[:, None, None]
        apart = ((alike - middle) / spread.clamp(min=1e-6)).amax(dim=0)
        highest = F.max_pool2d(apart[None], PEAK, stride=1, padding=PEAK // 2)[0]
        rows, columns = torch.nonzero((apart == highest) & (apart >= OUTSTANDING), as_tuple=True)
        order = apart[rows, columns].argsort(descending=True)
        cells = torch.stack([columns, rows], dim=1)[order].double().cpu().numpy()
        across = (features.size.width / grid.shape[2], features.size.height / grid.shape[1])
        return np.asarray((cells + 0.5) * across, np.float64)

    def places_of(self, features: ImageFeatures) -> Tensor:
        """The joint-space vectors of places; see LearnsLabels."""
        return features.grid

    @torch.inference_mode()
    def meant_by(self, features: ImageFeatures, region: BoolArray) -> Tensor:
        """By the map that names regions and by the classifier; see SumsUpRegions."""
        return meant(features, [region])[0]

    @torch.inference_mode()
    def decode_labels(self, features: ImageFeatures, tokens: PromptTokens, memories: Sequence[LabelMemory]) -> MaskSet:
        """The instances of labels that were taught, and of phrases beside them; see LearnsLabels."""
        canvas, grid, calibration = Canvas.of(features), features.grid.float(), self._calibration
        mine = [[k for k, phrase in enumerate(tokens.phrases) if phrase in memory.phrases] for memory in memories]
        others = [k for k in range(len(tokens.phrases)) if all(k not in rows for rows in mine)]
        compared, said = Compared.of(grid, memories), said_logits(tokens, grid, calibration, self.taught)
        known = are_familiar(tokens.text.to(grid), self.taught.names)
        trust = [
            Trust.of(
                worth_of_words(tokens.text[rows], each, self.taught, calibration), any(known[k] for k in rows), each.images
            )
            for rows, each in zip(mine, memories, strict=True)
        ]
        alike = compared.margins() * calibration.reference_scale + calibration.reference_bias
        shown = torch.stack([each.weigh(alike[k], said[mine[k]]) for k, each in enumerate(trust)])
        words = [tokens.text[rows] if each.is_known else None for rows, each in zip(mine, trust, strict=True)]
        vectors = torch.cat([meanings(memories, words), tokens.text[others].to(grid)])
        competing = compete(torch.cat([shown, said[others]]), vectors)
        is_shown = [True] * len(memories) + [False] * len(others)
        found = self.find(canvas, torch.cat([shown, competing[len(shown) :]]), vectors, is_shown)
        found = self._redrawn(canvas, found, shown, scores_of(compared, found, memories))
        strange = [k for k, each in enumerate(trust) if not each.is_known]
        wholes = alike_as_wholes(features, found, memories, strange)
        found = renamed(compared, found, wholes, strange)
        spoken = calibration.least(len(is_shown))
        scores = [calibration.of_evidence(each.evidence) for each in found]
        for k, score in scores_of(compared, found, memories, wholes).items():
            is_told = trust[found[k].which].is_known and scores[k] >= spoken.taught
            scores[k] = max(score, scores[k]) if is_told else score * (score >= LEAST)
        wanted = [Wanted(memory.label, TOLD) for memory in memories]
        wanted += [Wanted(tokens.phrases[row], spoken) for row in others]
        apart = torch.cat([torch.zeros_like(vectors[: len(memories)]), vectors[len(memories) :]])
        return self._chosen(canvas, wanted, found, scores, apart)

    def _redrawn(self, canvas: Canvas, found: Sequence[Found], shown: Tensor, likely: Mapping[int, float]) -> list[Found]:
        """Regions of labels that were taught as a click finds them, the likeliest few, where ``shown (L, h, w)`` is what looks
        like each label's examples; all others as they are.
        """
        best = set(sorted(likely, key=lambda k: -likely[k])[:MOST_REDRAWN])
        chances = {which: _on_canvas(shown[which], canvas) for which in {found[k].which for k in best}}
        return [redrawn(self._views, canvas, each, chances[each.which]) if k in best else each for k, each in enumerate(found)]

    @torch.inference_mode()
    def decode_drawn_label(
        self, features: ImageFeatures, tokens: PromptTokens, like: LabelMemory, memory: ObjectMemory | None
    ) -> MaskSet:
        """What is drawn, helped by what looks like the examples of its label; see DrawsLabels. Marks alone are answered without
        that help as well, and the answer is the better one: what misled a suggestion would mislead the click that replaces it.
        """
        canvas, calibration = Canvas.of(features), self._calibration
        alike = Compared.of(features.grid.float(), [like]).margins() * calibration.reference_scale + calibration.reference_bias
        previous = chance_of(memory_on(canvas, memory.low_res_logits)) if memory is not None else None
        helps: list[Tensor | None] = [alike if like.images >= FEWEST_SHOWN else None]
        if helps[0] is not None and extent_of(draw_on(canvas, tokens.prompts, previous, None)) is None:
            helps.append(None)
        found = [self.decode_drawn(canvas, tokens.prompts, each, previous) for each in helps]
        return max(found, key=lambda each: float(each.scores.max(initial=0.0)))

    @torch.inference_mode()
    def decode_alternatives(self, features: ImageFeatures, prompts: PromptSet) -> MaskSet:
        """What one click may mean, at every scale; see OffersAlternatives."""
        canvas = Canvas.of(features)
        drawing = draw_on(canvas, prompts, None, None)
        answers = [self._finished(answer, canvas, drawing) for answer in readings(self._views, canvas, drawing)]
        return to_masks(answers, [None] * len(answers), canvas)

    def decode_drawing(self, canvas: Canvas, drawing: Drawing) -> Answer | None:
        """The mask of one object on a canvas, without its edge; None where nothing tells where it is."""
        return decode_object(self._views, canvas, drawing)

    def chance_like(self, canvas: Canvas, examples: Examples) -> NDArray[np.float32]:
        """How likely each place ``(H, W)`` of a canvas shows what examples show, in 0..1."""
        alike = likeness(canvas.features.grid.float(), examples)
        return _on_canvas(alike * self._calibration.reference_scale + self._calibration.reference_bias, canvas)

    def decode_drawn(
        self, canvas: Canvas, prompts: PromptSet, logits: Tensor | None, previous: NDArray[np.float32] | None
    ) -> MaskSet:
        """One mask for each drawn object, helped by what was said, ``logits (M, h, w)``, and by the chance of the last answer
        ``(H, W)`` on the canvas, which goes to the object that it is of.
        """
        objects = list(prompts.objects()) or [prompts]
        said = _on_canvas(logits.amax(dim=0), canvas) if logits is not None and len(logits) else None
        drawings = [draw_on(canvas, each, None, said) for each in objects]
        if previous is not None:
            owner = owner_of([drawing.prompts for drawing in drawings], previous > 0.5)
            drawings = [replace(each, previous=previous if k == owner else None) for k, each in enumerate(drawings)]
        found = [(decode_object(self._views, canvas, drawing), drawing) for drawing in drawings]
        answers = [self._finished(answer, canvas, drawing) for answer, drawing in found if answer is not None]
        label = prompts.phrases[0] if len(prompts.phrases) == 1 else None
        return to_masks(answers, [label] * len(answers), canvas)

    def _finished(self, answer: Answer, canvas: Canvas, drawing: Drawing) -> Answer:
        """The answer to a drawing with its edge, never empty, and with a score that means the same for every drawing."""
        sharp = sharpen(_at_least_its_peak(answer), canvas, drawing)
        return sharp if extent_of(drawing) is not None else replace(sharp, quality=self._calibration.of_marks(sharp.quality))

    def _decode_everything(self, canvas: Canvas) -> MaskSet:
        found = once_each([sharpen(answer, canvas, NOT_DRAWN) for answer in find_everything(self._views, canvas)])
        return to_masks(found, [None] * len(found), canvas)

    def find(
        self, canvas: Canvas, logits: Tensor, vectors: Tensor, shown: Sequence[bool] = (), wanted: Sequence[Wanted] = ()
    ) -> list[Found]:
        """Every region that phrases and references may mean, with what speaks for it, or those alone that may be ``wanted``;
        see ``find_all``. What was ``shown`` and not said is no name that anybody taught, or did not.
        """

        def is_hopeful(which: int, foreseen: Evidence) -> bool:
            return self._calibration.of_evidence(foreseen) >= HOPEFUL * wanted[which].least.of(foreseen)

        claims = claims_of(canvas, logits, vectors, self.taught, self.strange_lift).but_for(shown, logits)
        return find_all(self._views, canvas, claims, self.taught, is_hopeful if wanted else None)

    def _decode_said(self, canvas: Canvas, wanted: Sequence[Wanted], logits: Tensor, vectors: Tensor) -> MaskSet:
        """What maps ``(M, h, w)`` of what is wanted show, whose meanings are ``vectors (M, D)``. Phrases compete for places
        twice: all of them for being there at all, then those that are, so that none loses a part to one that is not.
        """
        found, scores = self._weighed(canvas, wanted, logits, vectors)
        there = sorted({each.which for each, score in self._sufficient(wanted, found, scores)})
        if 0 < len(there) < len(wanted):
            wanted, logits, vectors = [wanted[row] for row in there], logits[there], vectors[there]
            found, scores = self._weighed(canvas, wanted, logits, vectors)
        return self._chosen(canvas, wanted, found, scores, vectors)

    def _weighed(
        self, canvas: Canvas, wanted: Sequence[Wanted], logits: Tensor, vectors: Tensor
    ) -> tuple[list[Found], list[float]]:
        """Every region that what is wanted claims when it competes, and the IoU to expect of each."""
        shown = [each.least is SHOWN for each in wanted]
        said = len(shown) - sum(shown)
        competing = torch.cat([compete(logits[:said], vectors[:said]), logits[said:]])
        found = self.find(canvas, competing, vectors, shown, wanted)
        return found, [self._calibration.of_evidence(each.evidence) for each in found]

    @staticmethod
    def _sufficient(wanted: Sequence[Wanted], found: Sequence[Found], scores: Sequence[float]) -> list[tuple[Found, float]]:
        """The regions whose scores suffice, each with its own."""
        scored = zip(found, scores, strict=True)
        return [(each, score) for each, score in scored if score >= wanted[each.which].least.of(each.evidence)]

    def _chosen(
        self, canvas: Canvas, wanted: Sequence[Wanted], found: Sequence[Found], scores: Sequence[float], vectors: Tensor
    ) -> MaskSet:
        """The regions whose scores suffice, none of them twice, with their edges."""
        there = self._sufficient(wanted, found, scores)
        kept = [there[k] for k in best_of([each for each, _ in there], [score for _, score in there], vectors)]
        answers = (replace(sharpen(each.answer, canvas, NOT_DRAWN), quality=score) for each, score in kept)
        return to_masks(answers, [wanted[each.which].label for each, _ in kept], canvas)


def reader_of(checkpoint: Checkpoint) -> Reader:
    """What reads views: the mask decoder with the backbone as published."""
    return Reader(checkpoint.views, close_look(checkpoint.classifier.backbone))


def _at_least_its_peak(answer: Answer) -> Answer:
    """The answer itself, or, where no place reaches one half, its likeliest places: whoever draws something gets a mask."""
    peak = float(answer.logits.max())
    return answer if peak > 0 else Answer(answer.logits + (0.5 - peak), answer.quality)


def _on_canvas(logits: Tensor, canvas: Canvas) -> NDArray[np.float32]:
    chance = chance_of(logits.float().cpu().numpy())
    wide = (canvas.size.width, canvas.size.height)
    return np.asarray(cv2.resize(chance, wide, interpolation=cv2.INTER_LINEAR), np.float32)


def _canvas_pixels(image: Image) -> Image:
    height, width = image.shape[:2]
    factor = factor_to(CANVAS_SIDE, image.shape)
    if factor >= 1:
        return np.array(image)
    return resized(image, max(1, round(height * factor)), max(1, round(width * factor)))
