"""Which of the regions that come along with a request are prompts, and what they say; what those with a role say about the
object, and the examples that "like this" and "like cup" mean."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from backend.labelstudio.config import ImageLabels, LabelConfig
from backend.labelstudio.request.typed import MESSAGE_SIGN, Typed, TypedReference, read_typed
from backend.labelstudio.shapes import RegionMark, marks, shape_of
from backend.labelstudio.shapes.base import (
    Json,
    label_of,
    mappings,
    newest_draft,
    read_value,
    region_id,
    region_kind,
    regions_of,
    saved_ids,
    since_accepted,
    submitted_ids,
    used_ids,
)
from backend.labelstudio.shapes.marks import SMART, BoxMark, Mark, read_box, read_smart, sign
from backend.labelstudio.tags import OF_REFERENCES, OF_THE_OBJECT, Role
from backend.values.errors import RequestError
from backend.values.masks import RunLengths
from prompts.geometry import Size
from prompts.kinds import Prompt

log = logging.getLogger(__name__)
MOST_PAGES = 1_000_000
MOST_HERE = 8
MOST_ELSEWHERE = 3
MOST_MASK_PIXELS = 256_000_000
"""Of the masks that mark one object."""


@dataclass(frozen=True, slots=True)
class Context:
    """What was prompted on one page of one Image tag.

    ``marks`` are in percent; ``ambiguous`` may be prompts or ordinary regions. ``regions`` were drawn with labels that have a
    role, ``references`` with those that show examples.
    """

    labels: ImageLabels
    page: int = 0
    armed_label: str | None = None
    marks: tuple[Mark, ...] = ()
    ambiguous: tuple[BoxMark, ...] = ()
    regions: tuple[RegionMark, ...] = ()
    references: tuple[RegionMark, ...] = ()
    typed: Typed = field(default_factory=Typed)


def read_context(items: Sequence[Json], config: LabelConfig, task: Json) -> Context:
    """The prompts among a context's regions; the newest one decides on the image and the page.

    Raises:
        RequestError: a prompt is on something that is no image or has a label that the config lacks, or none has coordinates.
    """
    prompting = list(_prompting(items, config, task))
    if not prompting:
        return Context(config.labels_of(config.first_image))
    image = config.image(prompting[-1].get("to_name"))
    if image is None:
        raise RequestError(f"the prompt is on {prompting[-1].get('to_name')!r}, which is no <Image> of the labelling config")
    pages = [_page(item) for item in prompting]
    page = next((page for page in reversed(pages) if page is not None), 0)
    paged = zip(prompting, pages, strict=True)
    here = [item for item, its in paged if item.get("to_name") == image.name and its in (None, page)]
    return _read_here(here, items, config.labels_of(image), page, task)


def _read_here(here: Sequence[Json], items: Sequence[Json], labels: ImageLabels, page: int, task: Json) -> Context:
    """What the prompts on one page say, by the role of the label or the tool that they were drawn with."""
    label, role = _armed(here, items, labels)
    texts = [item for item in here if _kind(item) == "textarea"]
    lines = [line for item in texts for line in _lines(item)]
    typed = replace(read_typed(lines, labels.vocabulary) if lines else Typed(), said_by="".join(map(region_id, texts)))
    drawn = [item for item in here if _kind(item) != "textarea"]
    if role is None or role is Role.FOR:
        ambiguous = _ambiguous(drawn, labels, task)
        clear = [item for item in drawn if item not in ambiguous]
        found = [mark for mark in map(_readable, clear) if mark] or [mark for mark in map(read_smart, clear) if mark]
        boxes = tuple(read_box(item) for item in ambiguous if _readable(item) is not None)
        return Context(labels, page, label, tuple(found), boxes, typed=typed)
    regions = tuple(RegionMark.of(item, role, label) for item in drawn)
    if role in OF_REFERENCES:
        return Context(labels, page, label, references=regions, typed=typed)
    return Context(labels, page, label, regions=() if role is Role.IGNORE else regions, typed=typed)


def current_marks(task: Json, labels: ImageLabels, page: int) -> list[tuple[str | None, Mark]]:
    """The smart prompts that the newest draft holds since the last accepted suggestion, with their classes; of rectangles only
    those that can be nothing else.
    """
    found: list[tuple[str | None, Mark]] = []
    items = since_accepted(regions_of(newest_draft(task)))
    twins = {region_id(item): label for item in items if item.get("type") == "labels" and (label := label_of(item))}
    for item in items:
        is_here = item.get("to_name") == labels.image.name and item.get("item_index") in (None, page)
        is_smart = sign(item) is not None or (_kind(item) == "rectangle" and _is_smart_only(item, labels))
        label = label_of(item) or twins.get(region_id(item))
        if is_here and is_smart and labels.role_of(item.get("from_name"), label) in (None, Role.FOR):
            mark = _readable(item)
            found += [(labels.value_of(label) if label else None, mark)] if mark is not None else []
    return found


def _readable(item: Json) -> Mark | None:
    """A smart prompt; None for an ordinary region, and for one that cannot be read, which costs itself alone."""
    try:
        return read_smart(item)
    except RequestError:
        return None


def _prompting(items: Sequence[Json], config: LabelConfig, task: Json) -> Iterator[Json]:
    """The items that may prompt, each region once: with ``<Labels>`` every region comes a second time as type ``labels``.

    Submitted regions are never prompts, and neither are those that were used, except the newest.
    """
    drawn = _each_once([item for item in items if _kind(item)])
    submitted, used = submitted_ids(task), used_ids(task)
    for item in drawn:
        if _kind(item) == "textarea":
            if _is_about_the_image(item, config):
                yield item
        elif region_id(item) not in submitted and (item is drawn[-1] or region_id(item) not in used) and _is_smart(item):
            yield item


def _each_once(items: Sequence[Json]) -> list[Json]:
    """Of items that share an id the first; those without an id are all different."""
    seen: set[str] = set()
    found = []
    for item in items:
        if region_id(item) not in seen:
            found.append(item)
        seen |= {region_id(item)} - {""}
    return found


def _ambiguous(drawn: Sequence[Json], labels: ImageLabels, task: Json) -> list[Json]:
    """The rectangles that may be ordinary: a draft holds them already, and their tag can draw both kinds; never the newest."""
    saved = saved_ids(task)
    rectangles = (item for item in drawn[:-1] if _kind(item) == "rectangle" and region_id(item) in saved)
    return [item for item in rectangles if not _is_smart_only(item, labels)]


def _kind(item: Json) -> str:
    """``textarea`` or a shape that has a smart tool; empty for anything that does not prompt by itself."""
    prompts = item.get("type") == "textarea" or region_kind(item) in SMART
    return region_kind(item) if prompts else ""


def _lines(item: Json) -> Iterator[str]:
    """What a TextArea says, without our own messages."""
    said = read_value(item).get("text") if _kind(item) == "textarea" else None
    for line in said if isinstance(said, list) else [said]:
        if isinstance(line, str) and not line.startswith(MESSAGE_SIGN):
            yield line


def _armed(here: Sequence[Json], items: Sequence[Json], labels: ImageLabels) -> tuple[str | None, Role | None]:
    """The class of the prompts, as the config writes it (None when nothing but text was said), and what they are for."""
    names = {region_id(item) for item in here}
    twins = [item for item in items if item.get("type") == "labels" and region_id(item) in names]
    sent = next((label for item in reversed([*twins, *here]) if (label := label_of(item))), None)
    control = next((item.get("from_name") for item in reversed(here) if _kind(item) != "textarea"), None)
    role = labels.role_of(control, sent)
    label = labels.value_of(sent) if sent else None
    if sent and label is None and role is None:
        raise RequestError(f"the label {sent!r} is not in the labelling config, which has {list(labels.vocabulary.labels)}")
    return label, role


def _page(item: Json) -> int | None:
    found = item.get("item_index")
    if found is None or (isinstance(found, int) and not isinstance(found, bool) and 0 <= found < MOST_PAGES):
        return found
    raise RequestError(f"expected a page number under 'item_index', got {str(found)[:40]!r}")


def _is_about_the_image(item: Json, config: LabelConfig) -> bool:
    """Whether a text is not an annotator's note on a single region."""
    control = config.control(item.get("from_name"))
    return control is None or not control.is_on("perregion")


def _is_smart(item: Json) -> bool:
    """Whether a region may be a prompt; of rectangles nothing tells, but those of predictions are none."""
    is_predicted = str(item.get("origin")).startswith("prediction")
    return not is_predicted and (_kind(item) != "keypoint" or sign(item) is not None)


def _is_smart_only(item: Json, labels: ImageLabels) -> bool:
    control = next((control for control in labels.controls if control.name == item.get("from_name")), None)
    return control is not None and control.is_smart_only


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
