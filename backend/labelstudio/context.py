"""Which of the regions that the page sends along with a request are prompts, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.errors import RequestError
from backend.labelstudio import drafts
from backend.labelstudio.config import ImageTag, LabelConfig
from backend.labelstudio.tags import keypoint, rectangle
from backend.labelstudio.tags.keypoint import PointMark
from backend.labelstudio.tags.rectangle import BoxMark
from prompts.kinds import TextPrompt
from prompts.phrases import read_phrases

MESSAGE_SIGN = "\N{WARNING SIGN}"
"""What our own messages in a TextArea begin with, so that they are not read as prompts when they come back."""

MOST_PAGES = 1_000_000

Json = Mapping[str, Any]
Mark = PointMark | BoxMark


@dataclass(frozen=True, slots=True)
class Context:
    """What was prompted on one page of one Image tag; ``marks`` are in percent."""

    image: ImageTag
    page: int = 0
    armed_label: str | None = None
    marks: tuple[Mark, ...] = ()
    texts: tuple[TextPrompt, ...] = ()


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
    return Context(
        image,
        page,
        armed_label=_armed_label(here, items, config),
        marks=tuple(mark for item in here if (mark := _mark(item)) is not None),
        texts=tuple(dict.fromkeys(text for item in here for text in _texts(item))),
    )


def _prompting(items: Sequence[Json], config: LabelConfig, task: Json) -> Iterator[Json]:
    """The items that prompt, each region once: with ``<Labels>`` every region comes a second time as type ``labels``.

    Regions of submitted annotations and of predictions are never prompts. An ordinary rectangle cannot be told from a
    smart one; unless its control is ``smartOnly``, one that a draft already holds counts as ordinary, except the last.
    """
    drawn = {_id(item) or str(place): item for place, item in reversed(list(enumerate(items))) if _kind(item)}
    newest = next(iter(drawn.values()), None)
    settled, drafted = drafts.settled_ids(task), drafts.drafted_ids(task)
    for item in reversed(drawn.values()):
        kind, name = _kind(item), _id(item)
        if kind == "textarea":
            if _is_about_the_image(item, config):
                yield item
        elif name not in settled and not str(item.get("origin")).startswith("prediction"):
            may_be_ordinary = kind == "rectangle" and item is not newest and not _is_smart_only(item, config)
            if (kind != "keypoint" or keypoint.sign(item) is not None) and not (may_be_ordinary and name in drafted):
                yield item


def _kind(item: Json) -> str:
    """``keypoint``, ``rectangle`` or ``textarea``; empty for anything that does not prompt by itself."""
    kind = str(item.get("type")).removesuffix("labels")
    return kind if kind in ("keypoint", "rectangle", "textarea") else ""


def _id(item: Json) -> str:
    found = item.get("id")
    return found if isinstance(found, str) else ""


def _mark(item: Json) -> Mark | None:
    match _kind(item):
        case "keypoint":
            return keypoint.read(item)
        case "rectangle":
            return rectangle.read(item)
        case _:
            return None


def _texts(item: Json) -> Iterator[TextPrompt]:
    value = item.get("value")
    said = value.get("text") if isinstance(value, Mapping) and _kind(item) == "textarea" else None
    for line in said if isinstance(said, list) else [said]:
        if isinstance(line, str) and not line.startswith(MESSAGE_SIGN):
            yield from read_phrases(line)


def _armed_label(here: Sequence[Json], items: Sequence[Json], config: LabelConfig) -> str | None:
    """The label of the prompts, as the config writes it; None when nothing but text was said."""
    names = {_id(item) for item in here}
    twins = [item for item in items if item.get("type") == "labels" and _id(item) in names]
    sent = next((label for item in reversed([*twins, *here]) if (label := _label(item))), None)
    label = config.value_of(sent) if sent else None
    if sent and label is None:
        raise RequestError(f"the label {sent!r} is not in the labelling config, which has {list(config.vocabulary.labels)}")
    return label


def _label(item: Json) -> str | None:
    value = item.get("value")
    names = (value.get(item.get("type")) or value.get("labels")) if isinstance(value, Mapping) else None
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None


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


def _is_smart_only(item: Json, config: LabelConfig) -> bool:
    control = config.control(item.get("from_name"))
    return control is not None and control.is_smart_only
