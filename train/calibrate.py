"""What is fitted on held-out photos once training is over: the honesty of the judged IoU, and when a name is absent.

Only every other photo of the ``val`` split is read, so that the other half can tell whether the fit holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from backend.engines.embedded.engine import EmbeddedDecoder
from backend.engines.embedded.evidence import Calibration, Evidence, above_usual
from backend.engines.embedded.from_drawing import decode_object, draw_on, sharpen
from backend.engines.embedded.from_text import Found, compete, text_logits
from backend.engines.embedded.views import Canvas, Reader
from backend.values.features import ImageFeatures
from prompts.encoders.embedded import TextTower, tokenize
from prompts.examples import Examples, example_of, likeness
from prompts.geometry import BoolArray, mask_box
from prompts.kinds import BoxPrompt, PointPrompt, Prompt, PromptSet
from train.data import VOID, Photo
from train.names import Names
from train.rounds import largest_error

Floats = NDArray[np.float64]
ABSENT = 6
OBJECTS, LEAST_SHARE = 3, 0.003
"""How many objects of a photo are asked for, and how much of it each covers at least."""
MOST_INVENTED = 1 / 45
"""Of the absent names that are asked for together with others, how many may be claimed."""
THRESHOLDS = np.linspace(0.02, 0.98, 97)
COSINES = np.linspace(-0.1, 0.8, 91)
EVERYTHING, UNNAMED = (True,) * 8, (True, False, False, True, True, True, True, True)
"""What is heard of the evidence for a region: all of it, and what does not depend on the names that were taught."""
DIFFERENCES = np.linspace(-0.2, 0.4, 61)


def fit_logistic(x: Floats, y: Floats, steps: int = 200) -> tuple[float, float]:
    """Scale and bias for which ``sigmoid(scale * x + bias)`` is closest to ``y`` in 0..1, in cross-entropy."""
    inputs, wanted = torch.from_numpy(x), torch.from_numpy(y)
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(inputs * weights[0] + weights[1], wanted)
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)
    scale, bias = weights.detach().tolist()
    return scale, bias


def best_threshold(scores: Floats, present: NDArray[np.bool_], weights: Floats) -> float:
    """The threshold with the best F1 of presence, by weight."""

    def f1(threshold: float) -> float:
        claimed = weights * (scores >= threshold)
        return float(2 * (claimed * present).sum() / max((claimed + weights * present).sum(), 1e-9))

    return max(THRESHOLDS.tolist(), key=f1)


def evenly(groups: Sequence[str]) -> Floats:
    """Weights with which every group that occurs weighs the same, however often it does."""
    counts = Counter(groups)
    return np.array([1 / counts[group] for group in groups])


def sparing_threshold(scores: Floats, present: NDArray[np.bool_], weights: Floats) -> float:
    """The least threshold from which on at most a share of ``MOST_INVENTED`` of what is absent, by weight, is claimed."""
    absent = weights * ~present

    def sparing(threshold: float) -> bool:
        return float((absent * (scores >= threshold)).sum()) <= MOST_INVENTED * float(absent.sum())

    return min((threshold for threshold in THRESHOLDS.tolist() if sparing(threshold)), default=float(THRESHOLDS[-1]))


def best_cosine(found: Sequence[tuple[NDArray[np.float32], BoolArray]]) -> float:
    """The cosine from which on a place counts as the name, by the mean IoU of the names that are present."""
    return max(COSINES.tolist(), key=lambda cosine: _mean_iou(found, cosine))


def best_difference(found: Sequence[tuple[NDArray[np.float32], BoolArray]]) -> float:
    """The difference of cosines from which on a place counts as what was shown."""
    return max(DIFFERENCES.tolist(), key=lambda difference: _mean_iou(found, difference))


def _mean_iou(found: Sequence[tuple[NDArray[np.float32], BoolArray]], least: float) -> float:
    pairs = [(similarity > least, truth) for similarity, truth in found if truth.any()]
    return float(np.mean([(claimed & truth).sum() / max((claimed | truth).sum(), 1) for claimed, truth in pairs] or [0.0]))


def fit_evidence(evidence: Floats, reached: Floats, weights: Floats, steps: int = 200) -> tuple[float, ...]:
    """Bias and weights for which the logistic of ``evidence (N, F)`` is closest to the IoU that was ``reached (N,)`` in 0..1,
    in cross-entropy; a little drawn to zero, as some evidence says the same.
    """
    inputs = torch.from_numpy(np.concatenate([np.ones((len(evidence), 1)), evidence], axis=1))
    wanted, heavy = torch.from_numpy(reached), torch.from_numpy(weights / weights.sum())
    found = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=steps)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        each = F.binary_cross_entropy_with_logits(inputs @ found, wanted, reduction="none")
        loss = (each * heavy).sum() + 1e-3 * found[1:].square().sum()
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)
    return tuple(round(weight, 5) for weight in found.tolist())


@dataclass(slots=True, eq=False)
class Seen:
    """A decoder that looks at every photo once; the features are kept in half precision."""

    decoder: EmbeddedDecoder
    _kept: dict[str, ImageFeatures] = field(default_factory=dict)

    def features(self, photo: Photo) -> ImageFeatures:
        key = str(photo.row.image)
        if key not in self._kept:
            (fresh,) = self.decoder.encode_images([photo.image])
            self._kept[key] = fresh.compact().halved()
        return self._kept[key].widened()


@dataclass(frozen=True, slots=True)
class Answered:
    """What a name found on a photo: the evidence and the IoU of every region, and whether the name is there."""

    name: str
    source: str
    present: bool
    evidence: tuple[Evidence, ...]
    reached: tuple[float, ...]


def some_places(seen: Seen, photos: Sequence[Photo], many: int = 2048) -> torch.Tensor:
    """Unit vectors ``(B, D)`` of places of photos, about as many of each."""
    dice = np.random.default_rng(0)
    grids = [seen.features(photo).grid.flatten(1).T for photo in photos]
    each = max(1, many // max(len(grids), 1))
    return torch.cat([grid[torch.from_numpy(dice.integers(0, len(grid), each))] for grid in grids]).clone()


def calibrate_scale(seen: Seen, photos: Sequence[Photo], names: Names, start: Calibration) -> Calibration:
    """Text's scale by the pixels of present names, its bias by their IoU."""
    found = _alike_and_there(seen, photos, names)
    similar = np.concatenate([s.ravel() for s, m in found if m.any()]).astype(np.float64)
    truth = np.concatenate([m.ravel() for s, m in found if m.any()]).astype(np.float64)
    scale, _ = fit_logistic(similar * start.text_scale + start.text_bias, truth)
    text_scale = start.text_scale * max(scale, 0.2)
    return replace(start, text_scale=text_scale, text_bias=-text_scale * best_cosine(found))


def calibrate_text(seen: Seen, photos: Sequence[Photo], names: Names, start: Calibration) -> Calibration:
    """The weights of the evidence by what the regions reach, and the score that a name needs, alone and among others, every
    name weighing the same.
    """
    alone = [one for photo, asked in _asked(photos) for one in _answered(seen, photo, asked, names, start, False)]
    fitted = replace(start, evidence=_weights_of(alone, EVERYTHING))
    alone_at, among_at = _thresholds(seen, photos, names, fitted, alone)
    return replace(fitted, presence=alone_at, presence_among=among_at)


def calibrate_strange(seen: Seen, photos: Sequence[Photo], names: Names, start: Calibration) -> Calibration:
    """The same weights and scores of names that nobody taught, by ``photos`` of which such names alone are asked."""
    usual = -start.text_bias / start.text_scale
    lift = start.text_scale * max(0.0, usual - best_cosine(_alike_and_there(seen, photos, names)))
    start, seen.decoder.strange_lift = replace(start, strange_lift=lift), lift
    alone = [one for photo, asked in _asked(photos) for one in _answered(seen, photo, asked, names, start, False)]
    fitted = replace(start, strange=_weights_of(alone, UNNAMED))
    alone_at, among_at = _thresholds(seen, photos, names, fitted, alone)
    sure = [one for one in alone if any(each.vouched for each in one.evidence)]
    scores, present = _scores(sure, fitted)
    vouched_at = best_threshold(scores, present, evenly([one.name for one in sure])) if sure else alone_at
    return replace(fitted, strange_presence=alone_at, strange_among=among_at, vouched_presence=vouched_at)


def _thresholds(
    seen: Seen, photos: Sequence[Photo], names: Names, fitted: Calibration, alone: Sequence[Answered]
) -> tuple[float, float]:
    """The score that a name needs that is asked ``alone``, and among others."""
    among = [
        one for photo, asked in _asked(photos) if photo.absent for one in _answered(seen, photo, asked, names, fitted, True)
    ]
    scores, present = _scores(alone, fitted)
    presence = best_threshold(scores, present, evenly([one.name for one in alone]))
    scores, present = _scores(among, fitted)
    return presence, sparing_threshold(scores, present, evenly([one.source for one in among]))


def _alike_and_there(seen: Seen, photos: Sequence[Photo], names: Names) -> list[tuple[NDArray[np.float32], BoolArray]]:
    """How much places look like the names that are asked ``(h, w)``, and where they are."""
    return [
        (each.numpy(), _on_grid(photo.name_mask(name), each.shape))
        for photo, asked in _asked(photos)
        for name, each in zip(asked, _similarities(seen, photo, asked, names), strict=True)
    ]


def _similarities(seen: Seen, photo: Photo, asked: Sequence[str], names: Names) -> torch.Tensor:
    """How much a photo's places look like names, above what is usual ``(N, h, w)``."""
    vectors = names.vectors[[names.index[name] for name in asked]]
    return above_usual(vectors, seen.features(photo).grid, seen.decoder.taught)


def _answered(
    seen: Seen, photo: Photo, asked: Sequence[str], names: Names, calibration: Calibration, together: bool
) -> list[Answered]:
    """What names find on a photo, each by itself or all together."""
    features = seen.features(photo)
    canvas, vectors = Canvas.of(features), names.vectors[[names.index[name] for name in asked]]
    logits = text_logits(above_usual(vectors, features.grid, seen.decoder.taught), calibration)
    logits = compete(logits, vectors) if together else logits
    with torch.inference_mode():
        found = seen.decoder.find(canvas, logits, vectors)
    return [_one_answer(photo, name, [each for each in found if each.which == k]) for k, name in enumerate(asked)]


def _one_answer(photo: Photo, name: str, found: Sequence[Found]) -> Answered:
    """The regions of one name, each held against every object of it, and where objects are not told apart against the whole
    name, whichever it meets better.
    """
    keys = [key for key, known in photo.row.names.items() if known == name]
    wanted = [photo.ids == key for key in keys]
    wanted += [] if photo.row.kind == "instance" else [photo.name_mask(name)]
    reached = [max((_iou(each.answer.logits > 0, mask, photo.ids == VOID) for mask in wanted), default=0.0) for each in found]
    return Answered(
        name, photo.row.source, bool(photo.name_mask(name).any()), tuple(each.evidence for each in found), tuple(reached)
    )


def _iou(found: BoolArray, wanted: BoolArray, void: BoolArray) -> float:
    return float((found & wanted).sum() / max(int(((found | wanted) & ~void).sum()), 1)) if wanted.any() else 0.0


def _weights_of(answered: Sequence[Answered], heard: Sequence[bool]) -> tuple[float, ...]:
    """Bias and weights of the evidence, of which only what is ``heard`` has any; all zero where nothing was found."""
    rows = [(one.name, each.values, iou) for one in answered for each, iou in zip(one.evidence, one.reached, strict=True)]
    if not rows:
        return (0.0,) * (1 + len(heard))
    return fit_evidence(np.array([row[1] for row in rows]) * heard, np.array([row[2] for row in rows]), np.ones(len(rows)))


def _scores(answered: Sequence[Answered], calibration: Calibration) -> tuple[Floats, NDArray[np.bool_]]:
    """The best score of each name, zero where it found nothing, and whether it is there."""
    best = [max((calibration.of_evidence(each) for each in one.evidence), default=0.0) for one in answered]
    return np.array(best), np.array([one.present for one in answered])


def _asked(photos: Sequence[Photo]) -> list[tuple[Photo, list[str]]]:
    """For each photo the names that are wholly in its mask and some that are absent."""
    dice = np.random.default_rng(0)
    asked = [(p, [*p.text_names(), *dice.permutation(np.array(p.absent, object)).tolist()[:ABSENT]]) for p in photos]
    return [(photo, names) for photo, names in asked if names]


def calibrate_reference(seen: Seen, photos: Sequence[Photo], start: Calibration) -> Calibration:
    """Scale and bias of references, from each photo to the next one that shows the same name."""
    last: dict[str, Examples] = {}
    found: list[tuple[NDArray[np.float32], BoolArray]] = []
    for photo in photos:
        features = seen.features(photo)
        for name in photo.text_names():
            mask = photo.name_mask(name)
            if mask.mean() < 0.01:
                continue
            if name in last:
                alike = likeness(features.grid, last[name])
                found.append((alike.numpy(), _on_grid(mask, alike.shape)))
            last[name] = example_of(features.grid, mask)
    similar = np.concatenate([s.ravel() for s, _ in found]).astype(np.float64)
    scale, _ = fit_logistic(10 * similar, np.concatenate([m.ravel() for _, m in found]).astype(np.float64))
    reference_scale = 10 * max(scale, 0.2)
    return replace(start, reference_scale=reference_scale, reference_bias=-reference_scale * best_difference(found))


def calibrate_quality(seen: Seen, reader: Reader, photos: Sequence[Photo], start: Calibration) -> Calibration:
    """Scale the last layer of the quality so that it meets the IoU that boxes reach on held-out photos, and fit what first
    clicks reach on top of it.
    """
    judged: tuple[list[float], list[float]] = [], []
    reached: tuple[list[float], list[float]] = [], []
    for photo in photos:
        features = seen.features(photo)
        canvas, void = Canvas.of(features), photo.ids == VOID
        for target in _largest(photo):
            for kind, prompt in enumerate(_first_prompts(target)):
                with torch.inference_mode():
                    drawing = draw_on(canvas, PromptSet((prompt,)), None, None)
                    answer = decode_object(reader, canvas, drawing)
                assert answer is not None
                found = sharpen(answer, canvas, drawing).logits > 0
                judged[kind].append(float(np.log(answer.quality / (1 - answer.quality))))
                reached[kind].append(float((found & target).sum() / max(((found | target) & ~void).sum(), 1)))
    scale, bias = fit_logistic(np.array(judged[0]), np.array(reached[0]))
    last = reader.decoder.quality[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.mul_(scale)
        last.bias.mul_(scale).add_(bias)
    marks_scale, marks_bias = fit_logistic(scale * np.array(judged[1]) + bias, np.array(reached[1]))
    return replace(start, marks_scale=marks_scale, marks_bias=marks_bias)


def spoken(tower: TextTower, photos: Sequence[Photo]) -> Names:
    """Every name that occurs in photos or is absent from them, as the text tower says it."""
    names = sorted({name for photo in photos for name in (*photo.row.names.values(), *photo.absent)})
    with torch.inference_mode():
        return Names(tuple(names), tower(tokenize(names)))


def _first_prompts(target: BoolArray) -> tuple[Prompt, Prompt]:
    """The box of an object and a click on its deepest point."""
    box, point = mask_box(target), largest_error(target)
    assert box is not None
    assert point is not None
    x0, y0, x1, y1 = box
    return BoxPrompt((float(x0), float(y0), float(x1), float(y1))), PointPrompt(point)


def _largest(photo: Photo) -> list[BoolArray]:
    """The largest objects of a photo, each in one piece, that cover 0.3 % of it or more."""
    counts = np.bincount(photo.ids.ravel(), minlength=256)[1:VOID]
    found = []
    for key in (1 + np.argsort(-counts)[:OBJECTS]).tolist():
        _, pieces, stats, _ = cv2.connectedComponentsWithStats((photo.ids == key).astype(np.uint8))
        if len(stats) > 1 and stats[1:, cv2.CC_STAT_AREA].max() >= LEAST_SHARE * photo.ids.size:
            found.append(np.asarray(pieces == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()))
    return found


def _on_grid(mask: BoolArray, shape: torch.Size) -> BoolArray:
    share = F.adaptive_avg_pool2d(torch.from_numpy(mask.astype(np.float32))[None], (shape[0], shape[1]))[0]
    return np.asarray(share.numpy() > 0.5)
