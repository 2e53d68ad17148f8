"""Stage two: the image encoder, tuned so that what a place or a region shows lies where its name lies in the joint space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from backend.engines.embedded.places import STRIDE, Depthwise, PlaceEncoder
from train import scenery
from train.class_teacher import ClassTeacher
from train.crops import LARGE, PLAIN, SMALL, Crop, cut, lifted, paste, products
from train.data import CUTOUTS, VOID, Photo
from train.loop import Parts, Plan, fit, made_ahead, mixed_precision
from train.names import Names

SIDE = 288
BATCH = 14
CANDIDATES = 16
STRONGEST = 12
REGIONS = 6
WEIGHTS = {
    "coco_mini": 3.0, "imagenet_grabcut": 1.5, "ccp_clothing": 0.7, "car_parts": 0.5, "dsb2018_nuclei": 0.4,
    "magnetic_tile_defects": 0.3, "imagenet_samples": 0.4,
}  # fmt: skip
"""How often a photo of a source is drawn, one where not named."""
PASTED = (0.1, 0.3, 0.7)
"""Up to which dice drawn cutouts, objects lifted out of other photos, and products are pasted on a crop."""
CLASS_ZOOM = (0.9, 1.4)
BACKBONE_RATE = 0.13
"""How fast the backbone learns, for one of the rest; its depthwise filters and its first stages stay as they were."""


@dataclass(frozen=True, slots=True)
class Batch:
    """``images (N, 3, S, S)``; candidates ``(N, K)`` as name numbers, -1 where there is none; their masks ``(N, K, h, w)``;
    ``seen (N, h, w)`` where the labels are known; ``weak (N,)`` for photos of which only the class is known; regions
    ``(R, h, w)`` with the crop and the name of each.
    """

    images: Tensor
    candidates: Tensor
    masks: Tensor
    seen: Tensor
    weak: Tensor
    regions: Tensor
    region_crop: Tensor
    region_name: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(**{part.name: getattr(self, part.name).to(device) for part in fields(self)})


class Batches:
    """Endless training batches: named photos, photos of one known class, and cutouts pasted on some of them."""

    def __init__(self, photos: Sequence[Photo], names: Names, seed: int) -> None:
        self._named = [p for p in photos if p.row.names and p.row.mask and p.row.source not in (CUTOUTS, *PLAIN)]
        self._classes = [p for p in photos if p.row.kind == "image_label"]
        self._cutouts = [p for p in photos if p.row.source == CUTOUTS]
        self._lifted, self._products = lifted(photos), products(photos)
        weights = np.array([WEIGHTS.get(p.row.source, 1.0) for p in self._named])
        self._chance = weights / weights.sum()
        self._index = names.index
        self._alike = (names.vectors @ names.vectors.T).numpy()
        self._scenery = np.isin(names.names, list(scenery.EVERY.values()))
        self._dice = np.random.default_rng(seed)

    def draw(self, size: int) -> Batch:
        """A batch of ``size`` crops, one quarter of them photos of which only the class is known."""
        classes = [self._class_crop() for _ in range(size // 4)] if self._classes else []
        named = [self._named_crop() for _ in range(size - len(classes))]
        return self._collate([*classes, *named], len(classes))

    def _class_crop(self) -> Crop:
        return cut(self._classes[self._dice.integers(len(self._classes))], SIDE, self._dice, CLASS_ZOOM)

    def _named_crop(self) -> Crop:
        dice = self._dice
        crop = cut(self._named[dice.choice(len(self._named), p=self._chance)], SIDE, dice)
        chance = dice.random()
        drawn, lifted_ones, shown = PASTED
        if chance < drawn:
            return paste(crop, self._cutouts, dice, SMALL)
        if chance < lifted_ones:
            return paste(crop, self._lifted, dice, SMALL)
        return paste(crop, self._products, dice, LARGE) if chance < shown else crop

    def _collate(self, crops: Sequence[Crop], classes: int) -> Batch:
        """Crops of which the first ``classes`` are of photos of one known class."""
        weak = [k < classes for k in range(len(crops))]
        chosen = [self._candidates(crop, poor) for crop, poor in zip(crops, weak, strict=True)]
        masks = np.zeros((len(crops), CANDIDATES, SIDE // STRIDE, SIDE // STRIDE), np.float32)
        regions, where, what = [], [], []
        for n, (crop, picks) in enumerate(zip(crops, chosen, strict=True)):
            for k, pick in enumerate(picks):
                keys = [key for key, name in crop.names.items() if self._index[name] == pick]
                if keys:
                    masks[n, k] = shrink(among(crop.ids, keys))
            for key in self._some_regions(crop):
                regions.append(shrink(crop.ids == key))
                where.append(n)
                what.append(self._index[crop.names[key]])
        padded = np.full((len(crops), CANDIDATES), -1)
        for n, picks in enumerate(chosen):
            padded[n, : len(picks)] = picks
        images = np.stack([crop.image for crop in crops]).transpose(0, 3, 1, 2)
        return Batch(
            images=torch.from_numpy(np.ascontiguousarray(images)),
            candidates=torch.from_numpy(padded),
            masks=torch.from_numpy(masks),
            seen=torch.from_numpy(np.stack([1 - shrink(crop.ids == VOID) for crop in crops])),
            weak=torch.tensor(weak),
            regions=torch.from_numpy(np.stack(regions) if regions else np.zeros((0, 1, 1), np.float32)),
            region_crop=torch.tensor(where, dtype=torch.int64),
            region_name=torch.tensor(what, dtype=torch.int64),
        )

    def _candidates(self, crop: Crop, weak: bool) -> list[int]:
        """Present names first, then names that are absent for certain, then names that are unlike all present ones, but for
        scenery, which may be there.
        """
        dice = self._dice
        counts = np.bincount(crop.ids.ravel(), minlength=256)
        inside = {name for key, name in crop.names.items() if counts[key]}
        known = set(crop.names.values()) if weak else inside - crop.incomplete
        present = [self._index[name] for name in sorted(known)]
        present = dice.permutation(present).tolist()[: CANDIDATES - 4]
        absent = [self._index[name] for name in crop.absent]
        absent = dice.permutation(absent).tolist()[: (CANDIDATES - len(present)) * 2 // 3]
        everything = [self._index[name] for name in set(crop.names.values())]
        unlike = np.flatnonzero((self._alike[:, everything].max(axis=1, initial=-1) < 0.3) & ~self._scenery)
        missing = CANDIDATES - len(present) - len(absent) if len(unlike) else 0
        return [*present, *absent, *(dice.choice(unlike, missing).tolist() if missing else [])]

    def _some_regions(self, crop: Crop) -> list[int]:
        counts = np.bincount(crop.ids.ravel(), minlength=256)
        large = [key for key in crop.names if counts[key] >= 96]
        return self._dice.permutation(large).tolist()[:REGIONS]


def among(ids: NDArray[np.uint8], keys: Sequence[int]) -> NDArray[np.bool_]:
    """Where a map of ids holds one of ``keys``."""
    table = np.zeros(256, np.bool_)
    table[list(keys)] = True
    found: NDArray[np.bool_] = table[ids]
    return found


def shrink(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The share of every 8 x 8 cell that a mask ``(S, S)`` covers, float32."""
    side = len(mask) // STRIDE
    share: NDArray[np.float32] = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return share


def loss_of(encoder: PlaceEncoder, batch: Batch, names: Names, teacher: ClassTeacher) -> dict[str, Tensor]:
    """The parts of the loss: every pixel against the candidates, every region against all names, by places and by stages, and
    every place against what the classifier sees there.
    """
    images = batch.images.float().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        fourth = encoder.backbone.early(images)
        taught, sure = teacher(fourth)
    _, grid, naming = encoder.read(fourth)
    vectors = names.vectors[batch.candidates.clamp(min=0)]
    logits = encoder.text_logits(grid, vectors)
    crops, weights, wanted = _shown(logits, batch)
    small = F.avg_pool2d(weights, 2)
    return {
        "dense": _dense_loss(logits, batch),
        "dice": _dice_loss(logits, batch),
        "presence": _presence_loss(logits, batch),
        "region": _region_loss(grid, crops, weights, wanted, names, encoder.text_scale),
        "naming": _region_loss(naming, crops, small, wanted, names, encoder.naming_scale),
        "taught": _distance(grid, taught, sure) + _distance(naming, taught, sure),
    }


def _dense_loss(logits: Tensor, batch: Batch) -> Tensor:
    present = batch.masks.flatten(2).amax(dim=2) > 0
    unknown = batch.weak[:, None] & (torch.arange(CANDIDATES, device=logits.device) == 0)
    valid = (batch.candidates.ge(0) & ~unknown)[:, :, None, None] * batch.seen[:, None]
    weight = valid * (1 + 3 * present[:, :, None, None])
    each = F.binary_cross_entropy_with_logits(logits, batch.masks, reduction="none")
    return (each * weight).sum() / weight.sum().clamp(min=1)


def _dice_loss(logits: Tensor, batch: Batch) -> Tensor:
    chance = torch.sigmoid(logits) * batch.seen[:, None]
    both = (chance * batch.masks).sum(dim=(2, 3))
    each = 1 - (2 * both + 1) / (chance.sum(dim=(2, 3)) + batch.masks.sum(dim=(2, 3)) + 1)
    present = batch.masks.sum(dim=(2, 3)) > 1
    return (each * present).sum() / present.sum().clamp(min=1)


def _presence_loss(logits: Tensor, batch: Batch) -> Tensor:
    """A name that is in the crop must be somewhere in it, by its strongest places on average, and any other nowhere.

    ``present`` weighs as much as absent; of a photo of which only the class is known, the class is the first candidate.
    """
    first = torch.arange(CANDIDATES, device=logits.device) == 0
    present = torch.where(batch.weak[:, None], first, batch.masks.flatten(2).sum(dim=2) > 1)
    strongest = logits.flatten(2).topk(STRONGEST, dim=2).values.mean(dim=2)
    each = F.binary_cross_entropy_with_logits(strongest, present.float(), reduction="none")
    asked = batch.candidates >= 0
    inside, outside = asked & present, asked & ~present
    return (each * inside).sum() / inside.sum().clamp(min=1) + (each * outside).sum() / outside.sum().clamp(min=1)


def _shown(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of every region, and of the likeliest places of photos of one known class: the crop ``(R,)``, the weights
    ``(R, h, w)`` and the name ``(R,)``.
    """
    weak = batch.weak.nonzero()[:, 0]
    attention = torch.softmax(logits[weak, 0].detach().flatten(1), dim=1).view(-1, *logits.shape[2:])
    attention = attention + 0.3 / logits[0, 0].numel()
    weights = torch.cat([batch.regions.view(-1, *logits.shape[2:]), attention])
    return torch.cat([batch.region_crop, weak]), weights, torch.cat([batch.region_name, batch.candidates[weak, 0]])


def _region_loss(maps: Tensor, crops: Tensor, weights: Tensor, wanted: Tensor, names: Names, scale: Tensor) -> Tensor:
    """Contrast of maps ``(N, D, h, w)`` pooled over regions against every name."""
    sums = torch.einsum("rdp,rp->rd", maps.flatten(2)[crops].float(), weights.flatten(1))
    pooled = F.normalize(sums, dim=1)
    scores = pooled @ names.vectors.T * scale.exp()
    alike = names.vectors[wanted] @ names.vectors.T > 0.6
    alike[torch.arange(len(wanted), device=alike.device), wanted] = False
    return F.cross_entropy(scores.masked_fill(alike, -30), wanted, label_smoothing=0.05)


def _distance(maps: Tensor, taught: Tensor, sure: Tensor) -> Tensor:
    """One less the cosine between maps ``(N, D, ...)`` and what was taught ``(N, D, h, w)``, weighed by ``sure (N, h, w)``."""
    pooled = F.adaptive_avg_pool2d(maps.float(), (taught.shape[2], taught.shape[3]))
    each = 1 - F.cosine_similarity(pooled, taught, dim=1)
    return (each * sure).sum() / sure.sum().clamp(min=1e-3)


def train(photos: Sequence[Photo], names: Names, teacher: ClassTeacher, start: PlaceEncoder, plan: Plan) -> PlaceEncoder:
    """The encoder after training it, or going on with it, as planned."""
    encoder = start.to(plan.device, memory_format=torch.channels_last)
    keep_as_is(encoder)
    known = Names(names.names, names.vectors.to(plan.device))
    batches = Batches(photos, names, seed=int(torch.randint(1 << 30, ())))

    def step(take: Callable[[], Batch]) -> tuple[Tensor, Parts]:
        batch = take().to(plan.device)
        with mixed_precision(plan.device):
            parts = loss_of(encoder, batch, known, teacher)
        return total(parts), parts

    with made_ahead(lambda: batches.draw(BATCH), 4) as take:
        trained = fit(encoder, plan, lambda _: step(take), rates)
    assert isinstance(trained, PlaceEncoder)
    return trained


def total(parts: Parts) -> Tensor:
    """The weighted sum of the parts of the loss."""
    shares = {"dense": 2.0, "dice": 1.0, "presence": 0.4, "region": 0.15, "naming": 0.3, "taught": 0.3}
    return torch.stack([share * parts[name] for name, share in shares.items()]).sum()


def keep_as_is(encoder: PlaceEncoder) -> None:
    """Leave alone what need not learn: the first stages, and filters of single channels, whose gradient is slow on a CPU."""
    encoder.backbone.stem.requires_grad_(False)
    for stage in list(encoder.backbone.stages)[:2]:
        stage.requires_grad_(False)
    for part in encoder.backbone.modules():
        if isinstance(part, Depthwise):
            part.requires_grad_(False)


def rates(encoder: nn.Module) -> list[tuple[list[nn.Parameter], float]]:
    """The encoder's weights in groups, each with its share of the learning rate."""
    assert isinstance(encoder, PlaceEncoder)
    backbone = [weight for weight in encoder.backbone.parameters() if weight.requires_grad]
    others = [weight for name, weight in encoder.named_parameters() if not name.startswith("backbone.")]
    return [(backbone, BACKBONE_RATE), (others, 1.0)]
