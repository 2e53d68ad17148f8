"""Regions with a role, what each says about the object, and the examples that "like this" and "like cup" mean."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from backend.labelstudio.config import ImageLabels
from backend.labelstudio.request.typed import TypedReference
from backend.labelstudio.shapes import RegionMark, marks, shape_of
from backend.labelstudio.shapes.base import Json, label_of, mappings, newest_draft, region_id, regions_of, since_accepted
from backend.labelstudio.tags import OF_REFERENCES, OF_THE_OBJECT, Role
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from prompts.geometry import Size
from prompts.kinds import Prompt

log = logging.getLogger(__name__)

MOST_HERE = 8
MOST_ELSEWHERE = 3
MOST_MASK_PIXELS = 256_000_000
"""Of the masks that mark one object."""


@dataclass(frozen=True, slots=True)
class ReferenceRequest:
    """Examples that are wanted: those ``here`` on the image, and at most ``elsewhere`` many of the project with ``label`` (None
    for those that only show).
    """

    label: str | None
    positive: bool
    here: tuple[RegionMark, ...]
    elsewhere: int


def marks_of_the_object(task: Json, labels: ImageLabels, page: int) -> list[RegionMark]:
    """What the annotator has marked for the object at hand: in the newest draft, after the last accepted suggestion."""
    regions = since_accepted(regions_of(newest_draft(task)))
    return list(_with_roles(regions, labels, page, OF_THE_OBJECT))


def reference_marks(task: Json, labels: ImageLabels, page: int) -> list[RegionMark]:
    """The examples that the draft and the annotations show on one image, each once."""
    holders = (newest_draft(task), *mappings(task.get("annotations")))
    found = {
        mark.id or mark.digest: mark
        for holder in reversed(holders)
        for mark in _with_roles(regions_of(holder), labels, page, OF_REFERENCES)
    }
    return list(found.values())


def result_marks(task: Json, labels: ImageLabels, page: int) -> list[RegionMark]:
    """The results in the newest draft, or in the annotations without one: regions that have a class and no role."""
    newest = newest_draft(task)
    holders = [newest] if newest else list(mappings(task.get("annotations")))
    found: dict[str, RegionMark] = {}
    for holder in holders:
        for item, label, role in _labelled(regions_of(holder), labels):
            if role is None and label is not None and _is_on_page(item, page):
                found[region_id(item)] = RegionMark.of(item, Role.REFERENCE, label)
    return list(found.values())


def examples_of(holder: Json, labels: ImageLabels) -> Iterator[RegionMark]:
    """The regions on one image of an annotation that show something to be found again: results with their class, and
    references.
    """
    for item, label, role in _labelled(regions_of(holder), labels):
        if role is Role.REFERENCE or (role is None and label is not None):
            yield RegionMark.of(item, Role.REFERENCE, label)


def reference_requests(
    drawn: Sequence[RegionMark], typed: Sequence[TypedReference], results: Sequence[RegionMark], labels: ImageLabels
) -> list[ReferenceRequest]:
    """What an object is to be compared with: examples that were ``drawn``, and those that ``typed`` names, which may be
    ``results`` on the same image.

    Raises:
        RequestError: something is to resemble a label that the config lacks.
    """
    alone = [mark for mark in drawn if not typed or mark.role is Role.UNLIKE]
    shown = [mark for mark in drawn if mark.role is Role.REFERENCE][:MOST_HERE]
    found = [ReferenceRequest(mark.label, mark.role is Role.REFERENCE, (mark,), 0) for mark in alone]
    for reference in typed:
        if reference.label is None:
            found.append(ReferenceRequest(None, reference.positive, tuple(shown), 0 if shown else MOST_ELSEWHERE))
            continue
        label = labels.value_of(reference.label)
        if label is None:
            known = list(labels.vocabulary.labels)
            raise RequestError(f"there is no label {reference.label!r}; the labelling config has {known}")
        here = [mark for mark in results if mark.label == label][:MOST_HERE]
        found.append(ReferenceRequest(label, reference.positive, tuple(here), MOST_ELSEWHERE))
    return found


def masks_of(marks: Sequence[RegionMark], size: Size) -> Iterator[tuple[RegionMark, RunLengths]]:
    """Each region with its mask, one after the other; one that covers nothing is left out, and so is one that cannot be read:
    it may be half drawn, or from when the image had another size.
    """
    for mark in marks:
        try:
            runs = mark.runs(size)
        except RequestError as error:
            log.info("the region %r is left out: %s", mark.id, error)
            continue
        if len(runs.edges):
            yield mark, runs


def prompts_of(marks: Sequence[RegionMark], size: Size) -> tuple[list[Prompt], list[RequestError]]:
    """What regions say about the object, and what is wrong with those that cannot be read. Of so many that their masks would
    take more than ``MOST_MASK_PIXELS`` the newest count.
    """
    prompts, errors = [], []
    for mark in marks[-max(1, MOST_MASK_PIXELS // size.pixels) :]:
        try:
            prompts.append(mark.prompt(size))
        except RequestError as error:
            log.info("the region %r is left out: %s", mark.id, error)
            errors.append(error)
    return [prompt for prompt in prompts if prompt is not None], errors


def nothing_to_compare(label: str | None) -> RequestError:
    """The error for examples that are wanted and are nowhere."""
    if label is not None:
        return RequestError(f"no region with the label {label!r} has been accepted in this project yet, here or elsewhere")
    return RequestError(
        'nothing shows what "this" is: draw a region with a label that has maskloom="reference" in the labelling config '
        "and wait five seconds until the page has saved it"
    )


def _with_roles(items: Sequence[Json], labels: ImageLabels, page: int, roles: frozenset[Role]) -> Iterator[RegionMark]:
    for item, label, role in _labelled(items, labels):
        if role in roles and role is not None and _is_on_page(item, page) and marks.sign(item) is None:
            yield RegionMark.of(item, role, label)


def _labelled(items: Sequence[Json], labels: ImageLabels) -> Iterator[tuple[Json, str | None, Role | None]]:
    """The shapes on an image with their classes and roles. The label is on a twin of the same id with ``<Labels>``; where
    Choices or a Taxonomy say what regions are, the name is the class of one that has no role.
    """
    twins = {region_id(item): label for item in items if item.get("type") == "labels" and (label := label_of(item))}
    names = _names_of(items, labels)
    for item in items:
        if item.get("to_name") == labels.image.name and shape_of(item) is not None:
            label = label_of(item) or twins.get(region_id(item))
            role = labels.role_of(item.get("from_name"), label)
            said = label if role else names.get(region_id(item), label)
            yield item, labels.value_of(said) if said else None, role


def _names_of(items: Sequence[Json], labels: ImageLabels) -> Mapping[str, str]:
    """What Choices or a Taxonomy say that each region is, by its id."""
    tags = {naming.name: naming for naming in labels.class_namings}
    found = ((region_id(item), tags.get(str(item.get("from_name"))), item) for item in items)
    return {name: said for name, tag, item in found if tag is not None and (said := tag.named_by(item))}


def _is_on_page(item: Json, page: int) -> bool:
    """Whether a region is on a page; one that names no page is on every page."""
    return item.get("item_index") in (None, page)
