"""Which of the regions that the page sends along with a request are prompts, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.labelstudio.config import ImageTag, LabelConfig
from backend.labelstudio.request import drafts
from backend.labelstudio.request.marks import RegionMark, mark_of
from backend.labelstudio.request.typed import Sentence, read_sentence
from backend.labelstudio.shapes import Mark, keypoint, read_smart, rectangle, shape_of
from backend.labelstudio.shapes.base import OF_REFERENCES, Role, label_of, region_kind
from backend.labelstudio.shapes.base import region_id as _id
from backend.labelstudio.shapes.rectangle import BoxMark
from backend.values.errors import RequestError

MESSAGE_SIGN = "\N{WARNING SIGN}"
"""What our own messages in a TextArea begin with, so that they are not read as prompts when they come back."""

MOST_PAGES = 1_000_000

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Context:
    """What was prompted on one page of one Image tag.

    ``marks`` are in percent. ``doubtful`` are rectangles that a draft holds already: nothing tells whether they were drawn as
    prompts or by hand. ``regions`` were drawn with labels that have a role, ``references`` among them show examples.
    """

    image: ImageTag
    page: int = 0
    armed_label: str | None = None
    marks: tuple[Mark, ...] = ()
    doubtful: tuple[BoxMark, ...] = ()
    regions: tuple[RegionMark, ...] = ()
    references: tuple[RegionMark, ...] = ()
    said: Sentence = field(default_factory=Sentence)


def read_context(items: Sequence[Json], config: LabelConfig, task: Json) -> Context:
    """The prompts among a context's regions; the newest one decides on the image and the page.

    Raises:
        RequestError: a prompt is on something that is no image, has a label that the config lacks, or no coordinates.
    """
    prompting = list(_prompting(items, config, task))
    if not prompting:
        return Context(_first_image(config))
    to_name = prompting[-1].get("to_name")
    image = config.image(to_name) if isinstance(to_name, str) else None
    if image is None:
        raise RequestError(f"the prompt is on {to_name!r}, which is no <Image> of the labelling config")
    pages = [_page(item) for item in prompting]
    page = next((page for page in reversed(pages) if page is not None), 0)
    here = [item for item, its in zip(prompting, pages, strict=True) if item.get("to_name") == to_name and its in (None, page)]
    label, role = _armed(here, items, config)
    drawn = [item for item in here if _kind(item) != "textarea"]
    lines = [line for item in here for line in _lines(item)]
    if role in (None, Role.FOR):
        doubtful = _doubtful(drawn, config, task)
        marks = tuple(mark for item in drawn if item not in doubtful and (mark := read_smart(item)) is not None)
        return Context(image, page, label, marks, tuple(map(rectangle.smart, doubtful)), said=read_sentence(lines))
    regions = tuple(mark_of(item, role, label) for item in drawn) if role is not Role.IGNORE else ()
    references = regions if role in OF_REFERENCES else ()
    regions = () if references else regions
    return Context(image, page, label, regions=regions, references=references, said=read_sentence(lines))


def standing_marks(task: Json, config: LabelConfig, image: str, page: int) -> list[tuple[str | None, Mark]]:
    """The smart prompts that the newest draft holds since the last accepted suggestion, with their classes; of rectangles only
    those that can be nothing else.
    """
    found: list[tuple[str | None, Mark]] = []
    items = drafts.since_accepted(drafts.regions_of(drafts.newest_draft(task)))
    twins = {_id(item): label for item in items if item.get("type") == "labels" and (label := label_of(item))}
    for item in items:
        is_here = item.get("to_name") == image and item.get("item_index") in (None, page)
        is_smart = keypoint.sign(item) is not None or (_kind(item) == "rectangle" and _is_smart_only(item, config))
        label = label_of(item) or twins.get(_id(item))
        if is_here and is_smart and config.role_of(item.get("from_name"), label) in (None, Role.FOR):
            mark = read_smart(item)
            found += [(config.value_of(label) if label else None, mark)] if mark is not None else []
    return found


def _prompting(items: Sequence[Json], config: LabelConfig, task: Json) -> Iterator[Json]:
    """The items that may prompt, each region once: with ``<Labels>`` every region comes a second time as type ``labels``.

    Regions of submitted annotations and of predictions are never prompts, and neither are those that were drawn before the
    last suggestion was accepted, except the newest.
    """
    drawn = {_id(item) or str(place): item for place, item in reversed(list(enumerate(items))) if _kind(item)}
    newest = next(iter(drawn.values()), None)
    settled, spent = drafts.settled_ids(task), drafts.spent_ids(task)
    for item in reversed(drawn.values()):
        kind, name = _kind(item), _id(item)
        if kind == "textarea":
            if _is_about_the_image(item, config):
                yield item
        elif name not in settled and (item is newest or name not in spent) and _is_smart(item):
            yield item


def _doubtful(drawn: Sequence[Json], config: LabelConfig, task: Json) -> list[Json]:
    """The rectangles that may be ordinary: a draft holds them already, and their tag can draw both kinds; never the newest."""
    drafted = drafts.drafted_ids(task)
    rectangles = (item for item in drawn[:-1] if _kind(item) == "rectangle" and _id(item) in drafted)
    return [item for item in rectangles if not _is_smart_only(item, config)]


def _kind(item: Json) -> str:
    """``textarea`` or a shape that has a smart tool; empty for anything that does not prompt by itself."""
    shape = shape_of(item)
    prompts = item.get("type") == "textarea" or (shape is not None and shape.smart is not None)
    return region_kind(item) if prompts else ""


def _lines(item: Json) -> Iterator[str]:
    """What a TextArea says, without our own messages."""
    value = item.get("value")
    said = value.get("text") if isinstance(value, Mapping) and _kind(item) == "textarea" else None
    for line in said if isinstance(said, list) else [said]:
        if isinstance(line, str) and not line.startswith(MESSAGE_SIGN):
            yield line


def _armed(here: Sequence[Json], items: Sequence[Json], config: LabelConfig) -> tuple[str | None, Role | None]:
    """The class of the prompts, as the config writes it (None when nothing but text was said), and what they are for."""
    names = {_id(item) for item in here}
    twins = [item for item in items if item.get("type") == "labels" and _id(item) in names]
    sent = next((label for item in reversed([*twins, *here]) if (label := label_of(item))), None)
    control = next((item.get("from_name") for item in reversed(here) if _kind(item) != "textarea"), None)
    role = config.role_of(control, sent)
    label = config.value_of(sent) if sent else None
    if sent and label is None and role is None:
        raise RequestError(f"the label {sent!r} is not in the labelling config, which has {list(config.vocabulary.labels)}")
    return label, role


def _page(item: Json) -> int | None:
    found = item.get("item_index")
    if found is None or (isinstance(found, int) and not isinstance(found, bool) and 0 <= found < MOST_PAGES):
        return found
    raise RequestError(f"expected a page number under 'item_index', got {str(found)[:40]!r}")


def _first_image(config: LabelConfig) -> ImageTag:
    return next((image for image in config.images if config.controls_of(image.name)), config.images[0])


def _is_about_the_image(item: Json, config: LabelConfig) -> bool:
    """Whether a text is not an annotator's note on a single region."""
    control = config.control(item.get("from_name"))
    return control is None or not control.is_on("perregion")


def _is_smart(item: Json) -> bool:
    """Whether a region may be a prompt; of rectangles nothing tells, but those of predictions are none."""
    is_predicted = str(item.get("origin")).startswith("prediction")
    return not is_predicted and (_kind(item) != "keypoint" or keypoint.sign(item) is not None)


def _is_smart_only(item: Json, config: LabelConfig) -> bool:
    control = config.control(item.get("from_name"))
    return control is not None and control.is_smart_only
