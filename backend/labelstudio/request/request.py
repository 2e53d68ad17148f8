"""What Label Studio asks: the body of ``/predict`` as one request for each task."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backend.labelstudio.config import ImageTag, LabelConfig, lookup, read_config
from backend.labelstudio.request import drafts
from backend.labelstudio.request.context import Context, read_context, standing_marks
from backend.labelstudio.request.marks import RegionMark, finished_regions, marks_of_the_object, reference_marks
from backend.labelstudio.request.typed import Like
from backend.labelstudio.shapes import Mark
from backend.labelstudio.shapes.base import Role, mappings
from backend.labelstudio.shapes.keypoint import PointMark
from backend.labelstudio.shapes.rectangle import BoxMark
from backend.values.errors import RequestError
from prompts.geometry import Size
from prompts.kinds import PromptError, PromptSet, TextPrompt
from prompts.phrases import Vocabulary

Json = Mapping[str, Any]

MOST_FURTHER = 100
"""More images of one task than this are not pre-annotated."""


@dataclass(frozen=True, slots=True)
class Place:
    """One image of a task: its tag, its address, and its page in a ``valueList``, else None."""

    image_tag: str
    image_url: str
    item_index: int | None


@dataclass(frozen=True, slots=True)
class Draft:
    """What the annotator's newest draft says: when it was saved, which regions it holds, which smart prompts still stand there
    with their classes, and, where more like them are wanted, which regions are results already.
    """

    saved_at: float = 0.0
    ids: frozenset[str] = frozenset()
    standing: tuple[tuple[str | None, Mark], ...] = ()
    finished: tuple[RegionMark, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One task to answer: its image, the labels to answer with, and what was drawn and typed.

    ``marks`` are in percent until the image is known; ``doubtful`` are rectangles that may be prompts or ordinary. ``regions``
    and ``references`` were drawn with labels that have a role, ``likes`` were typed, and so was "this", which
    ``asks_for_marked``. ``further`` are the other images of a pre-annotated task. ``item_index`` is the page of a
    ``valueList``, else None.
    """

    project: str
    task_id: str
    annotator: str
    config: LabelConfig
    vocabulary: Vocabulary
    image_tag: str
    image_url: str
    item_index: int | None
    interactive: bool
    armed_label: str | None = None
    marks: tuple[Mark, ...] = ()
    texts: tuple[TextPrompt, ...] = ()
    doubtful: tuple[BoxMark, ...] = ()
    regions: tuple[RegionMark, ...] = ()
    references: tuple[RegionMark, ...] = ()
    likes: tuple[Like, ...] = ()
    asks_for_marked: bool = False
    further: tuple[Place, ...] = ()
    draft: Draft = field(default=Draft(), compare=False, repr=False)

    def prompts(self, size: Size) -> PromptSet:
        """The prompts in pixels of the upright image, without examples; none for a pre-annotation.

        Raises:
            RequestError: a prompt lies outside the image.
        """
        try:
            regions = (prompt for mark in self.regions for prompt in mark.prompts(size))
            prompts = PromptSet((*(mark.prompt(size) for mark in self.marks), *regions, *self.texts))
            prompts.check_against(size)
        except PromptError as error:
            raise RequestError(f"task {self.task_id}: {error}") from error
        return prompts

    def images(self) -> Iterator[TaskRequest]:
        """A request for each image: a pre-annotation is about all that the task shows, a prompt about the one it is on."""
        yield replace(self, further=())
        for place in self.further:
            yield replace(self, image_tag=place.image_tag, image_url=place.image_url, item_index=place.item_index, further=())

    def fingerprint(self) -> str:
        """A hash of everything that determines the answer; region ids and old regions do not."""
        parts = (
            (self.project, self.task_id, self.annotator, self.config.xml, self.vocabulary, self.image_tag, self.image_url),
            (self.item_index, self.interactive, self.armed_label, self.marks, self.texts, self.doubtful),
            (self.regions, self.references, self.likes, self.asks_for_marked),
            (self.draft.standing, self.draft.finished if self.likes else ()),
        )
        return hashlib.blake2b(repr(parts).encode(errors="surrogatepass"), digest_size=16).hexdigest()

    @property
    def origin(self) -> str:
        """In words, what the answer was made from; empty for a pre-annotation."""
        points = [mark for mark in self.marks if isinstance(mark, PointMark)]
        against = sum(not point.positive for point in points)
        roles = [mark.role for mark in self.regions]
        said = [
            _count(len(points) - against, "click"),
            _count(against, "click against"),
            _count(len(self.marks) - len(points), "box"),
            _count(roles.count(Role.FOR), "mark"),
            _count(roles.count(Role.AGAINST), "mark against"),
            _count(roles.count(Role.REFINE), "mask"),
            _count(len(self.references), "reference"),
            *(f"{'' if like.positive else 'not '}like {like.label or 'this'}" for like in self.likes),
            *(f'text "{text.phrase}"' if text.positive else f'not "{text.phrase}"' for text in self.texts),
        ]
        return ", ".join(filter(None, said))


def read_predict(body: Json) -> list[TaskRequest | RequestError]:
    """The tasks of a ``/predict`` body, in order; a task that cannot be read is the error that says why.

    A context with regions is interactive; ``null``, ``{}`` and an empty ``result`` ask for a pre-annotation.

    Raises:
        RequestError: the body has no list of tasks.
    """
    tasks = body.get("tasks") if isinstance(body, Mapping) else None
    if not isinstance(tasks, list):
        raise RequestError("expected a body with a list under 'tasks'")
    return [_read_or_refuse(body, task) for task in tasks]


def _read_or_refuse(body: Json, task: Any) -> TaskRequest | RequestError:
    try:
        if not isinstance(task, Mapping):
            raise RequestError("expected an object")
        return _read_task(body, task)
    except RequestError as error:
        name = _text(task.get("id")) if isinstance(task, Mapping) else ""
        return type(error)(f"task {name or '?'}: {error}")


def _read_task(body: Json, task: Json) -> TaskRequest:
    xml, data = body.get("label_config"), task.get("data")
    if not isinstance(xml, str) or not isinstance(data, Mapping):
        raise RequestError("expected a text under 'label_config' and an object under the task's 'data'")
    config = read_config(xml).with_labels_of(data)
    items = _context_items(body)
    context = read_context(items or [], config, task)
    page = context.page
    url, item_index = _image_url(context.image, data, page)
    references = context.references
    if any(like.label is None for like in context.said.likes):
        references = (*references, *reference_marks(task, config, context.image.name, page))
    return TaskRequest(
        project=_text(body.get("project")).partition(".")[0],
        task_id=_text(task.get("id")),
        annotator=drafts.annotator(task),
        config=config,
        vocabulary=config.vocabulary,
        image_tag=context.image.name,
        image_url=url,
        item_index=item_index,
        interactive=items is not None,
        armed_label=context.armed_label,
        marks=context.marks,
        texts=context.said.texts,
        doubtful=context.doubtful,
        regions=_regions(task, context, config) if items is not None else (),
        references=references,
        likes=context.said.likes,
        asks_for_marked=context.said.asks_for_marked,
        further=() if items is not None else _further(config, data, Place(context.image.name, url, item_index)),
        draft=_draft(task, context, config) if items is not None else Draft(),
    )


def _regions(task: Json, context: Context, config: LabelConfig) -> tuple[RegionMark, ...]:
    """What is marked for the object: with the prompt itself and in the draft, which may hold the prompt as it was before it was
    moved; examples are asked about alone.
    """
    if context.references or context.said.likes:
        return ()
    drafted = marks_of_the_object(task, config, context.image.name, context.page)
    return tuple({mark.id or mark.digest: mark for mark in (*drafted, *context.regions)}.values())


def _draft(task: Json, context: Context, config: LabelConfig) -> Draft:
    """Results are read only where more like them are wanted: a draft may hold hundreds of large masks."""
    place = (context.image.name, context.page)
    finished = finished_regions(task, config, *place) if context.references or context.said.likes else ()
    return Draft(
        drafts.saved_at(drafts.newest_draft(task)),
        drafts.drafted_ids(task),
        tuple(standing_marks(task, config, *place)),
        tuple(finished),
    )


def _further(config: LabelConfig, data: Json, first: Place) -> tuple[Place, ...]:
    """The other images of a task that can be drawn on; those without an address are left out."""
    found = []
    for tag in config.images:
        pages = lookup(tag.source, data)
        for page in range(len(pages) if isinstance(pages, list) else 1):
            with contextlib.suppress(RequestError):
                found.append(Place(tag.name, *_image_url(tag, data, page)))
    drawable = {control.to_name for control in config.controls}
    return tuple(place for place in found if place.image_tag in drawable and place != first)[:MOST_FURTHER]


def is_interactive(body: Any) -> bool:
    """Whether somebody drew or typed something; otherwise the body asks for pre-annotations."""
    return isinstance(body, Mapping) and _context_items(body) is not None


def _context_items(body: Json) -> list[Json] | None:
    """The regions of the request's context; None when nothing was drawn or typed, which asks for a pre-annotation."""
    params = body.get("params")
    context = params.get("context") if isinstance(params, Mapping) else None
    result = context.get("result") if isinstance(context, Mapping) else None
    return list(mappings(result)) if isinstance(result, list) and result else None


def _image_url(tag: ImageTag, data: Json, page: int) -> tuple[str, int | None]:
    """The address of an image and its page; the page is None when the tag shows a single image."""
    found = lookup(tag.source, data)
    if not isinstance(found, list):
        found, index = [found], None
    else:
        index = page
    if (index or 0) >= len(found):
        raise RequestError(f"the image list '{tag.source}' has {len(found)} pages, so there is no page {page}")
    url = found[index or 0]
    if not isinstance(url, str) or not url.strip():
        raise RequestError(f"the task's data has no image address for '{tag.source}'")
    return url.strip(), index


def _text(found: Any) -> str:
    return str(found) if isinstance(found, str | int | float) else ""


def _count(number: int, noun: str) -> str:
    one, _, rest = noun.partition(" ")
    many = f"{one}{'es' if one.endswith('x') else 's'} {rest}".strip()
    return "" if not number else f"{number} {noun if number == 1 else many}"
