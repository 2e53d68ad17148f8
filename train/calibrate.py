"""What is fitted on held-out photos once training is over: the honesty of the judged IoU, and when a name is absent.

Only every other photo of the ``val`` split is read, so that the other half can tell whether the fit holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from backend.engines.embedded.edges import sharpen
from backend.engines.embedded.engine import EmbeddedDecoder
from backend.engines.embedded.from_drawing import decode_object, draw_on
from backend.engines.embedded.from_text import Calibration, compete, instances
from backend.engines.embedded.network import ViewDecoder
from backend.engines.embedded.views import Canvas
from prompts.encoders.embedded import TextTower, tokenize
from prompts.geometry import BoolArray, mask_box
from prompts.kinds import BoxPrompt, PointPrompt, Prompt, PromptSet
from prompts.sampler import visual_token
from train.data import VOID, Photo
from train.names import Names
from train.rounds import largest_error

Floats = NDArray[np.float64]
ABSENT = 6
OBJECTS, LEAST_SHARE = 3, 0.003
"""How many objects of a photo are asked for, and how much of it each covers at least."""
PRECISION = 0.9
"""Of the names that are claimed when many are asked for together, how many shall be there."""
THRESHOLDS = np.linspace(0.02, 0.98, 97)
COSINES = np.linspace(0.05, 0.95, 91)


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


def precise_threshold(scores: Floats, present: NDArray[np.bool_], weights: Floats) -> float:
    """The least threshold from which on a share of ``PRECISION`` of what is claimed, by weight, is present."""

    def precise(threshold: float) -> bool:
        claimed = weights * (scores >= threshold)
        return float((claimed * present).sum()) >= PRECISION * float(claimed.sum()) > 0

    return min((threshold for threshold in THRESHOLDS.tolist() if precise(threshold)), default=float(THRESHOLDS[-1]))


def best_cosine(found: Sequence[tuple[NDArray[np.float32], BoolArray]]) -> float:
    """The cosine from which on a place counts as the name, by the mean IoU of the names that are present."""

    def mean_iou(cosine: float) -> float:
        pairs = [(similarity > cosine, truth) for similarity, truth in found if truth.any()]
        return float(np.mean([(claimed & truth).sum() / (claimed | truth).sum() for claimed, truth in pairs] or [0.0]))

    return max(COSINES.tolist(), key=mean_iou)


def calibrate_text(decoder: EmbeddedDecoder, photos: Sequence[Photo], names: Names, start: Calibration) -> Calibration:
    """Text's scale by the pixels of present names, its bias by their IoU, and the presence threshold by absent names too, every
    name weighing the same.
    """
    found: list[tuple[NDArray[np.float32], BoolArray]] = []
    rows: list[tuple[str, bool]] = []
    index = names.index
    for photo, asked in _asked(photos):
        (features,) = decoder.encode_images([photo.image])
        for name in asked:
            similarity = torch.einsum("d,dhw->hw", names.vectors[index[name]], features.grid)
            mask = photo.name_mask(name)
            found.append((similarity.numpy(), _on_grid(mask, similarity.shape)))
            rows.append((name, bool(mask.any())))
    similar = np.concatenate([s.ravel() for s, m in found if m.any()]).astype(np.float64)
    truth = np.concatenate([m.ravel() for s, m in found if m.any()]).astype(np.float64)
    scale, _ = fit_logistic(similar * start.text_scale + start.text_bias, truth)
    text_scale = start.text_scale * max(scale, 0.2)
    text_bias = -text_scale * best_cosine(found)
    scores = [_strongest(torch.from_numpy(s) * text_scale + text_bias) for s, _ in found]
    names_asked, present = [name for name, _ in rows], np.array([there for _, there in rows])
    threshold = best_threshold(np.array(scores), present, evenly(names_asked))
    found_scale = replace(start, text_scale=text_scale, text_bias=text_bias, presence=threshold)
    return replace(found_scale, presence_among=_presence_among(decoder, photos, names, found_scale))


def _presence_among(decoder: EmbeddedDecoder, photos: Sequence[Photo], names: Names, calibration: Calibration) -> float:
    """The presence that a name needs among others, on photos with absent names, every source of them weighing the same."""
    rows: list[tuple[float, bool, str]] = []
    for photo, asked in _asked(photos):
        if photo.absent:
            (features,) = decoder.encode_images([photo.image])
            vectors = names.vectors[[names.index[name] for name in asked]]
            logits = torch.einsum("nd,dhw->nhw", vectors, features.grid) * calibration.text_scale + calibration.text_bias
            for name, each in zip(asked, compete(logits, vectors), strict=True):
                rows.append((_strongest(each), bool(photo.name_mask(name).any()), photo.row.source))
    weights = evenly([source for _, _, source in rows])
    return precise_threshold(np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), weights)


def _strongest(logits: torch.Tensor) -> float:
    """The presence of the likeliest instance of a name; zero where there is none."""
    return max((presence for _, presence in instances(logits)), default=0.0)


def _asked(photos: Sequence[Photo]) -> list[tuple[Photo, list[str]]]:
    """For each photo the names that are wholly in its mask and some that are absent."""
    dice = np.random.default_rng(0)
    return [(p, [*p.text_names(), *dice.permutation(np.array(p.absent, object)).tolist()[:ABSENT]]) for p in photos]


def calibrate_reference(decoder: EmbeddedDecoder, photos: Sequence[Photo], start: Calibration) -> Calibration:
    """Scale and bias of references, from each photo to the next one that shows the same name."""
    last: dict[str, tuple[torch.Tensor, str]] = {}
    found: list[tuple[NDArray[np.float32], BoolArray]] = []
    for photo in photos:
        (features,) = decoder.encode_images([photo.image])
        for name in photo.text_names():
            mask = photo.name_mask(name)
            if mask.mean() < 0.01:
                continue
            if name in last:
                similarity = torch.einsum("d,dhw->hw", last[name][0], features.grid)
                found.append((similarity.numpy(), _on_grid(mask, similarity.shape)))
            last[name] = (visual_token(features, mask)[0], name)
    similar = np.concatenate([s.ravel() for s, _ in found]).astype(np.float64)
    scale, _ = fit_logistic(10 * (similar - 0.6), np.concatenate([m.ravel() for _, m in found]).astype(np.float64))
    reference_scale = 10 * max(scale, 0.2)
    return replace(start, reference_scale=reference_scale, reference_bias=-reference_scale * best_cosine(found))


def calibrate_quality(decoder: EmbeddedDecoder, views: ViewDecoder, photos: Sequence[Photo], start: Calibration) -> Calibration:
    """Scale the last layer of the quality so that it meets the IoU that boxes reach on held-out photos, and fit what first
    clicks reach on top of it.
    """
    judged: tuple[list[float], list[float]] = [], []
    reached: tuple[list[float], list[float]] = [], []
    for photo in photos:
        (features,) = decoder.encode_images([photo.image])
        canvas, void = Canvas.of(features), photo.ids == VOID
        for target in _largest(photo):
            for kind, prompt in enumerate(_first_prompts(target)):
                with torch.inference_mode():
                    drawing = draw_on(canvas, PromptSet((prompt,)), None, None)
                    answer = decode_object(views, canvas, drawing)
                assert answer is not None
                found = sharpen(answer, canvas, drawing).logits > 0
                judged[kind].append(float(np.log(answer.quality / (1 - answer.quality))))
                reached[kind].append(float((found & target).sum() / max(((found | target) & ~void).sum(), 1)))
    scale, bias = fit_logistic(np.array(judged[0]), np.array(reached[0]))
    last = views.quality[-1]
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
