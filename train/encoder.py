"""Stage two: the image encoder, trained so that what a region shows lies where its name lies in the joint space."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backend.decoders.embedded.encoder import STRIDE, ImageEncoder
from train.averaging import Average
from train.crops import Crop, Dice, cut, paste
from train.data import CUTOUTS, VOID, Photo

SIDE = 256
CANDIDATES = 12
REGIONS = 6
WEIGHTS = {"coco_mini": 3.0, "cwfid_crop_weed": 1.5, "bsds_objects": 1.5, "coco_person": 0.8, "dsb2018_nuclei": 0.6}
"""How often a photo of a source is drawn, one where not named."""


@dataclass(frozen=True, slots=True)
class Names:
    """Every known name and its vector in the joint space ``(M, D)``; ``near (M, M)`` says which are too alike to tell."""

    names: tuple[str, ...]
    vectors: Tensor

    @property
    def index(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.names)}


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


class Batches:
    """Endless training batches: named photos, photos of one known class, and cutouts pasted on some of them."""

    def __init__(self, photos: Sequence[Photo], names: Names, seed: int) -> None:
        self._named = [p for p in photos if p.row.names and p.row.mask and p.row.source != CUTOUTS]
        self._classes = [p for p in photos if p.row.kind == "image_label"]
        self._cutouts = [p for p in photos if p.row.source == CUTOUTS]
        weights = np.array([WEIGHTS.get(p.row.source, 1.0) for p in self._named])
        self._chance = weights / weights.sum()
        self._index = names.index
        self._alike = (names.vectors @ names.vectors.T).numpy()
        self._dice = np.random.default_rng(seed)

    def draw(self, size: int) -> Batch:
        """A batch of ``size`` crops, one quarter of them photos of which only the class is known."""
        dice = self._dice
        crops = []
        for k in range(size):
            if k % 4 == 0 and self._classes:
                crops.append(cut(self._classes[dice.integers(len(self._classes))], SIDE, dice))
            else:
                crop = cut(self._named[dice.choice(len(self._named), p=self._chance)], SIDE, dice)
                crops.append(paste(crop, self._cutouts, dice) if dice.random() < 0.25 else crop)
        return self._collate(crops)

    def _collate(self, crops: Sequence[Crop]) -> Batch:
        weak = [not among(crop.ids, list(crop.names)).any() for crop in crops]
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
            images=torch.from_numpy(np.ascontiguousarray(images)).float() / 255,
            candidates=torch.from_numpy(padded),
            masks=torch.from_numpy(masks),
            seen=torch.from_numpy(np.stack([1 - shrink(crop.ids == VOID) for crop in crops])),
            weak=torch.tensor(weak),
            regions=torch.from_numpy(np.stack(regions) if regions else np.zeros((0, 1, 1), np.float32)),
            region_crop=torch.tensor(where, dtype=torch.int64),
            region_name=torch.tensor(what, dtype=torch.int64),
        )

    def _candidates(self, crop: Crop, weak: bool) -> list[int]:
        """Present names first, then names that are absent for certain, then names that are unlike all present ones."""
        dice = self._dice
        counts = np.bincount(crop.ids.ravel(), minlength=256)
        inside = {name for key, name in crop.names.items() if counts[key]}
        known = set(crop.names.values()) if weak else inside - crop.incomplete
        present = [self._index[name] for name in sorted(known)]
        present = dice.permutation(present).tolist()[: CANDIDATES - 4]
        absent = [self._index[name] for name in crop.absent]
        absent = dice.permutation(absent).tolist()[: (CANDIDATES - len(present)) * 2 // 3]
        everything = [self._index[name] for name in set(crop.names.values())]
        others: list[int] = []
        while len(present) + len(absent) + len(others) < CANDIDATES:
            pick = int(dice.integers(len(self._alike)))
            if self._alike[pick, everything].max(initial=-1) < 0.3:
                others.append(pick)
        return [*present, *absent, *others]

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


def loss_of(encoder: ImageEncoder, batch: Batch, names: Names) -> dict[str, Tensor]:
    """The parts of the loss: every pixel against the candidates, every region against all names."""
    grid = encoder.embed(encoder(batch.images.contiguous(memory_format=torch.channels_last)))
    vectors = names.vectors[batch.candidates.clamp(min=0)]
    logits = encoder.text_logits(grid, vectors)
    return {
        "dense": _dense_loss(logits, batch),
        "dice": _dice_loss(logits, batch),
        "class": _weak_loss(logits, batch),
        "region": _region_loss(encoder, grid, logits, batch, names),
    }


def _dense_loss(logits: Tensor, batch: Batch) -> Tensor:
    present = batch.masks.flatten(2).amax(dim=2) > 0
    unknown = batch.weak[:, None] & (torch.arange(CANDIDATES) == 0)
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


def _weak_loss(logits: Tensor, batch: Batch) -> Tensor:
    """The class of a photo must be somewhere in it: its ten strongest places on average."""
    strongest = logits[:, 0].flatten(1).topk(40, dim=1).values.mean(dim=1)
    each = F.softplus(-strongest) * batch.weak
    return each.sum() / batch.weak.sum().clamp(min=1)


def _region_loss(encoder: ImageEncoder, grid: Tensor, logits: Tensor, batch: Batch, names: Names) -> Tensor:
    """Contrast of pooled regions, and of the likeliest places of weakly labelled photos, against every name."""
    weak = batch.weak.nonzero()[:, 0]
    attention = torch.softmax(logits[weak, 0].detach().flatten(1), dim=1).view(-1, *grid.shape[2:])
    attention = attention + 0.3 / attention[0].numel() if len(weak) else attention
    crops = torch.cat([batch.region_crop, weak])
    weights = torch.cat([batch.regions.view(-1, *grid.shape[2:]), attention])
    wanted = torch.cat([batch.region_name, batch.candidates[weak, 0]])
    pooled = F.normalize((grid[crops] * weights[:, None]).sum(dim=(2, 3)), dim=1)
    scores = pooled @ names.vectors.T * encoder.text_scale.exp()
    alike = names.vectors[wanted] @ names.vectors.T > 0.6
    alike[torch.arange(len(wanted)), wanted] = False
    return F.cross_entropy(scores.masked_fill(alike, -30), wanted, label_smoothing=0.05)


def train(photos: Sequence[Photo], names: Names, out: Path, minutes: float) -> None:
    """Train or go on training the encoder for ``minutes``, counted over all starts; writes ``encoder.pt`` every 5 minutes."""
    torch.manual_seed(0)
    encoder = ImageEncoder().to(memory_format=torch.channels_last)
    average = Average(encoder)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1.5e-3, weight_decay=0.03)
    checkpoint, done, step = out / "encoder.pt", 0.0, 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        encoder.load_state_dict(saved["model"])
        average.model.load_state_dict(saved["average"])
        if "optimizer" in saved:
            optimizer.load_state_dict(saved["optimizer"])
        done, step = saved["seconds"], saved["step"]
    batches, began, last = Batches(photos, names, seed=step), time.monotonic() - done, time.monotonic()
    dice_log = (out / "encoder.jsonl").open("a")
    while (seconds := time.monotonic() - began) < minutes * 60:
        used = seconds / (minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1, (step + 1) / 100) * max(1 - used, 0.01)
        parts = loss_of(encoder, batches.draw(16), names)
        loss = 2 * parts["dense"] + parts["dice"] + 0.2 * parts["class"] + 0.3 * parts["region"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 5.0)
        optimizer.step()
        average.update(encoder)
        step += 1
        if step % 20 == 0:
            shown = {key: round(part.item(), 4) for key, part in parts.items()}
            dice_log.write(json.dumps({"step": step, "s": round(seconds), **shown}) + "\n")
            dice_log.flush()
        if time.monotonic() - last > 240 or time.monotonic() - began >= minutes * 60:
            last = time.monotonic()
            state = {"model": encoder.state_dict(), "average": average.model.state_dict(), "seconds": seconds, "step": step}
            torch.save({**state, "optimizer": optimizer.state_dict()}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)


__all__ = ["Batches", "Dice", "Names", "train"]
