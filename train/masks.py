"""Stage three: the mask decoder, trained on simulated prompts and on the clicks that correct its own answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backend.engines.embedded.network import ViewDecoder
from backend.engines.embedded.places import Backbone, close_look
from backend.engines.embedded.views import as_images, looked_at, shrunk
from train import scenery
from train.crops import LARGE, PLAIN, SMALL, cut, paste, products, recolour
from train.data import CUTOUTS, VOID, Photo
from train.hints import Hints
from train.loop import Parts, Plan, fit, made_ahead, mixed_precision
from train.rounds import View, correct, make_view

BATCH = 16
MOST_ROUNDS = 6
WEIGHTS = {
    "coco_mini": 4.0, "coco_person": 1.2, "ccp_clothing": 1.0, "dsb2018_nuclei": 0.5, "magnetic_tile_defects": 0.5,
    "car_parts": 0.7, "imagenet_grabcut": 1.0, "caltech101_natural": 0.8, "grocery_natural": 0.8,
}  # fmt: skip
"""How often a photo of a source is drawn."""
PASTED = 0.12
"""How often a photo with things pasted on it is drawn: as many are made before training as there are things."""
PASTED_SIDE = 384
EMPTY = 0.15
"""How often a photo of one thing on an empty background is drawn: without any, a click on such a thing finds a part of it."""
AROUND = 0.07
"""How often what surrounds things is drawn: without any, a box or a click on a road or a wall finds things on it."""


class Views:
    """Endless training views of objects and parts; one thread may draw while another corrects."""

    def __init__(self, photos: Sequence[Photo], seed: int) -> None:
        self._dice, self._later = (np.random.default_rng([seed, stream]) for stream in range(2))
        masked = [p for p in photos if p.row.mask and p.row.source != CUTOUTS and p.regions]
        shown = [p for p in masked if p.row.source not in PLAIN]
        weights = np.array([WEIGHTS.get(p.row.source, 1.0) for p in shown])
        pasted = with_things(shown, photos, np.random.default_rng(0))
        empty = [p for p in masked if p.row.source in PLAIN]
        wide = [p for p in photos if p.row.source in scenery.SOURCES]
        around = [found for found in map(scenery.surroundings, wide) if found is not None]
        others = [(some, share) for some, share in ((pasted, PASTED), (empty, EMPTY), (around, AROUND)) if some]
        self._photos = [*shown, *(photo for some, _ in others for photo in some)]
        rest = 1 - sum(share for _, share in others)
        chances = (np.full(len(some), share / len(some)) for some, share in others)
        self._chance = np.concatenate([rest * weights / weights.sum(), *chances])

    def draw(self) -> View:
        """A view of a random object with a first prompt."""
        dice = self._dice
        while True:
            photo = self._photos[dice.choice(len(self._photos), p=self._chance)]
            target, key = one_object(photo, dice)
            if target.sum() >= 64:
                view = self._mirrored(make_view(photo.image, target, photo.ids == VOID, dice))
                view.source, view.name = photo, photo.row.names.get(key)
                return view

    def _mirrored(self, view: View) -> View:
        dice = self._dice
        view.image = recolour(view.image, dice)
        if dice.random() < 0.5:
            view.image = np.ascontiguousarray(view.image[:, ::-1])
            view.target, view.known = view.target[:, ::-1].copy(), view.known[:, ::-1].copy()
            view.maps = view.maps[:, :, ::-1].copy()
            view.mirrored = True
        return view

    def correct(self, view: View, chance: NDArray[np.float32]) -> View:
        correct(view, chance, self._later)
        return view

    def again(self, view: View) -> bool:
        """Whether a view goes on to another round."""
        return view.rounds < MOST_ROUNDS and self._later.random() < 0.75


def with_things(shown: Sequence[Photo], photos: Sequence[Photo], dice: np.random.Generator) -> list[Photo]:
    """Photos of their own with things from plain photos, and drawn ones, pasted on them, of which only those have names."""
    drawn = [photo for photo in photos if photo.row.source == CUTOUTS]
    things = [(one, LARGE) for one in products(photos)] + [(one, SMALL) for one in drawn[::3]]
    return [_with_thing(shown[dice.integers(len(shown))], thing, share, k, dice) for k, (thing, share) in enumerate(things)]


def _with_thing(photo: Photo, thing: Photo, share: tuple[float, float], number: int, dice: np.random.Generator) -> Photo:
    crop = paste(cut(photo, PASTED_SIDE, dice), [thing], dice, share)
    names = {key: crop.names[key] for key in set(crop.names) - set(photo.row.names)}
    image = photo.row.image.with_name(f"{photo.row.image.name}#{number}")
    ids = np.where(np.isin(crop.ids, list(names)), crop.ids, 0).astype(np.uint8)
    return replace(photo, row=replace(photo.row, image=image, names=names, kind="instance"), image=crop.image, ids=ids)


def one_object(photo: Photo, dice: np.random.Generator) -> tuple[NDArray[np.bool_], int]:
    """A random object and its mask id: an instance, or a connected piece of a class; large ones are drawn more often."""
    counts = np.bincount(photo.ids.ravel(), minlength=256)
    keys = np.array([k for k in range(1, VOID) if counts[k] >= 64])
    if not len(keys):
        return np.zeros(photo.ids.shape, np.bool_), 0
    chance = np.sqrt(counts[keys])
    key = int(dice.choice(keys, p=chance / chance.sum()))
    target: NDArray[np.bool_] = photo.ids == key
    if photo.row.kind == "semantic" and dice.random() < 0.8:
        _, pieces, stats, _ = cv2.connectedComponentsWithStats(target.astype(np.uint8), connectivity=8)
        areas = np.sqrt(stats[1:, cv2.CC_STAT_AREA]) * (stats[1:, cv2.CC_STAT_AREA] >= 64)
        if areas.sum() > 0:
            target = pieces == 1 + dice.choice(len(areas), p=areas / areas.sum())
    return target, key


def loss_of(logits: Tensor, quality: Tensor, target: Tensor, known: Tensor, share: Tensor) -> dict[str, Tensor]:
    """Pixels, overlap, and the distance of the judged quality from the IoU that was reached ``(N, 96, 96)``."""
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    pixels = (each * known).sum(dim=(1, 2)) / known.sum(dim=(1, 2)).clamp(min=1)
    chance = torch.sigmoid(logits) * known
    both = (chance * target).sum(dim=(1, 2))
    either = (chance + target * known - chance * target).sum(dim=(1, 2))
    overlap = 1 - (both + 1) / (either + 1)
    hard = (logits.detach() > 0) * known
    hit = (hard * target).sum(dim=(1, 2))
    beyond = target.sum(dim=(1, 2)) * (1 / share.clamp(min=0.05) - 1)
    iou = hit / (((hard + target) > 0).float() * known).sum(dim=(1, 2)).add(beyond).clamp(min=1)
    judged = F.binary_cross_entropy_with_logits(quality, iou)
    return {"pixels": pixels.mean(), "overlap": overlap.mean(), "judged": judged, "iou": iou.mean()}


def as_tensors(views: Sequence[View]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Images ``(N, 3, 192, 192)`` in 0..255, maps, targets, known pixels and shares."""
    images = as_images([view.image for view in views], torch.device("cpu"))
    maps = torch.from_numpy(np.stack([view.maps for view in views]))
    target = torch.from_numpy(np.stack([view.target for view in views])).float()
    known = torch.from_numpy(np.stack([view.known for view in views])).float()
    share = torch.tensor([view.share for view in views])
    return images, maps, target, known, share


def train(photos: Sequence[Photo], hints: Hints, start: ViewDecoder, backbone: Backbone, plan: Plan) -> ViewDecoder:
    """The mask decoder after training it, or going on with it, as planned; it looks at views through ``backbone``."""
    decoder = start.to(plan.device, memory_format=torch.channels_last)  # a quarter quicker on a CPU
    views = Views(photos, seed=int(torch.randint(1 << 30, ())))
    look = close_look(backbone.to(plan.device).eval())
    going: list[View] = []

    def step(take: Callable[[], View]) -> tuple[Tensor, Parts]:
        batch = going + [take() for _ in range(BATCH - len(going))]
        grids, contexts = hints.grids(batch)
        hints.say(batch, grids)
        grids, contexts = (hints.some(batch, maps).to(plan.device) for maps in (grids, contexts))
        images, maps, target, known, share = (tensor.to(plan.device) for tensor in as_tensors(batch))
        close = looked_at(look, images)
        with mixed_precision(plan.device):
            logits, quality = decoder(shrunk(images), maps, grids, contexts, close)
        parts = loss_of(logits.float(), quality.float(), target, known, share)
        chances = torch.sigmoid(logits.detach().float()).cpu().numpy()
        kept = [views.correct(view, chance) for view, chance in zip(batch, chances, strict=True) if views.again(view)]
        going[:] = kept[: BATCH // 2]
        return parts["pixels"] + parts["overlap"] + 0.4 * parts["judged"], parts

    with made_ahead(views.draw, 2 * BATCH) as take:
        trained = fit(decoder, plan, lambda _: step(take))
    assert isinstance(trained, ViewDecoder)
    return trained
