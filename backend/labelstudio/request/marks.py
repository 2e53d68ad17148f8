"""Regions with a role: what each says about the object that is being prompted, or which example it shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.labelstudio.config import LabelConfig
from backend.labelstudio.request import drafts
from backend.labelstudio.shapes import SHAPES, keypoint, mask_of, shape_of
from backend.labelstudio.shapes.base import (
    OF_REFERENCES,
    OF_THE_OBJECT,
    Role,
    label_of,
    mappings,
    read_value,
    region_id,
    region_kind,
)
from prompts.geometry import BoolArray, Size
from prompts.kinds import Prompt

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RegionMark:
    """A region with a role; ``label`` is the class that it says, if any. Equal marks have the same role, label and shape."""

    role: Role
    label: str | None
    digest: str
    item: Json = field(compare=False, repr=False)

    @property
    def id(self) -> str:
        return region_id(self.item)

    def prompts(self, size: Size) -> Iterator[Prompt]:
        """What it says about the object, in pixels; nothing for a region that covers no pixel.

        Raises:
            RequestError: the region cannot be read.
        """
        said = SHAPES[region_kind(self.item)].prompt(read_value(self.item), size, self.role)
        if said is not None:
            yield said

    def mask(self, size: Size) -> BoolArray:
        """The pixels ``(H, W)`` that it covers. Raises RequestError when the region cannot be read."""
        return mask_of(self.item, size)


def mark_of(item: Json, role: Role, label: str | None) -> RegionMark:
    """A region as what its role makes of it; ``label`` is its class."""
    said = json.dumps([item.get("type"), read_value(item)], sort_keys=True, default=str)
    digest = hashlib.blake2b(said.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return RegionMark(role, label, digest, item)


def marks_of_the_object(task: Json, config: LabelConfig, image: str, page: int) -> list[RegionMark]:
    """What the annotator has marked for the object at hand: in the newest draft, after the last accepted suggestion."""
    draft = drafts.regions_of(drafts.newest_draft(task))
    return list(_with_roles(drafts.since_accepted(draft), config, (image, page), OF_THE_OBJECT))


def reference_marks(task: Json, config: LabelConfig, image: str, page: int) -> list[RegionMark]:
    """The examples that the draft and the annotations show on one image, each once."""
    holders = (drafts.newest_draft(task), *mappings(task.get("annotations")))
    found = {
        mark.id or mark.digest: mark
        for holder in reversed(holders)
        for mark in _with_roles(drafts.regions_of(holder), config, (image, page), OF_REFERENCES)
    }
    return list(found.values())


def finished_regions(task: Json, config: LabelConfig, image: str, page: int) -> list[RegionMark]:
    """The regions of the newest draft, or of the annotations without one, that are results: they have a class and no role."""
    draft = drafts.newest_draft(task)
    holders = [draft] if draft else list(mappings(task.get("annotations")))
    found: dict[str, RegionMark] = {}
    for holder in holders:
        for item, label, role in _labelled(drafts.regions_of(holder), config):
            value = config.value_of(label) if label else None
            if role is None and value is not None and _is_on(item, (image, page)):
                found[region_id(item)] = mark_of(item, Role.REFERENCE, value)
    return list(found.values())


def examples_of(holder: Json, config: LabelConfig) -> Iterator[RegionMark]:
    """The regions of an annotation that show something to be found again: results with their class, and references."""
    for item, label, role in _labelled(drafts.regions_of(holder), config):
        value = config.value_of(label) if label else None
        if role is Role.REFERENCE or (role is None and value is not None):
            yield mark_of(item, Role.REFERENCE, value)


def _with_roles(
    items: Sequence[Json], config: LabelConfig, place: tuple[str, int], roles: frozenset[Role]
) -> Iterator[RegionMark]:
    for item, label, role in _labelled(items, config):
        if role in roles and role is not None and _is_on(item, place) and keypoint.sign(item) is None:
            yield mark_of(item, role, config.value_of(label) if label else None)


def _labelled(items: Sequence[Json], config: LabelConfig) -> Iterator[tuple[Json, str | None, Role | None]]:
    """The shapes among the items with their labels, which with ``<Labels>`` are on a twin of the same id, and their roles.

    Where Choices or a Taxonomy name regions, the name is the label of a region that has no role.
    """
    twins = {region_id(item): label for item in items if item.get("type") == "labels" and (label := label_of(item))}
    names = _names_of(items, config)
    for item in items:
        if shape_of(item) is not None:
            label = label_of(item) or twins.get(region_id(item))
            role = config.role_of(item.get("from_name"), label)
            yield item, (label if role else names.get(region_id(item), label)), role


def _names_of(items: Sequence[Json], config: LabelConfig) -> Mapping[str, str]:
    """What each region is named, by its id, where the labels only carry names."""
    if not config.is_named_by_region:
        return {}
    tags = {naming.name: naming for naming in config.namings}
    found = ((region_id(item), tags.get(str(item.get("from_name"))), item) for item in items)
    return {name: said for name, tag, item in found if tag is not None and (said := tag.named_by(item))}


def _is_on(item: Json, place: tuple[str, int]) -> bool:
    """Whether a region is on an image and page; one that names no page is on every page."""
    page = item.get("item_index")
    return item.get("to_name") == place[0] and (page is None or page == place[1])
