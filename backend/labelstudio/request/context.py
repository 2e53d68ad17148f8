"""Which of the regions that the page sends along with a request are prompts, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from backend.labelstudio.config import ImageLabels, LabelConfig
from backend.labelstudio.request.typed import MESSAGE_SIGN, Typed, read_typed
from backend.labelstudio.shapes import RegionMark
from backend.labelstudio.shapes.base import (
    Json,
    label_of,
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
from backend.labelstudio.tags import OF_REFERENCES, Role
from backend.values.errors import RequestError

MOST_PAGES = 1_000_000


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
        RequestError: a prompt is on something that is no image, has a label that the config lacks, or no coordinates.
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
    said_by = "".join(region_id(item) for item in here if _kind(item) == "textarea")
    typed = replace(read_typed((line for item in here for line in _lines(item)), labels.vocabulary), said_by=said_by)
    drawn = [item for item in here if _kind(item) != "textarea"]
    if role is None or role is Role.FOR:
        ambiguous = _ambiguous(drawn, labels, task)
        marks = tuple(mark for item in drawn if item not in ambiguous and (mark := read_smart(item)) is not None)
        return Context(labels, page, label, marks, tuple(map(read_box, ambiguous)), typed=typed)
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
    """A smart prompt of a draft; None for an ordinary region, and for one that cannot be read, which costs itself alone."""
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
