"""Stage three: the mask decoder, trained on simulated prompts and on the clicks that correct its own answers."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from backend.decoders.embedded import evidence
from backend.decoders.embedded.view_decoder import ViewDecoder
from train.averaging import Average
from train.crops import cut, paste, recolour
from train.data import CUTOUTS, VOID, Photo
from train.rounds import View, correct, make_view, shrink

BATCH = 16
MOST_ROUNDS = 6
WEIGHTS = {
    "coco_mini": 4.0, "coco_person": 1.2, "bsds_objects": 1.5, "bsds_segments": 1.5, "ccp_clothing": 1.0, "camvid": 0.5,
    "labelme_facade": 0.5, "cwfid_crop_weed": 0.3, "dsb2018_nuclei": 0.5, "magnetic_tile_defects": 0.5, "weizmann_horses": 1.0,
}  # fmt: skip
"""How often a photo of a source is drawn."""
PASTED = 0.08


class Views:
    """Endless training views of objects and parts."""

    def __init__(self, photos: Sequence[Photo], seed: int) -> None:
        self._photos = [p for p in photos if p.row.mask and p.row.source != CUTOUTS and p.regions]
        self._cutouts = [p for p in photos if p.row.source == CUTOUTS]
        weights = np.array([WEIGHTS.get(p.row.source, 1.0) for p in self._photos])
        counts = {p.row.source: 0 for p in self._photos}
        for p in self._photos:
            counts[p.row.source] += 1
        self._chance = weights / weights.sum()
        self._dice = np.random.default_rng(seed)

    def draw(self) -> View:
        """A view of a random object with a first prompt."""
        dice = self._dice
        while True:
            photo = self._photos[dice.choice(len(self._photos), p=self._chance)]
            image, ids = photo.image, photo.ids
            if dice.random() < PASTED:
                crop = paste(cut(photo, 320, dice), self._cutouts, dice)
                image, ids = crop.image, crop.ids
                target = ids == max(set(crop.names) - set(photo.row.names), default=0)
            else:
                target = one_object(photo, self._dice)
            if target.sum() >= 64:
                return self._mirrored(make_view(image, target, ids == VOID, dice))

    def _mirrored(self, view: View) -> View:
        dice = self._dice
        view.image = recolour(view.image, dice)
        if dice.random() < 0.5:
            view.image = np.ascontiguousarray(view.image[:, ::-1])
            view.target, view.known = view.target[:, ::-1].copy(), view.known[:, ::-1].copy()
            view.maps = view.maps[:, :, ::-1].copy()
        return view

    def correct(self, view: View, chance: NDArray[np.float32]) -> View:
        correct(view, chance, self._dice)
        return view

    def again(self, view: View) -> bool:
        """Whether a view goes on to another round."""
        return view.rounds < MOST_ROUNDS and self._dice.random() < 0.75


def one_object(photo: Photo, dice: np.random.Generator) -> NDArray[np.bool_]:
    """A random object: an instance, or one connected piece of a class; large ones are drawn more often."""
    counts = np.bincount(photo.ids.ravel(), minlength=256)
    keys = np.array([k for k in range(1, VOID) if counts[k] >= 64])
    if not len(keys):
        return np.zeros(photo.ids.shape, np.bool_)
    chance = np.sqrt(counts[keys])
    target: NDArray[np.bool_] = photo.ids == dice.choice(keys, p=chance / chance.sum())
    if photo.row.kind == "semantic" and dice.random() < 0.8:
        _, pieces, stats, _ = cv2.connectedComponentsWithStats(target.astype(np.uint8), connectivity=8)
        areas = np.sqrt(stats[1:, cv2.CC_STAT_AREA]) * (stats[1:, cv2.CC_STAT_AREA] >= 64)
        if areas.sum() > 0:
            target = pieces == 1 + dice.choice(len(areas), p=areas / areas.sum())
    return target


def loss_of(logits: Tensor, quality: Tensor, target: Tensor, known: Tensor, share: Tensor) -> dict[str, Tensor]:
    """Pixels, overlap, and the distance of the judged quality from the IoU that was reached ``(N, 128, 128)``."""
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
    """Images ``(N, 3, 128, 128)`` in 0..1, maps, targets, known pixels and shares."""
    images = torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2).float() / 255
    maps = torch.from_numpy(np.stack([view.maps for view in views]))
    target = torch.from_numpy(np.stack([view.target for view in views])).float()
    known = torch.from_numpy(np.stack([view.known for view in views])).float()
    share = torch.tensor([view.share for view in views])
    return images.contiguous(memory_format=torch.channels_last), maps, target, known, share


def train(photos: Sequence[Photo], out: Path, minutes: float) -> None:
    """Train or go on training the mask decoder for ``minutes``, counted over all starts; writes ``masks.pt``."""
    torch.manual_seed(0)
    decoder = ViewDecoder().to(memory_format=torch.channels_last)
    average = Average(decoder)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=2e-3, weight_decay=0.02)
    checkpoint, done, step = out / "masks.pt", 0.0, 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        decoder.load_state_dict(saved["model"])
        average.model.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        done, step = saved["seconds"], saved["step"]
    views, began, last = Views(photos, seed=step), time.monotonic() - done, time.monotonic()
    going: list[View] = []
    log = (out / "masks.jsonl").open("a")
    while (seconds := time.monotonic() - began) < minutes * 60:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 100) * max(1 - seconds / (minutes * 60), 0.01)
        batch = going + [views.draw() for _ in range(BATCH - len(going))]
        images, maps, target, known, share = as_tensors(batch)
        logits, quality = decoder(images, maps, None)
        parts = loss_of(logits, quality, target, known, share)
        loss = parts["pixels"] + parts["overlap"] + 0.2 * parts["judged"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
        optimizer.step()
        average.update(decoder)
        chances = torch.sigmoid(logits.detach()).numpy()
        going = [views.correct(view, chance) for view, chance in zip(batch, chances, strict=True) if views.again(view)]
        going = going[: BATCH // 2]
        step += 1
        if step % 20 == 0:
            shown = {key: round(part.item(), 4) for key, part in parts.items()}
            log.write(json.dumps({"step": step, "s": round(seconds), **shown}) + "\n")
            log.flush()
        if time.monotonic() - last > 180 or time.monotonic() - began >= minutes * 60:
            last = time.monotonic()
            state = {"model": decoder.state_dict(), "average": average.model.state_dict(), "seconds": seconds, "step": step}
            torch.save({**state, "optimizer": optimizer.state_dict()}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)


__all__ = ["Views", "evidence", "shrink", "train"]
