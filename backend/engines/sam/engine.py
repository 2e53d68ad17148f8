"""The engine of the SAM family: which network answers which kind of prompt, and how a bundle of models becomes one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from backend.engines.base import Engine, Tracker, outside_negatives
from backend.engines.catalogue import Placement, fingerprint
from backend.engines.device import VocabularyStore, read_model_type, resolve
from backend.engines.sam import references
from backend.engines.sam.detectors import load_detector
from backend.engines.sam.geometry import geometry_of_drawing
from backend.engines.sam.networks import SAM2_CLASSES, Sam2Network, load_sam, load_sam2, load_tracker
from backend.engines.sam.references import (
    SURE,
    Dino,
    FoundationSpace,
    allowed_rows,
    likenesses_of,
    pooled_embeddings,
    reference_map,
    region_embeddings,
    scaled,
)
from backend.engines.sam.sam3 import ConceptFinder, ExemplarFinder, Sam3Network, load_lite_text, load_sam3, resized
from backend.engines.sam.text_grounding import (
    ON_A_CPU,
    BoxFinder,
    Decoding,
    EverythingOptions,
    Finder,
    Grounding,
    LikeFinder,
    MapFinder,
    MapLikeFinder,
    find_on_map,
    remove_small_regions,
    segment_everything,
)
from backend.engines.sam.transforms import Geometry, PromptableNetwork, to_masks
from backend.values.errors import SetupError, missing_extra
from backend.values.features import ImageFeatures
from backend.values.masks import Masks, MaskSet
from prompts.encoders.openclip import OpenClip
from prompts.geometry import size_of
from prompts.kinds import Image, ObjectMemory, PromptSet
from prompts.memory import Compared, LabelMemory, not_refuted, owner_of, taught_names
from prompts.space import PromptTokens

FAMILIES: Mapping[str, Callable[[Path, str, Placement], PromptableNetwork]] = {
    "sam": load_sam,
    "sam_hq": load_sam,
    **dict.fromkeys(SAM2_CLASSES, load_sam2),
    "sam3": load_sam3,
    "sam3_video": load_sam3,
}
"""By the ``model_type`` of a folder's config.json."""


def load_network(folder: Path, placement: Placement) -> PromptableNetwork:
    """The promptable network in a folder. Raises SetupError when there is none, or one of an unknown family."""
    model_type = read_model_type(folder)
    if model_type not in FAMILIES:
        raise SetupError(f"{folder} holds a {model_type!r} model; known are {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type](folder, model_type, placement)


LITE_TEXT = "sam3_lite_text"
"""The ``model_type`` of a grounder that answers with masks."""
KEPT_SIDE = 1024
"""The longer side of the copy of the image that is kept for crops and detectors."""


@dataclass(frozen=True, slots=True)
class FoundationParts:
    """What the decoder consists of; ``finder`` answers phrases and ``like_finder`` references."""

    decoding: Decoding
    space: FoundationSpace
    clip: OpenClip
    dino: Dino | None
    finder: Finder
    like_finder: LikeFinder
    everything: EverythingOptions


class FoundationDecoder:
    """A promptable network with CLIP, and a DINO and a detector where there are any (see MaskDecoder)."""

    def __init__(self, parts: FoundationParts) -> None:
        self._parts = parts

    def encode_images(self, images: Sequence[Image]) -> list[ImageFeatures]:
        """The network's own embeddings, CLIP's patches as the grid, DINO's patches, and a copy of the image."""
        encoded = self._parts.decoding.encode(images)
        return [self._features(image, embeddings) for image, embeddings in zip(images, encoded, strict=True)]

    def decode(self, features: ImageFeatures, prompts: PromptSet, tokens: PromptTokens, memory: ObjectMemory | None) -> MaskSet:
        if objects := self._objects(features, prompts, memory):
            return self._decode_drawn(features, objects, tokens)
        if prompts.said:
            return outside_negatives(self._decode_said(features, tokens), prompts)
        return MaskSet.empty(features.size) if prompts.drawn else self._decode_everything(features)

    def _objects(self, features: ImageFeatures, prompts: PromptSet, memory: ObjectMemory | None) -> list[Geometry]:
        """Each drawn object that something shows; the memory goes to the one that it is of."""
        network, objects = self._parts.decoding.network, list(prompts.objects())
        owner: int | None = 0
        if memory is not None and len(objects) > 1:
            logits = torch.from_numpy(memory.low_res_logits.astype(np.float32))
            owner = owner_of(objects, to_masks(network.frame, logits[None], features.size)[0])
        shown = (
            geometry_of_drawing(drawing, features.size, network, memory if number == owner else None)
            for number, drawing in enumerate(objects)
        )
        return [item for item in shown if item.point_labels.any() or item.box is not None or item.logits is not None]

    def _decode_drawn(self, features: ImageFeatures, objects: Sequence[Geometry], tokens: PromptTokens) -> MaskSet:
        label = tokens.phrases[0] if len(tokens.phrases) == 1 else None
        candidates = self._parts.decoding.decode(features, objects, self._wanted(features, tokens))
        rows = self._rows(features, [Grounding(one.logits, one.quality, one.quality, label) for one in candidates])
        return self._named(rows, pooled_embeddings(features, rows.masks)) if len(rows) else rows

    def decode_alternatives(self, features: ImageFeatures, prompts: PromptSet) -> MaskSet:
        """All candidates of the network for one click (see OffersAlternatives)."""
        geometry = geometry_of_drawing(prompts, features.size, self._parts.decoding.network, None)
        candidates = self._parts.decoding.decode_alternatives(features, geometry)
        rows = self._rows(features, [Grounding(one.logits, one.quality, one.quality, None) for one in candidates])
        return self._named(rows, pooled_embeddings(features, rows.masks)) if len(rows) else rows

    def _wanted(self, features: ImageFeatures, tokens: PromptTokens) -> Tensor | None:
        """Where the thing said together with a drawing is: a map that helps to choose between an object and its parts."""
        if tokens.phrases:
            return self._parts.space.text_map(features, tokens.phrases[0])
        positive = [likeness for likeness in likenesses_of(tokens) if likeness.prompt.positive]
        return reference_map(features, positive[0]) if positive else None

    def _decode_said(self, features: ImageFeatures, tokens: PromptTokens) -> MaskSet:
        found = self._parts.finder.find(features, tokens.phrases) if tokens.phrases else []
        likenesses = likenesses_of(tokens)
        found += self._parts.like_finder.find_like(features, likenesses, tokens.phrases)
        rows = self._meant(features, self._rows(features, found))
        return rows[allowed_rows(features, rows, tokens, likenesses)] if len(rows) else rows

    def places_of(self, features: ImageFeatures) -> Tensor:
        """DINO's patches, which compare parts of things, or CLIP's where there is no DINO (see LearnsLabels)."""
        return features.tensors.get("dino", features.grid)

    def decode_labels(self, features: ImageFeatures, tokens: PromptTokens, memories: Sequence[LabelMemory]) -> MaskSet:
        """What words find, and what looks like the examples of labels that were taught (see LearnsLabels)."""
        found = self._parts.finder.find(features, tokens.phrases) if tokens.phrases else []
        places = self.places_of(features)
        for memory, margins in zip(memories, Compared.of(places, memories).margins(), strict=True):
            score = scaled(margins).clamp(-SURE, SURE)
            found += find_on_map(self._parts.decoding, features, score, memory.label)
        rows = self._meant(features, self._rows(features, found))
        if not len(rows):
            return rows
        rows = rows[allowed_rows(features, rows, tokens, ())]
        return rows.named(taught_names(rows.labels, memories))[not_refuted(places, rows.masks, rows.labels, memories)]

    def _decode_everything(self, features: ImageFeatures) -> MaskSet:
        found = segment_everything(self._parts.decoding, features, self._parts.everything)
        rows = self._rows(features, [Grounding(one.logits, one.quality, one.quality, None) for one in found])
        if self._parts.everything.min_mask_region_area > 0 and len(rows):
            masks = (remove_small_regions(mask, self._parts.everything.min_mask_region_area) for mask in rows.masks)
            rows = rows.with_masks(masks)
        return self._meant(features, rows)

    def _rows(self, features: ImageFeatures, found: Sequence[Grounding]) -> MaskSet:
        """Findings as rows in their order, without those that have no pixel on the image."""
        if not found:
            return MaskSet.empty(features.size)
        logits, network = [finding.logits.float().cpu() for finding in found], self._parts.decoding.network
        masks = Masks.of((to_masks(network.frame, one[None], features.size)[0] for one in logits), features.size)
        kept = torch.stack([resized(one, network.low_res_side) for one in logits])
        rows = MaskSet(
            masks=masks,
            scores=np.array([finding.score for finding in found], np.float32),
            labels=tuple(finding.phrase for finding in found),
            low_res_logits=kept.clamp(-1000, 1000).numpy().astype(np.float16),
            embeddings=np.zeros((len(found), 1), np.float32),
        )
        return rows[np.flatnonzero(masks.areas)]

    def _meant(self, features: ImageFeatures, rows: MaskSet) -> MaskSet:
        """Rows with the embeddings that name them: patches and crops."""
        if not len(rows):
            return rows
        pixels = features.tensors["pixels"].numpy()
        return self._named(rows, region_embeddings(features, pixels, rows.masks, self._parts.clip))

    def _named(self, rows: MaskSet, embeddings: Tensor) -> MaskSet:
        return replace(rows, embeddings=embeddings.float().cpu().numpy())

    def _features(self, image: Image, embeddings: dict[str, Tensor]) -> ImageFeatures:
        tensors = {**embeddings, "pixels": torch.from_numpy(_smaller(image, KEPT_SIDE))}
        if self._parts.dino is not None:
            tensors["dino"] = self._parts.dino.encode_patches(image)
        return ImageFeatures(size_of(image), self._parts.clip.encode_patches(image), tensors)


def _smaller(image: Image, most: int) -> Image:
    """A copy of which no side is longer than ``most`` pixels."""
    scale = most / max(image.shape[:2])
    if scale >= 1:
        return np.array(image)
    height, width = (max(round(side * scale), 1) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


DENSE_SIDE = {"cpu": 336, "cuda": 560}
"""The longer side at which CLIP reads patches."""


def build(weights: Path | None, placement: Placement) -> Engine:
    """The engine in a bundle. Raises SetupError that says which part is missing or broken."""
    if weights is None:
        raise SetupError("an engine of the SAM family needs the folder of its bundle; name it with MASKLOOM_WEIGHTS")
    return _assemble(weights, fingerprint(weights), placement)


def _assemble(folder: Path, version: str, placement: Placement) -> Engine:
    device, _ = resolve(placement)
    decoding = Decoding(load_network(_part(folder, "decoder"), placement))
    clip = load_clip(_part(folder, "clip"), device, placement.vocabulary)
    space = FoundationSpace(version, clip)
    parts = FoundationParts(
        decoding=decoding,
        space=space,
        clip=clip,
        dino=references.load_dino(folder / "dino", placement) if (folder / "dino").is_dir() else None,
        finder=_finder(folder, decoding, space, placement),
        like_finder=_like_finder(decoding),
        everything=_everything(folder / "everything.json", ON_A_CPU if device.type == "cpu" else EverythingOptions()),
    )
    return Engine("sam", version, space, FoundationDecoder(parts), _tracker(folder, decoding.network, placement))


def _tracker(folder: Path, network: PromptableNetwork, placement: Placement) -> Tracker | None:
    if not isinstance(network, Sam2Network | Sam3Network):
        return None
    part = _part(folder, "decoder")
    return load_tracker(part, read_model_type(part), network, placement)


def load_clip(folder: Path, device: torch.device, vocabulary: Path | None = None) -> OpenClip:
    """The CLIP in a folder, which keeps the vectors of phrases in another. Raises SetupError when it cannot be used."""
    store = None if vocabulary is None else VocabularyStore(vocabulary, f"clip-{fingerprint(folder)}")
    try:
        return OpenClip.load(folder, device, DENSE_SIDE.get(device.type, DENSE_SIDE["cpu"]), store)
    except ImportError as error:
        raise missing_extra("engines", "this engine needs open_clip", error) from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise SetupError(f"the CLIP in {folder} cannot be used: {error}") from error


def _everything(path: Path, usual: EverythingOptions) -> EverythingOptions:
    """The options of everything mode in a bundle, under SAM's names; those that it does not name are the usual ones."""
    if not path.is_file():
        return usual
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        options = replace(usual, **given)
        if not all(isinstance(value, int | float) and value >= 0 for value in given.values()):
            raise ValueError("expected numbers from 0")
    except (ValueError, TypeError) as error:
        names = ", ".join(field.name for field in fields(EverythingOptions))
        raise SetupError(f"{path} cannot be used: {error}; it is an object with some of {names}") from error
    return options


def _finder(folder: Path, decoding: Decoding, space: FoundationSpace, placement: Placement) -> Finder:
    if isinstance(decoding.network, Sam3Network):
        return ConceptFinder(decoding.network)
    on_the_map = MapFinder(space, decoding)
    if not (folder / "grounder").is_dir():
        return on_the_map
    if read_model_type(folder / "grounder") == LITE_TEXT:
        return load_lite_text(folder / "grounder", decoding.network, placement)
    return BoxFinder(load_detector(folder / "grounder", placement), decoding, on_the_map)


def _like_finder(decoding: Decoding) -> LikeFinder:
    on_the_map = MapLikeFinder(decoding)
    return ExemplarFinder(decoding.network, on_the_map) if isinstance(decoding.network, Sam3Network) else on_the_map


def _part(folder: Path, role: str) -> Path:
    path = folder / role
    if not path.is_dir():
        raise SetupError(f"the bundle {folder} lacks its part {role!r}: expected a folder {path}")
    return path
